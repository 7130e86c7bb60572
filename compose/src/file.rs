//! A compose file as typed values, before it becomes a stack.

pub(crate) mod build;
pub(crate) mod declared;
pub(crate) mod dependency;
pub(crate) mod deploy;
pub(crate) mod develop;
pub(crate) mod device;
pub(crate) mod environment;
pub(crate) mod extends;
pub(crate) mod health;
pub(crate) mod hook;
pub(crate) mod host;
pub(crate) mod network;
pub(crate) mod object;
pub(crate) mod passthrough;
pub(crate) mod port;
pub(crate) mod service;
pub(crate) mod volume;

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use crate::context::Context;
use crate::fields::Fields;
use crate::out::Out;
use crate::report::{At, Placed};
use crate::scalar::Resolved;
use crate::tree::{Node, Value, shown};

use network::Network;
use object::{FileObject, ObjectKind};
use service::Service;
use volume::Volume;

/// The version printed for files that give none.
pub(crate) const VERSION_DEFAULT: &str = "3.13";
/// Services of one stack; a bound on mistakes.
const SERVICES_MAX: usize = 10_000;

/// One compose file, or several merged.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub version: Option<String>,
    pub services: BTreeMap<String, Service>,
    pub networks: BTreeMap<String, Placed<Network>>,
    pub volumes: BTreeMap<String, Placed<Volume>>,
    pub secrets: BTreeMap<String, Placed<FileObject>>,
    pub configs: BTreeMap<String, Placed<FileObject>>,
    pub extras: BTreeMap<String, Out>,
}

impl File {
    /// Reads a file's tree; what is wrong goes to the report.
    pub fn read(root: &Node, cx: &mut Context<'_>) -> Self {
        let mut file = Self::default();
        let Some(mut fields) = Fields::root(root) else {
            cx.error(root.at, "top-level object must be a mapping");
            return file;
        };
        if let Some(field) = fields.take("version").filter(|_| !cx.host) {
            file.version = field.string_or_number(cx);
            if let Some(version) = &file.version
                && !is_version_3(version)
            {
                cx.error_with_hint(
                    field.at(),
                    format!("unsupported Compose file version: {version}"),
                    "versions 3 and 3.0 to 3.13 are read, and files without a version",
                );
                // The rest follows other rules; messages about it would mislead.
                return file;
            }
            if !matches!(field.resolved(), Some((_, Resolved::Text))) {
                cx.warn_with_hint(
                    field.at(),
                    format!("version must be a string, found {}", field.node.describe()),
                    "docker refuses this; write it in quotes, or leave the version out",
                );
            }
        }
        fields.take("include");
        if let Some(field) = fields.take("name")
            && let Some(name) = field.string(cx)
            && !cx.host
            && name != cx.options.stack
        {
            cx.warn(
                field.key,
                "name has no effect: the stack's name is given when it is deployed",
            );
        }
        fields.no_effect("models", "models are not run", cx);
        if let Some(field) = fields.take_any("services") {
            file.services = service::read_services(&field, root, cx);
            if file.services.len() > SERVICES_MAX {
                field.wrong(format!("must have at most {SERVICES_MAX} entries"), cx);
            }
        }
        if let Some(field) = fields.take_any("networks") {
            file.networks = named(&field, cx, network::read);
        }
        if let Some(field) = fields.take_any("volumes") {
            file.volumes = named(&field, cx, volume::read_definition);
        }
        if let Some(field) = fields.take_any("secrets") {
            file.secrets = named(&field, cx, |name, field, cx| {
                object::read(ObjectKind::Secret, name, field, cx)
            });
        }
        if let Some(field) = fields.take_any("configs") {
            file.configs = named(&field, cx, |name, field, cx| {
                object::read(ObjectKind::Config, name, field, cx)
            });
        }
        file.extras.extend(fields.extras());
        if !refuse_version_1(root, cx) {
            fields.finish(cx);
        }
        file
    }

    /// Puts a later file over this one.
    pub fn merge(&mut self, later: Self) {
        if self.version.is_none() {
            self.version = later.version;
        }
        for (name, service) in later.services {
            match self.services.get_mut(&name) {
                Some(known) => known.merge(service),
                None => {
                    self.services.insert(name, service);
                }
            }
        }
        merge_named(&mut self.networks, later.networks, Network::merge);
        merge_named(&mut self.volumes, later.volumes, Volume::merge);
        merge_named(&mut self.secrets, later.secrets, FileObject::merge);
        merge_named(&mut self.configs, later.configs, FileObject::merge);
        self.extras.extend(later.extras);
    }
}

