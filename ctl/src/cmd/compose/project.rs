//! Which compose files, which project: flags, environment and files by convention.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep_compose::{Project, ProjectOptions, Source, Variable};

use super::names::Names;
use super::together;
use crate::cmd::stack;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::session::Session;

/// A file of variables is smaller than this.
const ENV_FILE_BYTES_MAX: u64 = 4 << 20;
const NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];
const OVERRIDES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// A project as its files describe it.
pub struct Loaded {
    pub project: Project,
    /// Absolute paths, in the order they are merged.
    pub files: Vec<String>,
    pub working_dir: String,
    /// Files of variables that were given by flag.
    pub env_files: Vec<String>,
    /// Between the parts of names: `-`, or `_` with `--compatibility`.
    separator: char,
}

impl Loaded {
    /// How its containers and images are named.
    pub fn names(&self) -> Names<'_> {
        Names {
            project: &self.project.name,
            separator: self.separator,
        }
    }
}

/// What was asked for before the verb, with what the environment says in its place.
pub struct Asked<'a> {
    session: &'a Session,
    /// Variables of the shell over those of the files.
    env: BTreeMap<String, String>,
    pub working_dir: String,
    pub files: Vec<String>,
    env_files: Vec<String>,
}

/// The last value of a flag before the verb.
pub fn flag(session: &Session, name: &str) -> Option<String> {
    list(session, name).pop().filter(|value| !value.is_empty())
}

fn list(session: &Session, name: &str) -> Vec<String> {
    session
        .group_flags
        .iter()
        .filter(|(flag, _)| flag == name)
        .map(|(_, value)| value.clone())
        .collect()
}

/// Whether a flag before the verb is on.
pub fn is_on(session: &Session, name: &str) -> bool {
    flag(session, name).is_some_and(|value| value == "true")
}

/// Whether a variable's value says yes, to compose.
pub fn is_true(value: &str) -> bool {
    matches!(
        value.trim().to_lowercase().as_str(),
        "1" | "true" | "t" | "y"
    )
}

/// A flag before the verb, or the variable that stands for it.
fn flag_or_variable(session: &Session, name: &str, variable: &str) -> String {
    let variable = || session.env.get(variable).cloned();
    flag(session, name).or_else(variable).unwrap_or_default()
}

/// How it is told what happens: `quiet`, `json` or anything else for lines of text.
pub fn progress(session: &Session) -> String {
    flag_or_variable(session, "progress", "COMPOSE_PROGRESS")
}

/// Whether output is coloured: `--ansi`, or whether somebody sees it.
pub fn is_colored(session: &Session) -> bool {
    match flag_or_variable(session, "ansi", "COMPOSE_ANSI").as_str() {
        "never" => false,
        "always" => true,
        _ => session.streams.out_is_terminal,
    }
}

/// Flags whose values are words, and what is not offered.
fn check_flags(session: &Session) -> Outcome {
    let words: [(&str, &str, &[&str]); 2] = [
        ("ansi", "COMPOSE_ANSI", &["never", "always", "auto"]),
        (
            "progress",
            "COMPOSE_PROGRESS",
            &["auto", "tty", "plain", "json", "quiet"],
        ),
    ];
    for (name, variable, known) in words {
        let given = flag_or_variable(session, name, variable);
        if !given.is_empty() && !known.contains(&given.as_str()) {
            return Err(Failure::message(format!(
                "unsupported --{name} value {given:?}: want one of {}",
                known.join(", ")
            )));
        }
    }
    Ok(())
}

impl<'a> Asked<'a> {
    /// Reads flags, environment and the files of variables; the compose files need not be there.
    pub fn of(session: &'a Session) -> Outcome<Self> {
        check_flags(session)?;
        let mut asked = Self {
            session,
            env: session.env.clone(),
            working_dir: String::new(),
            files: Vec::new(),
            env_files: Vec::new(),
        };
        let given = flag(session, "project-directory").map(|path| files::absolute(&path));
        let here = files::absolute(".");
        let start = given.as_deref().unwrap_or(&here);
        // The files of variables may name the compose files, which say where they are.
        asked.read_given_env_files()?;
        let is_given = !asked.env_files.is_empty();
        if !is_given && list(session, "file").is_empty() {
            asked.read_default_env_file(&[start])?;
        }
        asked.find(start);
        asked.working_dir = match (&given, asked.files.first()) {
            (Some(directory), _) => directory.clone(),
            (None, Some(first)) if first != "-" => parent(first),
            (None, _) => here.clone(),
        };
        if !is_given {
            let working_dir = asked.working_dir.clone();
            asked.read_default_env_file(&[&working_dir, &here])?;
        }
        together::set_limit(session, asked.set(together::VARIABLE))?;
        Ok(asked)
    }

