//! `container cp`: files between a container and this machine, as tar archives.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use super::path;
use crate::client::{Body, Call, Chunks};
use crate::cmd::image::archive::input_body;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;

/// Where something is.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Container {
        name: &'a str,
        path: &'a str,
    },
    Here(&'a str),
    /// stdin or stdout, a tar archive.
    Stream,
}

/// `NAME:PATH` is in a container, unless it looks like a path here.
fn place(text: &str) -> Place<'_> {
    if text == "-" {
        return Place::Stream;
    }
    if text.starts_with('/') || text.starts_with('.') {
        return Place::Here(text);
    }
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() => Place::Container { name, path },
        _ => Place::Here(text),
    }
}

pub async fn run(session: &Session, args: &Args) -> Outcome {
    between(session, args, args.positional(0), args.positional(1)).await
}

/// Copies from `source` to `target`, as the flags `archive`, `follow-link` and `quiet` say.
pub async fn between(session: &Session, args: &Args, source: &str, target: &str) -> Outcome {
    if source.is_empty() {
        return Err(Failure::message("source can not be empty"));
    }
    if target.is_empty() {
        return Err(Failure::message("destination can not be empty"));
    }
    match (place(source), place(target)) {
        (Place::Container { .. }, Place::Container { .. }) => Err(Failure::message(
            "copying between containers is not supported",
        )),
        (Place::Container { name, path }, to) => {
            from_container(session, args, name, path, to).await
        }
        (from, Place::Container { name, path }) => {
            to_container(session, args, from, name, path).await
        }
        _ => Err(Failure::message(
            "must specify at least one container source",
        )),
    }
}

/// What the daemon says of a path in a container.
struct Stat {
    is_dir: bool,
    link: String,
}

/// Go's bits for directories and symbolic links.
const GO_DIR: i64 = 1 << 31;
const GO_LINK: i64 = 1 << 27;

async fn stat(session: &Session, name: &str, inside: &str) -> Outcome<Stat> {
    let answer = session
        .client
        .send(Call::head(path(name, "/archive")).query("path", inside))
        .await?;
    let header = answer
        .headers()
        .get("X-Docker-Container-Path-Stat")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let json = STANDARD
        .decode(header)
        .ok()
        .and_then(|text| Json::parse(&text).ok())
        .ok_or_else(|| Failure::message("unable to decode container path stat header"))?;
    let mode = json.int("mode");
    let is_link = mode & GO_LINK != 0;
    Ok(Stat {
        is_dir: mode & GO_DIR != 0,
        link: if is_link {
            json.str("linkTarget").to_owned()
        } else {
            String::new()
        },
    })
}

async fn from_container(
    session: &Session,
    args: &Args,
    name: &str,
    inside: &str,
    to: Place<'_>,
) -> Outcome {
    let mut inside = absolute_inside(inside);
    if args.flag("follow-link") {
        let found = stat(session, name, &inside).await?;
        if !found.link.is_empty() {
            inside = found.link;
        }
    }
    let answer = session
        .client
        .send(Call::get(path(name, "/archive")).query("path", &inside))
        .await?;
    let chunks = Chunks::of(answer);
    let target = match to {
        Place::Stream => return crate::cmd::image::archive::write_out(session, chunks, "").await,
        Place::Here(target) => target,
        Place::Container { .. } => unreachable!("the caller told containers apart"),
    };
    let source_base = Path::new(inside.trim_end_matches('/'))
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let contents_only = inside.ends_with("/.");
    let (directory, rename) = local_target(target, &source_base, contents_only)?;
    let shown = target.to_owned();
    let archive = args.flag("archive");
    let bytes = unpack(chunks, directory, rename, archive).await?;
    say_done(session, args, bytes, &shown);
    Ok(())
}

