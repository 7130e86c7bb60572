#![doc = include_str!("../README.md")]

mod context;
mod diagnostic;
mod document;
mod emit;
mod field;
mod fields;
mod file;
mod include;
mod interpolate;
mod load;
mod out;
mod report;
mod reset;
mod scalar;
mod stack;
mod text;
mod tree;
mod yaml;

use std::io;

use skep_model::StackSpec;

pub use diagnostic::{Diagnostic, Severity};

/// One compose file, already read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What messages call the file.
    pub name: String,
    pub text: String,
}

/// How to read compose files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the stack; prefix of every object's name.
    pub stack: String,
    /// Whether `$VAR` and `${VAR}` are replaced.
    pub interpolate: bool,
    /// Whether warnings are errors.
    pub strict: bool,
    /// Absolute directory that relative paths in the files start from: that of the first file, or
    /// the current one when the file comes from stdin.
    pub working_dir: String,
}

/// What compose files mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub stack: StackSpec,
    /// What has no effect here, in the order of the files.
    pub warnings: Vec<Diagnostic>,
    /// The files merged and normalised, as YAML: what `docker stack config` prints.
    pub document: String,
}

/// The environment that `$VAR` is looked up in.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a file that a compose file names, by path (absolute when `working_dir` is).
pub type Read<'a> = &'a mut dyn FnMut(&str) -> io::Result<Vec<u8>>;

/// Reads compose files as the stack `options.stack`, later files over earlier ones.
///
/// # Errors
/// Everything that is wrong, in the order of the files; with `options.strict` the warnings too.
pub fn load(
    sources: &[Source],
    env: Env<'_>,
    read: Read<'_>,
    options: &Options,
) -> Result<Loaded, Vec<Diagnostic>> {
    load::load(sources, env, read, options)
}

/// The files merged and normalised, as the YAML that `docker stack config` prints, and the
/// warnings. Payloads of secrets and configs are not read; `env_file`s are.
///
/// # Errors
/// As [`load`].
pub fn config(
    sources: &[Source],
    env: Env<'_>,
    read: Read<'_>,
    options: &Options,
) -> Result<(String, Vec<Diagnostic>), Vec<Diagnostic>> {
    load::config(sources, env, read, options)
}
