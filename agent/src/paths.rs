//! Watches the ways to the other nodes, and says what is wrong with them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_model::node::NetworkProblem;
use skep_net::{Heard, Path};
use tracing::{debug, info, warn};

use crate::assigned::Assigned;
use crate::worker::Worker;

/// The ways are tried this often.
const PERIOD: Duration = Duration::from_secs(2);
/// Answers that take longer count as none.
const PATIENCE: Duration = Duration::from_millis(800);
/// So many of the last probes are looked at, and this many lost ones are a problem: a node that
/// is just being told of a new network loses one or two.
const WINDOW: u32 = 5;
const LOST: u32 = 3;
/// Problems that are told of at the same time.
const PROBLEMS_MAX: usize = 100;

/// The last probes of one way, the newest in the lowest bit; a set bit is a lost one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Window {
    small: u32,
    full: u32,
}

impl Window {
    fn note(&mut self, heard: Heard) {
        let shift = |bits: u32, lost: bool| ((bits << 1) | u32::from(lost)) & ((1 << WINDOW) - 1);
        self.small = shift(self.small, !heard.small);
        self.full = shift(self.full, !heard.full);
    }

    /// What is wrong, in words that stay the same while it does.
    fn wrong(self) -> Option<&'static str> {
        let (small, full) = (self.small.count_ones(), self.full.count_ones());
        if small == WINDOW {
            Some("no frame comes back: the node is down, or its UDP data port is blocked")
        } else if small >= LOST {
            Some("more than half of the frames are lost")
        } else if full >= LOST {
            Some("large frames are lost: the underlay carries less than its MTU promises")
        } else {
            None
        }
    }
}

/// What is known of all ways. Pure.
#[derive(Debug, Default)]
struct Ways(BTreeMap<Path, Window>);

impl Ways {
    /// Takes a round of answers in. Ways that were not tried are forgotten.
    fn note(&mut self, round: &BTreeMap<Path, Heard>) {
        self.0.retain(|path, _| round.contains_key(path));
        for (path, heard) in round {
            self.0.entry(path.clone()).or_default().note(*heard);
        }
    }

    /// What is wrong, by the names that users know.
    fn problems(&self, assigned: &Assigned) -> Vec<NetworkProblem> {
        let wrong = self
            .0
            .iter()
            .filter_map(|(path, window)| Some((path, window.wrong()?)));
        wrong
            .take(PROBLEMS_MAX)
            .map(|(path, message)| NetworkProblem {
                network: network_name(&path.network, assigned),
                peer: assigned
                    .peers
                    .values()
                    .find(|peer| peer.index == path.node)
                    .map(|peer| peer.node.clone())
                    .unwrap_or_default(),
                message: message.to_owned(),
            })
            .collect()
    }
}

fn network_name(id: &str, assigned: &Assigned) -> String {
    let network = match id {
        "" => assigned.ingress(),
        id => assigned.networks.get(id).map(|network| &**network),
    };
    network.map_or_else(|| id.to_owned(), |network| network.spec.name.clone())
}

/// Tries the ways again and again, for as long as the node is a member.
pub async fn watch(worker: Arc<Worker>) {
    let mut ways = Ways::default();
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tag = std::process::id() as u16;
    loop {
        tick.tick().await;
        tag = tag.wrapping_add(1);
        let host = worker.host();
        let tried = tokio::task::spawn_blocking(move || host.try_paths(tag, PATIENCE)).await;
        match tried {
            Ok(Ok(round)) => ways.note(&round),
            Ok(Err(error)) => debug!(error = %error.chain(), "the ways could not be tried"),
            Err(error) => debug!(%error, "the ways could not be tried"),
        }
        let problems = ways.problems(&worker.assigned());
        worker.tell_paths(problems);
    }
}

/// Says in the log what has become wrong and what right.
pub(crate) fn log_changes(before: &[NetworkProblem], now: &[NetworkProblem]) {
    for problem in now.iter().filter(|problem| !before.contains(problem)) {
        let NetworkProblem {
            network,
            peer,
            message,
        } = problem;
        warn!(network, %peer, message, "a network is not as it should be");
    }
    for problem in before.iter().filter(|problem| !now.contains(problem)) {
        let NetworkProblem { network, peer, .. } = problem;
        info!(network, %peer, "a network is as it should be again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Heard = Heard {
        small: true,
        full: true,
    };

    fn after(rounds: &[Heard]) -> Vec<String> {
        let path = Path {
            network: "net".into(),
            node: 2,
        };
        let mut ways = Ways::default();
        for heard in rounds {
            ways.note(&[(path.clone(), *heard)].into());
        }
        let problems = ways.problems(&Assigned::default());
        problems
            .into_iter()
            .map(|problem| format!("{}: {}", problem.network, problem.message))
            .collect()
    }

    #[test]
    fn one_lost_probe_is_none_and_many_are_named() {
        let (lost, large) = (
            Heard::default(),
            Heard {
                full: false,
                ..GOOD
            },
        );
        assert!(after(&[GOOD, lost, lost, GOOD]).is_empty());
        assert!(after(&[lost, lost, lost, lost, lost])[0].starts_with("net: no frame"));
        assert!(after(&[lost, GOOD, lost, lost, GOOD])[0].contains("more than half"));
        assert!(after(&[large, large, large, GOOD])[0].contains("large frames"));
        assert!(
            after(&[lost, lost, lost, GOOD, GOOD, GOOD]).is_empty(),
            "it is over"
        );
    }

    #[test]
    fn a_way_that_is_no_more_is_no_problem() {
        let mut ways = Ways::default();
        let path = Path {
            network: "net".into(),
            node: 2,
        };
        for _ in 0..WINDOW {
            ways.note(&[(path.clone(), Heard::default())].into());
        }
        ways.note(&BTreeMap::new());
        assert!(ways.problems(&Assigned::default()).is_empty());
    }
}
