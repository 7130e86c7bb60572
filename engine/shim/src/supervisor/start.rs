//! From prepared to running: the engine's command, the secrets that come with it,
//! and the answer.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use super::processes::{Main, Process};
use super::{Supervisor, ending::Ending};
use crate::config::{INJECTED_BYTES_MAX, INJECTED_FILES_MAX};
use crate::container::{self, MainPlan, Mapping, Secret, devices, variables};
use crate::failure::{Context as _, failure};
use crate::prepare;
use crate::protocol::{StartAnswer, StartCommand, StartFailure, Started, read_frame, write_frame};
use crate::streams::{Streams, Wanted};
use crate::time;

/// How long the engine may take to send the rest of a start command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

impl Supervisor {
    /// Tells the engine that all is prepared.
    pub fn announce(&mut self) -> io::Result<()> {
        let info = prepare::describe(self.netns.as_ref(), self.dns.as_ref())?;
        match &self.start_channel {
            Some(channel) => write_frame(channel, &StartAnswer::Prepared(info)),
            None => Ok(()),
        }
    }

    /// The engine said to start, or went away.
    pub(super) fn hear_start_command(&mut self) {
        let secrets = match self.receive_command() {
            Ok(Some(secrets)) => secrets,
            // Nobody wants the container any more.
            Ok(None) => return self.abandon(None),
            Err(error) => {
                return self.abandon(Some(failure(format!(
                    "receiving the start command: {error}"
                ))));
            }
        };
        if let Err(failed) = self.launch(secrets) {
            self.abandon(Some(failed));
        }
    }

    /// The command and its secrets. It arrives in one go, and nothing runs yet that
    /// could be held up by waiting for it.
    fn receive_command(&mut self) -> io::Result<Option<Vec<Secret>>> {
        let Some(channel) = &mut self.start_channel else {
            return Ok(None);
        };
        channel.set_read_timeout(Some(COMMAND_TIMEOUT))?;
        let Some(command) = read_frame::<StartCommand>(&mut *channel)? else {
            return Ok(None);
        };
        let total: u64 = command.files.iter().map(|file| u64::from(file.1)).sum();
        if command.files.len() > INJECTED_FILES_MAX || total > INJECTED_BYTES_MAX as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "too many or too large injected files",
            ));
        }
        let mut secrets = Vec::new();
        for (name, length) in command.files {
            let mut secret = Secret {
                name,
                bytes: vec![0; length as usize].into_boxed_slice(),
            };
            channel.read_exact(&mut secret.bytes)?;
            secrets.push(secret);
        }
        Ok(Some(secrets))
    }

    fn launch(&mut self, mut secrets: Vec<Secret>) -> Result<(), StartFailure> {
        self.variables = variables::take(&self.config.variables, &mut secrets)?;
        let rules = devices::rules(&self.config)?;
        // How an earlier run of the same container ended is not how this one did.
        for stale in [&self.config.paths.exit, &self.config.paths.status] {
            let _ = std::fs::remove_file(stale);
        }
        // A group of this name may be left from a shim that was killed; what lives
        // in it would count as ours.
        if let Err(error) = self.group.remove() {
            return Err(failure(format!(
                "a former run of this container is not over: {}",
                crate::sys::errno_text(&error)
            )));
        }
        self.group
            .create(&self.config.cgroup.limits, rules.as_deref())
            .context(|| "unable to apply cgroup configuration")?;
        self.out_of_memory = self.group.watch_oom().ok();

        let wanted = &self.config.process;
        let (streams, stdio) = if wanted.terminal {
            Streams::terminal(wanted.console_size)
        } else {
            Streams::pipes(Wanted {
                stdin: wanted.open_stdin,
                stdout: true,
                stderr: true,
            })
            .context(|| "making pipes")?
        };
        let launched = container::launch_main(MainPlan {
            config: &self.config,
            netns: self.netns.as_ref().map(|netns| netns.as_fd()),
            user: self.mapping()?,
            group: self.group.as_ref(),
            stdio,
            secrets: &secrets,
            variables: &self.variables,
            own_program: self.own_program.as_fd(),
            open_files: self.open_files,
            oom_score_adj: self.oom_score_adj,
        })?;
        self.main = Some(Main {
            process: Process::new(launched, streams),
            started_at: String::new(),
            started: Instant::now(),
            finished_at: String::new(),
        });
        Ok(())
    }

    /// The user namespace and what it means on the host.
    pub(super) fn mapping(&self) -> Result<Option<Mapping<'_>>, StartFailure> {
        let (Some(user), Some(wanted)) = (&self.user, &self.config.user_namespace) else {
            return Ok(None);
        };
        Mapping::new(user.as_fd(), &wanted.map)
            .map(Some)
            .context(|| "reading the id map")
    }

    /// The main process became its program.
    pub(super) fn main_executed(&mut self) {
        let Some(main) = &mut self.main else {
            return;
        };
        main.started_at = time::now();
        main.started = Instant::now();
        let started = Started {
            pid: main.process.pid,
            started_at: main.started_at.clone(),
        };
        self.checks.container_started(Instant::now());
        self.write_status();
        self.answer_engine(&StartAnswer::Started(started));
    }

    /// The main process could not become its program.
    pub(super) fn main_failed(&mut self, failed: StartFailure) {
        self.abandon(Some(failed));
    }

    /// Ends without ever having run, for this reason if there is somebody to tell.
    fn abandon(&mut self, failed: Option<StartFailure>) {
        if self.ending.is_none() {
            let failed = failed.unwrap_or_else(|| failure("the start was abandoned"));
            self.ending = Some(Ending::new(Some(failed)));
        }
    }

    /// Says the last word on the start channel.
    pub(super) fn answer_engine(&mut self, answer: &StartAnswer) {
        if let Some(channel) = self.start_channel.take() {
            // The engine may have died meanwhile; the container goes on.
            let _ = channel
                .set_write_timeout(Some(Duration::from_secs(5)))
                .and_then(|()| write_frame(&channel, answer));
        }
    }
}
