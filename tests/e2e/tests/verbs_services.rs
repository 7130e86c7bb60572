//! Verbs of services, with docker's client and with ours.

use std::fs;

use serde_json::Value;
use skep_e2e::cluster::field;
use skep_e2e::pair::names;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, Ran, eventually, image, needs, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// One of the two clients.
type Client = fn(&Cluster, &str, &str) -> Ran;
/// For what is updated: all tasks at once, watched for a short time.
const QUICKLY: &str = "--update-parallelism 0 --update-monitor 500ms --rollback-parallelism 0 --rollback-monitor 500ms";
/// For services of images that no registry has.
const CREATE: &str = "service create --detach --no-resolve-image";

#[test]
fn services_are_dockers_with_either_client() {
    let (Some(_), Some(busybox)) = (needs::docker(), needs::busybox()) else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in NODES {
        c.skep_given(node, "load", &archive).ok();
        c.wait_ready("n1", node, secs(10));
    }
    fs::write(c.root.join("payload"), "of a file\n").unwrap();
    for kind in ["secret", "config"] {
        c.each("n1", &format!("{kind} create @file payload"));
        c.each_given("n1", &format!("{kind} create @input -"), b"of the input");
    }
    c.each("n1", "network create -d overlay @net");
    let mut checks = Checks::new();
    checks.check(
        "service create passes on every flag, and the task shows it",
        || many_flags(c),
    );
    checks.check(
        "a published service of either client answers on every node",
        || published(c),
    );
    checks.check("lists and inspect tell of services the same", || {
        for line in [
            "service ls",
            "service ls -q",
            "service ls --filter mode=replicated --filter label=tier=front",
            "service ls --filter name=of-s --format '{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}} {{.Ports}}'",
            "service ps of-d-many of-s-many",
            "service ps -q of-d-many",
            "service ps --no-trunc of-s-page",
            "service ps --filter desired-state=running --filter node=n2 of-s-page",
            "service ps --format '{{.Name}} {{.Node}} {{.DesiredState}} {{.Ports}}' of-s-page",
            "service inspect of-d-many of-s-many",
            "service inspect --pretty of-d-many",
            "service inspect --pretty of-s-page",
            "service inspect --format '{{.Spec.Name}} {{json .Spec.Mode}} {{.Endpoint.Spec.Mode}}' of-s-many",
        ] {
            c.same("n1", line);
        }
        c.both_fail("n1", "service inspect nosuch", "no such service: nosuch");
        c.both_fail("n1", "service ps nosuch", "no such service: nosuch");
        c.both_fail("n2", "service ls", "This node is not a swarm manager");
    });
    checks.check(
        "update changes what its flags say and nothing else, and rollback undoes it",
        || update(c),
    );
    checks.check("scale changes the number of tasks", || {
        c.each("n1", "service scale -d @page=4");
        for name in names("@page") {
            c.wait_running("n1", &name, 4, secs(30));
        }
        c.each_after("n1", "service scale @page=1", verdict);
        for name in names("@page") {
            c.wait_running("n1", &name, 1, secs(1));
        }
        c.same("n1", "service ls");
        c.each_ends_with(1, "n1", "service scale @nosuch=1");
        c.each_ends_with(1, "n1", "service scale @page=x");
    });
    checks.check(
        "a global service has a task on every node, and create waits for it",
        || {
            let flags = "--no-resolve-image --mode global --name @global --stop-signal KILL";
            let line = format!("service create {QUICKLY} {flags} busy:1 sleep 1000");
            let pair = c.each_after("n1", &line, verdict);
            assert!(pair.skep.out.contains("converged"), "{}", pair.skep);
            for name in names("@global") {
                let mut on: Vec<String> = c
                    .running("n1", &name)
                    .into_iter()
                    .map(|task| task.node)
                    .collect();
                on.sort();
                assert_eq!(on, NODES);
            }
            c.same("n1", "service ls --filter mode=global");
            c.same("n1", "service ps of-s-global");
            c.same("n1", "service inspect --pretty of-d-global");
            c.each("n1", "service rm @global");
        },
    );
    checks.check("a job runs to its end as often as it is to", || {
        let line = format!(
            "{CREATE} --mode replicated-job --replicas 3 --max-concurrent 2 --name @job busy:1 true"
        );
        c.each("n1", &line);
        for name in names("@job") {
            eventually("the job is done", secs(30), || {
                let tasks = c.try_tasks("n1", &name)?;
                let done = tasks.iter().filter(|task| task.state == "complete").count();
                holds(done == 3, format!("{tasks:?}"))
            });
        }
        c.same("n1", "service ls --filter mode=replicated-job");
        c.same("n1", "service ps of-d-job of-s-job");
        // Docker's client says nothing about how a job runs.
        let pretty = c.skep("n1", "service inspect --pretty of-s-job").ok();
        assert!(
            pretty.contains("Replicated Job\n Max Concurrent:\t2\n Total Completions:\t3\n"),
            "{pretty}"
        );
        c.each("n1", "service rm @job");
    });
    checks.check(
        "logs of a service come from its tasks on whatever node",
        || logs(c),
    );
    checks.check("rm removes services and everything of them", || {
        let ids = names("@many").map(|name| {
            c.get("n1", &format!("/services/{name}"))["ID"]
                .as_str()
                .unwrap()
                .to_owned()
        });
        c.each_ends_with(1, "n1", "secret rm @file");
        c.each("n1", "service rm @many @page");
        c.each_ends_with(1, "n1", "service rm @many");
        for id in ids {
            c.wait_tasks_gone("n1", &id);
        }
        assert_eq!(c.same("n1", "service ls -q"), "");
        for node in NODES {
            eventually("no container is left", secs(20), || {
                let left = c.try_api(node, "GET", "/containers/json?all=1", None)?;
                holds(left.as_array().is_some_and(Vec::is_empty), left)
            });
        }
    });
    checks.end();
}

