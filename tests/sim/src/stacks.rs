//! Stacks that are planned, deployed and go wrong: their services wait for each other, images fail,
//! leaders come and go, and another user interferes. Then everything that is asked for can be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skep_model::container::ContainerSpec;
use skep_model::rollout::{RolloutState, RolloutWish, StackFailureAction};
use skep_model::service::{Replicated, UpdateConfig};
use skep_model::stack::{ObjectAction, StackPlan};
use skep_model::task::TaskSpec;
use skep_model::{
    ConfigSpec, ControlRequest, Dependency, DependencyCondition, Kind, Nanos, NetworkSpec, Service,
    ServiceId, ServiceMode, ServiceSpec, Stack, StackSpec, Timestamp,
};
use skep_reconcile::{
    Memory, Resting, advance_stacks, control, plan_stack, reconcile, record_statuses,
    settle_stacks, stack_progress,
};
use skep_store::Snapshot;

use crate::founding::found;
use crate::host::Host;
use crate::log::Log;
use crate::random::Dice;
use crate::session::{self, Desk};

const START: Timestamp = Timestamp::from_secs(1_000_000);
const NODES: u64 = 3;
const STACK: &str = "app";
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const IMAGES: [&str; 6] = ["good:1", "good:2", "good:3", "slow", "missing", "crash"];
/// Deploys before the last one.
const DEPLOYS: u64 = 8;

/// Something put wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A deploy does not look whether its plan still holds.
    BasisIsForgotten,
    /// Services are deployed as if they waited for nobody.
    NobodyWaits,
}

/// What a life that went well did, to tell that it did something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub deployed: usize,
    pub refused: usize,
    pub unchanged: usize,
    pub rolled_back: usize,
    /// Revisions that another user has made.
    pub adopted: usize,
    /// First tasks of services that wait for others.
    pub gates: usize,
}

/// Lives through the deploys that `seed` makes. With a bug they are to end in an error.
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
        resting: Resting::default(),
        interfered: false,
        hosts,
        desks: (0..3).map(|_| Desk::default()).collect(),
        begun: BTreeSet::new(),
        waits: BTreeMap::new(),
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
    resting: Resting,
    /// Another user has changed something since the last deploy.
    interfered: bool,
    hosts: Vec<Host>,
    desks: Vec<Desk>,
    /// Services that have had a task.
    begun: BTreeSet<ServiceId>,
    /// What was asked for last.
    waits: BTreeMap<String, Vec<Dependency>>,
    counts: Counts,
}

impl Life {
    fn live(&mut self) -> Result<(), String> {
        let mut had: Option<StackSpec> = None;
        for _ in 0..DEPLOYS {
            let mut wanted = self.wanted(&IMAGES);
            // Mostly one service is another.
            if let Some(mut had) =
                had.filter(|had| !had.services.is_empty() && self.dice.chance(50))
            {
                let other = self.dice.below(had.services.len() as u64) as usize;
                let name = had.services[other].name.clone();
                let name = name.trim_start_matches(&format!("{STACK}_")).to_owned();
                let image = *self.dice.pick(&IMAGES).unwrap_or(&"good:1");
                had.services[other] = service(&name, image, &mut self.dice);
                wanted = had;
            }
            had = Some(wanted.clone());
            self.deploy(&wanted)?;
            for _ in 0..self.dice.between(1, 40) {
                if self.dice.chance(3) {
                    self.log.elect(&mut self.dice)?;
                    self.memory = Memory::new();
                    self.resting = Resting::default();
                }
                if self.dice.chance(2) && self.interfere() {
                    self.interfered = true;
                }
                self.pass(true)?;
            }
        }
        let last = self.wanted(&IMAGES[..3]);
        self.deploy(&last)?;
        for _ in 0..300 {
            self.pass(false)?;
            let ended = self.rollout().is_some_and(|state| !state.is_active());
            if ended {
                break;
            }
        }
        let snapshot = self.log.snapshot();
        let progress = stack_progress(&snapshot, STACK);
        let state = progress.as_ref().map(|progress| progress.state);
        if state != Some(RolloutState::Deployed) {
            return Err(format!("the last deploy ends as {progress:?}"));
        }
        self.unchanged(&last)
    }

