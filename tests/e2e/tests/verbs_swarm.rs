//! Verbs of the cluster and of its nodes, with docker's client and with ours.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, Ran, eventually, needs, secs};

/// One of the two clients.
type Client = fn(&Cluster, &str, &str) -> Ran;

const NODES: [&str; 3] = ["n1", "n2", "n3"];

#[test]
fn the_cluster_is_dockers_with_either_client() {
    let Some(_) = needs::docker() else { return };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    for node in NODES {
        c.wait_ready("n1", node, secs(10));
    }
    let mut checks = Checks::new();
    checks.check("version and info tell of the same daemon", || {
        for node in NODES {
            c.same(node, "version --format '{{.Server.Version}} {{.Server.APIVersion}} {{.Server.Os}}/{{.Server.Arch}}'");
            c.same_after(node, "info --format '{{json .Swarm}}'", in_any_order);
            // Each client tells of itself above this line.
            // Docker's also names what the daemon does not tell: `Git commit:` and no more.
            let server = |text: &str| {
                let (_, rest) = text.split_once("Server:").unwrap_or_default();
                rest.lines().filter(|line| !is_untold(line)).collect::<Vec<_>>().join("\n")
            };
            for verb in ["version", "info"] {
                let text = c.same_after(node, verb, server);
                assert!(server(&text).len() > 100, "{text}");
            }
        }
        let said = c.same("n1", "info --format '{{.Swarm.Nodes}} {{.Swarm.Managers}} {{.Swarm.ControlAvailable}} {{.Name}}'");
        assert_eq!(said, "3 1 true n1\n");
        assert_eq!(c.same("n2", "info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}'"), "active false\n");
        c.same("n1", "system info --format '{{.ServerVersion}}'");
    });
    checks.check(
        "events of a time are told, filtered, with either client",
        || events(c),
    );
    checks.check("node ls, inspect and ps tell of nodes the same", || {
        for line in [
            "node ls",
            "node ls -q",
            "node ls --filter role=manager",
            "node ls --filter role=worker --filter name=n3",
            "node ls --filter membership=accepted --format '{{.ID}} {{.Self}} {{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}} {{.EngineVersion}} {{.TLSStatus}}'",
            "node ls --format json",
            "node inspect --pretty n1",
            "node inspect --pretty self",
            "node inspect --pretty n2",
            "node inspect --format '{{.Spec.Role}} {{.Status.Addr}} {{.Description.Platform.OS}}' n3",
            "node ps",
            "node ps n2",
            "node ps -q n3",
        ] {
            c.same("n1", line);
        }
        c.same_after("n1", "node inspect n1 n2 n3", without_additions);
        c.both_fail("n1", "node inspect nosuch", "nosuch");
        c.both_fail("n2", "node ls", "This node is not a swarm manager");
    });
    checks.check(
        "node update changes labels and availability, and tasks heed it",
        || updates(c),
    );
    checks.check("promote makes a manager, and demote a worker of it", || {
        for client in [Cluster::docker as Client, Cluster::skep] {
            let said = client(c, "n1", "node promote n2").ok();
            assert_eq!(said, "Node n2 promoted to a manager in the swarm.\n");
            assert!(
                c.same("n1", "node promote n2")
                    .ends_with(" is already a manager.\n")
            );
            eventually("n2 manages", secs(20), || {
                let line = "node ls --format '{{.Hostname}} {{.ManagerStatus}}'";
                let listed = client(c, "n2", line);
                holds(
                    listed.status == 0 && listed.out.contains("n2 Reachable"),
                    listed,
                )
            });
            c.same("n2", "node ls");
            let said = client(c, "n1", "node demote n2").ok();
            assert_eq!(said, "Manager n2 demoted in the swarm.\n");
            eventually("n2 manages no more", secs(20), || {
                let listed = client(c, "n2", "node ls");
                holds(
                    listed.err.contains("This node is not a swarm manager"),
                    listed,
                )
            });
            eventually("n2 is a worker and ready", secs(20), || {
                let line = "node ls --filter name=n2 --format '{{.Status}},{{.ManagerStatus}}'";
                let listed = client(c, "n1", line);
                holds(listed.out == "Ready,\n", listed)
            });
            assert!(
                c.same("n1", "node demote n2")
                    .ends_with(" is already a worker.\n")
            );
        }
        c.both_fail("n1", "node demote n1", "last manager");
    });
    checks.check(
        "join-token tells the tokens, and rotation makes new ones",
        || tokens(c),
    );
    checks.check("swarm update changes the cluster's settings", || {
        let setting = |pointer: &str| {
            c.get("n1", "/swarm")
                .pointer(pointer)
                .cloned()
                .unwrap_or_default()
        };
        assert_eq!(
            c.docker(
                "n1",
                "swarm update --task-history-limit 3 --cert-expiry 100h"
            )
            .ok(),
            "Swarm updated.\n"
        );
        assert_eq!(setting("/Spec/Orchestration/TaskHistoryRetentionLimit"), 3);
        assert_eq!(
            setting("/Spec/CAConfig/NodeCertExpiry"),
            360_000_000_000_000_i64
        );
        assert_eq!(
            c.skep(
                "n1",
                "swarm update --task-history-limit 4 --dispatcher-heartbeat 6s"
            )
            .ok(),
            "Swarm updated.\n"
        );
        assert_eq!(setting("/Spec/Orchestration/TaskHistoryRetentionLimit"), 4);
        assert_eq!(
            setting("/Spec/Dispatcher/HeartbeatPeriod"),
            6_000_000_000_i64
        );
        assert_eq!(
            setting("/Spec/CAConfig/NodeCertExpiry"),
            360_000_000_000_000_i64
        );
        c.same_after("n1", "info", |text| {
            text.lines()
                .filter(|line| line.contains("Retention") || line.contains("Expiry"))
                .collect()
        });
        c.both_fail(
            "n2",
            "swarm update --task-history-limit 3",
            "This node is not a swarm manager",
        );
    });
    checks.check(
        "a node leaves, is removed, and joins again with a token",
        || leave_and_join(c),
    );
    checks.end();
}

