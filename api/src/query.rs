//! The query part of a request's URL, and percent escapes.

use skep_model::{Timestamp, Version};

use crate::status::{ApiError, Outcome};

/// Query parameters in the order given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads `a=1&b=x%20y`.
    pub fn parse(text: &str) -> Self {
        let pairs = text
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                let plain = |text: &str| unescape(&text.replace('+', " "));
                (plain(key), plain(value))
            })
            .collect();
        Self { pairs }
    }

    /// The first value of a parameter; empty if it is not there.
    pub fn text(&self, key: &str) -> &str {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map_or("", |(_, value)| value)
    }

    /// All values of a parameter.
    pub fn all(&self, key: &str) -> Vec<String> {
        self.pairs
            .iter()
            .filter(|(name, _)| name == key)
            .map(|(_, value)| value.clone())
            .collect()
    }

    pub fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(name, _)| name == key)
    }

    /// dockerd's reading of a flag: anything but these is true.
    pub fn flag(&self, key: &str) -> bool {
        !matches!(
            self.text(key).trim().to_ascii_lowercase().as_str(),
            "" | "0" | "no" | "false" | "none"
        )
    }

    /// As [`Self::flag`], with a default for a parameter that is not there.
    pub fn flag_or(&self, key: &str, absent: bool) -> bool {
        if self.has(key) {
            self.flag(key)
        } else {
            absent
        }
    }

    /// A number; absent or empty is `None`.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Outcome<Option<T>> {
        match self.text(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::invalid(format!(
                    "invalid value for parameter '{key}': '{text}' is not a number in range"
                ))
            }),
        }
    }

    /// The `version` parameter of an update.
    pub fn version(&self, kind: &str) -> Outcome<Version> {
        let text = self.text("version");
        text.parse().map(Version::at).map_err(|_| {
            ApiError::invalid(format!("invalid {kind} version '{text}': want a number"))
        })
    }

    /// A point in time: Unix seconds with an optional fraction, or RFC 3339. Empty and `0` are
    /// `None`.
    pub fn time(&self, key: &str) -> Outcome<Option<Timestamp>> {
        match self.text(key) {
            "" | "0" => Ok(None),
            text => moment(text).map(Some).ok_or_else(|| {
                ApiError::invalid(format!(
                    "invalid value for parameter '{key}': '{text}' is not a time"
                ))
            }),
        }
    }
}

fn moment(text: &str) -> Option<Timestamp> {
    if text.contains(['T', 't']) {
        return Timestamp::parse(text).ok();
    }
    let (secs, fraction) = text.split_once('.').unwrap_or((text, ""));
    let secs: i64 = secs.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    secs.checked_mul(1_000_000_000)?
        .checked_add(nanos)
        .map(Timestamp)
}

/// Replaces `%xx`; what is no escape stays, and what is no UTF-8 becomes the replacement mark.
pub fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Escapes as Go's `url.QueryEscape` does.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_unescaped_and_repeatable() {
        let query = Query::parse("names=a%2Fb&names=c+d&all=1&x=%zz%4");
        assert_eq!(query.all("names"), ["a/b", "c d"]);
        assert!(query.flag("all"));
        assert_eq!(query.text("x"), "%zz%4");
        assert_eq!(query.text("none"), "");
    }

    #[test]
    fn flags_read_as_dockerd_reads_them() {
        let query = Query::parse("a=0&b=False&c=no&d=yes&e=");
        assert!(!query.flag("a") && !query.flag("b") && !query.flag("c") && query.flag("d"));
        assert!(!query.flag("e") && !query.flag("absent"));
        assert!(query.flag_or("absent", true) && !query.flag_or("a", true));
    }

    #[test]
    fn times_are_seconds_with_fractions_or_rfc_3339() {
        let query = Query::parse("a=1136073600.5&b=2006-01-01T00:00:00Z&c=0&d=x&e=1.1234567890");
        assert_eq!(
            query.time("a").unwrap(),
            Some(Timestamp(1_136_073_600_500_000_000))
        );
        assert_eq!(
            query.time("b").unwrap(),
            Some(Timestamp::from_secs(1_136_073_600))
        );
        assert_eq!(query.time("c").unwrap(), None);
        assert!(query.time("d").is_err() && query.time("e").is_err());
    }

    #[test]
    fn numbers_and_versions_name_what_is_wrong() {
        let query = Query::parse("h=abc&version=x");
        assert!(
            query
                .number::<u32>("h")
                .unwrap_err()
                .message()
                .contains("'h'")
        );
        assert!(
            query
                .version("service")
                .unwrap_err()
                .message()
                .starts_with("invalid service version 'x'")
        );
        assert_eq!(Query::default().number::<u32>("h").unwrap(), None);
    }

    #[test]
    fn escaping_and_unescaping_are_inverse() {
        let text = "a b/c=d&é%";
        assert_eq!(unescape(&escape(text).replace('+', " ")), text);
    }
}
