//! Clock readings, and moments as docker writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the machine has been up, the time it slept included.
pub fn since_boot() -> Duration {
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    // The clock is there since Linux 2.6.39.
    clock.now().map_or(Duration::ZERO, Duration::from)
}

/// The present moment as RFC 3339 in UTC with nanoseconds.
pub fn now() -> String {
    rfc3339(SystemTime::now())
}

/// A moment as RFC 3339 in UTC. As in Go's `RFC3339Nano`, zeros at the end of the
/// fraction are left out.
pub fn rfc3339(moment: SystemTime) -> String {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil_date((seconds / 86_400) as i64);
    let in_day = seconds % 86_400;
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        in_day / 3600,
        in_day / 60 % 60,
        in_day % 60
    );
    if since.subsec_nanos() != 0 {
        let fraction = format!("{:09}", since.subsec_nanos());
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar.
/// Counts in eras of 400 years that begin on the first of March, so that the leap
/// day is the last of its year.
fn civil_date(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

/// The seconds since 1970 of a moment that [`rfc3339`] wrote; its fraction is cut off.
pub fn parse_seconds(text: &str) -> Option<i64> {
    let (date, clock) = text.trim_end_matches('Z').split_once('T')?;
    let clock = clock.split('.').next()?;
    let mut numbers = date.split('-').chain(clock.split(':')).map(str::parse);
    let mut next = || -> Option<i64> { numbers.next()?.ok() };
    let (year, month, day) = (next()?, next()?, next()?);
    Some(day_number(year, month, day) * 86_400 + next()? * 3600 + next()? * 60 + next()?)
}

/// The inverse of [`civil_date`].
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A duration as Go prints it: `1.5s`, `2m0s`, `500ms`.
pub fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    if nanos < 1_000_000_000 {
        let (unit, size) = match nanos {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", decimal(nanos, size));
    }
    let seconds = duration.as_secs();
    let mut text = String::new();
    if seconds >= 3600 {
        text.push_str(&format!("{}h", seconds / 3600));
    }
    if seconds >= 60 {
        text.push_str(&format!("{}m", seconds / 60 % 60));
    }
    let rest = nanos % 60_000_000_000;
    text.push_str(&format!("{}s", decimal(rest, 1_000_000_000)));
    text
}

fn decimal(value: u128, unit: u128) -> String {
    let fraction = value % unit;
    if fraction == 0 {
        return (value / unit).to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{}.{}", value / unit, digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_go_writes_them() {
        let at = |seconds, nanos| rfc3339(UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199, 120_000_000), "2024-02-29T23:59:59.12Z");
        assert_eq!(at(1_735_689_600, 1), "2025-01-01T00:00:00.000000001Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn moments_are_read_back() {
        for seconds in [0, 951_782_399, 951_782_400, 1_735_689_600, 4_107_542_400] {
            let text = rfc3339(UNIX_EPOCH + Duration::new(seconds, 120_000_000));
            assert_eq!(parse_seconds(&text), Some(seconds as i64), "{text}");
        }
        assert_eq!(parse_seconds("yesterday"), None);
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let check = |millis, text: &str| {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        };
        check(0, "0s");
        check(500, "500ms");
        check(1500, "1.5s");
        check(30_000, "30s");
        check(120_000, "2m0s");
        check(3_661_250, "1h1m1.25s");
    }
}
