//! The Docker Engine API's container, image, exec, volume, network and event
//! objects, in exactly the JSON the API speaks (version 1.50).
//!
//! Reading is as lenient as dockerd: a missing field and `null` are the
//! default, an unknown field is ignored.

use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A struct of the API: every field may be absent or `null` on the way in.
macro_rules! docker_json {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* pub $field:ident : $type:ty ),* $(,)?
        }
    )*) => {$(
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        $(#[$meta])*
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(deserialize_with = "crate::types::null_default")]
                pub $field: $type,
            )*
        }
    )*};
}

mod container;
mod event;
mod exec;
mod host;
mod image;
mod inspect;
mod network;
mod stats;
mod volume;

pub use container::{
    ContainerConfig, ContainerCreated, Empty, NetworkingConfig, StrSlice, UpdateConfig,
};
pub use event::{EventActor, EventMessage};
pub use exec::{ExecConfig, ExecInspect, ExecProcess};
pub use host::{
    DeviceMapping, DeviceRequest, HostConfig, LogConfig, PortBinding, PortMap, RestartPolicy,
    ThrottleDevice, WeightDevice,
};
pub use image::{
    BuildCache, DeleteItem, Descriptor, DistributionInspect, DriverData, ErrorDetail, HistoryItem,
    ImageConfig, ImageInspect, ImageMetadata, ImageSummary, Platform, ProgressDetail,
    ProgressEvent, RootFs,
};
pub use inspect::{
    Change, ContainerInspect, ContainerState, ContainerSummary, Health, HealthResult, MountPoint,
    NetworkSettings, PathStat, Port, SummaryHostConfig, SummaryNetworks, Top, WaitError,
    WaitResponse,
};
pub use network::{
    ConfigReference, EndpointIpam, EndpointSettings, Ipam, IpamConfig, NetworkContainer,
    NetworkCreate, NetworkInspect,
};
pub use skep_model::container::{HealthConfig, Ulimit};
pub use skep_model::mount::{Mount, MountType};
pub use stats::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats,
    StorageStats, ThrottlingData,
};
pub use volume::{Volume, VolumeCreate, VolumeUsage};

/// Reads `null` as the type's default.
pub(crate) fn null_default<'de, D, T>(input: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(input)?.unwrap_or_default())
}

/// A list of Go: `null` and `[]` are empty both, and are shown as they were given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct List<T>(Option<Vec<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(list: Vec<T>) -> Self {
        Self(Some(list))
    }
}

/// Shows an empty list as `null`.
pub(crate) fn null_if_empty<S: Serializer, T: Serialize>(
    list: &[T],
    output: S,
) -> Result<S::Ok, S::Error> {
    (!list.is_empty()).then_some(list).serialize(output)
}

/// For fields that Go marks `omitempty`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
