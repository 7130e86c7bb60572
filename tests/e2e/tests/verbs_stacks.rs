//! Verbs of stacks, with docker's client and with ours.

use std::fs;

use skep_e2e::cluster::field;
use skep_e2e::pair::names;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, needs, secs};

const FILE: &str = r#"
services:
  page:
    image: skep/hello:latest
    environment:
      HELLO_VERSION: ${VERSION:-one}
    ports: ["8080"]
    networks: [inside]
    secrets: [word]
    configs:
      - source: text
        target: /etc/text
    deploy:
      replicas: 2
      labels: {tier: front}
      resources:
        limits: {memory: 64M}
      update_config: {order: start-first, parallelism: 2}
  back:
    image: skep/hello:latest
    networks: [inside]
    volumes: ["kept:/kept"]
    deploy:
      mode: global
      placement:
        constraints: ["node.role == worker"]
networks:
  inside: {driver: overlay}
volumes:
  kept: {}
secrets:
  word: {file: ./word.txt}
configs:
  text: {file: ./text.txt}
"#;

#[test]
fn stacks_are_dockers_with_either_client() {
    let Some(_) = needs::docker() else { return };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    for node in ["n1", "n2", "n3"] {
        c.wait_ready("n1", node, secs(10));
    }
    for (name, text) in [
        ("app.yml", FILE),
        ("word.txt", "a word\n"),
        ("text.txt", "a text\n"),
    ] {
        fs::write(c.root.join(name), text).unwrap();
    }
    fs::write(
        c.root.join("more.yml"),
        "services:\n  page:\n    deploy:\n      replicas: 3\n",
    )
    .unwrap();
    let two = FILE.replace("${VERSION:-one}", "two");
    let mut checks = Checks::new();
    checks.check("config prints the file as it is understood", || {
        c.same("n1", "stack config -c app.yml");
        c.same("n1", "stack config -c app.yml -c more.yml");
        let pair = c.each_given("n1", "stack config -c -", FILE.as_bytes());
        assert!(
            pair.skep.out.contains("HELLO_VERSION: one"),
            "{}",
            pair.skep
        );
        c.each_ends("n1", "stack config -c nosuch.yml", b"", 1);
    });
    checks.check(
        "deploy makes everything that the file names, the same with either client",
        || {
            c.each_after(
                "n1",
                "stack deploy --detach=true --resolve-image never -c app.yml @app",
                sorted,
            );
            for path in [
                "/services/@app_page",
                "/services/@app_back",
                "/secrets/@app_word",
                "/configs/@app_text",
            ] {
                c.alike("n1", path, "/Spec");
            }
            for part in ["/Driver", "/Labels", "/Attachable", "/Internal", "/Scope"] {
                c.alike("n1", "/networks/@app_inside", part);
            }
            for app in names("@app") {
                c.wait_running("n1", &format!("{app}_page"), 2, secs(30));
                c.wait_running("n1", &format!("{app}_back"), 2, secs(30));
                page_tells(c, &app, "one");
            }
        },
    );
    checks.check("lists tell of stacks the same", || {
        for line in [
            "stack ls",
            "stack ls --format '{{.Name}} {{.Services}}'",
            "stack ps of-d-app",
            "stack ps -q of-s-app",
            "stack ps --no-trunc --filter desired-state=running of-s-app",
            "stack services of-d-app",
            "stack services of-s-app --filter name=of-s-app_page --format '{{.Name}} {{.Mode}} {{.Replicas}} {{.Ports}}'",
            "stack services -q of-s-app",
        ] {
            c.same("n1", line);
        }
        c.both_fail("n1", "stack ps nosuch", "nothing found in stack: nosuch");
        c.both_fail("n2", "stack ls", "This node is not a swarm manager");
    });
    checks.check("a deploy of the same file restarts nothing", || {
        let ids = || {
            names("@app").map(|app| {
                c.running("n1", &format!("{app}_page"))
                    .into_iter()
                    .map(|task| task.id)
                    .collect::<Vec<_>>()
            })
        };
        let before = ids();
        c.each_after(
            "n1",
            "stack deploy --detach=true --resolve-image never -c app.yml @app",
            sorted,
        );
        c.alike("n1", "/services/@app_page", "/Spec");
        assert_eq!(ids(), before);
    });
    checks.check(
        "a deploy from the input changes what differs and removes what is gone with --prune",
        || {
            let end = two.find("  back:").unwrap();
            let rest = two.find("networks:\n  inside").unwrap();
            let less = format!("{}{}", &two[..end], &two[rest..]);
            let line = "stack deploy --detach=true --prune --resolve-image never -c - @app";
            c.each_given("n1", line, less.as_bytes());
            c.alike("n1", "/services/@app_page", "/Spec");
            for app in names("@app") {
                page_tells(c, &app, "two");
                assert_eq!(
                    c.api("n1", "GET", &format!("/services/{app}_back"), None)
                        .status,
                    404
                );
            }
        },
    );
    checks.check("rm removes the stack whole", || {
        c.each_after("n1", "stack rm @app", sorted);
        for kind in ["services", "secrets", "configs", "networks", "tasks"] {
            eventually(&format!("no {kind} are left"), secs(40), || {
                let left = c.try_api("n1", "GET", &format!("/{kind}"), None)?;
                let text = left.to_string();
                holds(
                    !text.contains("of-d-app") && !text.contains("of-s-app"),
                    text,
                )
            });
        }
        assert_eq!(c.same("n1", "stack ls --format '{{.Name}}'"), "");
        c.each_ends("n1", "stack rm @app", b"", 0);
    });
    checks.end();
}

/// Docker's client makes one object after the other, in an order of no meaning.
fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort();
    lines.join("\n")
}

/// Waits until the page of the stack is of this version.
fn page_tells(c: &Cluster, app: &str, version: &str) {
    let service = c.get("n1", &format!("/services/{app}_page"));
    let port = service
        .pointer("/Endpoint/Ports/0/PublishedPort")
        .and_then(|port| port.as_u64());
    let port: u16 = port
        .and_then(|port| port.try_into().ok())
        .unwrap_or_else(|| panic!("{service}"));
    for node in ["n1", "n2", "n3"] {
        eventually(&format!("{node} answers as {version}"), secs(30), || {
            let page = c.page(node, port, "/")?;
            holds(field(&page, "version") == version, page)
        });
        let word = c.page(node, port, "/secret/word").unwrap();
        assert_eq!(field(&word, "length"), "7", "{word}");
    }
}
