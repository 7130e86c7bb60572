//! Which of the nodes whose sessions end here have an image.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skep_model::NodeId;
use skep_proto::v1::{Locate, LocateRequest, Located, manager_message};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Sessions, lock};

/// How long nodes may take to say.
const ANSWERS_WITHIN: Duration = Duration::from_millis(1500);
/// Nodes named in one answer at most: who fetches needs a few to choose from.
const HOLDERS_MAX: usize = 64;

/// Where the answers to a question go.
pub(super) type Answers = mpsc::Sender<(NodeId, Located)>;

impl Sessions {
    /// Asks every node; those that have the image, with what they say of it.
    pub async fn locate(&self, image: &LocateRequest) -> Vec<(NodeId, Located)> {
        let question = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let handles: Vec<_> = {
            let open = lock(&self.open);
            open.iter()
                .map(|(node, handle)| (node.clone(), handle.out.clone()))
                .collect()
        };
        // A word more of each than is waited for; the rest is dropped.
        let (sender, mut answers) = mpsc::channel(2 * handles.len().max(1));
        lock(&self.questions).insert(question, sender);
        let _over = Over(self, question);
        let mut awaited = HashSet::new();
        for (node, out) in handles {
            let locate = Locate {
                question,
                image: Some(image.clone()),
            };
            if out
                .try_send(manager_message::Content::Locate(locate))
                .is_ok()
            {
                awaited.insert(node);
            }
        }
        let deadline = Instant::now() + ANSWERS_WITHIN;
        let mut found = Vec::new();
        while !awaited.is_empty() && found.len() < HOLDERS_MAX {
            let Ok(Some((node, located))) = timeout_at(deadline, answers.recv()).await else {
                break;
            };
            if awaited.remove(&node) && located.image.is_some() {
                found.push((node, located));
            }
        }
        found
    }

    /// Takes in what a node says to a question. One that is over is answered by nobody.
    pub fn located(&self, node: &NodeId, located: Located) {
        if let Some(answers) = lock(&self.questions).get(&located.question) {
            let _ = answers.try_send((node.clone(), located));
        }
    }
}

struct Over<'a>(&'a Sessions, u64);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        lock(&self.0.questions).remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use skep_proto::v1::OwnedImage;

    use super::*;

    #[tokio::test]
    async fn only_nodes_that_were_asked_are_heard_and_silent_ones_are_not_waited_for_long() {
        let sessions = Sessions::default();
        let nodes = ["has", "lacks", "silent"].map(NodeId::new);
        let mut calls: Vec<_> = nodes.iter().map(|node| sessions.open(node)).collect();
        let image = LocateRequest {
            image: "docker.io/library/app:1".to_owned(),
            only_own: false,
        };
        let answering = async {
            for at in [0, 1] {
                let asked = calls[at].others.recv().await;
                let Some(manager_message::Content::Locate(locate)) = asked else {
                    panic!("asked something else");
                };
                let answer = |has: bool| Located {
                    question: locate.question,
                    image: has.then(OwnedImage::default),
                    port: 7946,
                };
                sessions.located(&nodes[at], answer(at == 0));
                // Neither a second word nor a stranger's counts.
                sessions.located(&nodes[at], answer(true));
                sessions.located(&NodeId::new("stranger"), answer(true));
            }
        };
        let (found, ()) = tokio::join!(sessions.locate(&image), answering);
        let found: Vec<&str> = found.iter().map(|(node, _)| node.as_str()).collect();
        assert_eq!(found, ["has"]);
        assert!(lock(&sessions.questions).is_empty());
    }
}
