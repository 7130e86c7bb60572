//! Services that cannot be placed, cannot start, or end.

use serde_json::json;
use skep_e2e::registry::Registry;
use skep_e2e::{Checks, Cluster};

use crate::{CREATE, NODES, listed, named};

/// One trouble: what it is, what has it, and what is said about it.
struct Staged {
    name: &'static str,
    /// Flags, image and command of the service.
    line: &'static str,
    trouble: &'static str,
    /// Part of what `why` says.
    why: &'static str,
    /// Part of what `service ps` says.
    listed: &'static str,
}

const fn staged(
    name: &'static str,
    line: &'static str,
    trouble: &'static str,
    why: &'static str,
    listed: &'static str,
) -> Staged {
    Staged {
        name,
        line,
        trouble,
        why,
        listed,
    }
}

/// Ports of registries on n1.
const OPEN: u16 = 5000;
const CLOSED: u16 = 5001;

const TROUBLES: &[Staged] = &[
    staged(
        "processors that no node has",
        "--reserve-cpu 640 busy:1 sleep 1000",
        "no-room",
        "insufficient resources on 3 nodes",
        "insufficient resources on 3 nodes",
    ),
    staged(
        "memory that no node has",
        "--reserve-memory 900g busy:1 sleep 1000",
        "no-room",
        "insufficient resources on 3 nodes",
        "insufficient resources on 3 nodes",
    ),
    staged(
        "a generic resource that no node has",
        "--generic-resource gpu=1 busy:1 sleep 1000",
        "no-room",
        "insufficient resources on 3 nodes",
        "insufficient resources on 3 nodes",
    ),
    staged(
        "a constraint that no node meets",
        "--constraint node.labels.zone==moon busy:1 sleep 1000",
        "constraint",
        "scheduling constraints not satisfied on 3 nodes",
        "scheduling constraints not satisfied on 3 nodes",
    ),
    staged(
        "a port of the node for more replicas than nodes",
        "--replicas 4 --publish mode=host,published=8090,target=80 busy:1 sleep 1000",
        "host-port",
        "host-mode port already in use on 3 nodes",
        "host-mode port already in use on 3 nodes",
    ),
    staged(
        "more replicas than nodes may have",
        "--replicas 4 --replicas-max-per-node 1 busy:1 sleep 1000",
        "max-replicas",
        "max replicas per node limit exceed",
        "max replicas per node limit exceed",
    ),
    staged(
        "a driver of logs that no node has",
        "--log-driver nosuch busy:1 sleep 1000",
        "plugin",
        "missing plugin on 3 nodes",
        "missing plugin on 3 nodes",
    ),
    staged(
        "a driver of volumes that no node has",
        "--mount type=volume,source=v,target=/v,volume-driver=nosuch busy:1 sleep 1000",
        "plugin",
        "missing plugin on 3 nodes",
        "missing plugin on 3 nodes",
    ),
    staged(
        "a different obstacle on each node",
        "--replicas 3 --constraint node.hostname!=n3 \
         --publish mode=host,published=8091,target=80 busy:1 sleep 1000",
        "no-suitable-node",
        "host-mode port already in use on 2 nodes; scheduling constraints not satisfied on 1 node",
        "host-mode port already in use on 2 nodes",
    ),
    staged(
        "a network with too few addresses",
        "--replicas 12 --network tiny busy:1 sleep 1000",
        "addresses",
        "network tiny: no available IPv4 addresses",
        "no available IPv4 addresses",
    ),
    staged(
        "a registry that nobody listens at",
        "127.0.0.1:1/none:1",
        "registry",
        "No such image: 127.0.0.1:1/none:1",
        "No such image: 127.0.0.1:1/none:1",
    ),
    staged(
        "a directory of the host that is not there",
        "--mount type=bind,source=/nowhere/at/all,target=/x busy:1 sleep 1000",
        "mount",
        "bind source path does not exist: /nowhere/at/all",
        "bind source path does not exist",
    ),
    staged(
        "a command that the image does not have",
        "busy:1 nosuchprogram",
        "command",
        "executable file not found",
        "executable file not found",
    ),
    staged(
        "a command that is no program",
        "busy:1 /etc/passwd",
        "command",
        "permission denied",
        "permission denied",
    ),
    staged(
        "a user that the image does not know",
        "--user nosuchuser busy:1 sleep 1000",
        "user",
        "unable to find user nosuchuser",
        "unable to find user nosuchuser",
    ),
    staged(
        "a working directory that is a file",
        "--workdir /etc/passwd busy:1 sleep 1000",
        "start",
        "not a directory",
        "not a directory",
    ),
    staged(
        "a port that something else on the node has",
        "--publish mode=host,published=8092,target=80 --constraint node.hostname==n1 \
         busy:1 sleep 1000",
        "port-taken",
        "port is already allocated",
        "port is already allocated",
    ),
    staged(
        "a config whose template names what is not there",
        "--config source=broken,target=/broken busy:1 sleep 1000",
        "payload",
        "broken",
        "broken",
    ),
    staged(
        "a command that ends with an error",
        "busy:1 sh -c 'exit 3'",
        "exit",
        "task: non-zero exit (3)",
        "task: non-zero exit (3)",
    ),
    staged(
        "a command that ends again and again",
        "--restart-delay 100ms busy:1 sh -c 'exit 4'",
        "exit",
        "times, last on n",
        "task: non-zero exit (4)",
    ),
    staged(
        "a restart that is a long time off",
        "--restart-delay 1h busy:1 sh -c 'exit 5'",
        "exit",
        "task: non-zero exit (5); waits for its restart delay",
        "task: non-zero exit (5)",
    ),
    staged(
        "more memory than it may have",
        "--limit-memory 16m busy:1 sh -c 'x=aaaaaaaa; while true; do x=$x$x; done'",
        "out-of-memory",
        "out of memory",
        "out of memory",
    ),
    staged(
        "a health check that fails",
        "--health-cmd false --health-interval 100ms --health-retries 1 busy:1 sleep 1000",
        "unhealthy",
        "unhealthy container",
        "unhealthy container",
    ),
    staged(
        "a health check that has not passed yet",
        "--health-cmd true --health-interval 1h busy:1 sleep 1000",
        "health",
        "its health check has not passed yet",
        "Starting",
    ),
    staged(
        "as many attempts as are allowed",
        "--restart-max-attempts 1 --restart-delay 100ms busy:1 sh -c 'exit 6'",
        "gave-up",
        "it was restarted 1 times, as often as it may be",
        "task: non-zero exit (6)",
    ),
    staged(
        "a task that is not restarted",
        "--restart-condition none busy:1 sh -c 'exit 7'",
        "gave-up",
        "its restart condition is none",
        "task: non-zero exit (7)",
    ),
    staged(
        "a task that is done",
        "--restart-condition on-failure busy:1 true",
        "gave-up",
        "ended with success; not started again: its restart condition is on-failure",
        "Complete",
    ),
    staged(
        "a job that fails",
        "--mode replicated-job --restart-condition none busy:1 sh -c 'exit 8'",
        "gave-up",
        "task: non-zero exit (8)",
        "task: non-zero exit (8)",
    ),
    staged(
        "a global service that no node is meant for",
        "--mode global --constraint node.labels.zone==moon busy:1 sleep 1000",
        "constraint",
        "no node is one that it should run on",
        "",
    ),
];

