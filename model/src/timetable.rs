//! Cron expressions in a time zone: the moments that they name.
//!
//! A library reads expressions and finds the clock times that match them; which moments those are is
//! decided here, since clocks are put forward and back. The zones are those in the binary, so that
//! managers agree whatever their hosts have.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone, TimeZoneDatabase};

use crate::Timestamp;

/// The zone of timetables that name none.
pub const TIME_ZONE_DEFAULT: &str = "UTC";
/// Longest expression, in bytes.
const LEN_MAX: usize = 256;
/// Moments that are counted one by one; of more it is known that there are so many at least.
pub const COUNTED_MAX: u64 = 1000;
/// Changes of a zone's offset that are looked past: two a year, and a 29th of February that is a
/// certain day of the week comes every 28 years, or 40 over a century.
const OFFSET_CHANGES_MAX: usize = 100;
/// Clock times looked at until one lies ahead: those of an hour that a clock shows twice, or of a
/// day that a zone has left out.
const CLOCK_TIMES_MAX: usize = 3000;
/// A Saturday, as good as any to look for a first time from: 2000-01-01.
const SOME_DAY: i64 = 946_684_800;

const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];
const DAYS: [&str; 8] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "L"];

/// A field of an expression.
struct Field {
    name: &'static str,
    wanted: &'static str,
    words: &'static [&'static str],
    signs: &'static str,
}

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        wanted: "0 to 59",
        words: &[],
        signs: "*,-/",
    },
    Field {
        name: "hour",
        wanted: "0 to 23",
        words: &[],
        signs: "*,-/",
    },
    Field {
        name: "day of the month",
        wanted: "1 to 31, L for the last, 15W for the weekday nearest to the 15th",
        words: &["L", "W", "LW"],
        signs: "*,-/",
    },
    Field {
        name: "month",
        wanted: "1 to 12 or JAN to DEC",
        words: &MONTHS,
        signs: "*,-/",
    },
    Field {
        name: "day of the week",
        wanted: "0 to 7 or SUN to SAT, 5L for the last Friday, 5#2 for the second",
        words: &DAYS,
        signs: "*,-/#",
    },
];

/// When something is to happen again and again.
///
/// Five fields: minute, hour, day of the month, month, day of the week; where both days are limited,
/// either will do. Where the clock is put forward, a time that does not exist is the moment of the
/// change; where it is put back, a time that exists twice is the first one. An expression whose
/// minute or hour begins with `*` follows the clock instead: it names every moment at which the clock
/// shows such a time, so that `*/5 * * * *` is every five minutes on those days as well.
#[derive(Clone)]
pub struct Timetable {
    cron: Cron,
    zone: TimeZone,
    follows_clock: bool,
}

impl fmt::Debug for Timetable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = self.zone.iana_name().unwrap_or_default();
        write!(f, "Timetable({} {zone})", self.cron.as_str())
    }
}

/// What is wrong with an expression or a zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimetableError {
    #[error(
        "`{given}` has {count} fields instead of five: minute, hour, day of the month, month, day of the week"
    )]
    Fields { given: String, count: usize },
    #[error(
        "`{given}` is not one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually"
    )]
    Nickname { given: String },
    #[error("{field} `{given}` is none: {wanted}, `*`, lists (1,2), ranges (1-5) and steps (*/5)")]
    Field {
        field: &'static str,
        given: String,
        wanted: &'static str,
    },
    #[error("`{given}` never comes: no such month has such a day")]
    Never { given: String },
    #[error("an expression is no longer than 256 bytes")]
    TooLong,
    #[error("`{given}` is not a time zone, such as Europe/Berlin or UTC")]
    Zone { given: String },
}

/// What was due in some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub latest: Timestamp,
    /// How many moments, the latest included; at [`COUNTED_MAX`], so many or more.
    pub count: u64,
}