/// What a waiting client says when it has waited; the steps before that depend on the moment.
fn verdict(text: &str) -> String {
    text.lines()
        .filter(|line| line.starts_with("verify: Service"))
        .collect()
}

fn many_flags(c: &Cluster) {
    fs::write(c.root.join("variables"), "# of a file\nFROM=file\n").unwrap();
    let flags = "--replicas 2 --env A=b --env-file variables --label tier=front --container-label in=side \
        --constraint node.role==worker --placement-pref spread=node.labels.rack --replicas-max-per-node 2 \
        --mount type=volume,source=kept,target=/kept --mount type=tmpfs,target=/scratch,tmpfs-size=65536 \
        --limit-memory 48m --limit-cpu 0.5 --limit-pids 30 --reserve-cpu 0.1 --reserve-memory 8m --network @net \
        --secret source=@file,target=given,mode=0400 --config source=@file,target=/etc/given \
        --update-parallelism 2 --update-delay 1s --update-order start-first --update-failure-action rollback \
        --update-monitor 1s --update-max-failure-ratio 0.1 --rollback-parallelism 0 --rollback-order stop-first \
        --restart-condition on-failure --restart-delay 2s --restart-max-attempts 4 --restart-window 1m \
        --stop-grace-period 1s --stop-signal SIGINT --hostname named --host there:192.0.2.9 --user 0:0 --workdir /tmp \
        --dns 192.0.2.53 --dns-search example.test --health-cmd 'true' --health-interval 1s --health-retries 2 \
        --health-start-period 1s --health-timeout 5s --init --read-only --cap-add NET_ADMIN --cap-drop CHOWN \
        --sysctl net.ipv4.ip_unprivileged_port_start=0 --ulimit nofile=200:300 --log-driver json-file \
        --log-opt max-size=1m --endpoint-mode dnsrr --env TASK={{.Task.Slot}}";
    c.each(
        "n1",
        &format!("{CREATE} {flags} --name @many busy:1 sleep 1000"),
    );
    c.alike("n1", "/services/@many", "/Spec");
    for name in names("@many") {
        for task in c.wait_running("n1", &name, 2, secs(40)) {
            assert_ne!(task.node, "n1", "of a worker");
            let inside = |command: &str| {
                c.skep(&task.node, &format!("exec {} {command}", task.container))
                    .word()
            };
            assert_eq!(
                inside("sh -c 'echo $A $FROM $TASK'"),
                format!("b file {}", task.slot)
            );
            assert_eq!(inside("cat /run/secrets/given"), "of a file");
            assert_eq!(inside("stat -c %a /run/secrets/given"), "400");
            assert_eq!(inside("cat /etc/given"), "of a file");
            assert_eq!(inside("hostname"), "named");
            assert_eq!(inside("busybox pwd"), "/tmp");
            assert_eq!(inside("sh -c 'ulimit -n'"), "200");
            assert!(inside("cat /etc/hosts").contains("192.0.2.9\tthere"));
            assert!(inside("cat /etc/resolv.conf").contains("example.test"));
            assert!(inside("cat /proc/mounts").contains("/scratch tmpfs"));
            assert_eq!(
                inside("sh -c 'echo x > /x || echo refused' 2>&1"),
                "refused"
            );
            let container = c.get(&task.node, &format!("/containers/{}/json", task.container));
            let told = |pointer: &str| container.pointer(pointer).cloned().unwrap_or_default();
            assert_eq!(told("/HostConfig/Memory"), 48 << 20);
            assert_eq!(told("/HostConfig/PidsLimit"), 30);
            assert_eq!(told("/HostConfig/NanoCpus"), 500_000_000);
            assert_eq!(told("/Config/Labels/in"), "side");
            assert_eq!(told("/Config/StopSignal"), "SIGINT");
            assert_eq!(told("/State/Health/Status"), "healthy");
        }
    }
}

