//! Packs directory trees into archives.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use skep_shim::userns::IdMap;
use tar::{Builder, EntryType, Header};

use super::unpack::is_whiteout;
use super::xattrs;

/// What the kernel shows for ids that a user namespace has not.
const NOBODY: u32 = 65_534;

/// How to pack.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The tree is the upper side of an overlay: whiteouts become `.wh.` names.
    pub(crate) layer: bool,
    /// Name of the root entry in the archive; `None` leaves the root out.
    pub(crate) name: Option<PathBuf>,
    /// Do not enter other file systems than the root's (`/proc`, volumes).
    pub(crate) one_file_system: bool,
    /// Of a directory only what is in it, not itself.
    pub(crate) contents: bool,
    /// Ids that files show instead of those they have: a running container's, on the host.
    pub(crate) ids: Option<IdMap>,
    /// Permissions of all files and directories, instead of their own.
    pub(crate) mode: Option<u32>,
    /// What to leave out, by path below the root.
    pub(crate) exclude: skep_dockerfile::Ignore,
}

/// Writes `root` (a directory or a single file) as an archive.
pub(crate) fn pack(root: &Path, output: impl Write, options: Options) -> io::Result<()> {
    let name = options.name.clone().unwrap_or_default();
    pack_several(&[(root.to_owned(), name)], output, options)
}

/// Writes several roots, each under its name (none is the archive's own root), as
/// one archive.
pub(crate) fn pack_several(
    roots: &[(PathBuf, PathBuf)],
    output: impl Write,
    options: Options,
) -> io::Result<()> {
    let mut packer = Packer {
        builder: Builder::new(output),
        options,
        device: 0,
        links: HashMap::new(),
        root: PathBuf::new(),
    };
    for (root, name) in roots {
        packer.device = fs::symlink_metadata(root)?.dev();
        packer.root.clone_from(root);
        packer.add(root, name)?;
    }
    packer.builder.finish()?;
    packer.builder.into_inner()?.flush()
}

struct Packer<W: Write> {
    builder: Builder<W>,
    options: Options,
    /// What is being packed, and its file system.
    root: PathBuf,
    device: u64,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn header_of(&self, metadata: &fs::Metadata, kind: EntryType) -> Header {
        let (mut uid, mut gid) = (metadata.uid(), metadata.gid());
        if let Some(ids) = &self.options.ids {
            // What the container knows no owner of belongs to nobody there too.
            uid = ids.uid_inside(uid).unwrap_or(NOBODY);
            gid = ids.gid_inside(gid).unwrap_or(NOBODY);
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_size(0);
        header
    }

    fn add(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            // A living container removes files while we look.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if !self.options.exclude.is_empty()
            && let Ok(below) = path.strip_prefix(&self.root)
            && self.options.exclude.matches(&below.to_string_lossy())
        {
            // Something below may be taken back.
            let skip =
                !metadata.is_dir() || self.options.exclude.may_skip(&below.to_string_lossy());
            if skip {
                return Ok(());
            }
        }
        if metadata.is_dir() {
            return self.add_directory(path, name, &metadata);
        }
        if self.options.layer && is_whiteout(&metadata) {
            return self.add_marker(&whiteout_name(name));
        }
        let kind = metadata.file_type();
        if kind.is_socket() {
            return Ok(());
        }
        if metadata.nlink() > 1 && !kind.is_symlink() {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&key) {
                let mut header = self.header_of(&metadata, EntryType::Link);
                return self.builder.append_link(&mut header, name, first);
            }
            self.links.insert(key, name.to_owned());
        }
        self.add_attributes(path)?;
        if kind.is_symlink() {
            let mut header = self.header_of(&metadata, EntryType::Symlink);
            let target = fs::read_link(path)?;
            return self.builder.append_link(&mut header, name, target);
        }
        if kind.is_file() {
            let file = File::open(path)?;
            let mut header = self.header_of(&metadata, EntryType::Regular);
            self.options.mode.inspect(|mode| header.set_mode(*mode));
            header.set_size(metadata.len());
            // A file that grows or shrinks while we read must not break the
            // archive: exactly the announced bytes are written.
            let contents = file
                .take(metadata.len())
                .chain(io::repeat(0))
                .take(metadata.len());
            return self.builder.append_data(&mut header, name, contents);
        }
        let entry_type = if kind.is_char_device() {
            EntryType::Char
        } else if kind.is_block_device() {
            EntryType::Block
        } else {
            EntryType::Fifo
        };
        let mut header = self.header_of(&metadata, entry_type);
        if entry_type != EntryType::Fifo {
            header.set_device_major(libc::major(metadata.rdev()))?;
            header.set_device_minor(libc::minor(metadata.rdev()))?;
        }
        self.builder.append_data(&mut header, name, io::empty())
    }

    fn add_directory(
        &mut self,
        path: &Path,
        name: &Path,
        metadata: &fs::Metadata,
    ) -> io::Result<()> {
        let left_out = self.options.contents && path == self.root;
        if !name.as_os_str().is_empty() && !left_out {
            self.add_attributes(path)?;
            let mut header = self.header_of(metadata, EntryType::Directory);
            self.options.mode.inspect(|mode| header.set_mode(*mode));
            let mut directory = name.as_os_str().to_owned();
            directory.push("/");
            self.builder
                .append_data(&mut header, directory, io::empty())?;
        }
        if self.options.one_file_system && metadata.dev() != self.device {
            return Ok(());
        }
        if self.options.layer
            && xattr::get(path, "trusted.overlay.opaque")?.as_deref() == Some(b"y")
        {
            self.add_marker(&name.join(".wh..wh..opq"))?;
        }
        let mut names = Vec::new();
        match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries {
                    names.push(entry?.file_name());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // The order of a directory is the file system's mood; ours is the same
        // every time.
        names.sort_unstable();
        for entry in names {
            self.add(&path.join(&entry), &name.join(&entry))?;
        }
        Ok(())
    }

    fn add_marker(&mut self, name: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_size(0);
        self.builder.append_data(&mut header, name, io::empty())
    }

    fn add_attributes(&mut self, path: &Path) -> io::Result<()> {
        let attributes = xattrs::all(path)?;
        let records: Vec<(String, Vec<u8>)> = attributes
            .into_iter()
            .filter_map(|(name, value)| Some((format!("SCHILY.xattr.{}", name.to_str()?), value)))
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        self.builder.append_pax_extensions(
            records
                .iter()
                .map(|(key, value)| (key.as_str(), &value[..])),
        )
    }
}

fn whiteout_name(name: &Path) -> PathBuf {
    let mut marker = std::ffi::OsString::from(".wh.");
    marker.push(std::ffi::OsStr::from_bytes(
        name.file_name().unwrap_or_default().as_bytes(),
    ));
    name.with_file_name(marker)
}
