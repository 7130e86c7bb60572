//! Service keys that mean something to containers of one host and nothing to a cluster.
//!
//! Read in place of `passthrough` when a project is loaded rather than a stack.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::field::Field;
use crate::fields::Fields;
use crate::file::build::{self, Build};
use crate::file::develop::{self, Rule};
use crate::file::hook::{self, Hook};
use crate::file::volume::size;
use crate::file::{device, override_with};
use crate::out::Out;
use crate::report::{At, Placed};
use crate::text::duration;
use crate::tree::Value;

const TEXTS: [&str; 15] = [
    "cgroup",
    "cgroup_parent",
    "cgroupns_mode",
    "container_name",
    "cpuset",
    "domainname",
    "ipc",
    "mac_address",
    "network_mode",
    "pid",
    "pull_policy",
    "runtime",
    "userns_mode",
    "uts",
    "volume_driver",
];
const SIZES: [&str; 3] = ["mem_limit", "memswap_limit", "shm_size"];
/// Numbers, and microseconds that may be written as a duration.
const NUMBERS: [&str; 6] = [
    "cpu_shares",
    "mem_swappiness",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
];
const FLAGS: [&str; 3] = ["attach", "oom_kill_disable", "privileged"];
/// Of these a repeat counts once.
const UNIQUE: [&str; 2] = ["expose", "links"];
const LISTS: [&str; 6] = [
    "device_cgroup_rules",
    "expose",
    "external_links",
    "links",
    "security_opt",
    "volumes_from",
];
const MAPS: [&str; 2] = ["annotations", "storage_opt"];
/// What no host does, and why.
const ELSEWHERE: [(&str, &str); 5] = [
    ("cpu_count", "processors are limited with cpus"),
    ("cpu_percent", "processors are limited with cpus"),
    ("models", "models are not run"),
    ("pull_refresh_after", "images are pulled by pull_policy"),
    ("use_api_socket", "mount the socket as a volume"),
];

/// What only containers of one host can be asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Host {
    pub build: Option<Placed<Build>>,
    pub texts: BTreeMap<&'static str, Placed<String>>,
    /// Bytes.
    pub sizes: BTreeMap<&'static str, i64>,
    pub numbers: BTreeMap<&'static str, i64>,
    pub flags: BTreeMap<&'static str, bool>,
    pub lists: BTreeMap<&'static str, Vec<Placed<String>>>,
    pub maps: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// `source:target:permissions` each.
    pub devices: Vec<Placed<String>>,
    pub blkio: Option<Out>,
    /// As the API wants requests of devices.
    pub device_requests: Vec<serde_json::Value>,
    pub hooks: BTreeMap<&'static str, Vec<Hook>>,
    /// What follows changes of files, of `develop.watch`.
    pub watch: Vec<Rule>,
}

