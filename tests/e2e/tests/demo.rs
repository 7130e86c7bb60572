//! What a newcomer sees first: three nodes, the demo, its page on every node.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use skep_e2e::cluster::field;
use skep_e2e::http::encoded;
use skep_e2e::needs;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const PORT: u16 = 8080;

#[test]
fn three_nodes_run_the_demo_and_serve_it() {
    let Some(cluster) = Cluster::demo(3) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    checks.check("the demo is up in under 30 s", || {
        assert!(c.took < secs(30), "it took {:?}\n{}", c.took, c.story);
        assert!(c.story.contains("Converged after"), "{}", c.story);
        c.wait_running("n1", "hello_web", 3, secs(1));
        c.wait_running("n3", "hello_api", 2, secs(1));
    });
    checks.check("all three nodes are managers of one cluster", || {
        let ids: BTreeSet<String> = NODES
            .iter()
            .map(|node| {
                c.get(node, "/swarm")["ID"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect();
        assert_eq!(ids.len(), 1, "{ids:?}");
        for node in NODES {
            c.wait_ready("n2", node, secs(5));
            assert_eq!(c.get(node, "/info")["Swarm"]["Managers"], 3);
        }
        assert_eq!(c.leader("n1"), c.leader("n3"));
    });
    checks.check("every node answers for all replicas in turn", || {
        every_node_answers_in_turn(c)
    });
    checks.check(
        "the page tells the caller's own address, whoever asks and wherever",
        || {
            for node in NODES {
                let seen = client_of(&c.page(node, PORT, "/").unwrap());
                assert_eq!(seen, IpAddr::V4(c.gateway()), "asked at {node}");
            }
            if needs::busybox().is_none() {
                return;
            }
            // A node that asks another one is seen with its own address, or with the other's in the
            // network of published ports: the reply must not take a short cut to a task of the caller.
            for (from, at) in [("n1", "n2"), ("n2", "n3"), ("n3", "n1"), ("n1", "n1")] {
                for _ in 0..3 {
                    let page = c.page_from(from, c.address(at), PORT, "/").ok();
                    let seen = client_of(&page);
                    let inside = seen.to_string().starts_with("10.255.");
                    assert!(
                        inside || seen == IpAddr::V4(c.address(from)),
                        "{from} asked {at}: {page}"
                    );
                }
            }
        },
    );
    checks.check(
        "a replica resolves and reaches a service on other nodes by name",
        || names_work(c),
    );
    checks.check("a service is the same from any manager", || {
        let seen: BTreeSet<String> = NODES
            .iter()
            .map(|node| c.get(node, "/services/hello_web").to_string())
            .collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
    });
    checks.check(
        "a secret is a file in the container, in the mode asked for, and on no disk",
        || {
            secrets_are_in_memory_only(c);
        },
    );
    checks.check("a config is a file in the container", || {
        let task = &c.running("n1", "hello_web")[0];
        let ran = c.skep(
            &task.node,
            &format!(
                "exec {} /hello check http://127.0.0.1:8080/",
                task.container
            ),
        );
        assert_eq!(ran.clone().status, 0, "{ran}");
        let copied = c
            .skep(
                &task.node,
                &format!("cp {}:/etc/hello/config.txt -", task.container),
            )
            .ok();
        assert!(
            copied.contains("greeting=Hello from a config"),
            "{copied:?}"
        );
    });
    checks.check("a scaled service spreads over all nodes", || {
        c.skep("n2", "service scale -d hello_web=6").ok();
        let tasks = c.wait_running("n2", "hello_web", 6, secs(30));
        for node in NODES {
            assert_eq!(
                tasks.iter().filter(|task| task.node == node).count(),
                2,
                "{tasks:?}"
            );
        }
        every_node_answers_in_turn(c);
    });
    checks.check(
        "a removed stack stops answering and leaves no container",
        || {
            c.skep("n1", "stack rm hello").ok();
            for node in NODES {
                eventually(
                    &format!("{node} has no container of the stack"),
                    secs(30),
                    || {
                        let left = c.try_api(node, "GET", "/containers/json?all=1", None)?;
                        holds(!left.to_string().contains("hello_"), left)
                    },
                );
                assert!(c.page(node, PORT, "/").is_err());
            }
            let left = c.get("n1", "/networks").to_string();
            assert!(!left.contains("hello_backend"), "{left}");
        },
    );
    checks.end();
}

fn client_of(page: &str) -> IpAddr {
    let client = field(page, "client");
    let address: std::net::SocketAddr = client.parse().unwrap_or_else(|_| panic!("{page}"));
    address.ip()
}

fn every_node_answers_in_turn(c: &Cluster) {
    let tasks = c.running("n1", "hello_web");
    for node in NODES {
        // Round robin: as many requests as tasks meet them all. Others' requests may come between.
        eventually(
            &format!("{node} passes requests to all {} replicas", tasks.len()),
            secs(10),
            || {
                let mut seen = BTreeSet::new();
                for _ in &tasks {
                    seen.insert(field(&c.page(node, PORT, "/")?, "task"));
                }
                holds(seen.len() == tasks.len(), format!("{seen:?}"))
            },
        );
    }
}

fn names_work(c: &Cluster) {
    let apis = c.running("n1", "hello_api");
    let nodes_of_api: BTreeSet<&str> = apis.iter().map(|task| task.node.as_str()).collect();
    let fetch = format!("/fetch?url={}", encoded("http://api:8080/"));
    let (mut crossed, mut answered) = (0, BTreeSet::new());
    // Enough for every replica of `web` to have reached every replica of `api`.
    for _ in 0..24 {
        let page = c.page("n1", PORT, &fetch).unwrap();
        let (head, body) = page.split_once("\n\n").unwrap_or_else(|| panic!("{page}"));
        assert_eq!(field(head, "status"), "200", "{page}");
        let from = field(body, "client");
        // The caller is a replica of `web`: its own address in the network, not a node's.
        assert!(
            !from.starts_with(&format!("{}.{}.{}.", c.subnet[0], c.subnet[1], c.subnet[2])),
            "{page}"
        );
        answered.insert(field(body, "task"));
        crossed += usize::from(nodes_of_api.contains(field(body, "node").as_str()));
    }
    assert_eq!(
        answered.len(),
        apis.len(),
        "every replica of api answers: {answered:?}"
    );
    assert_eq!(crossed, 24);
    // With three replicas of one and two of the other on three nodes, one caller is on a node without
    // the callee: it was reached over the overlay.
    assert!(nodes_of_api.len() < 3);
    let addresses = |name: &str| {
        let path = format!("/resolve?name={name}");
        let page = c.page("n1", PORT, &path).unwrap();
        page.lines()
            .map(|line| line.parse::<IpAddr>().unwrap())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(addresses("api").len(), 1, "one virtual address");
    assert_eq!(addresses("api"), addresses("hello_api"));
    assert_eq!(addresses("tasks.api").len(), 2, "one address per replica");
    assert!(addresses("api").is_disjoint(&addresses("tasks.api")));
    let none = c.page("n1", PORT, "/resolve?name=nosuchname").unwrap_err();
    assert!(none.contains("502"), "{none}");
}

fn secrets_are_in_memory_only(c: &Cluster) {
    // Not a word that could be on the disk for another reason.
    let seed = format!("{}-{:?}", std::process::id(), std::time::SystemTime::now());
    let payload = format!("canary-{}", hex::encode(Sha256::digest(seed.as_bytes())));
    let data = STANDARD.encode(&payload);
    let made = c.api(
        "n2",
        "POST",
        "/secrets/create",
        Some(&json!({"Name": "canary", "Data": data})),
    );
    assert_eq!(made.status, 201, "{}", made.body);
    let created = "service create -d --no-resolve-image --name keeper --replicas 3 --publish 8090:8080 \
                   --secret source=canary,target=canary,mode=0440 \
                   --secret source=canary,target=plain skep/hello:latest";
    c.skep("n1", created).ok();
    c.wait_running("n1", "keeper", 3, secs(30));
    let digest = hex::encode(Sha256::digest(payload.as_bytes()));
    for (name, mode) in [("canary", "0440"), ("plain", "0444")] {
        for node in NODES {
            // A port that is new is open on every node a moment after the tasks run.
            let path = format!("/secret/{name}?sha256=1");
            let page = eventually("the port answers", secs(5), || c.page(node, 8090, &path));
            assert_eq!(field(&page, "mode"), mode, "{page}");
            assert_eq!(field(&page, "length"), payload.len().to_string(), "{page}");
            assert_eq!(field(&page, "sha256"), digest, "{page}");
        }
    }
    // Nor is it told by the API.
    let shown = c.get("n1", "/secrets/canary").to_string();
    assert!(
        !shown.contains(&payload) && !shown.contains(&data),
        "{shown}"
    );
    assert_on_no_disk(c, &payload);
    c.remove_service("n1", "keeper");
    assert_eq!(c.api("n1", "DELETE", "/secrets/canary", None).status, 204);
    assert_on_no_disk(c, &payload);
}

fn assert_on_no_disk(c: &Cluster, payload: &str) {
    // In base64 a text begins at one of three offsets; its middle is then the same everywhere.
    let mut needles = vec![
        payload.as_bytes().to_vec(),
        hex::encode(payload).into_bytes(),
    ];
    for shift in 0..3 {
        let shifted = format!("{}{payload}", "x".repeat(shift));
        let text = STANDARD.encode(shifted);
        needles.push(text.as_bytes()[8..text.len() - 8].to_vec());
    }
    let files = c.files();
    assert!(files.len() > 20, "too few files looked at: {files:?}");
    let mut looked_at = 0;
    for path in files {
        // A file may go while we look.
        let Ok(bytes) = fs::read(&path) else { continue };
        looked_at += bytes.len();
        for needle in &needles {
            let found = contains(&bytes, needle);
            assert!(!found, "the secret is in {}", path.display());
        }
    }
    assert!(looked_at > 1 << 20, "only {looked_at} bytes were looked at");
}

/// Whether the needle is in the hay; quick enough for unoptimised builds.
fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else {
        return true;
    };
    let mut hay = hay;
    while let Some(at) = hay.iter().position(|byte| byte == first) {
        hay = &hay[at + 1..];
        if hay.starts_with(rest) {
            return true;
        }
    }
    false
}

#[test]
fn a_secret_would_be_found() {
    assert!(contains(b"..canary-1", b"canary-1") && !contains(b"..canary-", b"canary-1"));
}
