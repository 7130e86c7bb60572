//! Stacks that go back to what they have been.

use skep_model::payload::{Payload, PayloadId, VersionChange};
use skep_model::rollout::{RolloutState, RolloutWish};
use skep_model::service::{UpdateState, UpdateStatus};
use skep_model::stack::StackRevision;
use skep_model::{ControlError, Secret, Service, Stack};
use skep_store::Snapshot;

use super::Because;
use crate::control::{Done, Door};

impl Door<'_> {
    /// Deploys a revision of the past: its images by the digests they had, its configs, and its secrets,
    /// which must still be there.
    pub(in crate::control) fn roll_back_stack(&mut self, name: &str, number: u64) -> Done {
        // What others have changed since is the present revision.
        self.adopt_stack(name)?;
        let past = self.past_stack(name, number)?;
        let text = format!("rolled back to {}", past.number);
        let because = Because::asked(text, RolloutWish::default());
        self.turn_secrets_back(&past)?;
        self.turn_stack(&past.spec, true, because)
    }

    /// Deploys a revision of the past because the present one has failed: every service goes back at
    /// once, in the way of its rollbacks, and waits for none of the others.
    pub(in crate::control) fn return_stack(
        &mut self,
        name: &str,
        number: u64,
        (ended, failure): (RolloutState, &str),
    ) -> Done {
        let past = self.past_stack(name, number)?;
        let before = self.tx.view().clone();
        let wish = before
            .by_name::<Stack>(name)
            .and_then(|stack| stack.rollout.clone());
        let because = Because {
            text: format!("rolled back to {}: {failure}", past.number),
            state: RolloutState::RollingBack,
            message: failure.to_owned(),
            wish: wish.map(|rollout| rollout.wish).unwrap_or_default(),
            ended,
        };
        self.turn_secrets_back(&past)?;
        self.remove_what_came(&before, name, &past)?;
        self.turn_stack(&past.spec, false, because)?;
        let view = self.tx.view().clone();
        for service in view.services().filter(|service| service.stack == name) {
            let had = before.service(&service.id);
            let turned = had.is_some_and(|had| had.spec_version != service.spec_version);
            if !turned || service.spec.mode.is_job() {
                continue;
            }
            let mut service = Service::clone(service);
            service.update_status = Some(UpdateStatus {
                state: UpdateState::RollbackStarted,
                started_at: Some(self.now),
                completed_at: None,
                message: format!("update rolled back with stack {name}"),
            });
            self.put(service)?;
        }
        Ok(())
    }

    /// Services that the revision that failed has brought go; what else there is nobody has asked about.
    fn remove_what_came(&mut self, before: &Snapshot, name: &str, past: &StackRevision) -> Done {
        let failed = before.by_name::<Stack>(name);
        let came = failed.into_iter().flat_map(|stack| &stack.spec.services);
        for spec in came {
            let had = past.spec.services.iter().any(|one| one.name == spec.name);
            let known = self.tx.by_name::<Service>(&spec.name);
            if let (false, Some(id)) = (had, known.map(|known| known.id.clone())) {
                self.remove_service(&id)?;
            }
        }
        Ok(())
    }

    /// A revision of the past by its number, 0 for the one before, as far as it can be deployed.
    fn past_stack(&self, name: &str, number: u64) -> Result<StackRevision, ControlError> {
        let stack = self.tx.by_name::<Stack>(name);
        let stack = stack.ok_or_else(|| {
            ControlError::not_found(format!(
                "stack {name} has no revisions: nothing is deployed under this name, or only since a few seconds, service by service"
            ))
        })?;
        let past = match number {
            0 => stack.history.first(),
            number if number == stack.revision => {
                return Err(ControlError::invalid(format!(
                    "revision {number} of stack {name} is the present one"
                )));
            }
            number => stack.history.iter().find(|past| past.number == number),
        };
        let past = past.cloned().ok_or_else(|| {
            ControlError::not_found(match number {
                0 => format!("stack {name} has no revision before the present one"),
                number => format!("stack {name} has no revision {number} (any more)"),
            })
        })?;
        let lost = |secret: &&skep_model::SecretSpec| {
            secret.driver.is_none() && self.tx.by_name::<Secret>(&secret.name).is_none()
        };
        if let Some(secret) = past.spec.secrets.iter().find(lost) {
            return Err(ControlError::invalid(format!(
                "revision {} of stack {name} needs secret {}, which was removed: create it again first",
                past.number, secret.name
            )));
        }
        Ok(past)
    }

    /// Secrets have the bytes again that they had, as far as those are still known.
    fn turn_secrets_back(&mut self, past: &StackRevision) -> Done {
        for secret in &past.spec.secrets {
            let Some(known) = self.tx.by_name::<Secret>(&secret.name).cloned() else {
                continue;
            };
            let had = past.secret_versions.get(&secret.name).copied().unwrap_or(1);
            let Some(bytes) = known.of_version(had) else {
                self.response.warnings.push(format!(
                    "version {had} of secret {} is forgotten: it stays as it is",
                    secret.name
                ));
                continue;
            };
            if bytes != known.data() {
                let back = VersionChange::Back(had);
                self.turn_version(&PayloadId::Secret(known.id.clone()), &back, None)?;
            }
        }
        Ok(())
    }
}
