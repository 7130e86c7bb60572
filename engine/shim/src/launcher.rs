//! How the engine brings a container to life: prepare, then start.
//!
//! ```no_run
//! # use std::path::Path;
//! # use skep_shim::launcher::Launcher;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let binary: &[u8] = &[];
//! let launcher = Launcher::new(binary)?;                  // once per daemon
//! let prepared = launcher.prepare(Path::new("/c/config.json"))?;
//! // connect the network namespace `prepared.info().netns`, redirect its port 53
//! // to `prepared.info().dns`, attach clients …
//! let started = prepared.start(&[])?;
//! println!("running as {}", started.pid);
//! # Ok(())
//! # }
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::config::{INJECTED_BYTES_MAX, INJECTED_FILES_MAX, ShimConfig};
use crate::protocol::{
    Prepared as PreparedInfo, StartAnswer, StartCommand, StartFailure, Started, read_frame,
    write_frame,
};
use crate::userns::IdMap;

/// How long a shim may take to say it is prepared.
pub const PREPARE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a start may take; long, as a new volume may be filled from the image.
pub const START_TIMEOUT: Duration = Duration::from_secs(300);

/// Starts shims. One per daemon: all its shims share one sealed copy of the program.
#[derive(Debug)]
pub struct Launcher {
    program: File,
}

/// Why a container is not prepared or not started. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The container itself is at fault, with docker's text and exit code.
    #[error(transparent)]
    Failed(#[from] StartFailure),
    /// The shim could not be run or talked to.
    #[error("running the shim for `{}`: {doing}", config.display())]
    Shim {
        config: PathBuf,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The bytes of one injected file or variable. No `Debug`, so they cannot end up in a log.
#[derive(Clone, Copy)]
pub struct InjectedBytes<'a> {
    /// The name in [`crate::config::InjectedFile`] or [`crate::config::InjectedVariable`].
    pub name: &'a str,
    pub bytes: &'a [u8],
}

impl Launcher {
    /// Copies the shim's program into sealed memory, so that no container can
    /// reach a file of the host through `/proc/PID/exe`.
    ///
    /// # Errors
    /// The kernel has no sealed memory files or no memory.
    pub fn new(program: &[u8]) -> io::Result<Self> {
        // SAFETY: the name is a valid C string; the result is checked and owned
        // by nobody else.
        let mut memory = unsafe {
            let fd = libc::memfd_create(
                c"skep-shim".as_ptr(),
                libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_EXEC,
            );
            // Kernels before 6.3 do not know MFD_EXEC, which is their default.
            let fd = match fd {
                -1 => libc::memfd_create(
                    c"skep-shim".as_ptr(),
                    libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
                ),
                fd => fd,
            };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from(OwnedFd::from_raw_fd(fd))
        };
        memory.write_all(program)?;
        let seals =
            libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: a plain fcntl on a descriptor we own.
        if unsafe { libc::fcntl(memory.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { program: memory })
    }

    /// Starts the shim of the container described in `config` (a file written by
    /// [`ShimConfig::write`]). When this returns, the network namespace exists, the
    /// resolver and the control socket listen, and nothing runs. Dropping the
    /// result, or the daemon's death, ends the shim without a trace.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn prepare(&self, config: &Path) -> Result<Prepared, StartError> {
        let failed = |doing: &'static str| {
            move |source: io::Error| StartError::Shim {
                config: config.to_owned(),
                doing,
                source,
            }
        };
        let parsed = ShimConfig::read(config).map_err(failed("reading its configuration"))?;
        let (channel, theirs) = UnixStream::pair().map_err(failed("making its channel"))?;
        let complaints = match &parsed.paths.shim_log {
            Some(path) => OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map(Stdio::from)
                .map_err(failed("opening its log"))?,
            None => Stdio::null(),
        };
        // No `pre_exec`: without it the standard library can spawn without copying
        // this process's page tables. The shim detaches itself.
        let mut child = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
            .arg0("skep-shim")
            .arg("run")
            .arg(config)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(complaints)
            .spawn()
            .map_err(failed("executing it"))?;
        let detached = child.wait().map_err(failed("waiting for it to detach"))?;
        if !detached.success() {
            return Err(failed("detaching")(io::Error::other(detached.to_string())));
        }
        let mut prepared = Prepared {
            channel,
            config: config.to_owned(),
            injected: (parsed.injected.into_iter().map(|file| file.name))
                .chain(parsed.variables.into_iter().map(|one| one.name))
                .collect(),
            info: PreparedInfo {
                shim_pid: 0,
                netns: None,
                dns: None,
            },
        };
        match prepared.answer(PREPARE_TIMEOUT)? {
            StartAnswer::Prepared(info) => {
                prepared.info = info;
                Ok(prepared)
            }
            StartAnswer::Failed(failure) => Err(failure.into()),
            StartAnswer::Started(_) => Err(prepared.broken("preparing", "started unasked")),
        }
    }
}

