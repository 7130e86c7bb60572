//! Where the slots of a service have their volumes, by a label of the service:
//! `skep.volume.placement=sticky`. A volume is of one node, so that a task which starts anew finds its
//! data only where its slot's tasks before it have run. Without the label tasks are placed as Swarm
//! places them, and find an empty volume wherever there is none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mount::{Mount, MountType};
use crate::serde_help::{is_zero, null_default};
use crate::template::{Context, expand};
use crate::{ContainerSpec, NodeId, ServiceMode, ServiceSpec, TaskId, Timestamp};

/// The label.
pub const VOLUME_PLACEMENT_LABEL: &str = "skep.volume.placement";
/// Volumes of a slot that are remembered by name. A bound only: no task has so many.
pub const VOLUMES_OF_SLOT_MAX: usize = 32;
/// Most replicas of a service whose tasks return to their volumes: the homes of all are kept, and change,
/// with the service.
pub const STICKY_REPLICAS_MAX: u64 = 1000;

/// The node that has the volumes of one slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VolumeHome {
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Its host name when it became the home: it may have been removed since.
    #[serde(deserialize_with = "null_default")]
    pub hostname: String,
    /// Names of the volumes that tasks of the slot have had there. Empty until the first of them has
    /// been made.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub volumes: Vec<String>,
    pub since: Timestamp,
    /// Whether a container has had the volumes: from then on they must be there.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub is_held: bool,
    /// The task that was sent there first. If it comes to nothing the slot has no home. Empty where
    /// somebody has said where the home is.
    #[serde(rename = "TaskID", skip_serializing_if = "TaskId::is_empty")]
    pub task_id: TaskId,
}

/// Homes of a service's slots, by their numbers.
pub type VolumeHomes = BTreeMap<u64, VolumeHome>;

/// Whether labels of a service, or of its task, ask for tasks that return to their volumes.
///
/// # Errors
/// The label says something else than it may; the text names it.
pub fn read(labels: &BTreeMap<String, String>) -> Result<bool, String> {
    match labels.get(VOLUME_PLACEMENT_LABEL).map(|given| given.trim()) {
        None | Some("free") => Ok(false),
        Some("sticky") => Ok(true),
        Some(given) => Err(format!(
            "label {VOLUME_PLACEMENT_LABEL}: `{given}` is none of free, sticky"
        )),
    }
}

/// The same where labels were checked before.
pub fn is_sticky(labels: &BTreeMap<String, String>) -> bool {
    read(labels).unwrap_or_default()
}

/// Whether a spec's label says what it may, and what goes with the rest of it.
///
/// # Errors
/// What is wrong, with the label's name.
pub(crate) fn check(spec: &ServiceSpec) -> Result<(), String> {
    if !read(&spec.labels)? {
        return Ok(());
    }
    let ServiceMode::Replicated(replicated) = &spec.mode else {
        return Err(format!(
            "label {VOLUME_PLACEMENT_LABEL}: only slots of replicated services return to their \
             volumes"
        ));
    };
    let autoscale = spec.autoscale().ok().flatten();
    let most = autoscale.map_or(0, |autoscale| autoscale.max);
    let replicas = replicated.count().max(most);
    if replicas > STICKY_REPLICAS_MAX {
        return Err(format!(
            "label {VOLUME_PLACEMENT_LABEL}: at most {STICKY_REPLICAS_MAX} replicas can return to \
             their volumes, and {replicas} are asked for"
        ));
    }
    let container = spec.task_template.container();
    if container.is_none_or(|container| named(container).next().is_none()) {
        return Err(format!(
            "label {VOLUME_PLACEMENT_LABEL}: the service has no volume with a name: --mount \
             type=volume,source=NAME,target=PATH"
        ));
    }
    Ok(())
}

