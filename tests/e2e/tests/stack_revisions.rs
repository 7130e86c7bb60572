//! Stacks as one object, on a real cluster: planned, deployed as planned, compared, brought back.

use std::fs;

use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

fn file(image: &str, more: &str) -> String {
    format!(
        "services:\n  web:\n    image: {image}\n    command: sleep 1000\n    stop_signal: KILL\n    deploy: {{replicas: 2}}\n{more}"
    )
}

const MORE: &str = "  extra:\n    image: busy:1\n    command: sleep 1000\n    stop_signal: KILL\n    networks: [side]\nnetworks:\n  side: {}\n";
const NO_RESOLVE: &str = "--resolve-image never -c app.yml";

#[test]
fn a_stack_is_planned_and_brought_back_as_one() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(1, 1) else {
        return;
    };
    let c = &cluster;
    let layer = image::root_file_system(&busybox);
    for name in ["busy:1", "busy:2"] {
        c.skep_given("n1", "load", &image::archive(name, &layer))
            .ok();
    }
    let write = |text: String| fs::write(c.root.join("app.yml"), text).unwrap();
    let plan = |flags: &str| c.skep("n1", &format!("stack plan {NO_RESOLVE} {flags} app"));
    let deploy = |flags: &str| {
        c.skep(
            "n1",
            &format!("stack deploy --detach=false -q {NO_RESOLVE} {flags} app"),
        )
    };
    let mut checks = Checks::new();
    checks.check(
        "a plan of a new stack says what will be made, and makes nothing",
        || {
            write(file("busy:1", MORE));
            let told = plan("");
            assert_eq!(told.status, 2, "{told}");
            for line in [
                "+ network app_default\n",
                "+ network app_side\n",
                "+ service app_web: tasks 2 started\n",
                "4 to create, 0 to update, 0 to remove.\n",
            ] {
                assert!(told.out.contains(line), "{line}: {told}");
            }
            assert_eq!(c.skep("n1", "stack ls --format {{.Name}}").ok(), "");
            deploy("").ok();
            let again = plan("");
            assert_eq!(again.status, 0, "{again}");
            assert!(again.out.contains("nothing would change"), "{again}");
        },
    );
    checks.check(
        "a plan of a change is what the deploy with its basis does",
        || {
            write(file("busy:2", ""));
            let told = plan("--prune");
            assert_eq!(told.status, 2, "{told}");
            for line in [
                "- network app_side\n",
                "- service app_extra\n",
                "~ service app_web: tasks 2 replaced\n",
                "    Image: busy:1 -> busy:2\n",
            ] {
                assert!(told.out.contains(line), "{line}: {told}");
            }
            let basis = told
                .out
                .split("--basis ")
                .nth(1)
                .expect("it is told")
                .trim();
            c.skep("n1", "service update --detach --label-add a=b app_web")
                .ok();
            deploy(&format!("--prune --basis {basis}")).fails("has changed since it was planned");
            let told = plan("--prune");
            let basis = told
                .out
                .split("--basis ")
                .nth(1)
                .expect("it is told")
                .trim();
            deploy(&format!("--prune --basis {basis}")).ok();
            assert_eq!(plan("--prune").status, 0);
            let networks = c.skep("n1", "network ls --format {{.Name}}").ok();
            assert!(!networks.contains("app_side"), "{networks}");
            let tasks = c.wait_running("n1", "app_web", 2, secs(20));
            assert!(tasks.iter().all(|task| task.image.starts_with("busy:2")));
        },
    );
    checks.check("history and diff tell what was changed", || {
        let history = c.skep("n1", "stack history --no-trunc app").ok();
        assert!(history.contains("- service app_extra"), "{history}");
        assert_eq!(c.skep("n1", "stack history -q app").ok(), "3\n2\n1\n");
        assert!(history.contains("changed by another client"), "{history}");
        let diff = c.skep("n1", "stack diff app 1 3").ok();
        assert!(
            diff.contains("~ service app_web: Image: busy:1 -> busy:2\n"),
            "{diff}"
        );
        assert_eq!(c.skep("n1", "stack diff app 2 2").ok(), "");
        c.skep("n1", "stack diff app 9")
            .fails("stack app has no revision 9");
    });
    checks.check("a rollback brings all of it back", || {
        let told = c.skep("n1", "stack rollback --dry-run app").ok();
        assert!(told.contains("+ service app_extra"), "{told}");
        c.skep("n1", "stack rollback -q app").ok();
        let tasks = c.wait_running("n1", "app_web", 2, secs(20));
        assert!(tasks.iter().all(|task| task.image.starts_with("busy:1")));
        c.wait_running("n1", "app_extra", 1, secs(20));
        let history = c.skep("n1", "stack history app").ok();
        assert!(history.contains("rolled back to 2"), "{history}");
        c.skep("n1", "stack rollback --to 9 app")
            .fails("no revision 9");
        c.skep("n1", "stack rollback --to 4 app")
            .fails("is the present one");
        c.skep("n1", "stack rollback other")
            .fails("has no revisions");
    });
    checks.check(
        "docker's client deploys, and its stack has a history too",
        || {
            if needs::docker().is_none() {
                return;
            }
            let docker = |line: &str| c.docker("n1", line).ok();
            let known = |wanted: &str| {
                eventually("there is a revision", secs(20), || {
                    let history = c.skep("n1", "stack history -q theirs");
                    holds(history.out == wanted, history)
                });
            };
            for (image, revisions) in [("busy:1", "1\n"), ("busy:2", "2\n1\n")] {
                write(file(image, ""));
                docker("stack deploy --detach=true --resolve-image never -c app.yml theirs");
                known(revisions);
            }
            c.skep("n1", "stack rollback -q theirs").ok();
            let tasks = c.wait_running("n1", "theirs_web", 2, secs(20));
            assert!(tasks.iter().all(|task| task.image.starts_with("busy:1")));
            let history = c.skep("n1", "stack history theirs").ok();
            assert!(history.contains("deployed by another client"), "{history}");
            docker("stack rm theirs");
            eventually("it is known no more", secs(20), || {
                let stacks = c.skep("n1", "stack ls --format {{.Name}}").ok();
                holds(!stacks.contains("theirs"), stacks)
            });
        },
    );
    checks.check("it leaves nothing", || {
        c.skep("n1", "stack rm --detach=false app").ok();
        c.skep("n1", "stack history app").fails("has no revisions");
    });
    checks.end();
}
