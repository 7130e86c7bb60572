//! Syslog messages as docker writes them: RFC 3164 and RFC 5424.

use super::remote::{RemoteConfig, SyslogFormat};
use super::{Entry, Output};
use crate::{sys, time};

/// One message, ended by a newline, which also parts messages in a stream.
pub fn message(config: &RemoteConfig, output: Output, entry: &Entry<'_>) -> Vec<u8> {
    let RemoteConfig::Syslog {
        facility,
        format,
        tag,
        hostname,
        ..
    } = config
    else {
        return Vec::new();
    };
    let priority = u32::from(*facility) * 8 + output.severity();
    let pid = std::process::id();
    let header = match format {
        SyslogFormat::Local => {
            format!("<{priority}>{} {tag}[{pid}]: ", stamp(entry.time))
        }
        SyslogFormat::Rfc3164 => {
            format!(
                "<{priority}>{} {hostname} {tag}[{pid}]: ",
                stamp(entry.time)
            )
        }
        SyslogFormat::Rfc5424 => {
            let time = with_fraction(entry.time, 0);
            format!("<{priority}>1 {time} {hostname} {tag} {pid} {tag} - ")
        }
        SyslogFormat::Rfc5424Micro => {
            let time = with_fraction(entry.time, 6);
            format!("<{priority}>1 {time} {hostname} {tag} {pid} {tag} - ")
        }
    };
    let mut message = header.into_bytes();
    message.extend_from_slice(entry.text);
    message.push(b'\n');
    message
}

/// `Jan  2 15:04:05` in the host's time zone, as RFC 3164 wants it, of a moment in
/// RFC 3339 and UTC.
fn stamp(time: &str) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let local = sys::local_time(time::parse_seconds(time).unwrap_or_default());
    let month = MONTHS.get(local.tm_mon as usize).copied().unwrap_or("Jan");
    format!(
        "{month} {:2} {:02}:{:02}:{:02}",
        local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec
    )
}

/// The same moment with so many digits of a second.
fn with_fraction(time: &str, digits: usize) -> String {
    let whole = time.trim_end_matches('Z');
    let (seconds, fraction) = whole.split_once('.').unwrap_or((whole, ""));
    if digits == 0 {
        return format!("{seconds}Z");
    }
    let fraction: String = fraction
        .chars()
        .chain(std::iter::repeat('0'))
        .take(digits)
        .collect();
    format!("{seconds}.{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::remote::Address;

    fn written(format: SyslogFormat) -> String {
        let config = RemoteConfig::Syslog {
            address: Address::Unix("/dev/log".into()),
            facility: 16,
            format,
            tag: "web".into(),
            hostname: "host".into(),
        };
        let entry = Entry {
            text: b"hello",
            whole: true,
            time: "2025-03-04T05:06:07.12Z",
        };
        let text = String::from_utf8(message(&config, Output::Stderr, &entry)).unwrap();
        text.replace(&std::process::id().to_string(), "PID")
    }

    #[test]
    fn each_format_is_written_as_its_rfc_says() {
        // local0 is 16, an error 3.
        assert_eq!(
            written(SyslogFormat::Rfc5424),
            "<131>1 2025-03-04T05:06:07Z host web PID web - hello\n"
        );
        assert_eq!(
            written(SyslogFormat::Rfc5424Micro),
            "<131>1 2025-03-04T05:06:07.120000Z host web PID web - hello\n"
        );
        let local = written(SyslogFormat::Local);
        assert!(local.starts_with("<131>Mar  "), "{local}");
        assert!(local.ends_with(":07 web[PID]: hello\n"), "{local}");
        let with_host = written(SyslogFormat::Rfc3164);
        assert!(with_host.ends_with(":07 host web[PID]: hello\n"));
    }
}
