//! Finds what is to be copied. Call where the tree it is copied from is `/`.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};
use skep_dockerfile::{Ignore, PathPattern};

use super::super::context::is_open_archive;
use super::hash;
use crate::error::{EngineError, IoContext as _, Kind, Result};

/// Most files and directories that one pattern is tried on.
const TRIED_MAX: usize = 5_000_000;

/// What is asked for.
pub(super) struct Wanted {
    pub(super) sources: Vec<String>,
    /// From the context rather than an image.
    pub(super) is_context: bool,
    /// Keep the directories above.
    pub(super) parents: bool,
    /// Archives are unpacked.
    pub(super) archives: bool,
    pub(super) mode: Option<u32>,
    pub(super) exclude: Ignore,
}

/// One thing to copy.
#[derive(Debug)]
pub(super) struct Found {
    /// Without links, in its tree.
    pub(super) path: PathBuf,
    /// What it is called where it goes; of a directory only with `--parents`.
    pub(super) name: PathBuf,
    pub(super) is_directory: bool,
    /// An archive to be unpacked.
    pub(super) archive: Option<fs::File>,
    /// Seconds.
    pub(super) modified: i64,
    pub(super) hash: String,
}

pub(super) fn find(wanted: &Wanted) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for given in &wanted.sources {
        let (pivot, path) = relative(given, wanted)?;
        if !has_wildcard(&path) {
            all.extend(found(&path, &pivot, given, wanted)?);
            continue;
        }
        let pattern =
            PathPattern::parse(&path).map_err(|error| EngineError::invalid(error.to_string()))?;
        let mut tried = 0;
        let mut matching = Vec::new();
        walk(Path::new(""), &path, &mut tried, &mut |candidate| {
            if pattern.fits(candidate) {
                matching.push(candidate.to_owned());
            }
        })
        .during(|| format!("cannot look for `{given}`"))?;
        for path in matching {
            all.extend(found(&path, &pivot, given, wanted)?);
        }
    }
    Ok(all)
}

/// One file or directory by its path in the tree.
pub(super) fn one(path: PathBuf, name: PathBuf, mode: Option<u32>) -> Result<Found> {
    let what = || format!("cannot read `{}`", path.display());
    let metadata = fs::metadata(&path).during(what)?;
    Ok(Found {
        hash: hash::tree(&path, mode, &Ignore::default()).during(what)?,
        is_directory: metadata.is_dir(),
        archive: None,
        modified: modified(&metadata),
        path,
        name,
    })
}

fn modified(metadata: &fs::Metadata) -> i64 {
    use std::os::unix::fs::MetadataExt as _;
    metadata.mtime()
}

/// A source as a path below the root, and what `/./` cuts off with `--parents`.
fn relative(given: &str, wanted: &Wanted) -> Result<(String, String)> {
    let mut parts: Vec<String> = Vec::new();
    let (before, after) = match given.split_once("/./") {
        Some((before, after)) if wanted.parents => (before, after),
        _ => ("", given),
    };
    let mut pivot = 0;
    for (index, text) in [before, after].into_iter().enumerate() {
        for part in Path::new(text).components() {
            match part {
                Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
                // An image has nothing above its root, and the context must not
                // have.
                Component::ParentDir if parts.pop().is_none() && wanted.is_context => {
                    return Err(EngineError::invalid(format!(
                        "forbidden path outside the build context: {given} ()"
                    )));
                }
                _ => {}
            }
        }
        if index == 0 {
            pivot = parts.len();
        }
    }
    Ok((parts[..pivot.min(parts.len())].join("/"), parts.join("/")))
}

