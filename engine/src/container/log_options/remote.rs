//! Logs that somebody else keeps: docker's `syslog` and `journald`.

use std::collections::BTreeMap;
use std::path::Path;

use skep_shim::config::{Address, RemoteConfig, SyslogFormat};

use super::{LookUp, TagFacts};
use crate::error::{EngineError, Result};
use crate::types::LogConfig;

/// Docker's facilities by their number.
const FACILITIES: [&str; 24] = [
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
    "ntp",
    "security",
    "console",
    "solaris-cron",
    "local0",
    "local1",
    "local2",
    "local3",
    "local4",
    "local5",
    "local6",
    "local7",
];
const DAEMON: u8 = 3;

/// What `syslog` is told of a container.
///
/// # Errors
/// An address that is none or cannot be found, or a facility or format that is not there.
pub(super) fn syslog(
    log: &LogConfig,
    tag: Option<String>,
    facts: &TagFacts,
    look_up: LookUp,
) -> Result<RemoteConfig> {
    let option = |key: &str| log.config.get(key).map_or("", String::as_str);
    let facility = match option("syslog-facility") {
        "" => DAEMON,
        text => FACILITIES
            .iter()
            .position(|name| *name == text)
            .map(|number| number as u8)
            .or_else(|| text.parse().ok().filter(|number| *number < 24))
            .ok_or_else(|| EngineError::invalid("invalid syslog facility"))?,
    };
    let format = match option("syslog-format") {
        "" => SyslogFormat::Local,
        "rfc3164" => SyslogFormat::Rfc3164,
        "rfc5424" => SyslogFormat::Rfc5424,
        "rfc5424micro" => SyslogFormat::Rfc5424Micro,
        _ => return Err(EngineError::invalid("Invalid syslog format")),
    };
    Ok(RemoteConfig::Syslog {
        address: address(option("syslog-address"), look_up)?,
        facility,
        format,
        tag: tag.unwrap_or_else(|| crate::names::short_id(&facts.id).to_owned()),
        hostname: nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "localhost".into()),
    })
}

/// `unix:///dev/log`, `udp://host:514`, `tcp://host:514`; this host's own without.
/// Names are looked up here, anew at each start.
fn address(text: &str, look_up: LookUp) -> Result<Address> {
    if text.is_empty() {
        let usual = ["/dev/log", "/var/run/syslog", "/var/run/log"];
        let path = usual.iter().find(|path| Path::new(path).exists());
        return Ok(Address::Unix(path.unwrap_or(&usual[0]).into()));
    }
    let wrong = || {
        EngineError::invalid(format!(
            "syslog-address should be in form proto://address, got {text}"
        ))
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let host = match rest.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => rest.to_owned(),
        _ => format!("{rest}:514"),
    };
    let resolved = || {
        look_up(&host).ok_or_else(|| {
            EngineError::invalid(format!(
                "syslog-address: cannot find the address of \"{host}\""
            ))
        })
    };
    match scheme {
        "unix" | "unixgram" if Path::new(rest).exists() => Ok(Address::Unix(rest.into())),
        "unix" | "unixgram" => Err(EngineError::invalid(format!(
            "stat {rest}: no such file or directory"
        ))),
        "udp" => Ok(Address::Udp(resolved()?)),
        "tcp" => Ok(Address::Tcp(resolved()?)),
        "tcp+tls" => Err(EngineError::invalid(
            "syslog-address: tcp+tls is not supported; use a syslog server of this host to forward",
        )),
        _ => Err(wrong()),
    }
}

/// Where the journal of this host listens.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Docker's fields of a journal entry.
pub(super) fn journal(
    details: &BTreeMap<String, String>,
    tag: Option<String>,
    facts: &TagFacts,
) -> RemoteConfig {
    let short = crate::names::short_id(&facts.id);
    let tag = tag.unwrap_or_else(|| short.to_owned());
    let mut fields: BTreeMap<String, String> = details
        .iter()
        .map(|(name, value)| (journal_field(name), value.clone()))
        .collect();
    fields.extend([
        ("CONTAINER_ID".to_owned(), short.to_owned()),
        ("CONTAINER_ID_FULL".to_owned(), facts.id.clone()),
        ("CONTAINER_NAME".to_owned(), facts.name.clone()),
        ("CONTAINER_TAG".to_owned(), tag.clone()),
        ("IMAGE_NAME".to_owned(), facts.image.clone()),
        ("SYSLOG_IDENTIFIER".to_owned(), tag),
    ]);
    RemoteConfig::Journal {
        socket: JOURNAL.into(),
        fields,
    }
}

/// A name as the journal takes it: letters, digits and `_`, not first a `_`.
fn journal_field(name: &str) -> String {
    let field: String = name
        .chars()
        .map(|letter| match letter.to_ascii_uppercase() {
            letter if letter.is_ascii_alphanumeric() => letter,
            _ => '_',
        })
        .collect();
    field.trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use skep_shim::config::LogDriver;

    use super::super::tests::log;
    use super::*;

    #[test]
    fn syslog_is_told_where_and_as_what() {
        let read = log(
            "syslog",
            &[
                ("syslog-address", "udp://127.0.0.1:1514"),
                ("syslog-facility", "local0"),
                ("syslog-format", "rfc5424"),
                ("tag", "{{.Name}}"),
            ],
        )
        .unwrap();
        let Some(RemoteConfig::Syslog {
            address,
            facility,
            format,
            tag,
            ..
        }) = read.remote
        else {
            panic!("{read:?}");
        };
        assert_eq!(address, Address::Udp(([127, 0, 0, 1], 1514).into()));
        assert_eq!((facility, format), (16, SyslogFormat::Rfc5424));
        assert_eq!(tag, "web");
        // A copy is kept for `docker logs`, unless it is not wanted.
        assert_eq!((read.driver, read.max_file), (LogDriver::Local, 5));
        let without = log("syslog", &[("cache-disabled", "true")]).unwrap();
        assert_eq!(without.driver, LogDriver::None);
        for (key, value) in [
            ("syslog-address", "127.0.0.1"),
            ("syslog-address", "unix:///nowhere/log"),
            ("syslog-address", "tcp+tls://127.0.0.1:6514"),
            ("syslog-facility", "local9"),
            ("syslog-format", "rfc1"),
            ("syslog-tls-cert", "x"),
            ("max-size", "1m"),
        ] {
            assert!(log("syslog", &[(key, value)]).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn the_journal_gets_the_containers_facts_as_fields() {
        let read = log("journald", &[("labels-regex", "^ti"), ("env", "REGION")]).unwrap();
        let Some(RemoteConfig::Journal { fields, .. }) = read.remote else {
            panic!("{read:?}");
        };
        assert_eq!(fields["CONTAINER_NAME"], "web");
        assert_eq!(fields["CONTAINER_ID"], "0123456789ab");
        assert_eq!(fields["CONTAINER_TAG"], "0123456789ab");
        assert_eq!(fields["TIER"], "front");
        assert_eq!(fields["REGION"], "eu");
        assert_eq!(journal_field("_com.example-x"), "COM_EXAMPLE_X");
    }
}