impl Timetable {
    /// Reads an expression of five fields or a nickname such as `@daily`.
    ///
    /// # Errors
    /// The expression or the zone is none, or no moment ever matches.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, TimetableError> {
        let fields = fields(expression)?;
        for (at, text) in fields.iter().enumerate() {
            check_field(at, text)?;
        }
        let unzoned = || TimetableError::Zone {
            given: zone.to_owned(),
        };
        let zone = match zone.is_ascii() && !zone.is_empty() {
            true => TimeZoneDatabase::bundled().get(zone),
            false => return Err(unzoned()),
        };
        let timetable = Self {
            cron: parser()
                .parse(&fields.join(" "))
                .map_err(|_| never(expression))?,
            zone: zone.map_err(|_| unzoned())?,
            follows_clock: fields[..2].iter().any(|field| field.starts_with('*')),
        };
        match timetable.clock_time_after(SOME_DAY, true) {
            Some(_) => Ok(timetable),
            None => Err(never(expression)),
        }
    }

    /// The first moment after `after`.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.0.div_euclid(1_000_000_000);
        let found = match self.follows_clock {
            true => self.next_by_clock(after),
            false => self.next_by_calendar(after),
        };
        found.map(Timestamp::from_secs)
    }

    /// What has come after `after` and not after `now`.
    pub fn due(&self, after: Timestamp, now: Timestamp) -> Option<Due> {
        let mut due: Option<Due> = None;
        let mut at = after;
        while due.is_none_or(|due| due.count < COUNTED_MAX) {
            match self.next_after(at).filter(|next| *next <= now) {
                Some(next) => {
                    at = next;
                    let count = due.map_or(1, |due| due.count + 1);
                    due = Some(Due {
                        latest: next,
                        count,
                    });
                }
                None => return due,
            }
        }
        // The latest of many is found from its end: no window holds more than some thousand.
        let latest = WINDOWS
            .iter()
            .find_map(|window| self.latest_within(at, *window, now))
            .unwrap_or(at);
        due.map(|due| Due { latest, ..due })
    }

    fn latest_within(
        &self,
        after: Timestamp,
        window: Duration,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let window = i64::try_from(window.as_nanos()).unwrap_or(i64::MAX);
        let mut at = after.max(Timestamp(now.0.saturating_sub(window)));
        let mut latest = None;
        while let Some(next) = self.next_after(at).filter(|next| *next <= now) {
            latest = Some(next);
            at = next;
        }
        latest
    }

    /// Every moment at which the clock shows a time that matches: stretch by stretch between changes
    /// of the offset.
    fn next_by_clock(&self, after: i64) -> Option<i64> {
        let (mut at, mut inclusive) = (after, false);
        for _ in 0..OFFSET_CHANGES_MAX {
            let moment = jiff::Timestamp::from_second(at).ok()?;
            let offset = i64::from(self.zone.to_offset(moment).seconds());
            let next = self.clock_time_after(at + offset, inclusive)? - offset;
            let change = self.zone.following(moment).next();
            match change.map(|change| change.timestamp().as_second()) {
                Some(change) if change <= next => (at, inclusive) = (change, true),
                _ => return Some(next),
            }
        }
        None
    }

    /// Every clock time that matches is one moment.
    fn next_by_calendar(&self, after: i64) -> Option<i64> {
        let moment = jiff::Timestamp::from_second(after).ok()?;
        let mut clock = after + i64::from(self.zone.to_offset(moment).seconds());
        for _ in 0..CLOCK_TIMES_MAX {
            clock = self.clock_time_after(clock, false)?;
            let moment = self.moment_of(clock)?;
            if moment > after {
                return Some(moment);
            }
        }
        None
    }

    /// The moment of a time that the zone's clock shows, has left out, or shows twice.
    fn moment_of(&self, clock: i64) -> Option<i64> {
        let shown = Offset::UTC.to_datetime(jiff::Timestamp::from_second(clock).ok()?);
        let before = |offset: Offset| clock - i64::from(offset.seconds());
        match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => Some(before(offset)),
            AmbiguousOffset::Fold { before: first, .. } => Some(before(first)),
            AmbiguousOffset::Gap { after, .. } => {
                let earlier = jiff::Timestamp::from_second(before(after)).ok()?;
                let change = self.zone.following(earlier).next()?;
                Some(change.timestamp().as_second())
            }
        }
    }

    /// The next matching time on a clock. Both are seconds as if the clock showed UTC.
    fn clock_time_after(&self, clock: i64, inclusive: bool) -> Option<i64> {
        let from: DateTime<Utc> = DateTime::from_timestamp(clock, 0)?;
        let found = self.cron.find_next_occurrence(&from, inclusive).ok()?;
        Some(found.timestamp())
    }
}

/// Windows for the latest of many moments, the shortest first: what is not in one comes seldom
/// enough for the next.
const WINDOWS: [Duration; 3] = [
    Duration::from_secs(3600),
    Duration::from_secs(24 * 3600),
    Duration::from_secs(366 * 24 * 3600),
];

fn parser() -> CronParser {
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
}

fn never(expression: &str) -> TimetableError {
    TimetableError::Never {
        given: expression.trim().to_owned(),
    }
}

/// The five fields that an expression has or stands for.
fn fields(expression: &str) -> Result<Vec<String>, TimetableError> {
    let given = expression.trim();
    if given.len() > LEN_MAX {
        return Err(TimetableError::TooLong);
    }
    let expression = match given.starts_with('@') {
        false => given,
        true => {
            let mut known = NICKNAMES.iter();
            let known = known.find(|(name, _)| name.eq_ignore_ascii_case(given));
            known
                .map(|(_, fields)| *fields)
                .ok_or_else(|| TimetableError::Nickname {
                    given: given.to_owned(),
                })?
        }
    };
    let fields: Vec<String> = expression
        .split_whitespace()
        .map(str::to_ascii_uppercase)
        .collect();
    match fields.len() {
        5 => Ok(fields),
        count => Err(TimetableError::Fields {
            given: given.to_owned(),
            count,
        }),
    }
}

/// Reads one field, so that a mistake is told with its place.
fn check_field(at: usize, text: &str) -> Result<(), TimetableError> {
    let field = &FIELDS[at];
    let is_sign = |c: char| field.signs.contains(c);
    let words = text.split(|c: char| !c.is_ascii_alphabetic());
    let mut known = words.filter(|word| !word.is_empty());
    let spelt = known.all(|word| field.words.contains(&word))
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || is_sign(c))
        && text.split(',').all(|part| !part.is_empty());
    let mut alone = ["*"; 5];
    alone[at] = text;
    match spelt && parser().parse(&alone.join(" ")).is_ok() {
        true => Ok(()),
        false => Err(TimetableError::Field {
            field: field.name,
            given: text.to_owned(),
            wanted: field.wanted,
        }),
    }
}

#[cfg(test)]
mod tests;
