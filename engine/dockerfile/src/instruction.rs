//! The instructions, typed. Nothing in them is expanded yet.

use crate::copy::Copy;
use crate::health::Health;
use crate::heredoc::Heredoc;
use crate::mount::Mount;

/// One instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    Add(Copy),
    Arg(Vec<Argument>),
    Cmd(Command),
    Copy(Copy),
    Entrypoint(Command),
    Env(Vec<Pair>),
    Expose(Vec<String>),
    Healthcheck(Health),
    Label(Vec<Pair>),
    Maintainer(String),
    /// An instruction for whoever builds on the image.
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    Stopsignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// A name and its value, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub key: String,
    pub value: String,
}

/// One argument that `ARG` declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    pub key: String,
    /// Its default.
    pub value: Option<String>,
}

/// A command in either form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The words of the exec form, or one line for the shell.
    pub words: Vec<String>,
    pub shell: bool,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    pub heredocs: Vec<Heredoc>,
    /// `--mount` as written; read with [`Mount::parse`] after expansion.
    pub mounts: Vec<String>,
    pub network: Network,
    /// `--security=insecure`.
    pub insecure: bool,
}

/// `RUN --network`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    #[default]
    Default,
    None,
    Host,
}

impl Run {
    /// What a shell is given to do, its here-documents included.
    pub fn script(&self) -> Option<String> {
        let [line] = &self.command.words[..] else {
            return None;
        };
        match &self.heredocs[..] {
            [] => Some(line.clone()),
            [only] if crate::heredoc::read(line.trim(), '\\').is_some() => Some(only.text()),
            all => {
                let mut script = line.clone();
                for document in all {
                    script.push('\n');
                    script.push_str(&document.content);
                    script.push_str(&document.name);
                }
                Some(script)
            }
        }
    }

    /// A here-document that names its interpreter: a program of its own.
    pub fn program(&self) -> Option<&Heredoc> {
        match (&self.command.words[..], &self.heredocs[..]) {
            ([line], [only])
                if self.command.shell
                    && only.content.starts_with("#!")
                    && crate::heredoc::read(line.trim(), '\\').is_some() =>
            {
                Some(only)
            }
            _ => None,
        }
    }

    /// Mounts that need no expansion, checked while reading.
    pub(crate) fn check(&self) -> Result<(), String> {
        for text in self.mounts.iter().filter(|text| !text.contains('$')) {
            Mount::parse(text)?;
        }
        Ok(())
    }
}