    /// A stack of some of the services, networks and configs, where none waits for one behind it.
    fn wanted(&mut self, images: &[&str]) -> StackSpec {
        let dice = &mut self.dice;
        let names: Vec<&str> = NAMES.into_iter().filter(|_| dice.chance(75)).collect();
        let mut spec = StackSpec {
            name: STACK.to_owned(),
            networks: vec![network("default")],
            ..StackSpec::default()
        };
        if dice.chance(30) {
            spec.networks.push(network("side"));
        }
        if dice.chance(50) {
            let number = dice.below(3);
            spec.configs.push(ConfigSpec {
                name: format!("{STACK}_config{number}"),
                data: number.to_string().into_bytes(),
                ..ConfigSpec::default()
            });
        }
        for (at, name) in names.iter().enumerate() {
            let image = *dice.pick(images).unwrap_or(&"good:1");
            spec.services.push(service(name, image, dice));
            let mut on = Vec::new();
            for before in &names[..at] {
                if dice.chance(40) {
                    on.push(Dependency {
                        service: format!("{STACK}_{before}"),
                        condition: match dice.chance(50) {
                            true => DependencyCondition::Started,
                            false => DependencyCondition::Healthy,
                        },
                    });
                }
            }
            if !on.is_empty() {
                spec.depends_on.insert(format!("{STACK}_{name}"), on);
            }
        }
        spec
    }

    /// Plans it, deploys it as planned, and compares. Now and then somebody interferes in between.
    fn deploy(&mut self, wanted: &StackSpec) -> Result<(), String> {
        let mut request = self.request(wanted);
        let before = self.log.snapshot();
        let plan = plan_stack(&request, &before, self.now, &mut self.dice)
            .map_err(|error| format!("a plan is refused: {error}"))?;
        let interfered = self.dice.chance(30) && self.interfere();
        let now = self.log.snapshot();
        if let ControlRequest::DeployStack { basis, .. } = &mut request {
            *basis = (self.bug != Some(Bug::BasisIsForgotten)).then(|| plan.basis.clone());
        }
        let (commit, _) = match control::execute(&request, &now, self.now, &mut self.dice) {
            Ok(done) => done,
            Err(error) if interfered && error.kind == Kind::Conflict => {
                self.counts.refused += 1;
                if let ControlRequest::DeployStack { basis, .. } = &mut request {
                    *basis = None;
                }
                control::execute(&request, &now, self.now, &mut self.dice)
                    .map_err(|error| format!("a deploy is refused: {error}"))?
            }
            Err(error) => return Err(format!("what was planned is refused: {error}")),
        };
        let planned = self.counts.refused;
        if !commit.is_empty() {
            self.log
                .commit(&commit)
                .map_err(|error| error.to_string())?;
        }
        self.waits.clone_from(&wanted.depends_on);
        self.interfered = false;
        self.counts.deployed += 1;
        let after = self.log.snapshot();
        let as_planned = !interfered || self.bug.is_some() && planned == self.counts.refused;
        if as_planned {
            compare(&plan, &now, &after)?;
        }
        self.unchanged(wanted)
    }

    fn request(&mut self, wanted: &StackSpec) -> ControlRequest {
        let spec = match self.bug {
            Some(Bug::NobodyWaits) => StackSpec {
                depends_on: BTreeMap::new(),
                ..wanted.clone()
            },
            _ => wanted.clone(),
        };
        ControlRequest::DeployStack {
            spec: Box::new(spec),
            prune: true,
            basis: None,
            wish: RolloutWish {
                failure_action: match self.dice.chance(60) {
                    true => StackFailureAction::Rollback,
                    false => StackFailureAction::Pause,
                },
                timeout: Nanos::from_secs([0, 60][usize::from(self.dice.chance(50))]),
            },
        }
    }

    /// Another user changes a service of the stack. Whether there was one.
    fn interfere(&mut self) -> bool {
        let seen = self.log.snapshot();
        let services: Vec<_> = seen.services().cloned().collect();
        let Some(service) = self.dice.pick(&services) else {
            return false;
        };
        let mut spec = service.spec.clone();
        spec.labels.insert("note".to_owned(), self.now.to_string());
        let request = ControlRequest::UpdateService {
            id: service.id.clone(),
            version: service.version,
            spec: Box::new(spec),
            registry_auth_from: Default::default(),
            rollback: false,
            revision: None,
        };
        let done = control::execute(&request, &seen, self.now, &mut self.dice);
        done.is_ok_and(|(commit, _)| self.log.commit(&commit).is_ok())
    }

