//! `extra_hosts` of services and builds.

use crate::context::Context;
use crate::field::Pair;
use crate::fields::Fields;
use crate::tree::Value;

/// `extra_hosts` as a mapping, or a list of `name:address` or `name=address`.
pub(crate) fn read(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Vec<String> {
    let Some(field) = fields.take("extra_hosts") else {
        return Vec::new();
    };
    let mut hosts = Vec::new();
    let is_map = matches!(field.node.value, Value::Map(_));
    let separator = |text: &str| if text.contains('=') { '=' } else { ':' };
    let pairs: Vec<Pair> = if is_map {
        field.pairs('=', cx)
    } else {
        let strings = field.different_strings(cx);
        strings
            .into_iter()
            .map(|string| {
                let (name, value) = match string.value.split_once(separator(&string.value)) {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (string.value, None),
                };
                Pair {
                    at: string.at,
                    name,
                    value,
                }
            })
            .collect()
    };
    for pair in pairs {
        let Some(address) = pair.value else {
            cx.warn_with_hint(
                pair.at,
                format!("bad format for add-host: \"{}\" is left out", pair.name),
                "entries look like \"name:10.1.2.3\"",
            );
            continue;
        };
        let address = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(&address);
        hosts.push(format!("{}:{address}", pair.name));
    }
    if is_map {
        hosts.sort();
    }
    hosts
}
