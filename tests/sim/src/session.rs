//! What hosts are told, by the managers' own code: a complete set first, then what differs, and
//! only when a change concerns them. The agent's side keeps what it has heard, and how far its packets
//! follow.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use skep_manager::assignments::{Affected, Shared, Told};
use skep_model::{NodeId, Secret, Task, Timestamp};
use skep_proto::assignment::Item;
use skep_proto::decode;
use skep_proto::v1::Assignments;
use skep_store::{Snapshot, Store};

use crate::host::Host;
use crate::random::Dice;
use crate::sabotage::Sabotage;

/// What a manager keeps for its sessions.
#[derive(Clone, Default)]
pub struct Desk {
    snapshot: Snapshot,
    shared: Shared,
}

impl Desk {
    /// Goes on to this state; whom that concerns.
    pub fn follow(&mut self, snapshot: Snapshot) -> Affected {
        if snapshot.version().index == self.shared.version() {
            return Affected::default();
        }
        let (shared, affected) = self.shared.follow(snapshot.clone());
        self.snapshot = snapshot;
        self.shared = shared;
        affected
    }

    pub fn version(&self) -> u64 {
        self.shared.version()
    }

    /// Whether the node can have a session: it has a number.
    pub fn knows(&self, node: &NodeId) -> bool {
        let found = self.snapshot.node(node);
        found.is_some_and(|node| node.index != 0)
    }

    /// Whether the node is told that it is a member no more.
    pub fn has_removed(&self, node: &NodeId) -> bool {
        let cluster = self.snapshot.cluster();
        cluster.is_some_and(|cluster| cluster.removed_nodes.contains_key(node))
    }
}

/// All managers go on to the states they have, and see whom their news concerns.
pub fn follow<'a>(desks: &mut [Desk], stores: impl Iterator<Item = &'a Store>, hosts: &mut [Host]) {
    for (with, (desk, store)) in desks.iter_mut().zip(stores).enumerate() {
        let affected = desk.follow(store.snapshot());
        for host in hosts.iter_mut() {
            if let Some(session) = host.session.as_mut().filter(|one| one.with == with) {
                session.look |= affected.contains(&host.id);
            }
        }
    }
}

/// A host's session with one manager.
pub struct Session {
    /// The manager it is with.
    pub with: usize,
    /// Something may be news to the host.
    pub look: bool,
    told: Told,
    has_complete: bool,
    /// The version up to which it was told everything.
    told_to: u64,
    /// The version of the last difference.
    sent: u64,
    /// Versions that somebody waits for all nodes to follow, in order.
    awaited: Vec<u64>,
    /// What the leader was told last.
    pub reported: u64,
}

impl Session {
    pub fn open(with: usize) -> Self {
        Self {
            with,
            look: true,
            told: Told::default(),
            has_complete: false,
            told_to: 0,
            sent: 0,
            awaited: Vec::new(),
            reported: 0,
        }
    }
}

/// A difference on its way into packets.
struct Coming {
    /// When it is there.
    at: Timestamp,
    version: u64,
    /// The version that packets follow then: there was no news in between.
    reaches: u64,
}

/// Everything that a host was told and not told to forget.
#[derive(Default)]
pub struct Assigned {
    items: BTreeMap<String, (Vec<u8>, Item)>,
    /// Versions on their way into packets, and when each is there.
    coming: VecDeque<Coming>,
    /// The version of the last difference that is in packets: what managers are told.
    applied: u64,
    /// The version that packets really follow, with all that was no news.
    packets: u64,
    /// The first thing that it was told and cannot be right.
    pub confused: Option<String>,
}

