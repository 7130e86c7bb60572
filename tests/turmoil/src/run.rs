//! A whole run: the cluster is made, then there are faults, then peace, then everything is judged.

use std::any::Any;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use skep_linear::{STEPS_MAX, Verdict, Versioned, check, show, smallest};
use turmoil::Sim;

use crate::client::{self, Client};
use crate::faults;
use crate::member::{self, Bug, Seat};
use crate::shared::Shared;
use crate::wire;

/// Simulated time between two turns of the hosts.
const TICK: Duration = Duration::from_millis(1);
/// Simulated time that a run may take at most.
const LONGEST: Duration = Duration::from_secs(300);
/// In peace members are the same within this.
const CONVERGED: Duration = Duration::from_secs(30);
const CLIENTS: usize = 4;
/// Segments that may wait at a socket.
const TCP_CAPACITY: usize = 1 << 14;
/// Writes that must have been acknowledged for a run to mean anything.
const ACKNOWLEDGED_MIN: usize = 30;

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub seed: u64,
    pub members: u64,
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {} with {} members: {}\n  to see it again: SKEP_TURMOIL_SEEDS={}..{} cargo nextest \
             run -p skep-turmoil --no-capture",
            self.seed,
            self.members,
            self.what,
            self.seed,
            self.seed + 1
        )
    }
}

/// What a run that went well did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Answers that clients were given, and requests of which they do not know.
    pub operations: usize,
    pub acknowledged: usize,
    /// Terms in which somebody led.
    pub terms: usize,
    pub troubles: usize,
    /// Of everything that clients asked and heard, and when.
    pub digest: u64,
}

/// Runs the world that `seed` makes, with so many members. `tell` is called for each trouble.
pub fn run(seed: u64, members: u64, tell: &mut dyn FnMut(String)) -> Result<Outcome, Failure> {
    run_with(seed, members, None, tell)
}

/// The same with a bug put in.
pub fn run_with(
    seed: u64,
    members: u64,
    bug: Option<Bug>,
    tell: &mut dyn FnMut(String),
) -> Result<Outcome, Failure> {
    let lived = catch_unwind(AssertUnwindSafe(|| live(seed, members, bug, tell)));
    let lived = lived.unwrap_or_else(|panic| Err(last_words(&*panic)));
    lived.map_err(|what| Failure {
        seed,
        members,
        what,
    })
}

fn last_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("without words"))
}

/// In memory, where there is a place for that: nothing here is about disks.
fn directory() -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    match tempfile::tempdir_in(memory) {
        Ok(directory) => Ok(directory),
        Err(_) => tempfile::tempdir(),
    }
}

fn live(
    seed: u64,
    members: u64,
    bug: Option<Bug>,
    tell: &mut dyn FnMut(String),
) -> Result<Outcome, String> {
    let directory = directory().map_err(|error| error.to_string())?;
    let mut random = StdRng::seed_from_u64(seed);
    let shared = Arc::new(Shared::default());
    // Near ones, far ones, and such that elections hardly come to an end.
    let latency = [3, 20, 60][random.random_range(0..3)];
    let mut sim = turmoil::Builder::new()
        .tick_duration(TICK)
        .simulation_duration(LONGEST)
        .min_message_latency(TICK)
        .max_message_latency(Duration::from_millis(latency))
        // Connections that wait to be accepted: many come at once when held messages are released.
        .tcp_capacity(TCP_CAPACITY)
        .rng_seed(seed)
        .enable_random_order()
        .build();
    for id in 1..=members {
        let seat = Seat {
            id,
            members,
            directory: directory.path().join(id.to_string()),
            seed,
            starts: Arc::new(AtomicU64::new(0)),
            shared: Arc::clone(&shared),
            bug,
        };
        sim.host(wire::host(id), move || member::live(seat.clone()));
    }
    for number in 0..CLIENTS {
        let client = Client {
            number,
            members,
            seed,
            shared: Arc::clone(&shared),
        };
        sim.client(format!("c{number}"), client::live(client));
    }

    while !shared.is_ready.load(Ordering::Relaxed) {
        step(&mut sim, &shared)?;
    }
    let mut outcome = Outcome::default();
    let storm = Duration::from_secs(random.random_range(10..25));
    let until = sim.elapsed() + storm;
    while sim.elapsed() < until {
        let trouble = faults::begin(&mut sim, members, &mut random);
        tell(format!(
            "{:7.3} s  {trouble:?}",
            sim.elapsed().as_secs_f64()
        ));
        outcome.troubles += 1;
        wait(&mut sim, &shared, random.random_range(50..2500))?;
        faults::end(&mut sim, trouble);
        wait(&mut sim, &shared, random.random_range(50..1500))?;
    }
    tell(format!("{:7.3} s  peace", sim.elapsed().as_secs_f64()));
    shared.is_peace.store(true, Ordering::Relaxed);
    while !step(&mut sim, &shared)? {}
    converge(&mut sim, &shared)?;
    drop(sim);
    judge(&shared, outcome)
}

