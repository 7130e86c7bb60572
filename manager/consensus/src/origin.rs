//! A log that begins with a state from elsewhere: one member has it, as if everything before it had
//! been dropped behind a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{CommittedLeaderId, Membership};

use crate::journal::Journal;
use crate::open::open_error;
use crate::raft::{LogId, StoredMembership, Vote};
use crate::snapshot::Shelf;
use crate::vault::Vault;
use crate::{Consensus, Member, OpenError, Options};

/// Term and index of the entry that the state stands for.
const FIRST: (u64, u64) = (1, 1);

impl Consensus {
    /// Makes a member that was never part of a cluster the only voter of a new log, whose commands up
    /// to `index` have led to `state`: chunks as [`crate::StateMachine::dump`] gives them. It leads
    /// once it is opened. The log has nothing in common with the one that the state comes from but
    /// the state, so its member's raft id must be a new one.
    ///
    /// # Errors
    /// Those of [`Consensus::open`], and `Damaged` for a directory that is a member's already. What is
    /// in the directory after an error is no member's: remove it.
    pub async fn begin_with(
        options: Options,
        me: Member,
        index: u64,
        state: impl Iterator<Item = Vec<u8>> + Send + 'static,
    ) -> Result<(), OpenError> {
        tokio::task::spawn_blocking(move || write(&options, me, index, state))
            .await
            .map_err(|error| OpenError::Start(error.to_string()))?
    }
}

fn write(
    options: &Options,
    me: Member,
    index: u64,
    state: impl Iterator<Item = Vec<u8>>,
) -> Result<(), OpenError> {
    let Options { id, directory, .. } = options;
    let failed = |error| open_error(error, *id, directory);
    let io = |source| OpenError::Io {
        path: directory.clone(),
        source,
    };
    let vault = Vault::new(options.sealer.clone(), *id);
    let (mut journal, recovered) =
        Journal::open(directory, *id, options.backend, vault.clone(), |_| {}).map_err(failed)?;
    if recovered.last.is_some() || recovered.vote.is_some() {
        return Err(OpenError::Damaged {
            directory: directory.clone(),
            what: "the log is not empty: this member is part of a cluster".to_owned(),
        });
    }
    let (term, entry) = FIRST;
    let last = LogId::new(CommittedLeaderId::new(term, *id), entry);
    let members = BTreeMap::from([(*id, Member { id: *id, ..me })]);
    let membership = Membership::new(vec![BTreeSet::from([*id])], members);
    let membership = StoredMembership::new(Some(last), membership);
    let shelf = Shelf::open(&directory.join("snapshots"), vault, options.keep_snapshots)
        .map_err(|error| io(std::io::Error::other(error.to_string())))?;
    let mut writer = shelf.begin(Some(last), membership, index).map_err(io)?;
    for chunk in state {
        writer.chunk(&chunk).map_err(io)?;
    }
    let snapshot = std::sync::Arc::new(writer.finish().map_err(io)?);
    shelf.adopt(&snapshot).map_err(io)?;
    // Only now does the log say that everything before is in a snapshot.
    journal.save_vote(Vote::new(term, *id)).map_err(failed)?;
    journal.purge(last).map_err(failed)
}
