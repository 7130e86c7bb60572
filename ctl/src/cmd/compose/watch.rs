//! What containers say, each line behind the name of who said it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use skep_model::Timestamp;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::observed::{Container, inspect};
use crate::client::{Call, Chunks};
use crate::cmd::container::path;
use crate::failure::{Failure, Outcome};
use crate::session::Session;
use crate::stdcopy::{Channel, Demux};

/// A line without end is written in pieces of this size.
const LINE_BYTES_MAX: usize = 1 << 20;
const COLORS: [&str; 6] = ["36", "33", "32", "35", "34", "96"];

/// A container that is to be followed.
#[derive(Debug, Clone)]
pub struct Followed {
    id: String,
    name: String,
    service: String,
    /// Whether it has been started.
    runs: bool,
    /// Only what is said after that.
    since: Option<Timestamp>,
}

impl Followed {
    /// One whose name is known; followed from now on if it runs.
    pub fn named(container: &Container, runs: bool) -> Self {
        Self {
            since: Some(crate::cmd::task::now()),
            ..Self::started(container, None)
        }
        .running(runs)
    }

    fn running(mut self, runs: bool) -> Self {
        self.runs = runs;
        self
    }

    /// One that was just started.
    pub fn started(container: &Container, since: Option<Timestamp>) -> Self {
        Self {
            id: container.id.clone(),
            name: container.name.clone(),
            service: container.service.clone(),
            runs: true,
            since,
        }
    }
}

/// How lines are shown.
pub struct Watch<'a> {
    session: &'a Session,
    project: String,
    pub timestamps: bool,
    pub prefix: bool,
    pub color: bool,
    /// Whether the first end is the end of it all.
    pub aborts: bool,
    pub aborts_on_failure: bool,
    /// Longest name so far.
    width: Cell<usize>,
    colors: RefCell<BTreeMap<String, &'static str>>,
}

/// Which lines of the past, and whether those to come.
#[derive(Debug, Clone, Default)]
pub struct Range {
    pub follow: bool,
    pub since: String,
    pub until: String,
    pub tail: String,
}

fn seconds(at: Timestamp) -> String {
    format!("{}.{:09}", at.0 / 1_000_000_000, at.0 % 1_000_000_000)
}

impl<'a> Watch<'a> {
    pub fn new(session: &'a Session, project: &str) -> Self {
        Self {
            session,
            project: project.to_owned(),
            timestamps: false,
            prefix: true,
            color: super::project::is_colored(session),
            aborts: false,
            aborts_on_failure: false,
            width: Cell::new(0),
            colors: RefCell::default(),
        }
    }

