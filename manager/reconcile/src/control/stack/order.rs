//! The order in which a stack is written, which says nothing.

use skep_model::StackSpec;

/// So that what is written in another order is no other revision.
pub(super) fn put_in_order(spec: &mut StackSpec) {
    spec.networks.sort_by(|a, b| a.name.cmp(&b.name));
    spec.secrets.sort_by(|a, b| a.name.cmp(&b.name));
    spec.configs.sort_by(|a, b| a.name.cmp(&b.name));
    spec.services.sort_by(|a, b| a.name.cmp(&b.name));
    spec.depends_on.values_mut().for_each(|on| on.sort());
    let services = spec.services.iter_mut();
    for container in services.filter_map(|one| one.task_template.container_spec.as_mut()) {
        container.env = in_order(&container.env);
    }
}

/// Variables by name, where their order says nothing: none is named twice.
pub(super) fn in_order(env: &[String]) -> Vec<String> {
    let mut sorted = env.to_vec();
    sorted.sort();
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let twice = sorted
        .windows(2)
        .any(|pair| name(&pair[0]) == name(&pair[1]));
    match twice {
        true => env.to_vec(),
        false => sorted,
    }
}
