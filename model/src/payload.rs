//! Versions of what secrets and configs hold, and which of them a task sees.
//!
//! The object keeps its id and name; its payload has versions that count from 1. A service's
//! references name the version that its new tasks get, so that a task sees what its spec says, a
//! revision of the service is also one of its payloads, and an update of a payload is an update of
//! the services that use it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::container::{ContainerSpec, FileTarget};
use crate::limits::{CONFIG_BYTES_MAX, SECRET_BYTES_MAX};
use crate::mount::Driver;
use crate::serde_help::{base64_bytes, is_zero, null_default};
use crate::{Config, ConfigId, ConfigSpec, Secret, SecretId, SecretSpec, Task, Timestamp};

/// Earlier versions that are kept although nothing needs them any more.
pub const EARLIER_KEPT_MAX: usize = 5;
/// Bytes of one object's earlier versions: they travel with each change of it.
pub const EARLIER_BYTES_MAX: usize = 4 << 20;

/// Versions of a payload. What the object's spec holds is the present one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Versions {
    /// Number of the present one; 0 for the first, which is all that most objects ever have.
    pub number: u64,
    /// When the present one was stored; zero for the first: when the object was made.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub since: Timestamp,
    /// What it was stored for: `updated`, `rolled back to 3`.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub because: String,
    /// The newest first.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub earlier: Vec<Earlier>,
    /// Number of the newest that was forgotten on demand: whatever has held its bytes is to be rid of
    /// them.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub forgotten: u64,
}

/// An earlier version. Its bytes never print.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Earlier {
    pub number: u64,
    pub since: Timestamp,
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub because: String,
    #[serde(with = "base64_bytes", skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<u8>,
    /// Of a secret whose bytes are in another store: where they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
}

impl fmt::Debug for Earlier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Earlier")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// A secret or a config: something named that has a payload with versions.
pub trait Payload: Clone {
    /// `secret` or `config`.
    const WORD: &'static str;
    /// A payload is smaller than this many bytes.
    const BYTES_MAX: usize;
    /// Label of the object, or of a service: what an update of the payload does to its users.
    const ON_UPDATE_LABEL: &'static str;

    fn payload_id(&self) -> PayloadId;

    fn payload_name(&self) -> &str;
    fn labels(&self) -> &BTreeMap<String, String>;
    fn made_at(&self) -> Timestamp;
    /// The present payload.
    fn data(&self) -> &Vec<u8>;
    fn data_mut(&mut self) -> &mut Vec<u8>;
    fn versions(&self) -> &Versions;
    fn versions_mut(&mut self) -> &mut Versions;
    /// Whether tasks see the very bytes that are stored here.
    fn is_as_stored(&self) -> bool;
    /// The store that has the present payload, if it is not here.
    fn driver_mut(&mut self) -> Option<&mut Driver>;
    /// What is kept of it for an earlier version, when other labels may say other things.
    fn driver_to_keep(&self) -> Option<Driver>;

    /// Number of the present version.
    fn number(&self) -> u64 {
        self.versions().number.max(1)
    }

    /// When the present version was stored.
    fn since(&self) -> Timestamp {
        match self.versions().since {
            Timestamp::ZERO => self.made_at(),
            since => since,
        }
    }

    /// The bytes of a version, if it is still kept.
    fn of_version(&self, number: u64) -> Option<&[u8]> {
        if number == self.number() {
            return Some(self.data());
        }
        let mut earlier = self.versions().earlier.iter();
        let found = earlier.find(|earlier| earlier.number == number);
        found.map(|earlier| earlier.data.as_slice())
    }

    /// Makes `data` the present version, and the present one the newest of the earlier ones.
    fn advance(&mut self, data: Vec<u8>, because: String, now: Timestamp) {
        let had = Earlier {
            number: self.number(),
            since: self.since(),
            because: std::mem::take(&mut self.versions_mut().because),
            data: std::mem::replace(self.data_mut(), data),
            driver: self.driver_to_keep(),
        };
        let versions = self.versions_mut();
        versions.number = had.number + 1;
        versions.since = now;
        versions.because = because;
        versions.earlier.insert(0, had);
    }