fn is_untold(line: &str) -> bool {
    ["Go version:", "Git commit:", "Built:"].contains(&line.trim())
}

/// JSON with its fields sorted, and without those that are empty.
fn in_any_order(text: &str) -> String {
    fn pruned(value: Value) -> Value {
        match value {
            Value::Object(fields) => {
                let fields = fields
                    .into_iter()
                    .map(|(name, value)| (name, pruned(value)));
                Value::Object(fields.filter(|(_, value)| !is_empty(value)).collect())
            }
            Value::Array(values) => values.into_iter().map(pruned).collect(),
            other => other,
        }
    }
    fn is_empty(value: &Value) -> bool {
        match value {
            Value::Null | Value::Bool(false) => true,
            Value::Number(number) => number.as_u64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(values) => values.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Bool(true) => false,
        }
    }
    pruned(serde_json::from_str(text).unwrap_or_default()).to_string()
}

/// Nodes without what our API adds to docker's: docker's client leaves that out.
fn without_additions(text: &str) -> String {
    let mut nodes: Value = serde_json::from_str(text).unwrap_or_default();
    for node in nodes.as_array_mut().into_iter().flatten() {
        for (place, names) in [
            ("", &["Role", "Index", "IngressAddresses"][..]),
            (
                "/Description",
                &[
                    "Addresses",
                    "AsksStores",
                    "DataPathAddr",
                    "DataPathMtu",
                    "Encryption",
                    "HoldsLeases",
                    "KnowsVariables",
                    "NetworkProblems",
                    "TakesRegistryLogins",
                ],
            ),
            ("/Status", &["Since"]),
            ("/ManagerStatus", &["RaftId"]),
        ] {
            let Some(Value::Object(fields)) = node.pointer_mut(place) else {
                continue;
            };
            fields.retain(|name, _| !names.contains(&name.as_str()));
        }
    }
    in_any_order(&nodes.to_string())
}

