//! What a cluster keeps when its daemons die, its cables are cut and its managers go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use skep_e2e::load::Load;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, needs, patient, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const PORT: u16 = 8080;
/// Within this a service can be created again after the leader's death.
const ELECTION: Duration = secs(3);
/// Within this the tasks of a node that was cut off run elsewhere.
const MOVED: Duration = secs(10);

/// Six replicas of the built-in image, two a node, behind a published port.
fn serve(c: &Cluster) -> BTreeMap<String, u32> {
    let line = "service create -d --no-resolve-image --name web --replicas 6 --publish 8080:8080 skep/hello:latest";
    c.skep("n1", line).ok();
    c.wait_running("n1", "web", 6, secs(30));
    for node in NODES {
        eventually(&format!("the port answers on {node}"), secs(5), || {
            c.page(node, PORT, "/")
        });
    }
    c.pids("n1", "web")
}

fn visitors(c: &Cluster, nodes: &[&str]) -> Load {
    let addresses: Vec<_> = nodes.iter().map(|node| c.address(node)).collect();
    Load::start(&addresses, PORT)
}

/// Lets so many requests be answered.
fn answered(load: &Load, more: usize) {
    let goal = load.so_far().answered + more;
    eventually("requests are answered", secs(30), || {
        let so_far = load.so_far();
        holds(
            so_far.answered >= goal || !so_far.lost.is_empty(),
            so_far.answered,
        )
    });
}

/// Starts the daemons that an earlier check left dead.
fn revive(c: &Cluster) {
    for node in NODES {
        if c.daemon(node).is_none() {
            c.start(node);
        }
    }
    for node in NODES {
        c.wait_ready("n1", node, secs(20));
    }
}

