//! What a reconciliation did and what it could not do.

use crate::NetError;

/// The outcome of making the kernel match a desired state. Failures of one
/// object never keep the others from being done.
#[derive(Debug, Default)]
#[must_use = "a report may hold failures"]
pub struct Report {
    /// What was changed, one line each: ``create link `sk-ing` ``. Empty when the
    /// kernel matched already.
    pub changes: Vec<String>,
    /// What could not be done. Calling again retries all of it.
    pub failures: Vec<Failure>,
}

/// One object that could not be brought to its desired state.
#[derive(Debug)]
pub struct Failure {
    /// The desired object: `sandbox <id>`, `overlay <id>`, `mesh`, `bridge <id>`,
    /// `endpoint <id>`.
    pub object: String,
    /// Why.
    pub error: NetError,
}

impl Report {
    /// Whether everything is as desired now.
    pub fn is_complete(&self) -> bool {
        self.failures.is_empty()
    }

    /// Whether nothing had to be done.
    pub fn is_noop(&self) -> bool {
        self.changes.is_empty() && self.failures.is_empty()
    }

    /// The first failure, if any, as a result.
    pub fn into_result(self) -> Result<Vec<String>, NetError> {
        match self.failures.into_iter().next() {
            None => Ok(self.changes),
            Some(failure) => Err(failure.error),
        }
    }

    pub(crate) fn fail(&mut self, object: impl Into<String>, error: NetError) {
        self.failures.push(Failure {
            object: object.into(),
            error,
        });
    }

    /// Takes over what a part did.
    pub(crate) fn part(&mut self, object: impl Into<String>, part: Result<Vec<String>, NetError>) {
        match part {
            Ok(changes) => self.changes.extend(changes),
            Err(error) => self.fail(object, error),
        }
    }
}
