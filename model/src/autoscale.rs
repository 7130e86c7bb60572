//! Services whose number of replicas follows what they use, said by labels of the service, since
//! clients of others have no field for it: `skep.autoscale.max=10`, `skep.autoscale.cpu=70`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::length;
use crate::limits::REPLICAS_MAX;
use crate::serde_help::{is_zero, null_default};
use crate::{ServiceMode, ServiceSpec, Timestamp};

/// Fewest replicas; 1 where it is not said.
pub const MIN_LABEL: &str = "skep.autoscale.min";
/// Most replicas. With this label a service is scaled by itself.
pub const MAX_LABEL: &str = "skep.autoscale.max";
/// Percent of the processors that a task has reserved, or may use, or else of one.
pub const CPU_LABEL: &str = "skep.autoscale.cpu";
/// Percent of the memory that a task has reserved, or may use; or bytes.
pub const MEMORY_LABEL: &str = "skep.autoscale.memory";
/// An expression that a Prometheus server is asked.
pub const QUERY_LABEL: &str = "skep.autoscale.query";
/// Where that server is: `http://host:port`.
pub const QUERY_URL_LABEL: &str = "skep.autoscale.query-url";
/// What of the expression's value each replica is to have.
pub const QUERY_TARGET_LABEL: &str = "skep.autoscale.query-target";
/// How long fewer replicas must have been enough.
pub const WINDOW_LABEL: &str = "skep.autoscale.window";

const LABELS: [&str; 8] = [
    MIN_LABEL,
    MAX_LABEL,
    CPU_LABEL,
    MEMORY_LABEL,
    QUERY_LABEL,
    QUERY_URL_LABEL,
    QUERY_TARGET_LABEL,
    WINDOW_LABEL,
];
const PREFIX: &str = "skep.autoscale.";

/// How long fewer replicas must have been enough, when it is not said: as in Kubernetes.
pub const WINDOW_DEFAULT: Duration = Duration::from_secs(300);
/// Longest and shortest window. A measurement takes some seconds.
const WINDOW_BOUNDS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
/// Longest expression, in bytes.
const QUERY_LEN_MAX: usize = 4096;

/// Between which numbers a service is scaled, and by what.
#[derive(Debug, Clone, PartialEq)]
pub struct Autoscale {
    pub min: u64,
    pub max: u64,
    pub targets: Vec<Target>,
    pub window: Duration,
}

/// What each replica is to use.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Nano-processors.
    Cpu { nanos: f64 },
    /// Bytes.
    Memory { bytes: f64 },
    /// Of the value of an expression.
    Query {
        url: String,
        query: String,
        value: f64,
    },
}

impl Target {
    /// What it is called.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cpu { .. } => "cpu",
            Self::Memory { .. } => "memory",
            Self::Query { .. } => "query",
        }
    }

    /// What each replica is to use.
    pub const fn value(&self) -> f64 {
        match self {
            Self::Cpu { nanos } => *nanos,
            Self::Memory { bytes } => *bytes,
            Self::Query { value, .. } => *value,
        }
    }
}

/// A label that says something else than it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("label {label}: {message}")]
pub struct AutoscaleError {
    pub label: String,
    pub message: String,
}

fn error(label: &str, message: impl Into<String>) -> AutoscaleError {
    AutoscaleError {
        label: label.to_owned(),
        message: message.into(),
    }
}

impl ServiceSpec {
    /// Whether the service is scaled by itself.
    pub fn is_autoscaled(&self) -> bool {
        self.labels.contains_key(MAX_LABEL)
    }