    /// Forgets earlier versions that are too many, but none that `is_needed`. Gives back how many
    /// bytes the rest has.
    fn keep(&mut self, is_needed: impl Fn(u64) -> bool) -> usize {
        let earlier = &mut self.versions_mut().earlier;
        let needed = earlier.iter().filter(|one| is_needed(one.number));
        let mut bytes = needed.map(|one| one.data.len()).sum::<usize>();
        let mut count = 0;
        earlier.retain(|earlier| {
            count += 1;
            if is_needed(earlier.number) {
                return true;
            }
            let fits = bytes + earlier.data.len() <= EARLIER_BYTES_MAX;
            let kept = count <= EARLIER_KEPT_MAX && fits;
            bytes += if kept { earlier.data.len() } else { 0 };
            kept
        });
        bytes
    }

    /// The object with those versions alone of which `wanted` says so, to be told to whom they
    /// concern. The newest of them is told as the present one, for agents that know of no versions.
    fn only(&self, wanted: impl Fn(u64) -> bool) -> Self {
        let mut told = self.clone();
        let earlier = &mut told.versions_mut().earlier;
        earlier.retain(|earlier| wanted(earlier.number));
        if wanted(self.number()) {
            return told;
        }
        if earlier.is_empty() {
            told.data_mut().clear();
            return told;
        }
        let newest = earlier.remove(0);
        told.versions_mut().number = newest.number;
        *told.data_mut() = newest.data;
        if let Some((driver, newest)) = told.driver_mut().zip(newest.driver) {
            *driver = newest;
        }
        told
    }

    /// Gives a version, whose bytes are elsewhere, these bytes.
    fn fill(&mut self, number: u64, data: &[u8]) {
        if number == self.number() {
            *self.data_mut() = data.to_vec();
            return;
        }
        let mut earlier = self.versions_mut().earlier.iter_mut();
        if let Some(earlier) = earlier.find(|earlier| earlier.number == number) {
            earlier.data = data.to_vec();
        }
    }
}

macro_rules! payload {
    ($kind:ident, $word:literal, $max:expr, $is_as_stored:expr, $driver:expr, $kept:expr) => {
        impl Payload for $kind {
            const WORD: &'static str = $word;
            const BYTES_MAX: usize = $max;
            const ON_UPDATE_LABEL: &'static str = concat!("skep.", $word, ".on-update");

            fn payload_id(&self) -> PayloadId {
                PayloadId::$kind(self.id.clone())
            }

            fn payload_name(&self) -> &str {
                &self.spec.name
            }
            fn labels(&self) -> &BTreeMap<String, String> {
                &self.spec.labels
            }
            fn made_at(&self) -> Timestamp {
                self.created_at
            }
            fn data(&self) -> &Vec<u8> {
                &self.spec.data
            }
            fn data_mut(&mut self) -> &mut Vec<u8> {
                &mut self.spec.data
            }
            fn versions(&self) -> &Versions {
                &self.versions
            }
            fn versions_mut(&mut self) -> &mut Versions {
                &mut self.versions
            }
            fn is_as_stored(&self) -> bool {
                $is_as_stored(&self.spec)
            }
            fn driver_mut(&mut self) -> Option<&mut Driver> {
                $driver(&mut self.spec)
            }
            fn driver_to_keep(&self) -> Option<Driver> {
                $kept(&self.spec)
            }
        }
    };
}

fn driver_of_secret(spec: &mut SecretSpec) -> Option<&mut Driver> {
    spec.driver.as_mut()
}

fn driver_of_config(_: &mut ConfigSpec) -> Option<&mut Driver> {
    None
}

payload!(
    Secret,
    "secret",
    SECRET_BYTES_MAX,
    |spec: &SecretSpec| spec.templating.is_none() && spec.driver.is_none(),
    driver_of_secret,
    SecretSpec::effective_driver
);
payload!(
    Config,
    "config",
    CONFIG_BYTES_MAX,
    |spec: &ConfigSpec| spec.templating.is_none(),
    driver_of_config,
    |_: &ConfigSpec| None
);

