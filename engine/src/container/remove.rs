//! `docker rm` and `docker container prune`.

use std::sync::Arc;

use super::record::Status;
use super::{Container, owned};
use crate::clock;
use crate::engine::Engine;
use crate::error::{EngineError, Kind, Result};
use crate::filters::Filters;
use crate::names;
use crate::options::{Pruned, RemoveOptions, StopOptions};
use crate::record as file;
use crate::streams::blocking;
use crate::volume::tree_bytes;

impl Engine {
    /// Removes a container; with `force` a running one too.
    pub async fn container_remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        let container = self.containers.find(name)?;
        loop {
            let status = container.status();
            if status == Status::Removing {
                return Err(EngineError::conflict(format!(
                    "removal of container {name} is already in progress"
                )));
            }
            if status.is_running() {
                if !options.force {
                    return Err(refusal(name, &container, status));
                }
                let kill = StopOptions {
                    signal: Some("KILL".into()),
                    timeout: Some(0),
                };
                match self.stop(&container, &kill).await {
                    Err(error) if error.kind() == Kind::Conflict => {}
                    stopped => stopped.map_err(|error| {
                        error.context(format!(
                            "cannot remove container \"{name}\": could not kill"
                        ))
                    })?,
                }
            }
            let _turn = container.turn().await;
            // Somebody may have started it, or removed it, while we waited.
            if container.status().is_running() {
                continue;
            }
            if self.containers.find(&container.id).is_err() {
                return match options.force {
                    true => Ok(()),
                    false => Err(EngineError::no_such_container(name)),
                };
            }
            return self.remove_stopped(&container, options.volumes).await;
        }
    }

    async fn remove_stopped(&self, container: &Arc<Container>, volumes: bool) -> Result<()> {
        container
            .alter(move |inner| {
                inner.record.state.status = Status::Removing;
                inner.record.removes_volumes = volumes;
            })
            .await?;
        let (engine, target) = (self.shared(), Arc::clone(container));
        let removed = blocking(move || {
            let record = target.record();
            engine.abandon(&target);
            engine.detach_networks(&target);
            target.write_no_more();
            file::remove_tree(&target.runtime)?;
            match volumes {
                true => {
                    let names: Vec<&str> = record.anonymous_volumes().collect();
                    owned::note(&target.directory, &names)?;
                }
                false => owned::forget(&target.directory)?,
            }
            // The record first: what is left of a removal that was cut off is
            // then cleared at the next open.
            file::remove_file(&target.record_file())?;
            if volumes {
                engine.remove_anonymous_volumes(&record);
            }
            file::remove_tree(&target.directory)?;
            engine.containers.remove(&record.id);
            engine.images.sweep(|| engine.containers.chains_in_use())
        })
        .await;
        if let Err(error) = removed {
            container.lock().record.state.status = Status::Dead;
            container.lock().record.state.error = error.to_string();
            return Err(error.context(format!("unable to remove filesystem for {}", container.id)));
        }
        self.container_event(container, "destroy", &[]);
        container.tell_removed();
        Ok(())
    }

    fn remove_anonymous_volumes(&self, record: &super::ContainerRecord) {
        let used = self.volumes_in_use();
        for name in record.anonymous_volumes() {
            let of_others = used
                .get(name)
                .is_some_and(|users| users.iter().any(|user| *user != record.id));
            if of_others {
                continue;
            }
            match self.volumes.remove(name) {
                Ok(()) => self.volume_event("destroy", name, Default::default()),
                Err(error) => tracing::warn!(%error, volume = name, "a volume was left"),
            }
        }
    }

    /// `--rm`: what was asked for at create.
    pub(super) async fn remove_by_itself(&self, id: &str) {
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        match self.container_remove(id, options).await {
            Err(error) if error.is_not_found() || error.kind() == Kind::Conflict => {}
            Err(error) => tracing::error!(%error, container = id, "a container was not removed"),
            Ok(()) => {}
        }
    }

    /// Removes all containers that do not run.
    pub async fn container_prune(&self, filters: &Filters) -> Result<Pruned> {
        filters.accept(&["label", "label!", "until"])?;
        let mut until = None;
        for text in filters.values("until") {
            until = Some(clock::parse_moment(text, clock::now())?);
        }
        let mut pruned = Pruned::default();
        for container in self.containers.all() {
            let passes = {
                let inner = container.lock();
                let record = &inner.record;
                matches!(
                    record.state.status,
                    Status::Created | Status::Exited | Status::Dead
                ) && inner.prepared.is_none()
                    && until.is_none_or(|until| record.created <= until)
                    && filters.labels(&record.config.labels)
            };
            if !passes {
                continue;
            }
            let upper = container.directory.join("upper");
            let bytes = blocking(move || Ok(tree_bytes(&upper))).await?;
            match self
                .container_remove(&container.id, RemoveOptions::default())
                .await
            {
                Ok(()) => {
                    pruned.removed.push(container.id.clone());
                    pruned.space_reclaimed += bytes as i64;
                }
                Err(error) => tracing::warn!(%error, container = container.id, "not pruned"),
            }
        }
        self.prune_event("container", pruned.space_reclaimed);
        Ok(pruned)
    }
}

fn refusal(name: &str, container: &Container, status: Status) -> EngineError {
    let name = name.strip_prefix('/').unwrap_or(name);
    let shown = match container.id.starts_with(name) {
        true => names::short_id(&container.id).to_owned(),
        false => name.to_owned(),
    };
    let state = status.as_str();
    match status {
        Status::Paused => EngineError::conflict(format!(
            "cannot remove container \"{shown}\": container is paused and must be unpaused first"
        )),
        _ => EngineError::conflict(format!(
            "cannot remove container \"{shown}\": container is {state}: stop the container before removing or force remove"
        )),
    }
}
