//! One service of a compose file: everything that stands below its name.

mod credential;
mod hosts;
mod merge;

use std::collections::BTreeMap;

use skep_model::Nanos;

use crate::context::Context;
use crate::field::Field;
use crate::fields::Fields;
use crate::file::dependency::{self, Dependency};
use crate::file::deploy::{self, Cpus, Deploy};
use crate::file::environment::{self, Environment};
use crate::file::health::{self, Health};
use crate::file::host::{self, Host};
use crate::file::network::{self, JoinedNetworks};
use crate::file::object::{self, Used};
use crate::file::port::{self, Port};
use crate::file::volume::{self, ServiceVolume};
use crate::file::{extends, is_name, merge_maps, passthrough, refuse_name};
use crate::out::Out;
use crate::report::{At, Placed};
use crate::scalar::Resolved;
use crate::text::{env_file, shell};
use crate::tree::{Node, Value, shown};

pub(crate) use credential::CredentialSpec;
pub(crate) use hosts::read as extra_hosts;

/// A service as written. Nothing means: not given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Service {
    /// Where its name stands.
    pub at: At,
    pub image: Option<Placed<String>>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub environment: Environment,
    pub env_file: Vec<String>,
    pub labels: Option<BTreeMap<String, String>>,
    pub hostname: Option<String>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub working_dir: Option<String>,
    pub tty: Option<bool>,
    pub stdin_open: Option<bool>,
    pub init: Option<bool>,
    pub isolation: Option<String>,
    pub read_only: Option<bool>,
    pub stop_signal: Option<String>,
    pub stop_grace_period: Option<Nanos>,
    /// `x-skep-drain`: how long connected clients have before the stop signal.
    pub drain: Option<Nanos>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub sysctls: Option<BTreeMap<String, String>>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub oom_score_adj: Option<i64>,
    pub dns: Vec<Placed<String>>,
    pub dns_search: Vec<String>,
    pub dns_opt: Vec<String>,
    /// `name:address` each.
    pub extra_hosts: Vec<String>,
    pub health: Option<Health>,
    pub logging: Option<Logging>,
    pub networks: JoinedNetworks,
    pub ports: Vec<Port>,
    pub volumes: Vec<ServiceVolume>,
    pub tmpfs: Vec<Placed<String>>,
    pub secrets: Vec<Used>,
    pub configs: Vec<Used>,
    pub credential_spec: Option<Placed<CredentialSpec>>,
    pub deploy: Option<Deploy>,
    pub restart: Option<Placed<String>>,
    pub scale: Option<u64>,
    pub cpus: Option<Cpus>,
    pub mem_reservation: Option<i64>,
    pub pids_limit: Option<i64>,
    /// `os/architecture`.
    pub platform: Option<Placed<String>>,
    pub profiles: Vec<Placed<String>>,
    pub depends_on: Vec<Dependency>,
    /// What only containers of one host can be asked; where they are to come of the file.
    pub host: Option<Box<Host>>,
    /// Printed only.
    pub passthrough: Vec<(&'static str, Out)>,
    pub extras: BTreeMap<String, Out>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ulimit {
    Both(i64),
    Each { soft: i64, hard: i64 },
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Logging {
    pub driver: Option<String>,
    pub options: Option<BTreeMap<String, String>>,
}

/// Reads the `services` section of the file whose tree is `root`.
pub(crate) fn read_services(
    section: &Field<'_>,
    root: &Node,
    cx: &mut Context<'_>,
) -> BTreeMap<String, Service> {
    let mut services = BTreeMap::new();
    for (key, field) in section.entries(cx) {
        if !is_name(&key.text) {
            refuse_name(&section.path, &key.text, key.at, cx);
            continue;
        }
        let mut chain = extends::Chain::default();
        if let Some(service) = read(&key.text, &field, root, &mut chain, cx) {
            services.insert(key.text.clone(), service);
        }
    }
    services
}

/// Reads one service; `chain` are the services on the way here by `extends`.
pub(crate) fn read(
    name: &str,
    field: &Field<'_>,
    root: &Node,
    chain: &mut extends::Chain,
    cx: &mut Context<'_>,
) -> Option<Service> {
    let mut fields = field.fields(cx)?;
    let base = fields
        .take("extends")
        .and_then(|extends| extends::read(name, &extends, root, chain, cx));
    let own = read_own(field.key, fields, cx);
    match base {
        Some(mut base) => {
            base.at = own.at;
            base.merge(own);
            Some(base)
        }
        None => Some(own),
    }
}

fn read_own(at: At, mut fields: Fields<'_>, cx: &mut Context<'_>) -> Service {
    let (host, passthrough) = match cx.host {
        true => (Some(Box::new(host::read(&mut fields, cx))), Vec::new()),
        false => (None, passthrough::read(&mut fields, cx)),
    };
    let (environment, env_file) = environment::read(&mut fields, cx);
    let deploy = fields
        .take("deploy")
        .and_then(|field| deploy::read(&field, cx));
    let service = Service {
        at,
        image: fields
            .take("image")
            .and_then(|field| field.placed_string(cx)),
        command: command(&mut fields, "command", cx),
        entrypoint: command(&mut fields, "entrypoint", cx),
        environment,
        env_file,
        labels: labels(&mut fields, cx),
        hostname: fields.string("hostname", cx),
        user: fields.string("user", cx),
        group_add: group_add(&mut fields, cx),
        working_dir: fields.string("working_dir", cx),
        tty: fields.boolean("tty", cx),
        stdin_open: fields.boolean("stdin_open", cx),
        init: fields.boolean("init", cx),
        isolation: fields.string("isolation", cx),
        read_only: fields.boolean("read_only", cx),
        stop_signal: fields.string("stop_signal", cx),
        stop_grace_period: fields.duration("stop_grace_period", cx),
        drain: fields.duration("x-skep-drain", cx),
        cap_add: plain_strings(&mut fields, "cap_add", cx),
        cap_drop: plain_strings(&mut fields, "cap_drop", cx),
        sysctls: fields.map("sysctls", cx),
        ulimits: ulimits(&mut fields, cx),
        oom_score_adj: fields
            .take("oom_score_adj")
            .and_then(|field| field.integer_within(-1000, 1000, cx)),
        dns: dns(&mut fields, cx),
        dns_search: string_or_list(&mut fields, "dns_search", cx),
        dns_opt: string_or_list(&mut fields, "dns_opt", cx),
        extra_hosts: extra_hosts(&mut fields, cx),
        health: fields
            .take("healthcheck")
            .and_then(|field| health::read(&field, cx)),
        logging: fields.take("logging").and_then(|field| logging(&field, cx)),
        networks: fields
            .take("networks")
            .map(|field| network::read_joined(&field, cx))
            .unwrap_or_default(),
        ports: fields
            .take("ports")
            .map(|field| port::read(&field, cx))
            .unwrap_or_default(),
        volumes: fields
            .take("volumes")
            .map(|field| volume::read(&field, cx))
            .unwrap_or_default(),
        tmpfs: fields
            .take("tmpfs")
            .map(|field| field.string_or_list(cx))
            .unwrap_or_default(),
        secrets: used(&mut fields, "secrets", cx),
        configs: used(&mut fields, "configs", cx),
        credential_spec: fields
            .take("credential_spec")
            .and_then(|field| credential::read(&field, cx)),
        restart: restart(&mut fields, deploy.as_ref(), cx),
        deploy,
        scale: fields.unsigned("scale", cx),
        cpus: deploy::read_cpus("cpus", &mut fields, cx),
        mem_reservation: fields
            .take("mem_reservation")
            .and_then(|field| deploy::memory(&field, cx)),
        pids_limit: fields
            .take("pids_limit")
            .and_then(|field| field.integer_within(-1, i64::MAX, cx)),
        platform: fields
            .take("platform")
            .and_then(|field| field.placed_string(cx)),
        profiles: fields
            .take("profiles")
            .map(|field| field.strings(cx))
            .unwrap_or_default(),
        depends_on: fields
            .take(passthrough::DEPENDS_ON)
            .map(|field| dependency::read(&field, cx))
            .unwrap_or_default(),
        host,
        passthrough,
        extras: fields.extras().into_iter().collect(),
    };
    fields.finish(cx);
    service
}

/// `command` and `entrypoint`: a list, or a line that is split into words.
pub(crate) fn command(
    fields: &mut Fields<'_>,
    name: &'static str,
    cx: &mut Context<'_>,
) -> Option<Vec<String>> {
    let field = fields.take(name)?;
    match &field.node.value {
        Value::List(_) => Some(field.words(cx)),
        Value::Scalar(_) => match shell::split(&field.string(cx)?) {
            Ok(words) => Some(words),
            Err(wrong) => {
                field.wrong(format!("cannot be split into words: {wrong}"), cx);
                None
            }
        },
        Value::Map(_) => {
            field.wrong_type("string or list", cx);
            None
        }
    }
}

/// `label_file` below, `labels` above.
fn labels(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<BTreeMap<String, String>> {
    let mut from_files = None;
    if let Some(field) = fields.take("label_file") {
        let all: &mut BTreeMap<String, String> = from_files.insert(BTreeMap::new());
        for file in field.string_or_list(cx) {
            let path = cx.absolute(&file.value, file.at);
            let Some(content) = cx.content(&path, file.at) else {
                continue;
            };
            match env_file::parse(&content) {
                Ok(read) => all.extend(
                    read.into_iter()
                        .map(|label| (label.name, label.value.unwrap_or_default())),
                ),
                Err(wrong) => cx.error(file.at, format!("invalid label file ({path}): {wrong}")),
            }
        }
    }
    merge_maps(&mut from_files, fields.map("labels", cx));
    from_files
}

/// Name servers. Those that are no addresses are printed, and a cluster does without them.
fn dns(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Vec<Placed<String>> {
    let servers = fields.take("dns").map(|field| field.string_or_list(cx));
    let servers = servers.unwrap_or_default();
    for server in &servers {
        if !cx.host && server.value.parse::<std::net::IpAddr>().is_err() {
            cx.warn(
                server.at,
                format!(
                    "the name server \"{}\" has no effect: it is no IP address",
                    shown(&server.value)
                ),
            );
        }
    }
    servers
}

fn group_add(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Vec<String> {
    let Some(field) = fields.take("group_add") else {
        return Vec::new();
    };
    let items = field.different_items(cx);
    items
        .iter()
        .filter_map(|item| item.string_or_number(cx))
        .collect()
}

fn plain_strings(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context<'_>) -> Vec<String> {
    let strings = fields.take(name).map(|field| field.strings(cx));
    strings
        .into_iter()
        .flatten()
        .map(|string| string.value)
        .collect()
}

fn string_or_list(
    fields: &mut Fields<'_>,
    name: &'static str,
    cx: &mut Context<'_>,
) -> Vec<String> {
    let strings = fields.take(name).map(|field| field.string_or_list(cx));
    strings
        .into_iter()
        .flatten()
        .map(|string| string.value)
        .collect()
}

fn used(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context<'_>) -> Vec<Used> {
    fields
        .take(name)
        .map(|field| object::read_used(&field, cx))
        .unwrap_or_default()
}

fn ulimits(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> BTreeMap<String, Ulimit> {
    let mut ulimits = BTreeMap::new();
    let Some(field) = fields.take("ulimits") else {
        return ulimits;
    };
    for (key, field) in field.entries(cx) {
        let limit = match &field.node.value {
            Value::Map(_) => {
                let Some(mut fields) = field.fields(cx) else {
                    continue;
                };
                let mut limit = |name| match fields.take(name) {
                    Some(field) => field.integer(cx),
                    None => {
                        cx.error(field.at(), format!("{} {name} is required", field.path));
                        None
                    }
                };
                let (soft, hard) = (limit("soft"), limit("hard"));
                fields.finish(cx);
                soft.zip(hard)
                    .map(|(soft, hard)| Ulimit::Each { soft, hard })
            }
            _ => field.integer(cx).map(Ulimit::Both),
        };
        if let Some(limit) = limit {
            ulimits.insert(key.text.clone(), limit);
        }
    }
    ulimits
}

fn logging(field: &Field<'_>, cx: &mut Context<'_>) -> Option<Logging> {
    let mut fields = field.fields(cx)?;
    let logging = Logging {
        driver: fields.string("driver", cx),
        options: fields.map("options", cx),
    };
    fields.finish(cx);
    Some(logging)
}

/// `restart` of the older syntax, which stands in for `deploy.restart_policy`.
fn restart(
    fields: &mut Fields<'_>,
    deploy: Option<&Deploy>,
    cx: &mut Context<'_>,
) -> Option<Placed<String>> {
    let field = fields.take("restart")?;
    if cx.host {
        // `no` without quotes is what everybody writes.
        if let Some((_, Resolved::Bool(false))) = field.resolved() {
            return Some(Placed {
                at: field.at(),
                value: "no".to_owned(),
            });
        }
        return field.placed_string(cx);
    }
    let restart = field.placed_string(cx);
    if deploy.is_some_and(|deploy| deploy.restart_policy.is_some()) {
        cx.warn(
            field.key,
            format!(
                "Ignoring unsupported options: restart ({}): deploy.restart_policy is given",
                field.path
            ),
        );
    } else {
        cx.warn_with_hint(
            field.key,
            format!("{} is taken as deploy.restart_policy", field.path),
            "use deploy.restart_policy",
        );
    }
    restart
}