/// A secret or a config by its id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PayloadId {
    Secret(SecretId),
    Config(ConfigId),
}

impl PayloadId {
    /// The id as text. No secret has that of a config.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Secret(id) => id.as_str(),
            Self::Config(id) => id.as_str(),
        }
    }
}

/// Which version of a payload a reference means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Pin {
    /// 0 for the first, so that specs of payloads that never change are docker's.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub number: u64,
    /// Tasks made with a version from this one on stay as they are; 0: those of `number` only.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub accepts_from: u64,
    /// The signal that such tasks get once they have been given `number` in place; empty: they go
    /// on with what they have.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub signal: String,
}

impl Pin {
    /// Means one version, and nothing else will do.
    pub fn to(number: u64) -> Self {
        Self {
            number: if number <= 1 { 0 } else { number },
            ..Self::default()
        }
    }

    /// The version, which count from 1.
    pub fn number(&self) -> u64 {
        self.number.max(1)
    }

    /// Whether a task that was made with `had` need not be replaced.
    pub fn accepts(&self, had: &Self) -> bool {
        let (number, had) = (self.number(), had.number());
        had == number || (self.accepts_from != 0 && (self.accepts_from..=number).contains(&had))
    }

    /// The pin that comes after this one when the present version is `number`.
    pub fn moved_to(&self, number: u64, on_update: &OnUpdate) -> Self {
        let signal = match on_update {
            OnUpdate::Roll => return Self::to(number),
            OnUpdate::Nothing => String::new(),
            OnUpdate::Signal(signal) => signal.clone(),
        };
        let accepts_from = match self.accepts_from {
            0 => self.number(),
            from => from,
        };
        Self {
            accepts_from,
            signal,
            ..Self::to(number)
        }
    }
}

/// What an update of a payload does to the tasks that use it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OnUpdate {
    /// They are replaced, as by an update of their service.
    #[default]
    Roll,
    /// They are given it in place, then this signal.
    Signal(String),
    /// They go on with what they have; only new ones get it.
    Nothing,
}

/// Signals that a program can wait for, and that do not stop it.
const SIGNALS: [&str; 10] = [
    "HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "CONT", "WINCH", "ALRM", "URG",
];

impl FromStr for OnUpdate {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match given {
            "roll" => return Ok(Self::Roll),
            "none" => return Ok(Self::Nothing),
            "signal" => return Ok(Self::Signal("SIGHUP".to_owned())),
            _ => (),
        }
        let Some(signal) = given.strip_prefix("signal=") else {
            return Err(format!(
                "{given:?} is none of roll, signal, signal=SIGNAL and none"
            ));
        };
        let upper = signal.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if SIGNALS.contains(&name) {
            return Ok(Self::Signal(format!("SIG{name}")));
        }
        Err(format!(
            "{signal:?} is no signal for a running program: it takes {}",
            SIGNALS.map(|name| format!("SIG{name}")).join(", ")
        ))
    }
}

impl fmt::Display for OnUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roll => f.write_str("roll"),
            Self::Signal(signal) => write!(f, "signal={signal}"),
            Self::Nothing => f.write_str("none"),
        }
    }
}

/// A version that a task is to be given in place, and the signal that tells it so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct InPlace {
    /// Id of the secret or config.
    pub object: String,
    pub number: u64,
    pub signal: String,
}

/// A reference to a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedFile<'a> {
    pub object: PayloadId,
    pub name: &'a str,
    pub pin: &'a Pin,
}

