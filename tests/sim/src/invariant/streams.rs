//! Whoever watches has everything, once: events put on top of the state where the watch began give the state,
//! and what hosts are told one after the other is what they would be told at once.

use std::collections::BTreeMap;

use skep_store::{Key, Object, Snapshot, Store, Watch};

use crate::host::Host;
use crate::sabotage::Sabotage;
use crate::session::Desk;

/// Unread events of which a watcher loses the count. So few that some do.
const UNREAD_MAX: usize = 60;

/// Somebody who watches one manager's state, and keeps a copy of it.
pub struct Watcher {
    watch: Watch,
    version: u64,
    copy: BTreeMap<Key, Object>,
    heard: u64,
    /// How often it was too slow and had to begin anew.
    pub fresh_starts: usize,
}

impl Watcher {
    pub fn new(store: &Store) -> Self {
        let (snapshot, watch) = store.watch(UNREAD_MAX);
        Self {
            watch,
            version: snapshot.version().index,
            copy: objects(&snapshot),
            heard: 0,
            fresh_starts: 0,
        }
    }

    /// Reads what there is.
    pub fn read(&mut self, store: &Store, sabotage: Option<Sabotage>) -> Result<(), String> {
        loop {
            let event = match self.watch.try_next() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) => {
                    let fresh_starts = self.fresh_starts + 1;
                    *self = Self::new(store);
                    self.fresh_starts = fresh_starts;
                    return Ok(());
                }
            };
            self.heard += 1;
            if sabotage == Some(Sabotage::LoseEvents) && self.heard.is_multiple_of(50) {
                continue;
            }
            let key = event.change.key();
            let version = event.version.index;
            if version < self.version {
                return Err(format!(
                    "the watcher is told of {key} in version {version} after {}",
                    self.version
                ));
            }
            self.version = version;
            if event.change.before() != self.copy.get(&key) {
                return Err(format!(
                    "the watcher is told of a change of {key} in version {version} to something \
                     else than it has"
                ));
            }
            match event.change.after() {
                Some(object) => drop(self.copy.insert(key, object.clone())),
                None => drop(self.copy.remove(&key)),
            }
        }
        Ok(())
    }

    /// Compares the copy with the state; everything must have been read.
    pub fn compare(&self, store: &Store) -> Result<(), String> {
        let now = objects(&store.snapshot());
        let mut keys = now.keys().chain(self.copy.keys());
        match keys.find(|key| now.get(key) != self.copy.get(key)) {
            None => Ok(()),
            Some(key) => Err(format!("the watcher was not told all of {key}")),
        }
    }
}

fn objects(snapshot: &Snapshot) -> BTreeMap<Key, Object> {
    let keys = snapshot.keys().into_iter();
    keys.filter_map(|key| Some((key.clone(), snapshot.object(&key)?)))
        .collect()
}

/// Nobody is told something twice, or told to forget what it does not have.
pub(super) fn nobody_is_confused(hosts: &[Host]) -> Result<(), String> {
    for host in hosts {
        if let Some(what) = &host.assigned.confused {
            return Err(format!("session of {}: {what}", host.id));
        }
    }
    Ok(())
}

/// What hosts have heard is what they are to know now. Looking costs as much as telling all of it.
pub fn hosts_know_everything(hosts: &[Host], desks: &[Desk]) -> Result<(), String> {
    for host in hosts {
        let Some(session) = &host.session else {
            continue;
        };
        let desk = &desks[session.with];
        if let Some(what) = host.assigned.differs(session, desk, &host.id) {
            return Err(format!("session of {}: {what}", host.id));
        }
    }
    Ok(())
}