/// Mounts of volumes that outlive a task.
fn named(container: &ContainerSpec) -> impl Iterator<Item = &Mount> {
    let of_task = |source: &str| source.contains(".Task.ID") || source.contains(".Task.Name");
    let mounts = container.mounts.iter();
    mounts.filter(move |mount| {
        mount.kind == MountType::Volume && !mount.source.is_empty() && !of_task(&mount.source)
    })
}

/// Names of the volumes that outlive a task, each once.
pub fn volumes(container: &ContainerSpec, context: &Context) -> Vec<String> {
    let mut names = Vec::new();
    // Templates were checked when the service was made.
    for name in named(container).filter_map(|mount| expand(&mount.source, context).ok()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> ServiceSpec {
        serde_json::from_str(json).expect("test JSON parses")
    }

    #[test]
    fn the_label_is_refused_where_it_could_not_be_kept() {
        for (rest, told) in [
            (r#""Labels":{"skep.volume.placement":"sticky"}"#, ""),
            (
                r#""Labels":{"skep.volume.placement":"glue"}"#,
                "`glue` is none of free, sticky",
            ),
            (
                r#""Labels":{"skep.volume.placement":"sticky"},"Mode":{"Global":{}}"#,
                "only slots of replicated services",
            ),
            (
                r#""Labels":{"skep.volume.placement":"free"},"Mode":{"Global":{}}"#,
                "",
            ),
            (
                r#""Labels":{"skep.volume.placement":"sticky"},"Mode":{"Replicated":{"Replicas":1000}}"#,
                "",
            ),
            (
                r#""Labels":{"skep.volume.placement":"sticky"},"Mode":{"Replicated":{"Replicas":1001}}"#,
                "at most 1000 replicas can return to their volumes, and 1001 are asked for",
            ),
            (
                r#""Labels":{"skep.volume.placement":"sticky","skep.autoscale.max":"2000","skep.autoscale.cpu":"50"}"#,
                "and 2000 are asked for",
            ),
        ] {
            let spec = spec(&format!(
                r#"{{"TaskTemplate":{{"ContainerSpec":{{"Mounts":[{{"Type":"volume","Source":"d","Target":"/d"}}]}}}},{rest}}}"#
            ));
            match check(&spec) {
                Ok(()) => assert_eq!(told, "", "{rest}"),
                Err(why) => assert!(!told.is_empty() && why.contains(told), "{rest}: {why}"),
            }
        }
        for mounts in [
            "",
            r#"{"Type":"volume","Target":"/d"}"#,
            r#"{"Type":"bind","Source":"/d","Target":"/d"}"#,
            r#"{"Type":"volume","Source":"d-{{.Task.ID}}","Target":"/d"}"#,
        ] {
            let spec = spec(&format!(
                r#"{{"Labels":{{"skep.volume.placement":"sticky"}},"TaskTemplate":{{"ContainerSpec":{{"Mounts":[{mounts}]}}}}}}"#
            ));
            let told = check(&spec).unwrap_err();
            assert!(told.contains("no volume with a name"), "{mounts}: {told}");
        }
    }

    #[test]
    fn volumes_have_the_names_that_their_task_gives_them() {
        let spec = spec(
            r#"{"TaskTemplate":{"ContainerSpec":{"Mounts":[
                {"Type":"volume","Source":"data-{{.Task.Slot}}","Target":"/a"},
                {"Type":"volume","Source":"data-{{.Task.Slot}}","Target":"/b"},
                {"Type":"volume","Source":"tmp-{{.Task.ID}}","Target":"/c"},
                {"Type":"volume","Source":"{{.Node.Hostname}}","Target":"/d"},
                {"Type":"tmpfs","Target":"/e"}]}}}"#,
        );
        let context = Context {
            task_slot: "3".to_owned(),
            node_hostname: "n1".to_owned(),
            ..Context::default()
        };
        let container = spec.task_template.container().unwrap();
        assert_eq!(volumes(container, &context), ["data-3", "n1"]);
    }
}