    /// What is there is asked for again, in another order: nothing becomes of it.
    fn unchanged(&mut self, wanted: &StackSpec) -> Result<(), String> {
        let mut shuffled = wanted.clone();
        shuffled.services.reverse();
        shuffled.networks.reverse();
        for on in shuffled.depends_on.values_mut() {
            on.reverse();
        }
        for service in &mut shuffled.services {
            if let Some(container) = &mut service.task_template.container_spec {
                container.env.reverse();
            }
        }
        let request = self.request(&shuffled);
        let before = self.log.snapshot();
        let plan = plan_stack(&request, &before, self.now, &mut self.dice)
            .map_err(|error| error.to_string())?;
        if !plan.changes.is_empty() {
            return Err(format!("a plan after the deploy has {:?}", plan.changes));
        }
        let done = control::execute(&request, &before, self.now, &mut self.dice);
        let (commit, _) = done.map_err(|error| error.to_string())?;
        if !commit.is_empty() {
            self.log
                .commit(&commit)
                .map_err(|error| error.to_string())?;
        }
        let after = self.log.snapshot();
        for service in before.services() {
            let now = after.service(&service.id);
            if now.map(|now| now.spec_version) != Some(service.spec_version) {
                return Err(format!(
                    "{} is another one by the same deploy",
                    service.spec.name
                ));
            }
        }
        self.counts.unchanged += 1;
        Ok(())
    }

    /// A second of hosts, control loop and the leader's look at stacks.
    fn pass(&mut self, rough: bool) -> Result<(), String> {
        self.now = self.now.plus(Duration::from_secs(1));
        let seen = self.log.snapshot();
        session::follow(&mut self.desks, self.log.stores(), &mut self.hosts);
        for host in &mut self.hosts {
            host.listen(&self.desks, (self.now, rough), &mut self.dice, None);
            host.advance(self.now, rough && self.dice.chance(10), &mut self.dice);
        }
        let hosts = self.hosts.iter();
        let reports: Vec<_> = hosts
            .flat_map(|host| host.reports(&seen, self.now))
            .collect();
        if let Some(commit) = record_statuses(&seen, &reports, self.now) {
            let _ = self.log.commit(&commit);
        }
        let seen = self.log.snapshot();
        let step = reconcile(&seen, &mut self.memory, self.now, &mut self.dice);
        let lost = rough && self.dice.chance(5);
        if let Some(commit) = step.commit.filter(|_| !lost) {
            // A lost race is decided anew.
            let _ = self.log.commit(&commit);
        }
        self.gates(&seen)?;
        self.advance(rough)?;
        self.rest(rough)?;
        self.log.follow(&mut self.dice, u64::from(rough) * 4)
    }

    fn advance(&mut self, rough: bool) -> Result<(), String> {
        let seen = self.log.snapshot();
        let steady = Timestamp::ZERO;
        let commit = advance_stacks(&seen, steady, self.now, &mut self.dice);
        let lost = rough && self.dice.chance(10);
        let Some(commit) = commit.filter(|_| !lost) else {
            return Ok(());
        };
        let _: Result<_, _> = self.log.commit(&commit);
        let now = self.log.snapshot();
        let Some(stack) = now.by_name::<Stack>(STACK) else {
            return Ok(());
        };
        self.waits.clone_from(&stack.spec.depends_on);
        if self.rollout() == Some(RolloutState::RollingBack) {
            self.counts.rolled_back += 1;
            return went_back(stack, &now);
        }
        Ok(())
    }

    /// What another user has made of the stack is a revision, and nothing else is.
    fn rest(&mut self, rough: bool) -> Result<(), String> {
        let seen = self.log.snapshot();
        let commit = settle_stacks(&seen, &mut self.resting, self.now, &mut self.dice);
        let lost = rough && self.dice.chance(10);
        let Some(commit) = commit.filter(|_| !lost) else {
            return Ok(());
        };
        if !self.interfered {
            return Err("a revision is made that nobody has asked for".to_owned());
        }
        let _: Result<_, _> = self.log.commit(&commit);
        self.counts.adopted += 1;
        Ok(())
    }

