//! The shim's one loop: everything that can happen to a container, in one thread.
//!
//! The life of it: prepared (network namespace and sockets are there), starting
//! (the child builds the container), running, ending (see `ending.rs`). Whatever
//! waits does so in [`poll::PollSet`]; nothing else blocks.

mod checks;
mod clients;
mod connection;
mod ending;
mod execs;
mod lease;
mod poll;
mod processes;
mod requests;
mod start;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;

use self::checks::Checks;
use self::connection::{Connection, OUTBOX_BYTES_HIGH};
use self::ending::Ending;
use self::execs::Exec;
use self::lease::Lease;
use self::poll::{PollSet, Ready};
use self::processes::Main;
use crate::cgroup::Group;
use crate::config::ShimConfig;
use crate::container::Variable;
use crate::dns::{self, DnsToken};
use crate::log::{Lines, Log, Output, Remote};
use crate::protocol::{Event, State, Status, encode_frame};

/// Clients connected at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// Bytes read at a time.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long a client may hold up the container's output by taking none. As with
/// docker a reader may pause, but one that is gone without a word must not stop a
/// service for good.
const STALL_MAX: Duration = Duration::from_secs(3600);

/// A process under supervision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProcessKey {
    Main,
    Exec(u64),
    /// The running health check.
    Check,
}

/// What a descriptor in the loop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    Signals,
    Listener,
    StartChannel,
    Connection(u64),
    /// A child on its way to its program says something.
    Child(ProcessKey),
    Output(ProcessKey, Output),
    Input(ProcessKey),
    OutOfMemory,
    /// Whoever keeps the log takes more of it.
    Log,
    Dns(DnsToken),
}

/// One container and all who have to do with it.
pub struct Supervisor {
    config: ShimConfig,
    /// This program, to be the init of the container.
    own_program: OwnedFd,
    /// The container's network namespace, unless it is the host's.
    netns: Option<OwnedFd>,
    /// The container's user namespace, unless it is the host's.
    user: Option<OwnedFd>,
    group: Box<dyn Group>,
    signals: SignalFd,
    listener: Option<UnixListener>,
    /// The engine, until the container has started.
    start_channel: Option<UnixStream>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// What the container's processes have in their environment and no disk has.
    variables: Vec<Variable>,
    main: Option<Main>,
    execs: BTreeMap<u64, Exec>,
    next_exec: u64,
    checks: Checks,
    lease: Option<Lease>,
    paused: bool,
    ending: Option<Ending>,
    log: Log,
    lines: [Lines; 2],
    dns: Option<dns::Server>,
    out_of_memory: Option<OwnedFd>,
    oom_kills: u64,
    /// The limit of open files before the shim raised its own.
    open_files: Option<libc::rlimit64>,
    /// What the kernel is told about killing the container's processes.
    oom_score_adj: Option<i32>,
    buffer: Box<[u8]>,
    finished: bool,
}

/// What the shim has made before its loop begins.
pub struct Parts {
    pub config: ShimConfig,
    pub own_program: OwnedFd,
    pub netns: Option<OwnedFd>,
    pub user: Option<OwnedFd>,
    pub group: Box<dyn Group>,
    pub signals: SignalFd,
    pub listener: UnixListener,
    pub start_channel: UnixStream,
    pub dns: Option<dns::Server>,
    pub open_files: Option<libc::rlimit64>,
    pub oom_score_adj: Option<i32>,
}

impl Supervisor {
    /// Takes over what was prepared.
    pub fn new(parts: Parts) -> io::Result<Self> {
        let log = Log::open(&parts.config.log)?;
        Ok(Self {
            checks: Checks::new(parts.config.health.as_ref()),
            config: parts.config,
            own_program: parts.own_program,
            netns: parts.netns,
            user: parts.user,
            group: parts.group,
            signals: parts.signals,
            listener: Some(parts.listener),
            start_channel: Some(parts.start_channel),
            connections: BTreeMap::new(),
            next_connection: 0,
            variables: Vec::new(),
            main: None,
            execs: BTreeMap::new(),
            next_exec: 0,
            lease: None,
            paused: false,
            ending: None,
            log,
            lines: Default::default(),
            dns: parts.dns,
            out_of_memory: None,
            oom_kills: 0,
            open_files: parts.open_files,
            oom_score_adj: parts.oom_score_adj,
            // Zeroed memory costs nothing until it is used.
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            finished: false,
        })
    }

