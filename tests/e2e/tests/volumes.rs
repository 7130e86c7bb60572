//! Services whose slots have volumes of their own, and return to them.

use skep_e2e::tasks::{Task, shown};
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

/// Each start adds a line to a file in the slot's volume.
const CREATE: &str = "service create --detach --no-resolve-image --name db --replicas 2 \
    --label skep.volume.placement=sticky --mount type=volume,src=data-{{.Task.Slot}},dst=/data \
    --constraint node.role==worker --stop-signal KILL --restart-delay 100ms \
    busy:1 sh -c 'echo start >>/data/starts; exec sleep 1000'";

#[test]
fn tasks_return_to_their_volumes() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in ["n1", "n2", "n3"] {
        c.skep_given(node, "load", &archive).ok();
        c.wait_ready("n1", node, secs(10));
    }
    c.skep("n1", CREATE).ok();
    c.wait_running("n1", "db", 2, secs(30));
    let mut checks = Checks::new();
    let mut check = |sentence: &str, check: fn(&Cluster)| checks.check(sentence, || check(c));
    check("each slot has a volume of its own", own);
    check("a crash and an update find the data", restarted);
    check("a drained node is waited for, and has the data", drained);
    check("a volume that is gone is not made anew in silence", gone);
    check("a node that is down is waited for until it is let go", down);
    check("cluster volumes are refused by name", refused);
    checks.end();
}

fn slot(c: &Cluster, number: u64) -> Task {
    let tasks = c.wait_running("n1", "db", 2, secs(40));
    let mut tasks = tasks.into_iter();
    tasks
        .find(|task| task.slot == number)
        .expect("each slot has one")
}

/// How often a slot's tasks have started on the volume that the present one has.
fn starts(c: &Cluster, task: &Task) -> usize {
    let read = format!("exec {} cat /data/starts", task.container);
    c.skep(&task.node, &read).ok().lines().count()
}

fn own(c: &Cluster) {
    for number in [1, 2] {
        let task = slot(c, number);
        assert_eq!(starts(c, &task), 1);
        let volumes = c.skep(&task.node, "volume ls -q").ok();
        assert_eq!(volumes.trim(), format!("data-{number}"));
        let shown = c.skep("n1", "volume homes db").ok();
        let row = shown
            .lines()
            .find(|line| line.starts_with(&format!("db.{number} ")));
        let row = row.unwrap_or_else(|| panic!("{shown}"));
        assert!(
            row.contains(&task.node) && row.contains(&format!("data-{number}")),
            "{shown}"
        );
    }
}

fn restarted(c: &Cluster) {
    let before = [slot(c, 1), slot(c, 2)];
    for task in &before {
        c.end_process(
            c.container_pid(&task.node, &task.container)
                .expect("it runs"),
        );
    }
    eventually("others have come", secs(30), || {
        let tasks = c.running("n1", "db");
        let old = tasks
            .iter()
            .any(|task| before.iter().any(|old| old.id == task.id));
        holds(tasks.len() == 2 && !old, shown(&tasks))
    });
    c.skep("n1", "service update --detach --env-add A=b db")
        .ok();
    eventually("all are updated", secs(40), || {
        let tasks = c.running("n1", "db");
        let new = tasks.iter().filter(|task| task.env == ["A=b"]).count();
        holds(tasks.len() == 2 && new == 2, shown(&tasks))
    });
    for old in &before {
        let task = slot(c, old.slot);
        assert_eq!(task.node, old.node);
        assert_eq!(starts(c, &task), 3);
    }
}

/// Waits until a slot's task has no node, and gives its reason.
fn waits(c: &Cluster, number: u64) -> String {
    eventually("its task waits", secs(60), || {
        let tasks = c.try_tasks("n1", "db")?;
        let waiting = tasks
            .iter()
            .find(|task| task.slot == number && task.state == "pending" && !task.error.is_empty());
        waiting
            .map(|task| task.error.clone())
            .ok_or_else(|| shown(&tasks))
    })
}

fn drained(c: &Cluster) {
    let before = slot(c, 1);
    let node = &before.node;
    c.skep("n1", &format!("node update --availability drain {node}"))
        .ok();
    let told =
        format!("no suitable node (volume data-1 of slot 1 is on node {node}, which is drained)");
    assert_eq!(waits(c, 1), told);
    for ask in ["service ps --no-trunc db", "why db"] {
        let shown = c.skep("n1", ask);
        assert!(shown.out.contains(&told), "{shown}");
    }
    c.skep("n1", &format!("node update --availability active {node}"))
        .ok();
    let after = slot(c, 1);
    assert_eq!(&after.node, node);
    assert_eq!(starts(c, &after), 4);
}

fn gone(c: &Cluster) {
    let before = slot(c, 1);
    let node = &before.node;
    c.skep("n1", &format!("node update --availability drain {node}"))
        .ok();
    waits(c, 1);
    eventually("the volume can be removed", secs(20), || {
        let ids = c.skep(node, "ps -aq").ok();
        ids.split_whitespace()
            .for_each(|id| drop(c.skep(node, &format!("rm -f {id}"))));
        let ran = c.skep(node, "volume rm data-1");
        holds(ran.status == 0, ran)
    });
    c.skep("n1", &format!("node update --availability active {node}"))
        .ok();
    let told = format!(
        "volume `data-1` is missing on this node, where slot 1 has had it; to begin with an empty \
         one: skep volume release --to {node} db 1"
    );
    eventually("it is refused", secs(30), || {
        let tasks = c.try_tasks("n1", "db")?;
        let refused = tasks
            .iter()
            .any(|task| task.state == "rejected" && task.error == told);
        holds(refused, shown(&tasks))
    });
    assert_eq!(c.skep(node, "volume ls -q").ok().trim(), "");
    eventually("it is let go", secs(20), || {
        let ran = c.skep("n1", &format!("volume release --to {node} db 1"));
        holds(ran.status == 0, ran)
    });
    let after = slot(c, 1);
    assert_eq!(&after.node, node);
    assert_eq!(starts(c, &after), 1);
}

fn down(c: &Cluster) {
    let before = slot(c, 2);
    let node = &before.node;
    c.skep("n1", "volume release db 2")
        .fails("drain that node or scale the service down first");
    let cut = c.cut(node);
    let told =
        format!("no suitable node (volume data-2 of slot 2 is on node {node}, which is down)");
    assert_eq!(waits(c, 2), told);
    let released = c.skep("n1", "volume release db 2").ok();
    assert_eq!(released.trim(), format!("db.2: data-2 on {node}"));
    let after = slot(c, 2);
    assert_ne!(&after.node, node);
    assert_eq!(starts(c, &after), 1);
    drop(cut);
    c.wait_ready("n1", node, secs(30));
    assert_eq!(slot(c, 2).id, after.id, "it stays where its data are now");
}

fn refused(c: &Cluster) {
    c.skep("n1", "volume create --type mount --sharing all v")
        .fails("cluster volumes (CSI) are not offered");
    c.skep(
        "n1",
        "service create --detach --no-resolve-image --name v --mount type=cluster,src=v,dst=/v busy:1",
    )
    .fails("type=cluster is not offered");
    c.skep(
        "n1",
        "service create --detach --no-resolve-image --name v --label skep.volume.placement=sticky busy:1",
    )
    .fails("the service has no volume with a name");
}
