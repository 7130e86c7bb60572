//! Services that are scaled by themselves: the flags that write their labels, and what is told of them.

use std::collections::BTreeMap;

use skep_model::autoscale::{
    CPU_LABEL, MAX_LABEL, MEMORY_LABEL, MIN_LABEL, QUERY_LABEL, QUERY_TARGET_LABEL,
    QUERY_URL_LABEL, WINDOW_LABEL,
};
use skep_model::{ServiceSpec, Timestamp};

use crate::cmd::task::now;
use crate::failure::Outcome;
use crate::flags::Args;
use crate::human;
use crate::json::Json;

const FLAGS: [(&str, &str); 8] = [
    ("autoscale-max", MAX_LABEL),
    ("autoscale-min", MIN_LABEL),
    ("autoscale-cpu", CPU_LABEL),
    ("autoscale-memory", MEMORY_LABEL),
    ("autoscale-query", QUERY_LABEL),
    ("autoscale-query-url", QUERY_URL_LABEL),
    ("autoscale-query-target", QUERY_TARGET_LABEL),
    ("autoscale-window", WINDOW_LABEL),
];

/// Writes what the flags say into the labels. An empty value takes the label away, and without a
/// most the others go as well.
pub fn set(args: &Args, labels: &mut BTreeMap<String, String>) {
    for (flag, label) in FLAGS.into_iter().filter(|(flag, _)| args.given(flag)) {
        let value = args.text(flag).trim();
        match value.is_empty() {
            true => labels.remove(label),
            false => labels.insert(label.to_owned(), value.to_owned()),
        };
    }
    if args.given("autoscale-max") && !labels.contains_key(MAX_LABEL) {
        for (_, label) in FLAGS.into_iter().filter(|(flag, _)| !args.given(flag)) {
            labels.remove(label);
        }
    }
}

/// Refuses what the flags say before the daemon does, and names the flag.
pub fn check(args: &Args, spec: &ServiceSpec) -> Outcome {
    let Err(error) = spec.autoscale() else {
        return Ok(());
    };
    let mut flags = FLAGS.into_iter();
    match flags.find(|(flag, label)| error.label == *label && args.given(flag)) {
        Some((flag, _)) => Err(args.invalid(flag, args.text(flag), &error.message)),
        // It was so before, or is said by a label: the daemon will say.
        None => Ok(()),
    }
}

/// What `inspect --pretty` shows.
pub fn show(service: &Json, line: &mut dyn FnMut(&str, &str)) {
    let labels = service.text_map("Spec.Labels");
    let Some(max) = labels.get(MAX_LABEL) else {
        return;
    };
    let min = labels.get(MIN_LABEL).map_or("1", String::as_str);
    line("Autoscale:", "");
    line(" Replicas:\t", &format!("{min} to {max}"));
    for figure in service.texts("Autoscale.Figures") {
        line(" Measured:\t", figure);
    }
    let at = Timestamp::parse(service.str("Autoscale.ChangedAt")).unwrap_or_default();
    if !at.is_zero() {
        let told = format!(
            "{} to {}, {}: {}",
            service.int("Autoscale.From"),
            service.int("Autoscale.To"),
            human::ago(at, now()),
            service.str("Autoscale.Because")
        );
        line(" Last Change:\t", &told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_measured_and_changed_is_told() {
        let service = Json::of(&json!({
            "Spec": {"Labels": {"skep.autoscale.max": "5", "skep.autoscale.cpu": "50"}},
            "Autoscale": {
                "Figures": ["cpu: 0.90 CPUs each, 0.50 CPUs wanted"],
                "ChangedAt": "2026-01-01T00:00:00Z",
                "From": 1,
                "To": 2,
                "Because": "cpu asks for 2",
            }
        }));
        let mut lines = Vec::new();
        show(&service, &mut |label, value| {
            lines.push(format!("{label}{value}"))
        });
        assert_eq!(
            lines[..3],
            [
                "Autoscale:",
                " Replicas:\t1 to 5",
                " Measured:\tcpu: 0.90 CPUs each, 0.50 CPUs wanted",
            ]
        );
        assert!(lines[3].starts_with(" Last Change:\t1 to 2, "), "{lines:?}");
        assert!(lines[3].ends_with(" ago: cpu asks for 2"), "{lines:?}");
    }
}
