//! Deploys of stacks that wait for themselves: services start and are updated in the order of what they
//! depend on, a deploy is followed to its end, and one that fails goes back whole.

use std::fs;
use std::time::Instant;

use skep_e2e::load::Load;
use skep_e2e::wait::{holds, patient};
use skep_e2e::{Checks, Cluster, eventually, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const HEALTHY: &str = "http://127.0.0.1:8080/";
/// Nothing answers there.
const SICK: &str = "http://127.0.0.1:1/";

/// Five services in a chain, each on a port of its own; `checks` says what each one's health check asks.
fn five(version: &str, checks: [&str; 5]) -> String {
    let mut text = "services:\n".to_owned();
    for (at, (name, check)) in NAMES.iter().zip(checks).enumerate() {
        let waits = match at {
            0 => String::new(),
            _ => format!(
                "    depends_on: {{{}: {{condition: service_healthy}}}}\n",
                NAMES[at - 1]
            ),
        };
        text += &format!(
            "  {name}:\n    image: skep/hello:latest\n    environment: {{HELLO_VERSION: {version}}}\n\
             \x20   healthcheck: {{test: [CMD, /hello, check, '{check}'], interval: 300ms, retries: 2}}\n\
             \x20   ports: ['{port}:8080']\n{waits}\
             \x20   deploy:\n      replicas: 2\n      update_config: {{order: start-first, monitor: 1s}}\n\
             \x20     rollback_config: {{order: start-first, monitor: 1s, parallelism: 0}}\n",
            port = 8081 + at,
        );
    }
    text
}

const CHAIN: &str = "
services:
  db:
    image: skep/hello:latest
    healthcheck: {test: [CMD, /hello, check, 'http://127.0.0.1:8080/'], interval: 1s, start_period: 1s}
  migrate:
    image: skep/hello:latest
    command: check http://db:8080/
    depends_on: {db: {condition: service_healthy}}
  web:
    image: skep/hello:latest
    ports: ['8090:8080']
    depends_on: {migrate: {condition: service_completed_successfully}, db: {condition: service_started}}
";

#[test]
fn a_deploy_is_followed_and_goes_back_whole() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    for node in NODES {
        c.wait_ready("n1", node, secs(10));
    }
    let write = |text: &str| fs::write(c.root.join("app.yml"), text).unwrap();
    let deploy = |stack: &str, flags: &str| {
        let line = format!("stack deploy --resolve-image never -c app.yml {flags} {stack}");
        c.skep("n1", &line)
    };
    let mut checks = Checks::new();
    checks.check("services start in the order of what they depend on", || {
        write(CHAIN);
        let told = deploy("chain", "--wait --timeout 60s").ok();
        for line in [
            "chain_migrate: waiting 0/1: waits for service chain_db to run and be healthy: 0 of 1 tasks",
            "chain_migrate: done 1/1",
            "chain_web: waiting 0/1: waits for service chain_migrate to complete: 0 of 1 tasks",
            "chain_web: done 1/1",
        ] {
            assert!(told.contains(line), "{line}: {told}");
        }
        let at = |service: &str| {
            let tasks = c.get("n1", "/tasks");
            let tasks = tasks.as_array().unwrap().iter();
            let name = format!("chain_{service}");
            let services = c.get("n1", "/services");
            let id = services.as_array().unwrap().iter();
            let id = id.clone().find(|one| one["Spec"]["Name"] == name.as_str()).unwrap()["ID"].clone();
            let mut made = tasks.filter(|task| task["ServiceID"] == id);
            made.next().unwrap()["CreatedAt"].as_str().unwrap().to_owned()
        };
        assert!(at("db") < at("migrate") && at("migrate") < at("web"));
        assert!(c.page("n2", 8090, "/").is_ok());
        assert_eq!(deploy("chain", "--wait -q").ok(), "", "nothing is to be done");
    });
    checks.check("a whole stack is told of, read, and entered", || {
        let line = "stack inspect --format '{{.Name}} {{.Revision}} {{.Rollout.State}} {{len .ServiceList}}' chain";
        assert_eq!(c.skep("n1", line).ok(), "chain 1 deployed 3\n");
        c.skep("n1", "stack inspect nosuch").fails("nosuch");
        let env = c.skep("n1", "stack exec chain web /hello check http://db:8080/");
        assert_eq!(env.status, 0, "{env}");
        c.skep("n1", "stack exec chain nosuch /hello").fails("stack chain has no service nosuch");
        let logs = c.skep("n1", "stack logs chain").ok();
        assert!(logs.contains("chain_web.1.") && logs.contains("chain_db.1."), "{logs}");
        let one = c.skep("n1", "stack logs -n 1 chain db").ok();
        assert_eq!(one.lines().count(), 1, "{one}");
        c.skep("n1", "stack rm chain").ok();
    });
    checks.check("what a service waits for is told while it waits", || {
        write(
            &CHAIN
                .replace(
                    "interval: 1s, start_period: 1s",
                    "interval: 1s, start_period: 100s",
                )
                .replace("'http://127.0.0.1:8080/'", "'http://127.0.0.1:1/'"),
        );
        let slow = deploy("chain", "--wait --timeout 3s -q");
        assert_eq!(slow.status, 5, "{slow}");
        assert!(slow.err.contains("not deployed within 3 s"), "{slow}");
        let why = c.skep("n1", "why chain_web").ok();
        assert!(
            why.contains("waits for service chain_migrate to complete: 0 of 1 tasks"),
            "{why}"
        );
        let listed = c.skep("n1", "why --type stack chain").ok();
        assert!(listed.contains("last deploy: timed-out"), "{listed}");
        c.skep("n1", "stack rm chain").ok();
    });
    checks.check(
        "five services of which the third fails go back as one, and no request is lost",
        || {
            write(&five("v1", [HEALTHY; 5]));
            deploy("app", "--wait --timeout 100s -q").ok();
            let addresses: Vec<_> = NODES.iter().map(|node| c.address(node)).collect();
            let loads: Vec<Load> = (8081..8086)
                .map(|port| Load::start(&addresses, port))
                .collect();
            eventually("requests are answered", secs(10), || {
                holds(
                    loads.iter().all(|load| load.so_far().answered > 10),
                    "too few",
                )
            });
            write(&five("v2", [HEALTHY, HEALTHY, SICK, HEALTHY, HEALTHY]));
            let began = Instant::now();
            let told = deploy("app", "--wait --failure-action rollback");
            let took = began.elapsed();
            assert_eq!(told.status, 4, "{told}");
            assert!(
                told.err
                    .contains("stack app was rolled back: app_c: update paused due to failure"),
                "{told}"
            );
            assert!(took < patient(secs(45)), "{took:?}: {told}");
            println!("    deployed, failed and gone back in {took:?}");
            for (name, load) in NAMES.iter().zip(loads) {
                let versions = load.end_without_loss().versions;
                let tried = matches!(*name, "a" | "b");
                assert_eq!(versions.contains_key("v2"), tried, "{name}: {versions:?}");
            }
            for name in NAMES {
                let tasks = c.wait_running("n1", &format!("app_{name}"), 2, secs(10));
                assert!(
                    tasks
                        .iter()
                        .all(|task| task.env.contains(&"HELLO_VERSION=v1".into())),
                    "{tasks:?}"
                );
            }
            let history = c.skep("n1", "stack history --no-trunc app").ok();
            assert!(history.contains("rolled back to 1: app_c: "), "{history}");
            write(&five("v1", [HEALTHY; 5]));
            let plan = c.skep("n1", "stack plan --resolve-image never -c app.yml app");
            assert_eq!(plan.status, 0, "{plan}");
        },
    );
    checks.check(
        "a deploy that is not to go back says what failed, and stays",
        || {
            write(&five("v3", [SICK, HEALTHY, HEALTHY, HEALTHY, HEALTHY]));
            let told = deploy("app", "--wait -q");
            assert_eq!(told.status, 3, "{told}");
            assert!(
                told.err.contains("stack app failed: app_a: update paused"),
                "{told}"
            );
            let services = c
                .skep(
                    "n1",
                    "stack services --format '{{.Name}} {{.Replicas}}' app",
                )
                .ok();
            assert!(
                services.lines().all(|line| line.ends_with("2/2")),
                "{services}"
            );
            c.skep(
                "n1",
                "stack deploy --resolve-image never -c app.yml --failure-action undo app",
            )
            .fails("failure-action: `undo` is not pause or rollback");
        },
    );
    checks.end();
}