    /// How this service is scaled by itself; nothing for one that is not.
    ///
    /// # Errors
    /// A label says nothing sensible, or the service is not replicated.
    pub fn autoscale(&self) -> Result<Option<Autoscale>, AutoscaleError> {
        let ours = || self.labels.keys().filter(|label| label.starts_with(PREFIX));
        if let Some(unknown) = ours().find(|label| !LABELS.contains(&label.as_str())) {
            let known = LABELS.join(", ");
            return Err(error(unknown, format!("there are {known}")));
        }
        let Some(max) = self.labels.get(MAX_LABEL) else {
            return match ours().next() {
                None => Ok(None),
                Some(label) => Err(error(label, format!("there is no {MAX_LABEL}"))),
            };
        };
        if !matches!(self.mode, ServiceMode::Replicated(_)) {
            return Err(error(MAX_LABEL, "only replicated services are scaled"));
        }
        let count = |label, given: &str| match given.trim().parse() {
            Ok(count) if (1..=REPLICAS_MAX).contains(&count) => Ok(count),
            _ => Err(error(
                label,
                format!("`{given}` is not a number of replicas from 1"),
            )),
        };
        let max: u64 = count(MAX_LABEL, max)?;
        let min = match self.labels.get(MIN_LABEL) {
            None => 1,
            Some(given) => count(MIN_LABEL, given)?,
        };
        if min > max {
            return Err(error(
                MIN_LABEL,
                format!("{min} is more than {MAX_LABEL}, {max}"),
            ));
        }
        let targets = self.targets()?;
        if targets.is_empty() {
            let message = format!("it takes {CPU_LABEL}, {MEMORY_LABEL} or {QUERY_LABEL} as well");
            return Err(error(MAX_LABEL, message));
        }
        Ok(Some(Autoscale {
            min,
            max,
            targets,
            window: self.window()?,
        }))
    }

    fn targets(&self) -> Result<Vec<Target>, AutoscaleError> {
        let mut targets = Vec::new();
        if let Some(given) = self.labels.get(CPU_LABEL) {
            let percent = percent(given).ok_or_else(|| {
                error(
                    CPU_LABEL,
                    format!("`{given}` is not a percentage, such as 70"),
                )
            })?;
            let resources = self.task_template.resources.clone().unwrap_or_default();
            let reserved = resources.reservations.map_or(0, |one| one.nano_cpus.0);
            let limit = resources.limits.map_or(0, |one| one.nano_cpus.0);
            let whole = [reserved, limit, 1_000_000_000]
                .into_iter()
                .find(|nanos| *nanos > 0);
            let nanos = whole.unwrap_or_default() as f64 * percent / 100.0;
            targets.push(Target::Cpu { nanos });
        }
        if let Some(given) = self.labels.get(MEMORY_LABEL) {
            let bytes = self.memory_target(given)?;
            targets.push(Target::Memory { bytes });
        }
        targets.extend(self.query_target()?);
        Ok(targets)
    }

    fn memory_target(&self, given: &str) -> Result<f64, AutoscaleError> {
        if let Some(bytes) = bytes(given) {
            return Ok(bytes);
        }
        let percent = percent(given).ok_or_else(|| {
            error(
                MEMORY_LABEL,
                format!("`{given}` is neither a percentage, such as 80%, nor bytes, such as 200M"),
            )
        })?;
        let resources = self.task_template.resources.clone().unwrap_or_default();
        let reserved = resources.reservations.map_or(0, |one| one.memory_bytes.0);
        let limit = resources.limits.map_or(0, |one| one.memory_bytes.0);
        match [reserved, limit].into_iter().find(|bytes| *bytes > 0) {
            Some(whole) => Ok(whole as f64 * percent / 100.0),
            None => Err(error(
                MEMORY_LABEL,
                "a percentage takes a memory reservation or limit; or say bytes, such as 200M",
            )),
        }
    }

