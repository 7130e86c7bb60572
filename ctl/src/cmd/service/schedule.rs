//! Schedules of jobs: the flags that write their labels, and how a service tells of its own.

use std::collections::BTreeMap;

use skep_model::schedule::{
    CATCH_UP_LABEL, CONCURRENCY_LABEL, SCHEDULE_LABEL, SUSPEND_LABEL, ScheduleStatus,
    TIME_ZONE_LABEL,
};
use skep_model::service::{Empty, ServiceMode};
use skep_model::{Service, ServiceSpec, Timestamp};

use super::ls::mode;
use crate::failure::Outcome;
use crate::flags::Args;
use crate::human;
use crate::json::Json;

const FLAGS: [(&str, &str); 5] = [
    ("schedule", SCHEDULE_LABEL),
    ("schedule-time-zone", TIME_ZONE_LABEL),
    ("schedule-concurrency", CONCURRENCY_LABEL),
    ("schedule-catch-up", CATCH_UP_LABEL),
    ("schedule-suspend", SUSPEND_LABEL),
];

/// Writes what the flags say into the labels. An empty value takes the label away, and without a
/// schedule the others go as well.
pub fn set(args: &Args, labels: &mut BTreeMap<String, String>) {
    for (flag, label) in FLAGS.into_iter().filter(|(flag, _)| args.given(flag)) {
        let value = match flag {
            "schedule-suspend" if !args.flag(flag) => String::new(),
            "schedule-suspend" => "true".to_owned(),
            _ => args.text(flag).trim().to_owned(),
        };
        match value.is_empty() {
            true => labels.remove(label),
            false => labels.insert(label.to_owned(), value),
        };
    }
    if args.given("schedule") && !labels.contains_key(SCHEDULE_LABEL) {
        let given = |flag: &str| args.given(flag) && flag != "schedule-suspend";
        for (_, label) in FLAGS.into_iter().filter(|(flag, _)| !given(flag)) {
            labels.remove(label);
        }
    }
}

/// Refuses what the flags say before the daemon does, and names the flag.
pub fn check(args: &Args, spec: &ServiceSpec) -> Outcome {
    let Err(error) = spec.schedule() else {
        return Ok(());
    };
    let mut flags = FLAGS.into_iter();
    match flags.find(|(flag, label)| error.label == *label && args.given(flag)) {
        Some((flag, _)) => Err(args.invalid(flag, args.text(flag), &error.message)),
        // It was so before, or is said by a label: the daemon will say.
        None => Ok(()),
    }
}

/// The service as far as its schedule goes. Nothing when it has none.
fn known(service: &Json) -> Option<Service> {
    let mut known = Service::default();
    known.spec.labels = service.text_map("Spec.Labels");
    known.spec.mode = match mode(service) {
        "replicated job" | "global job" => ServiceMode::GlobalJob(Empty {}),
        _ => return None,
    };
    known.spec.schedule().ok()??;
    let until = service.str("Schedule.SettledUntil");
    known.schedule = (!until.is_empty()).then(|| ScheduleStatus {
        settled_until: Timestamp::parse(until).unwrap_or_default(),
        ..ScheduleStatus::default()
    });
    Some(known)
}

pub fn is_scheduled(service: &Json) -> bool {
    known(service).is_some()
}

/// When the job runs next; nothing while it is suspended.
pub fn next(service: &Json) -> Option<Timestamp> {
    known(service)?.next_run()
}

/// What `ls` adds to the tasks of a job with a schedule.
pub fn note(service: &Json, now: Timestamp) -> String {
    let Some(known) = known(service) else {
        return String::new();
    };
    match known.next_run() {
        Some(next) if next > now => {
            let wait = human::age(next.since(now));
            let wait = wait
                .replacen("About", "about", 1)
                .replacen("Less", "less", 1);
            format!(", next in {wait}")
        }
        Some(_) => ", due".to_owned(),
        None => ", suspended".to_owned(),
    }
}

/// What `inspect --pretty` shows of a schedule.
pub fn show(service: &Json, line: &mut dyn FnMut(&str, &str)) {
    let Some(known) = known(service) else { return };
    let Ok(Some(schedule)) = known.spec.schedule() else {
        return;
    };
    let labels = &known.spec.labels;
    line("Schedule:", "");
    line(
        " Times:\t\t",
        labels.get(SCHEDULE_LABEL).map_or("", String::as_str),
    );
    line(" Time Zone:\t", known.spec.time_zone());
    line(" Concurrency:\t", schedule.concurrency.as_str());
    if let Some(catch_up) = labels.get(CATCH_UP_LABEL) {
        line(" Catch Up:\t", catch_up);
    }
    let next = known.next_run();
    line(
        " Next Run:\t",
        &next.map_or_else(|| "suspended".to_owned(), human::go_time),
    );
    let mut runs = service.list("Schedule.Runs").iter();
    if let Some(run) = runs.find(|run| run.int("Iteration") > 0) {
        let at = Timestamp::parse(run.str("StartedAt")).unwrap_or_default();
        let told = format!("{} ({})", human::go_time(at), run.str("Outcome"));
        line(" Last Run:\t", &told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(labels: serde_json::Value) -> Json {
        Json::of(&json!({
            "Spec": {"Labels": labels, "Mode": {"ReplicatedJob": {}}},
            "Schedule": {
                "SettledUntil": "2026-03-01T10:00:00Z",
                "Runs": [
                    {"ScheduledAt": "2026-03-01T10:00:00Z", "Outcome": "skipped", "Count": 2},
                    {"Iteration": 3, "StartedAt": "2026-03-01T09:50:01Z", "Outcome": "failed"},
                ]
            }
        }))
    }

    #[test]
    fn a_schedule_is_told_with_its_next_and_last_run() {
        let service = job(json!({
            "skep.schedule": "*/10 * * * *",
            "skep.schedule.time-zone": "Europe/Berlin",
        }));
        let mut lines = Vec::new();
        show(&service, &mut |label, value| {
            lines.push(format!("{label}{value}"))
        });
        assert_eq!(
            lines,
            [
                "Schedule:",
                " Times:\t\t*/10 * * * *",
                " Time Zone:\tEurope/Berlin",
                " Concurrency:\tforbid",
                " Next Run:\t2026-03-01 10:10:00 +0000 UTC",
                " Last Run:\t2026-03-01 09:50:01 +0000 UTC (failed)",
            ]
        );
        let at = |text| Timestamp::parse(text).unwrap();
        assert_eq!(
            note(&service, at("2026-03-01T10:06:00Z")),
            ", next in 4 minutes"
        );
        assert_eq!(note(&service, at("2026-03-01T10:10:00Z")), ", due");
    }

    #[test]
    fn others_tell_nothing_and_suspended_ones_say_so() {
        let now = Timestamp::from_secs(0);
        assert_eq!(note(&job(json!({})), now), "");
        let suspended = json!({"skep.schedule": "@daily", "skep.schedule.suspend": "true"});
        assert_eq!(note(&job(suspended), now), ", suspended");
    }
}
