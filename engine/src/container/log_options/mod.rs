//! Log drivers and their options.

mod remote;

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use skep_shim::config::{LogConfig as ShimLog, LogDriver};

use crate::container::record::ContainerRecord;
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

/// Options of every driver: how a container waits for its log, and the copy that
/// `docker logs` reads of logs kept elsewhere. Writing never holds a container up
/// here, so `mode` and `max-buffer-size` have nothing to change.
const COMMON: [&str; 6] = [
    "mode",
    "max-buffer-size",
    "cache-disabled",
    "cache-max-file",
    "cache-max-size",
    "cache-compress",
];
/// Options that add to what an entry says.
const DETAILS: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

/// A driver and the options it has of its own.
struct Driver {
    name: &'static str,
    own: &'static [&'static str],
}

const DRIVERS: [Driver; 5] = [
    Driver {
        name: "json-file",
        own: &["max-size", "max-file", "compress"],
    },
    Driver {
        name: "local",
        own: &["max-size", "max-file", "compress"],
    },
    Driver {
        name: "none",
        own: &[],
    },
    Driver {
        name: "syslog",
        own: &["syslog-address", "syslog-facility", "syslog-format"],
    },
    Driver {
        name: "journald",
        own: &[],
    },
];

/// The names of all drivers, in docker's order.
pub(crate) const DRIVER_NAMES: [&str; 5] = ["journald", "json-file", "local", "none", "syslog"];

/// How the address of a `host:port` is found.
pub(crate) type LookUp = fn(&str) -> Option<SocketAddr>;

/// Asks this host's resolver. Blocking.
pub(crate) fn ask_resolver(host: &str) -> Option<SocketAddr> {
    host.to_socket_addrs().ok()?.next()
}

/// For checks: any name may be found later.
pub(crate) fn assume_found(host: &str) -> Option<SocketAddr> {
    Some(host.parse().unwrap_or(([0, 0, 0, 0], 0).into()))
}

/// Reads a log configuration; its driver's options are checked here.
///
/// # Errors
/// A driver or an option that is not there, or a value it cannot have.
pub(crate) fn log_config(
    log: &LogConfig,
    config: &ContainerConfig,
    path: PathBuf,
    facts: TagFacts,
    look_up: LookUp,
) -> Result<ShimLog> {
    let name = match log.kind.as_str() {
        "" => "json-file",
        name => name,
    };
    let driver = DRIVERS
        .iter()
        .find(|driver| driver.name == name)
        .ok_or_else(|| {
            EngineError::invalid(format!(
                "logger: no log driver named '{name}' is registered"
            ))
        })?;
    for key in log.config.keys() {
        if name == "syslog" && key.starts_with("syslog-tls-") {
            return Err(EngineError::invalid(format!(
                "log opt '{key}': syslog over TLS is not supported; use a syslog server of this host to forward"
            )));
        }
        let known = driver.own.contains(&key.as_str())
            || name != "none"
                && (COMMON.contains(&key.as_str()) || DETAILS.contains(&key.as_str()));
        if !known {
            return Err(EngineError::invalid(format!(
                "unknown log opt '{key}' for {name} log driver"
            )));
        }
    }
    check_common(log)?;
    let option = |key: &str| log.config.get(key).map(String::as_str);
    let tag = option("tag").map(|template| expand_tag(template, &facts));
    let details = details(log, config)?;
    let kept_here = |prefix: &str, size: Option<u64>, files: u32| -> Result<(Option<u64>, u32)> {
        Ok((
            size_option(log, &format!("{prefix}max-size"), size)?,
            count_option(log, &format!("{prefix}max-file"), files)?,
        ))
    };
    let (driver, (max_size, max_file), remote) = match name {
        "none" => (LogDriver::None, (None, 1), None),
        "json-file" => (LogDriver::JsonFile, kept_here("", None, 1)?, None),
        "local" => (LogDriver::Local, kept_here("", Some(20 << 20), 5)?, None),
        remote => {
            let kept_by = match remote {
                "syslog" => remote::syslog(log, tag.clone(), &facts, look_up)?,
                _ => remote::journal(&details, tag.clone(), &facts),
            };
            let copy = match switch_option(log, "cache-disabled")? {
                true => LogDriver::None,
                false => LogDriver::Local,
            };
            (copy, kept_here("cache-", Some(20 << 20), 5)?, Some(kept_by))
        }
    };
    let mut attrs = details;
    attrs.extend(tag.map(|tag| ("tag".to_owned(), tag)));
    Ok(ShimLog {
        driver,
        path,
        max_size,
        max_file,
        attrs,
        remote,
    })
}

