//! `image push-cluster`: brings an image of this machine to a cluster that no registry is in reach of. Only
//! what no node has of it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::client::{Body, Call, Chunks, Client, JsonLines};
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::flags::Args;
use crate::host::{DOCKER_SOCKET, Host, HostFlags, SKEP_SOCKET};
use crate::json::Json;
use crate::progress::lines::{Amount, Line, Lines, Sink, show_stream};
use crate::reference::Reference;
use crate::session::Session;

/// The member that names what was left out: its path in the archive, and its digest.
const LEFT_OUT: &str = "skep-left-out.json";
/// Smaller members are no layers, and not worth a question.
const LAYER_BYTES_MIN: u64 = 4096;
/// Bytes of the archive that may wait for the network, in pieces.
const PIECES: usize = 16;
const PIECE_BYTES: usize = 64 << 10;

/// A file in the archive.
struct Member {
    path: String,
    /// `sha256:…`
    digest: String,
    bytes: u64,
}

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let reference = Reference::required(args.positional(0)).map_err(Failure::Message)?;
    if reference.digest.is_some() {
        return Err(Failure::message("cannot push a digest reference"));
    }
    let name = reference.with_default_tag().to_string();
    let archive = match args.text("input") {
        "" => fetch(session, args.text("from"), &name).await?,
        path => File::open(path)
            .map_err(|error| Failure::message(format!("open {path}: {}", files::reason(&error))))?,
    };
    let quiet = args.flag("quiet");
    if !quiet {
        session.say(format!(
            "The push refers to the cluster of [{}]",
            session.client.host()
        ))?;
    }
    let (archive, members) = blocking(archive, scan).await?;
    let members = members?;
    let digests: BTreeSet<&str> = members
        .iter()
        .map(|member| member.digest.as_str())
        .collect();
    let call = Call::post("/skep/v1/images/missing").json(&json!({ "Digests": digests }));
    let missing: BTreeSet<String> = session
        .client
        .typed::<Vec<String>>(call)
        .await?
        .into_iter()
        .collect();
    let mut lines = Lines::new(session, Sink::Out);
    let mut say = |member: &Member, text: &str| match quiet {
        true => Ok(()),
        false => lines.write(&Line {
            id: member.digest["sha256:".len()..].chars().take(12).collect(),
            text: text.to_owned(),
            progress: None,
            replaces: true,
        }),
    };
    for member in &members {
        let is_missing = missing.contains(&member.digest);
        say(
            member,
            if is_missing {
                "Preparing"
            } else {
                "Layer already exists"
            },
        )?;
    }
    let left_out: BTreeMap<String, String> = members
        .iter()
        .filter(|member| !missing.contains(&member.digest))
        .map(|member| (member.path.clone(), member.digest.clone()))
        .collect();
    let (told, mut pushed) = mpsc::unbounded_channel();
    let call = Call::post("/skep/v1/images/load")
        .query("image", &name)
        .body("application/x-tar", body(archive, left_out, told));
    let sending = session.client.send(call);
    tokio::pin!(sending);
    let watching = |path: String, done: u64| (path, done);
    let answer = loop {
        tokio::select! {
            answer = &mut sending => break answer?,
            Some((path, done)) = pushed.recv() => {
                let (path, done) = watching(path, done);
                let member = members.iter().find(|member| member.path == path);
                if let (Some(member), false) = (member, quiet) {
                    lines.write(&pushing(member, done))?;
                }
            }
        }
    };
    while let Ok((path, done)) = pushed.try_recv() {
        let member = members.iter().find(|member| member.path == path);
        if let (Some(member), false) = (member, quiet) {
            lines.write(&pushing(member, done))?;
        }
    }
    let stream = JsonLines::of(answer);
    match quiet {
        true => super::transfer::drain(stream).await?,
        false => show_stream(session, Sink::Out, stream, |_: &Json| {}).await?,
    }
    if quiet {
        session.say(name)?;
    }
    Ok(())
}

/// The line of a layer of which so much was sent.
fn pushing(member: &Member, done: u64) -> Line {
    let is_done = done >= member.bytes;
    Line {
        id: member.digest["sha256:".len()..].chars().take(12).collect(),
        text: if is_done { "Pushed" } else { "Pushing" }.to_owned(),
        progress: (!is_done).then(|| Amount {
            current: i64::try_from(done).unwrap_or(i64::MAX),
            total: i64::try_from(member.bytes).unwrap_or(i64::MAX),
            ..Amount::default()
        }),
        replaces: true,
    }
}

/// Runs blocking work with the archive, and gives that back with the result.
async fn blocking<T: Send + 'static>(
    mut archive: File,
    work: impl FnOnce(&mut File) -> T + Send + 'static,
) -> Outcome<(File, T)> {
    let done = tokio::task::spawn_blocking(move || {
        let done = work(&mut archive);
        (archive, done)
    });
    done.await
        .map_err(|error| Failure::message(error.to_string()))
}

