//! What secrets of outside stores hold: asked for when the task needs it, and let go of when its program
//! has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_model::payload::{Payload as _, wanted};
use skep_model::secret_store::STORE_WORDS;
use skep_model::{SecretId, Task, TaskId, TaskState, Timestamp};
use skep_proto::v1::SecretQuestion;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::secret_answer::Outcome;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use tracing::info;
use zeroize::Zeroizing;

use super::{Driver, now};
use crate::assigned::Assigned;
use crate::peers::manager;
use crate::task::step::Fetch;
use crate::worker::Worker;

/// Managers ask each other, and each has a bound on what its store may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);
/// Pause before a store is asked again, doubled with each refusal. There is no end to it: whoever mends
/// the store need do nothing else.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// What is said of a task that waits for a store.
const WAITS: &str = "waiting for a secret";

/// A version of a secret.
type Key = (SecretId, u64);

/// A version of a secret that is missing, and the store that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) key: Key,
    store: String,
}

/// Questions that are asked now.
pub(super) struct Asking {
    questions: Vec<Question>,
    answer: oneshot::Receiver<Asked>,
    _task: AbortOnDropHandle<()>,
}

/// What stores have answered for one task.
#[derive(Default)]
pub(super) struct Fetched {
    bytes: BTreeMap<Key, Zeroizing<Vec<u8>>>,
    refusals: u32,
    not_before: Timestamp,
}

/// What came of asking, and why something is missing.
pub(super) struct Asked {
    bytes: BTreeMap<Key, Zeroizing<Vec<u8>>>,
    pub(super) refused: Option<String>,
}

impl Fetched {
    /// What is assigned, with the bytes where they are wanted.
    pub(super) fn fill(&self, assigned: Arc<Assigned>) -> Arc<Assigned> {
        if self.bytes.is_empty() {
            return assigned;
        }
        let mut filled = Assigned::clone(&assigned);
        for ((id, number), bytes) in &self.bytes {
            if let Some(secret) = filled.secrets.get_mut(id) {
                Arc::make_mut(secret).fill(*number, bytes);
            }
        }
        Arc::new(filled)
    }

    /// Keeps what was answered; gives back why something is missing.
    pub(super) fn take(&mut self, asked: Asked) -> Option<String> {
        self.bytes.extend(asked.bytes);
        match &asked.refused {
            None => self.refusals = 0,
            Some(_) => {
                self.not_before = now().plus(pause(self.refusals));
                self.refusals += 1;
            }
        }
        asked.refused
    }

    pub(super) fn let_go(&mut self) {
        self.bytes.clear();
    }
}

fn pause(refusals: u32) -> Duration {
    let factor = 1_u32.checked_shl(refusals.min(16)).unwrap_or(u32::MAX);
    PAUSE.0.saturating_mul(factor).min(PAUSE.1)
}

/// The versions of secrets of outside stores that a task is to see.
fn needed(task: &Task, assigned: &Assigned) -> BTreeSet<Key> {
    let container = task.spec.container().into_iter();
    let references = container.flat_map(|container| &container.secrets);
    let references = references.filter(|one| one.file.is_some());
    let outside = references.filter(|one| {
        let secret = assigned.secrets.get(&one.secret_id);
        secret.is_some_and(|secret| secret.spec.driver.is_some())
    });
    outside
        .map(|one| {
            let id = &one.secret_id;
            let number = wanted(&task.in_place, id.as_str(), &one.version);
            (id.clone(), number)
        })
        .collect()
}

impl Driver {
    /// What is assigned, with what stores have answered.
    pub(super) fn assigned(&self) -> Arc<Assigned> {
        self.fetched.fill(self.worker.assigned())
    }

