//! Managers whose disks say nothing without the unlock key.

use std::collections::BTreeMap;

use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, needs, secs};

const SEALED: &[u8] = b"skep sealed 1\n";
const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used.";

/// Waits until the secrets of all managers lie on disk sealed, or plain.
fn wait_sealed(c: &Cluster, sealed: bool) {
    for node in ["n1", "n2", "n3"] {
        for name in ["raft.key", "swarm-node.key"] {
            let path = c.root.join(node).join("data/swarm/certificates").join(name);
            eventually(
                &format!("{name} of {node} is sealed: {sealed}"),
                secs(10),
                || {
                    let bytes = std::fs::read(&path).map_err(|error| error.to_string())?;
                    holds(bytes.starts_with(SEALED) == sealed, "not yet")
                },
            );
        }
    }
}

/// Gives a node the key, as a person does.
fn unlock(c: &Cluster, node: &str, key: &str) -> skep_e2e::Ran {
    let input = format!("{key}\n");
    match needs::docker() {
        Some(_) => c.docker_given(node, "swarm unlock", input.as_bytes()),
        None => c.skep_given(node, "swarm unlock", input.as_bytes()),
    }
}

fn restart(c: &Cluster, node: &str) {
    c.kill(node);
    c.start(node);
}

/// The processes of a service, where its nodes' engines can be asked.
fn wait_same(c: &Cluster, before: &BTreeMap<String, u32>) {
    eventually("the same processes", secs(20), || {
        let now = c.pids("n1", "web");
        holds(now == *before, format!("{now:?} instead of {before:?}"))
    });
}

#[test]
fn a_locked_manager_needs_the_key() {
    let Some(cluster) = Cluster::up(3, 3) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    let line = "service create -d --no-resolve-image --name web --replicas 6 skep/hello:latest";
    c.skep("n1", line).ok();
    c.wait_running("n1", "web", 6, secs(30));
    let containers = |node: &str| {
        c.running("n1", "web")
            .iter()
            .filter(|task| task.node == node)
            .count()
    };
    let mut key = String::new();
    checks.check(
        "autolock tells its key and seals every manager's secrets",
        || {
            let said = c.skep("n1", "swarm update --autolock=true").ok();
            key = c.skep("n2", "swarm unlock-key -q").word();
            assert!(
                key.starts_with("SWMKEY-1-") && said.contains(&key),
                "{said}"
            );
            wait_sealed(c, true);
        },
    );
    checks.check(
        "a manager that starts again is locked, and its tasks go on",
        || {
            assert_eq!(containers("n2"), 2);
            restart(c, "n2");
            assert_eq!(c.get("n2", "/info")["Swarm"]["LocalNodeState"], "locked");
            c.skep("n2", "service ls").fails(LOCKED);
            c.skep("n2", "swarm init").fails(LOCKED);
            c.skep("n2", "swarm leave")
                .fails("Swarm is encrypted and locked.");
            let listed = c.get("n2", "/containers/json");
            assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
        },
    );
    checks.check(
        "a wrong key is refused, and the right one brings it back",
        || {
            let other = format!("SWMKEY-1-{}", "A".repeat(43));
            for wrong in ["", "secret", other.as_str()] {
                let refused = unlock(c, "n2", wrong);
                assert!(refused.status != 0, "{refused}");
            }
            unlock(c, "n2", &other).fails("swarm could not be unlocked: invalid key provided");
            assert_eq!(c.get("n2", "/info")["Swarm"]["LocalNodeState"], "locked");
            unlock(c, "n2", &key).ok();
            c.wait_ready("n1", "n2", secs(20));
            eventually("it takes requests", secs(20), || {
                c.try_api("n2", "GET", "/services", None)
            });
            unlock(c, "n2", &key).fails("swarm is not locked");
            c.wait_running("n1", "web", 6, secs(30));
        },
    );
    checks.check("a rotated key replaces the old one", || {
        let before = c.pids("n1", "web");
        let next = c.skep("n1", "swarm unlock-key --rotate -q").word();
        assert_ne!(next, key);
        // Every manager's lock changes with it, at once.
        eventually("n3 is under the new key", secs(10), || {
            restart(c, "n3");
            let old = unlock(c, "n3", &key);
            if old.status == 0 {
                eventually("it manages", secs(20), || {
                    c.try_api("n3", "GET", "/services", None)
                });
                return Err("it still opened under the old one".to_owned());
            }
            Ok(())
        });
        unlock(c, "n3", &next).ok();
        c.wait_ready("n1", "n3", secs(20));
        wait_same(c, &before);
    });
    checks.check("without autolock a manager starts by itself again", || {
        c.skep("n1", "swarm update --autolock=false").ok();
        wait_sealed(c, false);
        restart(c, "n2");
        eventually("it takes requests", secs(20), || {
            c.try_api("n2", "GET", "/services", None)
        });
        c.skep("n2", "swarm unlock-key")
            .fails("no unlock key is set");
    });
    checks.end();
}
