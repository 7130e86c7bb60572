//! `deploy`: how many tasks, where, with what, and how they are replaced.

use std::collections::BTreeMap;

use skep_model::limits::{MEMORY_BYTES_MIN, NANO_CPUS_MIN};
use skep_model::{Constraint, NanoCpus, Nanos};

use crate::context::Context;
use crate::field::Field;
use crate::fields::Fields;
use crate::file::device;
use crate::file::health::count;
use crate::file::volume::{print_map, size};
use crate::file::{merge_maps, override_with};
use crate::out::{MapOut, Out};
use crate::report::{At, Placed};
use crate::text::{cpus, duration};

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Deploy {
    pub mode: Option<String>,
    pub replicas: Option<Placed<u64>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub update_config: Option<UpdateConfig>,
    pub rollback_config: Option<UpdateConfig>,
    pub limits: Option<Limits>,
    pub reservations: Option<Reservations>,
    pub restart_policy: Option<RestartPolicy>,
    pub constraints: Vec<String>,
    /// Keys to spread over.
    pub preferences: Vec<String>,
    pub max_replicas_per_node: Option<u64>,
    pub endpoint_mode: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct UpdateConfig {
    pub parallelism: Option<u64>,
    pub delay: Option<Nanos>,
    pub failure_action: Option<String>,
    pub monitor: Option<Nanos>,
    pub max_failure_ratio: Option<f32>,
    pub order: Option<String>,
}

/// A processor count and the text it was written as.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cpus {
    pub text: String,
    pub nanos: NanoCpus,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Limits {
    pub cpus: Option<Cpus>,
    pub memory: Option<i64>,
    pub pids: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reservations {
    pub cpus: Option<Cpus>,
    pub memory: Option<i64>,
    pub generic_resources: Vec<Generic>,
    /// As the API wants requests of devices; where containers of one host are to come of it.
    pub devices: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Generic {
    pub kind: String,
    pub value: i64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RestartPolicy {
    pub condition: Option<String>,
    pub delay: Option<Nanos>,
    pub max_attempts: Option<u64>,
    pub window: Option<Nanos>,
}

pub(crate) fn read(field: &Field<'_>, cx: &mut Context<'_>) -> Option<Deploy> {
    let mut fields = field.fields(cx)?;
    let mut deploy = Deploy {
        mode: fields.take("mode").and_then(|field| {
            field.cluster_word(
                &["replicated", "global", "replicated-job", "global-job"],
                cx,
            )
        }),
        replicas: fields.take("replicas").and_then(|field| {
            let at = field.at();
            field.unsigned(cx).map(|value| Placed { at, value })
        }),
        labels: fields.map("labels", cx),
        endpoint_mode: fields
            .take("endpoint_mode")
            .and_then(|field| field.cluster_word(&["vip", "dnsrr", "VIP", "DNSRR"], cx)),
        ..Deploy::default()
    };
    deploy.update_config = fields
        .take("update_config")
        .and_then(|field| read_update(&field, &["pause", "continue", "rollback"], cx));
    deploy.rollback_config = fields
        .take("rollback_config")
        .and_then(|field| read_update(&field, &["pause", "continue"], cx));
    deploy.restart_policy = fields
        .take("restart_policy")
        .and_then(|field| read_restart(&field, cx));
    if let Some(field) = fields.take("resources") {
        read_resources(&field, &mut deploy, cx);
    }
    if let Some(field) = fields.take("placement") {
        read_placement(&field, &mut deploy, cx);
    }
    fields.finish(cx);
    Some(deploy)
}

fn read_update(field: &Field<'_>, actions: &[&str], cx: &mut Context<'_>) -> Option<UpdateConfig> {
    let mut fields = field.fields(cx)?;
    let update = UpdateConfig {
        parallelism: fields.unsigned("parallelism", cx),
        delay: fields.duration("delay", cx),
        failure_action: fields
            .take("failure_action")
            .and_then(|field| field.cluster_word(actions, cx)),
        monitor: fields.duration("monitor", cx),
        max_failure_ratio: fields.take("max_failure_ratio").and_then(|field| {
            let ratio = field.float(cx)?;
            if !(0.0..=1.0).contains(&ratio) {
                field.unfit(format!("must be from 0 to 1, found {ratio}"), cx);
            }
            Some(ratio as f32)
        }),
        order: fields
            .take("order")
            .and_then(|field| field.word(&["start-first", "stop-first"], cx)),
    };
    fields.finish(cx);
    Some(update)
}

fn read_restart(field: &Field<'_>, cx: &mut Context<'_>) -> Option<RestartPolicy> {
    let mut fields = field.fields(cx)?;
    let policy = RestartPolicy {
        condition: fields
            .take("condition")
            .and_then(|field| field.cluster_word(&["none", "on-failure", "any"], cx)),
        delay: fields.duration("delay", cx),
        max_attempts: fields.unsigned("max_attempts", cx),
        window: fields.duration("window", cx),
    };
    fields.finish(cx);
    Some(policy)
}

fn read_resources(field: &Field<'_>, deploy: &mut Deploy, cx: &mut Context<'_>) {
    let Some(mut fields) = field.fields(cx) else {
        return;
    };
    deploy.limits = fields.take("limits").and_then(|field| {
        let mut fields = field.fields(cx)?;
        let limits = Limits {
            cpus: read_cpus("cpus", &mut fields, cx),
            memory: fields.take("memory").and_then(|field| memory(&field, cx)),
            pids: fields
                .take("pids")
                .and_then(|field| field.integer_within(0, i64::MAX, cx)),
        };
        fields.finish(cx);
        Some(limits)
    });
    deploy.reservations = fields.take("reservations").and_then(|field| {
        let mut fields = field.fields(cx)?;
        let mut reservations = Reservations {
            cpus: read_cpus("cpus", &mut fields, cx),
            memory: fields.take("memory").and_then(|field| memory(&field, cx)),
            generic_resources: fields
                .take("generic_resources")
                .map(|field| read_generic(&field, cx))
                .unwrap_or_default(),
            devices: Vec::new(),
        };
        if cx.host {
            if let Some(field) = fields.take("devices") {
                reservations.devices = device::read_requests(&field, None, cx);
            }
        } else {
            fields.no_effect(
                "devices",
                "reserve what nodes offer with generic_resources",
                cx,
            );
        }
        fields.finish(cx);
        Some(reservations)
    });
    fields.finish(cx);
}

/// An amount of memory that a task can live with.
pub(crate) fn memory(field: &Field<'_>, cx: &mut Context<'_>) -> Option<i64> {
    let bytes = size(field, cx)?;
    if bytes != 0 && bytes < MEMORY_BYTES_MIN {
        let wrong = format!(
            "{}: invalid memory value {bytes}: Must be at least 4MiB",
            field.path
        );
        cx.unfit(field.at(), wrong, None);
    }
    Some(bytes)
}

/// A processor count, quoted or not.
pub(crate) fn read_cpus(
    name: &'static str,
    fields: &mut Fields<'_>,
    cx: &mut Context<'_>,
) -> Option<Cpus> {
    let field = fields.take(name)?;
    let text = field.string_or_number(cx)?;
    match cpus::parse(&text) {
        Ok(nanos) if nanos.0 != 0 && nanos.0 < NANO_CPUS_MIN => {
            let wrong = format!(
                "{}: invalid cpu value {text}: Must be at least {}",
                field.path,
                NANO_CPUS_MIN as f64 / 1e9
            );
            cx.unfit(field.at(), wrong, None);
            Some(Cpus { text, nanos })
        }
        Ok(nanos) => Some(Cpus { text, nanos }),
        Err(wrong) => {
            field.unfit(format!("is no number of processors: {wrong}"), cx);
            Some(Cpus {
                text,
                nanos: NanoCpus(0),
            })
        }
    }
}

fn read_generic(field: &Field<'_>, cx: &mut Context<'_>) -> Vec<Generic> {
    let mut resources = Vec::new();
    for item in field.items(cx) {
        let Some(mut fields) = item.fields(cx) else {
            continue;
        };
        if let Some(field) = fields.take("discrete_resource_spec")
            && let Some(mut fields) = field.fields(cx)
        {
            let kind = fields.string("kind", cx);
            let value = fields
                .take("value")
                .and_then(|field| field.integer_within(0, i64::MAX, cx));
            fields.finish(cx);
            resources.push(Generic {
                kind: kind.unwrap_or_default(),
                value: value.unwrap_or(0),
            });
        }
        fields.finish(cx);
    }
    resources
}

fn read_placement(field: &Field<'_>, deploy: &mut Deploy, cx: &mut Context<'_>) {
    let Some(mut fields) = field.fields(cx) else {
        return;
    };
    if let Some(field) = fields.take("constraints") {
        for item in field.items(cx) {
            let Some(text) = item.string(cx) else {
                continue;
            };
            if let Err(wrong) = text.parse::<Constraint>() {
                item.unfit(format!("is no constraint: {wrong}"), cx);
            }
            deploy.constraints.push(text);
        }
    }
    if let Some(field) = fields.take("preferences") {
        for item in field.items(cx) {
            let Some(mut fields) = item.fields(cx) else {
                continue;
            };
            deploy.preferences.extend(fields.string("spread", cx));
            fields.finish(cx);
        }
    }
    deploy.max_replicas_per_node = fields.unsigned("max_replicas_per_node", cx);
    fields.finish(cx);
}

/// Merges two optional parts with the part's own rule.
fn merge_part<T>(base: &mut Option<T>, later: Option<T>, merge: impl FnOnce(&mut T, T)) {
    match (base, later) {
        (_, None) => {}
        (Some(base), Some(later)) => merge(base, later),
        (base @ None, later) => *base = later,
    }
}

impl Deploy {
    pub fn merge(&mut self, later: Self) {
        override_with!(self, later: mode, replicas, max_replicas_per_node, endpoint_mode);
        merge_maps(&mut self.labels, later.labels);
        merge_part(
            &mut self.update_config,
            later.update_config,
            UpdateConfig::merge,
        );
        merge_part(
            &mut self.rollback_config,
            later.rollback_config,
            UpdateConfig::merge,
        );
        merge_part(
            &mut self.restart_policy,
            later.restart_policy,
            |base, later| {
                override_with!(base, later: condition, delay, max_attempts, window);
            },
        );
        merge_part(&mut self.limits, later.limits, |base, later| {
            override_with!(base, later: cpus, memory, pids);
        });
        merge_part(&mut self.reservations, later.reservations, |base, later| {
            override_with!(base, later: cpus, memory);
            base.generic_resources.extend(later.generic_resources);
            base.devices.extend(later.devices);
        });
        self.constraints.extend(later.constraints);
        self.preferences.extend(later.preferences);
    }

    pub fn print(&self) -> Out {
        let mut out = MapOut::default();
        out.put_text("mode", self.mode.as_deref());
        out.put_some(
            "replicas",
            self.replicas.as_ref().map(|replicas| count(replicas.value)),
        );
        out.put("labels", self.labels.as_ref().map_or(Out::Null, print_map));
        out.put_some(
            "update_config",
            self.update_config.as_ref().map(UpdateConfig::print),
        );
        out.put_some(
            "rollback_config",
            self.rollback_config.as_ref().map(UpdateConfig::print),
        );
        let mut resources = MapOut::default();
        resources.put_some("limits", self.limits.as_ref().map(Limits::print));
        resources.put_some(
            "reservations",
            self.reservations.as_ref().map(Reservations::print),
        );
        out.put("resources", resources.done());
        out.put_some(
            "restart_policy",
            self.restart_policy.as_ref().map(RestartPolicy::print),
        );
        let mut placement = MapOut::default();
        placement.put("constraints", Out::list(&self.constraints));
        let spread = |key: &String| Out::Map(vec![("spread".to_owned(), Out::text(key))]);
        placement.put(
            "preferences",
            Out::List(self.preferences.iter().map(spread).collect()),
        );
        placement.put(
            "max_replicas_per_node",
            self.max_replicas_per_node.map_or(Out::Null, count),
        );
        out.put("placement", placement.done());
        out.put_text("endpoint_mode", self.endpoint_mode.as_deref());
        out.done()
    }

    /// Where the number of replicas was written.
    pub fn replicas_at(&self, otherwise: At) -> At {
        self.replicas
            .as_ref()
            .map_or(otherwise, |replicas| replicas.at)
    }
}

fn print_length(length: Option<Nanos>) -> Option<Out> {
    length.map(|length| Out::text(duration::print(length)))
}

impl UpdateConfig {
    fn merge(&mut self, later: Self) {
        override_with!(self, later: parallelism, delay, failure_action, monitor,
            max_failure_ratio, order);
    }

    fn print(&self) -> Out {
        let mut out = MapOut::default();
        let positive = |length: &Nanos| length.0 != 0;
        out.put_some("parallelism", self.parallelism.map(count));
        out.put_some("delay", print_length(self.delay.filter(positive)));
        out.put_text("failure_action", self.failure_action.as_deref());
        out.put_some("monitor", print_length(self.monitor.filter(positive)));
        // By way of text, so that 0.1 stays 0.1 and not 0.10000000149.
        let ratio = self
            .max_failure_ratio
            .and_then(|ratio| ratio.to_string().parse().ok());
        out.put("max_failure_ratio", ratio.map_or(Out::Null, Out::Float));
        out.put_text("order", self.order.as_deref());
        out.done()
    }
}

fn put_amounts(out: &mut MapOut, cpus: Option<&Cpus>, memory: Option<i64>) {
    out.put_text("cpus", cpus.map(|cpus| cpus.text.as_str()));
    let memory = memory.filter(|memory| *memory != 0);
    out.put(
        "memory",
        memory.map_or(Out::Null, |memory| Out::text(memory.to_string())),
    );
}

impl Limits {
    fn print(&self) -> Out {
        let mut out = MapOut::default();
        put_amounts(&mut out, self.cpus.as_ref(), self.memory);
        out.put("pids", Out::Int(self.pids.unwrap_or(0)));
        out.done()
    }
}

impl Reservations {
    fn print(&self) -> Out {
        let mut out = MapOut::default();
        put_amounts(&mut out, self.cpus.as_ref(), self.memory);
        let generic = |one: &Generic| {
            Out::Map(vec![(
                "discrete_resource_spec".to_owned(),
                Out::Map(vec![
                    ("kind".to_owned(), Out::text(&one.kind)),
                    ("value".to_owned(), Out::Int(one.value)),
                ]),
            )])
        };
        out.put(
            "generic_resources",
            Out::List(self.generic_resources.iter().map(generic).collect()),
        );
        out.done()
    }
}

impl RestartPolicy {
    fn print(&self) -> Out {
        let mut out = MapOut::default();
        out.put_text("condition", self.condition.as_deref());
        out.put_some("delay", print_length(self.delay));
        out.put_some("max_attempts", self.max_attempts.map(count));
        out.put_some("window", print_length(self.window));
        out.done()
    }
}
