//! A cluster in one process: members on real disks, a network that can be cut, slowed and healed.
#![allow(dead_code)] // each test binary uses its part

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use skep_consensus::{
    Backend, Chunks, Consensus, Member, OpenError, Options, ProposeError, StateMachine, Timing,
    Transport, TransportError,
};
use skep_pki::{Sealer, SecretKey};

/// Remembers every command with its index. Answers index and command.
#[derive(Default)]
pub struct Journal {
    commands: Mutex<Vec<Vec<u8>>>,
    pub restores: AtomicU64,
}

impl Journal {
    pub fn commands(&self) -> Vec<Vec<u8>> {
        self.commands.lock().unwrap().clone()
    }

    pub fn contains(&self, command: &[u8]) -> bool {
        self.commands
            .lock()
            .unwrap()
            .iter()
            .any(|there| there == command)
    }
}

impl StateMachine for Journal {
    fn apply(&self, index: u64, command: &[u8]) -> Vec<u8> {
        let mut commands = self.commands.lock().unwrap();
        commands.push(command.to_vec());
        assert_eq!(
            index,
            commands.len() as u64,
            "each command has its own index"
        );
        let mut answer = index.to_be_bytes().to_vec();
        answer.extend_from_slice(command);
        answer
    }

    fn dump(&self) -> Box<dyn Iterator<Item = Vec<u8>> + Send> {
        // One chunk for each command: small, empty and large ones must all come back.
        Box::new(self.commands().into_iter())
    }

    fn restore(&self, index: u64, chunks: &mut dyn Iterator<Item = Vec<u8>>) -> Result<(), String> {
        let restored: Vec<_> = chunks.collect();
        if restored.len() as u64 != index {
            return Err(format!("{} chunks for index {index}", restored.len()));
        }
        *self.commands.lock().unwrap() = restored;
        self.restores.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The index and the command in an answer.
pub fn answer(bytes: &[u8]) -> (u64, Vec<u8>) {
    let (index, command) = bytes.split_first_chunk::<8>().unwrap();
    (u64::from_be_bytes(*index), command.to_vec())
}

#[derive(Default)]
struct NetState {
    members: BTreeMap<u64, Consensus>,
    addresses: BTreeMap<u64, String>,
    /// Ordered pairs that do not reach each other.
    cut: HashSet<(u64, u64)>,
    delay: Duration,
    snapshots: u64,
}

/// The network between members.
#[derive(Clone, Default)]
pub struct Net {
    state: Arc<Mutex<NetState>>,
}

impl Net {
    pub fn join(&self, id: u64, address: &str, member: Consensus) {
        let mut state = self.state.lock().unwrap();
        state.members.insert(id, member);
        state.addresses.insert(id, address.to_owned());
    }

    pub fn leave(&self, id: u64) {
        self.state.lock().unwrap().members.remove(&id);
    }

    pub fn isolate(&self, id: u64, others: &[u64]) {
        let mut state = self.state.lock().unwrap();
        for other in others {
            state.cut.insert((id, *other));
            state.cut.insert((*other, id));
        }
    }

    /// What `id` sends does not arrive.
    pub fn silence(&self, id: u64, others: &[u64]) {
        let mut state = self.state.lock().unwrap();
        state.cut.extend(others.iter().map(|other| (id, *other)));
    }

    /// Who leads, by its own word.
    pub fn leader(&self, among: &[u64]) -> Option<Consensus> {
        let state = self.state.lock().unwrap();
        let leads = |member: &&Consensus| member.leadership().borrow().is_me;
        among
            .iter()
            .filter_map(|id| state.members.get(id))
            .find(leads)
            .cloned()
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().cut.clear();
    }

    pub fn set_delay(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    pub fn snapshots_sent(&self) -> u64 {
        self.state.lock().unwrap().snapshots
    }

    fn reach(&self, from: u64, to: &Member) -> Result<(Consensus, Duration), TransportError> {
        let state = self.state.lock().unwrap();
        let unreachable = |why: &str| TransportError::Unreachable(why.to_owned());
        if state.cut.contains(&(from, to.id)) {
            return Err(unreachable("cut"));
        }
        if state.addresses.get(&to.id) != Some(&to.address) {
            return Err(unreachable("nobody listens there"));
        }
        let member = state
            .members
            .get(&to.id)
            .ok_or_else(|| unreachable("down"))?;
        Ok((member.clone(), state.delay))
    }
}

/// Writes on whoever leads, without end.
pub struct Writers {
    done: Arc<AtomicBool>,
    running: tokio::task::JoinSet<Vec<(u64, Vec<u8>)>>,
}

impl Writers {
    pub fn start(net: &Net, among: &[u64], count: usize) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let mut running = tokio::task::JoinSet::new();
        for writer in 0..count {
            let (net, among, done) = (net.clone(), among.to_vec(), Arc::clone(&done));
            running.spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    // A new command each time: one of unknown fate is not written twice.
                    let command = format!("w{writer}/{number}").into_bytes();
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    match net.leader(&among) {
                        Some(leader) => {
                            if let Ok(bytes) = leader.propose(command).await {
                                acknowledged.push(answer(&bytes));
                            }
                        }
                        None => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
                acknowledged
            });
        }
        Self { done, running }
    }

    /// What was acknowledged, with its index.
    pub async fn stop(self) -> Vec<(u64, Vec<u8>)> {
        self.done.store(true, Ordering::SeqCst);
        self.running.join_all().await.concat()
    }
}

/// One member's side of the network.
pub struct Port {
    pub net: Net,
    pub from: u64,
}

#[async_trait]
impl Transport for Port {
    async fn send(
        &self,
        to: &Member,
        message: Bytes,
        _timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let (member, delay) = self.net.reach(self.from, to)?;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let answer = member.handle(message).await;
        // The way back may have been cut meanwhile.
        self.net.reach(self.from, to)?;
        Ok(answer)
    }

