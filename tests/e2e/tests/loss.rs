//! A hundred thousand requests while a service is updated, scaled and moved: none is lost.

use std::net::SocketAddr;
use std::time::Duration;

use skep_e2e::station::Outsider;
use skep_e2e::visitor::{Manner, Visits};
use skep_e2e::{Checks, Cluster, eventually, secs};

/// The image serves pages and sends datagrams back.
const PORT: u16 = 8080;
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const REQUESTS: usize = 100_000;
/// A slow machine does fewer, in so much time.
const LONGEST: Duration = secs(90);
/// Ways to change the service; each is done once at least where there is time.
const STEPS: usize = 6;
/// How long a change of the service may take.
const CHANGED: Duration = secs(60);
/// Datagrams that may go unanswered: a flow that is led to another task loses what is on its way
/// back, at most one for each flow and change.
const IN_FLIGHT_PER_CHANGE: usize = 1;

#[test]
fn nothing_is_lost_while_a_service_changes() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    c.skep(
        "n1",
        "network create -d overlay --ipv6 --subnet 10.74.0.0/24 --subnet fd74:5::/64 net",
    )
    .ok();
    c.skep(
        "n1",
        "service create -d --no-resolve-image --name web --replicas 10 --network net \
         --publish 8080:8080 --publish 8080:8080/udp --update-parallelism 3 \
         --update-order start-first skep/hello:latest udp",
    )
    .ok();
    c.skep(
        "n1",
        "service create -d --no-resolve-image --name client --network net \
         --constraint node.hostname==n1 skep/hello:latest",
    )
    .ok();
    c.wait_running("n1", "web", 10, CHANGED);
    let client = c.wait_running("n1", "client", 1, CHANGED).remove(0);
    let client = c.inside_task(&client);
    let vips: Vec<SocketAddr> = c
        .vips("n1", "web", "net")
        .into_iter()
        .map(|ip| SocketAddr::new(ip, PORT))
        .collect();
    let nodes: Vec<SocketAddr> = NODES
        .iter()
        .map(|node| SocketAddr::new(c.address(node).into(), PORT))
        .collect();
    let outsider = Outsider::plug(c, 101);
    let outside = &outsider.station;
    for to in vips
        .iter()
        .map(|to| (&client, to))
        .chain(nodes.iter().map(|to| (outside, to)))
    {
        eventually("it answers", secs(10), || {
            skep_e2e::talk::connect(to.0, *to.1)
        });
    }
    let mut checks = Checks::new();
    let pages = || {
        let mut visits = Visits::default();
        for turn in 0..2 {
            for manner in [Manner::New, Manner::Kept] {
                visits.add(&client, &vips, turn, manner);
                visits.add(outside, &nodes, turn, manner);
            }
        }
        visits
    };
    checks.check("pages", || {
        let visits = pages();
        let changes = change(c, |changes| {
            let all = visits.answered() >= REQUESTS && changes >= STEPS;
            all || visits.elapsed() > LONGEST
        });
        let took = visits.elapsed();
        let visited = visits.end();
        println!("       {changes} changes in {took:.0?}: {visited}");
        assert!(visited.lost.is_empty(), "{visited}");
        assert!(changes >= STEPS / 2, "{changes}");
    });
    checks.check("datagrams", || {
        let mut visits = Visits::default();
        let turns = 3;
        for turn in 0..turns {
            visits.add(&client, &vips, turn, Manner::Datagrams);
            visits.add(outside, &nodes, turn, Manner::Datagrams);
        }
        let flows = 2 * turns;
        let changes = change(c, |_| visits.elapsed() > secs(20));
        let visited = visits.end();
        println!("       {changes} changes: {visited}");
        let most = flows * changes * IN_FLIGHT_PER_CHANGE;
        assert!(visited.lost.len() <= most, "{visited}");
        assert!(visited.times.len() > 1000, "{visited}");
    });
    checks.end();
}

/// Changes the service in one way after another until there was enough; returns how often.
fn change(c: &Cluster, enough: impl Fn(usize) -> bool) -> usize {
    let done = |replicas: usize| drop(c.wait_running("n1", "web", replicas, CHANGED));
    let update = |flags: &str| {
        let status = || c.get("n1", "/services/web")["UpdateStatus"].clone();
        let before = status()["StartedAt"].clone();
        c.skep("n1", &format!("service update -d {flags} web")).ok();
        eventually("the update is through", CHANGED, || {
            let now = status();
            let is_through = now["State"] == "completed" && now["StartedAt"] != before;
            skep_e2e::wait::holds(is_through, now)
        });
        done(10);
    };
    let steps: [&dyn Fn(); STEPS] = [
        &|| update("--force"),
        &|| {
            c.skep("n1", "service scale -d web=4").ok();
            done(4);
        },
        &|| {
            c.skep("n1", "service scale -d web=10").ok();
            done(10);
        },
        &|| {
            c.skep("n1", "node update --availability drain n3").ok();
            done(10);
        },
        &|| {
            c.skep("n1", "node update --availability active n3").ok();
            update("--env-add A=1 --force");
        },
        &|| {
            c.skep("n1", "node update --availability drain n2").ok();
            done(10);
            c.skep("n1", "node update --availability active n2").ok();
        },
    ];
    for (number, step) in steps.iter().cycle().enumerate() {
        if enough(number) {
            // What was begun has come to its end; nobody waits for the last connections.
            c.skep("n1", "node update --availability active n2").ok();
            c.skep("n1", "node update --availability active n3").ok();
            c.skep("n1", "service scale -d web=10").ok();
            done(10);
            return number;
        }
        step();
    }
    unreachable!("steps go round")
}
