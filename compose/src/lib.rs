#![doc = include_str!("../README.md")]

mod context;
mod diagnostic;
mod document;
mod emit;
mod field;
mod fields;
mod file;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod include;
mod interpolate;
mod load;
mod out;
mod project;
mod report;
mod reset;
mod scalar;
mod stack;
mod text;
mod tree;
mod yaml;

use std::io;

use skep_model::StackSpec;

use report::Report;
use text::encoding;

pub use diagnostic::{Diagnostic, Severity};
pub use interpolate::Variable;
pub use project::{
    Condition, Project, ProjectBuild, ProjectDependency, ProjectEndpoint, ProjectFile, ProjectHook,
    ProjectNetwork, ProjectOptions, ProjectService, ProjectVolume, ProjectWatch, SharedNamespaces,
    WatchAction, images_only, profiles,
};

/// One compose file, already read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What messages call the file.
    pub name: String,
    pub text: String,
}

impl Source {
    /// A file's bytes as text: UTF-8, or UTF-16 where a byte order mark says so.
    ///
    /// # Errors
    /// Where the first bytes stand that are no character.
    pub fn decode(name: impl Into<String>, bytes: &[u8]) -> Result<Self, Vec<Diagnostic>> {
        let name = name.into();
        match encoding::decode(bytes) {
            Ok(text) => Ok(Self { name, text }),
            Err(wrong) => {
                let text = wrong.text.clone();
                let mut report = Report::new(vec![Self { name, text }]);
                report.not_text(0, wrong);
                Err(report.finish(false).unwrap_or_else(|found| found))
            }
        }
    }
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

/// Reads compose files as a project of one host, later files over earlier ones.
///
/// # Errors
/// Everything that is wrong, in the order of the files.
pub fn project(
    sources: &[Source],
    env: Env<'_>,
    read: Read<'_>,
    options: &ProjectOptions,
) -> Result<Project, Vec<Diagnostic>> {
    load::project(sources, env, read, options)
}

/// The name that the files give the project; the last one counts.
pub fn project_name(sources: &[Source], env: Env<'_>) -> Option<String> {
    load::project_name(sources, env)
}

/// The variables that files name in their values, by name.
pub fn variables_of(sources: &[Source]) -> Vec<Variable> {
    load::variables_of(sources)
}

/// The variables of a `.env` file. Variables within values are looked up in those of the file
/// before them, then by `env`.
///
/// # Errors
/// What is wrong, with its line.
pub fn variables(bytes: &[u8], env: Env<'_>) -> Result<Vec<(String, String)>, String> {
    let read = text::dotenv::parse_with(bytes, env)?;
    Ok(read
        .into_iter()
        .filter_map(|one| {
            let value = one.value.or_else(|| env(&one.name))?;
            Some((one.name, value))
        })
        .collect())
}
