//! What cluster tasks need beyond Docker's create body.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use skep_dns::DnsConfig;
use zeroize::Zeroizing;

use crate::types::EndpointSettings;

/// Given at create and kept with the container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateExtras {
    /// A network namespace made by the caller, joined instead of a new one. The
    /// engine neither makes nor removes it, and connects nothing to it.
    pub netns: Option<PathBuf>,
    /// Shown by `inspect` under `NetworkSettings.Networks`, by network name.
    /// Only with [`CreateExtras::netns`].
    pub networks: BTreeMap<String, EndpointSettings>,
    /// The shim answers DNS inside the namespace from these zones; the
    /// container's resolv.conf then names 127.0.0.11.
    pub dns: Option<DnsConfig>,
    /// More lines for /etc/hosts.
    pub hosts: Vec<HostsEntry>,
    /// The whole of /etc/resolv.conf, instead of what the engine would write.
    pub resolv_conf: Option<String>,
}

/// One line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsEntry {
    pub address: IpAddr,
    pub names: Vec<String>,
}

/// Given at prepare or start, and forgotten once the container has them.
#[derive(Debug, Default)]
pub struct StartExtras {
    /// Secrets and configs. They exist in the container's memory only, so the
    /// caller gives them again for each start; a container that had some is not
    /// restarted by the engine itself.
    pub files: Vec<InjectedFile>,
    /// Secrets in the environment of all its processes. `inspect` does not show them, and what
    /// the image says of them is not seen.
    pub variables: Vec<InjectedVariable>,
}

impl StartExtras {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.variables.is_empty()
    }
}

/// A variable that the container's processes have and no disk.
pub struct InjectedVariable {
    pub name: String,
    /// Without zero bytes.
    pub value: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for InjectedVariable {
    /// Never shows the value.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InjectedVariable")
            .field("name", &self.name)
            .field("bytes", &self.value.len())
            .finish_non_exhaustive()
    }
}

/// A file that appears in the container and on no disk.
pub struct InjectedFile {
    /// Absolute path in the container.
    pub target: PathBuf,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    pub data: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for InjectedFile {
    /// Never shows the data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InjectedFile")
            .field("target", &self.target)
            .field("bytes", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// A container whose namespaces exist and whose process waits to be let go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The waiting process, in the host's pid namespace.
    pub pid: u32,
    /// Ports of 127.0.0.1 in the container's network namespace where the shim
    /// answers DNS; `None` without [`CreateExtras::dns`].
    pub dns: Option<DnsPorts>,
}

/// Where the shim answers DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsPorts {
    pub udp: u16,
    pub tcp: u16,
}
