//! A service that is scaled by itself under loads that change, with measurements that are missing,
//! leaders that come and go, and a user who scales by hand. Then the load stays as it is.

use std::time::Duration;

use skep_model::autoscale::{CPU_LABEL, MAX_LABEL, MIN_LABEL, WINDOW_LABEL};
use skep_model::service::Replicated;
use skep_model::{ControlRequest, Service, ServiceMode, ServiceSpec, TaskId, Timestamp};
use skep_reconcile::autoscale::{Scaling, Usage, Usages, autoscale};
use skep_reconcile::{Memory, control, reconcile, record_statuses};
use skep_store::Commit;

use crate::founding::found;
use crate::host::Host;
use crate::log::Log;
use crate::random::Dice;
use crate::session::{self, Desk};

const START: Timestamp = Timestamp::from_secs(1_000_000);
const NODES: u64 = 3;
const MIN: u64 = 2;
const MAX: u64 = 12;
/// Billionths of a processor that each task is to use, and can.
const TARGET: f64 = 0.5e9;
const MOST: f64 = 1e9;
const WINDOW: Duration = Duration::from_secs(60);
/// Between two looks of the leader, in seconds.
const LOOK_SECS: u64 = 5;
/// Loads before the last one.
const LOADS: u64 = 5;

/// Something put wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// What is not measured counts as idle.
    SilenceIsIdle,
    /// A new leader believes that it has seen what the last one saw.
    NewLeaderKnows,
}

/// What a life that went well did, to tell that it did something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub up: usize,
    pub down: usize,
    pub elections: usize,
    pub unmeasured: usize,
}

/// Lives through the loads that `seed` makes. With a bug they are to end in an error.
///
/// # Errors
/// What did not hold, and when.
pub fn run(seed: u64, bug: Option<Bug>) -> Result<Counts, String> {
    let mut dice = Dice::new(seed);
    let mut log = Log::new(3);
    let hosts = found(&mut log, NODES, START, &mut dice)?;
    let mut life = Life {
        dice,
        bug,
        now: START,
        log,
        memory: Memory::new(),
        scaling: Scaling::default(),
        led_since: START,
        hosts,
        desks: (0..3).map(|_| Desk::default()).collect(),
        total: 0.0,
        counts: Counts::default(),
    };
    life.live()
        .map_err(|what| format!("seed {seed}, at {}: {what}", life.now))?;
    Ok(life.counts)
}

struct Life {
    dice: Dice,
    bug: Option<Bug>,
    now: Timestamp,
    log: Log,
    memory: Memory,
    scaling: Scaling,
    led_since: Timestamp,
    hosts: Vec<Host>,
    desks: Vec<Desk>,
    /// What all tasks together are asked for, in billionths of a processor.
    total: f64,
    counts: Counts,
}

