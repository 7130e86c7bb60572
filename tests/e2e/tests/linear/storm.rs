//! Troubles, one after the other: each is over before the next begins.

use std::thread::sleep;
use std::time::{Duration, Instant};

use skep_e2e::Cluster;
use skep_e2e::random::Random;

/// How long a trouble lasts, in milliseconds: below and above the times of elections.
const LASTS: (u64, u64) = (400, 4500);
/// How long there is peace afterwards.
const PEACE: (u64, u64) = (300, 2500);

/// Lets troubles come until then; none is left when it returns.
pub fn rage(c: &Cluster, nodes: &[&'static str], random: &mut Random, until: Instant) {
    let began = Instant::now();
    while Instant::now() < until {
        let leader = nodes.iter().find_map(|node| c.leader(node).ok());
        let leader = leader.and_then(|name| nodes.iter().copied().find(|node| **node == name));
        let victims = victims(nodes, leader, random);
        let lasts = between(LASTS, random);
        let said = strike(c, nodes, &victims, random, lasts);
        println!(
            "{:6.1} s  {said} for {:.1} s; {} led",
            began.elapsed().as_secs_f64(),
            lasts.as_secs_f64(),
            leader.unwrap_or("nobody")
        );
        sleep(between(PEACE, random));
    }
}

fn between((low, high): (u64, u64), random: &mut Random) -> Duration {
    Duration::from_millis(low + random.below(high - low))
}

/// One or two managers, the leader more often than not; now and then so many that the others are no
/// majority.
fn victims(
    nodes: &[&'static str],
    leader: Option<&'static str>,
    random: &mut Random,
) -> Vec<&'static str> {
    let count = match random.below(10) {
        0..5 => 1,
        5..9 => 2,
        _ => 3,
    };
    let mut victims = random.some(nodes, count);
    if let Some(leader) = leader
        && !victims.contains(&leader)
        && random.below(3) > 0
    {
        victims[0] = leader;
    }
    victims
}

fn strike(
    c: &Cluster,
    nodes: &[&'static str],
    victims: &[&str],
    random: &mut Random,
    lasts: Duration,
) -> String {
    let names = victims.join(", ");
    match random.below(4) {
        0 => {
            victims.iter().for_each(|node| c.kill(node));
            sleep(lasts);
            victims.iter().for_each(|node| c.start(node));
            format!("{names} killed")
        }
        1 => {
            let paused: Vec<_> = victims.iter().map(|node| c.pause(node)).collect();
            sleep(lasts);
            drop(paused);
            format!("{names} stood still")
        }
        2 => {
            let cut: Vec<_> = victims.iter().map(|node| c.cut(node)).collect();
            sleep(lasts);
            drop(cut);
            format!("{names} had no cable")
        }
        _ => {
            let is_other = |node: &&&str| !victims.contains(*node);
            let others: Vec<&str> = nodes.iter().filter(is_other).copied().collect();
            let parted = c.part(victims, &others);
            sleep(lasts);
            drop(parted);
            format!("{names} apart from the others")
        }
    }
}
