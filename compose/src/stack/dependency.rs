//! What the services of a stack wait for.

use std::collections::BTreeMap;

use skep_model::dependency::circle;
use skep_model::{Dependency, DependencyCondition};

use super::scoped;
use crate::context::Context;
use crate::file::File;
use crate::file::dependency::Dependency as Written;
use crate::text::nearest::nearest;

/// All dependencies, by the full name of the service that has them.
///
/// Docker's client ignores the short form and refuses the long one, so a short form that cannot be is
/// left out with a warning, and a long one is an error.
pub(super) fn dependencies(file: &File, cx: &mut Context<'_>) -> BTreeMap<String, Vec<Dependency>> {
    let mut edges: BTreeMap<&str, Vec<&Written>> = BTreeMap::new();
    for (name, service) in &file.services {
        for written in &service.depends_on {
            if is_there(name, written, file, cx) {
                edges.entry(name).or_default().push(written);
            }
        }
    }
    leave_out_circles(&mut edges, cx);
    let full = edges.into_iter().filter_map(|(name, written)| {
        let mut on: Vec<Dependency> = written
            .into_iter()
            .map(|one| Dependency {
                service: scoped(&one.service, cx),
                condition: one.condition,
            })
            .collect();
        on.sort();
        (!on.is_empty()).then(|| (scoped(name, cx), on))
    });
    full.collect()
}

/// Whether some service waits until `name` has ended.
pub(super) fn is_to_end(name: &str, file: &File) -> bool {
    let ends = DependencyCondition::CompletedSuccessfully;
    let mut all = file.services.values().flat_map(|one| &one.depends_on);
    all.any(|one| one.service == name && one.condition == ends)
}

fn is_there(name: &str, written: &Written, file: &File, cx: &mut Context<'_>) -> bool {
    let other = &written.service;
    if written.restart {
        let what = format!("services.{name}.depends_on.{other}.restart has no effect");
        cx.warn(
            written.at,
            format!("{what}: a service finds its tasks wherever they are started again"),
        );
    }
    if file.services.contains_key(other) {
        return true;
    }
    if !written.required {
        return false;
    }
    let message = format!("service {name} depends on undefined service {other}");
    let known: Vec<&str> = file.services.keys().map(String::as_str).collect();
    if written.short {
        cx.warn(written.at, format!("{message}: it does not wait for it"));
    } else if let Some(near) = nearest(other, &known) {
        cx.error_with_hint(written.at, message, format!("did you mean `{near}`?"));
    } else {
        cx.error_with_hint(
            written.at,
            message,
            "with `required: false` it is waited for only if it is there",
        );
    }
    false
}

/// Services that wait for one another would wait for ever.
fn leave_out_circles(edges: &mut BTreeMap<&str, Vec<&Written>>, cx: &mut Context<'_>) {
    loop {
        let names = edges.iter().map(|(name, on)| {
            let on = on.iter().map(|one| one.service.as_str());
            (*name, on.collect())
        });
        let Some(circle) = circle(&names.collect()) else {
            return;
        };
        let of = |from: &str, to: &str| {
            let found = edges.get(from)?.iter().find(|one| one.service == to);
            found.copied()
        };
        let pairs = circle.iter().zip(circle.iter().skip(1));
        let written: Vec<&Written> = pairs.filter_map(|(from, to)| of(from, to)).collect();
        let told = format!("dependency cycle detected: {}", circle.join(" -> "));
        match written.iter().find(|one| !one.short) {
            Some(long) => cx.error(long.at, told),
            None => {
                let last = written.last().expect("a circle has an edge");
                cx.warn(last.at, format!("{told}: the last is not waited for"));
            }
        }
        let [.., from, to] = circle.as_slice() else {
            return;
        };
        if let Some(on) = edges.get_mut(from.as_str()) {
            on.retain(|one| one.service != *to);
        }
    }
}
