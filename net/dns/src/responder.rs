//! Decides what a query gets: an answer from the zones, an error, or a trip to
//! an outside resolver.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::message::{self, Query, Record, Refusal};
use crate::{DnsConfig, Zone};

/// How long a client may keep an answer. Short, because tasks move.
const TTL_S: u32 = 5;

/// What to do with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send these bytes back.
    Reply(Vec<u8>),
    /// Ask the upstreams of the configuration, from the host's namespace.
    Forward,
    /// Say nothing.
    Drop,
}

/// Answers the queries of one container.
pub struct Responder {
    config: DnsConfig,
    sources: Vec<Source>,
}

/// One zone file and what was last read from it.
struct Source {
    path: PathBuf,
    /// The file the contents came from; `None` when it was absent.
    stamp: Option<Stamp>,
    zone: Zone,
}

/// What changes when a file is replaced or rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    device: u64,
    modified: (i64, i64),
    size: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: meta.ino(),
            device: meta.dev(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            size: meta.size(),
        })
    }
}

impl Source {
    /// Reads the file again if it changed. A file that cannot be read as a zone
    /// leaves the last good contents in place.
    fn refresh(&mut self) {
        let stamp = Stamp::of(&self.path);
        if stamp == self.stamp {
            return;
        }
        match stamp {
            None => self.zone = Zone::default(),
            Some(_) => {
                if let Ok(zone) = Zone::read(&self.path) {
                    self.zone = zone;
                }
            }
        }
        self.stamp = stamp;
    }
}

impl Responder {
    /// Zones are read with the first query.
    pub fn new(config: DnsConfig) -> Self {
        let sources = config
            .zones
            .iter()
            .map(|path| Source {
                path: path.clone(),
                stamp: None,
                zone: Zone::default(),
            })
            .collect();
        Self { config, sources }
    }

    /// The configuration it answers by.
    pub fn config(&self) -> &DnsConfig {
        &self.config
    }

    /// Decides one query. `random` is a fresh random number per call: it orders
    /// the addresses of a name that has several.
    pub fn answer(&mut self, query: &[u8], over_tcp: bool, random: u64) -> Outcome {
        let query = match message::parse(query) {
            Ok(parsed) => parsed,
            Err(Refusal::Silent) => return Outcome::Drop,
            Err(Refusal::Code(code)) => return Outcome::Reply(message::bare_reply(query, code)),
        };
        for source in &mut self.sources {
            source.refresh();
        }
        match self.records(&query, random) {
            Some(records) => Outcome::Reply(message::reply(
                &query,
                message::NOERROR,
                &records,
                TTL_S,
                over_tcp,
            )),
            None if !self.config.upstreams.is_empty() => Outcome::Forward,
            None => {
                // Without an outside resolver we are the authority for plain
                // names, and honest about not knowing the rest.
                let plain = query
                    .name
                    .as_deref()
                    .is_some_and(|name| !name.contains('.'));
                let code = if plain {
                    message::NXDOMAIN
                } else {
                    message::SERVFAIL
                };
                Outcome::Reply(message::reply(&query, code, &[], 0, over_tcp))
            }
        }
    }

    /// The answer's records; `None` when no zone knows the name.
    fn records(&self, query: &Query<'_>, random: u64) -> Option<Vec<Record>> {
        if !matches!(query.class, message::CLASS_IN | message::CLASS_ANY) {
            return None;
        }
        let name = query.name.as_deref()?;
        if let Some(address) = message::reverse_address(name) {
            let pointer = self.pointer(address)?;
            let asked = matches!(query.kind, message::TYPE_PTR | message::TYPE_ANY);
            return Some(if asked {
                vec![Record::Pointer(pointer)]
            } else {
                Vec::new()
            });
        }
        let mut addresses: Vec<IpAddr> = self
            .addresses(name)?
            .iter()
            .copied()
            .filter(|address| match query.kind {
                message::TYPE_A => address.is_ipv4(),
                message::TYPE_AAAA => address.is_ipv6(),
                message::TYPE_ANY => true,
                _ => false,
            })
            .collect();
        shuffle(&mut addresses, random);
        Some(addresses.into_iter().map(Record::Address).collect())
    }

    /// The first network in order of attachment that knows the name wins; then
    /// `name.network` is tried with the network of that name.
    fn addresses(&self, name: &str) -> Option<&[IpAddr]> {
        let zones = || self.sources.iter().map(|source| &source.zone);
        let group = &self.config.group;
        zones().find_map(|zone| zone.find(group, name)).or_else(|| {
            zones().find_map(|zone| {
                let stem = strip_network(name, &zone.network)?;
                zone.find(group, stem)
            })
        })
    }

    fn pointer(&self, address: IpAddr) -> Option<String> {
        self.sources.iter().find_map(|source| {
            let name = source.zone.pointers.get(&address)?;
            Some(match source.zone.network.as_str() {
                "" => name.clone(),
                network => format!("{name}.{network}"),
            })
        })
    }
}

/// `web` for `web.front` on the network `front`. Networks may have upper-case
/// names; the asked name is lower case already.
fn strip_network<'a>(name: &'a str, network: &str) -> Option<&'a str> {
    let cut = name.len().checked_sub(network.len())?;
    // Names that reach here are ASCII, but the network's name may not be.
    let suffix = name.get(cut..)?;
    let stem = name.get(..cut)?.strip_suffix('.')?;
    (!network.is_empty() && suffix.eq_ignore_ascii_case(network)).then_some(stem)
}

/// Fisher–Yates, driven by a splitmix64 sequence started at `random`.
fn shuffle(addresses: &mut [IpAddr], random: u64) {
    let mut state = random;
    for last in (1..addresses.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        addresses.swap(last, (mixed % (last as u64 + 1)) as usize);
    }
}