impl Launcher {
    /// Makes a network namespace that belongs to a new user namespace of this map. It
    /// exists as long as the result is held, or somebody else holds it.
    ///
    /// # Errors
    /// The kernel makes no user namespaces, or not of this map.
    pub fn network_namespace(&self, map: &IdMap) -> io::Result<HeldNamespace> {
        let mut holder = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
            .arg0("skep-shim")
            .arg("namespaces")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map(|child| HeldNamespace {
                child,
                path: PathBuf::new(),
            })?;
        let mut asked = serde_json::to_vec(map).map_err(io::Error::other)?;
        asked.push(b'\n');
        let mut answer = String::new();
        if let (Some(stdin), Some(stdout)) = (&mut holder.child.stdin, &mut holder.child.stdout) {
            stdin.write_all(&asked)?;
            io::BufReader::new(stdout).read_line(&mut answer)?;
        }
        match answer.trim_end() {
            "" => Err(io::Error::other(
                "making namespaces: the shim ended without a word",
            )),
            text => match text.strip_prefix('!') {
                Some(why) => Err(io::Error::other(format!("making a user namespace: {why}"))),
                None => {
                    holder.path = text.into();
                    Ok(holder)
                }
            },
        }
    }
}

/// A namespace that is held by a process of its own.
#[derive(Debug)]
pub struct HeldNamespace {
    child: Child,
    path: PathBuf,
}

impl HeldNamespace {
    /// Where it can be opened, or bound from, while this is held.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for HeldNamespace {
    fn drop(&mut self) {
        // It ends when its standard input does.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A shim that waits for the command to start.
#[derive(Debug)]
pub struct Prepared {
    channel: UnixStream,
    config: PathBuf,
    injected: Vec<String>,
    info: PreparedInfo,
}

impl Prepared {
    /// Its process id, network namespace and resolver ports.
    pub fn info(&self) -> &PreparedInfo {
        &self.info
    }

    /// Starts the container. `files` must hold the bytes of exactly the injected
    /// files and variables of the configuration, in any order.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(self, files: &[InjectedBytes<'_>]) -> Result<Started, StartError> {
        self.check(files)?;
        let command = StartCommand {
            files: files
                .iter()
                .map(|file| {
                    let length = u32::try_from(file.bytes.len());
                    (file.name.to_owned(), length.expect("checked above"))
                })
                .collect(),
        };
        let sent = self
            .channel
            .set_write_timeout(Some(START_TIMEOUT))
            .and_then(|()| write_frame(&self.channel, &command))
            .and_then(|()| {
                files
                    .iter()
                    .try_for_each(|file| (&self.channel).write_all(file.bytes))
            });
        sent.map_err(|source| StartError::Shim {
            config: self.config.clone(),
            doing: "sending the start command",
            source,
        })?;
        match self.answer(START_TIMEOUT)? {
            StartAnswer::Started(started) => Ok(started),
            StartAnswer::Failed(failure) => Err(failure.into()),
            StartAnswer::Prepared(_) => Err(self.broken("starting", "prepared twice")),
        }
    }

    fn check(&self, files: &[InjectedBytes<'_>]) -> Result<(), StartError> {
        let mut given: Vec<&str> = files.iter().map(|file| file.name).collect();
        let mut wanted: Vec<&str> = self.injected.iter().map(String::as_str).collect();
        given.sort_unstable();
        wanted.sort_unstable();
        let total: usize = files.iter().map(|file| file.bytes.len()).sum();
        if given != wanted {
            Err(self.broken(
                "checking injected files",
                "their names differ from the configured ones",
            ))
        } else if files.len() > INJECTED_FILES_MAX || total > INJECTED_BYTES_MAX {
            Err(self.broken("checking injected files", "too many or too large"))
        } else {
            Ok(())
        }
    }

    fn answer(&self, timeout: Duration) -> Result<StartAnswer, StartError> {
        self.channel
            .set_read_timeout(Some(timeout))
            .and_then(|()| read_frame(&self.channel))
            .and_then(|answer| {
                answer.ok_or_else(|| {
                    io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without a word")
                })
            })
            .map_err(|source| StartError::Shim {
                config: self.config.clone(),
                doing: "waiting for its answer",
                source,
            })
    }

    fn broken(&self, doing: &'static str, why: &'static str) -> StartError {
        StartError::Shim {
            config: self.config.clone(),
            doing,
            source: io::Error::new(io::ErrorKind::InvalidInput, why),
        }
    }
}