/// The directory to unpack into, and the name that replaces the archive's first component.
fn local_target(
    target: &str,
    base: &str,
    contents_only: bool,
) -> Outcome<(PathBuf, Option<String>)> {
    let here = Path::new(target);
    if here.is_dir() {
        // The contents go straight into it; otherwise the source keeps its name.
        return Ok((here.to_owned(), contents_only.then(|| ".".to_owned())));
    }
    let parent = match here.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if !parent.is_dir() {
        return Err(Failure::message(format!(
            "invalid output path: directory {} does not exist",
            human::quote(&parent.display().to_string())
        )));
    }
    if target.ends_with('/') && !contents_only {
        return Err(Failure::message(format!(
            "destination directory {} does not exist",
            human::quote(target)
        )));
    }
    let name = here.file_name().map_or_else(
        || base.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    Ok((parent, Some(name)))
}

/// Unpacks a download below `directory`; the bytes that came.
async fn unpack(
    mut chunks: Chunks,
    directory: PathBuf,
    rename: Option<String>,
    archive: bool,
) -> Outcome<u64> {
    let (mut write, read) = tokio::io::duplex(256 << 10);
    let feed = async move {
        use tokio::io::AsyncWriteExt;
        let mut bytes = 0;
        while let Some(chunk) = chunks.next().await? {
            bytes += chunk.len() as u64;
            if write.write_all(&chunk).await.is_err() {
                break;
            }
        }
        Ok::<u64, Failure>(bytes)
    };
    let unpacked = tokio::task::spawn_blocking(move || {
        unpack_into(
            SyncIoBridge::new(read),
            &directory,
            rename.as_deref(),
            archive,
        )
    });
    let (bytes, unpacked) = tokio::join!(feed, unpacked);
    unpacked.map_err(|error| Failure::message(error.to_string()))??;
    bytes
}

fn unpack_into(
    reader: impl Read,
    directory: &Path,
    rename: Option<&str>,
    archive: bool,
) -> Outcome {
    let wrong = |error: std::io::Error| Failure::message(format!("cannot unpack: {error}"));
    let mut tar = tar::Archive::new(reader);
    tar.set_preserve_permissions(true);
    tar.set_preserve_ownerships(archive);
    tar.set_overwrite(true);
    for entry in tar.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        let Some(rename) = rename else {
            // Refuses to leave the directory.
            entry.unpack_in(directory).map_err(wrong)?;
            continue;
        };
        let inner = entry.path().map_err(wrong)?.into_owned();
        let rest: PathBuf = inner.components().skip(1).collect();
        let named = if rest.as_os_str().is_empty() {
            PathBuf::from(rename)
        } else {
            Path::new(rename).join(&rest)
        };
        let safe = named.components().all(|part| {
            !matches!(
                part,
                std::path::Component::ParentDir | std::path::Component::RootDir
            )
        });
        if !safe {
            continue;
        }
        if rename == "." && rest.as_os_str().is_empty() {
            continue;
        }
        let target = directory.join(&named);
        if let Some(parent) = target.parent() {
            let parent = parent
                .canonicalize()
                .or_else(|_| {
                    std::fs::create_dir_all(parent)?;
                    parent.canonicalize()
                })
                .map_err(wrong)?;
            if !parent.starts_with(directory.canonicalize().map_err(wrong)?) {
                return Err(Failure::message(format!(
                    "{} leads out of the destination",
                    named.display()
                )));
            }
        }
        entry.unpack(&target).map_err(wrong)?;
    }
    Ok(())
}

