//! Nodes and managers that are lost, and keys that are sealed.

use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, secs};

use crate::{CREATE, ask, named};

pub fn all(c: &Cluster, checks: &mut Checks) {
    checks.check("a manager whose keys are sealed", || locked(c));
    checks.check("a node that is down, and what runs there", || down(c));
    checks.check("too few managers", || quorum(c));
}

fn locked(c: &Cluster) {
    c.skep("n1", "swarm update --autolock=true").ok();
    let key = c.skep("n1", "swarm unlock-key -q").word();
    c.kill("n3");
    c.start("n3");
    eventually("the manager is locked", secs(10), || {
        let why = ask(c, "n3", "")?;
        holds(why["Causes"][0]["Trouble"] == "locked", why)
    });
    let text = c.skep("n3", "why").ok();
    assert!(text.contains("swarm unlock"), "{text}");
    c.skep_given("n3", "swarm unlock", key.as_bytes()).ok();
    c.skep("n1", "swarm update --autolock=false").ok();
    c.wait_ready("n1", "n3", secs(20));
}

fn down(c: &Cluster) {
    c.skep("n1", "service rm it");
    c.skep(
        "n1",
        &format!("{CREATE} it --constraint node.hostname==n3 busy:1 sleep 1000"),
    )
    .ok();
    c.wait_running("n1", "it", 1, secs(20));
    c.kill("n3");
    eventually("the node is down", secs(20), || {
        let state = c.node_state("n1", "n3")?;
        holds(state == "down", state)
    });
    named(c, "n1", "n3", "node-down", "the node is down");
    named(c, "n1", "n3", "manager-unreachable", "does not reach");
    named(c, "n1", "", "node-down", "the node is down");
    // It would run there only.
    let text = "scheduling constraints not satisfied on 2 nodes; 1 node not available";
    named(c, "n1", "it", "no-suitable-node", text);
}

fn quorum(c: &Cluster) {
    c.kill("n2");
    eventually("the quorum is missed", secs(20), || {
        let why = ask(c, "n1", "")?;
        let first = &why["Causes"][0];
        let said = first["Message"].as_str().unwrap_or_default();
        let both = said.contains("n2 at ") && said.contains("n3 at ");
        holds(first["Trouble"] == "quorum" && both, why)
    });
    // What it had is told all the same, and quickly.
    named(c, "n1", "it", "quorum", "does not have a leader");
    let refused = c.skep("n1", "service scale --detach it=2");
    assert!(refused.took < skep_e2e::patient(secs(1)), "{refused}");
    refused
        .fails("The swarm does not have a leader")
        .fails("Not reached: ");
    c.start("n2");
    c.start("n3");
    c.wait_ready("n1", "n3", secs(30));
}
