//! `docker cp` and `docker export`.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_model::Timestamp;
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::options::PutArchiveOptions;
use crate::streams::{ByteStream, blocking, produce};
use crate::tree::pack::{self, pack};
use crate::tree::unpack::{self, unpack};
use crate::tree::{Root, confined, owner};
use crate::types::PathStat;

impl Engine {
    /// What is at a path in a container, the last link not followed.
    pub async fn container_path_stat(&self, name: &str, path: &str) -> Result<PathStat> {
        let container = self.containers.find(name)?;
        let (engine, name, path) = (self.shared(), name.to_owned(), path.to_owned());
        blocking(move || engine.inside(&container, false, move || stat(&name, &path))).await
    }

    /// What is at a path, and it as an archive under its own name.
    pub async fn container_get_archive(
        &self,
        name: &str,
        path: &str,
    ) -> Result<(PathStat, ByteStream)> {
        let found = self.container_path_stat(name, path).await?;
        let container = self.containers.find(name)?;
        let root = self.root_of(&container, false)?;
        let (path, name) = (rooted(path), archive_name(path));
        let ids = root.ids();
        let stream = produce(move |output| {
            // The archive is made by the confined thread and written by this one.
            let mut output = std::mem::replace(output, output.again());
            confined(root, move || {
                let options = pack::Options {
                    name: Some(name),
                    ids,
                    ..pack::Options::default()
                };
                pack(&path, &mut output, options)
                    .during(|| "cannot read the container's files".into())
            })
        });
        self.container_event(&container, "archive-path", &[]);
        Ok((found, stream))
    }

    /// Unpacks an archive into a directory of a container.
    pub async fn container_put_archive<R>(
        &self,
        name: &str,
        path: &str,
        options: PutArchiveOptions,
        archive: R,
    ) -> Result<()>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let container = self.containers.find(name)?;
        let archive = SyncIoBridge::new(archive);
        let (engine, target) = (self.shared(), Arc::clone(&container));
        let (name, path) = (name.to_owned(), path.to_owned());
        blocking(move || {
            let record = target.record();
            let readonly = {
                let inside = crate::container::mounts::clean(&path);
                record.host_config.readonly_rootfs
                    && !record.mounts.iter().any(|mount| {
                        mount.point.rw && Path::new(&inside).starts_with(&mount.point.destination)
                    })
            };
            if readonly {
                return Err(EngineError::forbidden(
                    "container rootfs is marked read-only",
                ));
            }
            let user = record.config.user;
            let root = engine.root_of(&target, true)?;
            let ids = root.ids();
            confined(root, move || {
                let into = rooted(&path);
                let found = fs::metadata(&into).map_err(|_| no_such_file(&name, &path))?;
                if !found.is_dir() {
                    return Err(EngineError::invalid("extraction point is not a directory"));
                }
                let (_, plain) = crate::image::decompress(archive)
                    .during(|| "cannot read the archive".into())?;
                let own = match options.copy_uid_gid && !user.is_empty() {
                    true => Some(owner::of_user(&user)?),
                    false => None,
                };
                let options = unpack::Options {
                    into,
                    own,
                    keep_kinds: options.no_overwrite_dir_non_dir,
                    ids,
                    ..unpack::Options::default()
                };
                unpack(plain, options).map(drop).map_err(|error| {
                    let kind = match error.kind() {
                        std::io::ErrorKind::InvalidData => crate::Kind::Invalid,
                        std::io::ErrorKind::ReadOnlyFilesystem => crate::Kind::Forbidden,
                        _ => crate::Kind::Internal,
                    };
                    EngineError::new(kind, "cannot unpack the archive").because(error)
                })
            })
        })
        .await?;
        self.container_event(&container, "extract-to-dir", &[]);
        Ok(())
    }

    /// A container's root file system as an archive, without volumes.
    pub async fn container_export(&self, name: &str) -> Result<ByteStream> {
        let container = self.containers.find(name)?;
        let root = self.layers_root(&container);
        self.container_event(&container, "export", &[]);
        Ok(produce(move |output| {
            let mut output = std::mem::replace(output, output.again());
            confined(root, move || {
                pack(Path::new("/"), &mut output, pack::Options::default())
                    .during(|| "cannot read the container's files".into())
            })
        }))
    }

    /// The layers alone, read-only: the same whether the container runs or not.
    fn layers_root(&self, container: &crate::container::Container) -> Root {
        let paths = self.root_paths(&container.directory, &container.record());
        let mut lower = vec![paths.upper];
        lower.extend(paths.lower);
        Root::Mounted {
            lower,
            upper: None,
            at: paths.merged,
            binds: Vec::new(),
        }
    }
}

