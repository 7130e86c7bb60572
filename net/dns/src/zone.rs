//! One network's names as a file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A zone file larger than this is refused: 100 000 names of one network fit.
const ZONE_BYTES_MAX: u64 = 32 << 20;

/// The names of one network. Names are lower case, without a trailing dot and
/// without the network's name: `web`, `tasks.web`, `web.1.x7k…`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Zone {
    /// The network's name; `web.<network>` finds `web` here and nowhere else.
    pub network: String,
    /// Name → addresses of both families. Several addresses are shuffled per
    /// answer. A name with no address is known (NOERROR, empty).
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Names as one group on the network sees them, before `names`: group → name → addresses.
    /// Only what differs is in here.
    pub groups: BTreeMap<String, BTreeMap<String, Vec<IpAddr>>>,
    /// Address → name, answered as `name.network.`.
    pub pointers: BTreeMap<IpAddr, String>,
}

/// A zone file could not be read or written.
#[derive(Debug)]
pub enum ZoneError {
    /// The file system refused.
    Io(PathBuf, io::Error),
    /// The file is not a zone.
    Malformed(PathBuf, serde_json::Error),
    /// The file is larger than any zone may be.
    TooLarge(PathBuf, u64),
}

impl std::fmt::Display for ZoneError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(path, _) => write!(f, "zone file `{}` is not accessible", path.display()),
            Self::Malformed(path, _) => write!(f, "zone file `{}` is malformed", path.display()),
            Self::TooLarge(path, size) => {
                write!(
                    f,
                    "zone file `{}` is too large ({size} bytes)",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for ZoneError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, error) => Some(error),
            Self::Malformed(_, error) => Some(error),
            Self::TooLarge(..) => None,
        }
    }
}

fn put(names: &mut BTreeMap<String, Vec<IpAddr>>, name: &str, address: IpAddr) {
    let addresses = names.entry(name.to_ascii_lowercase()).or_default();
    if !addresses.contains(&address) {
        addresses.push(address);
    }
}

impl Zone {
    /// An empty zone of this network.
    pub fn new(network: impl Into<String>) -> Self {
        Self {
            network: network.into(),
            ..Self::default()
        }
    }

    /// Adds an address to a name (lower-cased); twice the same is once.
    pub fn add(&mut self, name: &str, address: IpAddr) {
        put(&mut self.names, name, address);
    }

    /// Makes a name known, whether it has an address or not.
    pub fn know(&mut self, name: &str) {
        self.names.entry(name.to_ascii_lowercase()).or_default();
    }

    /// Adds an address to what one group alone finds under a name.
    pub fn add_for(&mut self, group: &str, name: &str, address: IpAddr) {
        put(
            self.groups.entry(group.to_owned()).or_default(),
            name,
            address,
        );
    }

    /// What `group` finds under a lower-case name.
    pub fn find(&self, group: &str, name: &str) -> Option<&[IpAddr]> {
        let own = self.groups.get(group).and_then(|names| names.get(name));
        own.or_else(|| self.names.get(name)).map(Vec::as_slice)
    }

    /// Makes the reverse lookup of this address answer `name`.
    pub fn point(&mut self, address: IpAddr, name: &str) {
        self.pointers.insert(address, name.to_owned());
    }

    /// Reads a zone file.
    pub fn read(path: &Path) -> Result<Self, ZoneError> {
        let io = |error| ZoneError::Io(path.to_owned(), error);
        let file = File::open(path).map_err(io)?;
        let mut text = Vec::new();
        file.take(ZONE_BYTES_MAX + 1)
            .read_to_end(&mut text)
            .map_err(io)?;
        if text.len() as u64 > ZONE_BYTES_MAX {
            return Err(ZoneError::TooLarge(path.to_owned(), text.len() as u64));
        }
        serde_json::from_slice(&text).map_err(|error| ZoneError::Malformed(path.to_owned(), error))
    }

    /// Replaces a zone file at once: readers see the old one or the new one. The
    /// directory must exist. Not synced to disk: zones live as long as a boot.
    pub fn write(&self, path: &Path) -> Result<(), ZoneError> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(name);
        let text = serde_json::to_vec(self)
            .map_err(|error| ZoneError::Malformed(path.to_owned(), error))?;
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&temporary, path));
        written.map_err(|error| {
            let _ = fs::remove_file(&temporary);
            ZoneError::Io(path.to_owned(), error)
        })
    }

    /// Like [`Zone::write`], but leaves an equal file alone, so that no reader
    /// re-reads for nothing. Says whether it wrote.
    pub fn write_if_changed(&self, path: &Path) -> Result<bool, ZoneError> {
        if matches!(Self::read(path), Ok(present) if present == *self) {
            return Ok(false);
        }
        self.write(path).map(|()| true)
    }
}
