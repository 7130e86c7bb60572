//! Joins that must not succeed.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use skep_e2e::{Cluster, secs};

use crate::{MANAGER, STRANGER, WORKER};

pub fn token(c: &Cluster, role: &str) -> String {
    c.get(MANAGER, "/swarm")["JoinTokens"][role]
        .as_str()
        .expect("a token")
        .to_owned()
}

pub fn wrong_tokens(c: &Cluster) {
    let good = token(c, "Worker");
    let parts: Vec<&str> = good.split('-').collect();
    let other = |text: &str| {
        // One digit near the end, so that the number stays in range.
        let (head, last) = text.split_at(text.len() - 1);
        format!("{head}{}", if last == "a" { "b" } else { "a" })
    };
    let address = format!("{}:2377", c.address(MANAGER));
    let refused = |token: &str, text: &str| {
        let line = format!("swarm join --token {token} {address}");
        let began = Instant::now();
        c.both_fail(STRANGER, &line, text);
        assert!(
            began.elapsed() < skep_e2e::patient(secs(20)),
            "both clients took {:?}",
            began.elapsed()
        );
    };
    refused("nonsense", "invalid join token");
    refused(&good[..good.len() - 1], "invalid join token");
    refused(
        &format!("SWMTKN-1-{}-{}", other(parts[2]), other(parts[3])).replace("SWMTKN", "TOKEN"),
        "invalid join token",
    );
    refused(
        &format!("SWMTKN-1-{}-{}", parts[2], other(parts[3])),
        "A valid join token is necessary to join this cluster",
    );
    refused(
        &format!("SWMTKN-1-{}-{}", other(parts[2]), parts[3]),
        "remote CA does not match fingerprint. Expected: ",
    );
    c.both_fail(
        STRANGER,
        &format!("swarm join {address}"),
        "invalid join token",
    );
}

pub fn join_nobody(c: &Cluster) {
    let token = token(c, "Worker");
    let [a, b, d] = c.subnet;
    let closed = SocketAddrV4::new(c.address(WORKER), 2377);
    let silent = SocketAddrV4::new(Ipv4Addr::new(a, b, d, 99), 2377);
    for address in [closed, silent] {
        let line = format!("swarm join --token {token} {address}");
        for ran in [c.skep(STRANGER, &line), c.docker(STRANGER, &line)] {
            let ran = ran.fails(&address.to_string());
            assert!(ran.took < secs(15), "{ran}");
        }
    }
    c.both_fail(
        STRANGER,
        &format!("swarm join --token {token} ''"),
        "RemoteAddr",
    );
    c.both_fail(STRANGER, "swarm init --advertise-addr nowhere", "nowhere");
    c.both_fail(
        STRANGER,
        "swarm init --default-addr-pool 10.0.0.0",
        "10.0.0.0",
    );
    let odd = "swarm init --advertise-addr eth0 --data-path-port 80";
    c.both_fail(
        STRANGER,
        odd,
        "data path port must be in the range 1024 to 49151",
    );
}
