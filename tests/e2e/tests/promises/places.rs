//! Which node runs what, and what becomes of that when nodes change.

use std::fs;

use skep_e2e::tasks::shown;
use skep_e2e::wait::holds;
use skep_e2e::{Cluster, eventually, secs};

use super::{CREATE, NODES, QUICKLY, ids, wait_looked_at};

pub fn pending(c: &Cluster) {
    let ask = |flags: &str, why: &str| {
        c.skep(
            "n1",
            &format!("{CREATE} --name p {flags} busy:1 sleep 1000"),
        )
        .ok();
        eventually(&format!("it waits: {why}"), secs(10), || {
            let tasks = c.try_tasks("n1", "p")?;
            let waits = tasks
                .iter()
                .any(|task| task.state == "pending" && task.error.contains(why));
            holds(waits, shown(&tasks))
        });
        c.remove_service("n1", "p");
    };
    ask(
        "--reserve-memory 9000g",
        "no suitable node (insufficient resources on 3 nodes)",
    );
    ask(
        "--constraint node.labels.nosuch==x",
        "no suitable node (scheduling constraints not satisfied on 3 nodes)",
    );
    ask(
        "--generic-resource gpu=1",
        "no suitable node (insufficient resources on 3 nodes)",
    );
    ask(
        "--replicas 3 --replicas-max-per-node 1 --constraint node.role==worker",
        "max replicas per node limit exceed",
    );
    ask(
        "--replicas 4 --publish mode=host,published=9100,target=80",
        "no suitable node (host-mode port already in use on 3 nodes)",
    );
    // It runs once its node has what it asks for.
    c.skep(
        "n1",
        &format!("{CREATE} --name p --constraint node.labels.now==yes busy:1 sleep 1000"),
    )
    .ok();
    c.skep("n1", "node update --label-add now=yes n2").ok();
    assert_eq!(c.wait_running("n1", "p", 1, secs(20))[0].node, "n2");
    c.skep("n1", "node update --label-rm now n2").ok();
    c.remove_service("n1", "p");
}

pub fn spread(c: &Cluster) {
    for (node, zone) in [("n1", "a"), ("n2", "b"), ("n3", "b")] {
        c.skep("n1", &format!("node update --label-add zone={zone} {node}"))
            .ok();
    }
    let flags = "--replicas 4 --placement-pref spread=node.labels.zone";
    c.skep(
        "n1",
        &format!("{CREATE} --name q {flags} busy:1 sleep 1000"),
    )
    .ok();
    let tasks = c.wait_running("n1", "q", 4, secs(30));
    let in_a = tasks.iter().filter(|task| task.node == "n1").count();
    assert_eq!(in_a, 2, "zones are evened, not nodes: {}", shown(&tasks));
    for node in NODES {
        c.skep("n1", &format!("node update --label-rm zone {node}"))
            .ok();
    }
    wait_looked_at(c);
    let after = c.try_tasks("n1", "q").expect("they are listed");
    assert_eq!(ids(&after), ids(&tasks), "a preference takes nobody away");
    c.remove_service("n1", "q");
}

pub fn labels(c: &Cluster) {
    for node in ["n2", "n3"] {
        c.skep("n1", &format!("node update --label-add disk=fast {node}"))
            .ok();
    }
    let spread = "--constraint node.labels.disk==fast --placement-pref spread=node.labels.rack";
    c.skep(
        "n1",
        &format!("{CREATE} --name l --replicas 2 --restart-delay 100ms {spread} busy:1 sleep 1000"),
    )
    .ok();
    let before = c.wait_running("n1", "l", 2, secs(30));
    let node = before[0].node.clone();
    c.skep("n1", &format!("node update --label-rm disk {node}"))
        .ok();
    eventually("its tasks have left", secs(30), || {
        let tasks = c.try_tasks("n1", "l")?;
        let away = tasks
            .iter()
            .filter(|task| task.is_running())
            .all(|task| task.node != node);
        let told = tasks.iter().any(|task| {
            task.state == "rejected" && task.error == "assigned node no longer meets constraints"
        });
        let running = tasks.iter().filter(|task| task.is_running()).count();
        holds(away && told && running == 2, shown(&tasks))
    });
    for node in NODES {
        let removal = c.skep("n1", &format!("node update --label-rm disk {node}"));
        assert!(
            removal.status == 0 || removal.err.contains("doesn't exist"),
            "{removal}"
        );
    }
    c.remove_service("n1", "l");
}