#[test]
fn a_worker_dies_or_is_cut_off() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    let before = serve(c);
    checks.check(
        "containers of a killed daemon go on answering, and its restart adopts them",
        || {
            let load = visitors(c, &NODES);
            answered(&load, 20);
            let old = c.daemon("n3").expect("it runs");
            c.kill("n3");
            assert_eq!(c.daemon("n3"), None);
            answered(&load, 50);
            c.start("n3");
            assert_ne!(c.daemon("n3"), Some(old));
            c.wait_ready("n1", "n3", secs(10));
            answered(&load, 50);
            load.end_without_loss();
            // The same tasks, in the same processes; no other was made meanwhile.
            assert_eq!(c.pids("n1", "web"), before);
            assert_eq!(c.tasks("n1", "web").len(), 6, "{:?}", c.tasks("n1", "web"));
        },
    );
    checks.check("a daemon killed again and again changes no process", || {
        for round in 0..5 {
            c.kill("n2");
            c.start("n2");
            eventually(
                &format!("n2 knows its containers after kill {}", round + 1),
                secs(10),
                || holds(c.pids("n1", "web") == before, "other processes"),
            );
        }
        assert_eq!(c.tasks("n1", "web").len(), 6, "{:?}", c.tasks("n1", "web"));
    });
    checks.check(
        "a container that ended while its daemon was dead is replaced after the restart",
        || {
            let victim = c
                .running("n1", "web")
                .into_iter()
                .find(|task| task.node == "n2")
                .expect("n2 has tasks");
            let pid = before[&victim.id];
            c.kill("n2");
            c.end_process(pid);
            c.start("n2");
            eventually("its end is told", secs(10), || {
                let tasks = c.try_tasks("n1", "web")?;
                let told = tasks.iter().find(|task| task.id == victim.id);
                holds(
                    told.is_some_and(|task| task.state == "failed"),
                    format!("{told:?}"),
                )
            });
            let tasks = c.wait_running("n1", "web", 6, secs(30));
            assert!(tasks.iter().all(|task| task.id != victim.id), "{tasks:?}");
            assert!(
                tasks.iter().any(|task| task.slot == victim.slot),
                "the slot is filled again: {tasks:?}"
            );
        },
    );
    checks.check("tasks of a node that was cut off run elsewhere within 10 s, and it keeps its own meanwhile", || {
        let tasks = c.running("n1", "web");
        let own: Vec<_> = tasks.iter().filter(|task| task.node == "n3").cloned().collect();
        assert_eq!(own.len(), 2, "{tasks:?}");
        let cut_at = Instant::now();
        let cable = c.cut("n3");
        eventually("the loss is noticed", MOVED, || {
            holds(c.node_state("n1", "n3")? == "down", "not yet")
        });
        let moved = eventually("all six run elsewhere", MOVED, || {
            let tasks = c.try_tasks("n1", "web")?;
            let shown = skep_e2e::tasks::shown(&tasks);
            let running: Vec<_> = tasks.into_iter().filter(|task| task.is_running()).collect();
            let moved = running.len() == 6 && running.iter().all(|task| task.node != "n3");
            holds(moved, shown).map(|()| running)
        });
        assert!(cut_at.elapsed() < patient(MOVED), "{:?}", cut_at.elapsed());
        assert_eq!(c.node_state("n1", "n3"), Ok("down".into()));
        // The rest of the cluster serves without loss; the lost node's tasks are in no balancer.
        let load = visitors(c, &["n1", "n2"]);
        answered(&load, 60);
        load.end_without_loss();
        // Its own containers still run there: it cannot know that it is alone.
        for task in &own {
            assert!(c.container_pid("n3", &task.container).is_some(), "{task:?}");
        }
        drop(cable);
        c.wait_ready("n1", "n3", secs(20));
        for task in &own {
            eventually("the replaced tasks end", secs(30), || {
                holds(c.container_pid("n3", &task.container).is_none(), &task.container)
            });
        }
        let after: BTreeSet<String> = c.running("n1", "web").into_iter().map(|task| task.id).collect();
        let moved: BTreeSet<String> = moved.into_iter().map(|task| task.id).collect();
        assert_eq!(after, moved, "nothing moves back by itself");
    });
    checks.check("after it all, every node answers for every replica", || {
        for node in NODES {
            eventually(&format!("{node} passes requests to all"), secs(10), || {
                let mut seen = BTreeSet::new();
                for _ in 0..6 {
                    seen.insert(skep_e2e::cluster::field(
                        &c.page(node, PORT, "/")?,
                        "hostname",
                    ));
                }
                holds(seen.len() == 6, format!("{seen:?}"))
            });
        }
    });
    checks.end();
}