fn no_such_file(container: &str, path: &str) -> EngineError {
    EngineError::not_found(format!(
        "Could not find the file {path} in container {container}"
    ))
}

/// A path as seen from the root; a trailing `/` or `/.` keeps its meaning, which
/// is to follow a link.
fn rooted(path: &str) -> PathBuf {
    let mut text = format!("/{}", path.trim_start_matches('/'));
    // `..` at the root is the root: the kernel does that by itself.
    if text.is_empty() {
        text.push('/');
    }
    text.into()
}

/// The name of the archive's first entry.
fn archive_name(path: &str) -> PathBuf {
    if path.ends_with("/.") || path == "." {
        return ".".into();
    }
    let clean = crate::container::mounts::clean(path);
    match Path::new(&clean).file_name() {
        Some(name) => name.into(),
        None => ".".into(),
    }
}

fn stat(container: &str, path: &str) -> Result<PathStat> {
    let rooted = rooted(path);
    let metadata = fs::symlink_metadata(&rooted).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotADirectory if path.ends_with(['/', '.']) => {
            EngineError::invalid(format!("{path}: not a directory"))
        }
        _ => no_such_file(container, path),
    })?;
    let link_target = match metadata.is_symlink() {
        // Where the whole chain of links ends, if it ends.
        true => fs::canonicalize(&rooted)
            .or_else(|_| fs::read_link(&rooted))
            .map(|target| target.to_string_lossy().into_owned())
            .unwrap_or_default(),
        false => String::new(),
    };
    let clean = crate::container::mounts::clean(path);
    Ok(PathStat {
        name: Path::new(&clean)
            .file_name()
            .map_or_else(|| "/".into(), |name| name.to_string_lossy().into_owned()),
        size: i64::try_from(metadata.len()).unwrap_or(i64::MAX),
        mode: go_mode(&metadata),
        mtime: Timestamp(
            metadata
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(metadata.mtime_nsec()),
        ),
        link_target,
    })
}

/// The bits of Go's `os.FileMode`.
fn go_mode(metadata: &fs::Metadata) -> u32 {
    let kind = metadata.file_type();
    let mode = metadata.mode();
    let mut bits = mode & 0o777;
    for (is, bit) in [
        (kind.is_dir(), 31),
        (kind.is_symlink(), 27),
        (kind.is_block_device(), 26),
        (kind.is_char_device(), 26),
        (kind.is_char_device(), 21),
        (kind.is_fifo(), 25),
        (kind.is_socket(), 24),
        (mode & 0o4000 != 0, 23),
        (mode & 0o2000 != 0, 22),
        (mode & 0o1000 != 0, 20),
    ] {
        if is {
            bits |= 1 << bit;
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_named_after_what_was_asked_for() {
        for (path, name) in [
            ("/etc/passwd", "passwd"),
            ("etc", "etc"),
            ("/etc/", "etc"),
            ("/etc/.", "."),
            ("/", "."),
        ] {
            assert_eq!(archive_name(path), Path::new(name), "{path}");
        }
    }

    #[test]
    fn modes_are_gos() {
        let directory = tempfile::tempdir().unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let mode = go_mode(&fs::metadata(directory.path()).unwrap());
        assert_eq!(mode >> 31, 1);
        assert_eq!(mode & 0o777, 0o700);
    }
}
