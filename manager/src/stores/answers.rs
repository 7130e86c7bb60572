//! What stores have answered a moment ago: a hundred tasks that start at once are one question.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OnceCell};
use zeroize::Zeroizing;

/// How long an answer counts, and how long one that was none does.
const ANSWER_LIFE: Duration = Duration::from_secs(5);
const REFUSAL_LIFE: Duration = Duration::from_secs(1);
/// Between two looks for what is to be forgotten.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// Questions and bytes remembered at most; what is beyond is asked anew.
const QUESTIONS_MAX: usize = 1024;
const BYTES_MAX: usize = 16 << 20;

/// The bytes, or why there are none. Whoever holds the bytes last leaves nothing of them.
pub type Outcome = Result<Arc<Zeroizing<Vec<u8>>>, String>;
/// One question. Whoever asks the same meanwhile waits for the same answer.
pub type Asked = Arc<OnceCell<(Instant, Outcome)>>;

#[derive(Default)]
pub struct Answers {
    questions: Mutex<HashMap<String, Asked>>,
    came: Notify,
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Asked>> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins those who ask the same.
    pub fn join(&self, question: &str) -> Asked {
        let mut questions = self.lock();
        forget_old(&mut questions);
        if let Some(asked) = questions.get(question) {
            return Arc::clone(asked);
        }
        let asked = Asked::default();
        if questions.len() < QUESTIONS_MAX && bytes(&questions) < BYTES_MAX {
            questions.insert(question.to_owned(), Arc::clone(&asked));
        }
        self.came.notify_one();
        asked
    }

    /// An answer has come: it is not kept where there are too many bytes already.
    pub fn settle(&self, question: &str) {
        let mut questions = self.lock();
        if bytes(&questions) > BYTES_MAX {
            questions.remove(question);
        }
    }

    /// Forgets answers when their time is over, also when nobody asks any more.
    pub async fn keep(&self) {
        loop {
            self.came.notified().await;
            loop {
                tokio::time::sleep(LOOK_PERIOD).await;
                let mut questions = self.lock();
                forget_old(&mut questions);
                if questions.is_empty() {
                    break;
                }
            }
        }
    }
}

fn forget_old(questions: &mut HashMap<String, Asked>) {
    questions.retain(|_, asked| match asked.get() {
        Some((at, Ok(_))) => at.elapsed() < ANSWER_LIFE,
        Some((at, Err(_))) => at.elapsed() < REFUSAL_LIFE,
        // Nobody waits for it any more.
        None => Arc::strong_count(asked) > 1,
    });
}

fn bytes(questions: &HashMap<String, Asked>) -> usize {
    let answers = questions.values().filter_map(|asked| asked.get());
    answers
        .map(|(_, outcome)| outcome.as_ref().map_or(0, |bytes| bytes.len()))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(bytes: usize) -> (Instant, Outcome) {
        (Instant::now(), Ok(Arc::new(Zeroizing::new(vec![1; bytes]))))
    }

    #[tokio::test]
    async fn the_same_question_is_asked_once_and_forgotten_in_time() {
        let answers = Answers::default();
        let first = answers.join("a");
        assert!(Arc::ptr_eq(&first, &answers.join("a")));
        assert!(!Arc::ptr_eq(&first, &answers.join("b")));
        // Whoever asked for b has gone.
        answers.join("c");
        assert_eq!(answers.lock().len(), 2, "a is waited for, c was just asked");
        first.set(some(1)).unwrap();
        assert!(answers.join("a").get().is_some());
        let long_ago = Instant::now().checked_sub(ANSWER_LIFE).unwrap();
        let old = answers.join("old");
        old.set((long_ago, Ok(Arc::default()))).unwrap();
        let refused = answers.join("refused");
        let a_while_ago = Instant::now().checked_sub(REFUSAL_LIFE).unwrap();
        refused.set((a_while_ago, Err(String::new()))).unwrap();
        for gone in ["old", "refused"] {
            assert!(answers.join(gone).get().is_none(), "{gone}");
        }
        let held = tokio::time::timeout(Duration::from_secs(60), async {
            tokio::select! {
                () = answers.keep() => (),
                () = async {
                    while !answers.lock().is_empty() {
                        tokio::time::sleep(LOOK_PERIOD).await;
                    }
                } => (),
            }
        });
        held.await.expect("nothing is remembered for ever");
    }

    #[tokio::test]
    async fn what_is_remembered_has_a_bound() {
        let answers = Answers::default();
        let large = answers.join("large");
        large.set(some(BYTES_MAX)).unwrap();
        answers.join("small");
        assert_eq!(answers.lock().len(), 1, "it is asked, and not remembered");
        // One that was asked before the others' answers came.
        let answers = Answers::default();
        let (first, second) = (answers.join("first"), answers.join("second"));
        first.set(some(BYTES_MAX)).unwrap();
        answers.settle("first");
        second.set(some(1)).unwrap();
        answers.settle("second");
        assert!(answers.join("first").get().is_some());
        assert!(answers.join("second").get().is_none());
        let answers = Answers::default();
        let held: Vec<Asked> = (0..QUESTIONS_MAX + 5)
            .map(|number| answers.join(&number.to_string()))
            .collect();
        assert_eq!(answers.lock().len(), QUESTIONS_MAX);
        drop(held);
    }
}