pub fn global(c: &Cluster) {
    c.skep(
        "n1",
        &format!("{CREATE} --name g --mode global busy:1 sleep 1000"),
    )
    .ok();
    let before = c.wait_running("n1", "g", 3, secs(30));
    c.skep("n1", "node update --availability pause n2").ok();
    c.skep("n1", "node update --availability drain n3").ok();
    let left = c.wait_running("n1", "g", 2, secs(30));
    assert!(
        ids(&left).is_subset(&ids(&before)),
        "a paused node keeps what it has"
    );
    c.skep(
        "n1",
        &format!("{CREATE} --name later --mode global busy:1 sleep 1000"),
    )
    .ok();
    let only = c.wait_running("n1", "later", 1, secs(30));
    assert_eq!(
        only[0].node, "n1",
        "paused and drained nodes get nothing new"
    );
    for node in ["n2", "n3"] {
        c.skep("n1", &format!("node update --availability active {node}"))
            .ok();
    }
    c.wait_running("n1", "g", 3, secs(30));
    c.wait_running("n1", "later", 3, secs(30));
    c.remove_service("n1", "g");
    c.remove_service("n1", "later");
}

pub fn generic(c: &Cluster) {
    let file = c.root.join("n2/daemon.json");
    fs::write(
        &file,
        r#"{"node-generic-resources": ["GPU=a,GPU=b", "SSD=3"]}"#,
    )
    .unwrap();
    c.kill("n2");
    c.start("n2");
    c.wait_ready("n1", "n2", secs(20));
    let flags = "--generic-resource GPU=2 --generic-resource SSD=2";
    c.skep(
        "n1",
        &format!("{CREATE} --name r {flags} busy:1 sleep 1000"),
    )
    .ok();
    let task = c.wait_running("n1", "r", 1, secs(30)).remove(0);
    assert_eq!(task.node, "n2");
    let env = c.skep("n2", &format!("exec {} env", task.container)).ok();
    assert!(
        env.contains("DOCKER_RESOURCE_GPU=a,b\n") && env.contains("DOCKER_RESOURCE_SSD=2\n"),
        "{env}"
    );
    c.skep("n1", "service scale -d r=2").ok();
    eventually("the second one waits", secs(10), || {
        let tasks = c.try_tasks("n1", "r")?;
        let waits = tasks
            .iter()
            .any(|task| task.error.contains("insufficient resources"));
        holds(waits, shown(&tasks))
    });
    c.remove_service("n1", "r");
    fs::remove_file(&file).unwrap();
    c.kill("n2");
    c.start("n2");
    c.wait_ready("n1", "n2", secs(20));
}

