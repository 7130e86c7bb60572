//! What stands in a file of a vendor.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::name::{self, QualifiedName};

/// Versions of the interface that are understood.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// One file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    cdi_version: String,
    kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    /// What comes with every device of the file.
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// One device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

/// What a container gets.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) mounts: Vec<Mount>,
    pub(super) additional_gids: Vec<u32>,
    pub(super) hooks: Vec<Hook>,
    pub(super) net_devices: Vec<serde_json::Value>,
    pub(super) intel_rdt: Option<serde_json::Value>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DeviceNode {
    pub(super) path: String,
    pub(super) host_path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) options: Vec<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
}

impl Spec {
    /// Whether it is as the interface wants it.
    pub(super) fn check(&self) -> Result<(), String> {
        let version = self
            .cdi_version
            .strip_prefix('v')
            .unwrap_or(&self.cdi_version);
        if !VERSIONS.contains(&version) {
            return Err(format!("invalid version {:?}", self.cdi_version));
        }
        name::check_kind(&self.kind)?;
        self.container_edits.check()?;
        let mut names = BTreeSet::new();
        for device in &self.devices {
            name::check_device(&device.name)?;
            if device.container_edits == Edits::default() {
                return Err(format!(
                    "invalid device, empty device edits of {:?}",
                    device.name
                ));
            }
            device.container_edits.check()?;
            if !names.insert(&device.name) {
                return Err(format!("invalid spec, multiple device {:?}", device.name));
            }
        }
        match names.is_empty() {
            true => Err("invalid spec, no devices".into()),
            false => Ok(()),
        }
    }

    pub(super) fn name_of(&self, device: &Device) -> QualifiedName {
        QualifiedName {
            kind: self.kind.clone(),
            device: device.name.clone(),
        }
    }
}

impl Edits {
    fn check(&self) -> Result<(), String> {
        for variable in &self.env {
            if variable.find('=').is_none_or(|at| at == 0) {
                return Err(format!(
                    "invalid container edits: invalid environment variable {variable:?}"
                ));
            }
        }
        for node in &self.device_nodes {
            if node.path.is_empty() {
                return Err("invalid (empty) device path".into());
            }
            if !matches!(node.kind.as_str(), "" | "b" | "c" | "u" | "p") {
                return Err(format!(
                    "device {:?}: invalid type {:?}",
                    node.path, node.kind
                ));
            }
            if node
                .permissions
                .chars()
                .any(|letter| !"rwm".contains(letter))
            {
                return Err(format!(
                    "device {:?}: invalid permissions {:?}",
                    node.path, node.permissions
                ));
            }
        }
        for mount in &self.mounts {
            if mount.host_path.is_empty() {
                return Err("invalid mount, empty host path".into());
            }
            if mount.container_path.is_empty() {
                return Err("invalid mount, empty container path".into());
            }
        }
        Ok(())
    }
}
