//! Service keys that are read, printed and warned about, and have no effect in a cluster; and the
//! ones that are refused.

use crate::context::Context;
use crate::field::Field;
use crate::fields::Fields;
use crate::out::{MapOut, Out};
use crate::tree::Value;

/// Printed as it stands, whatever becomes of it.
pub(crate) const DEPENDS_ON: &str = "depends_on";

/// How a key's value is normalised when printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// As it stands.
    AsIs,
    Bool,
    Text,
    /// A list of texts; numbers become text, one text becomes a list.
    Texts,
    Build,
}

use Shape::{AsIs, Bool, Build, Text, Texts};

/// Keys that `docker stack` ignores with a warning.
const UNSUPPORTED: [(&str, Shape); 15] = [
    ("build", Build),
    ("cgroupns_mode", Text),
    ("cgroup_parent", Text),
    ("devices", Texts),
    ("domainname", Text),
    ("external_links", Texts),
    ("ipc", Text),
    ("links", Texts),
    ("mac_address", Text),
    ("network_mode", Text),
    ("pid", Text),
    ("privileged", Bool),
    ("security_opt", Texts),
    ("shm_size", Text),
    ("userns_mode", Text),
];

/// Keys that `docker stack` ignores as deprecated, and what it says about them.
const DEPRECATED: [(&str, Shape, &str); 2] = [
    (
        "container_name",
        Text,
        "Setting the container name is not supported.",
    ),
    (
        "expose",
        Texts,
        "Exposing ports is unnecessary - services on the same network can access each other's containers on any port.",
    ),
];

/// Keys of the Compose Specification that mean nothing to a cluster, and why.
const ELSEWHERE: [(&str, Shape, &str); 24] = [
    (
        "annotations",
        AsIs,
        "annotations of containers are not kept",
    ),
    ("attach", Bool, "logs are read with `service logs`"),
    (
        "blkio_config",
        AsIs,
        "block input and output is not limited",
    ),
    ("cgroup", Text, "every task has a control group of its own"),
    (
        "cpu_count",
        AsIs,
        "set resource limits using deploy.resources",
    ),
    (
        "cpu_percent",
        AsIs,
        "set resource limits using deploy.resources",
    ),
    (
        "cpu_period",
        AsIs,
        "set resource limits using deploy.resources",
    ),
    (
        "cpu_rt_period",
        AsIs,
        "set resource limits using deploy.resources",
    ),
    (
        "cpu_rt_runtime",
        AsIs,
        "set resource limits using deploy.resources",
    ),
    ("develop", AsIs, "it serves development on one machine"),
    (
        "device_cgroup_rules",
        AsIs,
        "devices of nodes are not passed to services",
    ),
    (
        "gpus",
        AsIs,
        "reserve what nodes offer with deploy.resources.reservations.generic_resources",
    ),
    ("mem_swappiness", AsIs, "swapping is the node's own matter"),
    ("models", AsIs, "models are not run by a cluster"),
    (
        "oom_kill_disable",
        Bool,
        "set resource limits using deploy.resources",
    ),
    ("post_start", AsIs, "no hooks are run"),
    ("pre_stop", AsIs, "no hooks are run"),
    ("provider", AsIs, "services are containers"),
    ("pull_policy", Text, "nodes pull images they do not have"),
    (
        "pull_refresh_after",
        Text,
        "nodes pull images they do not have",
    ),
    ("runtime", Text, "there is one runtime"),
    ("storage_opt", AsIs, "storage of containers is not limited"),
    (
        "use_api_socket",
        Bool,
        "the API socket is not passed to services",
    ),
    ("uts", Text, "every task has a host name of its own"),
];

/// Keys that `docker stack` refuses, and what it says about them.
const FORBIDDEN: [(&str, &str); 7] = [
    (
        "volume_driver",
        "Instead of setting the volume driver on the service, define a volume using the top-level `volumes` option and specify the driver there.",
    ),
    (
        "volumes_from",
        "To share a volume between services, define it using the top-level `volumes` option and reference it from each service that shares it using the service-level `volumes` option.",
    ),
    ("cpu_quota", "Set resource limits using deploy.resources"),
    ("cpu_shares", "Set resource limits using deploy.resources"),
    ("cpuset", "Set resource limits using deploy.resources"),
    ("mem_limit", "Set resource limits using deploy.resources"),
    (
        "memswap_limit",
        "Set resource limits using deploy.resources",
    ),
];

