//! What becomes of a service's tasks on a node that hears of no manager, by labels of the service:
//! `skep.on-disconnect.stop-after=30s` stops them after so long, and with `skep.exclusive=true` a slot
//! has no second task before its first one has certainly stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::job::length;
use crate::service::UpdateOrder;
use crate::{ServiceMode, ServiceSpec};

/// How long a node may hear of no manager before it stops the tasks.
pub const STOP_AFTER_LABEL: &str = "skep.on-disconnect.stop-after";
/// Whether two tasks of a slot must never run at once.
pub const EXCLUSIVE_LABEL: &str = "skep.exclusive";

/// A shorter time would stop tasks for a manager that is just being replaced by the next.
const STOP_AFTER_MIN: Duration = Duration::from_secs(5);
const STOP_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// For exclusive services that do not say.
const STOP_AFTER_DEFAULT: Duration = Duration::from_secs(15);

/// What is done about tasks of a node that is cut off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OnDisconnect {
    /// Absent: they go on.
    pub stop_after: Option<Duration>,
    /// A slot's next task waits until the one before has stopped, whatever that takes.
    pub exclusive: bool,
}

impl OnDisconnect {
    /// As the labels of a service, or of its task, say.
    ///
    /// # Errors
    /// A label says something else than it may; the text names it.
    pub fn read(labels: &BTreeMap<String, String>) -> Result<Self, String> {
        let exclusive = match labels.get(EXCLUSIVE_LABEL).map(|given| given.trim()) {
            None | Some("false") => false,
            Some("true") => true,
            Some(given) => {
                return Err(format!(
                    "label {EXCLUSIVE_LABEL}: `{given}` is not true or false"
                ));
            }
        };
        let stop_after = match labels.get(STOP_AFTER_LABEL).map(|given| given.trim()) {
            None => exclusive.then_some(STOP_AFTER_DEFAULT),
            Some(given) => {
                let bounds = STOP_AFTER_MIN..=STOP_AFTER_MAX;
                let read = length(given).filter(|length| bounds.contains(length));
                let wrong = || {
                    format!(
                        "label {STOP_AFTER_LABEL}: `{given}` is not a length of time from 5s to 24h"
                    )
                };
                Some(read.ok_or_else(wrong)?)
            }
        };
        Ok(Self {
            stop_after,
            exclusive,
        })
    }

    /// The same where labels were checked before: what cannot be read says nothing.
    pub fn of(labels: &BTreeMap<String, String>) -> Self {
        Self::read(labels).unwrap_or_default()
    }
}

/// Whether a spec's labels say what they may, and what goes with the rest of it.
///
/// # Errors
/// What is wrong, with the label's name.
pub(crate) fn check(spec: &ServiceSpec) -> Result<(), String> {
    let wish = OnDisconnect::read(&spec.labels)?;
    if !wish.exclusive {
        return Ok(());
    }
    if !matches!(spec.mode, ServiceMode::Replicated(_)) {
        return Err(format!(
            "label {EXCLUSIVE_LABEL}: only slots of replicated services are exclusive"
        ));
    }
    let configs = [
        ("update", &spec.update_config),
        ("rollback", &spec.rollback_config),
    ];
    for (what, config) in configs {
        let order = config.as_ref().map(|config| config.order);
        if order == Some(UpdateOrder::StartFirst) {
            return Err(format!(
                "label {EXCLUSIVE_LABEL}: goes with --{what}-order stop-first only"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::UpdateConfig;

    fn labels(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        all.iter().map(owned).collect()
    }

    #[test]
    fn labels_say_what_becomes_of_tasks() {
        assert_eq!(OnDisconnect::of(&labels(&[])), OnDisconnect::default());
        let wish = OnDisconnect::of(&labels(&[(STOP_AFTER_LABEL, "1m30s")]));
        assert_eq!(wish.stop_after, Some(Duration::from_secs(90)));
        assert!(!wish.exclusive);
        let wish = OnDisconnect::of(&labels(&[(EXCLUSIVE_LABEL, "true")]));
        assert_eq!(wish.stop_after, Some(STOP_AFTER_DEFAULT));
        for wrong in ["", "4s", "25h", "soon", "-5s"] {
            let read = OnDisconnect::read(&labels(&[(STOP_AFTER_LABEL, wrong)]));
            let told = read.unwrap_err();
            assert!(told.contains(STOP_AFTER_LABEL) && told.contains("from 5s to 24h"));
        }
        assert_eq!(
            OnDisconnect::read(&labels(&[(EXCLUSIVE_LABEL, "yes")])).unwrap_err(),
            "label skep.exclusive: `yes` is not true or false"
        );
    }

    #[test]
    fn exclusive_is_refused_where_it_could_not_be_kept() {
        let mut spec = ServiceSpec {
            labels: labels(&[(EXCLUSIVE_LABEL, "true")]),
            ..ServiceSpec::default()
        };
        assert_eq!(check(&spec), Ok(()));
        spec.update_config = Some(UpdateConfig {
            order: UpdateOrder::StartFirst,
            ..UpdateConfig::default()
        });
        let told = check(&spec).unwrap_err();
        assert!(told.contains("--update-order stop-first"), "{told}");
        spec.update_config = None;
        spec.mode = ServiceMode::Global(Default::default());
        assert!(check(&spec).unwrap_err().contains("replicated"));
    }
}
