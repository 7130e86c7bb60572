//! Join tokens that end by themselves, and nodes that were removed.

use std::time::Duration;

use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, needs, secs};

const WRONG: &str = "A valid join token is necessary to join this cluster";

/// Takes n3 out of the cluster.
fn leave(c: &Cluster) {
    c.skep("n3", "swarm leave").ok();
    eventually("n3 is removed", secs(20), || {
        let ran = c.skep("n1", "node rm n3");
        holds(ran.status == 0, ran)
    });
}

#[test]
fn tokens_end_by_themselves() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let address = format!("{}:2377", c.address("n1"));
    let mut checks = Checks::new();
    checks.check(
        "a token for one node admits one, and says so to the next",
        || {
            leave(c);
            let said = c.skep("n1", "swarm join-token --uses 1 worker").ok();
            let token = said
                .split_whitespace()
                .find(|word| word.starts_with("SWMTKN-1-"))
                .expect("a token");
            let line = format!("swarm join --token {token} {address}");
            // It is one like any other to docker's client.
            match needs::docker() {
                Some(_) => c.docker("n3", &line).ok(),
                None => c.skep("n3", &line).ok(),
            };
            c.wait_ready("n1", "n3", secs(20));
            leave(c);
            let refused = c.skep("n3", &line).fails(WRONG);
            assert!(
                refused
                    .err
                    .contains("it was for 1 node and has been used up"),
                "{refused}"
            );
            let listed = c.skep(
                "n1",
                "swarm join-token ls --format '{{.Role}} {{.Expires}} {{.Uses}} {{.Status}}'",
            );
            assert_eq!(listed.ok(), "worker never 1/1 used up\n");
        },
    );
    checks.check("a token expires, and says so", || {
        let token = c
            .skep("n1", "swarm join-token --expires 2s -q manager")
            .word();
        let line = format!("swarm join --token {token} {address}");
        std::thread::sleep(Duration::from_secs(2));
        let refused = c.skep("n3", &line).fails(WRONG);
        assert!(refused.err.contains("it expired at 20"), "{refused}");
    });
    checks.check(
        "a removed token admits nobody; the ordinary ones stay",
        || {
            let token = c
                .skep("n1", "swarm join-token --expires 1h --uses 5 -q worker")
                .word();
            let ids = c.skep("n1", "swarm join-token ls -q").ok();
            assert_eq!(ids.lines().count(), 3, "{ids}");
            let id = ids.lines().last().unwrap();
            let said = c
                .skep("n1", &format!("swarm join-token rm {}", &id[..6]))
                .word();
            assert_eq!(said, id);
            c.skep("n1", &format!("swarm join-token rm {id}"))
                .fails("not found");
            let line = format!("swarm join --token {token} {address}");
            c.skep("n3", &line).fails(WRONG);
            c.skep("n1", "swarm join-token --expires 1h --rotate worker")
                .fails("`--rotate`");
            c.skep("n1", "swarm join-token --expires 9000h worker")
                .fails("8760h");
            let ordinary = c.skep("n1", "swarm join-token -q worker").word();
            c.skep("n3", &format!("swarm join --token {ordinary} {address}"))
                .ok();
            c.wait_ready("n1", "n3", secs(20));
            // No secret of a token lies in the list.
            let told = c.get("n1", "/skep/v1/swarm/tokens").to_string();
            assert!(
                !told.contains("Digest") && !told.contains("SWMTKN"),
                "{told}"
            );
        },
    );
    checks.check("a rotation of the root ends them all", || {
        let token = c.skep("n1", "swarm join-token --uses 5 -q worker").word();
        c.skep("n1", "swarm ca --rotate --quiet").ok();
        assert_eq!(c.skep("n1", "swarm join-token ls -q").ok(), "");
        leave(c);
        c.skep("n3", &format!("swarm join --token {token} {address}"))
            .fails("remote CA does not match fingerprint. Expected: ");
    });
    checks.end();
}