fn published(c: &Cluster) {
    let flags = "--publish 8080 --mode replicated --replicas 3 --network @net --secret @input";
    c.each(
        "n1",
        &format!(
            "{CREATE} {QUICKLY} {flags} --env HELLO_VERSION=one --name @page skep/hello:latest"
        ),
    );
    c.alike("n1", "/services/@page", "/Spec");
    for name in names("@page") {
        c.wait_running("n1", &name, 3, secs(30));
        pages_tell(c, &name, "one");
        // A secret has its own name in the container, unless told otherwise.
        let secret = name.replace("page", "input");
        let page = c
            .page("n1", port_of(c, &name), &format!("/secret/{secret}"))
            .unwrap();
        assert_eq!(field(&page, "length"), "12", "{page}");
    }
    // A port that is taken is refused, with either client.
    let port = port_of(c, "of-s-page");
    c.each_ends_with(
        1,
        "n1",
        &format!("{CREATE} --publish {port}:80 --name @taken skep/hello:latest"),
    );
    // In host mode only the task's node answers.
    for (client, name, port) in [
        (Cluster::docker as Client, "of-d-host", 9001),
        (Cluster::skep, "of-s-host", 9002),
    ] {
        let publish = format!(
            "--publish mode=host,published={port},target=8080 --constraint node.hostname==n3"
        );
        client(
            c,
            "n1",
            &format!("{CREATE} {publish} --name {name} skep/hello:latest"),
        )
        .ok();
        c.wait_running("n1", name, 1, secs(30));
        eventually("the node of the task answers", secs(5), || {
            c.page("n3", port, "/")
        });
        assert!(c.page("n2", port, "/").is_err());
        c.same("n1", &format!("service ps {name}"));
        c.same("n1", &format!("service inspect --pretty {name}"));
        c.remove_service("n1", name);
    }
}

fn port_of(c: &Cluster, service: &str) -> u16 {
    let found = c.get("n1", &format!("/services/{service}"));
    let port = found
        .pointer("/Endpoint/Ports/0/PublishedPort")
        .and_then(Value::as_u64);
    port.and_then(|port| port.try_into().ok())
        .unwrap_or_else(|| panic!("no port: {found}"))
}

/// Waits until every node's page of a service is of this version.
fn pages_tell(c: &Cluster, service: &str, version: &str) {
    let port = port_of(c, service);
    for node in NODES {
        eventually(&format!("{node} answers as {version}"), secs(10), || {
            let page = c.page(node, port, "/")?;
            holds(field(&page, "version") == version, page)
        });
    }
}

