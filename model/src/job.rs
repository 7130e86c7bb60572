//! What is kept of the finished tasks of a job, by labels of the service, since clients of others
//! have no field for it: `skep.job.keep=100` tasks at most, `skep.job.ttl=36h` at longest.

use std::time::Duration;

use crate::ServiceSpec;

/// Most finished tasks kept.
pub const KEEP_LABEL: &str = "skep.job.keep";
/// How long a finished task is kept.
pub const TTL_LABEL: &str = "skep.job.ttl";
/// Finished tasks kept of a job that does not say. Each is about 2 KB on every manager.
const KEEP_DEFAULT: usize = 1000;

/// How many finished tasks of a job are kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobRetention {
    pub keep: usize,
    /// Absent is for as long as the count allows.
    pub ttl: Option<Duration>,
}

/// A label that says something else than it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label {label}: `{given}` is not {wanted}")]
pub struct JobLabelError {
    label: &'static str,
    given: String,
    wanted: &'static str,
}

impl ServiceSpec {
    /// What is kept of this job's finished tasks. `keep` counts those of iterations that are over;
    /// a job that is under way is counted by its tasks.
    pub fn job_retention(&self) -> Result<JobRetention, JobLabelError> {
        let read = |label: &'static str, wanted: &'static str| {
            let error = move |given: &str| JobLabelError {
                label,
                given: given.to_owned(),
                wanted,
            };
            self.labels.get(label).map(|given| (given.as_str(), error))
        };
        let keep = match read(KEEP_LABEL, "a number of tasks, such as 100") {
            None => KEEP_DEFAULT,
            Some((given, error)) => given.trim().parse().map_err(|_| error(given))?,
        };
        let ttl = match read(TTL_LABEL, "a length of time, such as 90m or 36h") {
            None => None,
            Some((given, error)) => {
                let ttl = length(given.trim()).filter(|ttl| *ttl > Duration::ZERO);
                Some(ttl.ok_or_else(|| error(given))?)
            }
        };
        Ok(JobRetention { keep, ttl })
    }
}

/// `1h30m`, `90s`, `7d`: whole numbers with their units, in any order.
pub fn length(text: &str) -> Option<Duration> {
    let mut rest = Some(text).filter(|text| !text.is_empty())?;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest[..digits].parse().ok()?;
        let unit = match rest[digits..].chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            _ => return None,
        };
        sum = sum.checked_add(Duration::from_secs(count.checked_mul(unit)?))?;
        rest = &rest[digits + 1..];
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(labels: &[(&str, &str)]) -> Result<JobRetention, String> {
        let labels = labels.iter();
        let spec = ServiceSpec {
            labels: labels
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..ServiceSpec::default()
        };
        spec.job_retention().map_err(|error| error.to_string())
    }

    #[test]
    fn labels_bound_what_is_kept_and_wrong_ones_are_named() {
        let kept = of(&[(KEEP_LABEL, "7"), (TTL_LABEL, "1h30m")]).unwrap();
        assert_eq!(kept.keep, 7);
        assert_eq!(kept.ttl, Some(Duration::from_secs(5400)));
        assert_eq!(of(&[]).unwrap().ttl, None);
        assert_eq!(
            of(&[(KEEP_LABEL, "-1")]).unwrap_err(),
            "label skep.job.keep: `-1` is not a number of tasks, such as 100"
        );
        for wrong in ["", "5", "h", "0s", "1.5h", "1w", "99999999999999999999d"] {
            assert_eq!(
                of(&[(TTL_LABEL, wrong)]).unwrap_err(),
                format!(
                    "label skep.job.ttl: `{wrong}` is not a length of time, such as 90m or 36h"
                )
            );
        }
    }
}
