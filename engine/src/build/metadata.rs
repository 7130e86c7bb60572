//! Instructions that change an image's configuration and nothing else.

use std::fmt::Write as _;

use skep_dockerfile::{Command, Expander, Health, Instruction, Pair};
use skep_model::Nanos;

use crate::error::{EngineError, Result};
use crate::types::{Empty, HealthConfig, ImageConfig, StrSlice};

/// Applies an instruction; what an image's history says of it. `None` when it is
/// one that does more.
pub(crate) fn apply(
    config: &mut ImageConfig,
    instruction: &Instruction,
    words: &dyn Words,
) -> Result<Option<String>> {
    let comment = match instruction {
        Instruction::Env(pairs) => {
            let mut comment = String::from("ENV");
            for (key, value) in expanded(pairs, words)? {
                set_env(&mut config.env, &key, &value);
                let _ = write!(comment, " {key}={value}");
            }
            comment
        }
        Instruction::Label(pairs) => {
            let mut comment = String::from("LABEL");
            for (key, value) in expanded(pairs, words)? {
                let _ = write!(comment, " {key}={value}");
                config.labels.insert(key, value);
            }
            comment
        }
        Instruction::Cmd(command) => {
            let list = command_words(command, config);
            let comment = format!("CMD {}", quoted_list(&list));
            config.cmd = Some(StrSlice(list));
            config.args_escaped = false;
            comment
        }
        Instruction::Entrypoint(command) => {
            let list = command_words(command, config);
            let comment = format!("ENTRYPOINT {}", quoted_list(&list));
            config.entrypoint = (!list.is_empty()).then_some(StrSlice(list));
            comment
        }
        Instruction::Expose(ports) => {
            let mut written = Vec::new();
            for port in ports {
                written.extend(words.list(port)?);
            }
            for port in &written {
                for exposed in exposed(port)? {
                    config.exposed_ports.insert(exposed, Empty {});
                }
            }
            written.sort();
            format!("EXPOSE {}", written.join(" "))
        }
        Instruction::Volume(paths) => {
            let mut expanded = Vec::new();
            for path in paths {
                let path = words.one(path)?;
                if path.is_empty() {
                    return Err(EngineError::invalid(
                        "VOLUME specified can not be an empty string",
                    ));
                }
                config.volumes.insert(path.clone(), Empty {});
                expanded.push(path);
            }
            format!("VOLUME [{}]", expanded.join(" "))
        }
        Instruction::User(user) => {
            config.user = words.one(user)?;
            format!("USER {}", config.user)
        }
        Instruction::Stopsignal(signal) => {
            let signal = words.one(signal)?;
            crate::container::signal::parse(&signal)?;
            config.stop_signal.clone_from(&signal);
            format!("STOPSIGNAL {signal}")
        }
        Instruction::Shell(shell) => {
            config.shell = Some(shell.clone());
            format!("SHELL [{}]", shell.join(" "))
        }
        Instruction::Onbuild(trigger) => {
            config
                .on_build
                .get_or_insert_default()
                .push(trigger.clone());
            format!("ONBUILD {trigger}")
        }
        Instruction::Healthcheck(health) => {
            let health = health_config(health);
            let comment = format!("HEALTHCHECK {}", quoted_health(&health));
            config.healthcheck = Some(health);
            comment
        }
        _ => return Ok(None),
    };
    Ok(Some(comment))
}

/// How words of an instruction get their values.
pub(crate) trait Words {
    fn one(&self, word: &str) -> Result<String>;
    fn list(&self, word: &str) -> Result<Vec<String>>;
}

impl Words for Expander<'_> {
    fn one(&self, word: &str) -> Result<String> {
        self.word(word)
            .map_err(|error| EngineError::invalid(error.to_string()))
    }

    fn list(&self, word: &str) -> Result<Vec<String>> {
        self.words(word)
            .map_err(|error| EngineError::invalid(error.to_string()))
    }
}

/// Words that are taken as they are.
pub(super) struct Literal;

impl Words for Literal {
    fn one(&self, word: &str) -> Result<String> {
        Ok(word.to_owned())
    }

    fn list(&self, word: &str) -> Result<Vec<String>> {
        Ok(vec![word.to_owned()])
    }
}

fn expanded(pairs: &[Pair], words: &dyn Words) -> Result<Vec<(String, String)>> {
    pairs
        .iter()
        .map(|pair| Ok((words.one(&pair.key)?, words.one(&pair.value)?)))
        .collect()
}

/// Replaces or adds `NAME=value`.
pub(crate) fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    match env
        .iter_mut()
        .find(|present| present.split('=').next() == Some(name))
    {
        Some(present) => *present = entry,
        None => env.push(entry),
    }
}

/// A command as an image keeps it.
pub(super) fn command_words(command: &Command, config: &ImageConfig) -> Vec<String> {
    if !command.shell {
        return command.words.clone();
    }
    let mut words = config
        .shell
        .clone()
        .filter(|shell| !shell.is_empty())
        .unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
    words.extend(command.words.iter().cloned());
    words
}

/// `80`, `80/udp`, `8000-8010` as ports with their protocol.
fn exposed(text: &str) -> Result<Vec<String>> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(EngineError::invalid(format!("Invalid proto: {protocol}")));
    }
    let invalid = || EngineError::invalid(format!("Invalid containerPort: {range}"));
    // A host's address and port before it say nothing to an image.
    let container = range.rsplit(':').next().unwrap_or(range);
    let (first, last) = container.split_once('-').unwrap_or((container, container));
    let (first, last): (u16, u16) = match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => (first, last),
        _ => return Err(invalid()),
    };
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

