//! Why a command did not do what it was asked, and what the process answers with.

use std::fmt;
use std::io;

/// Exit statuses that docker's users know.
pub mod status {
    /// The command failed.
    pub const FAILED: u8 = 1;
    /// The template of an `inspect` cannot be read.
    pub const TEMPLATE: u8 = 64;
    /// A flag or its value was wrong, or `run` failed before the container's process.
    pub const USAGE: u8 = 125;
    /// The container's command could not be executed.
    pub const NOT_EXECUTABLE: u8 = 126;
    /// The container's command was not found.
    pub const NOT_FOUND: u8 = 127;
    /// The reader of our output went away: 128 + SIGPIPE.
    pub const PIPE: u8 = 141;
}

/// A command that failed. `Display` is the complete text for stderr.
#[derive(Debug)]
pub enum Failure {
    /// The daemon answered with an error.
    Daemon { code: u16, message: String },
    /// Nobody answers at this address.
    Unreachable { host: String, cause: String },
    /// Wrong flags: message and how the command is called.
    Usage { message: String, usage: String },
    /// Anything else, said in full.
    Message(String),
    /// End with this status, saying `message` if it is not empty.
    Exit { status: u8, message: String },
    /// Nobody reads what we print.
    Pipe,
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    /// Ends with `status` and prints nothing.
    pub fn exit(status: u8) -> Self {
        Self::Exit {
            status,
            message: String::new(),
        }
    }

    /// Whether the daemon said that the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Daemon { code: 404, .. })
    }

    /// The status the process ends with.
    pub fn status(&self) -> u8 {
        match self {
            Self::Daemon { .. } | Self::Unreachable { .. } | Self::Message(_) => status::FAILED,
            Self::Usage { .. } => status::USAGE,
            Self::Exit { status, .. } => *status,
            Self::Pipe => status::PIPE,
        }
    }

    /// One failure that says what several said, one line each. One alone stays what it is.
    pub fn join(mut failures: Vec<Failure>) -> Outcome {
        if failures.len() == 1 {
            return failures.pop().map_or(Ok(()), Err);
        }
        let mut lines = Vec::new();
        for failure in failures {
            if matches!(failure, Failure::Pipe) {
                return Err(failure);
            }
            lines.push(failure.to_string());
        }
        if lines.is_empty() {
            Ok(())
        } else {
            Err(Self::Message(lines.join("\n")))
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon { message, .. } => write!(f, "Error response from daemon: {message}"),
            Self::Unreachable { host, cause } if cause.is_empty() => write!(
                f,
                "Cannot connect to the Docker daemon at {host}. Is the docker daemon running?"
            ),
            Self::Unreachable { host, cause } => {
                write!(f, "error during connect: {host}: {cause}")
            }
            Self::Usage { message, usage } => write!(f, "{message}\n\n{usage}"),
            Self::Message(message) | Self::Exit { message, .. } => f.write_str(message),
            Self::Pipe => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Message(text)
    }
}

/// A failed write to our own output.
pub fn output_failure(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::Pipe
    } else {
        Failure::Message(format!("write to standard output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_stays_what_it_is_and_several_are_told_line_by_line() {
        let gone = || Failure::Daemon {
            code: 404,
            message: "gone".to_owned(),
        };
        assert!(Failure::join(Vec::new()).is_ok());
        assert!(Failure::join(vec![gone()]).unwrap_err().is_not_found());
        let both = Failure::join(vec![gone(), Failure::message("also")]).unwrap_err();
        assert_eq!(both.to_string(), "Error response from daemon: gone\nalso");
        let pipe = Failure::join(vec![gone(), Failure::Pipe]).unwrap_err();
        assert!(matches!(pipe, Failure::Pipe));
    }
}
