//! Puts what was found into an image's files.
//!
//! The sources are packed by a thread that sees nothing but their tree, and
//! unpacked by one that sees nothing but the image's. Times are the sources', or
//! what they were, so that the same files make the same layer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use skep_dockerfile::Ignore;

use super::sources::Found;
use super::{Origin, Target};
use crate::error::{EngineError, IoContext as _, Kind, Result};
use crate::image::decompress;
use crate::tree::confined;
use crate::tree::owner;
use crate::tree::pack::{self, pack_several};
use crate::tree::unpack::{self, unpack};

/// Links followed until one is a circle; the kernel's own bound.
const LINKS_MAX: usize = 40;

/// All of one `COPY`.
pub(super) struct Job {
    pub(super) groups: Vec<(Origin, Vec<Found>)>,
    pub(super) destination: PathBuf,
    /// Said by a slash, or by there being several sources.
    pub(super) as_directory: bool,
    pub(super) chown: Option<String>,
    pub(super) mode: Option<u32>,
    pub(super) exclude: Ignore,
}

/// Where things go, all without links.
struct Settled {
    owner: (u32, u32),
    /// Base directory, or the one file's path.
    base: PathBuf,
    is_file: bool,
    directories: Directories,
}

/// Does it. Blocking.
pub(super) fn place(job: Job, target: &Target) -> Result<()> {
    let only_file = match &job.groups[..] {
        [(_, found)] => {
            matches!(&found[..], [only] if !only.is_directory && only.archive.is_none())
        }
        _ => false,
    };
    let newest = job
        .groups
        .iter()
        .flat_map(|(_, found)| found.iter().map(|found| found.modified))
        .max();
    // What an archive has keeps its owners, and so does where it goes.
    let only_archives = job
        .groups
        .iter()
        .flat_map(|(_, found)| found)
        .all(|found| found.archive.is_some());
    let chown = job.chown.clone().filter(|_| !only_archives);
    let destination = job.destination.clone();
    let may_be_file = only_file && !job.as_directory;
    let parents: Vec<PathBuf> = job
        .groups
        .iter()
        .flat_map(|(_, found)| found)
        .filter_map(|found| match found.is_directory {
            true => Some(found.name.clone()),
            false => found.name.parent().map(Path::to_owned),
        })
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    let keeps_parents = job
        .groups
        .iter()
        .flat_map(|(_, found)| found)
        .any(|found| found.name.components().count() > 1);
    let mut settled = confined(target.root(), move || {
        settle(
            &destination,
            chown,
            may_be_file,
            newest,
            match keeps_parents {
                true => parents,
                false => Vec::new(),
            },
        )
    })?;
    for (origin, found) in job.groups {
        let mut roots = Vec::new();
        let (mut directories, mut archives) = (Vec::new(), Vec::new());
        for item in found {
            let name = match (settled.is_file, item.is_directory && !keeps_parents) {
                (true, _) => settled.base.clone(),
                (false, true) => settled.base.clone(),
                (false, false) => settled.base.join(&item.name),
            };
            let name = name.strip_prefix("/").unwrap_or(&name).to_owned();
            match item.archive {
                Some(file) => archives.push(file),
                None if item.is_directory => directories.push((item.path, name)),
                None => roots.push((item.path, name)),
            }
        }
        // Of a directory, what is in it.
        transfer(
            &origin,
            directories,
            &job.mode,
            &job.exclude,
            true,
            target,
            settled.owner,
        )?;
        transfer(
            &origin,
            roots,
            &job.mode,
            &Ignore::default(),
            false,
            target,
            settled.owner,
        )?;
        for file in archives {
            let into = settled.base.clone();
            confined(target.root(), move || {
                let (_, plain) =
                    decompress(file).during(|| "cannot decompress the archive".into())?;
                let options = unpack::Options {
                    into: into.strip_prefix("/").unwrap_or(&into).to_owned(),
                    ..unpack::Options::default()
                };
                unpack(plain, options).map(drop).map_err(refused)
            })?;
        }
    }
    let directories = std::mem::take(&mut settled.directories);
    confined(target.root(), move || {
        directories
            .finish()
            .during(|| "cannot set times of directories".into())
    })
}

fn refused(error: io::Error) -> EngineError {
    let kind = match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::NotADirectory => Kind::Invalid,
        _ => Kind::Internal,
    };
    EngineError::new(kind, "failed to copy files").because(error)
}