fn health_config(health: &Health) -> HealthConfig {
    HealthConfig {
        test: match &health.command {
            None => vec!["NONE".into()],
            Some(command) => std::iter::once(if command.shell { "CMD-SHELL" } else { "CMD" })
                .map(str::to_owned)
                .chain(command.words.iter().cloned())
                .collect(),
        },
        interval: Nanos(health.interval),
        timeout: Nanos(health.timeout),
        start_period: Nanos(health.start_period),
        start_interval: Nanos(health.start_interval),
        retries: health.retries,
    }
}

/// Go's `%q` of a health check, which is what histories have.
fn quoted_health(health: &HealthConfig) -> String {
    let retries = u32::try_from(health.retries)
        .ok()
        .and_then(char::from_u32)
        .unwrap_or('\u{fffd}');
    format!(
        "&{{{} {} {} {} {} {}}}",
        quoted_list(&health.test),
        quoted(&go_duration(health.interval.0)),
        quoted(&go_duration(health.timeout.0)),
        quoted(&go_duration(health.start_period.0)),
        quoted(&go_duration(health.start_interval.0)),
        match retries {
            '\'' => "'\\''".to_owned(),
            other => format!("'{}'", escaped(other)),
        }
    )
}

fn quoted_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(" "))
}

/// Go's `%q`.
fn quoted(text: &str) -> String {
    let inner: String = text
        .chars()
        .map(|character| match character {
            '"' => "\\\"".to_owned(),
            other => escaped(other),
        })
        .collect();
    format!("\"{inner}\"")
}

fn escaped(character: char) -> String {
    match character {
        '\\' => "\\\\".into(),
        '\u{7}' => "\\a".into(),
        '\u{8}' => "\\b".into(),
        '\u{c}' => "\\f".into(),
        '\n' => "\\n".into(),
        '\r' => "\\r".into(),
        '\t' => "\\t".into(),
        '\u{b}' => "\\v".into(),
        other if other.is_ascii_control() => format!("\\x{:02x}", other as u32),
        other if other.is_control() => format!("\\u{:04x}", other as u32),
        other => other.to_string(),
    }
}

/// Go's `time.Duration.String()`.
fn go_duration(nanos: i64) -> String {
    let fraction = |value: i64, unit: i64| {
        let text = format!(
            "{}.{:09}",
            value / unit,
            value % unit * (1_000_000_000 / unit)
        );
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        ..=0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str) -> Result<(ImageConfig, String)> {
        let mut config = ImageConfig::default();
        let lookup = |name: &str| (name == "P").then(|| "90 91/udp".to_owned());
        let expander = Expander::new('\\', &lookup);
        let step = skep_dockerfile::parse_trigger(text).unwrap();
        let comment = apply(&mut config, &step.instruction, &expander)?;
        Ok((config, comment.unwrap_or_default()))
    }

    #[test]
    fn histories_read_like_dockers() {
        for (text, comment) in [
            (
                "CMD [\"a\", \"b \\\"c\\\"\"]",
                "CMD [\"a\" \"b \\\"c\\\"\"]",
            ),
            ("CMD echo $A", "CMD [\"/bin/sh\" \"-c\" \"echo $A\"]"),
            ("ENTRYPOINT [\"e\"]", "ENTRYPOINT [\"e\"]"),
            ("ENV A=1 B=\"two words\"", "ENV A=1 B=two words"),
            ("LABEL x=y z='q r'", "LABEL x=y z=q r"),
            ("EXPOSE 80 53/udp", "EXPOSE 53/udp 80"),
            ("EXPOSE $P", "EXPOSE 90 91/udp"),
            ("VOLUME /a /b", "VOLUME [/a /b]"),
            ("VOLUME [\"/a b\"]", "VOLUME [/a b]"),
            ("SHELL [\"/bin/sh\", \"-e\"]", "SHELL [/bin/sh -e]"),
            ("STOPSIGNAL SIGINT", "STOPSIGNAL SIGINT"),
            ("ONBUILD RUN x", "ONBUILD RUN x"),
            (
                "HEALTHCHECK --interval=2s --start-period=1m30s --retries=3 CMD echo ok",
                "HEALTHCHECK &{[\"CMD-SHELL\" \"echo ok\"] \"2s\" \"0s\" \"1m30s\" \"0s\" '\\x03'}",
            ),
        ] {
            assert_eq!(applied(text).unwrap().1, comment, "{text}");
        }
    }

    #[test]
    fn what_no_image_can_have_is_refused() {
        for (text, why) in [
            ("EXPOSE foo", "Invalid containerPort: foo"),
            ("EXPOSE 9-8", "Invalid containerPort: 9-8"),
            ("EXPOSE 8/icmp", "Invalid proto: icmp"),
            ("STOPSIGNAL SIGFOO", "SIGFOO"),
            (
                "ENV a=${x",
                "failed to process \"${x\": syntax error: missing '}'",
            ),
        ] {
            let error = applied(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let (config, _) = applied("EXPOSE 80-82/udp").unwrap();
        assert_eq!(config.exposed_ports.len(), 3);
    }

    #[test]
    fn durations_are_gos() {
        for (nanos, text) in [
            (0, "0s"),
            (5_000_000, "5ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(nanos), text);
        }
    }
}