/// Whether `docker logs` has something to read of a container with this log.
pub(crate) fn can_be_read(log: &LogConfig) -> bool {
    match log.kind.as_str() {
        "none" => false,
        "syslog" | "journald" => !switch_option(log, "cache-disabled").unwrap_or_default(),
        _ => true,
    }
}

fn check_common(log: &LogConfig) -> Result<()> {
    let mode = log.config.get("mode").map_or("", String::as_str);
    if !["", "blocking", "non-blocking"].contains(&mode) {
        return Err(EngineError::invalid(format!(
            "logger: logging mode not supported: {mode}"
        )));
    }
    if log.config.contains_key("max-buffer-size") {
        if mode != "non-blocking" {
            return Err(EngineError::invalid(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ));
        }
        size_option(log, "max-buffer-size", None)?;
    }
    switch_option(log, "compress")?;
    switch_option(log, "cache-compress")?;
    Ok(())
}

fn wrong_value(log: &LogConfig, key: &str) -> EngineError {
    let value = log.config.get(key).map_or("", String::as_str);
    EngineError::invalid(format!(
        "invalid value \"{value}\" for log opt '{key}' for {} log driver",
        log.kind
    ))
}

fn size_option(log: &LogConfig, key: &str, default: Option<u64>) -> Result<Option<u64>> {
    match log.config.get(key).map(String::as_str) {
        None => Ok(default),
        Some("-1") => Ok(None),
        Some(text) => match parse_size(text).filter(|size| *size > 0) {
            Some(size) => Ok(Some(size)),
            None => Err(wrong_value(log, key)),
        },
    }
}

fn count_option(log: &LogConfig, key: &str, default: u32) -> Result<u32> {
    match log.config.get(key).map(|text| text.parse()) {
        None => Ok(default),
        Some(Ok(count)) if count > 0 => Ok(count),
        Some(_) => Err(wrong_value(log, key)),
    }
}

fn switch_option(log: &LogConfig, key: &str) -> Result<bool> {
    match log.config.get(key).map(String::as_str) {
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some(_) => Err(wrong_value(log, key)),
    }
}

/// The labels and variables of the container that its entries carry.
fn details(log: &LogConfig, config: &ContainerConfig) -> Result<BTreeMap<String, String>> {
    let option = |key: &str| log.config.get(key).filter(|value| !value.is_empty());
    let pattern = |key: &str| -> Result<Option<regex_lite::Regex>> {
        option(key)
            .map(|text| regex_lite::Regex::new(text).map_err(|_| wrong_value(log, key)))
            .transpose()
    };
    let named = |key: &str| -> Vec<&str> {
        option(key).map_or_else(Vec::new, |names| names.split(',').collect())
    };
    let mut found = BTreeMap::new();
    let (names, expression) = (named("labels"), pattern("labels-regex")?);
    for (name, value) in &config.labels {
        if names.contains(&name.as_str()) || expression.as_ref().is_some_and(|e| e.is_match(name)) {
            found.insert(name.clone(), value.clone());
        }
    }
    let (names, expression) = (named("env"), pattern("env-regex")?);
    for (name, value) in config.env.iter().filter_map(|line| line.split_once('=')) {
        if names.contains(&name) || expression.as_ref().is_some_and(|e| e.is_match(name)) {
            found.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(found)
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

    pub(super) fn log(kind: &str, options: &[(&str, &str)]) -> Result<ShimLog> {
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
        log_config(&log, &config, "/l".into(), facts, assume_found)
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
        // Without a size nothing is ever rotated; dockerd takes it all the same.
        assert!(log("json-file", &[("max-file", "2")]).is_ok());
        assert!(log("gelf", &[]).is_err());
        for wrong in [
            ("mode", "fast"),
            ("max-buffer-size", "1m"),
            ("compress", "x"),
        ] {
            assert!(log("json-file", &[wrong]).is_err(), "{wrong:?}");
        }
    }
}
