//! `/networks`: this host's and the cluster's, as one list.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use skep_engine::types::{ContainerConfig, EndpointSettings, NetworkCreate, NetworkInspect};
use skep_engine::{Filters, ListOptions};
use skep_model::task::NetworkAttachmentConfig;
use skep_model::{ControlRequest, Network};
use skep_store::Snapshot;

use crate::cluster::LocalState;
use crate::cluster_network::{self, NetworkView};
use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

const KEYS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

/// Networks every host has; nobody creates or removes them.
fn is_predefined(name: &str) -> bool {
    matches!(name, "bridge" | "host" | "none" | "default")
}

/// The cluster's networks, or nothing where there is no cluster to ask: the host's own must show
/// all the same.
async fn cluster_state(call: &Call) -> Snapshot {
    if !call.cluster().local().is_manager {
        return Snapshot::default();
    }
    call.snapshot().await.unwrap_or_default()
}

/// The cluster's networks as far as this node knows them: a worker those it has a part in.
fn cluster_networks(call: &Call, snapshot: &Snapshot) -> Vec<Arc<Network>> {
    let local = call.cluster().local();
    match local.state == LocalState::Active && !local.is_manager {
        true => call.cluster().networks_here(),
        false => snapshot.networks().cloned().collect(),
    }
}

/// `GET /networks`
pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.filters_of(&KEYS)?;
    for kind in filters.values("type") {
        if !matches!(kind, "builtin" | "custom") {
            return Err(filters.wrong("type", kind).into());
        }
    }
    let mut networks = call.engine().network_list(&filters).await?;
    let dangling = filters.flag("dangling")?;
    let snapshot = cluster_state(&call).await;
    networks.extend(
        cluster_networks(&call, &snapshot)
            .iter()
            .filter(|network| dangling.is_none_or(|wanted| wanted == is_unused(&snapshot, network)))
            .map(|network| cluster_network::summary(network))
            .filter(|network| matches(network, &filters)),
    );
    reply::json(&networks)
}

/// Whether nobody is on a network of the cluster, and no service names it.
fn is_unused(snapshot: &Snapshot, network: &Network) -> bool {
    let id = &network.id;
    snapshot.tasks_on_network(id).next().is_none()
        && snapshot.services_on_network(id).next().is_none()
        && snapshot.attachments_on_network(id).next().is_none()
}

fn matches(network: &NetworkInspect, filters: &Filters) -> bool {
    filters.any("driver", |driver| network.driver == driver)
        && filters.any("id", |part| network.id.contains(part))
        && filters.any("name", |part| network.name.contains(part))
        && filters.any("scope", |scope| network.scope == scope)
        && filters.any("type", |kind| kind == "custom")
        && filters.labels(&network.labels)
}

/// One network, wherever it is.
enum Found {
    Local(Box<NetworkInspect>),
    Cluster(Arc<Network>),
}

impl Found {
    fn id(&self) -> &str {
        match self {
            Self::Local(network) => &network.id,
            Self::Cluster(network) => network.id.as_str(),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Local(network) => &network.name,
            Self::Cluster(network) => &network.spec.name,
        }
    }

    /// What the engine knows the network by: those of the cluster by name alone.
    fn engine_name(&self) -> &str {
        match self {
            Self::Local(network) => &network.id,
            Self::Cluster(network) => &network.spec.name,
        }
    }

    fn scope(&self) -> &str {
        match self {
            Self::Local(network) => &network.scope,
            Self::Cluster(_) => "swarm",
        }
    }
}

/// Looks for a whole id first, then a whole name, then the start of an id.
async fn find(call: &Call, snapshot: &Snapshot, given: &str, scope: &str) -> Outcome<Found> {
    let local = call.engine().network_list(&Filters::none()).await?;
    let mut all: Vec<Found> = local
        .into_iter()
        .map(|network| Found::Local(Box::new(network)))
        .collect();
    all.extend(
        cluster_networks(call, snapshot)
            .into_iter()
            .map(Found::Cluster),
    );
    all.retain(|network| scope.is_empty() || network.scope() == scope);
    choose(all, given)
}

fn choose(mut all: Vec<Found>, given: &str) -> Outcome<Found> {
    let missing = || ApiError::not_found(format!("network {given} not found"));
    if given.is_empty() {
        return Err(missing());
    }
    let mut take = |test: &dyn Fn(&Found) -> bool, how: &str| -> Outcome<Option<Found>> {
        let ids: BTreeSet<&str> = all
            .iter()
            .filter(|network| test(network))
            .map(Found::id)
            .collect();
        if ids.len() > 1 {
            return Err(ApiError::invalid(format!(
                "network {given} is ambiguous ({} matches found {how})",
                ids.len()
            )));
        }
        let at = all.iter().position(test);
        Ok(at.map(|at| all.swap_remove(at)))
    };
    if let Some(network) = take(&|network| network.id() == given, "by ID")? {
        return Ok(network);
    }
    if let Some(network) = take(&|network| network.name() == given, "on name")? {
        return Ok(network);
    }
    take(&|network| network.id().starts_with(given), "on ID prefix")?.ok_or_else(missing)
}