async fn to_container(
    session: &Session,
    args: &Args,
    from: Place<'_>,
    name: &str,
    inside: &str,
) -> Outcome {
    let inside = absolute_inside(inside);
    let mut target = inside.clone();
    let mut found = stat(session, name, &target).await.ok();
    if let Some(link) = found
        .as_ref()
        .map(|stat| stat.link.clone())
        .filter(|link| !link.is_empty())
    {
        target = if link.starts_with('/') {
            link
        } else {
            format!("{}/{link}", parent_of(&target))
        };
        found = stat(session, name, &target).await.ok();
    }
    let is_dir = found.as_ref().is_some_and(|stat| stat.is_dir);
    let problem = Problem::default();
    let (body, directory) = match from {
        Place::Stream => {
            if !is_dir {
                return Err(Failure::message(format!(
                    "destination \"{name}:{inside}\" must be a directory"
                )));
            }
            (input_body(session), target)
        }
        Place::Here(source) => {
            let source = source.to_owned();
            let meta = if args.flag("follow-link") {
                std::fs::metadata(&source)
            } else {
                std::fs::symlink_metadata(&source)
            };
            let meta = meta.map_err(|error| {
                Failure::message(format!("lstat {}: {}", source, files::reason(&error)))
            })?;
            let contents_only = source.ends_with("/.") || source == ".";
            let base = Path::new(&files::absolute(&source))
                .file_name()
                .map_or_else(
                    || "/".to_owned(),
                    |name| name.to_string_lossy().into_owned(),
                );
            let (directory, entry) = match (is_dir, contents_only && meta.is_dir()) {
                (true, true) => (target, String::new()),
                (true, false) => (target, base),
                (false, _) if inside.ends_with('/') && !meta.is_dir() => {
                    return Err(Failure::message(format!(
                        "destination directory \"{name}:{inside}\" must exist"
                    )));
                }
                (false, _) => (parent_of(&target), base_of(&target)),
            };
            (
                pack(source, entry, args.flag("follow-link"), problem.clone()),
                directory,
            )
        }
        Place::Container { .. } => unreachable!("the caller told containers apart"),
    };
    let mut call = Call::put(path(name, "/archive"))
        .query("path", &directory)
        .query("noOverwriteDirNonDir", "true");
    if args.flag("archive") {
        call = call.query("copyUIDGID", "1");
    }
    let sent = session
        .client
        .done(call.body("application/x-tar", body))
        .await;
    if let Some(why) = problem.lock().map_or(None, |mut why| why.take()) {
        return Err(Failure::message(why));
    }
    sent?;
    if !args.flag("quiet") && session.streams.err_is_terminal {
        session.warn(format!("Successfully copied to {name}:{inside}"));
    }
    Ok(())
}

fn say_done(session: &Session, args: &Args, bytes: u64, target: &str) {
    if !args.flag("quiet") && session.streams.err_is_terminal {
        session.warn(format!(
            "Successfully copied {} to {target}",
            human::size(bytes as f64)
        ));
    }
}

fn absolute_inside(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

fn parent_of(path: &str) -> String {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) | None => "/".to_owned(),
        Some((parent, _)) => parent.to_owned(),
    }
}

fn base_of(path: &str) -> String {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or("")
        .to_owned()
}

/// Why an archive could not be made, once that is known.
pub type Problem = Arc<Mutex<Option<String>>>;

/// Pieces of an archive that wait to be sent.
const PIECES_MAX: usize = 8;

