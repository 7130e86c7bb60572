//! Makes what a project needs: networks, volumes, containers.

use std::collections::BTreeSet;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skep_compose::{Project, ProjectFile, ProjectService};

use super::body::{self, Making, Peers};
use super::image::Images;
use super::observed::{Container, inspect, maybe};
use super::project::{self, Loaded};
use super::{hooks, labels, rehearsal, stop, tell, tell_container};
use crate::client::Call;
use crate::cmd::container::path;
use crate::failure::{Failure, Outcome};
use crate::session::Session;

/// Labels of an object that is none of the containers.
fn labelled(body: &Value, project: &str, key: (&str, &str)) -> Value {
    let mut labels = body["Labels"].clone();
    let hash = hex::encode(Sha256::digest(body.to_string()));
    for (label, value) in [
        (labels::PROJECT, project),
        key,
        (labels::VERSION, env!("CARGO_PKG_VERSION")),
        (labels::CONFIG_HASH, &hash),
    ] {
        labels[label] = json!(value);
    }
    labels
}

/// Makes a network or a volume; `what` is its kind and the call's path.
async fn object(
    session: &Session,
    (kind, path): (&str, &str),
    name: &str,
    body: &Value,
    labels: Value,
) -> Outcome {
    tell(session, kind, name, "Creating");
    let mut body = body.clone();
    body["Name"] = json!(name);
    body["Labels"] = labels;
    let made = rehearsal::done(session, Call::post(path).json(&body)).await;
    tell(
        session,
        kind,
        name,
        if made.is_ok() { "Created" } else { "Error" },
    );
    made
}

/// Makes the networks that services join.
pub async fn networks(session: &Session, project: &Project, services: &[String]) -> Outcome {
    let used: BTreeSet<&String> = match project::is_on(session, "all-resources") {
        true => project.networks.keys().collect(),
        false => services
            .iter()
            .flat_map(|key| &project.services[key].networks)
            .map(|endpoint| &endpoint.network)
            .collect(),
    };
    for key in used {
        let Some(network) = project.networks.get(key) else {
            continue;
        };
        let name = &network.name;
        let known = maybe(session, "networks", name, "")
            .await?
            .filter(|known| known.str("Name") == name || known.str("Id") == name);
        if let Some(known) = known {
            let labels = known.text_map("Labels");
            let owner = labels.get(labels::PROJECT);
            if !network.external && owner != Some(&project.name) {
                session.warn(format!(
                    "warning: a network with name {name} exists but was not created for project {:?}\nhint: set `external: true` to use an existing network",
                    project.name
                ));
            }
            continue;
        }
        if network.external {
            return Err(Failure::message(format!(
                "network {name} declared as external, but could not be found"
            )));
        }
        let labels = labelled(&network.body, &project.name, (labels::NETWORK, key));
        let body = &network.body;
        object(session, ("Network", "/networks/create"), name, body, labels)
            .await
            .map_err(|failure| {
                Failure::message(format!("failed to create network {name}: {failure}"))
            })?;
    }
    Ok(())
}

/// Whether a service mounts the volume of this name.
pub fn mounts(service: &ProjectService, volume: &str) -> bool {
    let mounts = service.body["HostConfig"]["Mounts"].as_array();
    mounts
        .into_iter()
        .flatten()
        .any(|mount| mount["Type"] == "volume" && mount["Source"] == volume)
}

/// Makes the volumes that services mount.
pub async fn volumes(session: &Session, project: &Project, services: &[String]) -> Outcome {
    let all = project::is_on(session, "all-resources");
    let mounted = |name: &str| {
        let mut services = services.iter().map(|key| &project.services[key]);
        all || services.any(|service| mounts(service, name))
    };
    for (key, volume) in &project.volumes {
        let name = &volume.name;
        if !mounted(name) {
            continue;
        }
        if let Some(known) = maybe(session, "volumes", name, "").await? {
            let labels = known.text_map("Labels");
            let why = match labels.get(labels::PROJECT) {
                Some(owner) if *owner == project.name => continue,
                _ if volume.external => continue,
                Some(owner) => format!("was created for project {owner:?}"),
                None => "was not created for a project".to_owned(),
            };
            session.warn(format!(
                "warning: volume {name:?} already exists but {why}\nhint: set `external: true` to use an existing volume"
            ));
            continue;
        }
        if volume.external {
            return Err(Failure::message(format!(
                "external volume {name:?} not found"
            )));
        }
        let labels = labelled(&volume.body, &project.name, (labels::VOLUME, key));
        let body = &volume.body;
        object(session, ("Volume", "/volumes/create"), name, body, labels).await?;
    }
    Ok(())
}

/// Makes the containers of one run.
pub struct Maker<'a> {
    pub session: &'a Session,
    pub loaded: &'a Loaded,
    pub images: Images,
    /// Those that are there, and those made so far.
    pub peers: Peers,
    /// Whether volumes without a name are left behind.
    pub renews_volumes: bool,
    /// Seconds that a container has to stop.
    pub timeout: Option<i64>,
}

