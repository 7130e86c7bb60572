//! Error kinds as gRPC codes and back: the only place that knows both.

use skep_model::{ControlError, Kind};
use tonic::{Code, Status};

/// The gRPC code of a kind.
pub const fn code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::Invalid => Code::InvalidArgument,
        Kind::Conflict => Code::AlreadyExists,
        Kind::OutOfSequence => Code::Aborted,
        Kind::FailedPrecondition => Code::FailedPrecondition,
        Kind::Unavailable => Code::Unavailable,
        Kind::PermissionDenied => Code::PermissionDenied,
        Kind::Unauthenticated => Code::Unauthenticated,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Internal => Code::Internal,
    }
}

/// The kind that a gRPC code stands for.
pub fn kind(code: Code) -> Kind {
    match code {
        Code::NotFound => Kind::NotFound,
        Code::InvalidArgument | Code::OutOfRange => Kind::Invalid,
        Code::AlreadyExists => Kind::Conflict,
        Code::Aborted => Kind::OutOfSequence,
        Code::FailedPrecondition => Kind::FailedPrecondition,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Kind::Unavailable,
        Code::PermissionDenied => Kind::PermissionDenied,
        Code::Unauthenticated => Kind::Unauthenticated,
        Code::Unimplemented => Kind::Unimplemented,
        Code::ResourceExhausted => Kind::Exhausted,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Kind::Internal,
    }
}

/// A control error as a gRPC status.
pub fn from_control(error: &ControlError) -> Status {
    Status::new(code(error.kind), error.message.clone())
}

/// A gRPC status as a control error.
pub fn to_control(status: &Status) -> ControlError {
    ControlError::new(kind(status.code()), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        let kinds = [
            Kind::NotFound,
            Kind::Invalid,
            Kind::Conflict,
            Kind::OutOfSequence,
            Kind::FailedPrecondition,
            Kind::Unavailable,
            Kind::PermissionDenied,
            Kind::Unauthenticated,
            Kind::Unimplemented,
            Kind::Exhausted,
            Kind::Internal,
        ];
        for wanted in kinds {
            assert_eq!(kind(code(wanted)), wanted);
        }
    }
}
