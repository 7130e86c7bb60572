//! What sort of failure an error is. Mapped to HTTP once (in `api`) and to gRPC once (in `proto`).

use serde::{Deserialize, Serialize};

/// The kinds of failure that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The object does not exist.
    NotFound,
    /// The request is wrong in itself.
    Invalid,
    /// An object of that name exists, or is in use.
    Conflict,
    /// The object was changed since it was read ("update out of sequence").
    OutOfSequence,
    /// The request is right, but not in this state.
    FailedPrecondition,
    /// Nobody can answer now: no leader, not a member, locked. May be tried again.
    Unavailable,
    /// The caller may not do this.
    PermissionDenied,
    /// The caller is not known.
    Unauthenticated,
    /// Known, but not offered.
    Unimplemented,
    /// A bound was reached.
    Exhausted,
    /// Our own fault.
    Internal,
}
