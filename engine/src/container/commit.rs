//! `docker commit`.

use std::sync::Arc;

use super::record::Status;
use super::{Container, shim_link};
use crate::clock;
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Kind, Result};
use crate::image::assemble::{Parts, assemble};
use crate::image::changes;
use crate::image::manifest::{ConfigFile, History, host_platform};
use crate::image::{Image, Reference, diff_id_of, layer_descriptor};
use crate::options::CommitOptions;
use crate::streams::blocking;
use crate::tree::pack::{self, pack};
use crate::types::{ContainerConfig, ImageConfig};

impl Engine {
    /// Makes an image of what a container is now; the image's id.
    pub async fn container_commit(&self, name: &str, options: CommitOptions) -> Result<String> {
        let container = self.containers.find(name)?;
        let target = match options.repo.as_str() {
            "" => None,
            repo => {
                let reference = repo.parse::<Reference>()?;
                let tag = match options.tag.as_str() {
                    "" => reference.tag.clone().unwrap_or_else(|| "latest".into()),
                    tag => tag.to_owned(),
                };
                Some(reference.with_tag(&tag)?.unambiguous()?)
            }
        };
        if matches!(container.status(), Status::Dead | Status::Removing) {
            return Err(EngineError::conflict(format!(
                "You cannot commit container {} which is Dead or being removed",
                container.id
            )));
        }
        let _activity = self.images.activity();
        let freeze = options.pause && container.status() == Status::Running;
        let freeze = match freeze {
            true => match shim_link::call(container.shim(), |shim| shim.pause()).await {
                Ok(_) => true,
                // It ended just now, and is as still as can be.
                Err(error) if error.kind() == Kind::Conflict => false,
                Err(error) => return Err(error),
            },
            false => false,
        };
        let (engine, source, name) = (self.shared(), Arc::clone(&container), target.clone());
        let made = blocking(move || {
            let image = engine.commit(&source, &options)?;
            if let Some(name) = name {
                engine.images.name(&name, image.id(), clock::now())?;
            }
            Ok(image)
        })
        .await;
        if freeze {
            match shim_link::call(container.shim(), |shim| shim.resume()).await {
                // It was killed meanwhile, or somebody else let it go.
                Err(error) if error.kind() == Kind::Conflict => {}
                resumed => resumed.map(drop)?,
            }
        }
        let image = made?;
        let shown = target.map_or_else(String::new, |name| name.familiar());
        self.container_event(
            &container,
            "commit",
            &[("imageID", image.id().to_string()), ("imageRef", shown)],
        );
        Ok(image.id().to_string())
    }

    fn commit(&self, container: &Container, options: &CommitOptions) -> Result<Arc<Image>> {
        let record = container.record();
        let base = self
            .images
            .get(&record.image_id)
            .ok_or_else(|| EngineError::not_found(format!("No such image: {}", record.image_id)))?;
        let mut config = options
            .config
            .clone()
            .unwrap_or_else(|| image_config(&record.config));
        changes::apply(&mut config, &options.changes)?;
        let mut writer = self.images.blobs.writer()?;
        let upper = container.directory.join("upper");
        pack(
            &upper,
            &mut writer,
            pack::Options {
                layer: true,
                ..pack::Options::default()
            },
        )
        .during(|| "cannot read the container's changes".into())?;
        let (blob, size) = writer.commit(None)?;
        let now = clock::now();
        let mut file = ConfigFile {
            created: now,
            author: options.author.clone(),
            comment: options.comment.clone(),
            docker_version: self.config.version.clone(),
            config,
            ..base.config.clone()
        };
        if file.os.is_empty() {
            file.os = host_platform().os;
        }
        file.rootfs.diff_ids.push(diff_id_of(&self.images, &blob)?);
        file.history.push(History {
            created: now,
            created_by: record.command().join(" "),
            author: options.author.clone(),
            comment: options.comment.clone(),
            empty_layer: false,
        });
        let mut layers = base.record.layers.clone();
        layers.push(layer_descriptor(&self.images.blobs, &blob, size)?);
        let parts = Parts {
            config: serde_json::to_vec(&file).during(|| "cannot write the configuration".into())?,
            layers,
            manifest: None,
            parent: Some(base.id().clone()),
            step: None,
        };
        assemble(&self.images, parts, |_, _| {})
    }
}

/// The part of a container's configuration that an image keeps.
fn image_config(config: &ContainerConfig) -> ImageConfig {
    ImageConfig {
        user: config.user.clone(),
        exposed_ports: config.exposed_ports.clone(),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        healthcheck: config.healthcheck.clone(),
        args_escaped: config.args_escaped,
        volumes: config.volumes.clone().unwrap_or_default(),
        working_dir: config.working_dir.clone(),
        on_build: config.on_build.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        shell: config.shell.clone(),
    }
}
