//! When what a secret holds is to be replaced. A reminder: nothing stops because of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::serde_help::{is_zero, null_default};
use crate::{ControlError, Nanos, Secret, Timestamp};

/// How long before it expires a secret is told of, unless said otherwise.
pub const REMIND: Duration = Duration::from_secs(14 * 24 * 3600);
/// Longest time that a version can be good for, and that can be reminded of: more is a mistake.
pub const AFTER_MAX: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// Shortest time that a version can be good for: who is reminded needs the time to do something.
pub const AFTER_MIN: Duration = Duration::from_secs(60);

/// When the present version of a secret expires, or what is wished for that. Our addition to the
/// secret's spec; clients that leave it out leave it as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Expiry {
    /// How long each version is good for; zero: `at` is the present one's alone.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub after: Nanos,
    /// When the present version expires. A wish without it means `after` from when it is stored.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub at: Timestamp,
    /// How long before that it is told of; absent: [`REMIND`], or half of `after` if that is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remind: Option<Nanos>,
    /// A wish: there is no such time any more.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub never: bool,
}

/// What was told of a secret that expires, kept so that it is told once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Reminded {
    /// The time that was spoken of.
    pub at: Timestamp,
    /// Whether it was over.
    pub expired: bool,
}

/// How a secret's time stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Good,
    Expiring,
    Expired,
}

impl Stage {
    /// What events call it; empty while there is nothing to tell.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
        }
    }
}

impl Expiry {
    /// Refuses what nobody can mean.
    pub fn check(&self) -> Result<(), ControlError> {
        let fits = |length: Nanos, least: Duration| {
            length.0 >= 0 && (least..=AFTER_MAX).contains(&length.duration())
        };
        if self.after.0 != 0 && !fits(self.after, AFTER_MIN) {
            return Err(ControlError::invalid(
                "Expiry: a version is good for a minute at least and 20 years at most",
            ));
        }
        if self
            .remind
            .is_some_and(|remind| !fits(remind, Duration::ZERO))
        {
            return Err(ControlError::invalid(
                "Expiry: a reminder comes 20 years before at most, and not afterwards",
            ));
        }
        let says = self.after.0 != 0 || !self.at.is_zero() || self.remind.is_some();
        match (self.never, says) {
            (true, true) => Err(ControlError::invalid(
                "Expiry: what never expires has no time and no reminder",
            )),
            (false, false) => Err(ControlError::invalid(
                "Expiry: neither After nor At says when; Never takes it away",
            )),
            _ => Ok(()),
        }
    }

    /// What is stored for a wish, where there was `had`.
    pub fn settled(wish: Option<&Self>, had: Option<&Self>, now: Timestamp) -> Option<Self> {
        let Some(wish) = wish else {
            return had.cloned();
        };
        if wish.never {
            return None;
        }
        let mut settled = wish.clone();
        if wish.at.is_zero() {
            let same = had.filter(|had| wish.after.0 == 0 || had.after == wish.after);
            match same {
                Some(had) => (settled.after, settled.at) = (had.after, had.at),
                // Nothing to be reminded of.
                None if wish.after.0 == 0 => return None,
                None => settled.at = now.plus(wish.after.duration()),
            }
        }
        Some(settled)
    }

    /// What holds for a version that is stored now: a moment was the one's before alone.
    pub fn renewed(&self, now: Timestamp) -> Option<Self> {
        (self.after.0 > 0).then(|| Self {
            at: now.plus(self.after.duration()),
            ..self.clone()
        })
    }

    /// How long before it expires it is told of.
    pub fn remind(&self) -> Duration {
        match (self.remind, self.after.duration()) {
            (Some(remind), _) => remind.duration(),
            (None, Duration::ZERO) => REMIND,
            (None, after) => REMIND.min(after / 2),
        }
    }

