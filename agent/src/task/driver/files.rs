//! Newer versions of secrets and configs for a task that runs already.

use std::collections::BTreeSet;
use std::sync::Arc;

use skep_model::payload::InPlace;
use skep_model::{SecretId, Task, TaskState};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::secrets::Question;
use super::{DriveError, Driver, RETRY, now};
use crate::task::spec::{self, Put};
use crate::task::step::Observed;

impl Driver {
    /// Gives the task what it is to see by now, if it runs and does not see it yet. What goes wrong is
    /// tried again: the task is as good as before.
    pub(super) async fn keep_files(&mut self, observed: &Observed, wake: &Arc<Notify>) {
        let Some(task) = self.task.clone() else {
            return;
        };
        let is_due = matches!(observed, Observed::Running { .. })
            && self.stop_since.is_none()
            && !self.status.state.is_terminal()
            && now() >= self.files_not_before;
        let news = self.unseen(&task);
        if !is_due || news.is_empty() {
            self.asking = None;
            // Nothing more is wanted of a store: it was taken back.
            if news.is_empty() && self.status.state == TaskState::Running {
                self.say_refused(String::new()).await;
            }
            return;
        }
        let only = self.to_fetch(&task, &news);
        let questions = self.questions(only.as_ref());
        if questions.is_empty() {
            self.asking = None;
        } else {
            // What needs no store does not wait for one, unless a template may speak of it.
            let is_asked = |order: &InPlace| {
                let of = |question: &Question| question.key.0.as_str() == order.object;
                only.is_none() || questions.iter().any(of)
            };
            let (_, ready): (Vec<InPlace>, Vec<InPlace>) = news.iter().cloned().partition(is_asked);
            if !ready.is_empty() {
                self.bring(&task, &ready).await;
            }
            // The lease, the program's end and changes of mind must not wait for a store.
            let Some(asked) = self.asked_aside(questions, wake) else {
                return;
            };
            if let Some(why) = self.fetched.take(asked) {
                self.fetched.let_go();
                warn!(task = %self.id, why, "files cannot be replaced in place yet");
                self.say_refused(why).await;
                self.files_not_before = now().plus(10 * RETRY);
                return;
            }
            self.say_refused(String::new()).await;
        }
        let news = self.unseen(&task);
        self.bring(&task, &news).await;
        self.fetched.let_go();
    }

    /// What the task is to see and does not see yet.
    fn unseen(&self, task: &Task) -> Vec<InPlace> {
        let orders = task.in_place.iter().filter(|order| !self.sees(order));
        orders.cloned().collect()
    }

    /// Gives what these orders name, and notes that the task sees it.
    async fn bring(&mut self, task: &Task, news: &[InPlace]) {
        match self.give(task, news).await {
            Ok(()) => {
                info!(task = %self.id, service = %task.service_name, "files were replaced in place");
                self.note_seen(news).await;
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

    /// The secrets that these orders need; all of the task's where templates may speak of any.
    fn to_fetch(&self, task: &Task, news: &[InPlace]) -> Option<BTreeSet<SecretId>> {
        let assigned = self.worker.assigned();
        let container = task.spec.container()?;
        let mut secrets = container.secrets.iter();
        let of_secrets = secrets.any(|one| {
            let secret = assigned.secrets.get(&one.secret_id);
            secret.is_some_and(|secret| secret.spec.templating.is_some())
        });
        let mut configs = container.configs.iter();
        let of_configs = configs.any(|one| {
            let config = assigned.configs.get(&one.config_id);
            config.is_some_and(|config| config.spec.templating.is_some())
        });
        if of_secrets || of_configs {
            return None;
        }
        let objects = news.iter().map(|order| SecretId::new(&order.object));
        Some(objects.collect())
    }

    async fn give(&self, task: &Task, news: &[InPlace]) -> Result<(), DriveError> {
        let is_new = |object: &str| news.iter().any(|order| order.object == object);
        let payloads = spec::task_payloads(task, &self.assigned())?;
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
