//! A cluster that was off until all of its certificates had run out.

use std::fs;

use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, secs};
use skep_model::{NodeRole, Timestamp};
use skep_pki::{Authority, generate_root, request_certificate};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const EXPIRED: &str = "Swarm certificates have expired.";

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.expect("it is after 1970").as_secs()).expect("it is before the end of time")
}

#[test]
fn expired_nodes_are_rescued() {
    let Some(cluster) = Cluster::up(3, 2) else {
        return;
    };
    let c = &cluster;
    let line = "service create -d --no-resolve-image --name web --replicas 3 skep/hello:latest";
    c.skep("n1", line).ok();
    c.wait_running("n1", "web", 3, secs(30));
    let processes = c.pids("n1", "web");
    // A root whose key is known here, to make certificates that are of another time.
    let own = generate_root(Timestamp::from_secs(now())).unwrap();
    fs::write(c.root.join("own.crt"), &own.cert_pem).unwrap();
    fs::write(c.root.join("own.key"), &own.key_pem).unwrap();
    c.skep(
        "n1",
        "swarm ca --rotate --quiet --ca-cert own.crt --ca-key own.key",
    )
    .ok();
    let id = c.get("n1", "/swarm")["ID"].as_str().unwrap().to_owned();
    let token = c.skep("n1", "swarm join-token -q worker").word();
    let ids = NODES.map(|node| {
        let info = c.get(node, "/info");
        info["Swarm"]["NodeID"].as_str().unwrap().to_owned()
    });
    let mut checks = Checks::new();
    checks.check(
        "each says that its certificate has expired, and tasks go on",
        || {
            for node in NODES {
                c.kill(node);
            }
            let authority = Authority::from_pem(&own.cert_pem, &own.key_pem).unwrap();
            for (node, (own_id, role)) in NODES.iter().zip(ids.iter().zip([
                NodeRole::Manager,
                NodeRole::Manager,
                NodeRole::Worker,
            ])) {
                let key = request_certificate().unwrap();
                let issued = Timestamp::from_secs(now() - 7200);
                let (own_id, cluster) = (own_id.as_str().into(), id.as_str().into());
                let cert = authority
                    .sign(&key.csr_pem, &own_id, role, &cluster, secs(3600), issued)
                    .unwrap();
                let directory = c.root.join(node).join("data/swarm/certificates");
                fs::write(directory.join("swarm-node.crt"), cert).unwrap();
                fs::write(directory.join("swarm-node.key"), key.key_pem).unwrap();
            }
            for node in NODES {
                c.start(node);
            }
            for node in NODES {
                let swarm = &c.get(node, "/info")["Swarm"];
                assert_eq!(swarm["LocalNodeState"], "error");
                assert!(
                    swarm["Error"].as_str().unwrap().starts_with(EXPIRED),
                    "{swarm}"
                );
                assert_eq!(
                    c.get(node, "/containers/json").as_array().map(Vec::len),
                    Some(1)
                );
            }
            c.skep("n1", "service ls").fails(EXPIRED);
        },
    );
    checks.check("managers are rescued one by one, and manage again", || {
        for node in ["n1", "n2"] {
            let said = c.skep(node, "swarm rescue").ok();
            assert!(said.starts_with("This node has a certificate again, which is good until 20"));
        }
        for node in ["n1", "n2"] {
            eventually("it takes requests", secs(20), || {
                c.try_api(node, "GET", "/services", None)
            });
            c.wait_ready("n1", node, secs(20));
        }
        c.skep("n1", "swarm rescue")
            .fails("there is nothing to rescue");
        eventually("the worker is missed", secs(20), || {
            let state = c.node_state("n1", "n3")?;
            holds(state == "down", state)
        });
    });
    checks.check(
        "a worker is taken back against a token, as the node that it was",
        || {
            c.skep("n3", "swarm rescue").fails("--token");
            let wrong = format!(
                "{}{}",
                &token[..token.len() - 1],
                if token.ends_with('a') { 'b' } else { 'a' }
            );
            c.skep("n3", &format!("swarm rescue --token {wrong}"))
                .fails("A valid join token is necessary");
            c.skep("n3", &format!("swarm rescue --token {token}")).ok();
            c.wait_ready("n1", "n3", secs(20));
            let nodes = c.get("n1", "/nodes");
            assert_eq!(nodes.as_array().map(Vec::len), Some(3));
            assert_eq!(c.get("n3", "/info")["Swarm"]["NodeID"], ids[2].as_str());
        },
    );
    checks.check("the tasks that ran are the ones that run", || {
        c.wait_running("n1", "web", 3, secs(30));
        // Those of the node that was down longest may have been replaced meanwhile.
        eventually("the managers' tasks were adopted", secs(20), || {
            let pids = c.pids("n1", "web");
            let kept = processes
                .values()
                .filter(|pid| pids.values().any(|now| now == *pid));
            let kept = kept.count();
            holds(kept >= 2, kept)
        });
    });
    checks.end();
}
