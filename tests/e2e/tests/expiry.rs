//! Workers that stay away are forgotten, where that is asked for.

use std::time::{SystemTime, UNIX_EPOCH};

use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, needs, secs};

#[test]
fn a_worker_that_stays_away_is_removed() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    for node in ["n2", "n3"] {
        c.wait_ready("n1", node, secs(10));
    }
    checks.check(
        "the wish is kept by clients that know nothing of it",
        || {
            c.skep("n1", "swarm update --node-expiry 5s")
                .fails("--node-expiry");
            c.skep("n1", "swarm update --node-expiry 1m").ok();
            match needs::docker() {
                Some(_) => c.docker("n1", "swarm update --task-history-limit 4").ok(),
                None => c.skep("n1", "swarm update --task-history-limit 4").ok(),
            };
            let labels = c.get("n1", "/swarm")["Spec"]["Labels"].clone();
            assert_eq!(labels["skep.node.expiry"], "1m0s", "{labels}");
        },
    );
    checks.check("a node that is down tells when, and is gone then", || {
        c.kill("n3");
        eventually("it is told", secs(15), || {
            let why = c.skep("n1", "why n3");
            let told = why.out.contains("it is removed from the cluster at ");
            holds(told, why)
        });
        eventually("it is gone", secs(100), || {
            let names = c.try_node_names("n1")?;
            holds(
                !names.values().any(|name| name == "n3"),
                format!("{names:?}"),
            )
        });
        eventually("it was told", secs(10), || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let (since, until) = (now.as_secs() - 300, now.as_secs());
            let line = format!(
                "events --since {since} --until {until} --filter type=node --filter event=remove"
            );
            let events = c.skep("n1", &line);
            holds(events.out.contains(" node remove "), events)
        });
        let names = c.try_node_names("n1").unwrap();
        assert!(names.values().any(|name| name == "n2"), "{names:?}");
    });
    checks.check("it is no member any more when it comes back", || {
        c.start("n3");
        eventually("it knows", secs(30), || {
            let info = c.try_api("n3", "GET", "/info", None)?;
            let state = info["Swarm"]["LocalNodeState"].clone();
            holds(state == "inactive", state)
        });
        c.skep("n1", "swarm update --node-expiry 0").ok();
        let labels = c.get("n1", "/swarm")["Spec"]["Labels"].clone();
        assert!(labels.get("skep.node.expiry").is_none(), "{labels}");
    });
    checks.end();
}