/// `GET /networks/{id}`
pub(crate) async fn inspect(call: Call, given: String) -> Outcome {
    let snapshot = cluster_state(&call).await;
    let found = find(&call, &snapshot, &given, call.query.text("scope")).await?;
    let verbose = call.query.flag("verbose");
    match found {
        Found::Local(network) => {
            let network = call.engine().network_inspect(&network.id).await?;
            reply::json(&NetworkView {
                network,
                peers: Vec::new(),
                services: None,
            })
        }
        Found::Cluster(network) => {
            let containers = call.engine().container_list(ListOptions::default()).await?;
            reply::json(&cluster_network::detailed(
                &snapshot,
                &network,
                &containers,
                verbose,
            ))
        }
    }
}

/// `POST /networks/create`
pub(crate) async fn create(mut call: Call) -> Outcome {
    let body: NetworkCreate = call.json().await?;
    if is_predefined(&body.name) {
        return Err(ApiError::forbidden(format!(
            "operation is not permitted on predefined {} network ",
            body.name
        )));
    }
    let snapshot = cluster_state(&call).await;
    if snapshot.by_name::<Network>(&body.name).is_some() {
        return Err(ApiError::conflict(format!(
            "network with name {} already exists",
            body.name
        )));
    }
    let for_cluster = body.driver == "overlay" || body.scope == "swarm" || body.ingress;
    if !for_cluster {
        let (id, warning) = call.engine().network_create(body).await?;
        return reply::created(&json!({ "Id": id, "Warning": warning }));
    }
    let (spec, mut warnings) = cluster_network::spec_of(body)?;
    let made = call
        .cluster()
        .submit(ControlRequest::CreateNetwork {
            spec: Box::new(spec),
        })
        .await?;
    warnings.extend(made.warnings);
    reply::created(&json!({ "Id": made.id, "Warning": warnings.join("\n") }))
}

/// `DELETE /networks/{id}`
pub(crate) async fn remove(call: Call, given: String) -> Outcome {
    let snapshot = cluster_state(&call).await;
    match find(&call, &snapshot, &given, "").await? {
        Found::Local(network) if is_predefined(&network.name) => {
            return Err(ApiError::forbidden(format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            )));
        }
        Found::Local(network) => call.engine().network_remove(&network.id).await?,
        Found::Cluster(network) => {
            let id = network.id.clone();
            call.cluster()
                .submit(ControlRequest::RemoveNetwork { id })
                .await?;
        }
    }
    reply::no_content()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConnectBody {
    container: String,
    endpoint_config: Option<EndpointSettings>,
}

/// `POST /networks/{id}/connect`
pub(crate) async fn connect(mut call: Call, given: String) -> Outcome {
    let body: ConnectBody = call.json().await?;
    let snapshot = cluster_state(&call).await;
    let name = match find(&call, &snapshot, &given, "").await {
        Ok(Found::Cluster(network)) if !is_attachable(&network) => {
            return Err(not_attachable(&network));
        }
        Ok(found) => found.engine_name().to_owned(),
        // A worker knows the networks that it has a part in; the engine asks the managers.
        Err(error) if error.status() == StatusCode::NOT_FOUND => given,
        Err(error) => return Err(error),
    };
    let endpoint = body.endpoint_config.unwrap_or_default();
    call.engine()
        .network_connect(&name, &body.container, endpoint)
        .await?;
    reply::ok()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DisconnectBody {
    container: String,
    force: bool,
}

/// `POST /networks/{id}/disconnect`
pub(crate) async fn disconnect(mut call: Call, given: String) -> Outcome {
    let body: DisconnectBody = call.json().await?;
    let snapshot = cluster_state(&call).await;
    // The engine knows what the container is on, also where nobody else answers.
    let name = match find(&call, &snapshot, &given, "").await {
        Ok(found) => found.engine_name().to_owned(),
        Err(_) => given,
    };
    call.engine()
        .network_disconnect(&name, &body.container, body.force)
        .await?;
    reply::ok()
}

/// `POST /networks/prune`: also networks of the cluster that nothing uses.
pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = call.filters()?;
    let mut removed = call.engine().network_prune(&filters).await?.removed;
    // `until` compares with the time of creation; only the engine knows its own clock's reading.
    if !filters.has("until") {
        let snapshot = cluster_state(&call).await;
        let unused = snapshot.networks().filter(|network| {
            !network.spec.ingress
                && !is_predefined(&network.spec.name)
                && is_unused(&snapshot, network)
                && filters.labels(&network.spec.labels)
        });
        for network in unused {
            let id = network.id.clone();
            let done = call
                .cluster()
                .submit(ControlRequest::RemoveNetwork { id })
                .await;
            match done {
                Ok(_) => removed.push(network.spec.name.clone()),
                // Somebody began to use it meanwhile.
                Err(error) => tracing::debug!(network = %network.id, %error, "not pruned"),
            }
        }
    }
    reply::json(&json!({ "NetworksDeleted": (!removed.is_empty()).then_some(removed) }))
}

