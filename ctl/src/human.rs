//! Ages, sizes, cut texts and order, as docker's tables show them.

use std::cmp::Ordering;
use std::time::Duration;

use skep_model::Timestamp;

/// `5 minutes`, `About an hour`, …
pub fn age(length: Duration) -> String {
    let seconds = length.as_secs();
    let minutes = seconds / 60;
    let hours = (length.as_secs_f64() / 3600.0 + 0.5) as u64;
    let plural = |count: u64, unit: &str| format!("{count} {unit}");
    if seconds < 1 {
        "Less than a second".to_owned()
    } else if seconds == 1 {
        "1 second".to_owned()
    } else if seconds < 60 {
        plural(seconds, "seconds")
    } else if minutes == 1 {
        "About a minute".to_owned()
    } else if minutes < 60 {
        plural(minutes, "minutes")
    } else if hours == 1 {
        "About an hour".to_owned()
    } else if hours < 48 {
        plural(hours, "hours")
    } else if hours < 24 * 7 * 2 {
        plural(hours / 24, "days")
    } else if hours < 24 * 30 * 2 {
        plural(hours / 24 / 7, "weeks")
    } else if hours < 24 * 365 * 2 {
        plural(hours / 24 / 30, "months")
    } else {
        plural(seconds / 3600 / 24 / 365, "years")
    }
}

/// `5 minutes ago`.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", age(now.since(at)))
}

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

fn scaled(size: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut size = size;
    let mut unit = 0;
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    format!("{}{}", general(size, digits), units[unit])
}

/// Powers of 1000 with four digits: `1.234kB`.
pub fn size(bytes: f64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 4)
}

/// Powers of 1000 with three digits: `1.23MB`, as images and containers are shown.
pub fn size3(bytes: f64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 3)
}

/// Powers of 1024 with four digits: `1.944GiB`.
pub fn size_binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, &BINARY, 4)
}

/// A number with so many significant digits and no trailing zeros: C's `%.{digits}g`.
pub fn general(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
    } else {
        let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
        trim(&format!("{value:.decimals$}"))
    }
}

/// Bytes in `10m`, `1.5g`, `512MiB`; every unit is a power of 1024.
pub fn parse_bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("invalid size: '{text}'");
    let number_end = text
        .rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')
        .map(|at| at + 1)
        .ok_or_else(wrong)?;
    let suffix = text[number_end..].to_lowercase();
    let number = text[..number_end]
        .strip_suffix(' ')
        .unwrap_or(&text[..number_end]);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    if number < 0.0 {
        return Err(wrong());
    }
    let power = match suffix.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(format!("invalid suffix: '{suffix}'")),
    };
    let bytes = number * 1024f64.powi(power);
    if bytes >= i64::MAX as f64 {
        return Err(wrong());
    }
    Ok(bytes as i64)
}

/// At most `width` characters; a cut one ends in an ellipsis.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// An id as tables show it: without its algorithm, twelve characters.
pub fn short_id(id: &str) -> &str {
    let id = id.split_once(':').map_or(id, |(_, rest)| rest);
    id.get(..12).unwrap_or(id)
}

/// In double quotes, as Go's `%q` prints it.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                quoted.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Order in which `web.2` comes before `web.10`.
pub fn natural(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    let (mut i, mut j) = (0, 0);
    while i < left.len() && j < right.len() {
        if left[i].is_ascii_digit() && right[j].is_ascii_digit() {
            let (left_end, right_end) = (digits_end(left, i), digits_end(right, j));
            let (left_start, right_start) = (
                after_zeros(left, i, left_end),
                after_zeros(right, j, right_end),
            );
            let order = (left_end - left_start)
                .cmp(&(right_end - right_start))
                .then_with(|| left[left_start..left_end].cmp(&right[right_start..right_end]))
                // Equal numbers: the one with fewer leading zeros first.
                .then_with(|| (left_start - i).cmp(&(right_start - j)));
            if order.is_ne() {
                return order;
            }
            (i, j) = (left_end, right_end);
        } else {
            if left[i] != right[j] {
                return left[i].cmp(&right[j]);
            }
            i += 1;
            j += 1;
        }
    }
    (left.len() - i).cmp(&(right.len() - j))
}

fn digits_end(text: &[u8], from: usize) -> usize {
    text[from..]
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .map_or(text.len(), |length| from + length)
}

fn after_zeros(text: &[u8], from: usize, end: usize) -> usize {
    text[from..end]
        .iter()
        .position(|byte| *byte != b'0')
        .map_or(end, |zeros| from + zeros)
}

/// A moment as Go prints it: `2025-11-23 10:00:00.5 +0000 UTC`.
pub fn go_time(at: Timestamp) -> String {
    if at.is_zero() {
        return "0001-01-01 00:00:00 +0000 UTC".to_owned();
    }
    let text = at.to_string();
    text.replacen('T', " ", 1).trim_end_matches('Z').to_owned() + " +0000 UTC"
}

/// A moment with whole seconds in the local zone: `2025-11-23 10:00:00 +0000 UTC`.
pub fn local_time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|at| {
            at.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%d %H:%M:%S %z %Z")
                .to_string()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_dockers() {
        let minute = 60;
        let hour = 3600;
        let day = 24 * hour;
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (minute + 15, "About a minute"),
            (5 * minute, "5 minutes"),
            (59 * minute, "59 minutes"),
            (hour, "About an hour"),
            (hour + 29 * minute, "About an hour"),
            (hour + 31 * minute, "2 hours"),
            (47 * hour, "47 hours"),
            (2 * day, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (60 * day, "2 months"),
            (729 * day, "24 months"),
            (730 * day, "2 years"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn sizes_are_dockers() {
        assert_eq!(size(0.0), "0B");
        assert_eq!(size(1234.0), "1.234kB");
        assert_eq!(size3(123_456_789.0), "123MB");
        assert_eq!(size3(7_800_000.0), "7.8MB");
        assert_eq!(size3(999_999.0), "1e+03kB");
        assert_eq!(size_binary(2_087_555_072.0), "1.944GiB");
        assert_eq!(size_binary(1024.0), "1KiB");
        assert_eq!(parse_bytes("10m"), Ok(10 << 20));
        assert_eq!(parse_bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_bytes("64"), Ok(64));
        assert_eq!(parse_bytes("4x"), Err("invalid suffix: 'x'".to_owned()));
        for wrong in ["", "x", "-1", "1.2.3"] {
            assert_eq!(parse_bytes(wrong), Err(format!("invalid size: '{wrong}'")));
        }
    }

    #[test]
    fn names_sort_as_people_count() {
        let mut names = [
            "web.10", "web.2", "api.1", "web.1", "web", "w10b", "w9c", "a01", "a1",
        ];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(
            names,
            [
                "a1", "a01", "api.1", "w9c", "w10b", "web", "web.1", "web.2", "web.10"
            ]
        );
    }

    #[test]
    fn texts_are_cut_and_quoted() {
        assert_eq!(
            ellipsis("starting container failed: no such file", 30),
            "starting container failed: no…"
        );
        assert_eq!(ellipsis("short", 30), "short");
        assert_eq!(quote("a \"b\"\n…"), "\"a \\\"b\\\"\\n…\"");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(general(0.5, 4), "0.5");
    }
}
