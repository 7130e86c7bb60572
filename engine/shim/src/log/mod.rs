//! What a container writes, cut into entries and kept.

mod json_file;
mod lines;

pub use json_file::JsonFile;
pub use lines::{Entry, Lines};

/// Which of a process's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Output {
    Stdout,
    Stderr,
}

impl Output {
    /// Docker's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}