/// Takes these keys of a service; what is to be printed of them comes back.
pub(crate) fn read(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Vec<(&'static str, Out)> {
    let mut printed = Vec::new();
    for (name, why) in FORBIDDEN {
        if let Some(field) = fields.take_any(name) {
            cx.error_with_hint(
                field.key,
                format!(
                    "Compose file contains unsupported options: {name} ({})",
                    field.path
                ),
                why,
            );
        }
    }
    let mut keep = |name,
                    shape,
                    warning: &dyn Fn(&str) -> String,
                    fields: &mut Fields<'_>,
                    cx: &mut Context<'_>| {
        let Some(field) = fields.take(name) else {
            return;
        };
        cx.warn(field.key, warning(&field.path));
        let value = match shape {
            Bool => field.boolean(cx).map_or(Out::Null, Out::Bool),
            _ => {
                check_repeats(&field, shape, cx);
                normalise(Out::from(field.node), shape)
            }
        };
        if shape != Build || !value.is_empty() {
            printed.push((name, value));
        }
    };
    for (name, shape) in UNSUPPORTED {
        let warning = |path: &str| format!("Ignoring unsupported options: {name} ({path})");
        keep(name, shape, &warning, fields, cx);
    }
    for (name, shape, why) in DEPRECATED {
        let warning = |path: &str| format!("Ignoring deprecated options: {name}: {why} ({path})");
        keep(name, shape, &warning, fields, cx);
    }
    for (name, shape, why) in ELSEWHERE {
        let warning = |path: &str| format!("{path} has no effect: {why}");
        keep(name, shape, &warning, fields, cx);
    }
    // It has an effect as well: this is how it is printed.
    if let Some(field) = fields.take(DEPENDS_ON) {
        printed.push((DEPENDS_ON, Out::from(field.node)));
    }
    printed
}

/// Refuses lists that hold something twice, which docker's client does not read.
fn check_repeats(field: &Field<'_>, shape: Shape, cx: &mut Context<'_>) {
    match (shape, &field.node.value) {
        (Texts, Value::List(_)) => drop(field.different_items(cx)),
        (Build, Value::Map(_)) => {
            let lists = ["args", "cache_from", "extra_hosts", "labels"];
            for (key, own) in field.entries(cx) {
                if lists.contains(&key.text.as_str()) && matches!(own.node.value, Value::List(_)) {
                    own.different_items(cx);
                }
            }
        }
        _ => {}
    }
}

/// Puts a later mapping over an earlier one of the same key.
pub(crate) fn merge(name: &str, base: &mut Out, later: Out) {
    base.merge(later);
    if name == "build"
        && let Out::Map(entries) = base
    {
        *base = build(entries);
    }
}

fn normalise(value: Out, shape: Shape) -> Out {
    match (shape, value) {
        (Texts, Out::List(items)) => Out::List(
            items
                .into_iter()
                .map(|item| normalise(item, Text))
                .collect(),
        ),
        (Texts, Out::Text(text)) => Out::List(vec![Out::Text(text)]),
        (Text, Out::Int(number)) => Out::text(number.to_string()),
        (Text, Out::Uint(number)) => Out::text(number.to_string()),
        (Text, Out::Float(number)) => Out::text(crate::scalar::float_text(number)),
        (Build, Out::Text(context)) => Out::Map(vec![("context".to_owned(), Out::Text(context))]),
        (Build, Out::Map(entries)) => build(&entries),
        (_, value) => value,
    }
}

fn build(entries: &[(String, Out)]) -> Out {
    let order = [
        "context",
        "dockerfile",
        "args",
        "labels",
        "cache_from",
        "extra_hosts",
        "network",
        "target",
    ];
    let mut out = MapOut::default();
    for name in order {
        let Some((_, value)) = entries.iter().find(|(key, _)| key == name) else {
            continue;
        };
        let value = match name {
            "args" | "labels" => pairs(value.clone(), name == "args"),
            "cache_from" => normalise(value.clone(), Texts),
            _ => value.clone(),
        };
        out.put(name, value);
    }
    // The other keys are another tool's; docker prints none of them.
    out.done()
}

/// A list of `NAME=value` as a mapping, values as text.
fn pairs(value: Out, may_be_null: bool) -> Out {
    let mut entries: Vec<(String, Out)> = match value {
        Out::List(items) => items
            .into_iter()
            .map(|item| match item {
                Out::Text(text) => match text.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Out::text(value)),
                    None => (text, Out::Null),
                },
                other => (String::new(), other),
            })
            .collect(),
        Out::Map(entries) => entries
            .into_iter()
            .map(|(name, value)| (name, normalise(value, Text)))
            .collect(),
        other => return other,
    };
    if !may_be_null {
        for (_, value) in &mut entries {
            if *value == Out::Null {
                *value = Out::text("");
            }
        }
    }
    Out::sorted(entries)
}
