//! The engine's volume calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ANONYMOUS_LABEL, Made, VolumeRecord, driver, tree_bytes};
use crate::clock;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::events::event;
use crate::filters::Filters;
use crate::names;
use crate::options::Pruned;
use crate::streams::blocking;
use crate::types::{Volume, VolumeCreate, VolumeUsage};

impl Engine {
    /// Makes a volume; one that is there already is returned as it is.
    pub async fn volume_create(&self, volume: VolumeCreate) -> Result<Volume> {
        driver::choose(&volume.driver)?;
        let anonymous = volume.name.is_empty();
        let name = if anonymous {
            names::new_id(&mut rand::rng())
        } else {
            volume.name
        };
        let mut labels = volume.labels;
        if anonymous {
            labels.insert(ANONYMOUS_LABEL.into(), String::new());
        }
        let record = VolumeRecord {
            name,
            created: clock::now(),
            labels: Some(labels),
            options: (!volume.driver_opts.is_empty()).then_some(volume.driver_opts),
            anonymous,
        };
        let engine = self.shared();
        blocking(move || {
            let volume = engine.ensure_volume(record)?;
            Ok(engine.volumes.show(&volume))
        })
        .await
    }

    /// Makes a volume unless it is there, and tells. Blocking.
    pub(crate) fn ensure_volume(&self, record: VolumeRecord) -> Result<Arc<VolumeRecord>> {
        let (volume, made) = self.volumes.ensure(record)?;
        if made == Made::New {
            self.volume_event("create", &volume.name, BTreeMap::new());
        }
        Ok(volume)
    }

    pub(crate) fn volume_event(
        &self,
        action: &str,
        name: &str,
        mut attributes: BTreeMap<String, String>,
    ) {
        attributes.insert("driver".into(), "local".into());
        self.events
            .publish(event("volume", action, name, attributes));
    }

    /// Volumes that pass the filters, by name.
    pub async fn volume_list(&self, filters: &Filters) -> Result<Vec<Volume>> {
        filters.accept(&["dangling", "driver", "label", "label!", "name"])?;
        let dangling = filters.flag("dangling")?;
        let used = self.volumes_in_use();
        Ok(self
            .volumes
            .all()
            .iter()
            .filter(|volume| {
                dangling.is_none_or(|wanted| wanted != used.contains_key(&volume.name))
                    && filters.any("driver", |driver| driver == "local")
                    && filters.any("name", |part| volume.name.contains(part))
                    && filters.labels(volume.labels.as_ref().unwrap_or(&BTreeMap::new()))
            })
            .map(|volume| self.volumes.show(volume))
            .collect())
    }

    /// One volume.
    pub async fn volume_inspect(&self, name: &str) -> Result<Volume> {
        let volume = self.volumes.get(name)?;
        Ok(self.volumes.show(&volume))
    }

    /// Removes a volume that no container uses. With `force` a missing one is
    /// fine.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        if let Err(error) = self.volumes.get(name) {
            return if force { Ok(()) } else { Err(error) };
        }
        if let Some(users) = self.volumes_in_use().get(name) {
            return Err(EngineError::conflict(format!(
                "remove {name}: volume is in use - [{}]",
                users.join(", ")
            )));
        }
        let (engine, name) = (self.shared(), name.to_owned());
        blocking(move || {
            engine.volumes.remove(&name)?;
            engine.volume_event("destroy", &name, BTreeMap::new());
            Ok(())
        })
        .await
    }

    /// Removes volumes no container uses: anonymous ones, or with `all` named
    /// ones too.
    pub async fn volume_prune(&self, filters: &Filters) -> Result<Pruned> {
        filters.accept(&["all", "label", "label!"])?;
        let all = filters.flag("all")?.unwrap_or(false);
        let mut pruned = Pruned::default();
        for volume in self.volumes.all() {
            if !(all || volume.anonymous)
                || !filters.labels(volume.labels.as_ref().unwrap_or(&BTreeMap::new()))
                || self.volumes_in_use().contains_key(&volume.name)
            {
                continue;
            }
            let (engine, name) = (self.shared(), volume.name.clone());
            let freed = blocking(move || {
                let bytes = tree_bytes(&engine.volumes.data(&name));
                engine.volumes.remove(&name)?;
                engine.volume_event("destroy", &name, BTreeMap::new());
                Ok(bytes)
            })
            .await?;
            pruned.space_reclaimed += freed as i64;
            pruned.removed.push(volume.name.clone());
        }
        self.prune_event("volume", pruned.space_reclaimed);
        Ok(pruned)
    }

    /// Volumes that containers name, running or not, with the containers' ids.
    pub(crate) fn volumes_in_use(&self) -> BTreeMap<String, Vec<String>> {
        let mut used: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for container in self.containers.all() {
            let inner = container.lock();
            for mount in &inner.record.mounts {
                if mount.point.kind == "volume" {
                    let users = used.entry(mount.point.name.clone()).or_default();
                    if !users.contains(&container.id) {
                        users.push(container.id.clone());
                    }
                }
            }
        }
        used
    }

    /// All volumes with their sizes, for `system df`. Blocking.
    pub(crate) fn volumes_with_usage(&self) -> Vec<Volume> {
        let used = self.volumes_in_use();
        self.volumes
            .all()
            .iter()
            .map(|volume| Volume {
                usage_data: Some(VolumeUsage {
                    size: tree_bytes(&self.volumes.data(&volume.name)) as i64,
                    ref_count: used.get(&volume.name).map_or(0, Vec::len) as i64,
                }),
                ..self.volumes.show(volume)
            })
            .collect()
    }
}
