//! Questions to registries about images of services: the same one is asked once at a time, and a
//! registry that could not be reached is left alone for a while.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use skep_engine::Kind;
use skep_engine::types::DistributionInspect;
use skep_model::image::registry;

/// How long a registry may take to answer before a service goes on without.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// A registry that could not be reached is not asked again for so long.
const UNREACHED_LIFE: Duration = Duration::from_secs(30);
/// Unreached registries remembered; the oldest go first.
const UNREACHED_MAX: usize = 64;
/// What an image that names no registry is looked for at.
const REGISTRY_DEFAULT: &str = "docker.io";

type Answer = Result<DistributionInspect, NoAnswer>;
type Question = Shared<BoxFuture<'static, Answer>>;
/// By image and credentials; as many as there are requests that wait for them.
type Asking = HashMap<(String, String), WeakShared<BoxFuture<'static, Answer>>>;

#[derive(Debug, Clone)]
struct NoAnswer {
    why: String,
    /// Whether the registry itself was not there.
    unreached: bool,
}

/// Questions under way, and registries not to be asked.
#[derive(Default)]
pub(crate) struct Questions {
    asking: Mutex<Asking>,
    unreached: Mutex<Unreached>,
}

impl std::fmt::Debug for Questions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unreached = lock(&self.unreached);
        formatter
            .debug_tuple("Questions")
            .field(&*unreached)
            .finish()
    }
}

impl Questions {
    /// What `question` about an image answers, or why there is no answer. Whoever asks the same with
    /// the same credentials meanwhile gets the same answer.
    pub(crate) async fn ask(
        &self,
        image: &str,
        credentials: &str,
        question: impl Future<Output = skep_engine::Result<DistributionInspect>> + Send + 'static,
    ) -> Result<DistributionInspect, String> {
        let host = registry(image).unwrap_or(REGISTRY_DEFAULT);
        if let Some(why) = lock(&self.unreached).why(host, Instant::now()) {
            return Err(why.to_owned());
        }
        let answer = self.join(image, credentials, question).await;
        if let Err(no) = &answer
            && no.unreached
        {
            lock(&self.unreached).note(host, &no.why, Instant::now());
        }
        answer.map_err(|no| no.why)
    }

    fn join(
        &self,
        image: &str,
        credentials: &str,
        question: impl Future<Output = skep_engine::Result<DistributionInspect>> + Send + 'static,
    ) -> Question {
        let key = (image.to_owned(), credentials.to_owned());
        let mut asking = lock(&self.asking);
        if let Some(question) = asking.get(&key).and_then(WeakShared::upgrade) {
            return question;
        }
        asking.retain(|_, question| question.upgrade().is_some());
        let question = within_time(question).boxed().shared();
        if let Some(weak) = question.downgrade() {
            asking.insert(key, weak);
        }
        question
    }
}

async fn within_time(
    question: impl Future<Output = skep_engine::Result<DistributionInspect>> + Send,
) -> Answer {
    match tokio::time::timeout(ASK_TIMEOUT, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(NoAnswer {
            why: error.to_string(),
            unreached: error.kind() == Kind::Unavailable,
        }),
        Err(_) => Err(NoAnswer {
            why: "the registry does not answer".to_owned(),
            unreached: true,
        }),
    }
}

/// Registries that could not be reached of late: when, which, and why.
#[derive(Debug, Default)]
struct Unreached(VecDeque<(Instant, String, String)>);

impl Unreached {
    fn note(&mut self, host: &str, why: &str, now: Instant) {
        self.0
            .retain(|(at, known, _)| is_fresh(*at, now) && known != host);
        if self.0.len() >= UNREACHED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, host.to_owned(), why.to_owned()));
    }

    fn why(&self, host: &str, now: Instant) -> Option<&str> {
        let mut known = self.0.iter();
        let found = known.find(|(at, known, _)| known == host && is_fresh(*at, now));
        found.map(|(_, _, why)| why.as_str())
    }
}

fn is_fresh(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < UNREACHED_LIFE
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use skep_engine::EngineError;
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn what_was_not_reached_is_left_alone_for_a_while() {
        let start = Instant::now();
        let mut unreached = Unreached::default();
        unreached.note("a", "no route", start);
        assert_eq!(unreached.why("a", start), Some("no route"));
        assert_eq!(unreached.why("b", start), None);
        let later = start + UNREACHED_LIFE;
        assert_eq!(unreached.why("a", later), None);
        for number in 0..=UNREACHED_MAX {
            unreached.note(&format!("host{number}"), "", later);
        }
        assert_eq!(unreached.why("host0", later), None, "there is a bound");
        assert_eq!(unreached.why("host1", later), Some(""));
    }

    /// Asks for `image` as often as there are `credentials`, all at once; how often the registry was
    /// asked, and the answers.
    async fn ask(
        questions: &Questions,
        image: &str,
        credentials: &[&str],
        kind: Kind,
    ) -> (usize, Vec<String>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Semaphore::new(0));
        let asking = credentials.iter().map(|credentials| {
            let (asked, gate) = (asked.clone(), gate.clone());
            questions.ask(image, credentials, async move {
                asked.fetch_add(1, Ordering::Relaxed);
                let _open = gate.acquire().await;
                Err(EngineError::new(kind, "no"))
            })
        });
        let all = futures_util::future::join_all(asking);
        let open = async { gate.add_permits(credentials.len()) };
        let (answers, ()) = tokio::join!(all, open);
        let answers = answers.into_iter().map(|answer| answer.unwrap_err());
        (asked.load(Ordering::Relaxed), answers.collect())
    }

    #[tokio::test]
    async fn the_same_is_asked_once_at_a_time() {
        let questions = Questions::default();
        let credentials = ["", "", "mine", ""];
        let (asked, answers) = ask(&questions, "web:1", &credentials, Kind::NotFound).await;
        assert_eq!(asked, 2, "credentials may make a difference");
        assert_eq!(answers, ["no"; 4]);
        let (asked, _) = ask(&questions, "web:1", &[""], Kind::NotFound).await;
        assert_eq!(asked, 1, "a registry that answers is asked anew");
    }

    #[tokio::test]
    async fn a_registry_that_is_not_there_is_asked_once() {
        let questions = Questions::default();
        for (image, count) in [("far:5000/web", 1), ("far:5000/other", 0), ("web", 1)] {
            let (asked, answers) = ask(&questions, image, &[""], Kind::Unavailable).await;
            assert_eq!((asked, answers), (count, vec!["no".to_owned()]), "{image}");
        }
    }
}
