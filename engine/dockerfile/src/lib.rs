#![doc = include_str!("../README.md")]

mod args;
mod copy;
mod directive;
mod dockerfile;
mod error;
mod flags;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod glob;
mod health;
mod heredoc;
mod ignore;
mod instruction;
mod json;
mod lines;
mod mount;
mod parse;
mod split;
mod word;

pub use args::{BuildArgs, Platforms};
pub use copy::{Copy, Inline};
pub use dockerfile::{DOCKERFILE_BYTES_MAX, Dockerfile, Stage, Step, parse_trigger};
pub use error::ParseError;
pub use glob::glob;
pub use health::Health;
pub use heredoc::Heredoc;
pub use ignore::{Ignore, IgnoreError, PathPattern};
pub use instruction::{Argument, Command, Instruction, Network, Pair, Run};
pub use mount::{Mount, MountKind, Sharing};
pub use word::{ExpandError, Expander};
