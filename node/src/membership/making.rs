//! Makes a cluster, joins one, and goes on alone with one.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use skep_api::cluster::{InitRequest, JoinRequest};
use skep_manager::clock;
use skep_model::{Availability, ClusterId, ControlError, NodeId, NodeRole};
use skep_pki::unlock::UnlockKey;
use skep_pki::{Authority, Identity, JoinToken};
use skep_reconcile::{InitialCluster, NewNode};
use tracing::{info, warn};

use super::active::{Active, Birth};
use super::files::{Origin, Origins, Saved};
use super::moving::Seen;
use super::{
    Chosen, Membership, State, address, clock_random, describe, internal, issue, nonzero,
    skep_error_chain,
};

/// How long joining may take before it is given up.
pub(super) const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

impl Membership {
    pub(super) async fn look_around(&self) -> Result<Seen, ControlError> {
        let host = Arc::clone(&self.inner.around.host);
        let found = tokio::task::spawn_blocking(move || host.outer())
            .await
            .map_err(internal)?
            .map_err(|error| internal(error.chain()))?;
        Ok(address::seen(found))
    }

    pub(super) async fn choose_addresses(
        &self,
        listen: &str,
        advertise: &str,
        data_path: &str,
    ) -> Result<Chosen, ControlError> {
        let own = self.look_around().await?.own;
        let listens = address::listen(listen, &own)?;
        let advertises = address::advertise(advertise, listens, &own)?;
        Ok(Chosen {
            listen: listens,
            advertise: advertises,
            data_path: address::data_path(data_path, advertises, &own)?,
            origins: Origins {
                listen: Origin::asked(listen),
                advertise: Origin::asked(advertise),
                data_path: Origin::asked(data_path),
            },
        })
    }

    pub(super) async fn make(&self, mut request: InitRequest) -> Result<NodeId, ControlError> {
        request.spec.raft.check()?;
        request.spec.node_expiry()?;
        let encryption = &mut request.spec.encryption_config;
        encryption.auto_lock_managers |= request.auto_lock_managers;
        let unlock_key = encryption.auto_lock_managers.then(UnlockKey::generate);
        let chosen = self
            .choose_addresses(
                &request.listen_addr,
                &request.advertise_addr,
                &request.data_path_addr,
            )
            .await?;
        let pools = parse_pools(&request)?;
        let port = check_data_path_port(request.data_path_port)?;
        let now = clock::now();
        let mut random = clock_random();
        let (cluster, node) = (ClusterId::random(&mut random), NodeId::random(&mut random));
        let ca_config = &mut request.spec.ca_config;
        let root_ca = skep_manager::root::first(ca_config, now)?;
        ca_config.signing_ca_cert.clear();
        ca_config.signing_ca_key.clear();
        let authority = Authority::of(&root_ca).map_err(internal)?;
        let key = skep_pki::request_certificate().map_err(internal)?;
        let life = request.spec.ca_config.node_cert_expiry.duration();
        let cert = authority
            .sign(&key.csr_pem, &node, NodeRole::Manager, &cluster, life, now)
            .map_err(internal)?;
        let identity = Identity::from_pem(&cert, &key.key_pem, &root_ca.cert).map_err(internal)?;
        let files = &self.inner.files;
        files.create()?;
        files.save_identity(&identity)?;
        let saved = Saved {
            node: node.clone(),
            cluster: cluster.clone(),
            raft_id: nonzero(&mut random),
            listen: chosen.listen.to_string(),
            advertise: chosen.advertise.to_string(),
            data_path: chosen.data_path.to_string(),
            data_path_port: port,
            managers: vec![chosen.advertise.to_string()],
            renew_chance: random(),
            origins: chosen.origins,
        };
        let description = describe::node(&self.inner.around, &identity, chosen.data_path).await;
        let initial = InitialCluster {
            id: cluster,
            spec: request.spec,
            tls_info: identity.tls_info(),
            join_tokens: skep_model::JoinTokens {
                worker: JoinToken::generate(&root_ca.cert).reveal(),
                manager: JoinToken::generate(&root_ca.cert).reveal(),
            },
            root_ca,
            unlock_key: unlock_key
                .as_ref()
                .map(UnlockKey::reveal)
                .unwrap_or_default(),
            default_addr_pool: pools,
            subnet_size: u8::try_from(request.subnet_size).unwrap_or(24),
            data_path_port: port,
            ingress_subnet: None,
            data_path_mtu: description.data_path_mtu,
        };
        let first = skep_reconcile::initial_cluster(initial, now, &mut random);
        let me = Box::new(NewNode {
            id: node.clone(),
            role: NodeRole::Manager,
            availability: request.availability.unwrap_or(Availability::Active),
            description,
            addr: chosen.advertise.ip().to_string(),
            manager_status: Some(skep_model::node::ManagerStatus {
                leader: true,
                reachability: skep_model::node::Reachability::Reachable,
                addr: chosen.advertise.to_string(),
                raft_id: saved.raft_id,
            }),
        });
        self.activate(saved.clone(), identity, Some(Birth::New { first, me }))
            .await?;
        files.follow_lock(unlock_key.as_ref())?;
        // Only now is there something to take up again after a restart.
        files.save(&saved)?;
        info!(%node, "cluster made");
        Ok(node)
    }