/// The image as another daemon has it, in a file that nobody else sees.
async fn fetch(session: &Session, from: &str, name: &str) -> Outcome<File> {
    let from = match from {
        "" if Path::new(SKEP_SOCKET).exists() => format!("unix://{SKEP_SOCKET}"),
        "" => format!("unix://{DOCKER_SOCKET}"),
        given => given.to_owned(),
    };
    let flags = HostFlags {
        host: Some(from),
        ..HostFlags::default()
    };
    let host = Host::find(&flags, &session.env, &session.config).map_err(Failure::Message)?;
    let client = Client::new(host, BTreeMap::new(), None);
    let call = Call::get("/images/get").query("names", name);
    let answer = client.send(call).await.map_err(|failure| {
        Failure::message(format!(
            "cannot read {name} from {}: {failure}\nUse --from for another daemon that has the image, or --input for an archive",
            client.host()
        ))
    })?;
    let mut chunks = Chunks::of(answer);
    let wrong = |error: io::Error| {
        Failure::message(format!("cannot keep the image: {}", files::reason(&error)))
    };
    let mut file = files::nameless().map_err(wrong)?;
    while let Some(chunk) = chunks.next().await? {
        file.write_all(&chunk).map_err(wrong)?;
    }
    file.rewind().map_err(wrong)?;
    Ok(file)
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::message(format!("cannot read the archive: {error}"))
}

/// The files of an archive that may be layers.
fn scan(archive: &mut File) -> Outcome<Vec<Member>> {
    let mut members = Vec::new();
    archive.rewind().map_err(|error| unreadable(&error))?;
    let mut tar = tar::Archive::new(&mut *archive);
    for entry in tar.entries().map_err(|error| unreadable(&error))? {
        let mut entry = entry.map_err(|error| unreadable(&error))?;
        let bytes = entry.size();
        if !entry.header().entry_type().is_file() || bytes < LAYER_BYTES_MIN {
            continue;
        }
        let path = entry.path().map_err(|error| unreadable(&error))?;
        let path = path.to_string_lossy().into_owned();
        let digest = match path.strip_prefix("blobs/sha256/") {
            Some(hex) if hex.len() == 64 => format!("sha256:{hex}"),
            // Archives of before are not by digest.
            _ => digest_of(&mut entry).map_err(|error| unreadable(&error))?,
        };
        members.push(Member {
            path,
            digest,
            bytes,
        });
    }
    archive.rewind().map_err(|error| unreadable(&error))?;
    Ok(members)
}

fn digest_of(content: &mut impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(content, &mut hash)?;
    Ok(format!("sha256:{}", hex::encode(hash.finalize())))
}

/// The archive without what is left out, as a request's body. How far each file is goes to `told`.
fn body(
    archive: File,
    left_out: BTreeMap<String, String>,
    told: mpsc::UnboundedSender<(String, u64)>,
) -> Body {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    tokio::task::spawn_blocking(move || {
        let output = Pieces {
            sender: sender.clone(),
            buffer: Vec::with_capacity(PIECE_BYTES),
        };
        if let Err(error) = write(archive, &left_out, output, &told) {
            let _ = sender.blocking_send(Err(error));
        }
    });
    let frames = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece.map(Frame::data), receiver))
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

fn write(
    mut archive: File,
    left_out: &BTreeMap<String, String>,
    output: Pieces,
    told: &mpsc::UnboundedSender<(String, u64)>,
) -> io::Result<()> {
    archive.seek(SeekFrom::Start(0))?;
    let mut source = tar::Archive::new(archive);
    let mut target = tar::Builder::new(output);
    let names = serde_json::to_vec(left_out)?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(names.len() as u64);
    target.append_data(&mut header, LEFT_OUT, names.as_slice())?;
    for entry in source.entries()? {
        let entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        if left_out.contains_key(&path) {
            continue;
        }
        let mut header = entry.header().clone();
        match entry.link_name()? {
            Some(link) => {
                let link = link.into_owned();
                target.append_link(&mut header, &path, link)?;
            }
            None => {
                let counted = Counted {
                    content: entry,
                    path: path.clone(),
                    done: 0,
                    told,
                };
                target.append_data(&mut header, &path, counted)?;
            }
        }
    }
    target.into_inner()?.flush()
}

/// Says how much of a file was read.
struct Counted<'a, R> {
    content: R,
    path: String,
    done: u64,
    told: &'a mpsc::UnboundedSender<(String, u64)>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        let before = self.done / (1 << 20);
        self.done += count as u64;
        // Each MiB, and at the end.
        if count == 0 || self.done / (1 << 20) != before {
            let _ = self.told.send((self.path.clone(), self.done));
        }
        Ok(count)
    }
}

/// Writes in pieces that another task sends.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        if piece.is_empty() {
            return Ok(());
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.sender
            .blocking_send(Ok(Bytes::from(piece)))
            .map_err(gone)
    }
}
