//! Days of jobs that run by schedules: time goes in leaps, leaders with clocks of their own change,
//! commits are lost, users interfere. Then come two quiet minutes.

use std::time::Duration;

use skep_model::schedule::{
    CATCH_UP_LABEL, CONCURRENCY_LABEL, SCHEDULE_LABEL, SUSPEND_LABEL, TIME_ZONE_LABEL,
};
use skep_model::{ControlRequest, Service, ServiceSpec, Timestamp};
use skep_reconcile::{Memory, control, reconcile, record_statuses};
use skep_store::{Commit, Snapshot};

use crate::founding::found;
use crate::host::Host;
use crate::invariant::cron::{Started, nothing_is_due};
use crate::invariant::{self, Drains};
use crate::log::Log;
use crate::random::Dice;
use crate::session::{self, Desk};

const MANAGERS: usize = 3;
const NODES: u64 = 3;
/// Steps with faults.
const STEPS: u64 = 300;
/// How far clocks of managers are apart at most: well below what is taken for a wrong one.
const SKEW_MAX_SECS: u64 = 1800;
const NAMES: [&str; 3] = ["backup", "report", "sweep"];
const SCHEDULES: [&str; 5] = [
    "* * * * *",
    "*/7 * * * *",
    "30 2 * * *",
    "0 */3 * * *",
    "15,45 1-3 * * *",
];
const ZONES: [&str; 3] = ["UTC", "Europe/Berlin", "America/Santiago"];
const IMAGES: [&str; 4] = ["good:1", "good:2", "slow", "crash"];

/// Something put wrong on purpose: changes what the leader of this state wants to commit.
pub type Bug = fn(&Snapshot, &mut Commit);

/// What a life that went well did, to tell that it did something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub commits: usize,
    pub elections: usize,
    pub lost: usize,
    pub runs: u64,
}

/// Lives through the days that `seed` makes. With a bug they are to end in an error.
///
/// # Errors
/// What did not hold, and when.
pub fn run(seed: u64, bug: Option<Bug>) -> Result<Counts, String> {
    let mut days = Days::new(seed, bug);
    days.live()
        .map_err(|what| format!("seed {seed}, at {}: {what}", days.now))?;
    Ok(days.counts)
}

struct Days {
    dice: Dice,
    bug: Option<Bug>,
    /// The true time.
    now: Timestamp,
    log: Log,
    /// How far ahead each manager's clock is, and all are put back by half of that.
    ahead_secs: [u64; MANAGERS],
    memory: Memory,
    hosts: Vec<Host>,
    desks: Vec<Desk>,
    drains: Drains,
    started: Started,
    counts: Counts,
}

