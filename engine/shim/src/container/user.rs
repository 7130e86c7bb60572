//! Who a process runs as: docker's `name|uid[:group|gid]` against the container's
//! own passwd and group files.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::failure::failure;
use crate::protocol::StartFailure;
use crate::sys;

/// Largest passwd or group file that is read.
const FILE_BYTES_MAX: usize = 16 << 20;
/// Largest id docker takes.
const ID_MAX: u32 = i32::MAX as u32;

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// All supplementary groups; the primary one is among them.
    pub groups: Vec<u32>,
    /// Home directory; `/` when the passwd file has none.
    pub home: String,
}

/// Resolves a user in the container whose root is open.
///
/// # Errors
/// A name is in neither file, or a number is out of range.
pub fn resolve_in(
    root: BorrowedFd<'_>,
    spec: &str,
    additional: &[String],
) -> Result<User, StartFailure> {
    let passwd = read_in(root, "/etc/passwd");
    let group = read_in(root, "/etc/group");
    resolve(spec, additional, &passwd, &group)
}

/// The text of a file of the container; empty when it is missing or is anything
/// but a plain file, as what the container puts there must not hold up the shim.
fn read_in(root: BorrowedFd<'_>, path: &str) -> String {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    let Ok(file) = sys::open_in_root(root, Path::new(path), libc::O_RDONLY | libc::O_NONBLOCK, 0)
    else {
        return String::new();
    };
    let plain =
        sys::fstat(file.as_fd()).is_ok_and(|status| status.st_mode & libc::S_IFMT == libc::S_IFREG);
    let mut bytes = Vec::new();
    if plain {
        // A read error leaves what was read; a name that is missing then is an error.
        let _ = std::fs::File::from(file)
            .take(FILE_BYTES_MAX as u64)
            .read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Resolves a user against the text of a passwd and a group file.
///
/// # Errors
/// See [`resolve_in`].
pub fn resolve(
    spec: &str,
    additional: &[String],
    passwd: &str,
    group: &str,
) -> Result<User, StartFailure> {
    let (user_part, group_part) = match spec.split_once(':') {
        Some((user, group)) => (user, group),
        None => (spec, ""),
    };
    let mut user = User {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home: "/".into(),
    };
    let wanted = if user_part.is_empty() { "0" } else { user_part };
    let entry = passwd
        .lines()
        .filter_map(PasswdLine::parse)
        .find(|line| line.name == wanted || Some(line.uid) == number(wanted));
    let name = match (&entry, number(wanted)) {
        (Some(line), _) => {
            user.uid = line.uid;
            user.gid = line.gid;
            user.home = line.home.to_owned();
            Some(line.name)
        }
        (None, Some(uid)) => {
            user.uid = uid;
            None
        }
        (None, None) => {
            return Err(failure(format!(
                "unable to find user {wanted}: no matching entries in passwd file"
            )));
        }
    };
    let mut supplementary = Vec::new();
    if !group_part.is_empty() {
        user.gid = group_id(group_part, group)?;
    } else if let Some(name) = name {
        supplementary.extend(
            group
                .lines()
                .filter_map(GroupLine::parse)
                .filter(|line| line.members.split(',').any(|member| member == name))
                .map(|line| line.gid),
        );
    }
    for extra in additional {
        supplementary.push(group_id(extra, group)?);
    }
    if user.uid > ID_MAX || user.gid > ID_MAX || supplementary.iter().any(|&gid| gid > ID_MAX) {
        return Err(failure("uids and gids must be in range 0-2147483647"));
    }
    if user.home.is_empty() {
        user.home = "/".into();
    }
    user.groups = vec![user.gid];
    for gid in supplementary {
        if !user.groups.contains(&gid) {
            user.groups.push(gid);
        }
    }
    Ok(user)
}

fn group_id(wanted: &str, group: &str) -> Result<u32, StartFailure> {
    group
        .lines()
        .filter_map(GroupLine::parse)
        .find(|line| match number(wanted) {
            Some(gid) => line.gid == gid,
            None => line.name == wanted,
        })
        .map(|line| line.gid)
        .or_else(|| number(wanted))
        .ok_or_else(|| {
            failure(format!(
                "unable to find group {wanted}: no matching entries in group file"
            ))
        })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        Some(Self {
            name: fields.next()?,
            uid: fields.nth(1)?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
            home: fields.nth(1).unwrap_or_default(),
        })
    }
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        Some(Self {
            name: fields.next()?,
            gid: fields.nth(1)?.parse().ok()?,
            members: fields.next().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:101:102:web:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:50:adm,web\nempty:x:60:\n";

    fn check(spec: &str, uid: u32, groups: &[u32], home: &str) {
        let user = resolve(spec, &[], PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid), (uid, groups[0]), "{spec}");
        assert_eq!(user.groups, groups, "{spec}");
        assert_eq!(user.home, home, "{spec}");
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("", 0, &[0], "/root");
        check("web", 101, &[102, 50], "/srv");
        check("101", 101, &[102, 50], "/srv");
        check("web:logs", 101, &[50], "/srv");
        check("1000", 1000, &[0], "/");
        check("1000:1000", 1000, &[1000], "/");
        check("web:0", 101, &[0], "/srv");
    }

    #[test]
    fn additional_groups_join_by_name_or_number() {
        let more = ["logs".to_owned(), "7".to_owned()];
        let user = resolve("0", &more, PASSWD, GROUP).unwrap();
        assert_eq!(user.groups, [0, 50, 7]);
    }

    #[test]
    fn what_is_missing_is_said_in_dockers_words() {
        let text = |spec| resolve(spec, &[], PASSWD, GROUP).unwrap_err().message;
        assert_eq!(
            text("nobody"),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert_eq!(
            text("web:nobody"),
            "unable to find group nobody: no matching entries in group file"
        );
        assert_eq!(
            text("4294967295"),
            "uids and gids must be in range 0-2147483647"
        );
    }
}
