//! What a client sends: an archive with a Dockerfile in it, or where to get one.

use std::fs;
use std::io::{Read, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_dockerfile::{DOCKERFILE_BYTES_MAX, Ignore};
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use super::download::{self, is_git, is_url};
use super::options::BuildOptions;
use super::workspace::Workspace;
use crate::container::mounts::clean;
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::image::decompress;
use crate::tree::owner::open_file;
use crate::tree::unpack::{self, unpack};
use crate::tree::{Root, confined};

const DEFAULT_NAME: &str = "Dockerfile";
const IGNORE_NAME: &str = ".dockerignore";

/// Unpacks the context below the workspace; its directory and the Dockerfile.
pub(super) async fn receive<R>(
    engine: &Engine,
    workspace: &Arc<Workspace>,
    body: R,
    options: &BuildOptions,
) -> Result<(PathBuf, String)>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let remote = options.remote.as_str();
    let directory = workspace.directory("context")?;
    let dockerfile = match options.dockerfile.as_str() {
        "" => DEFAULT_NAME.to_owned(),
        name => name.to_owned(),
    };
    let place = directory.clone();
    // What clients call a body that is the archive.
    if matches!(remote, "" | "client-session") {
        let body = SyncIoBridge::new(body);
        workspace
            .blocking(move || unpack_context(body, &place))
            .await?;
    } else if is_git(remote) {
        return Err(EngineError::not_implemented(format!(
            "building from a git repository is not supported by this daemon: clone `{remote}` and build from the directory"
        )));
    } else if is_url(remote) {
        let file = download::download(engine, workspace, remote)
            .await
            .map_err(|error| error.context(format!("failed to download remote {remote}")))?;
        let is_text = file.content_type.starts_with("text/plain");
        let name = dockerfile.clone();
        workspace
            .blocking(move || {
                if is_text || !is_archive(&file.path)? {
                    let target = place.join(Path::new(&name).file_name().unwrap_or_default());
                    return fs::rename(&file.path, target)
                        .during(|| "cannot place the Dockerfile".into());
                }
                let file = fs::File::open(&file.path)
                    .during(|| format!("cannot read `{}`", file.path.display()))?;
                unpack_context(file, &place)
            })
            .await?;
    } else {
        return Err(EngineError::invalid(format!(
            "remoteURL ({remote}) could not be recognized as URL"
        )));
    }
    let place = directory.clone();
    let text = workspace
        .blocking(move || confined(Root::Directory(place), move || read_dockerfile(&dockerfile)))
        .await?;
    Ok((directory, text))
}

fn unpack_context(archive: impl Read + Send + 'static, directory: &Path) -> Result<()> {
    confined(Root::Directory(directory.to_owned()), move || {
        let what = || "Error processing tar file".to_owned();
        let (_, plain) = decompress(archive).map_err(|error| {
            EngineError::invalid("cannot read the build context").because(error)
        })?;
        let options = unpack::Options {
            own: Some((0, 0)),
            ..unpack::Options::default()
        };
        unpack(Ended::new(plain), options)
            .map(drop)
            .map_err(|error| {
                let kind = match error.kind() {
                    std::io::ErrorKind::InvalidData
                    | std::io::ErrorKind::UnexpectedEof
                    | std::io::ErrorKind::Other => crate::Kind::Invalid,
                    _ => crate::Kind::Internal,
                };
                EngineError::new(kind, what()).because(error)
            })
    })
}

/// Ends an archive that stops right after the last file's contents, as those of
/// docker's CLI do when the Dockerfile is not in the context: the rest of the
/// block and two empty ones are added.
struct Ended<R> {
    inner: R,
    bytes: u64,
    /// What is left to add, once the archive has ended.
    missing: Option<u64>,
}

impl<R> Ended<R> {
    const BLOCK: u64 = 512;

    fn new(inner: R) -> Self {
        Self {
            inner,
            bytes: 0,
            missing: None,
        }
    }
}

impl<R: Read> Read for Ended<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.missing.is_none() {
            let count = self.inner.read(buffer)?;
            self.bytes += count as u64;
            if count > 0 {
                return Ok(count);
            }
            let block = self.bytes.next_multiple_of(Self::BLOCK) - self.bytes;
            self.missing = Some(block + 2 * Self::BLOCK);
        }
        let missing = self.missing.unwrap_or(0);
        let count = usize::try_from(missing)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        buffer[..count].fill(0);
        self.missing = Some(missing - count as u64);
        Ok(count)
    }
}

/// Whether a file begins as an archive does.
pub(super) fn is_archive(path: &Path) -> Result<bool> {
    let mut file = fs::File::open(path).during(|| format!("cannot read `{}`", path.display()))?;
    is_open_archive(&mut file)
}

