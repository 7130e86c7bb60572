//! Rolling updates: none of a steady stream of requests is lost, a bad one stops or goes back.

use std::time::Duration;

use serde_json::Value;
use skep_e2e::load::Load;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const PORT: u16 = 8080;
const REPLICAS: usize = 6;
/// An update of all replicas, one after the other, takes at most so long.
const UPDATED: Duration = secs(90);

#[test]
fn updates_lose_no_request() {
    let Some(cluster) = Cluster::up(3, 3) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    let line = "service create -d --no-resolve-image --name web --replicas 6 --publish 8080:8080 \
                --env HELLO_VERSION=v1 --update-parallelism 2 --update-monitor 1s skep/hello:latest";
    c.skep("n1", line).ok();
    c.wait_running("n1", "web", REPLICAS, secs(30));
    for node in NODES {
        eventually(&format!("the port answers on {node}"), secs(5), || {
            c.page(node, PORT, "/")
        });
    }
    for (version, order) in (1..).zip(["stop-first", "start-first"]) {
        checks.check(
            &format!("a rolling update, {order}, under a steady stream of requests loses none"),
            || {
                let (old, new) = (format!("v{version}"), format!("v{}", version + 1));
                let load = steady(c);
                let line = format!(
                    "service update -d --no-resolve-image --update-order {order} \
                 --env-add HELLO_VERSION={new} web"
                );
                c.skep("n2", &line).ok();
                wait_update(c, "completed");
                let counted = serves_only(c, load, &new);
                assert!(
                    counted.contains(&old) && counted.contains(&new),
                    "both served: {counted:?}"
                );
                let tasks = c.wait_running("n1", "web", REPLICAS, secs(10));
                assert!(
                    tasks
                        .iter()
                        .all(|task| task.env.contains(&format!("HELLO_VERSION={new}"))),
                    "{tasks:?}"
                );
            },
        );
    }
    checks.check(
        "scaling down and up, and a drained node, lose no request",
        || {
            let load = steady(c);
            c.skep("n1", "service scale -d web=3").ok();
            c.wait_running("n1", "web", 3, secs(30));
            c.skep("n1", "service scale -d web=6").ok();
            c.wait_running("n1", "web", REPLICAS, secs(30));
            c.skep("n1", "node update --availability drain n3").ok();
            eventually(
                "n3 is empty and the others have taken over",
                secs(40),
                || {
                    let tasks = c.try_tasks("n1", "web")?;
                    let running = tasks.iter().filter(|task| task.is_running()).count();
                    let on_n3 = tasks
                        .iter()
                        .any(|task| task.node == "n3" && task.state == "running");
                    holds(
                        running == REPLICAS && !on_n3,
                        skep_e2e::tasks::shown(&tasks),
                    )
                },
            );
            c.skep("n1", "node update --availability active n3").ok();
            load.end_without_loss();
        },
    );
    checks.check("an update to an image that fails is paused: the rest goes on serving", || {
        let load = steady(c);
        let line = "service update -d --no-resolve-image --update-parallelism 1 --update-order stop-first \
                    --update-failure-action pause --env-add HELLO_FAIL=1 --restart-delay 1s web";
        c.skep("n1", line).ok();
        let message = wait_update(c, "paused");
        assert!(message.starts_with("update paused due to failure or early termination of task "), "{message}");
        let good = c.running("n1", "web").into_iter().filter(|task| !task.env.contains(&"HELLO_FAIL=1".into()));
        assert_eq!(good.count(), REPLICAS - 1, "only one slot was given up");
        load.end_without_loss();
    });
    checks.check("a rollback returns to the former spec", || {
        let spec = c.get("n1", "/services/web");
        assert!(spec["Spec"].to_string().contains("HELLO_FAIL"), "{spec}");
        let former = spec["PreviousSpec"].clone();
        assert!(!former.to_string().contains("HELLO_FAIL"), "{spec}");
        let load = steady(c);
        c.skep("n3", "service rollback -d web").ok();
        wait_update(c, "rollback_completed");
        let now = c.get("n1", "/services/web")["Spec"].clone();
        assert_eq!(without_force(now), without_force(former));
        let tasks = c.wait_running("n1", "web", REPLICAS, secs(20));
        assert!(
            tasks
                .iter()
                .all(|task| !task.env.contains(&"HELLO_FAIL=1".into())),
            "{tasks:?}"
        );
        load.end_without_loss();
    });
    checks.check("an update that fails goes back by itself when told to, without losing a request", || {
        let before = c.get("n1", "/services/web")["Spec"].clone();
        let load = steady(c);
        let line = "service update -d --no-resolve-image --update-parallelism 1 --update-order start-first \
                    --update-failure-action rollback --rollback-monitor 1s --image skep/nowhere:1 web";
        c.skep("n1", line).ok();
        let message = wait_update(c, "rollback_completed");
        assert_eq!(message, "rollback completed");
        let tasks = c.wait_running("n1", "web", REPLICAS, secs(20));
        assert!(tasks.iter().all(|task| task.image.starts_with("skep/hello:latest")), "{tasks:?}");
        let rejected = c.tasks("n1", "web").into_iter().find(|task| task.image == "skep/nowhere:1");
        let rejected = rejected.expect("the history tells of it");
        assert_eq!(rejected.state, "rejected", "{rejected:?}");
        assert!(rejected.error.contains("No such image: skep/nowhere:1"), "{rejected:?}");
        let now = c.get("n1", "/services/web")["Spec"].clone();
        assert_eq!(now["TaskTemplate"], before["TaskTemplate"]);
        load.end_without_loss();
    });
    checks.check("an update that never gets healthy is found out, and the old tasks serve on", || {
        let load = steady(c);
        let line = "service update -d --no-resolve-image --update-order start-first --update-failure-action pause \
                    --health-cmd '/hello check http://127.0.0.1:1/' --health-interval 500ms --health-retries 2 web";
        c.skep("n1", line).ok();
        wait_update(c, "paused");
        let counted = load.end_without_loss();
        assert!(counted.answered > 0);
        c.skep("n1", "service rollback -d web").ok();
        wait_update(c, "rollback_completed");
    });
    checks.end();
}

fn steady(c: &Cluster) -> Load {
    let addresses: Vec<_> = NODES.iter().map(|node| c.address(node)).collect();
    let load = Load::start(&addresses, PORT);
    eventually("requests are answered", secs(10), || {
        holds(load.so_far().answered > 10, "too few")
    });
    load
}

/// Waits until every answer is of one version, ends the stream, and returns the versions seen.
fn serves_only(c: &Cluster, load: Load, version: &str) -> Vec<String> {
    for node in NODES {
        let page = c.page(node, PORT, "/").unwrap();
        assert_eq!(skep_e2e::cluster::field(&page, "version"), version);
    }
    load.end_without_loss().versions.into_keys().collect()
}

/// Waits for a state of the service's update; its message.
fn wait_update(c: &Cluster, state: &str) -> String {
    eventually(&format!("the update is {state}"), UPDATED, || {
        let service = c.try_api("n1", "GET", "/services/web", None)?;
        let status = &service["UpdateStatus"];
        holds(status["State"] == state, status)?;
        Ok::<_, String>(status["Message"].as_str().unwrap_or_default().to_owned())
    })
}

/// A spec but for the count of forced updates, which only ever grows.
fn without_force(mut spec: Value) -> Value {
    if let Some(template) = spec["TaskTemplate"].as_object_mut() {
        template.remove("ForceUpdate");
    }
    spec
}