fn events(c: &Cluster) {
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64()
    };
    let since = now();
    c.skep(
        "n1",
        "run --rm --name seen --label who=us skep/hello check http://127.0.0.1:1/",
    );
    c.skep(
        "n1",
        "service create -d --name seen-service --replicas 0 skep/hello",
    )
    .ok();
    c.skep("n1", "service rm seen-service").ok();
    c.skep("n1", "volume create seen-volume").ok();
    c.skep("n1", "volume rm seen-volume").ok();
    // Events of the cluster are told when the manager that is asked has applied them.
    let window = |line: &str| format!("events --since {since:.9} --until {:.9} {line}", now());
    let service = "--filter type=service --filter event=remove";
    eventually("the removal was told", secs(10), || {
        let ran = c.skep("n1", &window(service));
        holds(ran.out.contains("seen-service"), ran)
    });
    let told = c.same(
        "n1",
        &window("--filter container=seen --format '{{.Action}} {{.Actor.Attributes.who}}'"),
    );
    let actions: Vec<&str> = told.lines().collect();
    assert_eq!(actions[0], "create us", "{told}");
    assert!(
        actions.contains(&"start us")
            && actions.contains(&"die us")
            && actions.contains(&"destroy us"),
        "{told}"
    );
    let told = c.same(
        "n1",
        &window("--filter type=volume --format '{{.Type}} {{.Action}} {{.Actor.ID}}'"),
    );
    assert_eq!(
        told,
        "volume create seen-volume\nvolume destroy seen-volume\n"
    );
    let told = c.same(
        "n1",
        &window("--filter scope=swarm --filter service=seen-service"),
    );
    assert!(
        told.contains(" service create ") && told.contains(" service remove "),
        "{told}"
    );
    c.same("n1", &window(""));
    c.same("n1", &window("--format json --filter label=who=us"));
    assert_eq!(c.same("n1", &window("--filter container=nosuch")), "");
}

fn updates(c: &Cluster) {
    let said = c
        .docker(
            "n1",
            "node update --label-add disk=fast --label-add of=docker n2",
        )
        .ok();
    assert_eq!(said, "n2\n");
    assert_eq!(
        c.skep(
            "n1",
            "node update --label-add of=skep --label-add rack=1 n2"
        )
        .ok(),
        "n2\n"
    );
    let labels = c.same("n1", "node inspect --format '{{json .Spec.Labels}}' n2");
    assert_eq!(
        labels,
        "{\"disk\":\"fast\",\"of\":\"skep\",\"rack\":\"1\"}\n"
    );
    c.same("n1", "node ls --filter node.label=disk=fast");
    c.same("n1", "node inspect --pretty n2");
    c.docker("n1", "node update --label-rm disk n2").ok();
    c.skep("n1", "node update --label-rm of --label-rm rack n2")
        .ok();
    assert_eq!(
        c.same("n1", "node inspect --format '{{json .Spec.Labels}}' n2"),
        "{}\n"
    );
    c.skep(
        "n1",
        "service create -d --name spread --replicas 3 --no-resolve-image skep/hello",
    )
    .ok();
    c.wait_running("n1", "spread", 3, secs(30));
    // Docker's client tells a task once more for each node named after its own.
    let told = c.skep("n1", "node ps -q n1 n2 n3").ok();
    assert_eq!(told.lines().count(), 3, "{told}");
    for (client, node) in [(Cluster::docker as Client, "n2"), (Cluster::skep, "n3")] {
        client(c, "n1", &format!("node update --availability drain {node}")).ok();
        let on = |node: &str| {
            c.running("n1", "spread")
                .iter()
                .filter(|task| task.node == node)
                .count()
        };
        eventually("no task is on a drained node", secs(30), || {
            holds(on(node) == 0, on(node))
        });
        c.wait_running("n1", "spread", 3, secs(30));
        c.same("n1", "node ls");
        c.same("n1", &format!("node ps {node}"));
        client(
            c,
            "n1",
            &format!("node update --availability active {node}"),
        )
        .ok();
        assert_eq!(
            c.same(
                "n1",
                &format!("node inspect --format '{{{{.Spec.Availability}}}}' {node}")
            ),
            "active\n"
        );
    }
    c.both_fail("n1", "node update --availability gone n2", "gone");
    c.remove_service("n1", "spread");
}