/// Those that need a registry on n1.
const OF_REGISTRIES: &[Staged] = &[
    staged(
        "an image that the registry does not have",
        "--constraint node.hostname==n1 127.0.0.1:5000/nosuch:1",
        "image-missing",
        "127.0.0.1:5000/nosuch:1",
        "127.0.0.1:5000/nosuch:1",
    ),
    staged(
        "a registry that wants a password",
        "--constraint node.hostname==n1 127.0.0.1:5001/secret:1",
        "image-denied",
        "127.0.0.1:5001/secret:1",
        "127.0.0.1:5001/secret:1",
    ),
];

pub fn all(c: &Cluster, checks: &mut Checks) {
    c.skep("n1", "network create -d overlay --subnet 10.77.0.0/29 tiny")
        .ok();
    c.skep_given(
        "n1",
        "config create --template-driver golang broken -",
        b"{{ secret \"nosuch\" }}",
    )
    .ok();
    c.skep("n1", "run -d --name holder -p 8092:80 busy:1 sleep 1000")
        .ok();
    for trouble in TROUBLES {
        checks.check(trouble.name, || stage(c, trouble));
    }
    c.skep("n1", "rm -f holder").ok();
    let registries = (
        Registry::start(c, "n1", OPEN),
        Registry::closed(c, "n1", CLOSED),
    );
    if let (Some(_open), Some(_closed)) = &registries {
        for trouble in OF_REGISTRIES {
            checks.check(trouble.name, || stage(c, trouble));
        }
    }
    checks.check("an image for another platform", || platform(c));
    checks.check("a task that was killed", || killed(c));
    checks.check("nodes that take no tasks", || unavailable(c));
    checks.check("what is well has no causes", || well(c));
}