impl ContainerSpec {
    /// Every secret and config that it names, in order.
    pub fn payloads(&self) -> impl Iterator<Item = PinnedFile<'_>> {
        let secrets = self.secrets.iter().map(|one| PinnedFile {
            object: PayloadId::Secret(one.secret_id.clone()),
            name: &one.secret_name,
            pin: &one.version,
        });
        let configs = self.configs.iter().map(|one| PinnedFile {
            object: PayloadId::Config(one.config_id.clone()),
            name: &one.config_name,
            pin: &one.version,
        });
        secrets.chain(configs)
    }

    /// The pins of all references to a payload.
    pub fn pins_mut<'a>(
        &'a mut self,
        object: &'a PayloadId,
    ) -> impl Iterator<Item = &'a mut Pin> + 'a {
        let secrets = self.secrets.iter_mut().filter_map(|one| match object {
            PayloadId::Secret(id) if one.secret_id == *id => Some(&mut one.version),
            _ => None,
        });
        let configs = self.configs.iter_mut().filter_map(|one| match object {
            PayloadId::Config(id) if one.config_id == *id => Some(&mut one.version),
            _ => None,
        });
        secrets.chain(configs)
    }

    /// The pin of the reference that puts a payload there.
    pub fn pin_of(&self, object: &PayloadId, target: Option<&FileTarget>) -> Option<&Pin> {
        let name = |file: Option<&FileTarget>| file.map(|file| file.name.clone());
        let is_there = |file: &Option<FileTarget>| name(file.as_ref()) == name(target);
        match object {
            PayloadId::Secret(id) => {
                let mut secrets = self.secrets.iter();
                let found = secrets.find(|one| one.secret_id == *id && is_there(&one.file))?;
                Some(&found.version)
            }
            PayloadId::Config(id) => {
                let mut configs = self.configs.iter();
                let found = configs.find(|one| one.config_id == *id && is_there(&one.file))?;
                Some(&found.version)
            }
        }
    }

    /// Whether a task of `had` sees versions that this spec takes for its own. Both name the same
    /// payloads.
    pub fn accepts_versions_of(&self, had: &Self) -> bool {
        let pairs = self.payloads().zip(had.payloads());
        let mut pairs = pairs.map(|(wanted, had)| wanted.pin.accepts(had.pin));
        pairs.all(|accepted| accepted)
    }

    /// The same, whatever the versions.
    pub fn without_versions(&self) -> Self {
        let mut spec = self.clone();
        for one in &mut spec.secrets {
            one.version = Pin::default();
        }
        for one in &mut spec.configs {
            one.version = Pin::default();
        }
        spec
    }
}

impl Task {
    /// The version of a payload that the task is to see.
    pub fn version_wanted(&self, object: &str, pin: &Pin) -> u64 {
        wanted(&self.in_place, object, pin)
    }

    /// The version of a payload that the task sees, if it runs.
    pub fn version_seen(&self, object: &str, pin: &Pin) -> u64 {
        let given = self.status.versions.get(object).copied();
        given.unwrap_or_default().max(pin.number())
    }
}

/// The version that a task with these orders is to see.
pub fn wanted(in_place: &[InPlace], object: &str, pin: &Pin) -> u64 {
    let given = in_place.iter().find(|one| one.object == object);
    given.map_or(0, |one| one.number).max(pin.number())
}

/// What is asked for of a payload's versions. Its bytes never print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionChange {
    /// These bytes are the next version.
    Next(#[serde(with = "base64_bytes")] Vec<u8>),
    /// The next version has the bytes of an earlier one; 0: of the newest of them.
    Back(u64),
    /// The next version is what the secret's own store holds by now, asked with these changes of its
    /// options: an empty value takes one away.
    Anew(BTreeMap<String, String>),
}

impl fmt::Debug for VersionChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Next(_) => f.write_str("Next"),
            Self::Back(number) => write!(f, "Back({number})"),
            Self::Anew(_) => f.write_str("Anew"),
        }
    }
}

/// The versions of a payload and who sees which, as `GET /skep/v1/secrets/{id}/versions` tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PayloadHistory {
    #[serde(rename = "ID")]
    pub id: String,
    pub name: String,
    /// The first is the present one.
    pub versions: Vec<VersionShown>,
    pub users: Vec<PayloadUser>,
}

/// One version, without its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VersionShown {
    pub number: u64,
    pub since: Timestamp,
    pub because: String,
    pub bytes: u64,
}

