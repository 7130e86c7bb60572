//! What the engine says when it cannot do what it was asked.

/// What sort of failure an error is; each kind has one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 404
    NotFound,
    /// 400
    Invalid,
    /// 409
    Conflict,
    /// The request is right, but not in this state; 409 for dockerd.
    FailedPrecondition,
    /// 503
    Unavailable,
    /// 500
    Internal,
    /// Nothing to do, it is so already: 304.
    NotModified,
    /// 401 (dockerd answers 500 with the registry's text for pulls)
    Unauthorized,
    /// 403
    Forbidden,
    /// 501
    NotImplemented,
}

/// An error with dockerd's text where dockerd has one.
#[derive(Debug)]
pub struct EngineError {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    exit_code: Option<i32>,
}

/// The engine's result.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

impl std::fmt::Display for EngineError {
    /// The message, and the cause behind a colon as dockerd writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        let mut cause = self.source.as_deref().map(|e| e as &dyn std::error::Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

// The text above shows the whole chain already, so `source` stays hidden from
// reporters that would print it again.
impl std::error::Error for EngineError {}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Kind::$kind, message)
        }
    )*};
}

impl EngineError {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
            exit_code: None,
        }
    }

    constructors! {
        not_found => NotFound,
        invalid => Invalid,
        conflict => Conflict,
        failed_precondition => FailedPrecondition,
        unavailable => Unavailable,
        internal => Internal,
        not_modified => NotModified,
        unauthorized => Unauthorized,
        forbidden => Forbidden,
        not_implemented => NotImplemented,
    }

    /// The same error with its cause.
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with a sentence in front.
    pub fn context(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// The same error with the exit code that docker gives it.
    pub(crate) fn with_exit_code(mut self, code: i32) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// The exit code docker gives a container or exec that could not start for
    /// this reason: 127 not found, 126 not executable, 128 otherwise.
    pub fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether this says that the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    pub(crate) fn no_such_container(given: &str) -> Self {
        Self::not_found(format!("No such container: {given}"))
    }

    pub(crate) fn no_such_image(given: &str) -> Self {
        Self::not_found(format!("No such image: {given}"))
    }

    pub(crate) fn no_such_volume(given: &str) -> Self {
        Self::not_found(format!("get {given}: no such volume"))
    }

    pub(crate) fn no_such_network(given: &str) -> Self {
        Self::not_found(format!("network {given} not found"))
    }

    pub(crate) fn no_such_exec(given: &str) -> Self {
        Self::not_found(format!("No such exec instance: {given}"))
    }

    pub(crate) fn not_running(id: &str) -> Self {
        Self::conflict(format!("container {id} is not running"))
    }
}

/// Adds what was being done to an I/O error.
pub(crate) trait IoContext<T> {
    /// Turns the error into an internal one that says `what` failed.
    fn during(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| EngineError::internal(what()).because(error))
    }
}

impl<T> IoContext<T> for nix::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| EngineError::internal(what()).because(error))
    }
}

impl<T> IoContext<T> for serde_json::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| EngineError::internal(what()).because(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_carries_its_causes() {
        let error = EngineError::internal("cannot write `x`")
            .because(std::io::Error::other("disk full"))
            .context("container abc");
        assert_eq!(
            error.to_string(),
            "container abc: cannot write `x`: disk full"
        );
        assert_eq!(error.kind(), Kind::Internal);
    }
}