    /// Whether stores have to be asked, and may be now.
    pub(super) fn fetch_due(&self) -> Fetch {
        let Some(task) = &self.task else {
            return Fetch::Done;
        };
        let needed = needed(task, &self.worker.assigned());
        let has_all = needed
            .iter()
            .all(|key| self.fetched.bytes.contains_key(key));
        match (has_all, self.fetched.not_before) {
            (true, _) => Fetch::Done,
            (false, at) if now() >= at => Fetch::Due,
            (false, at) => Fetch::Later(at),
        }
    }

    /// What is still missing; of `only` these secrets, if they are named.
    pub(super) fn questions(&self, only: Option<&BTreeSet<SecretId>>) -> Vec<Question> {
        let Some(task) = &self.task else {
            return Vec::new();
        };
        let assigned = self.worker.assigned();
        let missing = needed(task, &assigned).into_iter().filter(|key| {
            only.is_none_or(|only| only.contains(&key.0)) && !self.fetched.bytes.contains_key(key)
        });
        let question = |key: Key| {
            let secret = assigned.secrets.get(&key.0);
            let driver = secret.and_then(|secret| secret.spec.driver.as_ref());
            let store = driver.map_or(String::new(), |driver| driver.name.clone());
            Question { key, store }
        };
        missing.map(question).collect()
    }

    /// What came of these questions, asked beside everything else; `None` while they are asked. `wake`
    /// is told when there is an answer.
    pub(super) fn asked_aside(
        &mut self,
        questions: Vec<Question>,
        wake: &Arc<Notify>,
    ) -> Option<Asked> {
        // Where others are asked now, those of before go with their task.
        let same = self.asking.take();
        if let Some(mut asking) = same.filter(|asking| asking.questions == questions) {
            return match asking.answer.try_recv() {
                Ok(asked) => Some(asked),
                Err(TryRecvError::Empty) => {
                    self.asking = Some(asking);
                    None
                }
                Err(TryRecvError::Closed) => Some(Asked {
                    bytes: BTreeMap::new(),
                    refused: Some(format!("{STORE_WORDS}was not asked")),
                }),
            };
        }
        let (worker, id) = (Arc::clone(&self.worker), self.id.clone());
        let (wake, asked) = (Arc::clone(wake), questions.clone());
        let (tell, answer) = oneshot::channel();
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            // Told before the driver looks.
            let _ = tell.send(ask_all(&worker, &id, &asked).await);
            wake.notify_one();
        }));
        self.asking = Some(Asking {
            questions,
            answer,
            _task: task,
        });
        None
    }

    /// Keeps what stores have answered, and says what the task waits for if something is missing.
    pub(super) async fn note_stores(&mut self, asked: Asked) {
        match self.fetched.take(asked) {
            None => self.say_refused(String::new()).await,
            Some(why) => self.say_refused(why).await,
        }
    }

    /// Tells the managers why the task waits for a store, or that it does not any more. The same is said
    /// once: it is written down by all of them.
    pub(super) async fn say_refused(&mut self, why: String) {
        let had = &self.status.err;
        let was_said = had.starts_with(STORE_WORDS);
        if *had == why || (why.is_empty() && !was_said) {
            return;
        }
        let state = self.status.state;
        let message = match (why.is_empty(), state) {
            (false, _) => {
                info!(task = %self.id, why, "a task waits for a secret");
                WAITS
            }
            (true, TaskState::Ready) => "prepared",
            (true, TaskState::Starting) => "starting",
            (true, TaskState::Running) => "started",
            (true, _) => "preparing",
        };
        self.report(state, message, why).await;
    }
}

/// Asks all of these, until one is refused.
pub(super) async fn ask_all(worker: &Worker, task: &TaskId, questions: &[Question]) -> Asked {
    let mut asked = Asked {
        bytes: BTreeMap::new(),
        refused: None,
    };
    for Question { key, store } in questions {
        match ask(worker, task, key).await {
            Ok(bytes) => drop(asked.bytes.insert(key.clone(), bytes)),
            Err(why) => {
                asked.refused = Some(match why.starts_with(STORE_WORDS) {
                    true => why,
                    false => format!("{STORE_WORDS}{store}: {why}"),
                });
                break;
            }
        }
    }
    asked
}

