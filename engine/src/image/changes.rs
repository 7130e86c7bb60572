//! Dockerfile instructions given to `commit` and `import`.

use crate::error::{EngineError, Result};
use crate::types::{Empty, HealthConfig, ImageConfig, StrSlice};
use skep_model::Nanos;

/// Applies instructions such as `CMD ["sh"]` or `ENV A=b` in order.
pub(crate) fn apply(config: &mut ImageConfig, changes: &[String]) -> Result<()> {
    for change in changes {
        for line in change.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            apply_one(config, line)?;
        }
    }
    Ok(())
}

fn apply_one(config: &mut ImageConfig, line: &str) -> Result<()> {
    let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let instruction = instruction.to_ascii_uppercase();
    let required = || {
        if rest.is_empty() {
            Err(EngineError::invalid(format!(
                "{instruction} requires at least one argument"
            )))
        } else {
            Ok(rest)
        }
    };
    match instruction.as_str() {
        "CMD" => config.cmd = Some(command(rest, config)),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest, config)),
        "ENV" => {
            for (name, value) in pairs(required()?, "ENV")? {
                set_env(&mut config.env, &name, &value);
            }
        }
        "LABEL" => config.labels.extend(pairs(required()?, "LABEL")?),
        "EXPOSE" => {
            for port in words(required()?) {
                let port = if port.contains('/') {
                    port
                } else {
                    format!("{port}/tcp")
                };
                config.exposed_ports.insert(port, Empty {});
            }
        }
        "USER" => config.user = required()?.into(),
        "WORKDIR" => {
            let given = required()?;
            config.working_dir = if given.starts_with('/') {
                given.into()
            } else {
                format!("{}/{given}", config.working_dir.trim_end_matches('/'))
            };
        }
        "VOLUME" => {
            for path in list(required()?) {
                config.volumes.insert(path, Empty {});
            }
        }
        "STOPSIGNAL" => {
            let given = required()?;
            crate::container::signal::parse(given)?;
            config.stop_signal = given.into();
        }
        "SHELL" => {
            config.shell = Some(serde_json::from_str(required()?).map_err(|_| {
                EngineError::invalid("SHELL requires the arguments to be in JSON form")
            })?);
        }
        "ONBUILD" => config
            .on_build
            .get_or_insert_default()
            .push(required()?.into()),
        "HEALTHCHECK" => config.healthcheck = Some(health(required()?, config)?),
        other => {
            return Err(EngineError::invalid(format!(
                "{other} is not a valid change command"
            )));
        }
    }
    Ok(())
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

/// The exec form (a JSON list), or a line for the shell.
fn command(text: &str, config: &ImageConfig) -> StrSlice {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) => StrSlice(words),
        Err(_) => {
            let mut words = config
                .shell
                .clone()
                .unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
            words.push(text.into());
            StrSlice(words)
        }
    }
}

fn list(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| words(text))
}

/// `A=b C="d e"`, or the old `A b c` of one pair.
fn pairs(text: &str, instruction: &str) -> Result<Vec<(String, String)>> {
    let words = words(text);
    if !words.first().is_some_and(|word| word.contains('=')) {
        let Some((name, value)) = text.split_once(char::is_whitespace) else {
            return Err(EngineError::invalid(format!(
                "{instruction} must have two arguments"
            )));
        };
        return Ok(vec![(name.into(), value.trim().into())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) | None => Err(EngineError::invalid(format!(
                "Syntax error - can't find = in \"{word}\". Must be of the form: name=value"
            ))),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        })
        .collect()
}

/// Words with the shell's quotes and backslashes taken away.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', None | Some('"')) => {
                word.get_or_insert_default()
                    .push(characters.next().unwrap_or('\\'));
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// `[--interval=1s …] CMD …`, or `NONE`.
fn health(text: &str, config: &ImageConfig) -> Result<HealthConfig> {
    let mut health = HealthConfig::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option
            .split_once(char::is_whitespace)
            .unwrap_or((option, ""));
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let wrong = || EngineError::invalid(format!("invalid value for --{name}: {value}"));
        let length = || {
            crate::clock::parse_go_duration(value)
                .map(Nanos)
                .ok_or_else(wrong)
        };
        match name {
            "interval" => health.interval = length()?,
            "timeout" => health.timeout = length()?,
            "start-period" => health.start_period = length()?,
            "start-interval" => health.start_interval = length()?,
            "retries" => health.retries = value.parse().map_err(|_| wrong())?,
            _ => {
                return Err(EngineError::invalid(format!("Unknown flag: {name}")));
            }
        }
        rest = after.trim_start();
    }
    let (kind, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    health.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" => vec!["NONE".into()],
        "CMD" => match serde_json::from_str::<Vec<String>>(rest.trim()) {
            Ok(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            Err(_) if rest.trim().is_empty() => {
                return Err(EngineError::invalid(
                    "Missing command after HEALTHCHECK CMD",
                ));
            }
            Err(_) => vec!["CMD-SHELL".into(), rest.trim().into()],
        },
        other => {
            return Err(EngineError::invalid(format!(
                "Unknown type \"{other}\" in HEALTHCHECK (try CMD)"
            )));
        }
    };
    let _ = config;
    Ok(health)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<ImageConfig> {
        let mut config = ImageConfig::default();
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        apply(&mut config, &changes).map(|()| config)
    }

    #[test]
    fn instructions_change_the_configuration() {
        let config = changed(&[
            "CMD [\"sh\", \"-c\", \"true\"]",
            "ENTRYPOINT top -b",
            "ENV A=1 B=\"two words\"",
            "ENV C three words",
            "env A=2",
            "EXPOSE 80 53/udp",
            "LABEL a=b",
            "USER nobody",
            "WORKDIR /srv",
            "WORKDIR www",
            "VOLUME [\"/data\", \"/more\"]",
            "HEALTHCHECK --interval=2s --retries=4 CMD wget -q localhost",
            "STOPSIGNAL SIGINT",
        ])
        .unwrap();
        assert_eq!(config.cmd.unwrap().0, ["sh", "-c", "true"]);
        assert_eq!(config.entrypoint.unwrap().0, ["/bin/sh", "-c", "top -b"]);
        assert_eq!(config.env, ["A=2", "B=two words", "C=three words"]);
        assert_eq!(
            config.exposed_ports.keys().collect::<Vec<_>>(),
            ["53/udp", "80/tcp"]
        );
        assert_eq!(config.working_dir, "/srv/www");
        assert_eq!(config.volumes.len(), 2);
        let health = config.healthcheck.unwrap();
        assert_eq!(health.interval, Nanos::from_secs(2));
        assert_eq!(health.test, ["CMD-SHELL", "wget -q localhost"]);
        assert_eq!(config.stop_signal, "SIGINT");
    }

    #[test]
    fn what_cannot_be_changed_is_named() {
        assert_eq!(
            changed(&["RUN true"]).unwrap_err().to_string(),
            "RUN is not a valid change command"
        );
        assert!(changed(&["ENV"]).is_err());
        assert!(changed(&["ENV =x"]).is_err());
        assert!(changed(&["STOPSIGNAL SIGNOPE"]).is_err());
        assert!(changed(&["HEALTHCHECK FOO"]).is_err());
    }
}