impl Maker<'_> {
    /// Creates a container; `body` may be changed before.
    pub async fn create_as(
        &self,
        making: &Making<'_>,
        called: &str,
        change: impl FnOnce(&mut Value),
    ) -> Outcome<Container> {
        let service = &self.loaded.project.services[making.service];
        let mut body = body::create(self.loaded, service, making, &self.peers)?;
        change(&mut body);
        let id = match rehearsal::is_on(self.session) {
            true => called.to_owned(),
            false => self.create_of(service, called, &body).await?,
        };
        Ok(Container {
            id,
            name: making.name.to_owned(),
            service: making.service.to_owned(),
            number: making.number,
            oneoff: making.oneoff,
            state: "created".to_owned(),
            ..Container::default()
        })
    }

    /// Creates a container with the service's files in it; its id.
    async fn create_of(
        &self,
        service: &ProjectService,
        called: &str,
        body: &Value,
    ) -> Outcome<String> {
        let call = Call::post("/containers/create")
            .query("name", called)
            .query_text("platform", &service.platform)
            .json(body);
        let made = self.session.client.json(call).await?;
        for warning in made.texts("Warnings") {
            self.session.warn(format!("WARNING: {warning}"));
        }
        let id = made.str("Id").to_owned();
        if let Err(failure) = put(self.session, &id, &service.files).await {
            let _ = self
                .session
                .client
                .done(Call::delete(path(&id, "")).query("force", "1"))
                .await;
            return Err(failure);
        }
        Ok(id)
    }

    fn remember(&mut self, container: &Container) {
        let peers = self.peers.entry(container.service.clone()).or_default();
        peers.retain(|(name, _)| *name != container.name);
        peers.push((container.name.clone(), container.id.clone()));
    }

    fn image(&self, key: &str) -> (String, String) {
        self.images.get(key).cloned().unwrap_or_default()
    }

    pub async fn create(&mut self, key: &str, number: u64, name: &str) -> Outcome<Container> {
        tell_container(self.session, name, "Creating");
        let (image, id) = self.image(key);
        let making = Making {
            service: key,
            name,
            number,
            image: (&image, &id),
            oneoff: false,
            has_service_alias: true,
        };
        let made = self.create_as(&making, name, |_| {}).await;
        if made.is_err() {
            tell_container(self.session, name, "Error");
        }
        let made = made?;
        tell_container(self.session, name, "Created");
        self.remember(&made);
        Ok(made)
    }

    /// Makes a new container in place of an old one, which goes once the new one is made.
    pub async fn recreate(
        &mut self,
        key: &str,
        old: &str,
        number: u64,
        name: &str,
    ) -> Outcome<Container> {
        tell_container(self.session, name, "Recreate");
        let before = inspect(self.session, old).await?;
        let (image, id) = self.image(key);
        let making = Making {
            service: key,
            name,
            number,
            image: (&image, &id),
            oneoff: false,
            has_service_alias: true,
        };
        let short = crate::human::short_id(old).to_owned();
        let renews = self.renews_volumes;
        let replaced = before.str("Name").trim_start_matches('/').to_owned();
        let made = self
            .create_as(&making, &format!("{short}_{name}"), |body| {
                body["Labels"][labels::REPLACE] = json!(replaced);
                if !renews {
                    body::inherit(body, &before);
                }
            })
            .await;
        if made.is_err() {
            tell_container(self.session, name, "Error");
        }
        let made = made?;
        let gone = Container {
            id: old.to_owned(),
            name: name.to_owned(),
            service: key.to_owned(),
            state: before.str("State.Status").to_owned(),
            ..Container::default()
        };
        let how = stop::How {
            timeout: self.timeout,
            project: None,
        };
        if gone.is_running() {
            let mut call = Call::post(path(old, "/stop"));
            if let Some(seconds) = how.timeout {
                call = call.query("t", seconds);
            }
            if let Some(service) = self.loaded.project.services.get(key)
                && gone.state == "running"
            {
                hooks::run(self.session, name, old, &service.pre_stop).await?;
            }
            rehearsal::done(self.session, call).await?;
        }
        let call = Call::delete(path(old, ""))
            .query("force", "1")
            .query_if("v", renews);
        rehearsal::done(self.session, call).await?;
        if renews {
            stop::remove_unnamed(self.session, &before, Some(&self.loaded.project)).await?;
        }
        let call = Call::post(path(&made.id, "/rename")).query("name", name);
        rehearsal::done(self.session, call).await?;
        tell_container(self.session, name, "Recreated");
        // It may have had another name.
        if let Some(peers) = self.peers.get_mut(key) {
            peers.retain(|(_, id)| id != old);
        }
        self.remember(&made);
        Ok(made)
    }
}

/// Starts a container and does what is to be done after that.
pub async fn start(session: &Session, loaded: &Loaded, container: &Container) -> Outcome {
    tell_container(session, &container.name, "Starting");
    let call = Call::post(path(&container.id, "/start"));
    let started = rehearsal::done(session, call).await;
    if let Err(failure) = started {
        tell_container(session, &container.name, "Error");
        return Err(failure);
    }
    if let Some(service) = loaded.project.services.get(&container.service) {
        hooks::run(session, &container.name, &container.id, &service.post_start).await?;
    }
    tell_container(session, &container.name, "Started");
    Ok(())
}

/// Puts files into a container.
async fn put(session: &Session, id: &str, files: &[ProjectFile]) -> Outcome {
    if files.is_empty() {
        return Ok(());
    }
    let archive = archive(files)
        .map_err(|error| Failure::message(format!("cannot pack secrets and configs: {error}")))?;
    let body = Full::new(Bytes::from(archive))
        .map_err(|never| match never {})
        .boxed_unsync();
    let call = Call::put(path(id, "/archive"))
        .query("path", "/")
        .query("copyUIDGID", "1")
        .body("application/x-tar", body);
    session.client.done(call).await
}

fn archive(files: &[ProjectFile]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(file.mode);
        header.set_uid(file.uid.into());
        header.set_gid(file.gid.into());
        header.set_size(file.content.len() as u64);
        let name = file.target.trim_start_matches('/');
        tar.append_data(&mut header, name, file.content.as_slice())?;
    }
    tar.into_inner()
}
