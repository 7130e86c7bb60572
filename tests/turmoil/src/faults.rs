//! What breaks, and how it is mended.

use rand::Rng;
use rand::rngs::StdRng;
use turmoil::Sim;

use crate::wire;

/// A trouble that is under way.
#[derive(Debug)]
pub enum Trouble {
    /// Members that were killed.
    Dead(Vec<u64>),
    /// Pairs that do not reach each other.
    Apart(Vec<(u64, u64)>),
    /// Pairs of which the first does not reach the second.
    Deaf(Vec<(u64, u64)>),
    /// Pairs whose messages wait on the way.
    Held(Vec<(u64, u64)>),
    /// Messages are lost now and then, everywhere.
    Lossy,
}

/// A random trouble begins. A minority is hit most of the time.
pub fn begin(sim: &mut Sim<'_>, members: u64, random: &mut StdRng) -> Trouble {
    let most = match random.random_bool(0.85) {
        true => members.div_ceil(2) - 1,
        false => members,
    };
    let mut left: Vec<u64> = (1..=members).collect();
    let mut hit = Vec::new();
    for _ in 0..random.random_range(1..=most) {
        hit.push(left.remove(random.random_range(0..left.len())));
    }
    let across = || -> Vec<(u64, u64)> {
        let hit = hit.iter().copied();
        hit.flat_map(|one| left.iter().map(move |other| (one, *other)))
            .collect()
    };
    match random.random_range(0..8) {
        0..=2 => {
            for member in &hit {
                sim.crash(wire::host(*member));
            }
            Trouble::Dead(hit)
        }
        3 | 4 => {
            let pairs = across();
            for (one, other) in &pairs {
                sim.partition(wire::host(*one), wire::host(*other));
            }
            Trouble::Apart(pairs)
        }
        5 => {
            let turned = random.random_bool(0.5);
            let turn = |(one, other)| if turned { (other, one) } else { (one, other) };
            let pairs: Vec<(u64, u64)> = across().into_iter().map(turn).collect();
            for (from, to) in &pairs {
                sim.partition_oneway(wire::host(*from), wire::host(*to));
            }
            Trouble::Deaf(pairs)
        }
        6 => {
            let pairs = across();
            for (one, other) in &pairs {
                sim.hold(wire::host(*one), wire::host(*other));
            }
            Trouble::Held(pairs)
        }
        _ => {
            sim.set_fail_rate(0.05);
            Trouble::Lossy
        }
    }
}

/// It is over.
pub fn end(sim: &mut Sim<'_>, trouble: Trouble) {
    match trouble {
        Trouble::Dead(members) => {
            for member in members {
                sim.bounce(wire::host(member));
            }
        }
        Trouble::Apart(pairs) => {
            for (one, other) in pairs {
                sim.repair(wire::host(one), wire::host(other));
            }
        }
        Trouble::Deaf(pairs) => {
            for (from, to) in pairs {
                sim.repair_oneway(wire::host(from), wire::host(to));
            }
        }
        Trouble::Held(pairs) => {
            for (one, other) in pairs {
                sim.release(wire::host(one), wire::host(other));
            }
        }
        Trouble::Lossy => sim.set_fail_rate(0.0),
    }
}
