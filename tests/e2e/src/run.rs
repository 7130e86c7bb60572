//! Runs a program, with a bound on its time.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take unless said otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// How it was called.
    pub line: String,
    /// Its exit status; 128 and more for a signal, -1 when its time was over.
    pub status: i32,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

impl Ran {
    /// What it printed; panics when it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status == 0, "{self}");
        self.out
    }

    /// What it printed, without the last line break; panics when it failed.
    #[track_caller]
    pub fn word(self) -> String {
        self.ok().trim().to_owned()
    }

    /// Panics unless it failed and said this on stderr.
    #[track_caller]
    pub fn fails(self, text: &str) -> Self {
        assert!(
            self.status > 0 && self.err.contains(text),
            "want a failure with `{text}`: {self}"
        );
        self
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            line,
            status,
            out,
            err,
            took,
        } = self;
        write!(
            f,
            "`{line}` ended with {status} after {took:.1?}\n--- stdout\n{out}\n--- stderr\n{err}\n---"
        )
    }
}

/// Runs a program to its end, or ends it after `timeout`.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8], timeout: Duration) -> Ran {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let line = words.join(" ");
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run `{line}`: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    // A program need not read what it is given.
    thread::spawn(move || stdin.write_all(&input));
    let out = drain(child.stdout.take().expect("it is piped"));
    let err = drain(child.stderr.take().expect("it is piped"));
    let left = || timeout.saturating_sub(began.elapsed());
    let (out, err) = match (out.recv_timeout(left()), err.recv_timeout(left())) {
        (Ok(out), Ok(err)) => (out, err),
        _ => {
            let _ = child.kill();
            let _ = child.wait();
            return Ran {
                line,
                status: -1,
                out: String::new(),
                err: format!("ended by the harness after {timeout:?}"),
                took: began.elapsed(),
            };
        }
    };
    let status = child.wait().expect("it is ours to wait for");
    use std::os::unix::process::ExitStatusExt as _;
    let status = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ran {
        line,
        status,
        out,
        err,
        took: began.elapsed(),
    }
}

fn drain(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

/// The words of a line; single quotes keep spaces together.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' | '\n' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_spaces_together() {
        assert_eq!(words("a 'b c'  d'' ''"), ["a", "b c", "d", ""]);
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let ran = run(
            Command::new("sleep").arg("60"),
            b"",
            Duration::from_millis(100),
        );
        assert_eq!(ran.status, -1);
        assert!(ran.took < Duration::from_secs(10));
    }

    #[test]
    fn status_and_both_streams_are_kept() {
        let ran = run(
            Command::new("sh").args(["-c", "cat; echo err >&2; exit 3"]),
            b"in",
            TIMEOUT,
        );
        assert_eq!(
            (ran.status, ran.out.as_str(), ran.err.as_str()),
            (3, "in", "err\n")
        );
    }
}
