//! Jobs that run again and again by a timetable, said by labels of the service, since clients of
//! others have no field for it: `skep.schedule=*/5 * * * *`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::length;
use crate::serde_help::{is_zero, null_default};
use crate::timetable::{TIME_ZONE_DEFAULT, Timetable};
use crate::{Service, ServiceId, ServiceSpec, Timestamp};

/// When the job runs: a cron expression.
pub const SCHEDULE_LABEL: &str = "skep.schedule";
/// The time zone of that.
pub const TIME_ZONE_LABEL: &str = "skep.schedule.time-zone";
/// What becomes of a run that is due while the last one is not finished.
pub const CONCURRENCY_LABEL: &str = "skep.schedule.concurrency";
/// How late a run may be.
pub const CATCH_UP_LABEL: &str = "skep.schedule.catch-up";
/// Whether nothing is started for now.
pub const SUSPEND_LABEL: &str = "skep.schedule.suspend";

const LABELS: [&str; 5] = [
    SCHEDULE_LABEL,
    TIME_ZONE_LABEL,
    CONCURRENCY_LABEL,
    CATCH_UP_LABEL,
    SUSPEND_LABEL,
];

/// Runs remembered of a service. They travel with each change of it.
pub const RUNS_KEPT_MAX: usize = 20;
/// Runs of a job that are under way at most: what hangs must not fill the cluster.
pub const RUNS_AT_ONCE_MAX: usize = 10;
/// A run may be at least so late: leaders are elected meanwhile.
const CATCH_UP_MIN: Duration = Duration::from_secs(10);

/// What becomes of a run that is due while the last one is not finished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// It is skipped.
    #[default]
    Forbid,
    /// The last one is stopped.
    Replace,
    /// Both go on, up to [`RUNS_AT_ONCE_MAX`].
    Allow,
}

impl Concurrency {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forbid => "forbid",
            Self::Replace => "replace",
            Self::Allow => "allow",
        }
    }
}

/// When and how a job runs again.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub timetable: Timetable,
    pub concurrency: Concurrency,
    /// How late a run may be started; absent: however late.
    pub catch_up: Option<Duration>,
    pub suspended: bool,
}

/// A label that says something else than it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label {label}: {message}")]
pub struct ScheduleError {
    pub label: String,
    pub message: String,
}

impl ServiceSpec {
    /// When this job runs by itself; nothing for what has no schedule.
    ///
    /// # Errors
    /// A label of a schedule says nothing sensible, or the service is no job.
    pub fn schedule(&self) -> Result<Option<Schedule>, ScheduleError> {
        let prefix = format!("{SCHEDULE_LABEL}.");
        let mut ours = self
            .labels
            .keys()
            .filter(|label| *label == SCHEDULE_LABEL || label.starts_with(&prefix));
        if let Some(unknown) = ours.clone().find(|label| !LABELS.contains(&label.as_str())) {
            let known = LABELS.join(", ");
            return Err(error(unknown, format!("there are {known}")));
        }
        let Some(expression) = self.labels.get(SCHEDULE_LABEL) else {
            return match ours.next() {
                None => Ok(None),
                Some(label) => Err(error(label, format!("there is no {SCHEDULE_LABEL}"))),
            };
        };
        if !self.mode.is_job() {
            return Err(error(
                SCHEDULE_LABEL,
                "only jobs run by a schedule: their mode is replicated-job or global-job"
                    .to_owned(),
            ));
        }
        let zone = self.time_zone();
        let timetable = Timetable::parse(expression, zone).map_err(|mistake| {
            let label = match mistake {
                crate::timetable::TimetableError::Zone { .. } => TIME_ZONE_LABEL,
                _ => SCHEDULE_LABEL,
            };
            error(label, mistake.to_string())
        })?;
        Ok(Some(Schedule {
            timetable,
            concurrency: concurrency(self.labels.get(CONCURRENCY_LABEL))?,
            catch_up: catch_up(self.labels.get(CATCH_UP_LABEL))?,
            suspended: suspended(self.labels.get(SUSPEND_LABEL))?,
        }))
    }

    /// Whether the job has a schedule.
    pub fn is_scheduled(&self) -> bool {
        self.mode.is_job() && self.labels.contains_key(SCHEDULE_LABEL)
    }

    /// The time zone of the schedule.
    pub fn time_zone(&self) -> &str {
        let zone = self.labels.get(TIME_ZONE_LABEL);
        zone.map_or(TIME_ZONE_DEFAULT, |zone| zone.trim())
    }