    async fn send_snapshot(
        &self,
        to: &Member,
        header: Bytes,
        chunks: Chunks,
    ) -> Result<Bytes, TransportError> {
        let (member, _) = self.net.reach(self.from, to)?;
        self.net.state.lock().unwrap().snapshots += 1;
        let answer = member.handle_snapshot(header, chunks).await;
        self.net.reach(self.from, to)?;
        Ok(answer)
    }
}

pub fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(60),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        propose: Duration::from_secs(5),
        membership: Duration::from_secs(20),
    }
}

pub fn member(id: u64) -> Member {
    Member {
        id,
        address: format!("10.0.0.{id}:2377"),
        node: format!("node{id}"),
    }
}

/// Some members on disk.
pub struct Cluster {
    pub net: Net,
    directory: PathBuf,
    /// Removed with the cluster.
    _kept: Option<tempfile::TempDir>,
    pub sealer: Sealer,
    pub backend: Backend,
    pub snapshot_every: u64,
    pub keep_entries: u64,
    pub timing: Timing,
    members: BTreeMap<u64, (Consensus, Arc<Journal>)>,
}

impl Cluster {
    pub fn new(backend: Backend) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Self::at(directory.path().to_owned(), backend, SecretKey::generate());
        cluster._kept = Some(directory);
        cluster
    }

    /// In a directory that may hold one already.
    pub fn at(directory: PathBuf, backend: Backend, key: SecretKey) -> Self {
        Self {
            net: Net::default(),
            directory,
            _kept: None,
            sealer: Sealer::new(&key),
            backend,
            snapshot_every: 10_000,
            keep_entries: 500,
            timing: timing(),
            members: BTreeMap::new(),
        }
    }

    /// A cluster of voters `1..=count` that has a leader.
    pub async fn start(backend: Backend, count: u64) -> Self {
        let mut cluster = Self::new(backend);
        cluster.grow(count).await;
        cluster
    }

    pub async fn grow(&mut self, count: u64) {
        self.open(1).await.unwrap();
        self.member(1).bootstrap(member(1)).await.unwrap();
        for id in 2..=count {
            self.open(id).await.unwrap();
            self.member(1).add_learner(member(id)).await.unwrap();
            self.member(1).promote(id).await.unwrap();
        }
    }

    pub fn path(&self, id: u64) -> PathBuf {
        self.directory.join(id.to_string())
    }

    pub fn options(&self, id: u64) -> Options {
        let mut options = Options::new(id, self.path(id), self.sealer.clone());
        options.backend = self.backend;
        options.timing = self.timing;
        options.snapshot_every = self.snapshot_every;
        options.keep_entries = self.keep_entries;
        options
    }

    pub async fn open(&mut self, id: u64) -> Result<(), OpenError> {
        let journal = Arc::new(Journal::default());
        let port = Arc::new(Port {
            net: self.net.clone(),
            from: id,
        });
        let machine = Arc::clone(&journal) as Arc<dyn StateMachine>;
        let opened = Consensus::open(self.options(id), machine, port).await?;
        self.net.join(id, &member(id).address, opened.clone());
        self.members.insert(id, (opened, journal));
        Ok(())
    }

    pub fn member(&self, id: u64) -> Consensus {
        self.members[&id].0.clone()
    }

    pub fn journal(&self, id: u64) -> Arc<Journal> {
        Arc::clone(&self.members[&id].1)
    }

    pub fn ids(&self) -> Vec<u64> {
        self.members.keys().copied().collect()
    }

    /// Ends a member. Its files are closed when this returns.
    pub async fn stop(&mut self, id: u64) {
        self.net.leave(id);
        let (member, _) = self.members.remove(&id).unwrap();
        member.shutdown().await;
    }

    pub async fn stop_all(&mut self) {
        for id in self.ids() {
            self.stop(id).await;
        }
    }

    /// The member that leads, with all of `among` knowing it.
    pub async fn leader_among(&self, among: &[u64]) -> u64 {
        let mut found = 0;
        eventually("a leader", || {
            let known: HashSet<_> = among
                .iter()
                .map(|id| self.member(*id).leadership().borrow().leader.clone())
                .map(|leader| leader.map(|leader| leader.id))
                .collect();
            match known.into_iter().collect::<Vec<_>>()[..] {
                [Some(leader)] if among.contains(&leader) => {
                    found = leader;
                    self.member(leader).leadership().borrow().is_me
                }
                _ => false,
            }
        })
        .await;
        found
    }

    pub async fn leader(&self) -> u64 {
        self.leader_among(&self.ids()).await
    }

    /// Proposes on whoever leads until it is acknowledged.
    pub async fn write(&self, among: &[u64], command: &str) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let leader = self.leader_among(among).await;
            match self.member(leader).propose(command.into()).await {
                Ok(bytes) => {
                    let (index, echoed) = answer(&bytes);
                    assert_eq!(echoed, command.as_bytes());
                    return index;
                }
                Err(ProposeError::NotLeader { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("{command}: {error}"),
            }
        }
    }

    /// Waits until all of `among` have applied the same commands, and answers them.
    pub async fn converged(&self, among: &[u64]) -> Vec<Vec<u8>> {
        eventually("equal journals", || {
            let first = self.journal(among[0]).commands();
            among.iter().all(|id| self.journal(*id).commands() == first)
        })
        .await;
        self.journal(among[0]).commands()
    }
}

/// Waits for a named condition.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !condition() {
        assert!(Instant::now() < deadline, "did not come to be: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The largest file below a directory.
pub fn largest_file(path: &Path) -> PathBuf {
    let mut files = Vec::new();
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                directories.push(entry.path());
            } else {
                files.push((metadata.len(), entry.path()));
            }
        }
    }
    files.into_iter().max().unwrap().1
}

/// The backend that a process of a test is to use.
pub fn backend_of(name: &str) -> Backend {
    match name {
        "sled" => Backend::Sled,
        _ => Backend::Segments,
    }
}

/// What a line `ack INDEX COMMAND` of such a process says. The last line may be cut short.
pub fn acknowledged(line: &str) -> Option<(u64, String)> {
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("ack"), Some(index), Some(command)) => {
            Some((index.parse().ok()?, command.to_owned()))
        }
        _ => None,
    }
}
