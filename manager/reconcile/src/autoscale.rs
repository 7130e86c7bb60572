//! Services whose replicas follow what they use: what was measured becomes one commit.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_model::autoscale::{Autoscale, AutoscaleStatus, Target};
use skep_model::service::Replicated;
use skep_model::{Service, ServiceId, ServiceMode, TaskId, Timestamp};
use skep_plan::autoscale::{Lately, Measured, decide};
use skep_store::{Commit, Snapshot, Transaction};

/// What is measured is written down so often at most, unless replicas change; and so often when it is
/// always the same.
const WRITTEN_EVERY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
/// Services that one commit changes at most; the others have their turn at the next look.
const CHANGES_MAX: usize = 200;

/// What one task uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    pub nano_cpus: f64,
    pub bytes: f64,
}

/// What is known of the present: nothing that is too old.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usages {
    pub tasks: BTreeMap<TaskId, Usage>,
    /// Values of expressions.
    pub values: BTreeMap<ServiceId, f64>,
}

/// What the leader remembers of its recommendations. Start with an empty one on becoming leader.
#[derive(Debug, Clone, Default)]
pub struct Scaling(BTreeMap<ServiceId, Lately>);

/// Gives services the replicas that their tasks ask for.
///
/// Replicas belong to no revision, and no task becomes outdated by them: the spec's version stays, so
/// do what a rollback leads to and an update that is under way.
pub fn autoscale(
    snapshot: &Snapshot,
    usages: &Usages,
    scaling: &mut Scaling,
    now: Timestamp,
) -> Option<Commit> {
    scaling.0.retain(|id, _| snapshot.service(id).is_some());
    let mut transaction = Transaction::new(snapshot, now);
    let scaled = snapshot.services().filter(|one| one.spec.is_autoscaled());
    for service in scaled {
        if transaction.len() >= CHANGES_MAX {
            break;
        }
        // Labels that say nothing sensible were refused at the door.
        let Ok(Some(wanted)) = service.spec.autoscale() else {
            continue;
        };
        let lately = scaling.0.entry(service.id.clone()).or_default();
        if let Some(changed) = scale(snapshot, service, &wanted, usages, lately, now) {
            // Services keep their names.
            let _ = transaction.put(changed);
        }
    }
    transaction.commit()
}

fn scale(
    snapshot: &Snapshot,
    service: &Service,
    wanted: &Autoscale,
    usages: &Usages,
    lately: &mut Lately,
    now: Timestamp,
) -> Option<Service> {
    let ServiceMode::Replicated(replicated) = &service.spec.mode else {
        return None;
    };
    let current = replicated.count();
    let measured: Vec<Measured> = wanted
        .targets
        .iter()
        .map(|target| measure(snapshot, service, target, usages))
        .collect();
    let decision = decide(wanted, current, &measured, lately, now);
    let status = service.autoscale.clone().unwrap_or_default();
    let pairs = wanted.targets.iter().zip(&measured);
    let figures: Vec<String> = pairs
        .map(|(target, measured)| figure(target, *measured, current))
        .collect();
    let changes = decision.replicas != current;
    if !changes && !is_news(&status, &figures, now) {
        return None;
    }
    let mut changed = service.clone();
    let mut status = AutoscaleStatus {
        figures,
        measured_at: now,
        ..status
    };
    if changes {
        status.changed_at = Some(now);
        (status.from, status.to) = (current, decision.replicas);
        status.because = decision.because;
        changed.spec.mode = ServiceMode::Replicated(Replicated {
            replicas: Some(decision.replicas),
        });
        changed.revision.later.mode = true;
    }
    changed.autoscale = Some(status);
    Some(changed)
}

/// Whether what was measured is worth a place in the log.
fn is_news(status: &AutoscaleStatus, figures: &[String], now: Timestamp) -> bool {
    let age = now.since(status.measured_at);
    let every = match status.figures == figures {
        true => WRITTEN_EVERY.1,
        false => WRITTEN_EVERY.0,
    };
    age >= every || status.measured_at > now
}

fn measure(snapshot: &Snapshot, service: &Service, target: &Target, usages: &Usages) -> Measured {
    let of_task: fn(&Usage) -> f64 = match target {
        Target::Query { .. } => {
            let value = usages.values.get(&service.id);
            return value.map_or(Measured::Unknown, |value| Measured::Whole(*value));
        }
        Target::Cpu { .. } => |usage| usage.nano_cpus,
        Target::Memory { .. } => |usage| usage.bytes,
    };
    let tasks = snapshot.tasks_of_service(&service.id);
    let (mut sum, mut measured, mut ready) = (0.0, 0, 0);
    for task in tasks.filter(|task| task.serves()) {
        ready += 1;
        if let Some(usage) = usages.tasks.get(&task.id) {
            sum += of_task(usage);
            measured += 1;
        }
    }
    Measured::Tasks {
        sum,
        measured,
        ready,
    }
}

/// What was measured, in words.
fn figure(target: &Target, measured: Measured, current: u64) -> String {
    let name = target.name();
    let shown = |value: f64| match target {
        Target::Cpu { .. } => format!("{:.2} CPUs", value / 1e9),
        Target::Memory { .. } => format!("{:.1} MiB", value / f64::from(1 << 20)),
        Target::Query { .. } => format!("{value:.2}"),
    };
    let target = shown(target.value());
    match measured {
        Measured::Unknown => format!("{name}: not known, {target} wanted"),
        Measured::Tasks { measured: 0, .. } => format!("{name}: not measured, {target} wanted"),
        Measured::Tasks { sum, measured, .. } => {
            let each = shown(sum / measured as f64);
            format!("{name}: {each} each, {target} wanted")
        }
        Measured::Whole(value) => {
            let each = shown(value / current.max(1) as f64);
            format!("{name}: {each} each, {target} wanted")
        }
    }
}
