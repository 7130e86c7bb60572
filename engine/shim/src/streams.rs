//! The shim's side of a process's standard streams.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::config::ConsoleSize;
use crate::container::Stdio;
use crate::log::Output;
use crate::sys;

/// Bytes of standard input held for a process that does not read.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Which streams a process gets; others are `/dev/null`.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// The streams of one process.
#[derive(Default)]
pub struct Streams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// The terminal's master, instead of all three.
    terminal: Option<OwnedFd>,
    input: VecDeque<u8>,
    /// Standard input is to be closed when `input` is delivered.
    input_ending: bool,
}

/// What reading an output gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(usize),
    Nothing,
    End,
}

impl Streams {
    /// Pipes: the shim's ends, and those for the process.
    pub fn pipes(wanted: Wanted) -> io::Result<(Self, Stdio)> {
        let null = || sys::open("/dev/null", libc::O_RDWR);
        let output = |wanted: bool| -> io::Result<(Option<OwnedFd>, OwnedFd)> {
            if !wanted {
                return Ok((None, null()?));
            }
            let (read, write) = sys::pipe()?;
            sys::set_nonblocking(read.as_fd())?;
            Ok((Some(read), write))
        };
        let (stdin, their_stdin) = if wanted.stdin {
            let (read, write) = sys::pipe()?;
            sys::set_nonblocking(write.as_fd())?;
            (Some(write), read)
        } else {
            (None, null()?)
        };
        let (stdout, their_stdout) = output(wanted.stdout)?;
        let (stderr, their_stderr) = output(wanted.stderr)?;
        let streams = Self {
            stdin,
            stdout,
            stderr,
            ..Self::default()
        };
        let stdio = Stdio::Pipes {
            stdin: their_stdin,
            stdout: their_stdout,
            stderr: their_stderr,
        };
        Ok((streams, stdio))
    }

    /// A terminal, whose master comes from the process once it has made it.
    pub fn terminal(size: Option<ConsoleSize>) -> (Self, Stdio) {
        (Self::default(), Stdio::Terminal { size })
    }

    /// The master arrived.
    pub fn set_terminal(&mut self, master: OwnedFd) -> io::Result<()> {
        sys::set_nonblocking(master.as_fd())?;
        self.terminal = Some(master);
        Ok(())
    }

    /// The terminal, if it has one.
    pub fn get_terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// The descriptor an output is read from, until its end. A terminal is stdout.
    pub fn output(&self, output: Output) -> Option<BorrowedFd<'_>> {
        let stream = match output {
            Output::Stdout => self.terminal.as_ref().or(self.stdout.as_ref()),
            Output::Stderr => self.stderr.as_ref(),
        };
        stream.map(AsFd::as_fd)
    }

    /// Whether both outputs have ended.
    pub fn ended(&self) -> bool {
        self.output(Output::Stdout).is_none() && self.output(Output::Stderr).is_none()
    }

    /// Reads an output without waiting.
    pub fn read(&mut self, output: Output, buffer: &mut [u8]) -> Read {
        let Some(stream) = self.output(output) else {
            return Read::End;
        };
        match sys::read(stream, buffer) {
            Ok(count) if count > 0 => Read::Bytes(count),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Read::Nothing
            }
            // A terminal that nobody has open any more reads as an I/O error.
            Ok(_) | Err(_) => {
                self.close_output(output);
                Read::End
            }
        }
    }

    /// Gives an output up.
    pub fn close_output(&mut self, output: Output) {
        match output {
            Output::Stdout => {
                self.terminal = None;
                self.stdout = None;
            }
            Output::Stderr => self.stderr = None,
        }
    }

    /// Where input goes, while there is some to deliver.
    pub fn pending_input(&self) -> Option<BorrowedFd<'_>> {
        if self.input.is_empty() {
            None
        } else {
            self.input_stream()
        }
    }

    fn input_stream(&self) -> Option<BorrowedFd<'_>> {
        let stream = self.terminal.as_ref().or(self.stdin.as_ref());
        stream.map(AsFd::as_fd)
    }

    /// How many more bytes of input may be pushed. Without an input any amount may,
    /// and is dropped.
    pub fn input_room(&self) -> usize {
        INPUT_BYTES_MAX.saturating_sub(self.input.len())
    }

    /// Queues input and delivers what the process takes.
    pub fn push_input(&mut self, bytes: &[u8]) {
        if self.input_stream().is_some() && !self.input_ending {
            self.input.extend(bytes);
            self.deliver_input();
        }
    }

    /// Delivers queued input. A process that closed its side gets no more.
    pub fn deliver_input(&mut self) {
        while !self.input.is_empty() {
            let Some(stream) = self.input_stream() else {
                break;
            };
            match sys::write(stream, self.input.as_slices().0) {
                Ok(count) => {
                    self.input.drain(..count);
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    return;
                }
                Err(_) => {
                    self.stdin = None;
                    self.input.clear();
                }
            }
        }
        self.input = VecDeque::new();
        if self.input_ending {
            self.stdin = None;
        }
    }

    /// Closes standard input once what was queued is delivered. A terminal has no
    /// such end.
    pub fn end_input(&mut self) {
        if self.terminal.is_none() {
            self.input_ending = true;
            if self.input.is_empty() {
                self.stdin = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> (Streams, OwnedFd, OwnedFd) {
        let (streams, stdio) = Streams::pipes(Wanted {
            stdin: true,
            stdout: true,
            stderr: false,
        })
        .unwrap();
        match stdio {
            Stdio::Pipes { stdin, stdout, .. } => (streams, stdin, stdout),
            Stdio::Terminal { .. } => panic!("pipes were asked for"),
        }
    }

    #[test]
    fn output_is_read_to_its_end() {
        let (mut streams, _stdin, stdout) = all();
        let mut buffer = [0; 16];
        assert_eq!(streams.read(Output::Stdout, &mut buffer), Read::Nothing);
        sys::write(&stdout, b"hi").unwrap();
        drop(stdout);
        assert_eq!(streams.read(Output::Stdout, &mut buffer), Read::Bytes(2));
        assert_eq!(streams.read(Output::Stdout, &mut buffer), Read::End);
        assert!(streams.ended());
    }

    #[test]
    fn input_that_is_not_taken_is_kept_and_its_end_comes_last() {
        let (mut streams, stdin, _stdout) = all();
        let bytes = vec![b'x'; INPUT_BYTES_MAX];
        streams.push_input(&bytes);
        streams.push_input(&bytes[..1000]);
        streams.end_input();
        let mut taken = 0;
        let mut buffer = [0; 8192];
        loop {
            streams.deliver_input();
            match sys::read(&stdin, &mut buffer).unwrap() {
                0 => break,
                count => taken += count,
            }
        }
        assert_eq!(taken, INPUT_BYTES_MAX + 1000);
    }
}
