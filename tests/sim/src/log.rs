//! A replicated log as raft gives it: one order for all, committed entries are never lost, and a
//! manager applies them when it gets to it.

use skep_store::{Applied, Change, Commit, Conflict, Snapshot, Store};

use crate::random::Dice;

/// Several managers' copies of one state.
#[derive(Debug)]
pub struct Log {
    entries: Vec<Entry>,
    managers: Vec<Manager>,
    leader: usize,
}

#[derive(Debug)]
struct Entry {
    /// What travels: followers read the commit from here.
    json: String,
    /// What the leader made of it. Every manager must come to the same.
    accepted: bool,
}

#[derive(Debug)]
struct Manager {
    store: Store,
    /// Entries applied so far.
    applied: usize,
}

impl Log {
    pub fn new(managers: usize) -> Self {
        Self {
            entries: Vec::new(),
            managers: (0..managers)
                .map(|_| Manager {
                    store: Store::new(),
                    applied: 0,
                })
                .collect(),
            leader: 0,
        }
    }

    pub fn leader(&self) -> usize {
        self.leader
    }

    /// What the leader sees.
    pub fn snapshot(&self) -> Snapshot {
        self.managers[self.leader].store.snapshot()
    }

    /// What each manager has, some of them a while behind.
    pub fn stores(&self) -> impl Iterator<Item = &Store> {
        self.managers.iter().map(|manager| &manager.store)
    }

    /// Commits an entry. The leader applies it at once.
    pub fn commit(&mut self, commit: &Commit) -> Result<Applied, Conflict> {
        let json = serde_json::to_string(commit).expect("a commit is plain data");
        let index = self.entries.len() + 1;
        let leader = &mut self.managers[self.leader];
        let result = leader.store.apply(index as u64, commit);
        leader.applied = index;
        self.entries.push(Entry {
            json,
            accepted: result.is_ok(),
        });
        result
    }

    /// Lets followers go on, up to `lag` entries behind the leader.
    pub fn follow(&mut self, dice: &mut Dice, lag: u64) -> Result<(), String> {
        for at in 0..self.managers.len() {
            let behind = usize::try_from(dice.below(lag + 1)).unwrap_or(0);
            self.catch_up(at, self.entries.len().saturating_sub(behind))?;
        }
        Ok(())
    }

    /// Makes another manager the leader. It has every committed entry first, as raft demands.
    pub fn elect(&mut self, dice: &mut Dice) -> Result<(), String> {
        self.leader = usize::try_from(dice.below(self.managers.len() as u64)).unwrap_or(0);
        self.catch_up(self.leader, self.entries.len())
    }

    /// A follower loses its state and gets it back from another manager's dump.
    pub fn restore(&mut self, dice: &mut Dice) -> Result<(), String> {
        let at = usize::try_from(dice.below(self.managers.len() as u64)).unwrap_or(0);
        if at == self.leader {
            return Ok(());
        }
        let from = &self.managers[self.leader];
        let source = from.store.snapshot();
        let applied = from.applied;
        let chunk = usize::try_from(dice.between(1, 20)).unwrap_or(1);
        let mut changes: Vec<Change> = Vec::new();
        for piece in source.dump(chunk) {
            let json = serde_json::to_string(&piece).expect("changes are plain data");
            let read: Vec<Change> =
                serde_json::from_str(&json).map_err(|error| format!("dump: {error}"))?;
            changes.extend(read);
        }
        let manager = &mut self.managers[at];
        // Its watchers are told that they have missed changes.
        manager
            .store
            .restore(source.version(), changes)
            .map_err(|error| format!("restore: {error}"))?;
        manager.applied = applied;
        Ok(())
    }

    fn catch_up(&mut self, at: usize, until: usize) -> Result<(), String> {
        let manager = &mut self.managers[at];
        while manager.applied < until {
            let entry = &self.entries[manager.applied];
            let commit: Commit =
                serde_json::from_str(&entry.json).map_err(|error| format!("log: {error}"))?;
            let index = manager.applied + 1;
            let result = manager.store.apply(index as u64, &commit);
            if result.is_ok() != entry.accepted {
                return Err(format!(
                    "manager {at} and the leader disagree about entry {index}: {result:?}"
                ));
            }
            manager.applied = index;
        }
        Ok(())
    }

    /// Brings everyone up to date, and gives back what each holds.
    pub fn settle(&mut self) -> Result<Vec<Snapshot>, String> {
        for at in 0..self.managers.len() {
            self.catch_up(at, self.entries.len())?;
        }
        let managers = self.managers.iter();
        Ok(managers.map(|manager| manager.store.snapshot()).collect())
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
