//! The one place where kinds of failure become HTTP status codes.

use http::{Response, StatusCode, header};
use skep_engine::EngineError;
use skep_model::{ControlError, Kind};
use skep_store::FindError;

use crate::reply::{self, Reply};

/// What a client is told when a request fails.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
}

/// The answer to a request, or why there is none.
pub type Outcome<T = Reply> = Result<T, ApiError>;

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// 400
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 403
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 404
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 409
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 501
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// 503
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    /// The error of an operation on this node's membership (init, join, leave, unlock): dockerd
    /// shows the text bare.
    pub fn local(error: ControlError) -> Self {
        Self::new(control_status(error.kind), error.message)
    }

    /// An error of a pull or push: dockerd reports refused credentials, and a registry that
    /// does not answer, as its own failure.
    pub fn transfer(error: &EngineError) -> Self {
        let status = match error.kind() {
            skep_engine::Kind::Unauthorized | skep_engine::Kind::Unavailable => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            kind => engine_status(kind),
        };
        Self::new(status, error.to_string())
    }

    /// The body `{"message": …}`; none for "not modified".
    pub fn reply(self) -> Reply {
        if self.status == StatusCode::NOT_MODIFIED {
            return reply::empty(self.status);
        }
        let body = serde_json::json!({ "message": self.message });
        Response::builder()
            .status(self.status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(reply::full(format!("{body}\n")))
            .expect("a status and a constant header make a response")
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self::new(engine_status(error.kind()), error.to_string())
    }
}

/// Errors of requests to the cluster, spelled as dockerd passes its own control API's on.
impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let status = control_status(error.kind);
        match grpc_name(&error) {
            Some(code) => Self::new(
                status,
                format!("rpc error: code = {code} desc = {}", error.message),
            ),
            None => Self::new(status, error.message),
        }
    }
}

/// A name that finds nothing, or too much, in the cluster.
impl From<FindError> for ApiError {
    fn from(error: FindError) -> Self {
        let status = match &error {
            FindError::NotFound { .. } => StatusCode::NOT_FOUND,
            FindError::Ambiguous { .. } => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

fn engine_status(kind: skep_engine::Kind) -> StatusCode {
    use skep_engine::Kind as K;
    match kind {
        K::NotFound => StatusCode::NOT_FOUND,
        K::Invalid => StatusCode::BAD_REQUEST,
        K::Conflict | K::FailedPrecondition => StatusCode::CONFLICT,
        K::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        K::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        K::NotModified => StatusCode::NOT_MODIFIED,
        K::Unauthorized => StatusCode::UNAUTHORIZED,
        K::Forbidden => StatusCode::FORBIDDEN,
        K::NotImplemented => StatusCode::NOT_IMPLEMENTED,
    }
}

fn control_status(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Invalid | Kind::FailedPrecondition => StatusCode::BAD_REQUEST,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::PermissionDenied => StatusCode::FORBIDDEN,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        // 409 would be right for a stale version; dockerd says 500 and clients match the text.
        Kind::OutOfSequence | Kind::Exhausted | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The gRPC code dockerd would name; `None` for node-state errors, whose text stands alone.
fn grpc_name(error: &ControlError) -> Option<&'static str> {
    Some(match error.kind {
        Kind::NotFound => "NotFound",
        Kind::Invalid => "InvalidArgument",
        Kind::Conflict => "AlreadyExists",
        Kind::FailedPrecondition => "FailedPrecondition",
        Kind::PermissionDenied => "PermissionDenied",
        Kind::Unauthenticated => "Unauthenticated",
        Kind::Unimplemented => "Unimplemented",
        Kind::Exhausted => "ResourceExhausted",
        Kind::OutOfSequence | Kind::Internal => "Unknown",
        Kind::Unavailable
            if error
                .message
                .starts_with("The swarm does not have a leader") =>
        {
            "Unknown"
        }
        Kind::Unavailable => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_errors_carry_the_grpc_prefix_and_node_state_errors_do_not() {
        let check = |kind, text: &str, status: u16, shown: &str| {
            let error = ApiError::from(ControlError::new(kind, text));
            assert_eq!((error.status().as_u16(), error.message()), (status, shown));
        };
        check(
            Kind::Invalid,
            "bad",
            400,
            "rpc error: code = InvalidArgument desc = bad",
        );
        check(
            Kind::OutOfSequence,
            "update out of sequence",
            500,
            "rpc error: code = Unknown desc = update out of sequence",
        );
        check(
            Kind::FailedPrecondition,
            "no",
            400,
            "rpc error: code = FailedPrecondition desc = no",
        );
        check(
            Kind::Conflict,
            "x",
            409,
            "rpc error: code = AlreadyExists desc = x",
        );
        check(
            Kind::Unavailable,
            "This node is not a swarm manager.",
            503,
            "This node is not a swarm manager.",
        );
    }

    #[test]
    fn local_errors_stand_alone() {
        let error = ApiError::local(ControlError::new(Kind::Unauthenticated, "wrong key"));
        assert_eq!(
            (error.status().as_u16(), error.message()),
            (401, "wrong key")
        );
    }

    #[test]
    fn not_modified_has_no_body() {
        let reply = ApiError::from(EngineError::not_modified("runs")).reply();
        assert_eq!(reply.status(), StatusCode::NOT_MODIFIED);
        assert!(reply.headers().is_empty());
    }
}
