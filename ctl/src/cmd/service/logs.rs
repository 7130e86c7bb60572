//! `service logs`: lines of all tasks, each with who wrote it.

use std::collections::{BTreeMap, HashMap};

use crate::client::{Call, Chunks, segment};
use crate::cmd::task::Names;
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::grammar::moment;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::stdcopy::{Channel, Demux};

/// What the daemon says of a line besides its text.
const NODE_KEY: &str = "com.docker.swarm.node.id";
const SERVICE_KEY: &str = "com.docker.swarm.service.id";
const TASK_KEY: &str = "com.docker.swarm.task.id";
/// A longer line is cut.
const LINE_BYTES_MAX: usize = 1 << 20;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let source = find(session, args.positional(0)).await?;
    if source.tty && !args.flag("raw") {
        return Err(Failure::message(
            "tty service logs only supported with --raw",
        ));
    }
    follow(session, args, source).await
}

/// Prints what one service or task has written, and goes on to if asked.
pub async fn follow(session: &Session, args: &Args, source: Source) -> Outcome {
    let Source { path, tty, slots } = source;
    let raw = args.flag("raw");
    let since = match args.text("since") {
        "" => String::new(),
        text => moment::parse(text, now())
            .map_err(|why| Failure::message(format!("invalid value for \"since\": {why}")))?,
    };
    let call = Call::get(path)
        .query("stdout", "1")
        .query("stderr", "1")
        .query_if("follow", args.flag("follow"))
        .query_if("timestamps", args.flag("timestamps"))
        .query_if("details", args.flag("details") || !raw)
        .query_text("since", &since)
        .query("tail", args.maybe("tail").unwrap_or("all"));
    let mut chunks = Chunks::of(session.client.send(call).await?);
    let mut writer = Writer {
        session,
        args,
        names: Names::new(args.flag("no-resolve")),
        prefixes: HashMap::new(),
        width: digits(slots),
    };
    let mut demux = Demux::default();
    let mut pending: [Vec<u8>; 2] = Default::default();
    while let Some(chunk) = chunks.next().await? {
        if tty {
            session.print_bytes(&chunk)?;
            continue;
        }
        let mut lines: Vec<(Channel, Vec<u8>)> = Vec::new();
        demux
            .feed::<String>(&chunk, |channel, bytes| {
                let buffer = &mut pending[channel as usize];
                buffer.extend_from_slice(bytes);
                while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    lines.push((channel, buffer.drain(..=end).collect()));
                }
                if buffer.len() > LINE_BYTES_MAX {
                    lines.push((channel, std::mem::take(buffer)));
                }
                Ok(())
            })
            .map_err(Failure::Message)?;
        for (channel, line) in lines {
            writer.write(channel, &line, raw).await?;
        }
    }
    for (channel, rest) in [Channel::Out, Channel::Err].into_iter().zip(pending) {
        if !rest.is_empty() {
            writer.write(channel, &rest, raw).await?;
        }
    }
    Ok(())
}

/// Logs of a service or task.
pub struct Source {
    /// Of the API.
    path: String,
    /// Whether they come from a terminal.
    pub tty: bool,
    /// How many slots write them.
    slots: i64,
}

/// Where the logs of a service or task are.
pub async fn find(session: &Session, target: &str) -> Outcome<Source> {
    let name = segment(target);
    match session
        .client
        .json(Call::get(format!("/services/{name}")))
        .await
    {
        Ok(service) => Ok(Source {
            path: format!("/services/{name}/logs"),
            tty: service.bool("Spec.TaskTemplate.ContainerSpec.TTY"),
            slots: service.int("Spec.Mode.Replicated.Replicas"),
        }),
        Err(failure) if failure.is_not_found() => {
            match session
                .client
                .json(Call::get(format!("/tasks/{name}")))
                .await
            {
                Ok(task) => Ok(Source {
                    path: format!("/tasks/{name}/logs"),
                    tty: task.bool("Spec.ContainerSpec.TTY"),
                    slots: task.int("Slot"),
                }),
                Err(failure) if failure.is_not_found() => Err(Failure::message(format!(
                    "no such task or service: {target}"
                ))),
                Err(failure) => Err(failure),
            }
        }
        Err(failure) => Err(failure),
    }
}

fn digits(number: i64) -> usize {
    number.to_string().len()
}

struct Writer<'a> {
    session: &'a Session,
    args: &'a Args,
    names: Names,
    /// What stands before a task's lines, by task.
    prefixes: HashMap<String, String>,
    /// Digits of the highest slot.
    width: usize,
}

impl Writer<'_> {
    async fn write(&mut self, channel: Channel, line: &[u8], raw: bool) -> Outcome {
        let shown = if raw {
            line.to_vec()
        } else {
            self.dress(line).await?
        };
        match channel {
            Channel::Out => self.session.print_bytes(&shown),
            Channel::Err => self.session.print_error_bytes(&shown),
        }
    }

    /// `[time] details text` becomes `[time] web.1.id@node    | [details] text`.
    async fn dress(&mut self, line: &[u8]) -> Outcome<Vec<u8>> {
        let text = String::from_utf8_lossy(line).into_owned();
        let (time, rest) = if self.args.flag("timestamps") {
            let (time, rest) = text.split_once(' ').ok_or_else(|| strange(&text))?;
            (format!("{time} "), rest)
        } else {
            (String::new(), text.as_str())
        };
        let (details, message) = rest.split_once(' ').ok_or_else(|| strange(&text))?;
        let mut details = parse_details(details);
        let mut take = |key: &str| details.remove(key).ok_or_else(|| strange(&text));
        let (node, service, task) = (take(NODE_KEY)?, take(SERVICE_KEY)?, take(TASK_KEY)?);
        let prefix = match self.prefixes.get(&task) {
            Some(prefix) => prefix.clone(),
            None => {
                let prefix = self.prefix(&node, &service, &task).await?;
                self.prefixes.insert(task, prefix.clone());
                prefix
            }
        };
        let extra = if self.args.flag("details") {
            let pairs: Vec<String> = details
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!("{} ", pairs.join(","))
        } else {
            String::new()
        };
        Ok(format!("{time}{prefix}    | {extra}{message}").into_bytes())
    }

    async fn prefix(&mut self, node: &str, service: &str, task: &str) -> Outcome<String> {
        let service = self.names.service(self.session, service).await?;
        let node = self.names.node(self.session, node).await?;
        let found = self
            .session
            .client
            .json(Call::get(format!("/tasks/{}", segment(task))))
            .await;
        let slot = found.as_ref().map_or(0, |task: &Json| task.int("Slot"));
        let id = match (self.args.flag("no-task-ids"), self.args.flag("no-trunc")) {
            (true, _) => String::new(),
            (false, true) => format!(".{task}"),
            (false, false) => format!(".{}", human::short_id(task)),
        };
        let padding = " ".repeat(self.width.saturating_sub(digits(slot)));
        Ok(format!("{service}.{slot}{id}@{node}{padding}"))
    }
}

fn strange(line: &str) -> Failure {
    Failure::message(format!(
        "invalid context in log message: {}",
        line.trim_end()
    ))
}

/// `key=value,key=value`, percent-encoded.
fn parse_details(text: &str) -> BTreeMap<String, String> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = text
            .get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], code) {
            (b'%', Some(code)) => {
                out.push(code);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_decoded() {
        let details = parse_details("a=b%2Cc,com.docker.swarm.task.id=x,d=e+f");
        assert_eq!(details["a"], "b,c");
        assert_eq!(details[TASK_KEY], "x");
        assert_eq!(details["d"], "e f");
    }
}
