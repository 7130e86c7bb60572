//! Networks of this one host: bridges, macvlan and ipvlan, `host` and `none`.

mod attach;
mod endpoint;
mod ipam;
mod live;
pub(crate) mod ops;
mod ports;
mod restore;
mod shared;
mod subnets;
mod zones;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

pub(crate) use attach::Attached;
pub use shared::{Guest, GuestEndpoint, GuestIdentity, SharedNetworks};
pub(crate) use zones::SLOTS;

use crate::clock;
use crate::config::EngineConfig;
use crate::error::{EngineError, IoContext as _, Result};
use crate::locks::{Held, Ordered, Rank};
use crate::record;
use crate::types::{Ipam, IpamConfig, NetworkInspect};

/// All networks, one record file each.
#[derive(Debug)]
pub(crate) struct NetworkStore {
    root: PathBuf,
    inner: Ordered<Inner>,
    /// Changes of links, ports and zones happen one after the other.
    pub(super) work: Ordered<()>,
}

#[derive(Debug, Default)]
struct Inner {
    networks: BTreeMap<String, Arc<NetworkInspect>>,
    /// Addresses that running containers have, by network.
    taken: BTreeMap<String, BTreeMap<IpAddr, String>>,
}

/// Networks that are always there: name and driver.
const PREDEFINED: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// Whether a network is one of those.
pub(crate) fn is_predefined(name: &str) -> bool {
    PREDEFINED.iter().any(|(known, _)| *known == name)
}

impl NetworkStore {
    /// Reads the records and makes those of the predefined networks.
    pub(crate) fn open(config: &EngineConfig) -> Result<Self> {
        let root = config.data_root.join("networks");
        let what = || format!("cannot read `{}`", root.display());
        let mut inner = Inner::default();
        for entry in fs::read_dir(&root).during(what)? {
            let path = entry.during(what)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                record::remove_file(&path)?;
                continue;
            }
            if let Some(network) = record::load::<NetworkInspect>(&path)? {
                inner.networks.insert(network.id.clone(), Arc::new(network));
            }
        }
        let store = Self {
            root,
            inner: Ordered::new(Rank::Networks, inner),
            work: Ordered::new(Rank::NetworkWork, ()),
        };
        for (name, driver) in PREDEFINED {
            if store.find(name).is_err() {
                store.put(predefined(name, driver))?;
            }
        }
        Ok(store)
    }

    fn lock(&self) -> Held<'_, Inner> {
        self.inner.lock()
    }

    fn file(&self, id: &str) -> PathBuf {
        self.root.join(format!("{id}.json"))
    }

    /// Stores a record.
    pub(super) fn put(&self, network: NetworkInspect) -> Result<Arc<NetworkInspect>> {
        record::save(&self.file(&network.id), &network)?;
        let network = Arc::new(network);
        self.lock()
            .networks
            .insert(network.id.clone(), Arc::clone(&network));
        Ok(network)
    }

    pub(super) fn forget(&self, id: &str) -> Result<()> {
        record::remove_file(&self.file(id))?;
        let mut inner = self.lock();
        inner.networks.remove(id);
        inner.taken.remove(id);
        Ok(())
    }

    pub(crate) fn all(&self) -> Vec<Arc<NetworkInspect>> {
        self.lock().networks.values().cloned().collect()
    }

    /// Whether a network with this id is of this host.
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.lock().networks.contains_key(id)
    }

    /// The network with this very id or name.
    pub(crate) fn exact(&self, given: &str) -> Option<Arc<NetworkInspect>> {
        let given = match given {
            "" | "default" => "bridge",
            given => given,
        };
        let inner = self.lock();
        let by_name = || inner.networks.values().find(|n| n.name == given);
        inner.networks.get(given).or_else(by_name).cloned()
    }

    /// Finds a network by name, id, or a prefix of an id that only it has.
    pub(crate) fn find(&self, given: &str) -> Result<Arc<NetworkInspect>> {
        let given = match given {
            "" | "default" => "bridge",
            given => given,
        };
        if let Some(network) = self.exact(given) {
            return Ok(network);
        }
        let inner = self.lock();
        let mut found = inner
            .networks
            .values()
            .filter(|network| network.id.starts_with(given));
        match (found.next(), found.next()) {
            (Some(network), None) => Ok(Arc::clone(network)),
            (Some(_), Some(_)) => Err(EngineError::invalid(format!(
                "network {given} is ambiguous (2 matches found based on ID prefix)"
            ))),
            (None, _) => Err(EngineError::no_such_network(given)),
        }
    }

    /// Notes that an address is taken.
    pub(super) fn take(&self, network: &str, address: IpAddr, owner: &str) {
        self.lock()
            .taken
            .entry(network.to_owned())
            .or_default()
            .insert(address, owner.to_owned());
    }

    /// Gives all addresses of an owner on a network back.
    pub(super) fn give_back(&self, network: &str, owner: &str) {
        if let Some(taken) = self.lock().taken.get_mut(network) {
            taken.retain(|_, who| who != owner);
        }
    }

    /// Takes an address of a range: the wanted one, or the first free one.
    pub(super) fn allocate(
        &self,
        network: &NetworkInspect,
        range: &IpamConfig,
        wanted: Option<IpAddr>,
        owner: &str,
    ) -> Result<IpNet> {
        let mut inner = self.lock();
        let taken = inner.taken.entry(network.id.clone()).or_default();
        let address = ipam::choose(range, wanted, |address| taken.contains_key(&address))?;
        taken.insert(address.addr(), owner.to_owned());
        Ok(address)
    }
}

fn predefined(name: &str, driver: &str) -> NetworkInspect {
    NetworkInspect {
        name: name.into(),
        id: crate::names::new_id(&mut rand::rng()),
        created: clock::now(),
        scope: "local".into(),
        driver: driver.into(),
        enable_ipv4: true,
        ipam: Ipam {
            driver: "default".into(),
            ..Ipam::default()
        },
        options: match name {
            "bridge" => [
                ("com.docker.network.bridge.default_bridge", "true"),
                ("com.docker.network.bridge.enable_icc", "true"),
                ("com.docker.network.bridge.enable_ip_masquerade", "true"),
                ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
                ("com.docker.network.bridge.name", "docker0"),
                ("com.docker.network.driver.mtu", "1500"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
            _ => BTreeMap::new(),
        },
        ..NetworkInspect::default()
    }
}