fn has_wildcard(path: &str) -> bool {
    let mut characters = path.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// Goes through everything below the part of a pattern that has no wildcard.
fn walk(
    directory: &Path,
    pattern: &str,
    tried: &mut usize,
    see: &mut impl FnMut(&str),
) -> io::Result<()> {
    let mut start = directory.to_owned();
    let mut depth_max = pattern.split('/').count();
    if pattern.contains("**") {
        depth_max = usize::MAX;
    }
    for part in pattern.split('/') {
        if has_wildcard(part) || part.contains('\\') {
            break;
        }
        start.push(part);
    }
    descend(&start, depth_max, tried, see)
}

fn descend(
    directory: &Path,
    depth_max: usize,
    tried: &mut usize,
    see: &mut impl FnMut(&str),
) -> io::Result<()> {
    let entries = match fs::read_dir(Path::new("/").join(directory)) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        names.push((entry.file_name(), entry.file_type()?.is_dir()));
    }
    names.sort_unstable();
    for (name, is_directory) in names {
        *tried += 1;
        if *tried > TRIED_MAX {
            return Err(io::Error::other(format!(
                "there are more than {TRIED_MAX} files"
            )));
        }
        let path = directory.join(name);
        see(&path.to_string_lossy());
        if is_directory && path.components().count() < depth_max {
            descend(&path, depth_max, tried, see)?;
        }
    }
    Ok(())
}

fn found(path: &str, pivot: &str, given: &str, wanted: &Wanted) -> Result<Option<Found>> {
    let place = Path::new("/").join(path);
    let missing = |error: io::Error| {
        let shown = if path.is_empty() { given } else { path };
        let where_from = match wanted.is_context {
            true => "file not found in build context or excluded by .dockerignore: ",
            false => "",
        };
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                EngineError::invalid(format!("{where_from}stat {shown}: file does not exist"))
            }
            _ => EngineError::new(Kind::Invalid, format!("stat {shown}")).because(error),
        }
    };
    let real = fs::canonicalize(&place).map_err(missing)?;
    let metadata = fs::metadata(&real).map_err(missing)?;
    let name = Path::new(path).file_name().unwrap_or_default();
    let is_directory = metadata.is_dir();
    if !is_directory
        && (wanted.exclude.matches(path) || wanted.exclude.matches(&name.to_string_lossy()))
    {
        return Ok(None);
    }
    let what = || format!("cannot read `{path}`");
    let mut archive = None;
    if wanted.archives && metadata.is_file() {
        let mut file = fs::File::open(&real).during(what)?;
        if is_open_archive(&mut file).map_err(|error| error.context(format!("`{given}`")))? {
            archive = Some(file);
        }
    }
    Ok(Some(Found {
        hash: hash::tree(&real, wanted.mode, &wanted.exclude).during(what)?,
        name: match wanted.parents {
            true => Path::new(path)
                .strip_prefix(pivot)
                .unwrap_or(Path::new(path))
                .to_owned(),
            false => name.into(),
        },
        is_directory,
        archive,
        modified: modified(&metadata),
        path: real,
    }))
}

/// `file:…`, `dir:…` or `multi:…`, as histories have it.
pub(super) fn joined<'a>(found: impl Iterator<Item = &'a Found>) -> String {
    let all: Vec<String> = found
        .map(|found| {
            let kind = if found.is_directory { "dir" } else { "file" };
            format!("{kind}:{}", found.hash)
        })
        .collect();
    match &all[..] {
        [only] => only.clone(),
        all => format!("multi:{}", hex::encode(Sha256::digest(all.join(",")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_stay_in_the_context() {
        let wanted = |is_context, parents| Wanted {
            sources: Vec::new(),
            is_context,
            parents,
            archives: false,
            mode: None,
            exclude: Ignore::default(),
        };
        let path = |given: &str| relative(given, &wanted(true, false)).map(|(_, path)| path);
        assert_eq!(path("/a/./b/../c/").unwrap(), "a/c");
        assert_eq!(path(".").unwrap(), "");
        assert!(path("../a").is_err() && path("a/../../b").is_err());
        assert_eq!(relative("../a", &wanted(false, false)).unwrap().1, "a");
        assert_eq!(
            relative("a/./b/c", &wanted(true, true)).unwrap(),
            ("a".into(), "a/b/c".into())
        );
    }
}
