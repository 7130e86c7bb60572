//! How the many small steps of a start say what went wrong.

use std::io;

use crate::protocol::StartFailure;
use crate::sys;

/// Docker's exit code for a container that could not be started for a reason other
/// than its program.
pub const NOT_STARTED: i32 = 128;
/// Docker's exit code for a program that cannot be executed.
pub const NOT_EXECUTABLE: i32 = 126;
/// Docker's exit code for a program that does not exist.
pub const NOT_FOUND: i32 = 127;

/// A failure with this text.
pub fn failure(message: impl Into<String>) -> StartFailure {
    StartFailure {
        message: message.into(),
        exit_code: NOT_STARTED,
    }
}

/// Adds what was being done to an error of the kernel.
pub trait Context<T> {
    /// `what` becomes `what: text of the error`.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, StartFailure>;
}

impl<T> Context<T> for io::Result<T> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, StartFailure> {
        self.map_err(|error| failure(format!("{}: {}", what().into(), sys::errno_text(&error))))
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, StartFailure> {
        self.map_err(io::Error::from).context(what)
    }
}
