//! Newer versions of secrets and configs for a task that runs already.

use std::collections::BTreeSet;

use skep_model::Task;
use skep_model::payload::InPlace;
use tracing::{info, warn};

use super::{DriveError, Driver, RETRY, now};
use crate::task::spec::{self, Put};
use crate::task::step::Observed;

impl Driver {
    /// Gives the task what it is to see by now, if it runs and does not see it yet. What goes wrong is
    /// tried again: the task is as good as before.
    pub(super) async fn keep_files(&mut self, observed: &Observed) {
        let Some(task) = self.task.clone() else {
            return;
        };
        let is_due = matches!(observed, Observed::Running { .. })
            && self.stop_since.is_none()
            && !self.status.state.is_terminal()
            && now() >= self.files_not_before;
        let orders = task.in_place.iter().filter(|order| !self.sees(order));
        let news: Vec<InPlace> = orders.cloned().collect();
        if !is_due || news.is_empty() {
            return;
        }
        match self.give(&task, &news).await {
            Ok(()) => {
                info!(task = %self.id, service = %task.service_name, "files were replaced in place");
                self.note_seen(&news).await;
            }
            Err(error) => {
                warn!(task = %self.id, %error, "files cannot be replaced in place");
                self.files_not_before = now().plus(10 * RETRY);
            }
        }
    }

    fn sees(&self, order: &InPlace) -> bool {
        let seen = self.status.versions.get(&order.object).copied();
        seen.is_some_and(|seen| seen >= order.number)
    }

    async fn give(&self, task: &Task, news: &[InPlace]) -> Result<(), DriveError> {
        let is_new = |object: &str| news.iter().any(|order| order.object == object);
        let payloads = spec::task_payloads(task, &self.worker.assigned())?;
        // What a template is made of may be another one's payload.
        let payloads = payloads
            .into_iter()
            .filter(|payload| payload.is_template || is_new(&payload.object));
        let engine = &self.worker.engine;
        let files = payloads.filter_map(|payload| match payload.put {
            Put::File(file) => Some(file),
            // What a program was started with stays as it is.
            Put::Variable(_) => None,
        });
        let files = files.collect();
        engine
            .container_replace_files(&self.container, files)
            .await?;
        let signals: BTreeSet<&str> = news.iter().map(|order| order.signal.as_str()).collect();
        for signal in signals {
            engine.container_kill(&self.container, signal).await?;
        }
        Ok(())
    }

    /// Tells the managers that the task sees these versions.
    async fn note_seen(&mut self, news: &[InPlace]) {
        for order in news {
            let versions = &mut self.status.versions;
            versions.insert(order.object.clone(), order.number);
        }
        if let Err(error) = self.worker.remember(&self.id, &self.status).await {
            // After a restart they are given once more.
            warn!(task = %self.id, %error, "a status could not be journalled");
        }
        self.worker.statuses.put(&self.id, self.status.clone());
    }
}
