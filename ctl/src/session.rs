//! What a command runs with: the daemon, the terminal, the environment.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read, Write};

use crate::client::Client;
use crate::config::ConfigFile;
use crate::failure::{Failure, Outcome, output_failure};

/// Width that text is wrapped to when nobody can say how wide the terminal is.
const WIDTH_DEFAULT: usize = 80;

/// Where a command reads and writes.
pub struct Streams {
    pub out: RefCell<Box<dyn Write>>,
    pub err: RefCell<Box<dyn Write>>,
    /// What stdin holds; `None` reads the process's own.
    pub input: Option<Vec<u8>>,
    pub in_is_terminal: bool,
    pub out_is_terminal: bool,
    pub err_is_terminal: bool,
    pub width: usize,
}

impl Streams {
    /// The process's own.
    pub fn real() -> Self {
        let width = rustix::termios::tcgetwinsize(rustix::stdio::stdin())
            .map(|size| usize::from(size.ws_col))
            .ok()
            .filter(|width| *width > 0)
            .unwrap_or(WIDTH_DEFAULT);
        Self {
            out: RefCell::new(Box::new(io::stdout())),
            err: RefCell::new(Box::new(io::stderr())),
            input: None,
            in_is_terminal: io::stdin().is_terminal(),
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
            width,
        }
    }
}

/// One run of the client.
pub struct Session {
    pub streams: Streams,
    pub client: Client,
    pub config: ConfigFile,
    pub env: BTreeMap<String, String>,
    /// Flags that stood between a group's name and its command, of groups that have some.
    pub group_flags: crate::flags::Globals,
    /// How many things compose does at once, known once its files of variables are read.
    pub parallel: std::cell::OnceCell<usize>,
}

impl Session {
    /// Writes to stdout, adding nothing.
    pub fn print(&self, text: &str) -> Outcome {
        self.print_bytes(text.as_bytes())
    }

    pub fn print_bytes(&self, bytes: &[u8]) -> Outcome {
        let mut out = self.streams.out.borrow_mut();
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|error| output_failure(&error))
    }

    /// Writes a line to stdout.
    pub fn say(&self, text: impl AsRef<str>) -> Outcome {
        self.print(&format!("{}\n", text.as_ref()))
    }

    pub fn print_error_bytes(&self, bytes: &[u8]) -> Outcome {
        let mut err = self.streams.err.borrow_mut();
        err.write_all(bytes)
            .and_then(|()| err.flush())
            .map_err(|error| output_failure(&error))
    }

    /// Writes a line to stderr. That nobody reads it is no failure.
    pub fn warn(&self, text: impl AsRef<str>) {
        let _ = self.print_error_bytes(format!("{}\n", text.as_ref()).as_bytes());
    }

    /// Everything on stdin, at most `bytes_max`.
    pub fn read_input(&self, bytes_max: usize) -> Outcome<Vec<u8>> {
        let mut bytes = Vec::new();
        match &self.streams.input {
            Some(input) => bytes.clone_from(input),
            None => {
                io::stdin()
                    .lock()
                    .take(bytes_max as u64 + 1)
                    .read_to_end(&mut bytes)
                    .map_err(|error| Failure::message(format!("read standard input: {error}")))?;
            }
        }
        if bytes.len() > bytes_max {
            return Err(Failure::message(format!(
                "standard input is larger than {bytes_max} bytes"
            )));
        }
        Ok(bytes)
    }

    /// One line of stdin, without its end.
    pub fn read_line(&self) -> Outcome<String> {
        let mut line = String::new();
        match &self.streams.input {
            Some(input) => {
                let text = String::from_utf8_lossy(input);
                line.push_str(text.lines().next().unwrap_or(""));
            }
            None => {
                io::stdin()
                    .read_line(&mut line)
                    .map_err(|error| Failure::message(format!("read standard input: {error}")))?;
            }
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// Asks a question that `y` answers with yes.
    pub fn confirm(&self, question: &str) -> Outcome<bool> {
        self.print(&format!("{question} [y/N] "))?;
        let answer = self.read_line()?;
        Ok(answer.trim().eq_ignore_ascii_case("y"))
    }
}
