//! What becomes of slots and their tasks.

use std::collections::BTreeSet;

use skep_e2e::tasks::{Task, shown};
use skep_e2e::wait::holds;
use skep_e2e::{Cluster, eventually, needs, secs};

use super::{CREATE, QUICKLY, UPDATE, ids, slots_of, wait_looked_at, wait_update};

pub fn slots(c: &Cluster) {
    c.skep(
        "n1",
        &format!("{CREATE} --name s --replicas 3 --restart-delay 100ms busy:1 sleep 1000"),
    )
    .ok();
    let before = c.wait_running("n1", "s", 3, secs(30));
    assert_eq!(slots_of(&before), BTreeSet::from([1, 2, 3]));
    c.end_process(before[1].pid);
    let after = eventually("slot 2 has another task", secs(20), || {
        let tasks: Vec<Task> = c
            .try_tasks("n1", "s")?
            .into_iter()
            .filter(Task::is_running)
            .collect();
        let second = tasks
            .iter()
            .find(|task| task.slot == 2 && task.id != before[1].id);
        holds(tasks.len() == 3 && second.is_some(), shown(&tasks)).map(|()| tasks)
    });
    assert_eq!(slots_of(&after), BTreeSet::from([1, 2, 3]));
    c.skep("n1", "service scale -d s=1").ok();
    let left = c.wait_running("n1", "s", 1, secs(20));
    c.skep("n1", "service scale -d s=2").ok();
    let two = c.wait_running("n1", "s", 2, secs(20));
    let lowest = (1..).find(|slot| *slot != left[0].slot);
    assert!(slots_of(&two).contains(&lowest.unwrap()), "{}", shown(&two));
    c.remove_service("n1", "s");
}

pub fn what_restarts(c: &Cluster) {
    c.skep(
        "n1",
        &format!("{CREATE} {QUICKLY} --name w --replicas 2 busy:1 sleep 1000"),
    )
    .ok();
    let before = ids(&c.wait_running("n1", "w", 2, secs(30)));
    for quiet in [
        "--label-add a=b",
        "--update-delay 1s --rollback-monitor 1s",
        "--constraint-add node.hostname!=nosuch",
        "--placement-pref-add spread=node.labels.zone",
        "--replicas-max-per-node 2",
        "--replicas 2",
    ] {
        c.skep("n1", &format!("{UPDATE} {quiet} w")).ok();
        wait_looked_at(c);
        let tasks = c.try_tasks("n1", "w").expect("they are listed");
        assert_eq!(ids(&tasks), before, "{quiet}: {}", shown(&tasks));
    }
    let mut before = before;
    for loud in [
        "--force",
        "--env-add A=b",
        "--container-label-add a=b",
        "--limit-memory 64m",
        "--restart-condition on-failure",
        "--publish-add 9000:9000",
        "--log-opt max-size=1m --log-driver json-file",
    ] {
        c.skep("n1", &format!("{UPDATE} {loud} w")).ok();
        wait_update(c, "w", "completed");
        let after = ids(&c.wait_running("n1", "w", 2, secs(20)));
        assert!(after.is_disjoint(&before), "{loud}");
        before = after;
    }
    c.remove_service("n1", "w");
}