impl Assigned {
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.items.values().filter_map(|(_, item)| match item {
            Item::Task(task) => Some(&**task),
            _ => None,
        })
    }

    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.items.values().filter_map(|(_, item)| match item {
            Item::Secret(secret) => Some(secret),
            _ => None,
        })
    }

    /// Hears what is news; the version it knows then, and whether anything is other than before.
    pub fn look(
        &mut self,
        session: &mut Session,
        desk: &Desk,
        node: &NodeId,
        sabotage: Option<Sabotage>,
    ) -> Option<(u64, bool)> {
        if !std::mem::take(&mut session.look) {
            return None;
        }
        let change = session.told.next(&desk.shared, node);
        session.told_to = desk.version();
        session.awaited = desk.shared.awaited().to_vec();
        let is_news = change.is_some();
        if let Some(change) = change {
            session.sent = change.version;
            if sabotage != Some(Sabotage::LoseMessages) || !change.version.is_multiple_of(10) {
                self.take(&change, session, sabotage);
            }
        }
        Some((session.told_to, is_news))
    }

    fn take(&mut self, change: &Assignments, session: &mut Session, sabotage: Option<Sabotage>) {
        if change.complete == session.has_complete {
            let what = match change.complete {
                true => "a second complete set",
                false => "a difference to nothing",
            };
            self.confuse(format!("{what} at version {}", change.version));
        }
        if change.complete {
            session.has_complete = true;
            self.items.clear();
        }
        for key in &change.remove {
            if sabotage == Some(Sabotage::KeepSecrets) && key.starts_with("secret/") {
                continue;
            }
            if self.items.remove(key).is_none() {
                self.confuse(format!("told to forget {key}, which it does not have"));
            }
        }
        for item in &change.put {
            match decode::<Item>("assignment", &item.value) {
                Ok(read) => {
                    let value = item.value.to_vec();
                    let before = self.items.insert(item.key.clone(), (value, read));
                    if before.is_some_and(|(before, _)| before == item.value) {
                        self.confuse(format!("told {} again", item.key));
                    }
                }
                Err(error) => self.confuse(format!("{}: {error}", item.key)),
            }
        }
    }

    fn confuse(&mut self, what: String) {
        self.confused.get_or_insert(what);
    }

    /// There was no news up to this version: packets follow it as soon as what was heard before.
    pub fn follow(&mut self, version: u64) {
        match self.coming.back_mut() {
            Some(last) => last.reaches = version,
            None => self.packets = version,
        }
    }

    /// Packets follow what was heard some time later.
    pub fn schedule(&mut self, version: u64, now: Timestamp, rough: bool, dice: &mut Dice) {
        let millis = match rough && dice.chance(10) {
            true => dice.between(500, 6000),
            false => dice.between(0, 200),
        };
        if self.coming.is_empty() && version <= self.applied {
            // Another manager tells all of what is in packets already.
            self.packets = self.packets.max(version);
            return;
        }
        let last = self.coming.back().map_or(now, |last| last.at);
        let at = now.plus(Duration::from_millis(millis)).max(last);
        self.coming.push_back(Coming {
            at,
            version,
            reaches: version,
        });
    }

    /// Lets packets follow.
    pub fn advance(&mut self, now: Timestamp) {
        let applied = self.applied;
        // What is in packets already need not be waited for.
        let is_there = |next: &mut Coming| next.at <= now || next.version <= applied;
        while let Some(next) = self.coming.pop_front_if(is_there) {
            self.applied = next.version;
            self.packets = next.reaches;
        }
    }

    /// The version that packets follow, whatever anybody was told of it.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// What the host's manager has to say to the leader now: only what somebody waits for.
    pub fn news(&self, session: &mut Session) -> Option<u64> {
        let followed = match self.applied >= session.sent {
            true => session.told_to,
            false => self.applied,
        };
        let mut reached = session.awaited.iter().rev();
        let reached = reached.find(|at| **at <= followed)?;
        (session.reported < *reached).then(|| {
            session.reported = followed;
            followed
        })
    }

    /// What differs from everything that the node is to know; nothing while it has not looked.
    pub fn differs(&self, session: &Session, desk: &Desk, node: &NodeId) -> Option<String> {
        if session.look || !session.has_complete {
            return None;
        }
        let whole = Told::default().next(&desk.shared, node)?;
        let wanted: BTreeMap<&str, &[u8]> = whole
            .put
            .iter()
            .map(|item| (item.key.as_str(), &item.value[..]))
            .collect();
        let held: BTreeMap<&str, &[u8]> = self
            .items
            .iter()
            .map(|(key, (value, _))| (key.as_str(), &value[..]))
            .collect();
        let mut keys = wanted.keys().chain(held.keys());
        keys.find(|key| wanted.get(*key) != held.get(*key))
            .map(|key| format!("{key} is not what it would be told in a complete set"))
    }
}