    /// Whether both have the same moments to run at.
    pub fn runs_when(&self, other: &Self) -> bool {
        let moments = |spec: &Self| {
            let expression = spec.labels.get(SCHEDULE_LABEL).cloned();
            let suspended = suspended(spec.labels.get(SUSPEND_LABEL)).unwrap_or_default();
            (expression, spec.time_zone().to_owned(), suspended)
        };
        moments(self) == moments(other)
    }
}

fn error(label: &str, message: String) -> ScheduleError {
    ScheduleError {
        label: label.to_owned(),
        message,
    }
}

fn concurrency(given: Option<&String>) -> Result<Concurrency, ScheduleError> {
    match given.map(|given| given.trim()) {
        None | Some("forbid") => Ok(Concurrency::Forbid),
        Some("replace") => Ok(Concurrency::Replace),
        Some("allow") => Ok(Concurrency::Allow),
        Some(other) => Err(error(
            CONCURRENCY_LABEL,
            format!("`{other}` is not one of allow, forbid, replace"),
        )),
    }
}

fn catch_up(given: Option<&String>) -> Result<Option<Duration>, ScheduleError> {
    let Some(given) = given else { return Ok(None) };
    match length(given.trim()) {
        Some(length) if length >= CATCH_UP_MIN => Ok(Some(length)),
        _ => Err(error(
            CATCH_UP_LABEL,
            format!("`{given}` is not a length of time of at least 10s, such as 30m or 6h"),
        )),
    }
}

fn suspended(given: Option<&String>) -> Result<bool, ScheduleError> {
    match given.map(|given| given.trim()) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(error(
            SUSPEND_LABEL,
            format!("`{other}` is not true or false"),
        )),
    }
}

/// What came of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunOutcome {
    /// It is under way.
    #[default]
    Running,
    /// Everything completed.
    Complete,
    /// Some of its tasks were given up.
    Failed,
    /// It was stopped for a later one.
    Replaced,
    /// It was due while another one was not finished.
    Skipped,
    /// It was due while nobody could start it, and too long ago once somebody could.
    Missed,
    /// One of a later version.
    #[serde(other)]
    Unknown,
}

impl RunOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Replaced => "replaced",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it was never started.
    pub const fn is_unstarted(self) -> bool {
        matches!(self, Self::Skipped | Self::Missed)
    }
}

/// One run of a scheduled job, or several in a row that were not started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Run {
    /// The job's iteration; 0 when it was not started.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub iteration: u64,
    /// The moment of the timetable; of several the last. Absent for a run that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    pub outcome: RunOutcome,
    /// Tasks that completed.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub completed: u64,
    /// Tasks that failed, those included that were made again.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub failed: u64,
    /// For how many moments of the timetable it stands: more than one only when not started, and so
    /// many or more at [`COUNTED_MAX`](crate::timetable::COUNTED_MAX). None for one asked for.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub count: u64,
}

/// How far a scheduled job has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ScheduleStatus {
    /// What was due up to this moment was started, skipped or missed: the last scheduled time, or
    /// when the schedule was made or changed. It changes by the same commit that starts a run, so
    /// none is started twice or forgotten, whoever leads.
    pub settled_until: Timestamp,
    /// The newest first, [`RUNS_KEPT_MAX`] at most.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub runs: Vec<Run>,
}

impl ScheduleStatus {
    /// Runs that are under way, the newest first.
    pub fn under_way(&self) -> impl Iterator<Item = &Run> {
        let runs = self.runs.iter();
        runs.filter(|run| run.outcome == RunOutcome::Running)
    }

    /// The newest run that was started.
    pub fn last_started(&self) -> Option<&Run> {
        self.runs.iter().find(|run| !run.outcome.is_unstarted())
    }
}

impl Service {
    /// When the job runs next by itself. A moment that has passed is due.
    pub fn next_run(&self) -> Option<Timestamp> {
        let schedule = self.spec.schedule().ok().flatten()?;
        let status = self.schedule.as_ref().filter(|_| !schedule.suspended)?;
        schedule.timetable.next_after(status.settled_until)
    }
}

/// A scheduled job's runs as `GET /skep/v1/services/{id}/runs` tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceRuns {
    #[serde(rename = "ID")]
    pub id: ServiceId,
    pub name: String,
    /// The cron expression.
    pub schedule: String,
    pub time_zone: String,
    pub suspended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run: Option<Timestamp>,
    /// The newest first.
    pub runs: Vec<Run>,
}