fn update(c: &Cluster) {
    let before =
        names("@page").map(|name| c.get("n1", &format!("/services/{name}"))["Spec"].clone());
    let flags = "--env-add HELLO_VERSION=two --env-add NEW=1 --label-add tier=back --container-label-add x=y \
        --secret-rm @input --config-add source=@input,target=/etc/added --replicas 2 --limit-memory 64m \
        --update-order start-first --constraint-add node.role==manager --constraint-add node.role!=x \
        --constraint-rm node.role==manager --host-add that:192.0.2.8 --network-rm @net --publish-add 8081";
    c.each(
        "n1",
        &format!("service update -d --no-resolve-image {flags} @page"),
    );
    c.alike("n1", "/services/@page", "/Spec");
    c.alike("n1", "/services/@page", "/PreviousSpec");
    for name in names("@page") {
        eventually("the update is done", secs(60), || {
            let found = c.try_api("n1", "GET", &format!("/services/{name}"), None)?;
            holds(
                found
                    .pointer("/UpdateStatus/State")
                    .is_some_and(|state| state == "completed"),
                found,
            )
        });
        c.wait_running("n1", &name, 2, secs(5));
        pages_tell(c, &name, "two");
    }
    c.same("n1", "service inspect --pretty of-s-page");
    c.same("n1", "service ps of-d-page");
    let pair = c.each_after("n1", "service rollback @page", verdict);
    assert!(pair.skep.out.contains("converged"), "{}", pair.skep);
    for (name, before) in names("@page").iter().zip(before) {
        let after = c.get("n1", &format!("/services/{name}"));
        assert_eq!(after["Spec"], before, "the spec is the one of before");
        c.wait_running("n1", name, 3, secs(30));
        pages_tell(c, name, "one");
    }
    c.same("n1", "service inspect --pretty of-d-page");
    // With --force tasks are new though nothing else is.
    let ids = |name: &str| {
        c.running("n1", name)
            .into_iter()
            .map(|task| task.id)
            .collect::<Vec<_>>()
    };
    let old = names("@page").map(|name| ids(&name));
    let pair = c.each_after(
        "n1",
        "service update --force --no-resolve-image @page",
        verdict,
    );
    assert!(pair.skep.out.contains("converged"), "{}", pair.skep);
    for (name, old) in names("@page").iter().zip(old) {
        assert!(
            ids(name).iter().all(|id| !old.contains(id)),
            "every task is new"
        );
    }
    c.each_ends_with(1, "n1", "service update -d --secret-add @nosuch @page");
    c.each_ends_with(1, "n1", "service update -d @nosuch");
    c.each_ends_with(1, "n1", "service rollback -d @nosuch");
}

fn logs(c: &Cluster) {
    let lines = "echo one; echo two >&2; echo three; sleep 1000";
    c.each("n1", &format!("{CREATE} --name @words --constraint node.hostname==n2 --stop-signal KILL busy:1 sh -c '{lines}'"));
    for name in names("@words") {
        c.wait_running("n1", &name, 1, secs(30));
        eventually("all that was said is told", secs(10), || {
            let ran = c.skep("n1", &format!("service logs {name}"));
            holds(
                ran.out.lines().count() == 2 && ran.err.lines().count() == 1,
                ran,
            )
        });
    }
    for line in [
        "service logs of-d-words",
        "service logs --raw of-s-words",
        "service logs -t --no-trunc of-s-words",
        "service logs --no-task-ids --no-resolve of-d-words",
        "service logs --tail 1 of-d-words",
        "service logs --details of-s-words",
        "service logs --since 1h of-s-words",
    ] {
        c.same("n1", line);
    }
    let ran = c.skep("n1", "service logs --raw of-d-words");
    assert_eq!(
        (ran.out.as_str(), ran.err.as_str()),
        ("one\nthree\n", "two\n")
    );
    let task = &c.running("n1", "of-s-words")[0];
    c.same("n1", &format!("service logs {}", task.id));
    c.each_ends_with(1, "n1", "service logs @nosuch");
    c.each("n1", "service rm @words");
}
