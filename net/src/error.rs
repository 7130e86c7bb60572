//! What can go wrong, always with the object it went wrong with.

use std::io;

use crate::Proto;

/// The kernel refused a netlink request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelError {
    /// The positive errno.
    pub errno: i32,
    /// The kernel's own explanation (extended acknowledgement), when it gave one.
    pub text: Option<String>,
}

impl std::fmt::Display for KernelError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let errno = io::Error::from_raw_os_error(self.errno);
        match &self.text {
            Some(text) => write!(f, "{text} ({errno})"),
            None => write!(f, "{errno}"),
        }
    }
}

impl std::error::Error for KernelError {}

/// An operation of the data plane failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel refused a change or a look.
    #[error("could not {action} {object}")]
    Kernel {
        /// What was tried: `create`, `delete`, `set`, …
        action: &'static str,
        /// The kernel object: ``link `sk-ing` ``.
        object: String,
        /// The kernel's reason.
        #[source]
        source: KernelError,
    },
    /// A system call failed.
    #[error("could not {action} {object}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What it was tried with.
        object: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The host port is held by another endpoint of ours.
    #[error(
        "driver failed programming external connectivity on endpoint {name} ({id}): Bind for {address}:{port} failed: port is already allocated"
    )]
    PortTaken {
        /// The container's name.
        name: String,
        /// The endpoint's id.
        id: String,
        /// The host address, bracketed when IPv6.
        address: String,
        /// The host port.
        port: u16,
    },
    /// The host port is held by somebody else on this host, or cannot be bound.
    #[error(
        "driver failed programming external connectivity on endpoint {name} ({id}): failed to bind host port {address}:{port}/{proto}: {reason}"
    )]
    PortUnusable {
        /// The container's name.
        name: String,
        /// The endpoint's id.
        id: String,
        /// The host address, bracketed when IPv6.
        address: String,
        /// The host port.
        port: u16,
        /// The protocol.
        proto: Proto,
        /// The system's reason, in lower case.
        reason: String,
    },
    /// Every port of the range asked for is held.
    #[error(
        "driver failed programming external connectivity on endpoint {name} ({id}): all ports are allocated"
    )]
    NoFreePort {
        /// The container's name.
        name: String,
        /// The endpoint's id.
        id: String,
    },
    /// A port published on every node is held by somebody else on this one.
    #[error("port {port}/{proto} is not published on this node: {reason}")]
    PublishedPort {
        /// The port.
        port: u16,
        /// The protocol.
        proto: Proto,
        /// The system's reason, in lower case.
        reason: String,
    },
    /// The desired state contradicts itself or cannot be expressed.
    #[error("{object} is invalid: {reason}")]
    Invalid {
        /// The desired object.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that was named does not exist.
    #[error("{object} not found")]
    NotFound {
        /// What was named.
        object: String,
    },
    /// This kernel or host cannot do what is asked.
    #[error("{object} is not supported on this host: {reason}")]
    Unsupported {
        /// What was asked for.
        object: String,
        /// Why it cannot be.
        reason: String,
    },
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The named thing does not exist.
    NotFound,
    /// The request is wrong in itself.
    Invalid,
    /// Somebody else holds what was asked for.
    Conflict,
    /// This host cannot do it.
    FailedPrecondition,
    /// Try again later; nothing is wrong with the request.
    Unavailable,
    /// The system refused.
    Internal,
}

impl NetError {
    /// Which sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Kernel { .. } | Self::Io { .. } => Kind::Internal,
            Self::PortTaken { .. }
            | Self::PortUnusable { .. }
            | Self::NoFreePort { .. }
            | Self::PublishedPort { .. } => Kind::Conflict,
            Self::Invalid { .. } => Kind::Invalid,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Unsupported { .. } => Kind::FailedPrecondition,
        }
    }

    /// The message with its cause, on one line: for logs and task statuses.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}