fn stage(c: &Cluster, trouble: &Staged) {
    c.skep("n1", "service rm it");
    c.skep("n1", &format!("{CREATE} it {}", trouble.line)).ok();
    named(c, "n1", "it", trouble.trouble, trouble.why);
    listed(c, "it", trouble.listed);
    // The whole cluster has it as well, and people can read it.
    named(c, "n2", "", trouble.trouble, trouble.why);
    let text = c.skep("n3", "why it").ok();
    assert!(text.contains(trouble.why), "{text}");
    c.remove_service("n1", "it");
}

/// Clients say for which platforms an image is; ours and docker's ask the registry.
fn platform(c: &Cluster) {
    let spec = json!({
        "Name": "it",
        "TaskTemplate": {
            "ContainerSpec": {"Image": "busy:1", "Command": ["sleep", "1000"]},
            "Placement": {"Platforms": [{"Architecture": "s390x", "OS": "linux"}]},
        },
        "Mode": {"Replicated": {"Replicas": 1}},
    });
    c.api("n1", "POST", "/services/create", Some(&spec));
    let text = "unsupported platform on 3 nodes";
    named(c, "n1", "it", "platform", text);
    listed(c, "it", text);
    c.remove_service("n1", "it");
}

fn killed(c: &Cluster) {
    c.skep(
        "n1",
        &format!("{CREATE} it --restart-delay 1h busy:1 sleep 1000"),
    )
    .ok();
    let task = c.wait_running("n1", "it", 1, skep_e2e::secs(10)).remove(0);
    let pid = c
        .container_pid(&task.node, &task.container)
        .expect("a running container has a process");
    c.end_process(pid);
    named(c, "n1", "it", "killed", "task: non-zero exit (137)");
    named(c, "n1", "it.1", "killed", "task: non-zero exit (137)");
    listed(c, "it", "task: non-zero exit (137)");
    c.remove_service("n1", "it");
}

fn unavailable(c: &Cluster) {
    for (node, availability, trouble) in [
        ("n1", "pause", "node-paused"),
        ("n2", "drain", "node-drained"),
        ("n3", "pause", "node-paused"),
    ] {
        c.skep(
            "n1",
            &format!("node update --availability {availability} {node}"),
        )
        .ok();
        named(c, "n1", node, trouble, "the node takes no");
    }
    c.skep("n1", &format!("{CREATE} it busy:1 sleep 1000")).ok();
    let text = "3 nodes not available for new tasks";
    named(c, "n1", "it", "no-node", text);
    listed(c, "it", text);
    for node in NODES {
        c.skep("n1", &format!("node update --availability active {node}"))
            .ok();
    }
    c.wait_running("n1", "it", 1, skep_e2e::secs(10));
    c.remove_service("n1", "it");
}

fn well(c: &Cluster) {
    c.skep("n1", &format!("{CREATE} it --replicas 3 busy:1 sleep 1000"))
        .ok();
    c.wait_running("n1", "it", 3, skep_e2e::secs(10));
    let text = c.skep("n2", "why it").ok();
    assert!(
        text.starts_with(
            "service it: 3 of 3 tasks run\nNothing is waited for, and nothing is wrong.\n"
        ),
        "{text}"
    );
    let text = c.skep("n2", "why n1").ok();
    assert!(text.contains("ready, active"), "{text}");
    c.skep("n1", "why nosuch")
        .fails("no service, task, node or stack is called nosuch");
    c.skep("n1", "why --type task it").fails("no such task: it");
    c.skep("n1", "why --type wish it")
        .fails("\"wish\" is not a valid type");
    c.remove_service("n1", "it");
}
