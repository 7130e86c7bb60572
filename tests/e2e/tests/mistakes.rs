//! What a user does wrong is refused in the words Swarm's users know, and changes nothing.

#[path = "mistakes/joining.rs"]
mod joining;
#[path = "mistakes/kept.rs"]
mod kept;
#[path = "mistakes/nowhere.rs"]
mod nowhere;
#[path = "mistakes/objects.rs"]
mod objects;
#[path = "mistakes/requests.rs"]
mod requests;

use std::fs;

use serde_json::json;
use skep_e2e::needs;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, secs};

use joining::token;
use kept::{all_fail, all_fail_to_create, assert_message, assert_unchanged, kept};
use requests::ask;

/// The only manager.
const MANAGER: &str = "n1";
/// Stays a worker.
const WORKER: &str = "n2";
/// Leaves the cluster before the checks begin.
const STRANGER: &str = "n3";

const HELLO: &str = "skep/hello:latest";
/// An image that is nowhere: nobody listens at its registry.
const NOWHERE: &str = "127.0.0.1:1/none:latest";

/// A stack of which only one part cannot be.
const HALF: &str = "\
services:
  good: {image: skep/hello, networks: [own]}
  late:
    image: skep/hello
    networks: [own]
    ports: ['80:8080']
networks:
  own: {}
";

const NOT_A_MANAGER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";
const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
const ALREADY_PART: &str = "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.";
const LAST_MANAGER: &str = "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ";

