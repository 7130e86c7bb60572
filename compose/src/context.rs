//! What every step of a load has at hand.

use std::io;

use crate::report::{At, Report};
use crate::{Env, Options, Read};

/// The arguments of a load and the messages so far.
pub(crate) struct Context<'a> {
    pub env: Env<'a>,
    pub read: Read<'a>,
    pub options: &'a Options,
    pub report: Report,
    /// Whether a stack is to come of it, and not only the printed document.
    pub deploying: bool,
    /// Whether it is containers of one host that are to come of it.
    pub host: bool,
    /// The directory that relative paths of each source start from.
    pub directories: Vec<String>,
}

impl Context<'_> {
    pub fn error(&mut self, at: At, message: impl Into<String>) {
        self.report.error(at, message, None);
    }

    pub fn error_with_hint(&mut self, at: At, message: impl Into<String>, hint: impl Into<String>) {
        self.report.error(at, message, Some(hint.into()));
    }

    /// What a file may say and no cluster can do: an error when deploying. The printed document
    /// holds it all the same, as docker's client leaves such checks to the daemon.
    pub fn unfit(&mut self, at: At, message: impl Into<String>, hint: Option<String>) {
        if self.deploying {
            self.report.error(at, message, hint);
        } else {
            self.report.warn(at, message, hint);
        }
    }

    pub fn warn(&mut self, at: At, message: impl Into<String>) {
        self.report.warn(at, message, None);
    }

    pub fn warn_with_hint(&mut self, at: At, message: impl Into<String>, hint: impl Into<String>) {
        self.report.warn(at, message, Some(hint.into()));
    }

    /// A path written at `at`, as an absolute one.
    pub fn absolute(&self, path: &str, at: At) -> String {
        let directory = self
            .directories
            .get(at.source as usize)
            .unwrap_or(&self.options.working_dir);
        absolute(directory, path)
    }

    /// The content of a file that the compose file names; a failure is reported at `at`.
    pub fn content(&mut self, path: &str, at: At) -> Option<Vec<u8>> {
        let read = (self.read)(path);
        self.unwrap_content(read, path, at)
    }

    /// What was read; a failure is reported at `at`.
    pub fn unwrap_content(
        &mut self,
        read: io::Result<Vec<u8>>,
        path: &str,
        at: At,
    ) -> Option<Vec<u8>> {
        match read {
            Ok(content) => Some(content),
            Err(error) => {
                self.error(at, format!("open {path}: {}", reason(&error)));
                None
            }
        }
    }
}

/// The reason of a failed read, in the words of the system.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// `path` seen from `directory`, without `.`, `..` and doubled slashes.
pub(crate) fn absolute(directory: &str, path: &str) -> String {
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{directory}/{path}")
    };
    let rooted = joined.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::absolute;

    #[test]
    fn paths_are_resolved_without_touching_the_disk() {
        for (directory, path, wanted) in [
            ("/a/b", "./x", "/a/b/x"),
            ("/a/b", "../x/./y//z", "/a/x/y/z"),
            ("/a/b", "../../../x", "/x"),
            ("/a/b", "/c/../d", "/d"),
            ("/a/b", ".", "/a/b"),
            ("", "x", "/x"),
            (".", "x", "x"),
            (".", "../x", "../x"),
        ] {
            assert_eq!(absolute(directory, path), wanted, "{directory} {path}");
        }
    }
}
