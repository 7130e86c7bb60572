//! What the tests share: the corpus, its environment, and loading from disk.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use skep_compose::{Diagnostic, Loaded, Options, Source, config, load};

/// The stack's name in all tests.
pub const STACK: &str = "zz";

/// The corpus; SKEP_COMPOSE_CORPUS names another folder to compare with docker's client.
pub fn corpus_dir() -> PathBuf {
    std::env::var_os("SKEP_COMPOSE_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus"),
        PathBuf::from,
    )
}

/// The corpus: a name and its files, in order (`merge.1.yml`, `merge.2.yml` are one entry).
pub fn corpus() -> BTreeMap<String, Vec<PathBuf>> {
    entries(&corpus_dir())
}

/// What docker's client prints and its daemon refuses to deploy.
pub fn printed() -> BTreeMap<String, Vec<PathBuf>> {
    entries(&corpus_dir().join("printed"))
}

/// What docker's client refuses, and so do we.
pub fn refused() -> BTreeMap<String, Vec<PathBuf>> {
    entries(&corpus_dir().join("refused"))
}

/// What we read otherwise than docker's client; each file's first line says why.
pub fn ours() -> BTreeMap<String, Vec<PathBuf>> {
    entries(&corpus_dir().join("ours"))
}

fn entries(directory: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut entries: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Some(name) = name.strip_suffix(".yml") {
            let name = name.split('.').next().unwrap().to_owned();
            entries.entry(name).or_default().push(path);
        }
    }
    for paths in entries.values_mut() {
        paths.sort();
    }
    entries
}

/// The environment of every test.
pub const ENVIRONMENT: [(&str, &str); 4] = [
    ("HOME", "/home/somebody"),
    ("TAG", "1.2"),
    ("SUFFIX", "blue"),
    ("EMPTY", ""),
];

pub fn env(name: &str) -> Option<String> {
    ENVIRONMENT
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| (*value).to_owned())
}

pub fn options() -> Options {
    Options {
        stack: STACK.to_owned(),
        interpolate: true,
        strict: false,
        working_dir: corpus_dir().to_str().unwrap().to_owned(),
    }
}

pub fn sources(paths: &[PathBuf]) -> Vec<Source> {
    read_sources(paths).unwrap()
}

fn read_sources(paths: &[PathBuf]) -> Result<Vec<Source>, Vec<Diagnostic>> {
    paths
        .iter()
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            Source::decode(name, &std::fs::read(path).unwrap())
        })
        .collect()
}

/// Paths start from the first file's directory.
fn options_for(paths: &[PathBuf]) -> Options {
    Options {
        working_dir: paths[0].parent().unwrap().to_str().unwrap().to_owned(),
        ..options()
    }
}

pub fn load_files(paths: &[PathBuf]) -> Result<Loaded, Vec<Diagnostic>> {
    load(
        &read_sources(paths)?,
        &env,
        &mut |path| std::fs::read(path),
        &options_for(paths),
    )
}

pub fn config_files(paths: &[PathBuf]) -> Result<String, Vec<Diagnostic>> {
    config(
        &read_sources(paths)?,
        &env,
        &mut |path| std::fs::read(path),
        &options_for(paths),
    )
    .map(|(document, _)| document)
}

/// Texts as the files `1.yml`, `2.yml`, ….
pub fn text_sources(texts: &[&str]) -> Vec<Source> {
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| Source {
            name: format!("{}.yml", index + 1),
            text: (*text).to_owned(),
        })
        .collect()
}

/// Reads these files, by their absolute paths, and no others.
pub fn reader<'a>(files: &'a [(&str, &str)]) -> impl FnMut(&str) -> std::io::Result<Vec<u8>> + 'a {
    |path| match files.iter().find(|(known, _)| *known == path) {
        Some((_, text)) => Ok(text.as_bytes().to_vec()),
        None => Err(std::io::ErrorKind::NotFound.into()),
    }
}

/// Loads texts as `1.yml`, `2.yml`, …; few files can be read.
pub fn load_texts(texts: &[&str], options: &Options) -> Result<Loaded, Vec<Diagnostic>> {
    let files = [
        ("/project/secret.txt", "payload"),
        ("/project/vars.env", "FROM_FILE=1\n"),
        ("/project/sub/base.yml", BASE),
    ];
    load(&text_sources(texts), &env, &mut reader(&files), options)
}

/// A compose file in another directory, to extend from and to include.
pub const BASE: &str = "\
services:
  base:
    image: base
    command: [one]
    environment: {A: base, B: base}
    volumes: [./data:/data]
";

pub fn text_options() -> Options {
    Options {
        working_dir: "/project".to_owned(),
        ..options()
    }
}

pub fn shown(diagnostics: &[Diagnostic]) -> String {
    diagnostics
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The docker client with nothing but the tests' environment; nothing (and a printed reason)
/// where there is none of version 28.
pub fn docker() -> Option<Command> {
    let found = std::env::var_os("PATH").and_then(|paths| {
        std::env::split_paths(&paths)
            .map(|dir| dir.join("docker"))
            .find(|path| path.is_file())
    });
    let Some(path) = found else {
        eprintln!("skipped: there is no docker client on this machine to compare with");
        return None;
    };
    let version = Command::new(&path).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if !version.contains("version 28.") {
        eprintln!("skipped: the docker client is not of version 28: {version}");
        return None;
    }
    let mut command = Command::new(path);
    command
        .env_clear()
        .envs(ENVIRONMENT)
        .current_dir(corpus_dir());
    Some(command)
}