fn settle(
    destination: &Path,
    chown: Option<String>,
    may_be_file: bool,
    time: Option<i64>,
    parents: Vec<PathBuf>,
) -> Result<Settled> {
    let owner = match chown {
        Some(given) => owner::find(&given)?,
        None => (0, 0),
    };
    let what = || {
        format!(
            "failed to copy files: cannot make `{}`",
            destination.display()
        )
    };
    let mut directories = Directories::new(owner, time);
    let is_directory = fs::metadata(destination).is_ok_and(|found| found.is_dir());
    if may_be_file && !is_directory {
        let parent = destination.parent().unwrap_or(Path::new("/"));
        let parent = directories
            .make(parent)
            .map_err(|error| EngineError::new(Kind::Invalid, what()).because(error))?;
        directories.keep_time(&parent).during(what)?;
        // Links are written through.
        let base = parent.join(destination.file_name().unwrap_or_default());
        let base = through_links(base)
            .map_err(|error| EngineError::new(Kind::Invalid, what()).because(error))?;
        if let Some(parent) = base.parent() {
            directories.keep_time(parent).during(what)?;
        }
        return Ok(Settled {
            owner,
            base,
            is_file: true,
            directories,
        });
    }
    let base = directories
        .make(destination)
        .map_err(|error| EngineError::new(Kind::Invalid, what()).because(error))?;
    directories.keep_time(&base).during(what)?;
    for parent in parents {
        let made = directories.make(&base.join(&parent)).during(what)?;
        directories.keep_time(&made).during(what)?;
    }
    Ok(Settled {
        owner,
        base,
        is_file: false,
        directories,
    })
}

/// Where a link leads in the end, whether something is there or not.
fn through_links(mut path: PathBuf) -> io::Result<PathBuf> {
    for _ in 0..LINKS_MAX {
        let Ok(target) = fs::read_link(&path) else {
            return Ok(path);
        };
        let next = path.parent().unwrap_or(Path::new("/")).join(target);
        let parent = fs::canonicalize(next.parent().unwrap_or(Path::new("/")))?;
        path = match next.file_name() {
            Some(name) => parent.join(name),
            None => parent,
        };
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Packs from one tree and unpacks in the other at the same time.
fn transfer(
    origin: &Origin,
    roots: Vec<(PathBuf, PathBuf)>,
    mode: &Option<u32>,
    exclude: &Ignore,
    contents: bool,
    target: &Target,
    owner: (u32, u32),
) -> Result<()> {
    if roots.is_empty() {
        return Ok(());
    }
    let (reader, writer) = io::pipe().during(|| "cannot make a pipe".into())?;
    let root = origin.root();
    let options = pack::Options {
        mode: *mode,
        exclude: exclude.clone(),
        contents,
        ..pack::Options::default()
    };
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            confined(root, move || {
                pack_several(
                    &roots,
                    io::BufWriter::with_capacity(128 << 10, writer),
                    options,
                )
                .during(|| "cannot read what is copied".into())
            })
        });
        let unpacked = confined(target.root(), move || {
            let options = unpack::Options {
                keep_kinds: true,
                own: Some(owner),
                ..unpack::Options::default()
            };
            unpack(reader, options).map(drop).map_err(refused)
        });
        let packed = match packing.join() {
            Ok(packed) => packed,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // When unpacking stops, packing fails only for that.
        unpacked.and(packed)
    })
}

/// Makes directories and remembers what times they had or are to have.
#[derive(Debug, Default)]
pub(in crate::build) struct Directories {
    owner: (u32, u32),
    /// Of new ones, in seconds.
    time: i64,
    times: BTreeMap<PathBuf, SystemTime>,
}

impl Directories {
    pub(in crate::build) fn new(owner: (u32, u32), time: Option<i64>) -> Self {
        Self {
            owner,
            time: time.unwrap_or(0),
            times: BTreeMap::new(),
        }
    }

    /// Makes a directory and those above it; its path without links.
    pub(in crate::build) fn make(&mut self, path: &Path) -> io::Result<PathBuf> {
        let mut real = PathBuf::from("/");
        for part in path.components() {
            let std::path::Component::Normal(name) = part else {
                continue;
            };
            let next = real.join(name);
            match fs::canonicalize(&next) {
                Ok(found) if fs::metadata(&found)?.is_dir() => real = found,
                Ok(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::NotADirectory,
                        format!("`{}` is not a directory", next.display()),
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.keep_time(&real)?;
                    fs::DirBuilder::new().mode(0o755).create(&next)?;
                    use std::os::unix::fs::PermissionsExt as _;
                    fs::set_permissions(&next, fs::Permissions::from_mode(0o755))?;
                    std::os::unix::fs::chown(&next, Some(self.owner.0), Some(self.owner.1))?;
                    self.times.insert(next.clone(), from_seconds(self.time));
                    real = next;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(real)
    }

    /// Remembers the time of a directory that something will be put into.
    fn keep_time(&mut self, path: &Path) -> io::Result<()> {
        if !self.times.contains_key(path) {
            let found = fs::metadata(path)?;
            self.times
                .insert(path.to_owned(), from_seconds(found.mtime()));
        }
        Ok(())
    }

    /// Sets the times, the deepest first.
    pub(in crate::build) fn finish(self) -> io::Result<()> {
        for (path, time) in self.times.iter().rev() {
            set_time(path, *time)?;
        }
        Ok(())
    }
}

pub(super) fn from_seconds(seconds: i64) -> SystemTime {
    let length = Duration::from_secs(seconds.unsigned_abs());
    match seconds {
        0.. => SystemTime::UNIX_EPOCH + length,
        _ => SystemTime::UNIX_EPOCH - length,
    }
}

pub(super) fn set_time(path: &Path, time: SystemTime) -> io::Result<()> {
    let times = fs::FileTimes::new().set_modified(time).set_accessed(time);
    fs::File::open(path)?.set_times(times)
}