/// Asks the manager that this node has a session with.
async fn ask(worker: &Worker, task: &TaskId, key: &Key) -> Result<Zeroizing<Vec<u8>>, String> {
    let channel = manager(worker).await.map_err(|error| error.to_string())?;
    let question = SecretQuestion {
        task_id: task.to_string(),
        secret_id: key.0.to_string(),
        number: key.1,
    };
    let mut client = DispatcherClient::new(channel);
    let asked = tokio::time::timeout(ANSWER_WITHIN, client.fetch_secret(question)).await;
    let answer = match asked {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) if status.code() == Code::Unimplemented => {
            return Err(
                "the manager is of a version that knows of no secret stores: upgrade it".into(),
            );
        }
        Ok(Err(status)) => return Err(status.message().to_owned()),
        Err(_) => return Err("the manager does not answer in time".into()),
    };
    match answer.outcome {
        Some(Outcome::Data(bytes)) => Ok(Zeroizing::new(bytes)),
        Some(Outcome::Reason(why)) => Err(why),
        Some(Outcome::NotHere(_)) | None => Err("the manager's answer is empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use skep_model::Secret;

    use super::*;

    fn task() -> Task {
        serde_json::from_str(
            r#"{"ID":"t","Spec":{"ContainerSpec":{"Image":"x","Secrets":[
                {"SecretID":"out","SecretName":"out","File":{"Name":"out"}},
                {"SecretID":"out","SecretName":"out","File":{"Name":"env:OUT"},"Version":{"Number":2}},
                {"SecretID":"own","SecretName":"own","File":{"Name":"own"}},
                {"SecretID":"gone","SecretName":"gone","File":{"Name":"gone"}}]}}}"#,
        )
        .unwrap()
    }

    fn assigned() -> Arc<Assigned> {
        let mut assigned = Assigned::default();
        for json in [
            r#"{"ID":"out","Spec":{"Name":"out","Driver":{"Name":"v"}},
                "Versions":{"Number":2,"Earlier":[{"Number":1}]}}"#,
            r#"{"ID":"own","Spec":{"Name":"own","Data":"eA=="}}"#,
        ] {
            let secret: Secret = serde_json::from_str(json).unwrap();
            assigned.secrets.insert(secret.id.clone(), Arc::new(secret));
        }
        Arc::new(assigned)
    }

    #[test]
    fn what_stores_hold_takes_its_place_among_what_is_assigned() {
        let assigned = assigned();
        let keys = needed(&task(), &assigned);
        let named: Vec<(&str, u64)> = keys
            .iter()
            .map(|(id, number)| (id.as_str(), *number))
            .collect();
        assert_eq!(
            named,
            [("out", 1), ("out", 2)],
            "each version, and no other secret"
        );
        let mut fetched = Fetched::default();
        let bytes = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
        let asked = Asked {
            bytes: keys.into_iter().zip([bytes("one"), bytes("two")]).collect(),
            refused: None,
        };
        assert_eq!(fetched.take(asked), None);
        let filled = fetched.fill(Arc::clone(&assigned));
        let secret = &filled.secrets["out"];
        assert_eq!(secret.of_version(1), Some(&b"one"[..]));
        assert_eq!(secret.of_version(2), Some(&b"two"[..]));
        assert_eq!(filled.secrets["own"].of_version(1), Some(&b"x"[..]));
        assert_eq!(assigned.secrets["out"].of_version(2), Some(&b""[..]));
        fetched.let_go();
        assert!(Arc::ptr_eq(&fetched.fill(Arc::clone(&assigned)), &assigned));
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let secs: Vec<u64> = (0..8).map(|refusals| pause(refusals).as_secs()).collect();
        assert_eq!(secs, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pause(u32::MAX).as_secs(), 30);
    }
}
