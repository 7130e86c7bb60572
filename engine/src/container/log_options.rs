//! Log drivers and their options.

use std::collections::BTreeMap;
use std::path::PathBuf;

use skep_shim::config::{LogConfig as ShimLog, LogDriver};

use super::record::ContainerRecord;
use crate::error::{EngineError, Result};
use crate::types::{ContainerConfig, LogConfig};

/// What the `tag` log option may refer to.
#[derive(Debug, Default)]
pub(crate) struct TagFacts {
    id: String,
    name: String,
    image: String,
}

pub(super) fn log_tag(record: &ContainerRecord) -> TagFacts {
    TagFacts {
        id: record.id.clone(),
        name: record.name.clone(),
        image: record.config.image.clone(),
    }
}

/// Reads a log configuration; its driver's options are checked here.
pub(crate) fn log_config(
    log: &LogConfig,
    config: &ContainerConfig,
    path: PathBuf,
    facts: TagFacts,
) -> Result<ShimLog> {
    let driver = match log.kind.as_str() {
        "json-file" | "" => LogDriver::JsonFile,
        "local" => LogDriver::Local,
        "none" => LogDriver::None,
        other => {
            return Err(EngineError::invalid(format!(
                "logger: no log driver named '{other}' is registered"
            )));
        }
    };
    let (mut max_size, mut max_file) = match driver {
        LogDriver::Local => (Some(20 << 20), 5),
        _ => (None, 1),
    };
    let mut attrs = BTreeMap::new();
    for (key, value) in &log.config {
        let wrong = || {
            EngineError::invalid(format!(
                "invalid value \"{value}\" for log opt '{key}' for {} log driver",
                log.kind
            ))
        };
        match key.as_str() {
            _ if driver == LogDriver::None => return Err(unknown_log_opt(key, "none")),
            "max-size" if value == "-1" => max_size = None,
            "max-size" => max_size = Some(parse_size(value).filter(|s| *s > 0).ok_or_else(wrong)?),
            "max-file" => max_file = value.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?,
            "labels" => {
                for name in value.split(',') {
                    if let Some(label) = config.labels.get(name) {
                        attrs.insert(name.to_owned(), label.clone());
                    }
                }
            }
            "env" => {
                for name in value.split(',') {
                    let found = config
                        .env
                        .iter()
                        .find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='));
                    if let Some(found) = found {
                        attrs.insert(name.to_owned(), found.to_owned());
                    }
                }
            }
            "tag" => {
                attrs.insert("tag".into(), expand_tag(value, &facts));
            }
            // Accepted for what dockerd takes; they change nothing here: writing
            // never blocks the container, and rotated files stay as they are.
            "compress" | "mode" | "max-buffer-size" | "labels-regex" | "env-regex"
            | "cache-disabled" | "cache-max-file" | "cache-max-size" | "cache-compress" => {}
            other => {
                return Err(unknown_log_opt(
                    other,
                    if driver == LogDriver::Local {
                        "local"
                    } else {
                        "json-file"
                    },
                ));
            }
        }
    }
    if max_file > 1 && max_size.is_none() && driver == LogDriver::JsonFile {
        return Err(EngineError::invalid(
            "max-file cannot be set without max-size",
        ));
    }
    Ok(ShimLog {
        driver,
        path,
        max_size,
        max_file,
        attrs,
    })
}

fn unknown_log_opt(key: &str, driver: &str) -> EngineError {
    EngineError::invalid(format!("unknown log opt '{key}' for {driver} log driver"))
}

fn expand_tag(template: &str, facts: &TagFacts) -> String {
    let short = crate::names::short_id(&facts.id);
    [
        ("{{.ID}}", short),
        ("{{.FullID}}", &facts.id),
        ("{{.Name}}", &facts.name),
        ("{{.ImageName}}", &facts.image),
        ("{{.DaemonName}}", "docker"),
    ]
    .into_iter()
    .fold(template.to_owned(), |text, (from, to)| {
        text.replace(from, to)
    })
}

/// `10m`, `1g`, `512k`, `100`: bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(lower.len());
    let number: u64 = lower[..digits].parse().ok()?;
    let shift = match lower[digits..].trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(kind: &str, options: &[(&str, &str)]) -> Result<ShimLog> {
        let log = LogConfig {
            kind: kind.into(),
            config: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        };
        let config = ContainerConfig {
            labels: [("tier".to_owned(), "front".to_owned())].into(),
            env: vec!["REGION=eu".into()],
            ..ContainerConfig::default()
        };
        let facts = TagFacts {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            image: "app:1".into(),
        };
        log_config(&log, &config, "/l".into(), facts)
    }

    #[test]
    fn log_options_are_read_and_others_refused() {
        let read = log(
            "json-file",
            &[
                ("max-size", "10m"),
                ("max-file", "3"),
                ("labels", "tier,none"),
                ("env", "REGION"),
                ("tag", "{{.Name}}/{{.ID}}"),
            ],
        )
        .unwrap();
        assert_eq!((read.max_size, read.max_file), (Some(10 << 20), 3));
        assert_eq!(read.attrs["tier"], "front");
        assert_eq!(read.attrs["REGION"], "eu");
        assert_eq!(read.attrs["tag"], "web/0123456789ab");
        assert_eq!(log("local", &[]).unwrap().max_file, 5);
        assert_eq!(
            log("json-file", &[("colour", "red")])
                .unwrap_err()
                .to_string(),
            "unknown log opt 'colour' for json-file log driver"
        );
        assert!(log("json-file", &[("max-size", "x")]).is_err());
        assert!(log("json-file", &[("max-file", "2")]).is_err());
        assert!(log("gelf", &[]).is_err());
    }
}
