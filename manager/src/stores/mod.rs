//! Stores outside of the cluster that hold the bytes of secrets, as this manager's node has them.
//!
//! They are asked when a task needs what they hold, and what they answer is in memory only, for as long
//! as others may ask the same.

mod answers;
mod command;
mod http;
pub mod option;
pub mod question;
mod vault;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_model::secret_store::{Origin, check_size};
use skep_model::{ControlRequest, Secret, SecretSpec, Service, Task};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use answers::Answers;
pub use answers::Outcome;
use option::{Source, StoreOption};
use question::Question;

/// How long a store may take to answer, and how long a question waits for its turn.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Commands of one store that run, and questions to one vault, at once.
const COMMANDS_MAX: usize = 8;
const REQUESTS_MAX: usize = 32;

/// The stores of this manager.
pub struct Stores {
    known: BTreeMap<String, Store>,
    answers: Answers,
    patience: Duration,
}

/// One store, and the places for those who ask it: one that hangs keeps nobody from another.
struct Store {
    source: Source,
    seats: Semaphore,
}

impl Store {
    fn new(source: Source) -> Self {
        let seats = match &source {
            Source::Command(_) => COMMANDS_MAX,
            Source::Vault(_) => REQUESTS_MAX,
        };
        Self {
            source,
            seats: Semaphore::new(seats),
        }
    }
}

/// Whose task needs which version of which secret.
#[derive(Debug, Clone)]
pub struct Need {
    pub secret: Arc<Secret>,
    pub number: u64,
    /// Where its bytes are.
    pub origin: Origin,
    pub task: Arc<Task>,
    pub service: Option<Arc<Service>>,
    /// Host name of the task's node.
    pub hostname: String,
}

impl Stores {
    pub fn new(stores: Vec<StoreOption>) -> Self {
        Self::with_patience(stores, ANSWER_WITHIN)
    }

    /// The same with another bound on how long a store may take.
    pub fn with_patience(stores: Vec<StoreOption>, patience: Duration) -> Self {
        Self {
            known: stores
                .into_iter()
                .map(|it| (it.name, Store::new(it.source)))
                .collect(),
            answers: Answers::default(),
            patience,
        }
    }

    /// Forgets what was answered once its time is over. Runs for as long as the manager.
    pub async fn keep(&self) {
        self.answers.keep().await;
    }

    /// What the store of a secret answers; `None` when this manager does not have it.
    pub async fn fetch(&self, need: &Need) -> Option<Outcome> {
        let store = self.known.get(&need.origin.store)?;
        if let Err(why) = check_size(&need.origin.options) {
            return Some(Err(why));
        }
        let name = &need.secret.spec.name;
        let question = match Question::read(&store.source, name, &need.origin.options) {
            Ok(question) => question,
            Err(why) => return Some(Err(why)),
        };
        let key = key(need, &question);
        let asked = self.answers.join(&key);
        let answer = asked.get_or_init(|| async {
            let outcome = self.ask(store, &question, need).await;
            (Instant::now(), outcome.map(Arc::new))
        });
        let outcome = answer.await.1.clone();
        self.answers.settle(&key);
        Some(outcome)
    }

    async fn ask(
        &self,
        Store { source, seats }: &Store,
        question: &Question,
        need: &Need,
    ) -> Result<Zeroizing<Vec<u8>>, String> {
        let seat = tokio::time::timeout(self.patience, seats.acquire()).await;
        let _seat = seat
            .ok()
            .and_then(Result::ok)
            .ok_or("too many questions wait for it")?;
        match (source, question) {
            (Source::Command(program), Question::Command { options, per_task }) => {
                let request = request(need, options, *per_task);
                command::ask(program, &request, self.patience).await
            }
            (Source::Vault(vault), Question::Vault(question)) => {
                let asked = tokio::time::timeout(self.patience, vault::ask(vault, question));
                asked.await.unwrap_or_else(|_| {
                    let secs = self.patience.as_secs_f64();
                    Err(format!("it has not answered after {secs} s"))
                })
            }
            (Source::Command(_), Question::Vault(_))
            | (Source::Vault(_), Question::Command { .. }) => {
                unreachable!("a question is read for its source")
            }
        }
    }

    /// Refuses a request with secrets whose options a store here does not take, and warns of stores that
    /// are not here.
    ///
    /// # Errors
    /// The secret, and the option.
    pub fn check(&self, request: &ControlRequest) -> Result<Vec<String>, String> {
        let specs: &[SecretSpec] = match request {
            ControlRequest::CreateSecret { spec } | ControlRequest::UpdateSecret { spec, .. } => {
                std::slice::from_ref(spec)
            }
            ControlRequest::DeployStack { spec, .. } => &spec.secrets,
            _ => &[],
        };
        let mut warnings = Vec::new();
        for spec in specs {
            let Some(origin) = spec.origin() else {
                continue;
            };
            warnings.extend(self.check_origin(&spec.name, &origin)?);
        }
        Ok(warnings)
    }

    /// The same for one secret.
    ///
    /// # Errors
    /// The option.
    pub fn check_origin(&self, name: &str, origin: &Origin) -> Result<Option<String>, String> {
        let store = &origin.store;
        let Some(Store { source, .. }) = self.known.get(store) else {
            return Ok(Some(format!(
                "secret {name}: this manager has no secret store {store:?} (skep daemon --secret-store {store}=…): tasks wait until a manager has it, and its options are not checked"
            )));
        };
        match Question::read(source, name, &origin.options) {
            Ok(_) => Ok(None),
            Err(why) => Err(format!("secret {name}: secret store {store}: {why}")),
        }
    }
}