impl Days {
    fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut dice = Dice::new(seed);
        // Days on which clocks are changed, and others.
        let days = ["2026-03-28", "2026-10-24", "2026-09-05", "2026-06-01"];
        let day = dice.pick(&days).copied().unwrap_or("2026-06-01");
        let start = Timestamp::parse(&format!("{day}T20:00:00Z")).unwrap_or_default();
        Self {
            dice,
            bug,
            now: start,
            log: Log::new(MANAGERS),
            ahead_secs: [0; MANAGERS],
            memory: Memory::new(),
            hosts: Vec::new(),
            desks: (0..MANAGERS).map(|_| Desk::default()).collect(),
            drains: Drains::default(),
            started: Started::default(),
            counts: Counts::default(),
        }
    }

    fn live(&mut self) -> Result<(), String> {
        self.hosts = found(&mut self.log, NODES, self.now, &mut self.dice)?;
        for _ in 0..STEPS {
            let leap = self.leap();
            self.now = self.now.plus(Duration::from_millis(leap));
            self.strike()?;
            self.step(5)?;
        }
        self.ahead_secs = [SKEW_MAX_SECS / 2; MANAGERS];
        for _ in 0..120 {
            self.now = self.now.plus(Duration::from_secs(1));
            self.step(0)?;
        }
        let snapshot = self.log.snapshot();
        let runs = snapshot
            .services()
            .filter_map(|one| one.job_status.as_ref());
        self.counts.runs = runs.map(|status| status.job_iteration.index).sum();
        nothing_is_due(&snapshot, self.now)
    }

    /// Milliseconds until the next step; for most of a night nobody may be there.
    fn leap(&mut self) -> u64 {
        match self.dice.below(100) {
            0..80 => self.dice.between(100, 5000),
            80..94 => self.dice.between(20_000, 100_000),
            94..99 => self.dice.between(300_000, 10_000_000),
            _ => self.dice.between(10_000_000, 200_000_000),
        }
    }

    /// The time on the leader's clock.
    fn leaders_now(&self) -> Timestamp {
        let ahead = self.ahead_secs[self.log.leader()];
        let back = Duration::from_secs(SKEW_MAX_SECS / 2);
        let back = i64::try_from(back.as_nanos()).unwrap_or(0);
        Timestamp(self.now.plus(Duration::from_secs(ahead)).0 - back)
    }

    fn strike(&mut self) -> Result<(), String> {
        if self.dice.chance(5) {
            self.log.elect(&mut self.dice)?;
            self.memory = Memory::new();
            self.counts.elections += 1;
        }
        if self.dice.chance(3) {
            let which = usize::try_from(self.dice.below(MANAGERS as u64)).unwrap_or(0);
            self.ahead_secs[which] = self.dice.between(0, SKEW_MAX_SECS);
        }
        if self.dice.chance(3) {
            self.log.restore(&mut self.dice)?;
        }
        Ok(())
    }

    /// Everybody looks at the same state and proposes; of the proposals so many percent are lost.
    fn step(&mut self, lost: u64) -> Result<(), String> {
        session::follow(&mut self.desks, self.log.stores(), &mut self.hosts);
        for host in &mut self.hosts {
            host.listen(&self.desks, (self.now, lost > 0), &mut self.dice, None);
            host.advance(self.now, lost > 0, &mut self.dice);
        }
        let seen = self.log.snapshot();
        let now = self.leaders_now();
        let mut proposals = Vec::new();
        if lost > 0 && self.dice.chance(15) {
            let wish = self.wish(&seen);
            let asked = wish.map(|wish| control::execute(&wish, &seen, now, &mut self.dice));
            proposals.extend(asked.and_then(Result::ok).map(|(commit, _)| commit));
        }
        let reports: Vec<_> = self
            .hosts
            .iter()
            .flat_map(|host| host.reports(&seen, now))
            .collect();
        proposals.extend(record_statuses(&seen, &reports, now));
        let step = reconcile(&seen, &mut self.memory, now, &mut self.dice);
        proposals.extend(step.commit.map(|mut commit| {
            if let Some(bug) = self.bug {
                bug(&seen, &mut commit);
            }
            commit
        }));
        self.dice.shuffle(&mut proposals);
        for commit in proposals {
            if self.dice.chance(lost) {
                self.counts.lost += 1;
                continue;
            }
            self.commit(&commit)?;
        }
        self.log.follow(&mut self.dice, lost)?;
        invariant::always(&self.log.snapshot(), &self.hosts, &self.drains)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), String> {
        // A lost race is decided anew at the next step.
        let Ok(applied) = self.log.commit(commit) else {
            return Ok(());
        };
        self.counts.commits += 1;
        self.drains.follow(&applied.events);
        self.started.after_commit(&applied.events)
    }

    /// Something a user does to a job.
    fn wish(&mut self, seen: &Snapshot) -> Option<ControlRequest> {
        let services: Vec<_> = seen.services().cloned().collect();
        let service = match self.dice.pick(&services) {
            Some(service) if services.len() >= NAMES.len() || self.dice.chance(60) => {
                service.clone()
            }
            _ => return Some(self.create()),
        };
        let mut spec = service.spec.clone();
        match self.dice.below(12) {
            0 => {
                let id = service.id.clone();
                return Some(ControlRequest::RemoveService { id });
            }
            1 | 2 => {
                let id = service.id.clone();
                return Some(ControlRequest::RunJob { id });
            }
            3 => spec.task_template.force_update += 1,
            4 => self.schedule(&mut spec),
            5 | 6 => match spec.labels.remove(SUSPEND_LABEL) {
                Some(_) => (),
                None => label(&mut spec, SUSPEND_LABEL, "true"),
            },
            7 => {
                let word = self.dice.pick(&["forbid", "replace", "allow"]).copied();
                label(&mut spec, CONCURRENCY_LABEL, word.unwrap_or("forbid"));
            }
            8 => label(&mut spec, "note", &self.dice.below(5).to_string()),
            9 => return Some(update(&service, spec, true)),
            _ => self.image(&mut spec),
        }
        Some(update(&service, spec, false))
    }

    fn create(&mut self) -> ControlRequest {
        let name = self.dice.pick(&NAMES).copied().unwrap_or(NAMES[0]);
        let mode = match self.dice.chance(30) {
            true => r#"{"GlobalJob":{}}"#,
            false => r#"{"ReplicatedJob":{"MaxConcurrent":2,"TotalCompletions":3}}"#,
        };
        let restart = match self.dice.chance(50) {
            true => r#"{"Condition":"none"}"#,
            false => r#"{"Condition":"on-failure","MaxAttempts":2,"Delay":1000000000}"#,
        };
        let json = format!(
            r#"{{"Name":"{name}","Mode":{mode},"TaskTemplate":{{"ContainerSpec":{{"Image":"good:1"}},"RestartPolicy":{restart}}}}}"#
        );
        let mut spec: ServiceSpec = serde_json::from_str(&json).unwrap_or_default();
        self.schedule(&mut spec);
        if self.dice.chance(40) {
            label(&mut spec, CATCH_UP_LABEL, "20m");
        }
        if let Some(word) = self.dice.pick(&["forbid", "replace", "allow"]) {
            label(&mut spec, CONCURRENCY_LABEL, word);
        }
        ControlRequest::CreateService {
            spec: Box::new(spec),
        }
    }

    fn schedule(&mut self, spec: &mut ServiceSpec) {
        let times = self.dice.pick(&SCHEDULES).copied().unwrap_or(SCHEDULES[0]);
        let zone = self.dice.pick(&ZONES).copied().unwrap_or(ZONES[0]);
        label(spec, SCHEDULE_LABEL, times);
        label(spec, TIME_ZONE_LABEL, zone);
    }

    fn image(&mut self, spec: &mut ServiceSpec) {
        let image = self.dice.pick(&IMAGES).copied().unwrap_or(IMAGES[0]);
        if let Some(container) = &mut spec.task_template.container_spec {
            container.image = image.to_owned();
        }
    }
}

fn label(spec: &mut ServiceSpec, label: &str, value: &str) {
    spec.labels.insert(label.to_owned(), value.to_owned());
}

fn update(service: &Service, spec: ServiceSpec, rollback: bool) -> ControlRequest {
    ControlRequest::UpdateService {
        id: service.id.clone(),
        version: service.version,
        spec: Box::new(spec),
        registry_auth_from: Default::default(),
        rollback,
        revision: None,
    }
}