/// A task that uses a payload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PayloadUser {
    pub service: String,
    pub task: String,
    /// `web.3`
    pub name: String,
    /// Host name of its node.
    pub node: String,
    pub state: String,
    /// What it sees, and what it is to see.
    pub sees: u64,
    pub wants: u64,
    /// What the service's new tasks get.
    pub service_wants: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(data: &[u8]) -> Secret {
        let mut secret = Secret::default();
        secret.spec.data = data.to_vec();
        secret
    }

    #[test]
    fn an_object_of_before_has_one_version() {
        let old: Secret =
            serde_json::from_str(r#"{"ID":"s","Spec":{"Name":"key","Data":"eA=="}}"#).unwrap();
        assert_eq!(old.number(), 1);
        assert_eq!(old.of_version(1), Some(&b"x"[..]));
        let json = serde_json::to_string(&old).unwrap();
        assert!(!json.contains("Versions"), "{json}");
    }

    #[test]
    fn versions_count_up_and_are_bounded_but_for_those_that_are_needed() {
        let mut secret = secret(b"1");
        for number in 2..=12_u8 {
            secret.advance(vec![number], "updated".into(), Timestamp::from_secs(9));
        }
        assert_eq!(secret.number(), 12);
        assert_eq!(secret.of_version(12), Some(&[12][..]));
        secret.keep(|number| number == 3);
        let kept: Vec<u64> = secret
            .versions
            .earlier
            .iter()
            .map(|one| one.number)
            .collect();
        assert_eq!(kept, [11, 10, 9, 8, 7, 3]);
        assert_eq!(secret.of_version(3), Some(&[3][..]));
        assert_eq!(secret.of_version(4), None);
        let told = secret.only(|number| number == 7);
        assert_eq!(told.of_version(7), Some(&[7][..]));
        assert_eq!((told.data(), told.versions.earlier.len()), (&vec![7], 0));
        let told = secret.only(|number| [3, 9].contains(&number));
        assert_eq!((told.number(), told.of_version(3)), (9, Some(&[3][..])));
        assert_eq!(told.of_version(12), None);
    }

    #[test]
    fn large_versions_go_although_they_are_few() {
        let mut secret = secret(&[0; 2 << 20]);
        for _ in 0..4 {
            let data = vec![0; 2 << 20];
            secret.advance(data, String::new(), Timestamp::ZERO);
        }
        assert_eq!(secret.keep(|_| false), EARLIER_BYTES_MAX);
        assert_eq!(secret.versions.earlier.len(), 2);
        // What is needed comes before what is newer.
        secret.advance(vec![0; 2 << 20], String::new(), Timestamp::ZERO);
        assert_eq!(secret.keep(|number| number == 3), EARLIER_BYTES_MAX);
        let numbers = secret.versions.earlier.iter().map(|one| one.number);
        assert_eq!(numbers.collect::<Vec<_>>(), [5, 3]);
    }

    #[test]
    fn pins_accept_what_their_policy_leaves_alone() {
        let first = Pin::default();
        let rolled = first.moved_to(2, &OnUpdate::Roll);
        assert_eq!(rolled, Pin::to(2));
        assert!(!rolled.accepts(&first) && rolled.accepts(&Pin::to(2)));
        let quiet = rolled.moved_to(3, &OnUpdate::Nothing);
        assert!(quiet.accepts(&rolled) && !quiet.accepts(&first));
        let signalled = quiet.moved_to(4, &"signal=usr1".parse().unwrap());
        assert_eq!(signalled.signal, "SIGUSR1");
        assert!(signalled.accepts(&rolled) && signalled.accepts(&quiet));
        // Going back is a change like any other.
        assert!(!rolled.accepts(&signalled));
    }

    #[test]
    fn policies_are_read_and_told() {
        for (given, shown) in [
            ("roll", "roll"),
            ("none", "none"),
            ("signal", "signal=SIGHUP"),
            ("signal=SIGUSR2", "signal=SIGUSR2"),
        ] {
            let read: OnUpdate = given.parse().unwrap();
            assert_eq!(read.to_string(), shown);
        }
        for wrong in ["", "signal=KILL", "signal=", "restart"] {
            assert!(wrong.parse::<OnUpdate>().is_err(), "{wrong}");
        }
    }
}