/// What makes a question the same as another one.
fn key(need: &Need, question: &Question) -> String {
    let asker = match question {
        Question::Command { per_task: true, .. } => need.task.id.as_str(),
        // It is told whose tasks they are, and may answer accordingly.
        Question::Command { .. } => need.task.service_id.as_str(),
        Question::Vault(_) => "",
    };
    let (secret, origin) = (need.secret.id.as_str(), &need.origin);
    serde_json::json!([origin.store, secret, need.number, origin.options, asker]).to_string()
}

fn request(need: &Need, options: &BTreeMap<String, String>, per_task: bool) -> command::Request {
    let (secret, task) = (&need.secret.spec, &need.task);
    let service = need.service.as_ref().map(|service| &service.spec);
    let container = service.and_then(|spec| spec.task_template.container());
    let common = command::Request {
        secret_name: secret.name.clone(),
        secret_labels: secret.labels.clone(),
        secret_version: need.number,
        service_hostname: container.map(|it| it.hostname.clone()).unwrap_or_default(),
        service_name: task.service_name.clone(),
        service_id: task.service_id.to_string(),
        service_labels: service.map(|spec| spec.labels.clone()).unwrap_or_default(),
        options: options.clone(),
        ..command::Request::default()
    };
    match per_task {
        false => common,
        true => command::Request {
            task_id: task.id.to_string(),
            task_name: task.container_name(),
            task_image: task.spec.image().to_owned(),
            node_id: task.node_id.to_string(),
            node_hostname: need.hostname.clone(),
            ..common
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(store: &str, options: &[(&str, &str)], task: &str) -> Need {
        let options = options.iter();
        let options = options
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let secret = Secret {
            id: "s".into(),
            spec: SecretSpec {
                name: "db".into(),
                ..SecretSpec::default()
            },
            ..Secret::default()
        };
        let task = Task {
            id: task.into(),
            service_id: "web".into(),
            ..Task::default()
        };
        Need {
            secret: Arc::new(secret),
            number: 1,
            origin: Origin {
                store: store.to_owned(),
                options,
            },
            task: Arc::new(task),
            service: None,
            hostname: "n1".into(),
        }
    }

    /// A store that notes each question and takes its time.
    fn counting(directory: &tempfile::TempDir) -> Stores {
        use std::os::unix::fs::PermissionsExt as _;

        let (path, draft) = (
            directory.path().join("store"),
            directory.path().join("draft"),
        );
        let log = directory.path().join("log");
        let text = format!(
            "#!/bin/sh\necho asked >>{0}\nsleep 0.3\ncat >>{0}\nprintf secret",
            log.display()
        );
        std::fs::write(&draft, text).unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::rename(&draft, &path).unwrap();
        let option = format!("pass=exec:{}", path.display());
        let stores = option::read_all(&[option]).unwrap();
        Stores::with_patience(stores, Duration::from_secs(60))
    }

    fn asked(directory: &tempfile::TempDir) -> (usize, String) {
        let log = std::fs::read_to_string(directory.path().join("log")).unwrap();
        (log.matches("asked\n").count(), log)
    }

    #[tokio::test]
    async fn tasks_that_start_at_once_are_one_question_unless_each_is_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let stores = counting(&directory);
        let fetch = |options: &'static [(&'static str, &'static str)]| {
            let stores = &stores;
            let needs = (0..20).map(move |at| need("pass", options, &format!("t{at}")));
            futures_util::future::join_all(
                needs.map(|need| async move { stores.fetch(&need).await.unwrap() }),
            )
        };
        for outcome in fetch(&[]).await {
            assert_eq!(outcome.unwrap().as_slice(), b"secret");
        }
        let (count, log) = asked(&directory);
        assert_eq!(count, 1);
        assert!(!log.contains("TaskID"), "{log}");
        let all = fetch(&[("per-task", "true")]).await;
        assert!(all.iter().all(Result::is_ok));
        let (count, log) = asked(&directory);
        assert_eq!(count, 21);
        assert!(log.contains(r#""TaskID":"t19""#), "{log}");
        // Other options, and other versions, are other questions.
        stores.fetch(&need("pass", &[("a", "b")], "t1")).await;
        let mut next = need("pass", &[], "t1");
        next.number = 2;
        stores.fetch(&next).await;
        assert_eq!(asked(&directory).0, 23);
        assert!(stores.fetch(&need("other", &[], "t1")).await.is_none());
        let wrong = need("pass", &[("per-task", "x")], "t1");
        let told = stores.fetch(&wrong).await.unwrap().unwrap_err();
        assert!(told.contains("per-task"), "{told}");
    }

    #[test]
    fn requests_are_checked_by_whoever_has_the_store() {
        let option = "v=vault:https://h,token-file=/t".to_owned();
        let stores = Stores::new(option::read_all(&[option]).unwrap());
        let create = |json: &str| {
            let spec = serde_json::from_str(json).unwrap();
            stores.check(&ControlRequest::CreateSecret { spec })
        };
        assert_eq!(create(r#"{"Name":"a","Data":"eA=="}"#), Ok(vec![]));
        assert_eq!(create(r#"{"Name":"a","Driver":{"Name":"v"}}"#), Ok(vec![]));
        let wrong = r#"{"Name":"a","Driver":{"Name":"v"},"Labels":{"skep.driver.pth":"x"}}"#;
        let told = create(wrong).unwrap_err();
        assert!(
            told.contains("secret a: secret store v: a vault takes no option \"pth\""),
            "{told}"
        );
        let warned = create(r#"{"Name":"a","Driver":{"Name":"w"}}"#).unwrap();
        assert!(warned[0].contains("no secret store \"w\""), "{warned:?}");
    }
}
