//! This node's keys, and from what is assigned to which tunnels are to be.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use skep_model::encryption::{DataKey, KeyRing};
use skep_net::{Encryption, EncryptionMethod, Host, PrivateKey, Tunnel, TunnelPeer};
use skep_proto::assignment::{self, LocalNode};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::assigned::Assigned;

/// The file of the public halves.
const TOLD: &str = "told.json";
/// What WireGuard takes of the underlay's MTU over IPv6; over IPv4 it is 20 bytes less.
const WIREGUARD_OVERHEAD: u32 = 80;

/// The private halves of this node's keys: in memory, and in files that only root reads, in the
/// directory of what does not outlive a boot. They are made here and never leave the node.
pub struct Keys {
    directory: PathBuf,
    random: fn() -> [u8; 32],
    held: Mutex<BTreeMap<u64, PrivateKey>>,
    told: watch::Sender<Vec<DataKey>>,
}

impl Keys {
    /// Keys are kept in `directory`, and new ones are 32 bytes of `random`, a cryptographic
    /// source. What was told before a restart is told again from the first word on: a node that
    /// seems to have no key is cut off by all others.
    pub fn new(directory: PathBuf, random: fn() -> [u8; 32]) -> Self {
        let told = fs::read(directory.join(TOLD)).unwrap_or_default();
        let told: Vec<DataKey> = serde_json::from_slice(&told).unwrap_or_default();
        Self {
            directory,
            random,
            held: Mutex::default(),
            told: watch::Sender::new(told),
        }
    }

    /// The public halves, for the managers.
    pub fn told(&self) -> watch::Receiver<Vec<DataKey>> {
        self.told.subscribe()
    }

    /// What the host's network is to be encrypted with. Makes keys that are missing and forgets
    /// those that are not held any more.
    pub(crate) fn follow(&self, host: &Host, assigned: &Assigned, underlay_mtu: u32) -> Encryption {
        let local = assigned.local.as_deref();
        let wanted = local.and_then(|local| Some((local, local.encryption.as_ref()?)));
        let Some((local, encryption)) = wanted else {
            self.hold(None).unwrap_or_default();
            self.tell(Vec::new());
            return Encryption::default();
        };
        let held = host
            .encryption_method()
            .and_then(|method| self.held(&encryption.keys, method));
        let (held, missing) = match held {
            Ok(held) => (held, String::new()),
            Err(why) => (BTreeMap::new(), format!("this node cannot encrypt: {why}")),
        };
        let told = held.iter().map(|(generation, key)| DataKey {
            generation: *generation,
            public_key: key.public().to_string(),
            port: port(local, *generation),
        });
        self.tell(told.collect());
        let mut desired = desired(assigned, local, encryption, &held, underlay_mtu);
        desired.missing = missing;
        desired
    }

    fn held(
        &self,
        ring: &KeyRing,
        method: EncryptionMethod,
    ) -> Result<BTreeMap<u64, PrivateKey>, String> {
        let is_first = self.told.borrow().is_empty();
        if is_first && method == EncryptionMethod::Userspace {
            warn!(
                "the kernel has no WireGuard: encrypted networks go through a process, at a few per cent of the kernel's speed"
            );
        }
        self.hold(Some(ring)).map_err(|error| {
            format!(
                "its key cannot be kept in {}: {error}",
                self.directory.display()
            )
        })
    }