/// Takes these keys of a service.
pub(crate) fn read(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Host {
    let mut host = Host {
        build: fields
            .take("build")
            .and_then(|field| build::read(&field, cx)),
        ..Host::default()
    };
    for name in TEXTS {
        if let Some(field) = fields.take(name)
            && let Some(value) = field.string_or_number(cx)
        {
            let at = field.at();
            host.texts.insert(name, Placed { at, value });
        }
    }
    for name in SIZES {
        if let Some(field) = fields.take(name) {
            let unlimited = field.scalar().is_some_and(|scalar| scalar.text == "-1");
            let bytes = if unlimited {
                Some(-1)
            } else {
                size(&field, cx)
            };
            host.sizes.extend(bytes.map(|bytes| (name, bytes)));
        }
    }
    for name in NUMBERS {
        let number = fields.take(name).and_then(|field| number(&field, cx));
        host.numbers.extend(number.map(|number| (name, number)));
    }
    for name in FLAGS {
        let flag = fields.boolean(name, cx);
        host.flags.extend(flag.map(|flag| (name, flag)));
    }
    for name in LISTS {
        if let Some(field) = fields.take(name) {
            host.lists.insert(name, read_list(name, &field, cx));
        }
    }
    for name in MAPS {
        let map = fields.map(name, cx);
        host.maps.extend(map.map(|map| (name, map)));
    }
    if let Some(field) = fields.take("devices") {
        host.devices = device::read(&field, cx);
    }
    host.blkio = fields
        .take("blkio_config")
        .map(|field| Out::from(field.node));
    if let Some(field) = fields.take("gpus") {
        host.device_requests = match &field.node.value {
            Value::Scalar(scalar) if scalar.text == "all" => vec![serde_json::json!({
                "Driver": "", "Count": -1, "Capabilities": [["gpu"]],
            })],
            _ => device::read_requests(&field, Some("gpu"), cx),
        };
    }
    for name in ["post_start", "pre_stop"] {
        if let Some(field) = fields.take(name) {
            host.hooks.insert(name, hook::read(&field, cx));
        }
    }
    if let Some(field) = fields.take("develop") {
        host.watch = develop::read(&field, cx);
    }
    if let Some(field) = fields.take("provider") {
        field.wrong("cannot be honoured: services are containers", cx);
    }
    for (name, why) in ELSEWHERE {
        fields.no_effect(name, why, cx);
    }
    check(&host, cx);
    host
}

/// Words that have to be one of some.
fn check(host: &Host, cx: &mut Context<'_>) {
    if let Some(policy) = host.texts.get("pull_policy") {
        let known = ["always", "never", "missing", "if_not_present", "build"];
        let timed = ["daily", "weekly"].contains(&policy.value.as_str())
            || policy.value.starts_with("every_");
        if timed {
            cx.warn(
                policy.at,
                format!(
                    "pull_policy {} is taken as missing: ages of images are not kept",
                    policy.value
                ),
            );
        } else if !known.contains(&policy.value.as_str()) {
            cx.error(
                policy.at,
                format!(
                    "pull_policy must be one of always, never, missing and build, found \"{}\"",
                    policy.value
                ),
            );
        }
    }
    if let Some(name) = host.texts.get("container_name") {
        let mut chars = name.value.chars();
        let fits = chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
            && chars.clone().next().is_some()
            && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        if !fits {
            cx.error(
                name.at,
                format!(
                    "container_name \"{}\" is not valid: names have letters, digits, `.`, `_` and `-`, two at least",
                    name.value
                ),
            );
        }
    }
}

fn number(field: &Field<'_>, cx: &mut Context<'_>) -> Option<i64> {
    if let Some(scalar) = field.scalar()
        && scalar.text.parse::<i64>().is_err()
        && let Some(length) = duration::parse(&scalar.text)
    {
        return Some(length.0 / 1000);
    }
    field.integer(cx)
}

/// A list of texts or numbers; one alone is a list too.
fn read_list(name: &str, field: &Field<'_>, cx: &mut Context<'_>) -> Vec<Placed<String>> {
    let placed = |item: &Field<'_>, cx: &mut Context<'_>| {
        let at = item.at();
        item.string_or_number(cx).map(|value| Placed { at, value })
    };
    match &field.node.value {
        Value::Scalar(_) => placed(field, cx).into_iter().collect(),
        _ => {
            let items = match UNIQUE.contains(&name) {
                true => field.unique_items(cx),
                false => field.different_items(cx),
            };
            items.iter().filter_map(|item| placed(item, cx)).collect()
        }
    }
}

impl Host {
    /// Puts a later file's keys over these.
    pub fn merge(&mut self, later: Self) {
        match (&mut self.build, later.build) {
            (Some(base), Some(later)) => base.value.merge(later.value),
            (base, Some(later)) => *base = Some(later),
            (_, None) => {}
        }
        override_with!(self, later: blkio);
        self.texts.extend(later.texts);
        self.sizes.extend(later.sizes);
        self.numbers.extend(later.numbers);
        self.flags.extend(later.flags);
        for (name, list) in later.lists {
            let known = self.lists.entry(name).or_default();
            for item in list {
                if !known.iter().any(|one| one.value == item.value) {
                    known.push(item);
                }
            }
        }
        for (name, map) in later.maps {
            self.maps.entry(name).or_default().extend(map);
        }
        self.devices.extend(later.devices);
        self.device_requests.extend(later.device_requests);
        self.watch.extend(later.watch);
        for (name, hooks) in later.hooks {
            self.hooks.entry(name).or_default().extend(hooks);
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(|text| text.value.as_str())
    }

    pub fn list(&self, name: &str) -> &[Placed<String>] {
        self.lists.get(name).map_or(&[], Vec::as_slice)
    }

    /// The keys as `config` prints them.
    pub fn print(&self) -> Vec<(String, Out)> {
        let mut out: Vec<(String, Out)> = Vec::new();
        let mut put = |name: &str, value: Out| out.push((name.to_owned(), value));
        if let Some(build) = &self.build {
            put("build", build.value.print());
        }
        for (name, text) in &self.texts {
            put(name, Out::text(&text.value));
        }
        for (name, bytes) in &self.sizes {
            put(name, Out::text(bytes.to_string()));
        }
        for (name, number) in &self.numbers {
            put(name, Out::Int(*number));
        }
        for (name, flag) in &self.flags {
            put(name, Out::Bool(*flag));
        }
        for (name, list) in &self.lists {
            let list = list.iter().map(|item| Out::text(&item.value)).collect();
            put(name, Out::List(list));
        }
        for (name, map) in &self.maps {
            put(name, super::volume::print_map(map));
        }
        if !self.devices.is_empty() {
            let devices = self.devices.iter().map(|one| Out::text(&one.value));
            put("devices", Out::List(devices.collect()));
        }
        if let Some(blkio) = &self.blkio {
            put("blkio_config", blkio.clone());
        }
        for (name, hooks) in &self.hooks {
            let hooks = hooks
                .iter()
                .map(|hook| Out::Map(vec![("command".to_owned(), Out::list(&hook.command))]));
            put(name, Out::List(hooks.collect()));
        }
        if !self.watch.is_empty() {
            put("develop", develop::print(&self.watch));
        }
        out
    }

    /// Where a text was written.
    pub fn at(&self, name: &str, otherwise: At) -> At {
        self.texts.get(name).map_or(otherwise, |text| text.at)
    }
}