    pub(super) async fn enter(&self, request: JoinRequest) -> Result<(), ControlError> {
        let token: JoinToken =
            request
                .join_token
                .parse()
                .map_err(|error: skep_pki::token::TokenParseError| {
                    ControlError::invalid(error.to_string())
                })?;
        if request.remote_addrs.iter().all(String::is_empty) {
            return Err(ControlError::invalid(
                "at least 1 RemoteAddr is required to join",
            ));
        }
        let chosen = self
            .choose_addresses(
                &request.listen_addr,
                &request.advertise_addr,
                &request.data_path_addr,
            )
            .await?;
        let mut random = clock_random();
        let mut remotes = Vec::new();
        for given in request
            .remote_addrs
            .iter()
            .filter(|given| !given.is_empty())
        {
            remotes.push(address::remote(given)?);
        }
        let description = describe::without_identity(&self.inner.around, chosen.data_path).await;
        let wish = issue::Wish {
            token,
            description,
            availability: request.availability.unwrap_or(Availability::Active),
        };
        let identity = issue::first_certificate(&remotes, &wish).await?;
        let files = &self.inner.files;
        files.create()?;
        files.save_identity(&identity)?;
        let is_manager = identity.peer.role == NodeRole::Manager;
        let saved = Saved {
            node: identity.peer.node.clone(),
            cluster: identity.peer.cluster.clone(),
            raft_id: if is_manager { nonzero(&mut random) } else { 0 },
            listen: chosen.listen.to_string(),
            advertise: chosen.advertise.to_string(),
            data_path: chosen.data_path.to_string(),
            data_path_port: 0,
            managers: remotes,
            renew_chance: random(),
            origins: chosen.origins,
        };
        files.save(&saved)?;
        let node = saved.node.clone();
        let active = self.activate(saved, identity, None).await?;
        if is_manager {
            active.join_log().await?;
        }
        active.wait_for_assignments().await?;
        info!(%node, "joined");
        Ok(())
    }

    /// Goes on alone with the cluster that this node is a manager of. What belongs to a new cluster
    /// only cannot be given.
    pub(super) async fn renew_cluster(
        &self,
        active: &Arc<Active>,
        request: &InitRequest,
    ) -> Result<NodeId, ControlError> {
        // Workers are told so in Swarm's words.
        active.manager()?;
        let saved = active.saved();
        let or_saved = |given: &str, saved: &str| match given {
            "" => saved.to_owned(),
            given => given.to_owned(),
        };
        let mut chosen = self
            .choose_addresses(
                &or_saved(&request.listen_addr, &saved.listen),
                &or_saved(&request.advertise_addr, &saved.advertise),
                &request.data_path_addr,
            )
            .await?;
        // What was not asked for anew was asked for before.
        let (origins, before) = (&mut chosen.origins, saved.origins);
        for (given, origin, before) in [
            (&request.listen_addr, &mut origins.listen, before.listen),
            (
                &request.advertise_addr,
                &mut origins.advertise,
                before.advertise,
            ),
        ] {
            if given.is_empty() {
                *origin = before;
            }
        }
        origins.data_path = before.data_path;
        warn!(node = %active.node(), "this manager goes on as the only one of its cluster");
        active.go_on_alone(chosen).await?;
        Ok(active.node())
    }

    /// After a failed init or join nothing remains of it.
    pub(super) async fn settle<T>(
        &self,
        outcome: Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        if outcome.is_err() {
            if let Ok(active) = self.active() {
                active.stop().await;
            }
            if let Err(error) = self.inner.files.remove() {
                warn!(
                    error = skep_error_chain(&error),
                    "remains of a failed attempt stay"
                );
            }
            self.inner.state.send_replace(State::Inactive);
        }
        outcome
    }
}

fn parse_pools(request: &InitRequest) -> Result<Vec<IpNet>, ControlError> {
    let mut pools = Vec::new();
    for given in request.default_addr_pool.iter().flatten() {
        let pool: IpNet = given.parse().map_err(|_| {
            ControlError::invalid(format!(
                "invalid CIDR address in --default-addr-pool: {given}"
            ))
        })?;
        pools.push(pool);
    }
    if request.subnet_size > 29 {
        return Err(ControlError::invalid(format!(
            "invalid default-addr-pool-mask-length {}: must be at most 29",
            request.subnet_size
        )));
    }
    Ok(pools)
}

fn check_data_path_port(port: u32) -> Result<u16, ControlError> {
    match port {
        0 => Ok(4789),
        1024..=49151 => Ok(u16::try_from(port).unwrap_or(4789)),
        _ => Err(ControlError::invalid(
            "can't use data path port: data path port must be in the range 1024 to 49151",
        )),
    }
}
