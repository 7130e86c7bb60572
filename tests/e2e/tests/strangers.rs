//! Nodes that are told of few others lead to every task all the same.

use std::net::SocketAddr;

use skep_e2e::station::{self, Station};
use skep_e2e::talk;
use skep_e2e::{Checks, Cluster, eventually, secs};

const PORT: u16 = 8080;
/// Where the servers listen that the tests put into tasks.
const TARGET: u16 = 5000;

/// Two workers without a task are told of the task's node and of the manager, not of each other.
#[test]
fn nodes_that_are_not_told_of_each_other_lead_to_the_task() {
    let Some(cluster) = Cluster::up(4, 1) else {
        return;
    };
    let c = &cluster;
    let entry = |node: &str| SocketAddr::new(c.address(node).into(), PORT);
    let _web = talk::serve_task(
        TARGET,
        c,
        "web",
        "n4",
        "--publish 8080:5000 --publish 8080:5000/udp",
    );
    let mut checks = Checks::new();
    checks.check("every node is a client of every other", || {
        for client in ["n1", "n2", "n3", "n4"] {
            let from = station::node(c, client);
            for to in ["n1", "n2", "n3", "n4"] {
                let heard = eventually(&format!("{client} -> {to}"), secs(10), || {
                    talk::tcp(&from, entry(to))
                });
                assert_eq!(heard.name, "web", "{client} -> {to}");
                let heard = talk::udp(&from, entry(to));
                assert!(heard.is_ok(), "udp {client} -> {to}: {heard:?}");
            }
        }
    });
    checks.check("those who come to share a network are told", || {
        c.skep("n1", "network create -d overlay --attachable net")
            .ok();
        let line = "service create -d --no-resolve-image --name both --mode global --network net \
                    --constraint node.role==worker skep/hello:latest";
        c.skep("n1", line).ok();
        let tasks = c.wait_running("n1", "both", 3, secs(30));
        let inside = tasks.iter().map(|task| {
            let pid = c.container_pid(&task.node, &task.container);
            Station::of(pid.expect("it runs"))
        });
        let stations: Vec<Station> = inside.collect();
        stations
            .iter()
            .for_each(|one| talk::serve(one, "both", TARGET));
        for from in &stations {
            for to in &stations {
                let address = to.ip("-4 -o addr show dev eth0");
                let address = address.split_whitespace().nth(3).expect("an address");
                let address = address.split('/').next().unwrap().parse().unwrap();
                eventually("a neighbour answers", secs(10), || {
                    talk::tcp(from, SocketAddr::new(address, TARGET)).map(drop)
                });
            }
        }
    });
    checks.end();
}