#[test]
fn managers_die() {
    let Some(cluster) = Cluster::up(3, 3) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    let before = serve(c);
    checks.check("without its leader a cluster creates a service within 3 s, and running tasks notice nothing", || {
        let load = visitors(c, &NODES);
        answered(&load, 20);
        let leader = c.leader("n1").unwrap();
        let other = NODES.into_iter().find(|node| *node != leader).expect("there are three");
        c.kill(&leader);
        let killed_at = Instant::now();
        let line = "service create -d --name after-the-leader --replicas 2 skep/hello:latest";
        let created = if needs::docker().is_some() { c.docker(other, line) } else { c.skep(other, line) };
        created.ok();
        let took = killed_at.elapsed();
        assert!(took < ELECTION, "it took {took:?}");
        c.wait_running(other, "after-the-leader", 2, secs(20));
        assert_ne!(c.leader(other).unwrap(), leader);
        answered(&load, 50);
        c.start(&leader);
        c.wait_ready(other, &leader, secs(10));
        load.end_without_loss();
        // It was away for longer than the limit, so its own tasks may have been moved; no other was.
        let after = c.pids(other, "web");
        let kept = |task: &skep_e2e::tasks::Task| task.node != leader;
        let others = c.running(other, "web").into_iter().filter(kept).map(|task| task.id);
        let unchanged = others.filter(|id| before.get(id) == after.get(id)).count();
        assert!(unchanged >= 4, "{before:?} became {after:?}");
        // The one that was away has caught up.
        let list = |node| c.skep(node, "service ls --format '{{.ID}} {{.Name}} {{.Replicas}}'").ok();
        eventually("all managers tell the same", secs(10), || {
            let lists: BTreeSet<String> = NODES.iter().map(|node| list(node)).collect();
            holds(lists.len() == 1, format!("{lists:?}"))
        });
        c.remove_service("n1", "after-the-leader");
    });
    checks.check(
        "a follower's death is noticed, and nobody else's work changes",
        || {
            revive(c);
            let leader = c.leader("n1").unwrap();
            let follower = NODES
                .into_iter()
                .find(|node| *node != leader)
                .expect("there are three");
            c.kill(follower);
            eventually("it is told as unreachable", secs(10), || {
                let listed = c
                    .skep(
                        &leader,
                        "node ls --format '{{.Hostname}} {{.ManagerStatus}}'",
                    )
                    .ok();
                holds(listed.contains(&format!("{follower} Unreachable")), listed)
            });
            c.start(follower);
            eventually("it is reachable again", secs(10), || {
                let listed = c
                    .skep(
                        &leader,
                        "node ls --format '{{.Hostname}} {{.ManagerStatus}}'",
                    )
                    .ok();
                holds(listed.contains(&format!("{follower} Reachable")), listed)
            });
            c.wait_running(&leader, "web", 6, secs(20));
        },
    );
    checks.check("all managers killed at once: the same cluster, the same tasks, nothing acknowledged is lost", || {
        all_managers_die(c);
    });
    checks.check(
        "without a quorum writes and reads are refused in Swarm's words, and tasks go on",
        || {
            let before = c.pids("n1", "web");
            c.kill("n2");
            c.kill("n3");
            let load = visitors(c, &NODES);
            let refused = c.skep(
                "n1",
                "service create -d --no-resolve-image skep/hello:latest",
            );
            refused.fails("The swarm does not have a leader");
            answered(&load, 20);
            load.end_without_loss();
            c.start("n2");
            c.start("n3");
            eventually("the cluster decides again", secs(15), || {
                c.try_api("n1", "GET", "/services", None)
            });
            eventually("the same processes", secs(10), || {
                holds(c.pids("n1", "web") == before, "others")
            });
            let services = c.get("n1", "/services");
            assert_eq!(
                services.as_array().map(Vec::len),
                Some(1),
                "the refused one was not made: {services}"
            );
        },
    );
    checks.end();
}

/// Three writers create secrets at all managers until these are killed in the midst of it.
fn all_managers_die(c: &Cluster) {
    revive(c);
    let cluster_id = c.get("n1", "/swarm")["ID"].clone();
    let processes = eventually("the tasks are known", secs(10), || {
        let pids = c.pids("n1", "web");
        holds(pids.len() == 6, pids.len()).map(|()| pids)
    });
    let nodes: BTreeSet<String> = c.try_node_names("n1").unwrap().into_keys().collect();
    let acknowledged = Mutex::new(BTreeSet::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for node in NODES {
            let (acknowledged, stop) = (&acknowledged, &stop);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("{node}-{number}");
                    let body = json!({"Name": name, "Data": STANDARD.encode(&name)});
                    let Ok(made) = c.try_api(node, "POST", "/secrets/create", Some(&body)) else {
                        return;
                    };
                    let id = made["ID"].as_str().unwrap_or_default().to_owned();
                    acknowledged.lock().unwrap().insert((name, id));
                }
            });
        }
        eventually("every manager has acknowledged some", secs(20), || {
            let acknowledged = acknowledged.lock().unwrap();
            let all = NODES
                .iter()
                .all(|node| acknowledged.iter().any(|(name, _)| name.starts_with(node)));
            holds(all && acknowledged.len() > 30, acknowledged.len())
        });
        c.dev::<&str>("kill", &NODES).ok();
        stop.store(true, Ordering::Relaxed);
    });
    for node in NODES {
        assert_eq!(c.daemon(node), None);
    }
    c.dev::<&str>("start", &NODES).ok();
    let secrets = eventually("the cluster decides again", secs(20), || {
        c.try_api("n2", "GET", "/secrets", None)
    });
    let found: BTreeSet<(String, String)> = secrets
        .as_array()
        .into_iter()
        .flatten()
        .map(|secret| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            (text(&secret["Spec"]["Name"]), text(&secret["ID"]))
        })
        .collect();
    let acknowledged = acknowledged.into_inner().unwrap();
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged secrets are lost: {lost:?}",
        lost.len(),
        acknowledged.len()
    );
    assert_eq!(c.get("n3", "/swarm")["ID"], cluster_id);
    assert_eq!(
        c.try_node_names("n3")
            .unwrap()
            .into_keys()
            .collect::<BTreeSet<_>>(),
        nodes
    );
    for node in NODES {
        c.wait_ready("n1", node, secs(15));
    }
    eventually("the same tasks in the same processes", secs(10), || {
        let now = c.pids("n1", "web");
        holds(
            now == processes,
            format!("{now:?} instead of {processes:?}"),
        )
    });
    assert_eq!(c.running("n1", "web").len(), 6);
}

