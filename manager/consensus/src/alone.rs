//! The way out when most voters are gone for good: one member goes on as the only one.
//!
//! Raft can not decide this by itself, since it cannot know that the others will never come back.
//! Whoever calls it must know: if the others do go on among themselves there are two clusters from
//! then on.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{CommittedLeaderId, EntryPayload, Membership};

use crate::journal::Journal;
use crate::open::open_error;
use crate::raft::{Entry, LogId, Vote};
use crate::vault::Vault;
use crate::{Consensus, Member, OpenError, Options};

impl Consensus {
    /// Makes a member that is not open the only voter of its log. Everything in its log stays, what
    /// was never acknowledged included: without the others nobody can tell the two apart. It takes
    /// part, and leads, once it is opened again.
    ///
    /// # Errors
    /// Those of [`Consensus::open`], and `Damaged` for a log that has never been part of a cluster.
    pub async fn go_on_alone(options: Options, me: Member) -> Result<(), OpenError> {
        tokio::task::spawn_blocking(move || write(&options, me))
            .await
            .map_err(|error| OpenError::Start(error.to_string()))?
    }
}

fn write(options: &Options, me: Member) -> Result<(), OpenError> {
    let Options { id, directory, .. } = options;
    let failed = |error| open_error(error, *id, directory);
    let vault = Vault::new(options.sealer.clone(), *id);
    let (mut journal, recovered) =
        Journal::open(directory, *id, options.backend, vault, |_| {}).map_err(failed)?;
    let Some(last) = recovered.last.or(recovered.purged) else {
        return Err(OpenError::Damaged {
            directory: directory.clone(),
            what: "the log is empty: this member was never part of a cluster".to_owned(),
        });
    };
    // A term that nobody can have led, so that the entry is newer than any other in it.
    let voted = recovered.vote.map_or(0, |vote| vote.leader_id().term);
    let term = voted.max(last.leader_id.term) + 1;
    journal.save_vote(Vote::new(term, *id)).map_err(failed)?;
    // The last membership in a log is the one that holds, committed or not.
    let members = BTreeMap::from([(*id, Member { id: *id, ..me })]);
    let entry = Entry {
        log_id: LogId::new(CommittedLeaderId::new(term, *id), last.index + 1),
        payload: EntryPayload::Membership(Membership::new(vec![BTreeSet::from([*id])], members)),
    };
    journal.append([&entry]).map_err(failed)
}