/// Hands what is written on as pieces of a body.
pub struct Pieces(mpsc::Sender<std::io::Result<Frame<Bytes>>>);

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Ok(Frame::data(Bytes::copy_from_slice(bytes))))
            .map_err(|_| std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A file or directory as a tar stream; `entry` is its name in there, empty for the contents only.
fn pack(source: String, entry: String, follow: bool, problem: Problem) -> Body {
    archive_body(problem, move |tar| {
        tar.follow_symlinks(follow);
        append(tar, Path::new(&source), &entry).map_err(|error| {
            std::io::Error::new(error.kind(), format!("{source}: {}", files::reason(&error)))
        })
    })
}

/// An archive being made, as a request's body. When something cannot be read, the stream breaks
/// off, so that the daemon takes nothing for whole that is not.
pub fn archive_body(
    problem: Problem,
    write: impl FnOnce(&mut tar::Builder<std::io::BufWriter<Pieces>>) -> std::io::Result<()>
    + Send
    + 'static,
) -> Body {
    let (pieces, sent) = mpsc::channel(PIECES_MAX);
    tokio::task::spawn_blocking(move || {
        let writer = std::io::BufWriter::with_capacity(64 << 10, Pieces(pieces.clone()));
        let mut tar = tar::Builder::new(writer);
        if let Err(error) = write(&mut tar) {
            if let Ok(mut problem) = problem.lock() {
                *problem = Some(error.to_string());
            }
            // Before the builder is dropped, which would write a proper end.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    StreamBody::new(stream_of(sent)).boxed_unsync()
}

fn stream_of(
    sent: mpsc::Receiver<std::io::Result<Frame<Bytes>>>,
) -> impl futures_util::Stream<Item = std::io::Result<Frame<Bytes>>> + Send {
    futures_util::stream::unfold(
        sent,
        |mut sent| async move { Some((sent.recv().await?, sent)) },
    )
}

fn append<W: std::io::Write>(
    tar: &mut tar::Builder<W>,
    source: &Path,
    entry: &str,
) -> std::io::Result<()> {
    let meta = std::fs::symlink_metadata(source)?;
    let is_dir = meta.is_dir()
        || (meta.is_symlink() && entry.is_empty() && std::fs::metadata(source)?.is_dir());
    if !is_dir {
        return tar.append_path_with_name(source, entry);
    }
    if !entry.is_empty() {
        return tar.append_dir_all(entry, source);
    }
    for inner in std::fs::read_dir(source)? {
        let inner = inner?;
        let name = inner.file_name();
        if inner.file_type()?.is_dir() {
            tar.append_dir_all(&name, inner.path())?;
        } else {
            tar.append_path_with_name(inner.path(), &name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        assert_eq!(
            place("web:/etc/x"),
            Place::Container {
                name: "web",
                path: "/etc/x"
            }
        );
        assert_eq!(place("./a:b"), Place::Here("./a:b"));
        assert_eq!(place("/a:b"), Place::Here("/a:b"));
        assert_eq!(place("a"), Place::Here("a"));
        assert_eq!(place("-"), Place::Stream);
        assert_eq!(
            (parent_of("/a/b"), base_of("/a/b")),
            ("/a".to_owned(), "b".to_owned())
        );
        assert_eq!(parent_of("/a"), "/");
    }

    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in entries {
            let mut header = tar::Header::new_gnu();
            if name.ends_with('/') {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
            } else {
                header.set_mode(0o644);
            }
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn archives_are_unpacked_under_the_name_that_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = archive(&[("etc/", ""), ("etc/hosts", "x")]);
        unpack_into(&bytes[..], directory.path(), None, false).unwrap();
        assert_eq!(
            std::fs::read_to_string(directory.path().join("etc/hosts")).unwrap(),
            "x"
        );
        unpack_into(&bytes[..], directory.path(), Some("copy"), false).unwrap();
        assert_eq!(
            std::fs::read_to_string(directory.path().join("copy/hosts")).unwrap(),
            "x"
        );
        unpack_into(&bytes[..], directory.path(), Some("."), false).unwrap();
        assert_eq!(
            std::fs::read_to_string(directory.path().join("hosts")).unwrap(),
            "x"
        );
        let file = archive(&[("hosts", "y")]);
        unpack_into(&file[..], directory.path(), Some("named"), false).unwrap();
        assert_eq!(
            std::fs::read_to_string(directory.path().join("named")).unwrap(),
            "y"
        );
    }

    #[test]
    fn files_and_directories_are_packed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("d")).unwrap();
        std::fs::write(directory.path().join("d/f"), "z").unwrap();
        let names = |entry: &str, source: &str| {
            let mut tar = tar::Builder::new(Vec::new());
            append(&mut tar, &directory.path().join(source), entry).unwrap();
            let bytes = tar.into_inner().unwrap();
            let mut names: Vec<String> = tar::Archive::new(&bytes[..])
                .entries()
                .unwrap()
                .map(|entry| entry.unwrap().path().unwrap().display().to_string())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names("n", "d/f"), ["n"]);
        assert_eq!(names("n", "d"), ["n/", "n/f"]);
        assert_eq!(names("", "d"), ["f"]);
    }
}