    fn query_target(&self) -> Result<Option<Target>, AutoscaleError> {
        let label = |label: &str| self.labels.get(label).map(|given| given.trim().to_owned());
        let (query, url, target) = (
            label(QUERY_LABEL),
            label(QUERY_URL_LABEL),
            label(QUERY_TARGET_LABEL),
        );
        let Some(query) = query else {
            return match url
                .map(|_| QUERY_URL_LABEL)
                .or(target.map(|_| QUERY_TARGET_LABEL))
            {
                None => Ok(None),
                Some(label) => Err(error(label, format!("there is no {QUERY_LABEL}"))),
            };
        };
        if query.is_empty() || query.len() > QUERY_LEN_MAX {
            return Err(error(QUERY_LABEL, "an expression has 1 to 4096 bytes"));
        }
        let url = url.ok_or_else(|| error(QUERY_LABEL, format!("it takes {QUERY_URL_LABEL}")))?;
        if authority(&url).is_none() {
            let message = format!("`{url}` is not http://HOST:PORT; TLS is not offered");
            return Err(error(QUERY_URL_LABEL, message));
        }
        let given =
            target.ok_or_else(|| error(QUERY_LABEL, format!("it takes {QUERY_TARGET_LABEL}")))?;
        match given.parse() {
            Ok(value) if f64::is_finite(value) && value > 0.0 => {
                Ok(Some(Target::Query { url, query, value }))
            }
            _ => Err(error(
                QUERY_TARGET_LABEL,
                format!("`{given}` is not a number above 0"),
            )),
        }
    }

    fn window(&self) -> Result<Duration, AutoscaleError> {
        let Some(given) = self.labels.get(WINDOW_LABEL) else {
            return Ok(WINDOW_DEFAULT);
        };
        match length(given.trim()) {
            Some(window) if (WINDOW_BOUNDS.0..=WINDOW_BOUNDS.1).contains(&window) => Ok(window),
            _ => Err(error(
                WINDOW_LABEL,
                format!("`{given}` is not a length of time from 5s to 1h, such as 90s"),
            )),
        }
    }
}

/// `host:port` and the path of an address that begins with `http://`.
pub fn authority(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let port: Option<u16> = authority
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    let fine = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'@')
    };
    (port.is_some_and(|port| port > 0) && !authority.starts_with(':') && fine(url))
        .then_some((authority, path.trim_end_matches('/')))
}

/// `70` or `70%`.
fn percent(given: &str) -> Option<f64> {
    let given = given.trim();
    let number: f64 = given.strip_suffix('%').unwrap_or(given).parse().ok()?;
    (number.is_finite() && number > 0.0 && number <= 10_000.0).then_some(number)
}

