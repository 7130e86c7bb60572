//! Unpacks archives: image layers into overlayfs' form, and plain archives over
//! an existing tree. Call inside [`super::confined`]: paths are taken from `/`.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{FchownatFlags, Gid, Uid};
use skep_shim::userns::IdMap;
use tar::EntryType;

use super::guard::HeaderGuard;
use super::{paths, xattrs};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Names of aufs' own that no layer of ours has.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
/// Most entries of one archive.
const ENTRIES_MAX: u64 = 20_000_000;

/// How to unpack.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// The archive is an image layer: `.wh.` names become whiteouts.
    pub(crate) layer: bool,
    /// Directories below, topmost first: a directory the archive does not name
    /// itself looks like theirs.
    pub(crate) lower: Vec<OwnedFd>,
    /// Everything goes below this path (no `..`), which must exist.
    pub(crate) into: PathBuf,
    /// A directory may not replace something else nor the other way round.
    pub(crate) keep_kinds: bool,
    /// Ignore the archive's owners: everything belongs to the caller.
    pub(crate) own: Option<(u32, u32)>,
    /// Ids of the host that the archive's owners are: a running container's.
    pub(crate) ids: Option<IdMap>,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Bytes of all regular files.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// Unpacks all of `archive`, to its very end.
pub(crate) fn unpack(archive: impl Read, options: Options) -> io::Result<Unpacked> {
    let mut unpacker = Unpacker {
        options,
        done: Unpacked::default(),
        times: BTreeMap::new(),
        made: HashSet::new(),
    };
    let mut archive = tar::Archive::new(HeaderGuard::new(archive));
    // The archive's own end is two empty blocks; a stream that stops in the
    // middle of an entry is an error from the library.
    for entry in archive.entries()? {
        let mut entry = entry?;
        unpacker.done.entries += 1;
        if unpacker.done.entries > ENTRIES_MAX {
            return Err(invalid("archive has too many entries".into()));
        }
        let name = entry.path_bytes().into_owned();
        unpacker.entry(&name, &mut entry).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{}: {error}", String::from_utf8_lossy(&name)),
            )
        })?;
    }
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    // Last, and the deepest first: making an entry changes its directory's time.
    for (path, time) in unpacker.times.iter().rev() {
        set_time(path, *time)?;
    }
    Ok(unpacker.done)
}

struct Unpacker {
    options: Options,
    done: Unpacked,
    /// Directories and the times they get in the end.
    times: BTreeMap<PathBuf, TimeSpec>,
    /// Directories that are known to exist with the right looks.
    made: HashSet<PathBuf>,
}

/// Extended attributes of an entry.
type Attributes = Vec<(OsString, Vec<u8>)>;