impl Life {
    fn live(&mut self) -> Result<(), String> {
        let json = format!(
            r#"{{"Name":"web","TaskTemplate":{{"ContainerSpec":{{"Image":"good:1"}}}},
                "Labels":{{"{MIN_LABEL}":"{MIN}","{MAX_LABEL}":"{MAX}","{CPU_LABEL}":"50","{WINDOW_LABEL}":"60s"}}}}"#
        );
        let spec: ServiceSpec = serde_json::from_str(&json).map_err(|error| error.to_string())?;
        self.ask(&ControlRequest::CreateService {
            spec: Box::new(spec),
        });
        for _ in 0..LOADS {
            self.total = self.dice.below(8000) as f64 * 1e6;
            for _ in 0..self.dice.between(10, 60) {
                self.strike()?;
                self.pass(true)?;
                self.look(true)?;
            }
        }
        self.total = self.dice.below(8000) as f64 * 1e6;
        let windows = WINDOW.as_secs() / LOOK_SECS;
        let mut last = Vec::new();
        for _ in 0..windows * 8 {
            self.pass(false)?;
            self.look(false)?;
            last.push(self.replicas());
        }
        let settled = last[last.len() * 3 / 4..]
            .iter()
            .all(|one| Some(one) == last.last());
        match settled {
            true => self.fits(),
            false => Err(format!("a load that stays gives {last:?}")),
        }
    }

    /// The leader may go, and the user may interfere.
    fn strike(&mut self) -> Result<(), String> {
        if self.dice.chance(3) {
            self.log.elect(&mut self.dice)?;
            self.memory = Memory::new();
            if self.bug != Some(Bug::NewLeaderKnows) {
                self.scaling = Scaling::default();
            }
            self.led_since = self.now;
            self.counts.elections += 1;
        }
        if self.dice.chance(3) {
            let service = self.service();
            let mut spec = service.spec.clone();
            spec.mode = ServiceMode::Replicated(Replicated {
                replicas: Some(self.dice.between(MIN, MAX)),
            });
            self.ask(&ControlRequest::UpdateService {
                id: service.id,
                version: service.version,
                spec: Box::new(spec),
                registry_auth_from: Default::default(),
                rollback: false,
                revision: None,
            });
        }
        Ok(())
    }

    fn ask(&mut self, request: &ControlRequest) {
        let seen = self.log.snapshot();
        if let Ok((commit, _)) = control::execute(request, &seen, self.now, &mut self.dice) {
            // A lost race is no fault.
            let _ = self.log.commit(&commit);
        }
    }

    /// Hosts and the control loop have their time until the next look.
    fn pass(&mut self, rough: bool) -> Result<(), String> {
        for _ in 0..LOOK_SECS {
            self.now = self.now.plus(Duration::from_secs(1));
            let seen = self.log.snapshot();
            session::follow(&mut self.desks, self.log.stores(), &mut self.hosts);
            for host in &mut self.hosts {
                host.listen(&self.desks, (self.now, rough), &mut self.dice, None);
                host.advance(self.now, rough && self.dice.chance(20), &mut self.dice);
            }
            let hosts = self.hosts.iter();
            let reports: Vec<_> = hosts
                .flat_map(|host| host.reports(&seen, self.now))
                .collect();
            let mut commits: Vec<Commit> = Vec::new();
            commits.extend(record_statuses(&seen, &reports, self.now));
            let step = reconcile(&seen, &mut self.memory, self.now, &mut self.dice);
            commits.extend(step.commit);
            for commit in commits {
                // A lost race is decided anew.
                let _ = self.log.commit(&commit);
            }
        }
        self.log.follow(&mut self.dice, u64::from(rough) * 4)
    }

    /// The leader looks at the service, and what it does must be right.
    fn look(&mut self, rough: bool) -> Result<(), String> {
        let (usages, missing) = self.measure(rough);
        let before = self.replicas();
        let seen = self.log.snapshot();
        let commit = autoscale(&seen, &usages, &mut self.scaling, self.now);
        let lost = rough && self.dice.chance(5);
        if let Some(commit) = commit.filter(|_| !lost) {
            let _ = self.log.commit(&commit);
        }
        let after = self.replicas();
        self.counts.up += usize::from(after > before);
        self.counts.down += usize::from(after < before);
        self.counts.unmeasured += missing;
        let led = self.now.since(self.led_since);
        // What it was made with stays until a decision is not lost.
        let is_kept = lost && after == before;
        if !(MIN..=MAX).contains(&after) && !is_kept {
            return Err(format!("{after} replicas are not between {MIN} and {MAX}"));
        }
        if after < before && missing > 0 {
            return Err(format!(
                "from {before} to {after}, and {missing} were silent"
            ));
        }
        if after < before && led < WINDOW {
            return Err(format!("from {before} to {after} by a leader of {led:?}"));
        }
        if after > (before * 2).max(before + 4) {
            return Err(format!("from {before} to {after} in one step"));
        }
        Ok(())
    }

    /// What the tasks that run use, and how many of them are not heard.
    fn measure(&mut self, rough: bool) -> (Usages, usize) {
        let service = self.service();
        let snapshot = self.log.snapshot();
        let tasks = snapshot.tasks_of_service(&service.id);
        let running: Vec<TaskId> = tasks
            .filter(|task| task.serves())
            .map(|task| task.id.clone())
            .collect();
        let each = (self.total / running.len().max(1) as f64).min(MOST);
        let (mut usages, mut missing) = (Usages::default(), 0);
        for task in running {
            let is_silent = rough && self.dice.chance(1);
            missing += usize::from(is_silent);
            let nano_cpus = match is_silent {
                true if self.bug == Some(Bug::SilenceIsIdle) => 0.0,
                true => continue,
                false => each,
            };
            let usage = Usage {
                nano_cpus,
                bytes: 0.0,
            };
            usages.tasks.insert(task, usage);
        }
        (usages, missing)
    }

    /// Whether there are as many as the load asks for, give or take a tenth.
    fn fits(&self) -> Result<(), String> {
        let replicas = self.replicas();
        let ratio = self.total / replicas as f64 / TARGET;
        let least = (self.total / TARGET - 1e-9).ceil() as u64;
        let enough = ratio <= 1.1 || replicas == MAX;
        let no_more = ratio >= 0.9 || replicas == MIN || replicas <= least;
        match enough && no_more {
            true => Ok(()),
            false => Err(format!("{replicas} replicas for {} CPUs", self.total / 1e9)),
        }
    }

    fn service(&self) -> Service {
        let snapshot = self.log.snapshot();
        let found = snapshot.by_name::<Service>("web");
        found.map(|found| Service::clone(found)).unwrap_or_default()
    }

    fn replicas(&self) -> u64 {
        match self.service().spec.mode {
            ServiceMode::Replicated(replicated) => replicated.count(),
            _ => 0,
        }
    }
}