    /// How it stands.
    pub fn stage(&self, now: Timestamp) -> Stage {
        if now >= self.at {
            Stage::Expired
        } else if now.plus(self.remind()) >= self.at {
            Stage::Expiring
        } else {
            Stage::Good
        }
    }
}

impl Secret {
    /// How its time stands; good for ever without one.
    pub fn stage(&self, now: Timestamp) -> Stage {
        let expiry = self.spec.expiry.as_ref();
        expiry.map_or(Stage::Good, |expiry| expiry.stage(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn days(days: i64) -> Timestamp {
        Timestamp::from_secs(days * 24 * 3600)
    }

    fn after(count: i64) -> Expiry {
        Expiry {
            after: Nanos(days(count).0),
            ..Expiry::default()
        }
    }

    fn at(day: i64) -> Expiry {
        Expiry {
            at: days(day),
            ..Expiry::default()
        }
    }

    #[test]
    fn a_length_counts_from_when_it_is_said_and_begins_anew_with_each_version() {
        let stored = Expiry::settled(Some(&after(90)), None, days(1000)).unwrap();
        assert_eq!(stored.at, days(1090));
        // The same again, as a file has it that is deployed again, changes nothing.
        let again = Expiry::settled(Some(&after(90)), Some(&stored), days(1050));
        assert_eq!(again.as_ref(), Some(&stored));
        assert_eq!(Expiry::settled(None, Some(&stored), days(1050)), again);
        let other = Expiry::settled(Some(&after(30)), Some(&stored), days(1050)).unwrap();
        assert_eq!(other.at, days(1080));
        assert_eq!(stored.renewed(days(1060)).unwrap().at, days(1150));
    }

    #[test]
    fn a_moment_is_one_versions_and_never_takes_it_away() {
        let stored = Expiry::settled(Some(&at(1010)), None, days(1000)).unwrap();
        assert_eq!(stored, at(1010));
        assert_eq!(stored.renewed(days(1001)), None);
        let never = Expiry {
            never: true,
            ..Expiry::default()
        };
        assert_eq!(Expiry::settled(Some(&never), Some(&stored), days(1)), None);
        let remind = Expiry {
            remind: Some(Nanos(1)),
            ..Expiry::default()
        };
        let reminds = Expiry::settled(Some(&remind), Some(&stored), days(1)).unwrap();
        assert_eq!((reminds.at, reminds.remind), (days(1010), Some(Nanos(1))));
        assert_eq!(Expiry::settled(Some(&remind), None, days(1)), None);
    }

    #[test]
    fn reminders_come_two_weeks_before_unless_that_is_long() {
        let stage = |expiry: &Expiry, day: i64| expiry.stage(days(day));
        let long = at(100);
        assert_eq!(stage(&long, 85), Stage::Good);
        assert_eq!(stage(&long, 86), Stage::Expiring);
        assert_eq!(stage(&long, 99), Stage::Expiring);
        assert_eq!(stage(&long, 100), Stage::Expired);
        let short = Expiry::settled(Some(&after(10)), None, days(90)).unwrap();
        assert_eq!(stage(&short, 94), Stage::Good);
        assert_eq!(stage(&short, 95), Stage::Expiring);
        let own = Expiry {
            remind: Some(Nanos(days(1).0)),
            ..at(100)
        };
        assert_eq!(stage(&own, 98), Stage::Good);
        assert_eq!(stage(&own, 99), Stage::Expiring);
    }

    #[test]
    fn what_nobody_can_mean_is_refused() {
        assert!(after(90).check().is_ok() && at(3).check().is_ok());
        let wrong = [
            Expiry::default(),
            after(-1),
            after(30_000),
            Expiry {
                after: Nanos(1),
                ..Expiry::default()
            },
            Expiry {
                never: true,
                ..after(90)
            },
            Expiry {
                remind: Some(Nanos(-1)),
                ..after(90)
            },
        ];
        for expiry in wrong {
            assert!(expiry.check().is_err(), "{expiry:?}");
        }
    }
}