pub fn drain(c: &Cluster) {
    c.skep("n1", "node update --wait n2")
        .fails("--wait can only be used with --availability drain");
    c.skep("n1", "node update --availability drain --timeout 1s n2")
        .fails("--timeout can only be used with --wait");
    c.skep(
        "n1",
        &format!("{CREATE} --name d --replicas 3 busy:1 sleep 1000"),
    )
    .ok();
    c.skep(
        "n1",
        &format!("{CREATE} --name stays --constraint node.hostname==n3 busy:1 sleep 1000"),
    )
    .ok();
    c.wait_running("n1", "d", 3, secs(30));
    c.wait_running("n1", "stays", 1, secs(30));
    c.skep("n2", "run -d --name plain busy:1 sleep 1000").ok();
    let ran = c
        .skep(
            "n1",
            "node update --availability drain --wait --timeout 40s n2",
        )
        .ok();
    assert!(ran.ends_with("Node n2 is drained.\n"), "{ran}");
    let tasks = c.running("n1", "d");
    assert!(
        tasks.len() == 3 && tasks.iter().all(|task| task.node != "n2"),
        "{}",
        shown(&tasks)
    );
    let plain = c.skep("n2", "inspect --format {{.State.Running}} plain");
    assert_eq!(plain.ok(), "true\n", "what is no task stays");
    c.skep("n2", "rm -f plain").ok();
    // How far it has come after so short a time depends on the machine.
    eventually("it says what a drain waits for", secs(30), || {
        let ran = c.skep(
            "n1",
            "node update --availability drain --wait --timeout 3s n3",
        );
        let said = ["node n3 is not drained yet: ", "stays.1 (no suitable node"];
        let told = said.iter().all(|text| ran.err.contains(text));
        holds(ran.status != 0 && told, &ran)
    });
    for node in ["n2", "n3"] {
        c.skep("n1", &format!("node update --availability active {node}"))
            .ok();
    }
    c.remove_service("n1", "d");
    c.remove_service("n1", "stays");
}

pub fn removed(c: &Cluster) {
    c.skep(
        "n1",
        &format!("{CREATE} --name z --mode global busy:1 sleep 1000"),
    )
    .ok();
    let tasks = c.wait_running("n1", "z", 3, secs(30));
    let there = tasks
        .iter()
        .find(|task| task.node == "n3")
        .expect("it is everywhere");
    c.skep("n1", "node rm n3")
        .fails("is not down and can't be removed");
    c.skep("n1", "node rm --force n3").ok();
    eventually("its containers have ended", secs(30), || {
        let left = c.try_api("n3", "GET", "/containers/json?all=1", None)?;
        let none = left.as_array().is_some_and(Vec::is_empty);
        holds(
            none && c.container_pid("n3", &there.container).is_none(),
            left,
        )
    });
    eventually("it is in no cluster", secs(20), || {
        let info = c.try_api("n3", "GET", "/info", None)?;
        holds(
            info["Swarm"]["LocalNodeState"] == "inactive",
            &info["Swarm"],
        )
    });
    c.wait_running("n1", "z", 2, secs(20));
    let nodes = c.skep("n1", "node ls --format {{.Hostname}}").ok();
    assert!(!nodes.contains("n3"), "{nodes}");
    c.remove_service("n1", "z");
}

pub fn rebalance(c: &Cluster) {
    c.skep("n1", "node update --availability drain n3").ok();
    c.skep(
        "n1",
        &format!("{CREATE} {QUICKLY} --name r --replicas 6 busy:1 sleep 1000"),
    )
    .ok();
    let before = c.wait_running("n1", "r", 6, secs(30));
    c.skep("n1", "node update --availability active n3").ok();
    let told = c.skep("n1", "service rebalance --dry-run r").ok();
    assert!(
        told.contains("The spec of r would stay as it is."),
        "{told}"
    );
    assert!(told.contains("2 would be replaced"), "{told}");
    assert_eq!(ids(&c.running("n1", "r")), ids(&before), "none was moved");
    let ran = c.skep("n1", "service rebalance --max 1 r").ok();
    assert_eq!(ran.matches(" -> n3").count(), 1, "{ran}");
    let ran = c.skep("n1", "service rebalance r").ok();
    assert_eq!(ran.matches(" -> n3").count(), 1, "{ran}");
    let after = c.wait_running("n1", "r", 6, secs(10));
    for node in NODES {
        let there = after.iter().filter(|task| task.node == node);
        assert_eq!(there.count(), 2, "{node}: {}", shown(&after));
    }
    assert_eq!(ids(&after).intersection(&ids(&before)).count(), 4);
    let ran = c.skep("n1", "service rebalance r").ok();
    assert_eq!(ran, "r: nothing would be gained by a move\n");
    c.remove_service("n1", "r");
}
