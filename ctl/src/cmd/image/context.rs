//! What a build is made of: a directory here, a stream, or a place that the daemon knows.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use skep_dockerfile::Ignore;

use crate::client::Body;
use crate::cmd::container::cp::{Problem, archive_body};
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::human;
use crate::session::Session;

/// Largest Dockerfile or list of ignored files.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Largest context from stdin that is looked into before it is sent.
const STDIN_BYTES_MAX: usize = 4 << 30;
const IGNORE_NAME: &str = ".dockerignore";

/// Where the context comes from.
pub struct Context {
    pub source: Source,
    /// Name of the Dockerfile in the context.
    pub dockerfile: String,
    /// Bytes sent so far.
    pub sent: Arc<AtomicU64>,
    /// Why the archive broke off.
    pub problem: Problem,
}

pub enum Source {
    Body(Body),
    /// The daemon gets it itself.
    Remote(String),
}

/// Prepares the context that `given` and `--file` name.
pub fn prepare(session: &Session, given: &str, file: &str) -> Outcome<Context> {
    let sent = Arc::<AtomicU64>::default();
    let problem = Problem::default();
    let (source, dockerfile) = match (given, file) {
        ("-", "-") => {
            return Err(Failure::message(
                "invalid argument: can't use stdin for both build context and dockerfile",
            ));
        }
        ("-", _) => from_stdin(session, file, &sent)?,
        _ if is_remote(given) => (Source::Remote(given.to_owned()), file.to_owned()),
        _ => {
            let directory = Directory::look(session, given, file)?;
            let dockerfile = directory.dockerfile.clone();
            let count = sent.clone();
            let body = archive_body(problem.clone(), move |tar| directory.pack(tar, &count));
            (Source::Body(body), dockerfile)
        }
    };
    Ok(Context {
        source,
        dockerfile,
        sent,
        problem,
    })
}

fn is_remote(given: &str) -> bool {
    ["http://", "https://", "git://", "git@", "github.com/"]
        .iter()
        .any(|prefix| given.starts_with(prefix))
}

/// An archive, or a Dockerfile alone.
fn from_stdin(session: &Session, file: &str, sent: &AtomicU64) -> Outcome<(Source, String)> {
    let bytes = session.read_input(STDIN_BYTES_MAX)?;
    if bytes.is_empty() {
        return Err(Failure::message(
            "unable to prepare context: failed to peek context header from STDIN: EOF",
        ));
    }
    let (bytes, dockerfile) = match is_archive(&bytes) {
        true => (bytes, file.to_owned()),
        false => {
            let mut tar = tar::Builder::new(Vec::new());
            add_bytes(&mut tar, "Dockerfile", &bytes)
                .and_then(|()| tar.into_inner())
                .map(|archive| (archive, "Dockerfile".to_owned()))
                .map_err(|error| Failure::message(error.to_string()))?
        }
    };
    sent.store(bytes.len() as u64, Ordering::Relaxed);
    let body = Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed_unsync();
    Ok((Source::Body(body), dockerfile))
}

/// Whether these are the first bytes of an archive, compressed or not.
fn is_archive(bytes: &[u8]) -> bool {
    const MAGICS: [&[u8]; 4] = [
        &[0x1f, 0x8b],
        b"BZh",
        &[0xfd, b'7', b'z', b'X', b'Z'],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    let is_tar = bytes.get(257..262) == Some(b"ustar");
    is_tar || MAGICS.iter().any(|magic| bytes.starts_with(magic))
}

fn add_bytes<W: io::Write>(tar: &mut tar::Builder<W>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes)
}

/// A directory here.
struct Directory {
    root: PathBuf,
    ignore: Ignore,
    /// Path of the Dockerfile in the context.
    dockerfile: String,
    /// A Dockerfile from elsewhere, sent along under that name.
    outside: Option<Vec<u8>>,
}