#[test]
fn mistakes_are_refused_and_change_nothing() {
    if needs::docker().is_none() {
        return;
    }
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    prepare(c);
    let mut checks = Checks::new();
    let mut refused = |sentence: &str, check: fn(&Cluster)| {
        checks.check(sentence, || {
            let before = kept(c);
            check(c);
            assert_unchanged(&before, &kept(c));
        });
    };
    refused("a flag that is unknown is refused with the usage", |c| {
        all_fail(
            c,
            MANAGER,
            &[
                ("service create --bogus skep/hello", "unknown flag: --bogus"),
                ("service ls -Z", "unknown shorthand flag: 'Z' in -Z"),
                ("--bogus service ls", "unknown flag: --bogus"),
                ("swarm init --bogus", "unknown flag: --bogus"),
                (
                    "service create --replicas",
                    "flag needs an argument: --replicas",
                ),
            ],
        );
    });
    refused("a command that is unknown is refused", |c| {
        all_fail(
            c,
            MANAGER,
            &[
                ("bogus", "unknown command: "),
                ("service bogus", "service bogus"),
                ("swarm bogus", "swarm bogus"),
                ("node bogus n1", "node bogus"),
            ],
        );
    });
    refused(
        "an argument that is missing or too much is asked for",
        |c| {
            all_fail(
                c,
                MANAGER,
                &[
                    ("service create", "requires at least 1 argument"),
                    ("service rm", "requires at least 1 argument"),
                    ("service scale", "requires at least 1 argument"),
                    ("node rm", "requires at least 1 argument"),
                    ("node promote", "requires at least 1 argument"),
                    ("secret rm", "requires at least 1 argument"),
                    ("service rollback", "requires 1 argument"),
                    ("swarm join", "requires 1 argument"),
                    ("stack ps", "requires 1 argument"),
                    ("service update", "requires 1 argument"),
                    ("service logs a b", "requires 1 argument"),
                    ("network create", "requires 1 argument"),
                    ("config create", "requires 2 arguments"),
                    ("swarm leave now", "accepts no argument"),
                    (
                        "stack deploy some",
                        "Specify a Compose file (with --compose-file)",
                    ),
                ],
            );
        },
    );
    refused("what does not exist is said to be missing", |c| {
        all_fail(
            c,
            MANAGER,
            &[
                ("service inspect nosuch", "no such service: nosuch"),
                ("service rm nosuch", "service nosuch not found"),
                ("service ps nosuch", "no such service: nosuch"),
                (
                    "service update --replicas 2 nosuch",
                    "service nosuch not found",
                ),
                ("service scale nosuch=2", "service nosuch not found"),
                ("service rollback nosuch", "service nosuch not found"),
                ("service logs nosuch", "no such task or service: nosuch"),
                ("node inspect nosuch", "node nosuch not found"),
                ("node rm nosuch", "node nosuch not found"),
                (
                    "node update --availability drain nosuch",
                    "node nosuch not found",
                ),
                ("node promote nosuch", "node nosuch not found"),
                ("secret inspect nosuch", "secret nosuch not found"),
                ("secret rm nosuch", "secret nosuch not found"),
                ("config rm nosuch", "config nosuch not found"),
                ("network rm nosuch", "network nosuch not found"),
                ("stack ps nosuch", "nothing found in stack: nosuch"),
            ],
        );
    });
    refused("what does not exist on a node is said to be missing", |c| {
        all_fail(
            c,
            WORKER,
            &[
                ("exec nosuch ls", "No such container: nosuch"),
                ("logs nosuch", "No such container: nosuch"),
                ("rm nosuch", "No such container: nosuch"),
                ("start nosuch", "No such container: nosuch"),
                ("inspect nosuch", "No such object: nosuch"),
                ("image rm nosuch", "No such image: nosuch"),
                ("tag nosuch some", "No such image: nosuch"),
                ("volume rm nosuch", "nosuch: no such volume"),
            ],
        );
    });
    refused("a value that is none is refused with its flag", |c| {
        all_fail_to_create(
            c,
            &[
                (
                    "--replicas few",
                    "invalid argument \"few\" for \"--replicas\" flag",
                ),
                (
                    "--limit-memory much",
                    "invalid argument \"much\" for \"--limit-memory\" flag: invalid size: 'much'",
                ),
                (
                    "--limit-cpu all",
                    "invalid argument \"all\" for \"--limit-cpu\" flag",
                ),
                (
                    "--limit-memory 1m",
                    "invalid memory value 1048576: Must be at least 4MiB",
                ),
                (
                    "--reserve-memory 1k",
                    "invalid memory value 1024: Must be at least 4MiB",
                ),
                (
                    "--limit-cpu 0.0001",
                    "invalid cpu value 0.0001: Must be at least 0.001",
                ),
                (
                    "--update-delay soon",
                    "invalid argument \"soon\" for \"--update-delay\" flag",
                ),
                (
                    "--update-max-failure-ratio 2",
                    "update-maxfailureratio cannot be less than 0 or bigger than 1",
                ),
                ("--publish 80:99999", "99999"),
                (
                    "--publish 127.0.0.500:80:80",
                    "invalid IP address: 127.0.0.500",
                ),
                (
                    "--publish mode=both,target=80",
                    "invalid publish mode value (both): must be either 'ingress' or 'host'",
                ),
                ("--mount type=volume", "target is required"),
                ("--mode both", "both"),
                (
                    "--mode global --replicas 2",
                    "replicas can only be used with replicated or replicated-job mode",
                ),
                (
                    "--endpoint-mode dnsrr --publish 81:81",
                    "port published with ingress mode can't be used with dnsrr mode",
                ),
                ("--name -x-", "name must be valid as a DNS name component"),
                (
                    &format!("--name {}", "x".repeat(64)),
                    "name must be 63 characters or fewer",
                ),
                (
                    "--name web",
                    "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists",
                ),
            ],
        );
        all_fail(
            c,
            MANAGER,
            &[
                ("service scale web", "invalid scale specifier 'web'"),
                ("service scale web=many", "web: invalid replicas value many"),
                ("node update --availability gone n2", "gone"),
                ("node update --role king n2", "king"),
                ("service ls --filter colour=red", "invalid filter 'colour'"),
                (
                    "service update -d --limit-memory 1m web",
                    "invalid memory value 1048576: Must be at least 4MiB",
                ),
                (
                    "service update -d --publish-add x web",
                    "invalid containerPort: x",
                ),
            ],
        );
    });
    refused(
        "a name that can be no image is refused by client and daemon",
        |c| {
            all_fail(
                c,
                MANAGER,
                &[
                    (
                        "service create -d Big/Image",
                        "ContainerSpec: \"Big/Image\" is not a valid repository/tag",
                    ),
                    (
                        "service create -d BIG",
                        "ContainerSpec: \"BIG\" is not a valid repository/tag",
                    ),
                    (
                        "service create -d --no-resolve-image a::b",
                        "ContainerSpec: \"a::b\" is not a valid repository/tag",
                    ),
                    (
                        "service update -d --image a::b web",
                        "ContainerSpec: \"a::b\" is not a valid repository/tag",
                    ),
                ],
            );
            for image in ["BIG", "a::b", "a b", "x@sha256:12"] {
                let spec =
                    json!({"Name": "odd", "TaskTemplate": {"ContainerSpec": {"Image": image}}});
                let text = format!("ContainerSpec: {image:?} is not a valid repository/tag");
                assert_message(
                    &c.api(MANAGER, "POST", "/services/create", Some(&spec)),
                    400,
                    &text,
                );
            }
            let none = json!({"Name": "odd", "TaskTemplate": {"ContainerSpec": {}}});
            let answer = c.api(MANAGER, "POST", "/services/create", Some(&none));
            assert_message(
                &answer,
                400,
                "ContainerSpec: image reference must be provided",
            );
        },
    );
    refused(
        "a port that another service publishes names that service",
        |c| {
            let id = c.get(MANAGER, "/services/web")["ID"]
                .as_str()
                .unwrap()
                .to_owned();
            let text = format!(
                "Error response from daemon: rpc error: code = InvalidArgument desc = port '80' is already in use by service 'web' ({id}) as an ingress port"
            );
            for publish in ["80:8080", "mode=host,published=80,target=8080"] {
                let line = format!(
                    "service create -d --no-resolve-image --name late --publish {publish} {HELLO}"
                );
                c.both_fail(MANAGER, &line, &text);
            }
            c.both_fail(
                MANAGER,
                "service update -d --publish-add 80:80 everywhere",
                &text,
            );
            let twice = format!("service create -d --no-resolve-image -p 81:1 -p 81:2 {HELLO}");
            c.both_fail(MANAGER, &twice, "duplicate published ports provided");
            // The same number of another protocol is another port.
            let line = format!(
                "service create -d --no-resolve-image --name other --replicas 0 --publish 80:80/udp {HELLO}"
            );
            c.docker(MANAGER, &line).ok();
            c.remove_service(MANAGER, "other");
        },
    );
    refused(
        "what a service asks for and the cluster has not is named",
        |c| {
            all_fail_to_create(
                c,
                &[
                    ("--secret nosuch", "secret not found: nosuch"),
                    ("--config nosuch", "config not found: nosuch"),
                    ("--network nosuch", "network nosuch not found"),
                    ("--network ingress", "ingress"),
                    (
                        "--constraint node.role",
                        "constraint expected one operator from ==, !=",
                    ),
                    (
                        "--constraint node.role=manager",
                        "constraint expected one operator from ==, !=",
                    ),
                    ("--constraint 'no de==x'", "key 'no de' is invalid"),
                    ("--constraint node.role==a#b", "value 'a#b' is invalid"),
                    ("--secret word --secret source=word,target=word", "word"),
                ],
            );
        },
    );
    refused("a service is not made what it is not", |c| {
        all_fail(
            c,
            MANAGER,
            &[
                (
                    "service scale everywhere=2",
                    "scale can only be used with replicated or replicated-job mode",
                ),
                (
                    "service update -d --replicas 2 everywhere",
                    "replicas can only be used with replicated mode",
                ),
                ("service rollback web", "does not have a previous spec"),
            ],
        );
        let web = c.get(MANAGER, "/services/web");
        let path = format!("/services/web/update?version={}", web["Version"]["Index"]);
        for (field, value, text) in [
            ("Name", json!("net"), "renaming services is not supported"),
            (
                "Mode",
                json!({"Global": {}}),
                "service mode change is not allowed",
            ),
        ] {
            let mut spec = web["Spec"].clone();
            spec[field] = value;
            assert_message(&c.api(MANAGER, "POST", &path, Some(&spec)), 501, text);
        }
        let unknown = c.api(
            MANAGER,
            "POST",
            &format!("{path}&rollback=twice"),
            Some(&web["Spec"]),
        );
        assert_message(&unknown, 400, "unrecognized rollback option twice");
    });
    refused(
        "an update of a version that is past is out of sequence",
        |c| {
            for (path, kind) in [
                ("/services/web", "service"),
                ("/secrets/word", "secret"),
                ("/configs/text", "config"),
                ("/nodes/n2", "node"),
                ("/swarm", "swarm"),
            ] {
                let found = c.get(MANAGER, path);
                let past = found["Version"]["Index"].as_u64().unwrap() - 1;
                let spec = Some(&found["Spec"]);
                let answer = c.api(
                    MANAGER,
                    "POST",
                    &format!("{path}/update?version={past}"),
                    spec,
                );
                assert_eq!(answer.status, 500, "{}", answer.body);
                assert_eq!(
                    answer.message(),
                    "rpc error: code = Unknown desc = update out of sequence"
                );
                let answer = c.api(MANAGER, "POST", &format!("{path}/update"), spec);
                assert_message(&answer, 400, &format!("invalid {kind} version ''"));
                let answer = c.api(MANAGER, "POST", &format!("{path}/update?version=new"), spec);
                assert_message(&answer, 400, &format!("invalid {kind} version 'new'"));
            }
        },
    );
    refused(
        "a secret that cannot be is refused, and one in use stays",
        |c| objects::payloads(c, "secret", "word", 500),
    );
    refused(
        "a config that cannot be is refused, and one in use stays",
        |c| objects::payloads(c, "config", "text", 1000),
    );
    refused(
        "a network that cannot be is refused, and one in use stays",
        objects::networks,
    );
    refused(
        "a compose file that is wrong is refused with its place",
        objects::compose_files,
    );
    refused("a stack of which one part is refused leaves nothing", |c| {
        let ran = c.skep(
            MANAGER,
            "stack deploy -d --resolve-image never -c half.yml half",
        );
        ran.fails("port '80' is already in use by service 'web'");
    });
    refused("a port of the host that is taken is not given twice", |c| {
        let run = |name: &str| format!("run -d --name {name} -p 8099:8080 {HELLO}");
        c.docker(WORKER, &run("first")).ok();
        let text = "Bind for 0.0.0.0:8099 failed: port is already allocated";
        let docker = c.docker(WORKER, &run("second")).fails(text);
        let skep = c.skep(WORKER, &run("third")).fails(text);
        assert_eq!((docker.status, skep.status), (125, 125));
        let running = c.docker(WORKER, "ps --format {{.Names}}").ok();
        assert!(
            running.contains("first") && !running.contains("second") && !running.contains("third"),
            "{running}"
        );
        c.docker(WORKER, "rm -f first second third").ok();
        c.both_fail(
            WORKER,
            &format!("run --memory 1m {HELLO}"),
            "Minimum memory limit allowed is 6MB",
        );
        c.both_fail(WORKER, &format!("run --rm {NOWHERE}"), "127.0.0.1:1");
    });
    refused("a member neither makes nor joins a cluster", |c| {
        let token = token(c, "Worker");
        for node in [MANAGER, WORKER] {
            c.both_fail(node, "swarm init", ALREADY_PART);
            let line = format!("swarm join --token {token} {}:2377", c.address(MANAGER));
            c.both_fail(node, &line, ALREADY_PART);
        }
    });
    refused("the last manager stays unless it is forced", |c| {
        c.both_fail(MANAGER, "swarm leave", LAST_MANAGER.trim());
        let answer = c.api(MANAGER, "POST", "/swarm/leave", None);
        assert_eq!(
            (answer.status, answer.message().as_str()),
            (503, LAST_MANAGER)
        );
        let text = "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm";
        c.both_fail(MANAGER, "node demote n1", text);
        c.both_fail(MANAGER, "node update --role worker n1", text);
    });
    refused("settings that cannot be are refused", |c| {
        all_fail(
            c,
            MANAGER,
            &[
                (
                    "swarm update --cert-expiry 1m",
                    "minimum certificate expiry time is: 1h0m0s",
                ),
                (
                    "swarm update --dispatcher-heartbeat -5s",
                    "heartbeat time period cannot be a negative duration",
                ),
                ("swarm join-token boss", "unknown role boss"),
                ("swarm unlock", "swarm is not locked"),
                ("swarm unlock-key", "no unlock key is set"),
            ],
        );
    });
    refused("a node that lives is not removed", |c| {
        let id = |name: &str| {
            c.get(MANAGER, &format!("/nodes/{name}"))["ID"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let text = format!(
            "rpc error: code = FailedPrecondition desc = node {} is not down and can't be removed",
            id(WORKER)
        );
        c.both_fail(MANAGER, "node rm n2", &text);
        let text = format!(
            "node {} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal",
            id(MANAGER)
        );
        c.both_fail(MANAGER, "node rm n1", &text);
        c.both_fail(MANAGER, "node rm --force n1", &text);
        c.both_fail(
            MANAGER,
            "node update --label-rm nosuch n2",
            "key nosuch doesn't exist in node's labels",
        );
    });
    refused("a worker and a stranger do nothing of a manager's", |c| {
        for (node, text) in [(WORKER, NOT_A_MANAGER), (STRANGER, NO_SWARM)] {
            let create = format!("service create -d --no-resolve-image --name odd {HELLO}");
            let lines = [
                "node ls",
                "service ls",
                "secret ls",
                "swarm join-token worker",
                "service ps web",
                "node rm n2",
                &create,
            ];
            all_fail(c, node, &lines.map(|line| (line, text)));
            for path in ["/services", "/tasks", "/nodes", "/configs", "/swarm"] {
                let answer = c.api(node, "GET", path, None);
                assert_eq!(
                    (answer.status, answer.message().as_str()),
                    (503, text),
                    "{path}"
                );
            }
            let deploy = "stack deploy -d -c half.yml half";
            c.both_fail(
                node,
                deploy,
                NO_SWARM.replace("This", "this").trim_end_matches('.'),
            );
        }
        c.both_fail(STRANGER, "swarm leave", "This node is not part of a swarm");
    });
    refused(
        "a token that is wrong lets nobody in",
        joining::wrong_tokens,
    );
    refused(
        "a join to nobody ends soon and says where it tried",
        joining::join_nobody,
    );
    refused(
        "JSON that is wrong is refused with the name of the field",
        requests::wrong_json,
    );
    refused("paths and versions that are unknown are refused", |c| {
        let asked = |line: &str| ask(c, MANAGER, &format!("{line} HTTP/1.1"), "", b"");
        for line in [
            "GET /v1.50/nosuch",
            "GET /nosuch",
            "POST /v1.50/info",
            "DELETE /v1.50/services",
            "GET /",
            "GET /v1.50/services/a/b/c",
        ] {
            let answer = asked(line);
            assert_eq!(
                (answer.status, answer.message().as_str()),
                (404, "page not found"),
                "{line}"
            );
        }
        for (version, text) in [
            (
                "1.99",
                "client version 1.99 is too new. Maximum supported API version is 1.50",
            ),
            (
                "1.10",
                "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
            ),
        ] {
            let answer = asked(&format!("GET /v{version}/services"));
            assert_eq!((answer.status, answer.message().as_str()), (400, text));
        }
        assert_eq!(asked("GET /v1.24/services").status, 200);
    });
    refused("bodies and heads have an upper bound", requests::too_large);
    checks.check(
        "an image that is nowhere is told, and tried again at a steady pace",
        || {
            let before = kept(c);
            nowhere::image_nowhere(c);
            assert_unchanged(&before, &kept(c));
        },
    );
    checks.end();
}

/// Something of each kind to be in the way, and a node that is in no cluster.
fn prepare(c: &Cluster) {
    fs::write(c.root.join("half.yml"), HALF).expect("the cluster's directory can be written to");
    c.docker(STRANGER, "swarm leave").ok();
    c.docker_given(MANAGER, "secret create word -", b"word")
        .ok();
    c.docker_given(MANAGER, "config create text -", b"text")
        .ok();
    c.docker(
        MANAGER,
        "network create -d overlay --subnet 10.77.0.0/24 net",
    )
    .ok();
    let web = "service create -d --no-resolve-image --name web --publish 80:8080 --secret word --config text --network net";
    c.docker(MANAGER, &format!("{web} {HELLO}")).ok();
    c.docker(
        MANAGER,
        &format!("service create -d --no-resolve-image --name everywhere --mode global {HELLO}"),
    )
    .ok();
    c.wait_running(MANAGER, "web", 1, secs(30));
    c.wait_running(MANAGER, "everywhere", 2, secs(30));
    eventually("the stranger is down", secs(20), || {
        let state = c.node_state(MANAGER, STRANGER)?;
        holds(state == "down", state)
    });
}
