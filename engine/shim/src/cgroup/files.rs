//! The small text files control groups consist of.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// Deepest tree of groups that is walked.
const DEPTH_MAX: usize = 64;

/// Writes a value in one call, naming file and value in the error.
pub fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|error| {
            let text = crate::sys::errno_text(&error);
            io::Error::new(
                error.kind(),
                format!(
                    "failed to write \"{value}\": write {}: {text}",
                    path.display()
                ),
            )
        })
}

/// The text of a file, trimmed.
pub fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned())
}

/// A number; `max` and numbers beyond what memory can have are `u64::MAX`.
pub fn number(path: &Path) -> io::Result<u64> {
    parse_number(&read(path)?)
}

pub fn parse_number(text: &str) -> io::Result<u64> {
    if text == "max" {
        return Ok(u64::MAX);
    }
    let number: u64 = text
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    // "Unlimited" in version 1 is the largest whole page.
    Ok(if number >= i64::MAX as u64 - 65_536 {
        u64::MAX
    } else {
        number
    })
}

/// Lines of name and number.
pub fn table(path: &Path) -> io::Result<BTreeMap<String, u64>> {
    Ok(parse_table(&fs::read_to_string(path)?))
}

pub fn parse_table(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// Makes a group and those above it, telling about each one that is there then.
pub fn make_all(
    root: &Path,
    path: &str,
    mut each: impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut directory = root.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        directory.push(part);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io::Error::new(
                    error.kind(),
                    format!(
                        "mkdir {}: {}",
                        directory.display(),
                        crate::sys::errno_text(&error)
                    ),
                ));
            }
            _ => each(&directory)?,
        }
    }
    Ok(())
}

/// Processes of a group and those below it.
pub fn processes(directory: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    walk(directory, 0, &mut |group| {
        let text = match fs::read_to_string(group.join("cgroup.procs")) {
            Ok(text) => text,
            // Threaded groups list none, and groups below may go at any time.
            Err(_) if group != directory => return Ok(()),
            Err(error) => return Err(error),
        };
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        Ok(())
    })?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Removes a group and those below it.
pub fn remove(directory: &Path) -> io::Result<()> {
    walk(directory, 0, &mut |group| match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    })
    .or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}

/// Visits the groups below first.
fn walk(
    directory: &Path,
    depth: usize,
    visit: &mut impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    if depth < DEPTH_MAX {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), depth + 1, visit)?;
            }
        }
    }
    visit(directory)
}

/// Sends SIGKILL to processes. One that is gone is killed.
pub fn kill(pids: &[i32]) {
    for &pid in pids {
        // SAFETY: no pointers. The pid was read from the group a moment ago; only
        // the container's own processes are there.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

/// `major:minor` of a device node.
pub fn device_number(node: &Path) -> io::Result<String> {
    use std::os::unix::fs::MetadataExt as _;
    let number = fs::metadata(node)?.rdev();
    Ok(format!("{}:{}", libc::major(number), libc::minor(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_a_limit_are_the_largest() {
        assert_eq!(parse_number("max").unwrap(), u64::MAX);
        assert_eq!(parse_number("9223372036854771712").unwrap(), u64::MAX);
        assert_eq!(parse_number("67108864").unwrap(), 64 << 20);
        assert!(parse_number("-3").is_err());
    }

    #[test]
    fn tables_skip_what_they_do_not_understand() {
        let table = parse_table("oom_kill_disable 0\nunder_oom 0\noom_kill 2\nodd\n");
        assert_eq!(table["oom_kill"], 2);
        assert_eq!(table.len(), 3);
    }
}