    /// Runs the container to its end.
    pub fn run(&mut self) -> io::Result<()> {
        let mut set = PollSet::default();
        while !self.finished {
            set.clear();
            self.collect(&mut set);
            for (token, ready) in set.wait(self.next_deadline())? {
                self.handle(token, ready);
            }
            self.tick(Instant::now());
        }
        Ok(())
    }

    fn collect(&self, set: &mut PollSet) {
        set.add(&self.signals, true, false, Token::Signals);
        if let Some(listener) = &self.listener
            && self.connections.len() < CONNECTIONS_MAX
        {
            set.add(listener, true, false, Token::Listener);
        }
        if let Some(channel) = &self.start_channel
            && self.main.is_none()
            && self.ending.is_none()
        {
            set.add(channel, true, false, Token::StartChannel);
        }
        if let Some(event) = &self.out_of_memory {
            set.add(event, true, false, Token::OutOfMemory);
        }
        if let Some(socket) = self.log.remote.as_ref().and_then(Remote::interest) {
            set.add(socket, false, true, Token::Log);
        }
        if let Some(dns) = &self.dns {
            dns.interests(|fd, readable, writable, token| {
                set.add(fd, readable, writable, Token::Dns(token));
            });
        }
        for (key, process) in self.processes() {
            if let Some(channel) = &process.channel {
                set.add(channel, true, false, Token::Child(key));
            }
            for output in [Output::Stdout, Output::Stderr] {
                if let Some(stream) = process.streams.output(output)
                    && !self.is_held_up(key, output)
                {
                    set.add(stream, true, false, Token::Output(key, output));
                }
            }
            if let Some(stream) = process.streams.pending_input() {
                set.add(stream, false, true, Token::Input(key));
            }
        }
        for (&key, connection) in &self.connections {
            let readable = !connection.input_ended && self.may_read(connection);
            let writable = connection.unsent() > 0;
            // One that hung up is always "ready": it waits outside until there is
            // room for what it left behind.
            if !connection.hung_up || readable {
                set.add(connection, readable, writable, Token::Connection(key));
            }
        }
    }

    /// Whether a client is so far behind that the container must wait for it. After
    /// the end of the process there is only what the pipe holds, which is read.
    fn is_held_up(&self, key: ProcessKey, output: Output) -> bool {
        let exited = self
            .process(key)
            .is_none_or(|process| process.exit.is_some());
        !exited
            && self.connections.values().any(|connection| {
                connection.wants(key, output) && connection.unsent() >= OUTBOX_BYTES_HIGH
            })
    }

