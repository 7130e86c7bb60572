//! Points in time and lengths of time, in the forms the Docker Engine API uses.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Nanoseconds since the Unix epoch, UTC. Zero stands for "never" and prints as Go's zero time.
///
/// Text form: RFC 3339 with as many fraction digits as needed (`2026-11-23T10:00:00.5Z`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// How Go prints `time.Time{}`.
const GO_ZERO: &str = "0001-01-01T00:00:00Z";

impl Timestamp {
    /// "Never": the moment that no event has.
    pub const ZERO: Self = Self(0);

    pub const fn from_secs(secs: i64) -> Self {
        Self(secs * 1_000_000_000)
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The time from `earlier` until this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This moment plus `length`, saturating at the end of time.
    pub fn plus(self, length: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(length.as_nanos()).unwrap_or(i64::MAX)),
        )
    }

    /// Reads RFC 3339 text.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        if text == GO_ZERO || text.is_empty() {
            return Ok(Self::ZERO);
        }
        let at: jiff::Timestamp = text.parse().map_err(|_| TimestampError {
            given: text.to_owned(),
        })?;
        i64::try_from(at.as_nanosecond())
            .map(Self)
            .map_err(|_| TimestampError {
                given: text.to_owned(),
            })
    }
}

/// Text that is not a point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not an RFC 3339 time")]
pub struct TimestampError {
    given: String,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str(GO_ZERO);
        }
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(at) => write!(f, "{at}"),
            Err(_) => f.write_str(GO_ZERO),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(input)?.unwrap_or_default();
        Self::parse(&text).map_err(D::Error::custom)
    }
}

/// A length of time in nanoseconds, as the API spells durations. Never negative once validated.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(pub i64);

impl Nanos {
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs * 1_000_000_000)
    }

    /// As a `Duration`; a negative length counts as zero.
    pub fn duration(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl From<Duration> for Nanos {
    fn from(length: Duration) -> Self {
        Self(i64::try_from(length.as_nanos()).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_the_one_go_prints() {
        let at = Timestamp(1_763_892_000_500_000_000);
        assert_eq!(at.to_string(), "2025-11-23T10:00:00.5Z");
        assert_eq!(Timestamp::parse("2025-11-23T10:00:00.5Z"), Ok(at));
        assert_eq!(Timestamp::ZERO.to_string(), GO_ZERO);
        assert_eq!(Timestamp::parse(GO_ZERO), Ok(Timestamp::ZERO));
        assert!(Timestamp::parse("yesterday").is_err());
    }
}