pub fn history(c: &Cluster) {
    c.skep(
        "n1",
        &format!("{CREATE} --name fails --restart-delay 50ms busy:1 false"),
    )
    .ok();
    c.skep(
        "n1",
        &format!(
            "{CREATE} --name gives-up --restart-delay 50ms --restart-max-attempts 2 busy:1 false"
        ),
    )
    .ok();
    c.skep(
        "n1",
        &format!("{CREATE} --name done --restart-condition on-failure busy:1 true"),
    )
    .ok();
    let mut seen = BTreeSet::new();
    eventually("many tasks have failed", secs(60), || {
        let tasks = c.try_tasks("n1", "fails")?;
        seen.extend(ids(&tasks));
        // One that is being made is not cut in the same moment.
        assert!(tasks.len() <= 6, "{}", shown(&tasks));
        holds(seen.len() >= 10, seen.len())
    });
    eventually("it gives up after two more tries", secs(30), || {
        let tasks = c.try_tasks("n1", "gives-up")?;
        let failed = tasks.iter().filter(|task| task.state == "failed").count();
        holds(failed == 3 && tasks.len() == 3, shown(&tasks))
    });
    eventually("what succeeded is not run again", secs(30), || {
        let tasks = c.try_tasks("n1", "done")?;
        holds(
            tasks.len() == 1 && tasks[0].state == "complete",
            shown(&tasks),
        )
    });
    let listed = c.skep("n1", "service ls --filter name=done --format {{.Replicas}}");
    assert_eq!(listed.ok(), "0/1\n");
    for name in ["fails", "gives-up", "done"] {
        c.remove_service("n1", name);
    }
}

pub fn unhealthy(c: &Cluster) {
    let health = "--health-cmd 'test ! -e /ill' --health-interval 300ms --health-retries 2 --restart-delay 100ms";
    c.skep(
        "n1",
        &format!("{CREATE} {health} --name h busy:1 sleep 1000"),
    )
    .ok();
    let first = c.wait_running("n1", "h", 1, secs(30)).remove(0);
    c.skep(
        &first.node,
        &format!("exec {} sh -c 'echo > /ill'", first.container),
    )
    .ok();
    eventually("it is told as unhealthy and another runs", secs(30), || {
        let tasks = c.try_tasks("n1", "h")?;
        let old = tasks.iter().find(|task| task.id == first.id);
        let ended =
            old.is_some_and(|task| task.state == "failed" && task.error.contains("unhealthy"));
        holds(ended && tasks.iter().any(Task::is_running), shown(&tasks))
    });
    c.remove_service("n1", "h");
}

pub fn jobs(c: &Cluster) {
    let job = "--mode replicated-job --replicas 2 --max-concurrent 1";
    c.skep(
        "n1",
        &format!("{CREATE} {job} --label skep.job.keep=1 --name j busy:1 true"),
    )
    .ok();
    // Either client that waits sees its end.
    let waits = format!("service create --no-resolve-image {job} busy:1 true");
    c.skep("n1", &waits).ok();
    if needs::docker().is_some() {
        c.docker("n1", &waits).ok();
    }
    let completed = |wanted: usize| {
        eventually(&format!("{wanted} have completed"), secs(30), || {
            let tasks = c.try_tasks("n1", "j")?;
            let done = tasks
                .iter()
                .filter(|task| task.state == "complete" && task.desired == "complete");
            let done = done.count();
            holds(done == wanted, shown(&tasks)).map(|()| ids(&tasks))
        })
    };
    let first = completed(2);
    for client in [
        Cluster::docker as fn(&Cluster, &str, &str) -> skep_e2e::Ran,
        Cluster::skep,
    ] {
        if needs::docker().is_none() {
            continue;
        }
        client(c, "n1", "service update --detach --label-add a=b j").ok();
        // A client that waits is told at once that all is done.
        client(c, "n1", "service update --no-resolve-image j").ok();
    }
    assert_eq!(completed(2), first, "nothing ran again");
    c.skep("n1", "service update --force --no-resolve-image j")
        .ok();
    let again = completed(3);
    assert_eq!(
        again.intersection(&first).count(),
        1,
        "of those before one is kept"
    );
    let listed = c.skep("n1", "service ls --filter name=j --format {{.Replicas}}");
    assert_eq!(listed.ok(), "0/1 (2/2 completed)\n");
    let wrong = c.skep(
        "n1",
        &format!("{CREATE} {job} --label skep.job.ttl=soon busy:1 true"),
    );
    wrong.fails("label skep.job.ttl: `soon` is not a length of time");
    c.remove_service("n1", "j");
}