#[test]
fn one_manager_is_left() {
    let Some(cluster) = Cluster::up(3, 3) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    let before = serve(c);
    c.skep_given("n2", "secret create kept -", b"word").ok();
    let cluster_id = c.get("n1", "/swarm")["ID"].clone();
    c.dev("kill", &["n2", "n3"]).ok();
    checks.check("it goes on alone with everything the cluster had", || {
        let init = "swarm init --force-new-cluster";
        let said = match needs::docker() {
            Some(_) => c.docker("n1", init).ok(),
            None => c.skep("n1", init).ok(),
        };
        assert!(said.contains("Swarm initialized: current node ("), "{said}");
        assert_eq!(c.get("n1", "/swarm")["ID"], cluster_id);
        c.get("n1", "/secrets/kept");
        for node in ["n2", "n3"] {
            eventually("the lost node is a worker that is down", secs(15), || {
                let listed = c.skep(
                    "n1",
                    "node ls --format '{{.Hostname}} {{.Status}}.{{.ManagerStatus}}'",
                );
                let listed = listed.ok();
                holds(listed.contains(&format!("{node} Down.\n")), listed)
            });
        }
        let tasks = c.wait_running("n1", "web", 6, secs(30));
        assert!(tasks.iter().all(|task| task.node == "n1"), "{tasks:?}");
        let own = tasks.iter().filter_map(|task| before.get(&task.id));
        assert_eq!(own.count(), 2, "its own tasks are the same: {tasks:?}");
        c.skep(
            "n1",
            "service create -d --no-resolve-image --name new skep/hello:latest",
        )
        .ok();
        c.wait_running("n1", "new", 1, secs(20));
    });
    checks.check(
        "old managers that come back are workers, and can be promoted again",
        || {
            for node in ["n2", "n3"] {
                c.start(node);
                c.wait_ready("n1", node, secs(40));
                eventually("it is a worker", secs(30), || {
                    let info = c.try_api(node, "GET", "/info", None)?;
                    holds(info["Swarm"]["ControlAvailable"] == false, &info["Swarm"])
                });
            }
            c.skep("n1", "node promote n2 n3").ok();
            for node in ["n2", "n3"] {
                eventually("it manages", secs(30), || {
                    let secret = c.try_api(node, "GET", "/secrets/kept", None)?;
                    holds(secret["Spec"]["Name"] == "kept", secret)
                });
            }
            assert_eq!(c.get("n3", "/info")["Swarm"]["Managers"], 3);
        },
    );
    checks.check("a worker cannot go on alone", || {
        c.skep("n1", "node demote n3").ok();
        eventually("it is a worker", secs(30), || {
            let info = c.try_api("n3", "GET", "/info", None)?;
            holds(info["Swarm"]["ControlAvailable"] == false, &info["Swarm"])
        });
        c.skep("n3", "swarm init --force-new-cluster")
            .fails("This node is not a swarm manager");
    });
    checks.end();
}