    /// Holds exactly the keys of a ring; none without one.
    fn hold(&self, ring: Option<&KeyRing>) -> io::Result<BTreeMap<u64, PrivateKey>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted =
            |generation: u64| ring.is_some_and(|ring| ring.generations().contains(&generation));
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let generation = name.strip_suffix(".key").and_then(|text| text.parse().ok());
            if generation.is_some_and(|generation| !is_wanted(generation)) {
                fs::remove_file(entry.path())?;
            }
        }
        held.retain(|generation, _| is_wanted(*generation));
        for generation in ring.into_iter().flat_map(KeyRing::generations) {
            if let Entry::Vacant(place) = held.entry(generation) {
                place.insert(self.read_or_make(generation)?);
            }
        }
        Ok(held.clone())
    }

    fn read_or_make(&self, generation: u64) -> io::Result<PrivateKey> {
        let path = self.directory.join(format!("{generation}.key"));
        match fs::read_to_string(&path).map(zeroize::Zeroizing::new) {
            // One that is damaged is made anew, and the others are told.
            Ok(text) => {
                if let Ok(key) = text.parse() {
                    return Ok(key);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let key = PrivateKey::new((self.random)());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        self.write(&format!("{generation}.key"), key.to_text().as_bytes())?;
        info!(generation, key = %key.public(), "a key for encrypted networks was made");
        Ok(key)
    }

    /// Writes a file that only root reads, whole or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let partial = self.directory.join(format!("{name}.partial"));
        let _ = fs::remove_file(&partial);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(bytes)?;
        fs::rename(&partial, self.directory.join(name))
    }

    fn tell(&self, keys: Vec<DataKey>) {
        if *self.told.borrow() != keys {
            let bytes = serde_json::to_vec(&keys).expect("plain fields serialise");
            // Without the file the others hear of the keys a moment later after a restart.
            if let Err(error) = self.write(TOLD, &bytes)
                && !keys.is_empty()
            {
                warn!(%error, "the public halves of this node's keys could not be kept");
            }
        }
        self.told.send_if_modified(|told| {
            let changed = *told != keys;
            *told = keys;
            changed
        });
    }
}

/// The two ports after the overlays' own, in turn.
fn port(local: &LocalNode, generation: u64) -> u16 {
    let turn = if generation.is_multiple_of(2) { 1 } else { 2 };
    local.data_path_port.saturating_add(turn)
}

fn desired(
    assigned: &Assigned,
    local: &LocalNode,
    encryption: &assignment::Encryption,
    held: &BTreeMap<u64, PrivateKey>,
    underlay_mtu: u32,
) -> Encryption {
    let underlay = match underlay_mtu {
        0 => crate::network::UNDERLAY_MTU_DEFAULT,
        mtu => mtu,
    };
    let tunnel = |(generation, key): (&u64, &PrivateKey)| Tunnel {
        generation: *generation,
        private_key: key.clone(),
        port: port(local, *generation),
        mtu: underlay.saturating_sub(WIREGUARD_OVERHEAD),
        peers: assigned
            .peers
            .values()
            .filter_map(|peer| {
                let key = peer.keys.iter().find(|key| key.generation == *generation)?;
                Some(TunnelPeer {
                    index: peer.index,
                    public_key: key.public_key.parse().ok()?,
                    endpoint: SocketAddr::new(peer.vtep?, key.port),
                })
            })
            .collect(),
    };
    Encryption {
        vnis: encryption.vnis.iter().copied().collect(),
        ingress: assigned
            .ingress()
            .is_some_and(|network| network.spec.is_encrypted()),
        tunnels: held.iter().map(tunnel).collect(),
        used: encryption.keys.used,
        missing: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    /// Other bytes with every call.
    fn random() -> [u8; 32] {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        [NEXT.fetch_add(1, Ordering::Relaxed); 32]
    }

    fn ring(oldest: u64, used: u64, newest: u64) -> KeyRing {
        KeyRing {
            oldest,
            used,
            newest,
            ..KeyRing::default()
        }
    }

    #[test]
    fn keys_outlive_the_daemon_and_go_with_their_generation() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("wg");
        let keys = Keys::new(place.clone(), random);
        let first = keys.hold(Some(&ring(3, 3, 4))).unwrap();
        assert_eq!(first.keys().copied().collect::<Vec<_>>(), [3, 4]);
        assert_ne!(first[&3], first[&4]);
        let mode = fs::metadata(place.join("3.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let restarted = Keys::new(place.clone(), random);
        assert_eq!(restarted.hold(Some(&ring(3, 4, 4))).unwrap(), first);
        let later = restarted.hold(Some(&ring(4, 4, 4))).unwrap();
        assert_eq!(later.get(&4), first.get(&4));
        assert!(!place.join("3.key").exists());
        fs::write(place.join("4.key"), "damaged").unwrap();
        let again = Keys::new(place.clone(), random);
        assert_ne!(again.hold(Some(&ring(4, 4, 4))).unwrap()[&4], first[&4]);
        again.hold(None).unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        let told = vec![DataKey {
            generation: 4,
            public_key: "x".into(),
            port: 4790,
        }];
        again.tell(told.clone());
        assert_eq!(*Keys::new(place, random).told().borrow(), told);
    }

    #[test]
    fn tunnels_lead_to_those_whose_keys_are_known() {
        let peer = |node: &str, index: u16, generations: &[u64]| assignment::Peer {
            node: node.into(),
            index,
            vtep: Some(format!("192.0.2.{index}").parse().unwrap()),
            ingress_addresses: Vec::new(),
            address: None,
            addresses: Vec::new(),
            keys: generations
                .iter()
                .map(|generation| DataKey {
                    generation: *generation,
                    public_key: PrivateKey::new([index as u8; 32]).public().to_string(),
                    port: 4790,
                })
                .collect(),
        };
        let mut assigned = Assigned::default();
        for peer in [peer("b", 2, &[0, 1]), peer("c", 3, &[0]), peer("d", 4, &[])] {
            assigned.peers.insert(peer.node.clone(), Arc::new(peer));
        }
        let local = LocalNode {
            node: "a".into(),
            hostname: "a".into(),
            index: 1,
            ingress_addresses: Vec::new(),
            data_path_port: 4789,
            vtep: Some("192.0.2.1".parse().unwrap()),
            encryption: None,
        };
        let encryption = assignment::Encryption {
            keys: ring(0, 0, 1),
            vnis: vec![5000],
        };
        let held = [0, 1].map(|generation| (generation, PrivateKey::new([9; 32])));
        let desired = desired(&assigned, &local, &encryption, &held.into(), 1500);
        assert_eq!(desired.used, 0);
        assert_eq!(desired.vnis, [5000].into());
        let shown: Vec<_> = desired
            .tunnels
            .iter()
            .map(|tunnel| {
                let peers: Vec<u16> = tunnel.peers.iter().map(|peer| peer.index).collect();
                (tunnel.generation, tunnel.port, tunnel.mtu, peers)
            })
            .collect();
        assert_eq!(
            shown,
            [(0, 4790, 1420, vec![2, 3]), (1, 4791, 1420, vec![2])]
        );
        let endpoint = desired.tunnels[0].peers[0].endpoint;
        assert_eq!(endpoint.to_string(), "192.0.2.2:4790");
    }
}
