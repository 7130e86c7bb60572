//! Trying the ways between nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_net::{Heard, Path};

use crate::lab::{Lab, Task, can_run, overlay};

const PATIENCE: Duration = Duration::from_millis(500);

fn network() -> Lab {
    let mut lab = Lab::new();
    lab.networks.push(overlay("red", 5001, &["10.0.1.0/24"]));
    lab.networks.push(overlay("blue", 5002, &["10.0.2.0/24"]));
    lab.tasks = vec![
        Task::new("a1", 0)
            .on("red", &["10.0.1.11"])
            .on("blue", &["10.0.2.11"]),
        Task::new("b1", 1).on("red", &["10.0.1.21"]),
        Task::new("c1", 2).on("blue", &["10.0.2.31"]),
    ];
    lab
}

/// What node 1 hears, by network and node.
fn heard(lab: &Lab, tag: u16) -> BTreeMap<(String, u16), Heard> {
    let heard = lab.hosts[0].try_paths(tag, PATIENCE).unwrap();
    let flat = heard
        .into_iter()
        .map(|(Path { network, node }, heard)| ((network, node), heard));
    flat.collect()
}

/// What is heard once the underlay has found its neighbours, or after ten rounds.
fn settled(lab: &Lab, expected: &BTreeMap<(String, u16), Heard>) -> BTreeMap<(String, u16), Heard> {
    let mut rounds = (100..110).map(|tag| heard(lab, tag));
    let first = rounds.next().unwrap_or_default();
    match first == *expected {
        true => first,
        false => rounds.find(|round| round == expected).unwrap_or(first),
    }
}

const ALL: Heard = Heard {
    small: true,
    full: true,
};

#[test]
fn every_way_that_two_nodes_share_is_tried_and_no_other() {
    if !can_run() {
        return;
    }
    let mut lab = network();
    lab.mesh = true;
    lab.apply();
    let expected: BTreeMap<(String, u16), Heard> = [("blue", 3), ("red", 2), ("", 2), ("", 3)]
        .map(|(network, node)| ((network.to_owned(), node), ALL))
        .into();
    assert_eq!(settled(&lab, &expected), expected);

    // What is wrong with one network is told of that one.
    lab.hosts[1].remove_sandbox(&lab.tasks[1].netns()).unwrap();
    lab.tasks[1].endpoints.clear();
    assert!(lab.hosts[1].apply(&lab.state(1)).failures.is_empty());
    let found = heard(&lab, 2);
    assert_eq!(found[&("blue".to_owned(), 3)], ALL);
    lab.apply();
    assert_eq!(heard(&lab, 3).get(&("red".to_owned(), 2)), None);
}

#[test]
fn a_way_that_is_cut_is_told_and_the_answers_of_before_do_not_count() {
    if !can_run() {
        return;
    }
    let lab = network();
    lab.apply();
    let red = ("red".to_owned(), 2);
    assert_eq!(heard(&lab, 1)[&red], ALL);
    let outside = lab.station("B");
    let down = |name: &str, state: &str| {
        let ran = outside
            .run(|| {
                std::process::Command::new("ip")
                    .args(["link", "set", name, state])
                    .status()
            })
            .unwrap()
            .unwrap();
        assert!(ran.success());
    };
    down("eth0", "down");
    let found = heard(&lab, 1);
    assert_eq!(found[&red], Heard::default());
    assert_eq!(found[&("blue".to_owned(), 3)], ALL);
    down("eth0", "up");
    // The underlay has to find its neighbours again.
    let back = (2..12).any(|tag| heard(&lab, tag)[&red] == ALL);
    assert!(back, "the way comes back with the link");
}