/// The same of an open file; it is at its beginning again afterwards.
pub(super) fn is_open_archive(file: &mut fs::File) -> Result<bool> {
    let what = || "cannot read a file".to_owned();
    let mut first = [0; 6];
    let mut count = 0;
    while count < first.len() {
        match file.read(&mut first[count..]).during(what)? {
            0 => break,
            more => count += more,
        }
    }
    file.rewind().during(what)?;
    if first[..count].starts_with(b"BZh")
        || first[..count].starts_with(&[0xfd, b'7', b'z', b'X', b'Z'])
    {
        return Err(EngineError::not_implemented(
            "bzip2 and xz compressed archives are not supported: compress with gzip or zstd, or not at all",
        ));
    }
    let copy = file.try_clone().during(what)?;
    let mut header = Vec::new();
    let is_archive = match decompress(copy) {
        Ok((_, plain)) => {
            plain.take(512).read_to_end(&mut header).is_ok()
                && header.len() == 512
                && is_header(&header)
        }
        Err(_) => false,
    };
    file.rewind().during(what)?;
    Ok(is_archive)
}

/// Whether the checksum of a block is that of a header.
fn is_header(block: &[u8]) -> bool {
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| match at {
            148..156 => u32::from(b' '),
            _ => u32::from(*byte),
        })
        .sum();
    let given = block[148..156]
        .iter()
        .filter(|byte| (b'0'..=b'7').contains(*byte))
        .fold(0u32, |sum, byte| {
            sum.wrapping_mul(8) + u32::from(byte - b'0')
        });
    given == sum && sum > 8 * u32::from(b' ')
}

/// Reads the Dockerfile, and takes it and the list of ignored files away if that
/// list says so. Call where the context is `/`.
fn read_dockerfile(name: &str) -> Result<String> {
    let outside = Path::new(name)
        .components()
        .fold((0i64, false), |(depth, out), part| {
            let depth = match part {
                std::path::Component::ParentDir => depth - 1,
                std::path::Component::Normal(_) => depth + 1,
                _ => depth,
            };
            (depth, out || depth < 0)
        })
        .1;
    if outside {
        return Err(EngineError::invalid(format!(
            "forbidden path outside the build context: {name} ()"
        )));
    }
    let path = clean(name);
    let missing = || EngineError::invalid(format!("Cannot locate specified Dockerfile: {name}"));
    // `-f` of another case was common once.
    let path = match fs::metadata(&path) {
        Ok(found) if found.is_file() => path,
        _ if name == DEFAULT_NAME && Path::new("/dockerfile").is_file() => "/dockerfile".into(),
        _ => return Err(missing()),
    };
    let bytes = read_bounded(Path::new(&path)).map_err(|error| missing().because(error))?;
    if bytes.is_empty() {
        return Err(EngineError::invalid(format!(
            "the Dockerfile ({name}) cannot be empty"
        )));
    }
    let ignore_file = Path::new("/").join(IGNORE_NAME);
    if let Ok(text) = read_bounded(&ignore_file) {
        let ignore = Ignore::parse(&String::from_utf8_lossy(&text))
            .map_err(|error| EngineError::invalid("failed to read .dockerignore").because(error))?;
        for file in [Path::new(&path), &ignore_file] {
            let relative = file.strip_prefix("/").unwrap_or(file);
            if ignore.matches(&relative.to_string_lossy()) {
                crate::record::remove_file(file)?;
            }
        }
    }
    String::from_utf8(bytes).map_err(|error| {
        EngineError::invalid(format!("the Dockerfile ({name}) is not UTF-8")).because(error)
    })
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?
        .take(DOCKERFILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_without_an_end_gets_one() {
        let mut read = Vec::new();
        Ended::new(&[7u8; 600][..]).read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), 1024 + 1024);
        assert!(read[..600].iter().all(|byte| *byte == 7));
        assert!(read[600..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn archives_are_known_by_their_first_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        builder.append_data(&mut header, "a", &b"hi"[..]).unwrap();
        let archive = builder.into_inner().unwrap();
        let zipped = zstd::encode_all(&archive[..], 1).unwrap();
        for (bytes, expected) in [
            (archive, true),
            (zipped, true),
            (b"FROM x\n".to_vec(), false),
            (vec![0; 1024], false),
            (vec![], false),
        ] {
            fs::write(&path, &bytes).unwrap();
            assert_eq!(is_archive(&path).unwrap(), expected);
        }
        fs::write(&path, b"BZh91AY&SY").unwrap();
        assert!(is_archive(&path).is_err());
    }
}
