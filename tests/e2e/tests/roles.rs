//! Managers become workers and workers managers, in any order and without a pause.

use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, secs};

/// Waits until the nodes are what `wanted` says, as a node tells: `n1 Leader`, `n2 Reachable`, `n3`.
fn wait_roles(c: &Cluster, at: &str, wanted: &[(&str, bool)]) {
    eventually(&format!("roles are {wanted:?}"), secs(30), || {
        let nodes = c.try_api(at, "GET", "/nodes", None)?;
        for (name, manages) in wanted {
            let node = nodes
                .as_array()
                .into_iter()
                .flatten()
                .find(|node| node["Description"]["Hostname"] == *name)
                .ok_or_else(|| format!("no {name}"))?;
            let reachable = node["ManagerStatus"]["Reachability"] == "reachable";
            holds(reachable == *manages, node)?;
            // The node itself knows, too.
            let info = c.try_api(name, "GET", "/info", None)?;
            holds(
                info["Swarm"]["ControlAvailable"] == *manages,
                &info["Swarm"],
            )?;
        }
        Ok::<_, String>(())
    });
}

/// Changes the role of n2; a race with the cluster's own changes of it is tried again.
fn change(c: &Cluster, verb: &str) {
    eventually("the role is taken", secs(10), || {
        let ran = c.skep("n1", &format!("node {verb} n2"));
        holds(ran.status == 0, ran.err)
    });
}

#[test]
fn roles_change_in_any_order() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    let line = "service create -d --no-resolve-image --name web --replicas 6 --publish 8080:8080 skep/hello:latest";
    c.skep("n1", line).ok();
    c.wait_running("n1", "web", 6, secs(30));
    let before = c.pids("n1", "web");
    checks.check(
        "promotions and demotions that overtake one another end as the last one says",
        || {
            for _ in 0..3 {
                change(c, "promote");
                change(c, "demote");
            }
            wait_roles(c, "n1", &[("n1", true), ("n2", false)]);
            change(c, "promote");
            wait_roles(c, "n1", &[("n1", true), ("n2", true)]);
            for _ in 0..3 {
                change(c, "demote");
                change(c, "promote");
            }
            // It may be a manager of before for a moment: it stays one for many looks in a row.
            eventually("it is a manager to stay", secs(30), || {
                for _ in 0..50 {
                    c.try_api("n2", "GET", "/services", None)?;
                    let listed = c.try_api("n1", "GET", "/nodes", None)?.to_string();
                    let managers = listed.matches("\"Reachability\":\"reachable\"").count();
                    holds(managers == 2, listed)?;
                }
                Ok::<_, String>(())
            });
        },
    );
    checks.check("the leader is demoted, and the next one leads", || {
        c.skep("n1", "node promote n3").ok();
        wait_roles(c, "n1", &[("n1", true), ("n2", true), ("n3", true)]);
        let leader = c.leader("n1").unwrap();
        let other = if leader == "n2" { "n3" } else { "n2" };
        c.skep(other, &format!("node demote {leader}")).ok();
        wait_roles(c, other, &[(&leader, false), (other, true)]);
        assert_ne!(c.leader(other).unwrap(), leader);
        c.skep(other, &format!("node promote {leader}")).ok();
        wait_roles(c, other, &[("n1", true), ("n2", true), ("n3", true)]);
    });
    checks.check("no task noticed any of it", || {
        assert_eq!(c.pids("n1", "web"), before);
        assert_eq!(c.tasks("n1", "web").len(), 6, "{:?}", c.tasks("n1", "web"));
    });
    checks.end();
}