    /// Whether there is room for what a client sends.
    fn may_read(&self, connection: &Connection) -> bool {
        if connection.role == connection::Role::StartsExec {
            return false;
        }
        match connection.feeds() {
            Some(key) => match self.process(key) {
                // Before the start there is nobody to take it.
                None => self.main.is_some() || key != ProcessKey::Main,
                Some(process) => process.channel.is_none() && process.streams.input_room() > 0,
            },
            None => true,
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let dns = self.dns.as_ref().and_then(dns::Server::next_deadline);
        let stalls = self
            .connections
            .values()
            .filter_map(|connection| connection.stalled_since)
            .map(|since| since + self.stall_max())
            .min();
        let execs = self.execs.values().filter_map(Exec::deadline).min();
        [
            dns,
            stalls,
            execs,
            self.checks.next_deadline(self.paused),
            self.lease
                .as_ref()
                .map(|lease| lease.next_deadline(Instant::now())),
            self.ending.as_ref().map(Ending::next_deadline),
            self.log.remote.as_ref().and_then(Remote::next_deadline),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// How long a client may take nothing; short once the container is over.
    fn stall_max(&self) -> Duration {
        match &self.ending {
            Some(ending) if ending.is_recorded() => ending::LINGER_MAX,
            _ => STALL_MAX,
        }
    }

    fn handle(&mut self, token: Token, ready: Ready) {
        match token {
            Token::Signals => self.take_signals(),
            Token::Listener => self.accept(),
            Token::StartChannel => self.hear_start_command(),
            Token::Connection(key) => self.serve(key, ready),
            Token::Child(key) => self.hear_child(key),
            Token::Output(key, output) => {
                self.read_output(key, output);
            }
            Token::Input(key) => {
                if let Some(process) = self.process_mut(key) {
                    process.streams.deliver_input();
                }
            }
            Token::OutOfMemory => self.note_out_of_memory(),
            Token::Log => {
                if let Some(remote) = &mut self.log.remote {
                    remote.ready();
                }
            }
            Token::Dns(token) => {
                if let Some(dns) = &mut self.dns {
                    dns.ready(token, &mut self.buffer, Instant::now());
                }
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        if let Some(dns) = &mut self.dns {
            dns.tick(now);
        }
        self.log.flush();
        if let Some(remote) = &mut self.log.remote {
            remote.tick(now);
        }
        self.tick_execs(now);
        self.tick_checks(now);
        self.tick_lease(now);
        self.tick_ending(now);
        self.flush_connections(now);
        let ending = self.ending.as_ref().filter(|ending| ending.is_recorded());
        self.finished = ending.is_some_and(|ending| {
            self.connections.is_empty() && (self.log.is_drained() || ending.has_lingered(now))
        });
    }

    fn take_signals(&mut self) {
        // Which signal it was does not matter: only that of children is asked for.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.reap();
    }

    fn note_out_of_memory(&mut self) {
        if let Some(event) = &self.out_of_memory {
            // Only takes the notification away; the content says nothing.
            let _ = crate::sys::read(event.as_fd(), &mut self.buffer[..4096]);
        }
        let kills = self.group.oom_kills();
        if kills == self.oom_kills && crate::cgroup::is_unified() {
            return;
        }
        self.oom_kills = kills;
        self.publish(&Event::Oom);
    }

    /// The present state.
    fn status(&self) -> Status {
        Status {
            id: self.config.id.clone(),
            state: match (&self.ending, &self.main, self.paused) {
                (Some(_), ..) => State::Stopping,
                (None, None, _) => State::Prepared,
                (None, Some(main), _) if main.started_at.is_empty() => State::Prepared,
                (None, Some(_), true) => State::Paused,
                (None, Some(_), false) => State::Running,
            },
            shim_pid: nix::unistd::getpid().as_raw(),
            pid: self.main.as_ref().map_or(0, |main| main.process.pid),
            started_at: self
                .main
                .as_ref()
                .map_or(String::new(), |main| main.started_at.clone()),
            health: self.checks.status().cloned(),
            execs: self.execs.values().map(Exec::status).collect(),
            oom_kills: self.oom_kills.max(self.group.oom_kills()),
            log_entries_lost: self.log.lost(),
        }
    }

    /// Puts the present state where it can be read without us.
    fn write_status(&self) {
        let status = self.status();
        let written = serde_json::to_vec(&status)
            .map_err(io::Error::other)
            .and_then(|json| crate::config::write_atomically(&self.config.paths.status, &json));
        if let Err(error) = written {
            eprintln!("writing the status file: {error}");
        }
    }

    /// Tells all subscribers.
    fn publish(&mut self, event: &Event) {
        let Ok(frame) = encode_frame(event) else {
            return;
        };
        for connection in self.connections.values_mut() {
            if connection.role == connection::Role::Subscribed {
                connection.send(&frame);
            }
        }
    }
}