fn tokens(c: &Cluster) {
    for role in ["worker", "manager"] {
        // Each client tells to run itself.
        c.same_after("n1", &format!("swarm join-token {role}"), |text| {
            text.replace("  skep swarm", "  docker swarm")
        });
        let before = c
            .same("n1", &format!("swarm join-token -q {role}"))
            .trim()
            .to_owned();
        assert!(before.starts_with("SWMTKN-1-"), "{before}");
        let [dockers, ours] = c
            .each("n1", &format!("swarm join-token --rotate -q {role}"))
            .words();
        let now = c.same("n1", &format!("swarm join-token -q {role}"));
        assert_eq!(now.trim(), ours);
        assert!(before != dockers && dockers != ours);
        // They differ in the secret alone: the root's digest stays.
        let root = |token: &str| token.rsplit_once('-').map(|(start, _)| start.to_owned());
        assert_eq!(root(&before), root(&ours));
        let told = [Cluster::docker as Client, Cluster::skep].map(|client| {
            let told = client(c, "n1", &format!("swarm join-token --rotate {role}")).ok();
            let before_token = |line: &str| {
                line.split("SWMTKN")
                    .next()
                    .unwrap_or_default()
                    .replace("skep", "docker")
            };
            told.lines().map(before_token).collect::<Vec<_>>()
        });
        assert_eq!(told[0], told[1]);
        assert_eq!(
            told[1][0],
            format!("Successfully rotated {role} join token.")
        );
    }
    c.both_fail("n1", "swarm join-token nosuch", "nosuch");
    c.both_fail(
        "n2",
        "swarm join-token worker",
        "This node is not a swarm manager",
    );
}

fn leave_and_join(c: &Cluster) {
    c.both_fail(
        "n2",
        "swarm join --token x 127.0.0.1:1",
        "already part of a swarm",
    );
    c.both_fail("n1", "swarm init", "already part of a swarm");
    c.both_fail("n1", "swarm leave", "manager");
    for (client, node) in [(Cluster::docker as Client, "n3"), (Cluster::skep, "n2")] {
        let id = c
            .same("n1", &format!("node inspect --format '{{{{.ID}}}}' {node}"))
            .trim()
            .to_owned();
        c.both_fail(
            "n1",
            &format!("node rm {node}"),
            "is not down and can't be removed",
        );
        assert_eq!(
            client(c, node, "swarm leave").ok(),
            "Node left the swarm.\n"
        );
        c.both_fail(node, "swarm leave", "not part of a swarm");
        assert_eq!(
            c.same(node, "info --format '{{.Swarm.LocalNodeState}}'"),
            "inactive\n"
        );
        eventually("a node that left is down", secs(10), || {
            let state = c.node_state("n1", node)?;
            holds(state == "down", state)
        });
        assert_eq!(
            client(c, "n1", &format!("node rm {node}")).ok(),
            format!("{node}\n")
        );
        c.both_fail("n1", &format!("node inspect {node}"), node);
        let token = c.same("n1", "swarm join-token -q worker").trim().to_owned();
        let place = format!("{}:2377", c.address("n1"));
        let wrong = format!("{}x", &token[..token.len() - 1]);
        c.both_fail(node, &format!("swarm join --token {wrong} {place}"), "");
        let address = c.address(node);
        let joined = client(
            c,
            node,
            &format!("swarm join --token {token} --advertise-addr {address} {place}"),
        )
        .ok();
        assert_eq!(joined, "This node joined a swarm as a worker.\n");
        c.wait_ready("n1", node, secs(10));
        let after = c
            .same("n1", &format!("node inspect --format '{{{{.ID}}}}' {node}"))
            .trim()
            .to_owned();
        assert_ne!(id, after, "it is another node of the cluster");
        c.same("n1", "node ls");
    }
    c.skep(
        "n1",
        "service create -d --name again --mode global --no-resolve-image skep/hello",
    )
    .ok();
    c.wait_running("n1", "again", 3, secs(30));
    c.remove_service("n1", "again");
}
