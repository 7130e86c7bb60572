//! What is said on a shim's sockets.
//!
//! A frame is a four-byte big-endian length and that many bytes of JSON. On the
//! control socket a client sends [`Request`]s and gets one [`Response`] each, in
//! order; after `Attach`, `Exec` and `Subscribe` the connection belongs to that
//! stream alone. Streams of output carry docker's multiplexed form (see
//! [`crate::stdcopy`]) or, from a terminal, the bare bytes; the other direction is
//! the bare bytes of standard input, ended by shutting down the write side.
//!
//! On the start channel (a socket pair the shim is born with) the shim says
//! [`StartAnswer::Prepared`], the engine answers [`StartCommand`] and the bytes of
//! the injected files in order, the shim ends with `Started` or `Failed`. When the
//! engine closes the channel before the start, the shim leaves nothing behind.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::Limits;
use crate::config::ConsoleSize;
use crate::exit::ExitRecord;

/// Largest frame either side accepts.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// How is it?
    Status,
    /// Send a signal to the main process, or to everything in the container.
    Signal { signal: i32, all: bool },
    /// Change the size of a terminal: of the main process or of an exec.
    Resize {
        exec: Option<String>,
        size: ConsoleSize,
    },
    /// Join the main process's streams.
    Attach(AttachOptions),
    /// Run one more process and join its streams.
    Exec(Box<ExecSpec>),
    /// Wait for the end of an exec.
    ExecWait { id: String },
    /// Send a signal to an exec's process.
    ExecSignal { id: String, signal: i32 },
    /// Wait for the end of the container.
    Wait,
    /// Freeze all processes.
    Pause,
    /// Thaw them.
    Resume,
    /// List all processes.
    Processes,
    /// Change limits; absent ones stay.
    Update(Box<Limits>),
    /// Let it run until then, in milliseconds of `CLOCK_BOOTTIME`, and send the stop signal unless told
    /// again; kill it so many milliseconds later. A prepared shim takes this as well.
    Lease { until_ms: u64, grace_ms: u64 },
    /// Follow health, exit and out-of-memory events.
    Subscribe,
}

/// Which streams an attached client wants. With a terminal, output is stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// One more process in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    /// Chosen by the caller, unique in this container.
    pub id: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// The whole environment; the container's own when empty. `HOME` is added
    /// when missing.
    pub env: Vec<String>,
    /// As in [`crate::config::Process::user`]; the container's when absent.
    pub user: Option<String>,
    /// The container's when absent.
    pub cwd: Option<String>,
    /// Whether it gets a terminal of its own.
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    /// All capabilities and no seccomp.
    pub privileged: bool,
    /// Streams the connection carries. With none of them the process runs
    /// detached and the connection ends at once.
    pub streams: AttachOptions,
}

/// What the shim answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done.
    Ok,
    Status(Box<Status>),
    /// An exec runs; its process id as the host sees it.
    ExecStarted {
        pid: i32,
    },
    /// An exec ended.
    ExecExited {
        code: i32,
    },
    /// The container ended; everything is written and cleaned.
    Exited(ExitRecord),
    Processes(Vec<ProcessInfo>),
    Refused(Refusal),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: RefusalKind,
    /// For people, in docker's words where there are some.
    pub message: String,
    /// Exit code docker gives an exec that could not start (126 or 127).
    #[serde(default)]
    pub exit_code: Option<i32>,
}

/// Kinds of refusal, for the caller's error mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The request itself is wrong.
    Invalid,
    /// No such exec.
    NotFound,
    /// Not in this state (not running, already paused, exec id taken).
    Conflict,
    /// The kernel said no.
    Internal,
    /// A bound was reached (execs, clients).
    Exhausted,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Network namespace and sockets are there, no process yet.
    Prepared,
    Running,
    Paused,
    /// The main process ended; the shim is cleaning up.
    Stopping,
}

/// The present state; also the content of the status file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub id: String,
    pub state: State,
    /// Process id of the shim.
    pub shim_pid: i32,
    /// Process id of the main process as the host sees it; 0 before the start.
    pub pid: i32,
    /// Start of the main process, RFC 3339 with nanoseconds; empty before.
    pub started_at: String,
    /// Present when there is a health check.
    pub health: Option<HealthStatus>,
    /// Execs that run or ended lately.
    pub execs: Vec<ExecStatus>,
    /// Times the kernel killed a process of this container for want of memory.
    pub oom_kills: u64,
    /// Log entries that could not be written (full disk).
    pub log_entries_lost: u64,
}

/// One exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStatus {
    pub id: String,
    pub pid: i32,
    /// Absent while it runs.
    pub exit_code: Option<i32>,
}

/// The health of a container. Serializes as docker's `State.Health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthStatus {
    pub status: Health,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five results, oldest first.
    pub log: Vec<HealthResult>,
}