    /// Who has its first task now waited for nobody when that was decided from `seen`.
    fn gates(&mut self, seen: &Snapshot) -> Result<(), String> {
        let now = self.log.snapshot();
        for service in now.services() {
            let has_task = now.tasks_of_service(&service.id).next().is_some();
            if !has_task || !self.begun.insert(service.id.clone()) {
                continue;
            }
            for on in self.waits.get(&service.spec.name).into_iter().flatten() {
                self.counts.gates += 1;
                let Some(other) = seen.by_name::<Service>(&on.service) else {
                    continue;
                };
                let replicas = match &other.spec.mode {
                    ServiceMode::Replicated(replicated) => replicated.count(),
                    _ => 0,
                };
                let far = seen.tasks_of_service(&other.id).filter(|task| {
                    let least = match on.condition {
                        DependencyCondition::Started => skep_model::TaskState::Starting,
                        _ => skep_model::TaskState::Running,
                    };
                    task.is_live() && task.status.state >= least
                });
                if (far.count() as u64) < replicas {
                    return Err(format!(
                        "{} has begun before {} was {}",
                        service.spec.name,
                        on.service,
                        on.condition.as_str()
                    ));
                }
            }
        }
        Ok(())
    }

    fn rollout(&self) -> Option<RolloutState> {
        let snapshot = self.log.snapshot();
        let stack = snapshot.by_name::<Stack>(STACK)?;
        stack.rollout.as_ref().map(|rollout| rollout.state)
    }
}

fn network(name: &str) -> NetworkSpec {
    NetworkSpec {
        name: format!("{STACK}_{name}"),
        ..NetworkSpec::default()
    }
}

fn service(name: &str, image: &str, dice: &mut Dice) -> ServiceSpec {
    let config = |dice: &mut Dice| {
        Some(UpdateConfig {
            parallelism: dice.below(3),
            monitor: Nanos::from_secs(2),
            ..UpdateConfig::default()
        })
    };
    ServiceSpec {
        name: format!("{STACK}_{name}"),
        task_template: TaskSpec {
            container_spec: Some(ContainerSpec {
                image: image.to_owned(),
                env: vec!["A=1".to_owned(), "B=2".to_owned()],
                ..ContainerSpec::default()
            }),
            ..TaskSpec::default()
        },
        mode: ServiceMode::Replicated(Replicated {
            replicas: Some(dice.between(0, 3)),
        }),
        update_config: config(dice),
        rollback_config: config(dice),
        ..ServiceSpec::default()
    }
}

/// A deploy has done to the stack's objects what the plan said, and nothing else.
fn compare(plan: &StackPlan, before: &Snapshot, after: &Snapshot) -> Result<(), String> {
    let planned: BTreeSet<String> = plan
        .changes
        .iter()
        .map(|change| format!("{} {} {}", change.action.as_str(), change.kind, change.name))
        .collect();
    let mut done = BTreeSet::new();
    macro_rules! compare {
        ($kind:literal, $all:ident) => {
            let objects = |view: &Snapshot| -> BTreeMap<String, serde_json::Value> {
                let all = view.$all().filter(|one| one.spec.name.starts_with(STACK));
                all.map(|one| (one.spec.name.clone(), serde_json::json!(one.spec)))
                    .collect()
            };
            let (had, has) = (objects(before), objects(after));
            for name in had.keys().chain(has.keys()) {
                let action = match (had.get(name), has.get(name)) {
                    (None, Some(_)) => ObjectAction::Create,
                    (Some(_), None) => ObjectAction::Remove,
                    (Some(had), Some(has)) if had != has => ObjectAction::Update,
                    _ => continue,
                };
                done.insert(format!("{} {} {name}", action.as_str(), $kind));
            }
        };
    }
    compare!("network", networks);
    compare!("config", configs);
    compare!("service", services);
    match planned == done {
        true => Ok(()),
        false => Err(format!("planned {planned:?}, done {done:?}")),
    }
}

/// A stack that goes back has all of the services of that revision, and no others.
fn went_back(stack: &Stack, now: &Snapshot) -> Result<(), String> {
    let wanted: BTreeMap<&str, &str> = stack
        .spec
        .services
        .iter()
        .map(|spec| (spec.name.as_str(), spec.task_template.image()))
        .collect();
    let has: Vec<_> = now
        .services()
        .filter(|service| service.stack == STACK)
        .collect();
    let has: BTreeMap<&str, &str> = has
        .iter()
        .map(|service| {
            (
                service.spec.name.as_str(),
                service.spec.task_template.image(),
            )
        })
        .collect();
    match wanted == has {
        true => Ok(()),
        false => Err(format!("a rollback to {wanted:?} has {has:?}")),
    }
}
