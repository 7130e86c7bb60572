//! `--since` and `--until`: a moment, or how long ago.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use skep_model::Timestamp;

use crate::duration;

/// As the API takes it: seconds since the epoch, with nanoseconds behind a point.
pub fn parse(text: &str, now: Timestamp) -> Result<String, String> {
    let nanos = if let Ok(ago) = duration::parse(text) {
        now.0.saturating_sub(ago)
    } else if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !text.is_empty() {
        return Ok(text.to_owned());
    } else {
        absolute(text).ok_or_else(|| {
            format!(
                "failed to parse value as time or duration: {}",
                crate::human::quote(text)
            )
        })?
    };
    Ok(format!(
        "{}.{:09}",
        nanos.div_euclid(1_000_000_000),
        nanos.rem_euclid(1_000_000_000)
    ))
}

/// With a zone, or in the local one: a date, or a date and a time.
fn absolute(text: &str) -> Option<i64> {
    let zoned = |civil: DateTime| {
        civil
            .to_zoned(TimeZone::system())
            .ok()
            .map(|at| at.timestamp())
    };
    let at = text
        .parse::<jiff::Timestamp>()
        .ok()
        .or_else(|| zoned(text.parse().ok()?))
        .or_else(|| {
            zoned(
                text.parse::<Date>()
                    .ok()?
                    .to_datetime(jiff::civil::Time::midnight()),
            )
        })?;
    i64::try_from(at.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now = Timestamp(1_700_000_000_500_000_000);
        assert_eq!(parse("10m", now).unwrap(), "1699999400.500000000");
        assert_eq!(parse("1700000000", now).unwrap(), "1700000000");
        assert_eq!(
            parse("2013-01-02T13:23:37Z", now).unwrap(),
            "1357133017.000000000"
        );
        assert!(parse("2013-01-02", now).is_ok());
        assert!(parse("soon", now).is_err());
    }
}