/// `200M`, `1g`, `64k`, `5000b`.
fn bytes(given: &str) -> Option<f64> {
    let given = given.trim().to_ascii_lowercase();
    let digits = given.find(|c: char| !c.is_ascii_digit())?;
    let unit = match &given[digits..] {
        "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let count: u64 = given[..digits].parse().ok()?;
    let bytes = count.checked_mul(1 << unit)?;
    (bytes > 0).then_some(bytes as f64)
}

/// How a service is scaled by itself. Written when its replicas change, and otherwise once a minute at
/// most, when something else is measured: not every measurement is worth a place in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AutoscaleStatus {
    /// What was measured last, one line each: `cpu 35 % of 70 %`.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_default"
    )]
    pub figures: Vec<String>,
    pub measured_at: Timestamp,
    /// When the replicas were last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub from: u64,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_default")]
    pub to: u64,
    /// Why they were.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "null_default"
    )]
    pub because: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(labels: &[(&str, &str)], resources: &str) -> ServiceSpec {
        let labels = labels.iter();
        let mut spec = ServiceSpec {
            labels: labels
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..ServiceSpec::default()
        };
        if !resources.is_empty() {
            spec.task_template.resources = Some(serde_json::from_str(resources).unwrap());
        }
        spec
    }

    #[test]
    fn targets_are_parts_of_what_is_reserved_or_limited_or_there() {
        let target = |label, value, resources| {
            let spec = spec(&[(MAX_LABEL, "5"), (label, value)], resources);
            spec.autoscale().unwrap().unwrap().targets[0].value()
        };
        let both = r#"{"Limits":{"NanoCPUs":2000000000,"MemoryBytes":1000},
                       "Reservations":{"NanoCPUs":500000000,"MemoryBytes":500}}"#;
        let limit = r#"{"Limits":{"NanoCPUs":2000000000,"MemoryBytes":1000}}"#;
        assert_eq!(target(CPU_LABEL, "50", both), 250e6);
        assert_eq!(target(CPU_LABEL, "50%", limit), 1e9);
        assert_eq!(target(CPU_LABEL, "80", ""), 8e8);
        assert_eq!(target(MEMORY_LABEL, "80", both), 400.0);
        assert_eq!(target(MEMORY_LABEL, "80%", limit), 800.0);
        assert_eq!(target(MEMORY_LABEL, "3M", ""), 3.0 * 1024.0 * 1024.0);
    }

    #[test]
    fn bounds_windows_and_queries_are_read() {
        assert_eq!(spec(&[], "").autoscale(), Ok(None));
        let given = spec(
            &[
                (MIN_LABEL, "2"),
                (MAX_LABEL, "9"),
                (QUERY_LABEL, "sum(rate(requests_total[1m]))"),
                (QUERY_URL_LABEL, "http://prometheus:9090/"),
                (QUERY_TARGET_LABEL, "12.5"),
                (WINDOW_LABEL, "90s"),
            ],
            "",
        );
        let read = given.autoscale().unwrap().unwrap();
        assert_eq!((read.min, read.max), (2, 9));
        assert_eq!(read.window, Duration::from_secs(90));
        assert_eq!(read.targets[0].value(), 12.5);
        assert_eq!(authority("http://p:9090/x/"), Some(("p:9090", "/x")));
        assert_eq!(authority("http://[::1]:80"), Some(("[::1]:80", "")));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_label() {
        let wrong = |labels: &[(&str, &str)]| spec(labels, "").autoscale().unwrap_err().to_string();
        let max = (MAX_LABEL, "5");
        assert_eq!(
            wrong(&[(CPU_LABEL, "50")]),
            "label skep.autoscale.cpu: there is no skep.autoscale.max"
        );
        for (labels, part) in [
            (vec![max], "it takes skep.autoscale.cpu"),
            (
                vec![(MAX_LABEL, "0"), (CPU_LABEL, "1")],
                "`0` is not a number of replicas",
            ),
            (
                vec![max, (MIN_LABEL, "6"), (CPU_LABEL, "1")],
                "6 is more than",
            ),
            (vec![max, (CPU_LABEL, "much")], "`much` is not a percentage"),
            (vec![max, (CPU_LABEL, "-5")], "`-5` is not a percentage"),
            (vec![max, (CPU_LABEL, "NaN")], "not a percentage"),
            (
                vec![max, (MEMORY_LABEL, "80")],
                "takes a memory reservation or limit",
            ),
            (vec![max, (MEMORY_LABEL, "lots")], "neither a percentage"),
            (
                vec![max, (QUERY_LABEL, "up")],
                "it takes skep.autoscale.query-url",
            ),
            (
                vec![max, (QUERY_TARGET_LABEL, "1")],
                "there is no skep.autoscale.query",
            ),
            (
                vec![max, (CPU_LABEL, "1"), (WINDOW_LABEL, "1s")],
                "from 5s to 1h",
            ),
            (
                vec![max, ("skep.autoscale.ram", "1")],
                "there are skep.autoscale.min",
            ),
        ] {
            assert!(wrong(&labels).contains(part), "{}", wrong(&labels));
        }
        for url in [
            "https://p:1",
            "http://p",
            "http://:80",
            "http://p:0",
            "http://u@p:1",
            "p:1",
        ] {
            let labels = [
                max,
                (QUERY_LABEL, "up"),
                (QUERY_TARGET_LABEL, "1"),
                (QUERY_URL_LABEL, url),
            ];
            assert!(wrong(&labels).contains("is not http://HOST:PORT"), "{url}");
        }
        let mut job = spec(&[max, (CPU_LABEL, "1")], "");
        job.mode = ServiceMode::GlobalJob(crate::service::Empty {});
        let error = job.autoscale().unwrap_err().to_string();
        assert!(error.contains("only replicated services"), "{error}");
    }
}