/// Puts ids in place of names in a service's networks.
///
/// # Errors
/// A network that is unknown, or known to this host only.
pub(crate) async fn resolve(
    call: &Call,
    attachments: &mut [NetworkAttachmentConfig],
) -> Outcome<()> {
    if attachments.is_empty() {
        return Ok(());
    }
    let snapshot = call.snapshot().await?;
    for attachment in attachments {
        let missing = match snapshot.find::<Network>(&attachment.target) {
            Ok(network) => {
                attachment.target = network.id.to_string();
                continue;
            }
            Err(error) => error,
        };
        let local = call.engine().network_inspect(&attachment.target).await;
        match local {
            // The manager knows what `host` and its like mean on every node.
            Ok(network) if is_predefined(&network.name) => attachment.target = network.name,
            Ok(network) => {
                return Err(ApiError::forbidden(format!(
                    "The network {} cannot be used with services. Only networks scoped to the swarm can be used, such as those created with the overlay driver.",
                    network.name
                )));
            }
            Err(_) => return Err(missing.into()),
        }
    }
    Ok(())
}

/// Puts names in place of ids where a container is to join networks of the cluster.
///
/// # Errors
/// A network that only tasks of services may join.
pub(crate) async fn name_cluster_networks(
    call: &Call,
    config: &mut ContainerConfig,
) -> Outcome<()> {
    let mode = config
        .host_config
        .iter()
        .map(|host| host.network_mode.clone());
    let endpoints = config
        .networking_config
        .iter()
        .flat_map(|networking| networking.endpoints_config.keys().cloned());
    let named: BTreeSet<String> = mode
        .chain(endpoints)
        .filter(|name| !name.is_empty() && !is_predefined(name) && !name.contains(':'))
        .collect();
    for given in named {
        let local = call.engine().network_inspect(&given).await;
        if !local.is_err_and(|error| error.is_not_found()) {
            continue;
        }
        let snapshot = cluster_state(call).await;
        // Where it is not known, the start finds out: it may be made until then.
        let Ok(Found::Cluster(network)) = find(call, &snapshot, &given, "swarm").await else {
            continue;
        };
        if !is_attachable(&network) {
            return Err(not_attachable(&network));
        }
        let name = &network.spec.name;
        if let Some(host) = &mut config.host_config
            && host.network_mode == given
        {
            host.network_mode.clone_from(name);
        }
        if let Some(networking) = &mut config.networking_config
            && let Some(endpoint) = networking.endpoints_config.remove(&given)
        {
            networking.endpoints_config.insert(name.clone(), endpoint);
        }
    }
    Ok(())
}

/// Whether plain containers may join a network of the cluster.
fn is_attachable(network: &Network) -> bool {
    network.spec.attachable && !network.spec.ingress
}

fn not_attachable(network: &Network) -> ApiError {
    let name = &network.spec.name;
    ApiError::forbidden(format!(
        "Could not attach to network {name}: rpc error: code = PermissionDenied desc = network {name} not manually attachable"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::{NetworkId, NetworkSpec};

    fn local(id: &str, name: &str) -> Found {
        Found::Local(Box::new(NetworkInspect {
            id: id.into(),
            name: name.into(),
            ..NetworkInspect::default()
        }))
    }

    fn shared(id: &str, name: &str) -> Found {
        Found::Cluster(Arc::new(Network {
            id: NetworkId::new(id),
            spec: NetworkSpec {
                name: name.into(),
                ..NetworkSpec::default()
            },
            ..Network::default()
        }))
    }

    #[test]
    fn ids_win_over_names_and_names_over_prefixes() {
        let check = |given: &str, expected: Result<&str, &str>| {
            let all = vec![
                local("abc1", "web"),
                shared("abd2", "app"),
                local("eee3", "abd2"),
                shared("fff4", "web"),
            ];
            let found = choose(all, given);
            let got = found.as_ref().map(Found::id).map_err(ApiError::message);
            assert_eq!(got, expected, "{given}");
        };
        check("abd2", Ok("abd2"));
        check("app", Ok("abd2"));
        check("eee", Ok("eee3"));
        check(
            "web",
            Err("network web is ambiguous (2 matches found on name)"),
        );
        check(
            "ab",
            Err("network ab is ambiguous (2 matches found on ID prefix)"),
        );
        check("none", Err("network none not found"));
    }
}