/// Whether all clients have ended.
fn step(sim: &mut Sim<'_>, shared: &Shared) -> Result<bool, String> {
    let ended = sim.step().map_err(|error| error.to_string())?;
    match shared.first_failure() {
        Some(what) => Err(what),
        None => Ok(ended),
    }
}

fn wait(sim: &mut Sim<'_>, shared: &Shared, millis: u64) -> Result<(), String> {
    let until = sim.elapsed() + Duration::from_millis(millis);
    while sim.elapsed() < until {
        step(sim, shared)?;
    }
    Ok(())
}

/// Lets time pass until all members hold the same.
fn converge(sim: &mut Sim<'_>, shared: &Shared) -> Result<(), String> {
    let until = sim.elapsed() + CONVERGED;
    loop {
        let machines = shared.machines();
        let commands: Vec<_> = machines.values().map(|one| one.commands()).collect();
        if commands.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(());
        }
        if sim.elapsed() > until {
            let counts: Vec<usize> = commands.iter().map(Vec::len).collect();
            return Err(format!(
                "after {CONVERGED:?} of peace members hold {counts:?} commands, not the same"
            ));
        }
        wait(sim, shared, 100)?;
    }
}

fn judge(shared: &Shared, mut outcome: Outcome) -> Result<Outcome, String> {
    let machines = shared.machines();
    let commands = machines.values().next().map(|one| one.commands());
    let commands = commands.unwrap_or_default();
    if commands.iter().collect::<BTreeSet<_>>().len() != commands.len() {
        return Err("a command was applied twice".to_owned());
    }
    let acknowledged = shared.acknowledged();
    for (index, command) in &acknowledged {
        let at = usize::try_from(index - 1).unwrap_or(usize::MAX);
        if commands.get(at) != Some(command) {
            return Err(format!(
                "{command:?} was acknowledged as {index}, where {:?} is",
                commands.get(at)
            ));
        }
    }
    if acknowledged.len() < ACKNOWLEDGED_MIN {
        return Err(format!(
            "only {} writes were acknowledged",
            acknowledged.len()
        ));
    }
    let mut digest = DefaultHasher::new();
    for (key, history) in shared.histories() {
        let model = Versioned::default();
        match check(&model, &history, STEPS_MAX) {
            Verdict::Linearizable => (),
            Verdict::Undecided => return Err(format!("register {key}: too much to tell")),
            Verdict::Violated => {
                let shown = smallest(&model, &history, STEPS_MAX);
                let shown = shown.map_or(history, |(shown, _)| shown);
                return Err(format!(
                    "register {key}: these cannot all be true of one copy:\n{}",
                    show(&shown)
                ));
            }
        }
        show(&history).hash(&mut digest);
        outcome.operations += history.len();
    }
    outcome.acknowledged = acknowledged.len();
    outcome.terms = shared.terms();
    outcome.digest = digest.finish();
    Ok(outcome)
}