impl Directory {
    fn look(session: &Session, given: &str, file: &str) -> Outcome<Self> {
        let unable = |why: String| Failure::message(format!("unable to prepare context: {why}"));
        let root = fs::canonicalize(given)
            .map_err(|_| unable(format!("path {} not found", human::quote(given))))?;
        if !root.is_dir() {
            return Err(unable(format!(
                "context must be a directory: {}",
                root.display()
            )));
        }
        let (dockerfile, outside) = if file == "-" {
            (
                foreign_name(),
                Some(session.read_input(FILE_BYTES_MAX as usize)?),
            )
        } else {
            dockerfile(&root, file).map_err(unable)?
        };
        let beside = match file {
            "-" => None,
            "" => Some(root.join(format!("{dockerfile}{IGNORE_NAME}"))),
            file => Some(PathBuf::from(format!("{file}{IGNORE_NAME}"))),
        };
        let list = beside
            .filter(|path| path.is_file())
            .unwrap_or_else(|| root.join(IGNORE_NAME));
        let mut ignore = Ignore::default();
        if list.is_file() {
            let text = files::read(&list.display().to_string(), FILE_BYTES_MAX).map_err(unable)?;
            ignore = Ignore::parse(&String::from_utf8_lossy(&text))
                .map_err(|error| unable(format!("error reading {}: {error}", list.display())))?;
            // The daemon needs both; it takes them away when they are to be ignored.
            ignore.keep(&dockerfile);
            ignore.keep(IGNORE_NAME);
        }
        Ok(Self {
            root,
            ignore,
            dockerfile,
            outside,
        })
    }

    fn pack<W: io::Write>(&self, tar: &mut tar::Builder<W>, sent: &AtomicU64) -> io::Result<()> {
        self.add_below(tar, Path::new(""), sent)?;
        if let Some(bytes) = &self.outside {
            add_bytes(tar, &self.dockerfile, bytes)?;
        }
        tar.finish()
    }

    fn add_below<W: io::Write>(
        &self,
        tar: &mut tar::Builder<W>,
        directory: &Path,
        sent: &AtomicU64,
    ) -> io::Result<()> {
        let here = self.root.join(directory);
        let named = |path: &Path, error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("{}: {}", path.display(), files::reason(&error)),
            )
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&here).map_err(|error| named(&here, error))? {
            names.push(entry?.file_name());
        }
        // The same directory is the same archive each time.
        names.sort_unstable();
        for name in names {
            let relative = directory.join(name);
            let path = self.root.join(&relative);
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                // Gone while we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(named(&path, error)),
            };
            let shown = relative.to_string_lossy();
            let is_ignored = self.ignore.matches(&shown);
            if is_ignored && (!meta.is_dir() || self.ignore.may_skip(&shown)) {
                continue;
            }
            if !is_ignored {
                let bytes =
                    add_one(tar, &path, &relative, &meta).map_err(|error| named(&path, error))?;
                sent.fetch_add(bytes, Ordering::Relaxed);
            }
            if meta.is_dir() {
                self.add_below(tar, &relative, sent)?;
            }
        }
        Ok(())
    }
}

/// Adds one file, link or directory; the bytes that takes. Others than these have no place in
/// an image.
fn add_one<W: io::Write>(
    tar: &mut tar::Builder<W>,
    path: &Path,
    name: &Path,
    meta: &fs::Metadata,
) -> io::Result<u64> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(meta.mode() & 0o7777);
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(0);
    let mut size = 0;
    if meta.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
        let mut directory = name.as_os_str().to_owned();
        directory.push("/");
        tar.append_data(&mut header, directory, io::empty())?;
    } else if meta.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, name, fs::read_link(path)?)?;
    } else if meta.is_file() {
        size = meta.len();
        header.set_size(size);
        // A file that changes meanwhile must not break the archive.
        let contents = fs::File::open(path)?
            .take(size)
            .chain(io::repeat(0))
            .take(size);
        tar.append_data(&mut header, name, contents)?;
    } else {
        return Ok(0);
    }
    Ok(512 + size.next_multiple_of(512))
}