    fn set(&self, name: &str) -> Option<&str> {
        self.env
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Finds the compose files: by flag, by variable, or by convention here or above.
    fn find(&mut self, start: &str) {
        let mut files = list(self.session, "file");
        if files.is_empty()
            && let Some(listed) = self.set("COMPOSE_FILE")
        {
            let separator = self.set("COMPOSE_PATH_SEPARATOR").unwrap_or(":");
            files = listed.split(separator).map(str::to_owned).collect();
        }
        if !files.is_empty() {
            self.files = files
                .into_iter()
                .map(|file| {
                    if file == "-" {
                        file
                    } else {
                        files::absolute(&file)
                    }
                })
                .collect();
            return;
        }
        let mut directory = Some(PathBuf::from(start));
        while let Some(here) = directory {
            let there = |names: &[&str]| {
                let found = names
                    .iter()
                    .map(|name| here.join(name))
                    .filter(|path| path.is_file());
                found
                    .map(|path| path.display().to_string())
                    .collect::<Vec<_>>()
            };
            let found = there(&NAMES);
            if let [first, rest @ ..] = &found[..] {
                if !rest.is_empty() {
                    self.session.warn(format!(
                        "warning: found several compose files: {}\nhint: {first} is used; name others with -f",
                        found.join(", ")
                    ));
                }
                self.files = vec![first.clone()];
                self.files.extend(there(&OVERRIDES).into_iter().take(1));
                return;
            }
            directory = here.parent().map(Path::to_owned);
        }
    }

    /// The files of variables that were asked for.
    fn read_given_env_files(&mut self) -> Outcome {
        let mut given = list(self.session, "env-file");
        if given.is_empty()
            && let Some(listed) = self.set("COMPOSE_ENV_FILES")
        {
            given = listed.split(',').map(str::to_owned).collect();
        }
        let paths: Vec<String> = given.iter().map(|path| files::absolute(path)).collect();
        self.env_files.clone_from(&paths);
        self.read_env_files(&paths)
    }

    /// The first `.env` that is there in one of these directories.
    fn read_default_env_file(&mut self, directories: &[&str]) -> Outcome {
        let mut paths = directories.iter().map(|one| format!("{one}/.env"));
        match paths.find(|path| Path::new(path).is_file()) {
            Some(path) => self.read_env_files(&[path]),
            None => Ok(()),
        }
    }

    /// Reads files of variables, of which the last counts. What is known before counts more.
    fn read_env_files(&mut self, paths: &[String]) -> Outcome {
        let mut read = BTreeMap::new();
        for path in paths {
            let bytes = files::read(path, ENV_FILE_BYTES_MAX)
                .map_err(|why| Failure::message(format!("couldn't read env file: {why}")))?;
            let before = &self.env;
            let known = |name: &str| before.get(name).or_else(|| read.get(name)).cloned();
            let variables = skep_compose::variables(&bytes, &known)
                .map_err(|why| Failure::message(format!("failed to read {path}: {why}")))?;
            read.extend(variables);
        }
        for (name, value) in read {
            self.env.entry(name).or_insert(value);
        }
        Ok(())
    }

    /// The variables that the files name.
    pub fn variables(&self) -> Outcome<Vec<Variable>> {
        Ok(skep_compose::variables_of(&self.sources()?))
    }

    /// `_` where names are to be as the first docker-compose made them.
    fn separator(&self) -> char {
        let on = is_on(self.session, "compatibility")
            || self.set("COMPOSE_COMPATIBILITY").is_some_and(is_true);
        if on { '_' } else { '-' }
    }

    /// Variables as the files are read with them.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// Whether there are compose files at all.
    pub fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    fn sources(&self) -> Outcome<Vec<Source>> {
        if self.files.is_empty() {
            return Err(Failure::message(
                "no configuration file provided: not found",
            ));
        }
        self.files
            .iter()
            .map(|path| stack::source(self.session, path))
            .collect()
    }

    /// The project's name: flag, variable, the files' own, the directory's.
    fn name(&self, sources: &[Source]) -> Outcome<String> {
        let given = flag(self.session, "project-name")
            .or_else(|| self.set("COMPOSE_PROJECT_NAME").map(str::to_owned));
        if let Some(name) = given {
            return check_name(name);
        }
        let env = |name: &str| self.env.get(name).cloned();
        if let Some(name) = skep_compose::project_name(sources, &env) {
            return check_name(name);
        }
        let base = Path::new(&self.working_dir)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let name = normal_name(&base);
        if name.is_empty() {
            return Err(Failure::message(
                "project name must not be empty\nhint: give one with -p",
            ));
        }
        Ok(name)
    }

    /// Reads the files. `services` count with the profiles they have.
    pub fn load(&self, services: &[String]) -> Outcome<Loaded> {
        self.load_with(services, true)
    }

    pub fn load_with(&self, services: &[String], interpolate: bool) -> Outcome<Loaded> {
        let sources = self.sources()?;
        let name = self.name(&sources)?;
        let mut profiles = list(self.session, "profile");
        if profiles.is_empty()
            && let Some(listed) = self.set("COMPOSE_PROFILES")
        {
            profiles = listed
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect();
        }
        let options = ProjectOptions {
            name: name.clone(),
            interpolate,
            working_dir: self.working_dir.clone(),
            profiles,
            services: services.to_vec(),
        };
        let env = |variable: &str| match variable {
            "COMPOSE_PROJECT_NAME" => Some(name.clone()),
            _ => self.env.get(variable).cloned(),
        };
        let project = skep_compose::project(&sources, &env, &mut stack::read_named, &options)
            .map_err(|diagnostics| stack::wrong(&diagnostics))?;
        for warning in &project.warnings {
            self.session.warn(warning.to_string());
        }
        for service in services {
            if !project.services.contains_key(service) {
                return Err(Failure::message(format!("no such service: {service}")));
            }
        }
        Ok(Loaded {
            project,
            files: self.files.clone(),
            working_dir: self.working_dir.clone(),
            env_files: self.env_files.clone(),
            separator: self.separator(),
        })
    }
}

/// Reads the project's files.
pub fn load(session: &Session, services: &[String]) -> Outcome<Loaded> {
    Asked::of(session)?.load(services)
}

/// The project's name, and its files if there are some: what runs can be asked by name alone.
pub fn target(session: &Session, services: &[String]) -> Outcome<(String, Option<Loaded>)> {
    let asked = Asked::of(session)?;
    if asked.has_files() {
        let loaded = asked.load(services)?;
        return Ok((loaded.project.name.clone(), Some(loaded)));
    }
    let named = flag(session, "project-name")
        .or_else(|| asked.set("COMPOSE_PROJECT_NAME").map(str::to_owned));
    match named {
        Some(name) => Ok((check_name(name)?, None)),
        None => Err(Failure::message(
            "no configuration file provided: not found",
        )),
    }
}

fn parent(path: &str) -> String {
    Path::new(path)
        .parent()
        .map_or_else(|| "/".to_owned(), |parent| parent.display().to_string())
}

/// A directory's name as a project's.
fn normal_name(text: &str) -> String {
    let lower = text.to_lowercase();
    let kept: String = lower
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(*c))
        .collect();
    kept.trim_start_matches(['_', '-']).to_owned()
}

fn check_name(name: String) -> Outcome<String> {
    if normal_name(&name) == name && !name.is_empty() {
        return Ok(name);
    }
    Err(Failure::message(format!(
        "invalid project name {}: must consist only of lowercase alphanumeric characters, hyphens, and underscores as well as start with a letter or number",
        crate::human::quote(&name)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_give_projects_their_names() {
        assert_eq!(normal_name("My App.v2"), "myappv2");
        assert_eq!(normal_name("_-x_y-"), "x_y-");
        assert!(check_name("App".to_owned()).is_err());
        assert!(check_name("-app".to_owned()).is_err());
        assert!(check_name("app-1_x".to_owned()).is_ok());
    }
}