    /// The name without the project's.
    fn short<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.project.as_str())
            .and_then(|rest| rest.strip_prefix(['-', '_']))
            .unwrap_or(name)
    }

    /// Makes room for a name.
    pub fn know(&self, name: &str) {
        let width = self.short(name).chars().count();
        self.width.set(self.width.get().max(width));
        let mut colors = self.colors.borrow_mut();
        let next = COLORS[colors.len() % COLORS.len()];
        colors.entry(name.to_owned()).or_insert(next);
    }

    fn write(&self, name: &str, channel: Channel, line: &[u8]) -> Outcome {
        let mut text = Vec::with_capacity(line.len() + 40);
        if self.prefix {
            let width = self.width.get() + 1;
            let head = format!("{:width$} | ", self.short(name));
            match self.colors.borrow().get(name).filter(|_| self.color) {
                Some(color) => text.extend(format!("\x1b[{color}m{head}\x1b[0m").bytes()),
                None => text.extend(head.bytes()),
            }
        }
        text.extend_from_slice(line);
        text.push(b'\n');
        match channel {
            Channel::Out => self.session.print_bytes(&text),
            Channel::Err => self.session.print_error_bytes(&text),
        }
    }

    /// Writes what a container has said and, if asked, what it will say until it stops.
    pub async fn logs(&self, id: &str, name: &str, range: &Range) -> Outcome {
        let container = inspect(self.session, id).await?;
        let tty = container.bool("Config.Tty");
        let tail = if range.tail.is_empty() {
            "all"
        } else {
            &range.tail
        };
        let call = Call::get(path(id, "/logs"))
            .query("stdout", "1")
            .query("stderr", "1")
            .query_if("follow", range.follow)
            .query_if("timestamps", self.timestamps)
            .query_text("since", &range.since)
            .query_text("until", &range.until)
            .query("tail", tail);
        let mut chunks = Chunks::of(self.session.client.send(call).await?);
        let mut demux = Demux::default();
        let mut lines = [Vec::new(), Vec::new()];
        while let Some(chunk) = chunks.next().await? {
            let mut take = |channel: Channel, bytes: &[u8]| -> Outcome {
                let line: &mut Vec<u8> = &mut lines[usize::from(channel == Channel::Err)];
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    line.extend_from_slice(piece);
                    if line.ends_with(b"\n") || line.len() > LINE_BYTES_MAX {
                        while line
                            .last()
                            .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
                        {
                            line.pop();
                        }
                        self.write(name, channel, line)?;
                        line.clear();
                    }
                }
                Ok(())
            };
            if tty {
                take(Channel::Out, &chunk)?;
            } else {
                demux.feed::<Failure>(&chunk, take)?;
            }
        }
        for (channel, line) in [Channel::Out, Channel::Err].into_iter().zip(&lines) {
            if !line.is_empty() {
                self.write(name, channel, line)?;
            }
        }
        Ok(())
    }

    /// Follows a container until it has ended for good; its status.
    async fn follow(&self, followed: Followed, shown: bool) -> Outcome<(Followed, i64)> {
        let mut since = followed.since;
        loop {
            let range = Range {
                follow: true,
                since: since.map(seconds).unwrap_or_default(),
                ..Range::default()
            };
            let from = crate::cmd::task::now();
            let told = if shown {
                self.logs(&followed.id, &followed.name, &range).await
            } else {
                // Only its end is of interest.
                let call = Call::post(path(&followed.id, "/wait"));
                self.session.client.done(call).await
            };
            match told {
                Err(failure) if failure.is_not_found() => return Ok((followed, 0)),
                other => other?,
            }
            let now = match inspect(self.session, &followed.id).await {
                Err(failure) if failure.is_not_found() => return Ok((followed, 0)),
                other => other?,
            };
            let will = matches!(now.str("State.Status"), "running" | "restarting" | "paused");
            if !will {
                let code = now.int("State.ExitCode");
                return Ok((followed, code));
            }
            since = Some(from);
            // A log that ends before its container has: not to be asked in a hurry.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Follows what is told of until all have ended. The first end that is to be the end of it
    /// all is told to `first`.
    pub async fn run(
        &self,
        mut told: UnboundedReceiver<Followed>,
        shows: &dyn Fn(&str) -> bool,
        first: UnboundedSender<i64>,
    ) -> Outcome {
        let this = self;
        let mut following = FuturesUnordered::new();
        // Ids of those: what is told of twice is followed once.
        let mut ids = BTreeSet::new();
        let mut names = Vec::new();
        let (mut open, mut said) = (true, false);
        while open || !following.is_empty() {
            tokio::select! {
                next = told.recv(), if open => match next {
                    None => {
                        open = false;
                    }
                    Some(next) => {
                        let shown = shows(&next.service);
                        if shown {
                            let short = this.short(&next.name).to_owned();
                            if !names.contains(&short) {
                                names.push(short);
                            }
                            this.know(&next.name);
                        }
                        if next.runs && ids.insert(next.id.clone()) {
                            if !said {
                                said = true;
                                this.session.say(format!("Attaching to {}", names.join(", ")))?;
                            }
                            following.push(this.follow(next, shown));
                        }
                    }
                },
                Some(ended) = following.next(), if !following.is_empty() => {
                    let (Followed { id, name, .. }, code) = ended?;
                    ids.remove(&id);
                    this.session.say(format!("{} exited with code {code}", this.short(&name)))?;
                    if this.aborts || (this.aborts_on_failure && code != 0) {
                        let _ = first.send(code);
                    }
                }
            }
        }
        Ok(())
    }
}