/// Reports a file whose services stand at the top, as in version 1; whether it is one.
fn refuse_version_1(root: &Node, cx: &mut Context<'_>) -> bool {
    let Value::Map(entries) = &root.value else {
        return false;
    };
    let is_service = |node: &Node| node.get("image").is_some() || node.get("build").is_some();
    let known = |key: &str| {
        ["services", "networks", "volumes", "secrets", "configs"].contains(&key)
            || key.starts_with("x-")
    };
    if entries.iter().any(|(key, _)| key.text == "services") {
        return false;
    }
    let Some((key, _)) = entries
        .iter()
        .find(|(key, node)| !known(&key.text) && is_service(node))
    else {
        return false;
    };
    cx.error_with_hint(
        key.at,
        format!(
            "(root) Additional property {} is not allowed",
            shown(&key.text)
        ),
        "this looks like a file of version 1; services stand below `services:`",
    );
    true
}

fn is_version_3(version: &str) -> bool {
    version.is_empty()
        || version == "3"
        || version
            .strip_prefix("3.")
            .and_then(|minor| minor.parse::<u8>().ok())
            .is_some_and(|minor| minor <= 13)
}

/// Whether a service, network, … may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Reads a section of named entries.
fn named<'n, T>(
    section: &crate::field::Field<'n>,
    cx: &mut Context<'_>,
    read: impl Fn(&str, &crate::field::Field<'n>, &mut Context<'_>) -> Option<T>,
) -> BTreeMap<String, Placed<T>> {
    let mut entries = BTreeMap::new();
    if section.node.is_null() {
        return entries;
    }
    for (key, field) in section.entries(cx) {
        if !is_name(&key.text) {
            // Docker's client leaves networks to the daemon, which makes none of such a name.
            if section.path != "networks" || key.text.is_empty() {
                refuse_name(&section.path, &key.text, key.at, cx);
                continue;
            }
            cx.unfit(
                key.at,
                format!("{:?} is no name of a network", shown(&key.text)),
                Some("names have letters, digits, `.`, `_` and `-`".to_owned()),
            );
        }
        if let Some(value) = read(&key.text, &field, cx) {
            entries.insert(key.text.clone(), Placed { at: key.at, value });
        }
    }
    entries
}

pub(crate) fn refuse_name(section: &str, name: &str, at: At, cx: &mut Context<'_>) {
    cx.error_with_hint(
        at,
        format!(
            "{section} Additional property {} is not allowed",
            shown(name)
        ),
        "names have letters, digits, `.`, `_` and `-`",
    );
}

fn merge_named<T>(
    base: &mut BTreeMap<String, Placed<T>>,
    later: BTreeMap<String, Placed<T>>,
    merge: impl Fn(&mut T, T),
) {
    for (name, placed) in later {
        match base.get_mut(&name) {
            Some(known) => merge(&mut known.value, placed.value),
            None => {
                base.insert(name, placed);
            }
        }
    }
}

/// Replaces each field that the later file gives.
macro_rules! override_with {
    ($base:ident, $later:ident: $($field:ident),* $(,)?) => {
        $(
            if $later.$field.is_some() {
                $base.$field = $later.$field;
            }
        )*
    };
}
pub(crate) use override_with;

/// Of entries with the same key the last one, where the first one stood: as docker's compose takes
/// lists.
pub(crate) fn unique_by<T, K: Eq + std::hash::Hash>(list: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut places = std::collections::HashMap::new();
    let mut unique: Vec<T> = Vec::with_capacity(list.len());
    for entry in list {
        match places.entry(key(&entry)) {
            Entry::Occupied(place) => unique[*place.get()] = entry,
            Entry::Vacant(place) => {
                place.insert(unique.len());
                unique.push(entry);
            }
        }
    }
    unique
}

/// Puts later pairs over earlier ones; nothing stays nothing.
pub(crate) fn merge_maps<V>(
    base: &mut Option<BTreeMap<String, V>>,
    later: Option<BTreeMap<String, V>>,
) {
    match (base, later) {
        (_, None) => {}
        (Some(base), Some(later)) => base.extend(later),
        (base @ None, later) => *base = later,
    }
}
