//! `HEALTHCHECK`.

use crate::flags::Flags;
use crate::instruction::Command;
use crate::json;
use crate::lines::Node;

/// Shortest time that is not "not given".
const NANOS_MIN: i64 = 1_000_000;

/// How to see whether a container is well. Times are nanoseconds; 0 is not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// `None`: no check, not even the base image's.
    pub command: Option<Command>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}

pub(crate) fn parse(node: &Node) -> Result<Health, String> {
    let (kind, rest) = node
        .rest
        .split_once(char::is_whitespace)
        .unwrap_or((&node.rest, ""));
    let rest = rest.trim();
    let mut flags = Flags::new(&node.flags);
    match kind.to_ascii_uppercase().as_str() {
        "" => Err("HEALTHCHECK requires at least one argument".into()),
        "NONE" => {
            flags.finish()?;
            match rest {
                "" => Ok(Health::default()),
                _ => Err("HEALTHCHECK NONE takes no arguments".into()),
            }
        }
        "CMD" => {
            let mut length = |name| match flags.text(name)? {
                None => Ok(0),
                Some(text) => duration(name, &text),
            };
            let mut health = Health {
                interval: length("interval")?,
                timeout: length("timeout")?,
                start_period: length("start-period")?,
                start_interval: length("start-interval")?,
                ..Health::default()
            };
            if let Some(text) = flags.text("retries")? {
                let wrong = || format!("invalid value for --retries: {text}");
                health.retries = text.parse().map_err(|_| wrong())?;
                if health.retries < 0 {
                    return Err(format!(
                        "--retries must be at least 0 (not {})",
                        health.retries
                    ));
                }
            }
            flags.finish()?;
            if rest.is_empty() {
                return Err("Missing command after HEALTHCHECK CMD".into());
            }
            health.command = Some(match json::list(rest)? {
                Some(words) => Command {
                    words,
                    shell: false,
                },
                None => Command {
                    words: vec![rest.to_owned()],
                    shell: true,
                },
            });
            Ok(health)
        }
        other => Err(format!("Unknown type \"{other}\" in HEALTHCHECK (try CMD)")),
    }
}

/// Go's notation: `1h30m`, `1.5s`, `100ms`.
fn duration(name: &str, text: &str) -> Result<i64, String> {
    let nanos = nanos(text).ok_or_else(|| format!("time: invalid duration \"{text}\""))?;
    if nanos < 0 {
        return Err(format!("Interval \"{name}\" cannot be negative"));
    }
    if nanos > 0 && nanos < NANOS_MIN {
        return Err(format!("Interval \"{name}\" cannot be less than 1ms"));
    }
    Ok(nanos)
}

fn nanos(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |at| end + at);
        let unit = match &rest[end..unit_end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += value * unit;
        rest = &rest[unit_end..];
    }
    if total > i64::MAX as f64 {
        return None;
    }
    let total = total as i64;
    Some(if negative { -total } else { total })
}
