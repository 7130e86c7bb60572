//! `service exec`: commands in tasks, whichever node they are on and whichever manager is asked.

use std::time::Instant;

use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const CREATE: &str = "service create --detach --no-resolve-image --stop-signal KILL";

#[test]
fn commands_are_run_in_tasks_of_any_node() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    // Two managers whose sessions are with either, and a worker that runs no API of the cluster.
    let Some(cluster) = Cluster::up(3, 2) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in ["n1", "n2", "n3"] {
        c.skep_given(node, "load", &archive).ok();
        c.wait_ready("n1", node, secs(10));
    }
    c.skep(
        "n1",
        &format!(
            "{CREATE} --name web --replicas 3 --env SLOT={{{{.Task.Slot}}}} busy:1 sleep 1000"
        ),
    )
    .ok();
    c.wait_running("n1", "web", 3, secs(30));
    let mut checks = Checks::new();
    let mut check = |sentence: &str, check: fn(&Cluster)| checks.check(sentence, || check(c));
    check("every slot is reached from every manager", slots);
    check("a service and a task are names as well", names);
    check("input, both outputs and the exit code go through", streams);
    check("much goes through whole, both ways", much);
    check("a terminal is one", terminal);
    check(
        "the environment, the user and the directory are as asked",
        surroundings,
    );
    check("detached it goes on by itself", detached);
    check("what cannot be run says why, with docker's codes", mistakes);
    check(
        "a node that is cut off is named at once, not waited for",
        cut_off,
    );
    checks.end();
}

fn slots(c: &Cluster) {
    for manager in ["n1", "n2"] {
        for slot in 1..=3 {
            let said = c.skep(
                manager,
                &format!("service exec web.{slot} sh -c 'echo $SLOT'"),
            );
            assert_eq!(said.word(), slot.to_string());
        }
    }
}

fn names(c: &Cluster) {
    let said = c.skep("n1", "service exec web sh -c 'echo $SLOT'").word();
    assert_eq!(said, "1", "the lowest slot stands for the service");
    for task in c.running("n1", "web") {
        for name in [task.id.clone(), format!("web.{}.{}", task.slot, task.id)] {
            let said = c
                .skep("n2", &format!("service exec {name} hostname"))
                .word();
            assert!(!said.is_empty());
        }
    }
}

fn streams(c: &Cluster) {
    for slot in 1..=3 {
        let line = format!("service exec -i web.{slot} sh -c 'cat; echo to-err >&2; exit 7'");
        let ran = c.skep_given("n1", &line, b"given\n");
        assert_eq!(
            (ran.status, ran.out.as_str(), ran.err.as_str()),
            (7, "given\n", "to-err\n"),
            "{ran}"
        );
    }
}

fn much(c: &Cluster) {
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|at| b'a' + (at % 26) as u8)
        .collect();
    let sum = |text: &str| {
        text.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    for slot in 1..=3 {
        let ran = c.skep_given("n2", &format!("service exec -i web.{slot} cat"), &bytes);
        assert!(
            ran.status == 0 && ran.out.as_bytes() == bytes,
            "slot {slot}: {} bytes, status {}",
            ran.out.len(),
            ran.status
        );
        let counted = c.skep_given(
            "n1",
            &format!("service exec -i web.{slot} busybox wc -c"),
            &bytes,
        );
        assert_eq!(sum(&counted.ok()), "3000000");
    }
}

fn terminal(c: &Cluster) {
    for slot in 1..=3 {
        let ran = c.skep(
            "n1",
            &format!("service exec -t web.{slot} sh -c 'test -t 1 && echo yes'"),
        );
        assert_eq!(ran.word(), "yes");
    }
}

fn surroundings(c: &Cluster) {
    let line = "service exec -e A=b -w /tmp -u 12:34 web.2 sh -c 'echo $A $PWD $(id -u):$(id -g)'";
    assert_eq!(c.skep("n1", line).word(), "b /tmp 12:34");
}

fn detached(c: &Cluster) {
    c.skep(
        "n2",
        "service exec -d web.3 sh -c 'sleep 1; echo done > /tmp/mark'",
    )
    .ok();
    eventually("it has done its work", secs(10), || {
        let ran = c.skep("n1", "service exec web.3 cat /tmp/mark");
        (ran.out == "done\n").then_some(()).ok_or(ran)
    });
}

fn mistakes(c: &Cluster) {
    for slot in 1..=3 {
        let ran = c.skep("n1", &format!("service exec web.{slot} nosuch"));
        assert_eq!(ran.status, 127, "{ran}");
        assert!(ran.out.contains("executable file not found"), "{ran}");
        let ran = c.skep("n1", &format!("service exec web.{slot} /etc"));
        assert_eq!(ran.status, 126, "{ran}");
    }
    c.skep("n1", "service exec nosuch true")
        .fails("nosuch not found");
    c.skep("n1", "service exec web.4 true")
        .fails("web.4 not found");
    c.skep("n3", "service exec web true")
        .fails("This node is not a swarm manager");
    c.skep(
        "n1",
        &format!("{CREATE} --name idle --replicas 0 busy:1 sleep 1000"),
    )
    .ok();
    c.skep("n1", "service exec idle true")
        .fails("no task of service idle is running");
    c.remove_service("n1", "idle");
}

fn cut_off(c: &Cluster) {
    let there = c
        .running("n1", "web")
        .into_iter()
        .find(|task| task.node == "n3");
    let there = there.expect("a third of it is there");
    let cut = c.cut("n3");
    let began = Instant::now();
    let ran = c.skep("n1", &format!("service exec {} true", there.id));
    assert!(ran.status != 0 && ran.out.contains("node "), "{ran}");
    assert!(began.elapsed() < secs(15), "{ran}");
    drop(cut);
    c.wait_ready("n1", "n3", secs(20));
}
