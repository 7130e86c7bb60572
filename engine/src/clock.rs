//! The wall clock, and the forms of time clients send: Unix seconds with a
//! fraction, RFC 3339, and Go durations meaning "so long ago".

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use skep_model::Timestamp;

use crate::error::{EngineError, Result};

/// Now.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Reads `since`, `until` and the like.
pub fn parse_moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    let wrong = || EngineError::invalid(format!("invalid time: \"{text}\""));
    if let Some(ago) = parse_go_duration(text) {
        return Ok(Timestamp(now.0.saturating_sub(ago)));
    }
    if text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-')
        && !text[1.min(text.len())..].contains('-')
    {
        return parse_unix(text).ok_or_else(wrong);
    }
    if let Ok(moment) = Timestamp::parse(text) {
        return Ok(moment);
    }
    // Dates without a zone are local time; the daemon's zone is UTC for us.
    for candidate in [
        format!("{text}Z"),
        format!("{text}:00Z"),
        format!("{text}T00:00:00Z"),
    ] {
        if let Ok(moment) = Timestamp::parse(&candidate) {
            return Ok(moment);
        }
    }
    Err(wrong())
}

/// `1700000000` or `1700000000.123456789`.
fn parse_unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || seconds.is_empty() {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let nanos: i64 = if fraction.is_empty() {
        0
    } else {
        format!("{fraction:0<9}").parse().ok()?
    };
    Some(Timestamp(
        seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?,
    ))
}

/// `1h30m`, `10m`, `1.5s`, `250ms`: nanoseconds.
pub fn parse_go_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .filter(|at| *at > 0)?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let nanos = match &rest[..unit] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += value * nanos;
        rest = &rest[unit..];
    }
    (total < i64::MAX as f64).then_some(total as i64)
}

/// `Less than a second`, `3 minutes`, `2 weeks`: as docker's tables say it.
pub(crate) fn human_duration(length: Duration) -> String {
    let seconds = length.as_secs();
    let minutes = length.as_secs_f64() / 60.0;
    let hours = (length.as_secs_f64() / 3600.0 + 0.5) as u64;
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        _ => match minutes as u64 {
            1 => "About a minute".into(),
            count @ 2..60 => format!("{count} minutes"),
            _ => match hours {
                1 => "About an hour".into(),
                0..48 => format!("{hours} hours"),
                48..336 => format!("{} days", hours / 24),
                336..1440 => format!("{} weeks", hours / 24 / 7),
                1440..17520 => format!("{} months", hours / 24 / 30),
                _ => format!("{} years", hours / 24 / 365),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_a_client_sends_is_read() {
        let now = Timestamp::from_secs(1_700_000_000);
        let check = |text: &str, nanos: i64| {
            assert_eq!(parse_moment(text, now).unwrap(), Timestamp(nanos), "{text}");
        };
        check("1699999999", 1_699_999_999_000_000_000);
        check("1699999999.5", 1_699_999_999_500_000_000);
        check("0", 0);
        check("10m", 1_699_999_400_000_000_000);
        check("1h30m", 1_699_994_600_000_000_000);
        check("2023-11-14T22:13:20Z", 1_700_000_000_000_000_000);
        check("2023-11-14T22:13:20", 1_700_000_000_000_000_000);
        check("2023-11-14", 1_699_920_000_000_000_000);
        for wrong in ["", "x", "1.2.3", "10 minutes"] {
            assert!(parse_moment(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lengths_read_like_dockers() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 15, "2 weeks"),
            (86_400 * 90, "3 months"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text);
        }
    }
}
