//! What can go wrong at the door.

use std::io;
use std::path::PathBuf;

use crate::Member;

/// Why a member cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something on disk is not what was written. It is left as it is: this member must be
    /// removed from the cluster and join again as a new one.
    #[error("the replicated log in `{}` is damaged: {what}", directory.display())]
    Damaged { directory: PathBuf, what: String },
    #[error("could not use `{}`", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The key given is not the one the directory was made with.
    #[error("the key does not open the replicated log in `{}`", directory.display())]
    WrongKey { directory: PathBuf },
    /// Another process has the directory open.
    #[error("`{}` is in use by another process", directory.display())]
    InUse { directory: PathBuf },
    /// The directory belongs to another member.
    #[error("the directory belongs to member {found}, not to {wanted}")]
    OtherMember { found: u64, wanted: u64 },
    #[error("the options make no sense: {0}")]
    Options(String),
    #[error("could not start: {0}")]
    Start(String),
}

/// Why a command was not (known to be) applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not applied here and not going to be: ask the leader.
    #[error("this manager is not the leader")]
    NotLeader { leader: Option<Member> },
    /// No answer from a quorum in time, or leadership was lost half way: **the command may or may
    /// not be applied**. Read the state before trying again.
    #[error("no quorum of managers answered in time")]
    Unavailable,
    /// Too many proposals are waiting; this one was not taken.
    #[error("too many proposals are waiting")]
    Busy,
    /// Larger than [`crate::COMMAND_BYTES_MAX`].
    #[error("a command of {bytes} bytes is larger than {max} bytes")]
    TooBig { bytes: usize, max: usize },
    /// This member is shut down or has failed. If it was the leader, the outcome is unknown.
    #[error("this manager has stopped")]
    Stopped,
}

/// Why a read cannot be promised to be current.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this manager is not the leader")]
    NotLeader { leader: Option<Member> },
    /// No quorum, no leader, or the leader did not answer in time.
    #[error("no quorum of managers answered in time")]
    Unavailable,
    #[error("this manager has stopped")]
    Stopped,
}

/// Why the membership was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("this manager is not the leader")]
    NotLeader { leader: Option<Member> },
    /// Fewer than a majority of the voters that would remain are reachable.
    #[error(
        "removing member {id} would lose the quorum: {reachable} of the {remaining} remaining \
         voters are reachable"
    )]
    WouldLoseQuorum {
        id: u64,
        reachable: usize,
        remaining: usize,
    },
    /// The last voter cannot be removed.
    #[error("member {id} is the last voter")]
    LastVoter { id: u64 },
    #[error("there is no member {id}")]
    NoSuchMember { id: u64 },
    /// The id or the address is taken by another node.
    #[error("member {id} already exists with node `{node}`")]
    Exists { id: u64, node: String },
    /// A learner must have caught up before it counts for the quorum.
    #[error("member {id} has not caught up: {lag} entries behind")]
    Behind { id: u64, lag: u64 },
    /// The member has a log already.
    #[error("this manager already belongs to a cluster")]
    AlreadyBootstrapped,
    /// Not finished in time: **it may still happen**.
    #[error("no quorum of managers answered in time")]
    Unavailable,
    #[error("this manager has stopped")]
    Stopped,
}