/// Docker's three states of health (`none` is the absence of a status).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Starting,
    Healthy,
    Unhealthy,
}

/// One run of the health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthResult {
    /// RFC 3339 with nanoseconds.
    pub start: String,
    /// RFC 3339 with nanoseconds.
    pub end: String,
    /// 0 is healthy; -1 when it took too long or could not run.
    pub exit_code: i32,
    /// At most 4096 bytes.
    pub output: String,
}

/// One process of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// As the host sees it.
    pub pid: i32,
    /// Set for processes the shim started by exec.
    pub exec: Option<String>,
}

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// First of all, and after each check that ran.
    Health(HealthStatus),
    /// The kernel killed a process for want of memory.
    Oom,
    /// An exec ended.
    ExecExited { id: String, code: i32 },
    /// The last event: everything is written and cleaned.
    Exited(ExitRecord),
}

/// First words of the shim on its start channel, and its last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartAnswer {
    Prepared(Prepared),
    Started(Started),
    Failed(StartFailure),
}

/// A shim that waits for the start command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Process id of the shim.
    pub shim_pid: i32,
    /// The container's network namespace as a path (`/proc/PID/fd/N`) that is good
    /// as long as the shim waits; absent on the host's network.
    pub netns: Option<String>,
    /// Where the resolver listens on 127.0.0.11.
    pub dns: Option<DnsPorts>,
}

/// The ports of the resolver at 127.0.0.11, to which port 53 must be redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsPorts {
    pub udp: u16,
    pub tcp: u16,
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Main process as the host sees it.
    pub pid: i32,
    /// RFC 3339 with nanoseconds.
    pub started_at: String,
}

/// Why a container did not start. Nothing of it is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StartFailure {
    /// In docker's words where there are some, e.g.
    /// `exec: "foo": executable file not found in $PATH`.
    pub message: String,
    /// Docker's exit code for it: 127 not found, 126 not executable, else 128.
    pub exit_code: i32,
}

/// Tells a prepared shim to start. The bytes of the files follow the frame, one
/// after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartCommand {
    /// Name and length of each injected file or variable.
    pub files: Vec<(String, u32)>,
}

/// Writes one frame.
///
/// # Errors
/// The value is larger than [`FRAME_BYTES_MAX`], or writing failed.
pub fn write_frame<T: Serialize>(mut writer: impl Write, value: &T) -> io::Result<()> {
    writer.write_all(&encode_frame(value)?)
}

/// One frame as bytes.
///
/// # Errors
/// The value is larger than [`FRAME_BYTES_MAX`].
pub fn encode_frame<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value).map_err(io::Error::other)?;
    let length = frame.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(too_large(length));
    }
    let length = u32::try_from(length).expect("checked against FRAME_BYTES_MAX");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// Reads one frame; `None` at a clean end.
///
/// # Errors
/// The frame is too large, cut short, not the expected JSON, or reading failed.
pub fn read_frame<T: DeserializeOwned>(mut reader: impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        match reader.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(too_large(length));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    decode(&body).map(Some)
}

/// Takes one whole frame from the front of `buffer`; `None` while it is incomplete.
///
/// # Errors
/// The frame is too large or not the expected JSON.
pub fn take_frame<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(length) = buffer.get(..4) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(too_large(length));
    }
    let Some(body) = buffer.get(4..4 + length) else {
        return Ok(None);
    };
    let value = decode(body)?;
    buffer.drain(..4 + length);
    Ok(Some(value))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn too_large(length: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("frame of {length} bytes is larger than {FRAME_BYTES_MAX}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_back_whole_or_piecewise() {
        let request = Request::Resize {
            exec: Some("e".into()),
            size: ConsoleSize {
                height: 24,
                width: 80,
            },
        };
        let frame = encode_frame(&request).unwrap();
        assert_eq!(
            read_frame::<Request>(&frame[..]).unwrap(),
            Some(request.clone())
        );
        let mut buffer = Vec::new();
        for (position, byte) in frame.iter().enumerate() {
            buffer.push(*byte);
            let taken = take_frame::<Request>(&mut buffer).unwrap();
            assert_eq!(taken.is_some(), position + 1 == frame.len());
        }
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_memory_is_taken() {
        let mut buffer = vec![0xff; 8];
        assert!(take_frame::<Request>(&mut buffer).is_err());
        assert!(read_frame::<Request>(&[0xff; 8][..]).is_err());
    }

    #[test]
    fn a_frame_cut_short_is_an_error_and_nothing_at_all_is_an_end() {
        let frame = encode_frame(&Request::Status).unwrap();
        assert!(read_frame::<Request>(&frame[..frame.len() - 1]).is_err());
        assert!(read_frame::<Request>(&frame[..2]).is_err());
        assert_eq!(read_frame::<Request>(&[][..]).unwrap(), None);
    }
}
