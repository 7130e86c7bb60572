//! Durations as Go writes them: `1h30m`, `1.5s`, `100ms`.

use skep_model::Nanos;

/// Units, longest spelling first where one begins another.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration; nothing if the text is none or is out of range (292 years).
pub(crate) fn parse(text: &str) -> Option<Nanos> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Nanos(0));
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, *nanos)?)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total })
        .ok()
        .map(Nanos)
}

/// `number` (digits with at most one dot) times `unit`, rounded towards zero.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: i128 = match whole {
        "" => 0,
        digits => digits.parse::<u64>().ok()?.into(),
    };
    // More than 15 digits are less than any unit can show.
    let fraction = &fraction[..fraction.len().min(15)];
    let part = match fraction {
        "" => 0,
        digits => {
            let scale = 10_i128.pow(u32::try_from(digits.len()).ok()?);
            digits.parse::<i128>().ok()? * unit / scale
        }
    };
    whole.checked_mul(unit)?.checked_add(part)
}

/// A duration as Go prints it: `1m30s`, `1.5ms`, `0s`.
pub(crate) fn print(length: Nanos) -> String {
    let nanos = length.0.unsigned_abs();
    let sign = if length.0 < 0 { "-" } else { "" };
    let decimal = |value: u64, unit: u64| {
        let fraction = value % unit;
        if fraction == 0 {
            return format!("{}", value / unit);
        }
        let digits = unit.ilog10() as usize;
        let fraction = format!("{fraction:0digits$}");
        format!("{}.{}", value / unit, fraction.trim_end_matches('0'))
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_printed_as_go_does() {
        for (text, nanos, printed) in [
            ("90s", 90_000_000_000, "1m30s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("1.5h", 5_400_000_000_000, "1h30m0s"),
            ("1h1ms", 3_600_001_000_000, "1h0m0.001s"),
            ("100ms", 100_000_000, "100ms"),
            ("1us", 1_000, "1µs"),
            ("1.5µs", 1_500, "1.5µs"),
            ("3ns", 3, "3ns"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("-5s", -5_000_000_000, "-5s"),
            ("+.5s", 500_000_000, "500ms"),
            ("1.s", 1_000_000_000, "1s"),
            ("1m30s", 90_000_000_000, "1m30s"),
        ] {
            assert_eq!(parse(text), Some(Nanos(nanos)), "{text}");
            assert_eq!(print(Nanos(nanos)), printed, "{text}");
        }
        for wrong in [
            "",
            "5",
            "5x",
            "s",
            ".s",
            "1..5s",
            "1d",
            "- 1s",
            "10000000h",
            "5 s",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