/// A name that is in no context.
fn foreign_name() -> String {
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!(".dockerfile.{:x}{:x}", std::process::id(), clock.as_nanos())
}

/// The Dockerfile's path in the context, or its name there and contents when it is elsewhere.
fn dockerfile(root: &Path, file: &str) -> Result<(String, Option<Vec<u8>>), String> {
    let path = match file {
        "" => {
            let usual = root.join("Dockerfile");
            match usual.exists() {
                true => usual,
                false if root.join("dockerfile").exists() => root.join("dockerfile"),
                false => usual,
            }
        }
        file => PathBuf::from(file),
    };
    let real = fs::canonicalize(&path).map_err(|error| {
        format!(
            "unable to evaluate symlinks in Dockerfile path: lstat {}: {}",
            std::path::absolute(&path).unwrap_or(path.clone()).display(),
            files::reason(&error)
        )
    })?;
    // What the path names in the context, links left alone.
    let parent = path
        .parent()
        .map(|parent| match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        });
    let lexical = parent
        .and_then(|parent| fs::canonicalize(parent).ok())
        .map(|parent| parent.join(path.file_name().unwrap_or_default()));
    let inside = lexical
        .as_deref()
        .and_then(|path| path.strip_prefix(root).ok())
        .or_else(|| real.strip_prefix(root).ok());
    match inside {
        Some(inside) if real.starts_with(root) => Ok((inside.to_string_lossy().into_owned(), None)),
        _ => {
            let bytes = files::read(&real.display().to_string(), FILE_BYTES_MAX)?;
            Ok((foreign_name(), Some(bytes)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Directory) -> Vec<String> {
        let mut tar = tar::Builder::new(Vec::new());
        directory.pack(&mut tar, &AtomicU64::new(0)).unwrap();
        let bytes = tar.into_inner().unwrap();
        tar::Archive::new(&bytes[..])
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn ignored_files_stay_here() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["d/deep", "e"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for file in ["Dockerfile", "a.o", "b", "d/x", "d/deep/keep", "e/y"] {
            fs::write(root.path().join(file), "x").unwrap();
        }
        fs::write(
            root.path().join(IGNORE_NAME),
            "*.o\nd\n!d/deep\nDockerfile\n.dockerignore\n",
        )
        .unwrap();
        let mut directory = Directory {
            root: root.path().to_owned(),
            ignore: Ignore::parse(&fs::read_to_string(root.path().join(IGNORE_NAME)).unwrap())
                .unwrap(),
            dockerfile: "Dockerfile".into(),
            outside: None,
        };
        directory.ignore.keep("Dockerfile");
        directory.ignore.keep(IGNORE_NAME);
        assert_eq!(
            names(&directory),
            [
                ".dockerignore",
                "Dockerfile",
                "b",
                "d/deep/",
                "d/deep/keep",
                "e/",
                "e/y"
            ]
        );
    }

    #[test]
    fn dockerfiles_are_in_the_context_or_sent_along() {
        let root = tempfile::tempdir().unwrap();
        let root_path = fs::canonicalize(root.path()).unwrap();
        let context = root_path.join("context");
        fs::create_dir(&context).unwrap();
        fs::write(context.join("dockerfile"), "x").unwrap();
        fs::write(root_path.join("other"), "y").unwrap();
        assert_eq!(dockerfile(&context, "").unwrap().0, "dockerfile");
        let given = context.join("../other").display().to_string();
        let (name, bytes) = dockerfile(&context, &given).unwrap();
        assert!(name.starts_with(".dockerfile."));
        assert_eq!(bytes.unwrap(), b"y");
        let missing = context.join("none").display().to_string();
        assert!(
            dockerfile(&context, &missing)
                .unwrap_err()
                .ends_with("none: no such file or directory")
        );
    }
}