/// Owner, permissions and time of an entry, from header and extensions.
#[derive(Debug, Clone, Copy)]
struct Looks {
    uid: u32,
    gid: u32,
    mode: u32,
    time: TimeSpec,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, name: &[u8], entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let relative = paths::inside(name)?;
        let path = Path::new("/").join(&self.options.into).join(&relative);
        let (looks, attributes) = self.looks(entry)?;
        let kind = entry.header().entry_type();
        if relative.as_os_str().is_empty() {
            // The root itself: only its looks are taken.
            if kind == EntryType::Directory && self.options.layer {
                self.dress(&path, &looks, &attributes, false)?;
                self.times.insert(path, looks.time);
            }
            return Ok(());
        }
        if self.options.layer {
            let last = relative.file_name().unwrap_or_default().as_bytes();
            if let Some(hidden) = last.strip_prefix(WHITEOUT_PREFIX) {
                self.parents(&relative)?;
                let parent = path.parent().unwrap_or(Path::new("/"));
                return match last {
                    OPAQUE_MARKER => make_opaque(parent),
                    name if name.starts_with(AUFS_PREFIX) => Ok(()),
                    _ => make_whiteout(&parent.join(OsStr::from_bytes(hidden))),
                };
            }
        }
        self.parents(&relative)?;
        self.place(kind, &path, &looks, &attributes, entry)
    }

    fn place<R: Read>(
        &mut self,
        kind: EntryType,
        path: &Path,
        looks: &Looks,
        attributes: &[(OsString, Vec<u8>)],
        entry: &mut tar::Entry<'_, R>,
    ) -> io::Result<()> {
        let hid_something = self.make_room(path, kind)?;
        match kind {
            EntryType::Directory => {
                match DirBuilder::new().mode(0o700).create(path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    result => result?,
                }
                self.dress(path, looks, attributes, false)?;
                if hid_something {
                    make_opaque(path)?;
                }
                self.made.insert(path.to_owned());
                self.times.insert(path.to_owned(), looks.time);
                return Ok(());
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)?;
                self.done.bytes += io::copy(entry, &mut file)?;
            }
            EntryType::Symlink => {
                let target = link_target(entry)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), path)?;
                self.dress(path, looks, attributes, true)?;
                return set_time(path, looks.time);
            }
            EntryType::Link => {
                let target = paths::inside(&link_target(entry)?)?;
                let target = Path::new("/").join(&self.options.into).join(target);
                // Same file, same looks: nothing to dress.
                return fs::hard_link(&target, path);
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let header = entry.header();
                let device = match kind {
                    EntryType::Fifo => 0,
                    _ => libc::makedev(
                        header.device_major()?.unwrap_or(0),
                        header.device_minor()?.unwrap_or(0),
                    ),
                };
                let flag = match kind {
                    EntryType::Char => SFlag::S_IFCHR,
                    EntryType::Block => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                mknod(path, flag, Mode::from_bits_truncate(0o600), device)?;
            }
            // Volume labels and vendors' own: nothing that becomes a file.
            _ => return Ok(()),
        }
        self.dress(path, looks, attributes, false)?;
        set_time(path, looks.time)
    }

    /// Removes what is in the way, as long as it is not a directory in the way of
    /// one. Says whether what was there was a whiteout.
    fn make_room(&mut self, path: &Path, kind: EntryType) -> io::Result<bool> {
        let present = match fs::symlink_metadata(path) {
            Ok(present) => present,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let both = present.is_dir() && kind == EntryType::Directory;
        if both {
            return Ok(false);
        }
        if self.options.keep_kinds && present.is_dir() != (kind == EntryType::Directory) {
            let (new, old) = if present.is_dir() {
                ("non-directory", "directory")
            } else {
                ("directory", "non-directory")
            };
            return Err(invalid(format!(
                "cannot overwrite {old} \"{}\" with {new}",
                path.display()
            )));
        }
        if present.is_dir() {
            fs::remove_dir_all(path)?;
            self.made.retain(|made| !made.starts_with(path));
            self.times.retain(|made, _| !made.starts_with(path));
            return Ok(false);
        }
        // A link to a directory is left in place by tar when a directory comes.
        if kind == EntryType::Directory
            && !self.options.layer
            && fs::metadata(path).is_ok_and(|target| target.is_dir())
        {
            return Ok(false);
        }
        fs::remove_file(path)?;
        Ok(self.options.layer && is_whiteout(&present))
    }

    /// Makes the directories above an entry that are missing.
    fn parents(&mut self, relative: &Path) -> io::Result<()> {
        let base = Path::new("/").join(&self.options.into);
        let Some(parent) = relative.parent().filter(|p| !p.as_os_str().is_empty()) else {
            return Ok(());
        };
        if self.made.contains(&base.join(parent)) {
            return Ok(());
        }
        let mut so_far = PathBuf::new();
        for component in parent.components() {
            so_far.push(component);
            let path = base.join(&so_far);
            if self.made.contains(&path) {
                continue;
            }
            let hidden = match fs::metadata(&path) {
                Ok(present) if present.is_dir() => {
                    self.made.insert(path);
                    continue;
                }
                Ok(present) if self.options.layer && is_whiteout(&present) => true,
                Ok(_) => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            DirBuilder::new().mode(0o755).create(&path)?;
            if hidden {
                make_opaque(&path)?;
            } else if let Some(below) = self.below(&so_far) {
                let looks = Looks {
                    uid: below.st_uid,
                    gid: below.st_gid,
                    mode: below.st_mode & 0o7777,
                    time: TimeSpec::new(below.st_mtime, below.st_mtime_nsec),
                };
                self.dress(&path, &looks, &[], false)?;
                self.times.insert(path.clone(), looks.time);
            }
            self.made.insert(path);
        }
        Ok(())
    }

    /// How a directory looks in the layers below.
    fn below(&self, relative: &Path) -> Option<FileStat> {
        for lower in &self.options.lower {
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
            let Ok(found) = openat2(lower, relative, how) else {
                continue;
            };
            let stat = nix::sys::stat::fstat(&found).ok()?;
            let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
            return (kind == SFlag::S_IFDIR).then_some(stat);
        }
        None
    }

    fn looks<R: Read>(&self, entry: &mut tar::Entry<'_, R>) -> io::Result<(Looks, Attributes)> {
        let header = entry.header();
        let small = |value: u64, what: &str| {
            u32::try_from(value).map_err(|_| invalid(format!("{what} {value} is out of range")))
        };
        let mut uid = small(header.uid().unwrap_or(0), "uid")?;
        let mut gid = small(header.gid().unwrap_or(0), "gid")?;
        let mode = header.mode()? & 0o7777;
        let mut time = TimeSpec::new(i64::try_from(header.mtime()?).unwrap_or(0), 0);
        let mut attributes = Vec::new();
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                let Ok(key) = extension.key() else { continue };
                let text = || extension.value().unwrap_or_default();
                match key {
                    "uid" => {
                        uid = text()
                            .parse()
                            .map_err(|_| invalid("uid is no number".into()))?
                    }
                    "gid" => {
                        gid = text()
                            .parse()
                            .map_err(|_| invalid("gid is no number".into()))?
                    }
                    "mtime" => time = pax_time(text()).unwrap_or(time),
                    key => {
                        if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                            let name = OsString::from(name);
                            if !xattrs::is_overlay(&name) {
                                attributes.push((name, extension.value_bytes().to_vec()));
                            }
                        }
                    }
                }
            }
        }
        if let Some((own_uid, own_gid)) = self.options.own {
            (uid, gid) = (own_uid, own_gid);
        }
        Ok((
            Looks {
                uid,
                gid,
                mode,
                time,
            },
            attributes,
        ))
    }

    /// Gives a new file its owner, permissions and attributes, in this order: a
    /// change of owner takes the setuid bit and capabilities away.
    fn dress(
        &self,
        path: &Path,
        looks: &Looks,
        attributes: &[(OsString, Vec<u8>)],
        link: bool,
    ) -> io::Result<()> {
        let (uid, gid) = match &self.options.ids {
            None => (looks.uid, looks.gid),
            Some(ids) => ids.uid(looks.uid).zip(ids.gid(looks.gid)).ok_or_else(|| {
                invalid(format!(
                    "owner {}:{} is not in the container's user namespace",
                    looks.uid, looks.gid
                ))
            })?,
        };
        nix::unistd::fchownat(
            AT_FDCWD,
            path,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            FchownatFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        if !link {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(path, fs::Permissions::from_mode(looks.mode))?;
        }
        for (name, value) in attributes {
            xattrs::set(path, name, value)?;
        }
        Ok(())
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<Vec<u8>> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() => Ok(target.into_owned()),
        _ => Err(invalid("link without a target".into())),
    }
}

