//! Which file a command names, with docker's words when there is none.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::failure::{NOT_EXECUTABLE, NOT_FOUND, failure};
use crate::protocol::StartFailure;
use crate::sys;

/// Where programs are looked for when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds a program in the present root, as the present user. A name with a slash is
/// a path, others are looked up in `PATH`; of several the last one counts.
///
/// # Errors
/// Exit code 127 when there is none, 126 when it may not be executed.
pub fn find_program(name: &str, env: &[CString]) -> Result<CString, StartFailure> {
    let error = |text: &str, exit_code| StartFailure {
        message: format!("exec: \"{name}\": {text}"),
        exit_code,
    };
    if name.is_empty() {
        return Err(error("executable file not found in $PATH", NOT_FOUND));
    }
    if name.contains('/') {
        let path = sys::c_path(name).map_err(|why| failure(why.to_string()))?;
        return match executable(Path::new(name)) {
            Ok(()) => Ok(path),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Err(error(
                &format!("stat {name}: no such file or directory"),
                NOT_FOUND,
            )),
            Err(why) => Err(error(&sys::errno_text(&why), NOT_EXECUTABLE)),
        };
    }
    let search = env
        .iter()
        .rev()
        .find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH.as_bytes());
    let mut denied = false;
    let directories = search.split(|byte| *byte == b':');
    for directory in directories.filter(|directory| !directory.is_empty()) {
        let candidate = Path::new(OsStr::from_bytes(directory)).join(name);
        match executable(&candidate) {
            Ok(()) => return sys::c_path(candidate).map_err(|why| failure(why.to_string())),
            Err(why) => denied |= why.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    Err(if denied {
        error("permission denied", NOT_EXECUTABLE)
    } else {
        error("executable file not found in $PATH", NOT_FOUND)
    })
}

fn executable(path: &Path) -> io::Result<()> {
    let status = std::fs::metadata(path)?;
    if status.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    let path = sys::c_path(path)?;
    // SAFETY: the path is a C string that outlives the call.
    let result =
        unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn programs_are_found_in_the_given_path() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("tool");
        std::fs::write(&program, "").unwrap();
        let path = format!("PATH=/nowhere:{}", directory.path().display());
        let env = [CString::new(path).unwrap()];
        let mode = |mode| {
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
        };

        mode(0o644);
        let error = find_program("tool", &env).unwrap_err();
        assert_eq!(error.message, "exec: \"tool\": permission denied");
        assert_eq!(error.exit_code, 126);

        mode(0o755);
        let found = find_program("tool", &env).unwrap();
        assert_eq!(found, sys::c_path(&program).unwrap());
    }

    #[test]
    fn a_missing_program_is_told_as_docker_tells_it() {
        let error = find_program("foo", &[]).unwrap_err();
        assert_eq!(
            error.message,
            "exec: \"foo\": executable file not found in $PATH"
        );
        assert_eq!(error.exit_code, 127);
        let error = find_program("/no/foo", &[]).unwrap_err();
        assert_eq!(
            error.message,
            "exec: \"/no/foo\": stat /no/foo: no such file or directory"
        );
        let error = find_program("/", &[]).unwrap_err();
        assert_eq!(error.message, "exec: \"/\": is a directory");
        assert_eq!(error.exit_code, 126);
    }
}