impl ServiceRuns {
    /// The runs of a service; nothing when it has no schedule.
    pub fn of(service: &Service) -> Option<Self> {
        let schedule = service.spec.schedule().ok().flatten()?;
        let label = |name: &str, labels: &BTreeMap<String, String>| labels.get(name).cloned();
        let status = service.schedule.clone().unwrap_or_default();
        Some(Self {
            id: service.id.clone(),
            name: service.spec.name.clone(),
            schedule: label(SCHEDULE_LABEL, &service.spec.labels).unwrap_or_default(),
            time_zone: service.spec.time_zone().to_owned(),
            suspended: schedule.suspended,
            next_run: service.next_run(),
            runs: status.runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServiceMode;
    use crate::service::Empty;

    fn spec(labels: &[(&str, &str)]) -> ServiceSpec {
        let labels = labels.iter();
        ServiceSpec {
            mode: ServiceMode::GlobalJob(Empty {}),
            labels: labels
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..ServiceSpec::default()
        }
    }

    #[test]
    fn labels_say_when_and_how_a_job_runs() {
        assert!(spec(&[]).schedule().unwrap().is_none());
        let given = spec(&[
            (SCHEDULE_LABEL, "0 3 * * *"),
            (TIME_ZONE_LABEL, "Europe/Berlin"),
            (CONCURRENCY_LABEL, "replace"),
            (CATCH_UP_LABEL, "1h30m"),
            (SUSPEND_LABEL, "true"),
        ]);
        let schedule = given.schedule().unwrap().unwrap();
        assert_eq!(schedule.concurrency, Concurrency::Replace);
        assert_eq!(schedule.catch_up, Some(Duration::from_secs(5400)));
        assert!(schedule.suspended);
        let next = schedule.timetable.next_after(Timestamp::from_secs(0));
        assert_eq!(next.unwrap().to_string(), "1970-01-01T02:00:00Z");
        let schedule = spec(&[(SCHEDULE_LABEL, "@daily")]).schedule();
        let schedule = schedule.unwrap().unwrap();
        assert_eq!(schedule.concurrency, Concurrency::Forbid);
        assert_eq!((schedule.catch_up, schedule.suspended), (None, false));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_label() {
        let wrong = |label: &str, value: &str| {
            let labels = [(SCHEDULE_LABEL, "@daily"), (label, value)];
            spec(&labels).schedule().unwrap_err().to_string()
        };
        assert!(
            wrong(SCHEDULE_LABEL, "* 25 * * *")
                .starts_with("label skep.schedule: hour `25` is none: 0 to 23"),
        );
        assert_eq!(
            wrong(TIME_ZONE_LABEL, "Berlin"),
            "label skep.schedule.time-zone: `Berlin` is not a time zone, such as Europe/Berlin or UTC"
        );
        assert!(wrong(CONCURRENCY_LABEL, "both").contains("not one of allow, forbid, replace"));
        assert!(wrong(CATCH_UP_LABEL, "5s").contains("at least 10s"));
        assert!(wrong(SUSPEND_LABEL, "yes").contains("not true or false"));
        assert!(wrong("skep.schedule.zone", "UTC").contains("there are skep.schedule, "));
        let alone = spec(&[(TIME_ZONE_LABEL, "UTC")]).schedule().unwrap_err();
        assert_eq!(
            alone.to_string(),
            "label skep.schedule.time-zone: there is no skep.schedule"
        );
        let mut web = spec(&[(SCHEDULE_LABEL, "@daily")]);
        web.mode = ServiceMode::default();
        let error = web.schedule().unwrap_err().to_string();
        assert!(error.contains("only jobs run by a schedule"), "{error}");
    }

    #[test]
    fn only_what_changes_the_moments_counts() {
        let daily = spec(&[(SCHEDULE_LABEL, "@daily")]);
        let utc = spec(&[(SCHEDULE_LABEL, "@daily"), (TIME_ZONE_LABEL, "UTC")]);
        let paused = spec(&[(SCHEDULE_LABEL, "@daily"), (SUSPEND_LABEL, "true")]);
        let careful = spec(&[(SCHEDULE_LABEL, "@daily"), (CATCH_UP_LABEL, "1h")]);
        assert!(daily.runs_when(&utc) && daily.runs_when(&careful));
        assert!(!daily.runs_when(&paused));
        assert!(!daily.runs_when(&spec(&[(SCHEDULE_LABEL, "@hourly")])));
    }

    #[test]
    fn runs_of_later_versions_are_read() {
        let run: Run = serde_json::from_str(r#"{"Outcome":"postponed","More":1}"#).unwrap();
        assert_eq!(run.outcome, RunOutcome::Unknown);
    }
}