/// `1700000000.123456789`.
fn pax_time(text: &str) -> Option<TimeSpec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: i64 = format!("{:0<9}", &fraction[..fraction.len().min(9)])
        .parse()
        .ok()?;
    Some(TimeSpec::new(seconds.parse().ok()?, nanos))
}

fn set_time(path: &Path, time: TimeSpec) -> io::Result<()> {
    utimensat(
        AT_FDCWD,
        path,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}

/// Whether this is overlayfs' mark for a removed name.
pub(crate) fn is_whiteout(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// Hides a name of the layers below.
fn make_whiteout(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        // The layer has the name itself: what is below stays hidden only if a
        // directory is opaque, and anything else hides it anyway.
        Ok(present) if present.is_dir() => return make_opaque(path),
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    mknod(path, SFlag::S_IFCHR, Mode::empty(), 0)?;
    Ok(())
}

/// Hides everything a directory has in the layers below.
fn make_opaque(path: &Path) -> io::Result<()> {
    xattr::set(path, "trusted.overlay.opaque", b"y")
}

/// Opens lower directories for [`Options::lower`], before being confined.
pub(crate) fn open_lower(directories: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    directories
        .iter()
        .map(|path| {
            File::options()
                .read(true)
                .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
                .open(path)
                .map(OwnedFd::from)
        })
        .collect()
}
