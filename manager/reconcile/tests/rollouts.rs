//! Stacks on their way: services that wait for others, the end of a deploy, and the way back as one.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use skep_model::rollout::{
    RolloutState, RolloutWish, ServiceStage, StackFailureAction, StackProgress,
};
use skep_model::service::UpdateState;
use skep_model::{
    ControlRequest, Dependency, DependencyCondition, Nanos, ServiceSpec, Stack, StackSpec,
    TaskState, Timestamp,
};
use skep_reconcile::{advance_stacks, plan_stack, stack_progress};
use support::{Cluster, cluster, spec};

const SECOND: Duration = Duration::from_secs(1);
/// Jobs run once; their tasks come to an end.
const JOB: &str = r#"{"Mode":{"ReplicatedJob":{"MaxConcurrent":1,"TotalCompletions":1}}}"#;

fn one(name: &str, image: &str, rest: &str) -> ServiceSpec {
    let mut spec = spec(&format!("app_{name}"), 2, rest);
    spec.task_template.container_spec.as_mut().unwrap().image = image.to_owned();
    spec
}

/// `waits` are service, condition, and what it waits for.
fn stack(services: Vec<ServiceSpec>, waits: &[(&str, DependencyCondition, &str)]) -> StackSpec {
    let mut depends_on: BTreeMap<String, Vec<Dependency>> = BTreeMap::new();
    for (name, condition, on) in waits {
        let dependency = Dependency {
            service: format!("app_{on}"),
            condition: *condition,
        };
        depends_on
            .entry(format!("app_{name}"))
            .or_default()
            .push(dependency);
    }
    StackSpec {
        name: "app".into(),
        services,
        depends_on,
        ..StackSpec::default()
    }
}

fn deploy(spec: &StackSpec) -> ControlRequest {
    ControlRequest::DeployStack {
        spec: Box::new(spec.clone()),
        prune: true,
        basis: None,
        wish: RolloutWish::default(),
    }
}

fn deploy_or_back(spec: &StackSpec, seconds: u64) -> ControlRequest {
    ControlRequest::DeployStack {
        spec: Box::new(spec.clone()),
        prune: true,
        basis: None,
        wish: RolloutWish {
            failure_action: StackFailureAction::Rollback,
            timeout: Nanos::from_secs(seconds as i64),
        },
    }
}

/// What the leader does about stacks between two steps.
fn advance(cluster: &mut Cluster) {
    let mut seed = 1;
    let mut random = || {
        seed += 1;
        seed
    };
    let steady = Timestamp::ZERO;
    if let Some(commit) = advance_stacks(&cluster.view(), steady, cluster.now, &mut random) {
        cluster.apply(&commit);
    }
    cluster.settle();
}

/// Time passes until all is quiet; tasks of the image `bad` fail as soon as they are started.
fn run(cluster: &mut Cluster, seconds: usize) {
    for _ in 0..seconds {
        cluster.obey_except("bad");
        let view = cluster.view();
        for task in view.tasks().filter(|task| task.spec.image() == "bad") {
            let state = task.status.state;
            let told = match task.desired_state {
                TaskState::Ready => TaskState::Ready,
                TaskState::Running => TaskState::Failed,
                _ => TaskState::Shutdown,
            };
            if state >= TaskState::Assigned && !state.is_terminal() {
                cluster.report(&task.id, told);
            }
        }
        cluster.settle();
        advance(cluster);
        cluster.wait(SECOND);
        advance(cluster);
    }
}

fn progress(cluster: &Cluster) -> StackProgress {
    stack_progress(&cluster.view(), "app").unwrap()
}

/// `app_web waiting: why`, of one service.
fn told(cluster: &Cluster, name: &str) -> String {
    let progress = progress(cluster);
    let service = progress
        .services
        .iter()
        .find(|one| one.name == format!("app_{name}"))
        .unwrap();
    format!("{}: {}", service.stage.as_str(), service.message)
}

fn present(cluster: &Cluster) -> Stack {
    Stack::clone(cluster.view().by_name::<Stack>("app").unwrap())
}

fn images(cluster: &Cluster) -> Vec<String> {
    let view = cluster.view();
    let live = view.tasks().filter(|task| task.is_live());
    let mut images: Vec<String> = live
        .map(|task| format!("{} {}", task.service_name, task.spec.image()))
        .collect();
    images.sort();
    images
}

#[test]
fn a_service_starts_once_what_it_depends_on_is_far_enough() {
    use DependencyCondition::{CompletedSuccessfully, Healthy, Started};
    let mut cluster = cluster(2);
    let wanted = stack(
        vec![
            one("db", "db", ""),
            one("move", "move", JOB),
            one("web", "web", ""),
            one("late", "late", ""),
        ],
        &[
            ("move", Healthy, "db"),
            ("web", CompletedSuccessfully, "move"),
            ("late", Started, "web"),
        ],
    );
    cluster.ask(deploy(&wanted)).unwrap();
    cluster.settle();
    assert_eq!(images(&cluster), ["app_db db", "app_db db"]);
    assert_eq!(
        told(&cluster, "move"),
        "waiting: waits for service app_db to run and be healthy: 0 of 2 tasks"
    );
    let db = cluster.live("app_db");
    cluster.report(&db[0].id, TaskState::Running);
    cluster.settle();
    assert_eq!(cluster.live("app_move").len(), 0, "one of two is not all");
    cluster.report(&db[1].id, TaskState::Starting);
    cluster.settle();
    assert_eq!(cluster.live("app_move").len(), 0, "its health is not known");
    cluster.report(&db[1].id, TaskState::Running);
    cluster.settle();
    let job = cluster.live("app_move");
    assert_eq!(job.len(), 1);
    cluster.report(&job[0].id, TaskState::Running);
    cluster.settle();
    assert_eq!(cluster.live("app_web").len(), 0);
    assert_eq!(
        told(&cluster, "web"),
        "waiting: waits for service app_move to complete: 0 of 1 tasks"
    );
    cluster.report(&job[0].id, TaskState::Complete);
    cluster.settle();
    assert_eq!(cluster.live("app_web").len(), 2);
    assert_eq!(cluster.live("app_late").len(), 0);
    for task in cluster.live("app_web") {
        cluster.report(&task.id, TaskState::Starting);
    }
    cluster.settle();
    assert_eq!(cluster.live("app_late").len(), 2, "started is enough");
    run(&mut cluster, 10);
    assert_eq!(progress(&cluster).state, RolloutState::Deployed);
    // What has begun waits for nobody: a task that ends is followed by another one.
    let view = cluster.view();
    for task in view.tasks().filter(|task| task.service_name != "app_move") {
        cluster.report(&task.id, TaskState::Failed);
    }
    cluster.wait(6 * SECOND);
    assert_eq!(cluster.live("app_web").len(), 2);
}

#[test]
fn an_update_waits_for_that_of_what_it_depends_on() {
    let waits = [("web", DependencyCondition::Healthy, "db")];
    let of = |image: &str| {
        let parallel = r#"{"UpdateConfig":{"Parallelism":0}}"#;
        stack(
            vec![one("db", image, parallel), one("web", image, parallel)],
            &waits,
        )
    };
    let mut cluster = cluster(2);
    cluster.ask(deploy(&of("1"))).unwrap();
    run(&mut cluster, 10);
    assert_eq!(progress(&cluster).state, RolloutState::Deployed);
    cluster.ask(deploy(&of("2"))).unwrap();
    cluster.settle();
    let web = |cluster: &Cluster| {
        let tasks = cluster.live("app_web").into_iter();
        tasks.filter(|task| task.spec.image() == "2").count()
    };
    assert_eq!(web(&cluster), 0);
    let said = cluster.service("app_web").update_status.unwrap();
    assert_eq!(said.state, UpdateState::Updating);
    assert_eq!(
        said.message,
        "update waits for service app_db to run and be healthy: 0 of 2 tasks"
    );
    while web(&cluster) == 0 {
        let db = cluster.tasks("app_db").into_iter();
        let new = db.filter(|task| task.spec.image() == "2" && task.serves());
        let serving = new.count();
        cluster.obey();
        assert!(
            web(&cluster) == 0 || serving == 2 || {
                let db = cluster.live("app_db");
                db.iter()
                    .filter(|task| task.spec.image() == "2" && task.serves())
                    .count()
                    == 2
            }
        );
    }
    run(&mut cluster, 10);
    assert_eq!(progress(&cluster).state, RolloutState::Deployed);
    let said = cluster.service("app_web").update_status.unwrap();
    assert_eq!(said.message, "update completed");
}

#[test]
fn a_plan_tells_what_comes_after_the_waiting() {
    let waits = [("web", DependencyCondition::Healthy, "db")];
    let of = |image: &str| stack(vec![one("db", image, ""), one("web", image, "")], &waits);
    let mut cluster = cluster(2);
    cluster.ask(deploy(&of("1"))).unwrap();
    run(&mut cluster, 10);
    let mut random = || 5;
    let plan = plan_stack(&deploy(&of("2")), &cluster.view(), cluster.now, &mut random).unwrap();
    let replaced = |name: &str| {
        let change = plan.changes.iter().find(|change| change.name == name);
        change.unwrap().preview.as_ref().unwrap().tasks.len()
    };
    assert_eq!((replaced("app_db"), replaced("app_web")), (2, 2));
    // What a deploy has come to is no change of the stack.
    let basis = plan.basis;
    run(&mut cluster, 3);
    let again = plan_stack(&deploy(&of("2")), &cluster.view(), cluster.now, &mut random).unwrap();
    assert_eq!(again.basis, basis);
}

fn five(images: [&str; 5]) -> StackSpec {
    let names = ["a", "b", "c", "d", "e"];
    let services = names.iter().zip(images);
    let services = services.map(|(name, image)| one(name, image, "")).collect();
    let healthy = DependencyCondition::Healthy;
    stack(
        services,
        &[
            ("b", healthy, "a"),
            ("c", healthy, "b"),
            ("d", healthy, "c"),
            ("e", healthy, "d"),
        ],
    )
}

#[test]
fn a_stack_whose_third_update_fails_goes_back_as_one() {
    let mut cluster = cluster(3);
    cluster.ask(deploy(&five(["1"; 5]))).unwrap();
    run(&mut cluster, 20);
    let before = images(&cluster);
    assert_eq!(
        present(&cluster).rollout.unwrap().state,
        RolloutState::Deployed
    );
    let wanted = five(["2", "2", "bad", "2", "2"]);
    cluster.ask(deploy_or_back(&wanted, 0)).unwrap();
    let mut began = false;
    for _ in 0..40 {
        run(&mut cluster, 1);
        began |= images(&cluster).contains(&"app_b 2".to_owned());
        let later = images(&cluster);
        assert!(!later.contains(&"app_d 2".to_owned()), "{later:?}");
    }
    assert!(began, "the first two were updated");
    assert_eq!(images(&cluster), before);
    let stack = present(&cluster);
    let rollout = stack.rollout.unwrap();
    assert_eq!(
        (stack.revision, rollout.state),
        (3, RolloutState::RolledBack)
    );
    assert!(
        rollout
            .message
            .starts_with("app_c: update paused due to failure"),
        "{}",
        rollout.message
    );
    assert!(
        stack.because.starts_with("rolled back to 1: app_c: "),
        "{}",
        stack.because
    );
    assert_eq!(stack.history[0].outcome, Some(RolloutState::Failed));
    assert_eq!(progress(&cluster).state, RolloutState::RolledBack);
    // The next failure goes back to what ran, not to what failed.
    cluster.ask(deploy_or_back(&wanted, 0)).unwrap();
    run(&mut cluster, 40);
    assert_eq!(images(&cluster), before);
    assert!(present(&cluster).because.starts_with("rolled back to 3: "));
}

#[test]
fn a_deploy_that_fails_stays_where_it_is_unless_asked() {
    let mut cluster = cluster(3);
    cluster.ask(deploy(&five(["1"; 5]))).unwrap();
    run(&mut cluster, 20);
    cluster
        .ask(deploy(&five(["2", "2", "bad", "2", "2"])))
        .unwrap();
    run(&mut cluster, 40);
    let progress = progress(&cluster);
    assert_eq!(
        (progress.state, progress.revision),
        (RolloutState::Failed, 2)
    );
    let stages: Vec<ServiceStage> = progress.services.iter().map(|one| one.stage).collect();
    use ServiceStage::{Done, Failed, Waiting};
    assert_eq!(stages, [Done, Done, Failed, Waiting, Waiting]);
}

#[test]
fn a_deploy_has_as_long_as_it_was_given() {
    let mut cluster = cluster(1);
    let fits = |memory: u64| {
        let rest = format!(
            r#"{{"TaskTemplate":{{"Resources":{{"Reservations":{{"MemoryBytes":{memory}}}}}}}}}"#
        );
        stack(vec![one("web", "1", &rest)], &[])
    };
    cluster.ask(deploy_or_back(&fits(8 << 20), 20)).unwrap();
    run(&mut cluster, 8);
    assert_eq!(progress(&cluster).state, RolloutState::Deployed);
    cluster.ask(deploy_or_back(&fits(1 << 40), 20)).unwrap();
    run(&mut cluster, 15);
    assert_eq!(progress(&cluster).state, RolloutState::Deploying);
    run(&mut cluster, 25);
    let stack = present(&cluster);
    let rollout = stack.rollout.unwrap();
    assert_eq!(rollout.state, RolloutState::RolledBack);
    assert!(
        rollout
            .message
            .contains("not deployed within 20 s: app_web: "),
        "{}",
        rollout.message
    );
    assert!(
        rollout.message.contains("no suitable node"),
        "{}",
        rollout.message
    );
    assert_eq!(stack.history[0].outcome, Some(RolloutState::TimedOut));
}

#[test]
fn a_first_deploy_that_fails_has_nowhere_to_go_back_to() {
    let mut cluster = cluster(1);
    let wanted = stack(
        vec![one(
            "web",
            "bad",
            r#"{"TaskTemplate":{"RestartPolicy":{"Condition":"none"}}}"#,
        )],
        &[],
    );
    cluster.ask(deploy_or_back(&wanted, 0)).unwrap();
    run(&mut cluster, 5);
    let rollout = present(&cluster).rollout.unwrap();
    assert_eq!(rollout.state, RolloutState::Failed);
    assert!(
        rollout
            .message
            .ends_with("there is no earlier revision to go back to"),
        "{}",
        rollout.message
    );
}

#[test]
fn services_that_wait_for_each_other_are_refused() {
    let healthy = DependencyCondition::Healthy;
    let services = || vec![one("a", "1", ""), one("b", "1", "")];
    let mut cluster = cluster(1);
    let circle = stack(services(), &[("a", healthy, "b"), ("b", healthy, "a")]);
    assert_eq!(
        cluster.refusal(deploy(&circle)),
        "dependency cycle detected: app_a -> app_b -> app_a"
    );
    let lost = stack(services(), &[("a", healthy, "c")]);
    assert_eq!(
        cluster.refusal(deploy(&lost)),
        "service app_a depends on undefined service app_c"
    );
}

#[test]
fn a_rollback_to_the_same_ends_and_others_have_their_turn() {
    let mut cluster = cluster(1);
    let none = r#"{"TaskTemplate":{"RestartPolicy":{"Condition":"none"}}}"#;
    let of = |image: &str, rest: &str| stack(vec![one("web", image, rest)], &[]);
    cluster.ask(deploy(&of("1", ""))).unwrap();
    run(&mut cluster, 8);
    cluster.ask(deploy(&of("bad", none))).unwrap();
    run(&mut cluster, 8);
    // The same as the first revision, which fails this time: there is nothing else to go back to.
    cluster.ask(deploy_or_back(&of("1", ""), 3)).unwrap();
    for _ in 0..10 {
        cluster.wait(SECOND);
        advance(&mut cluster);
    }
    let rollout = present(&cluster).rollout.unwrap();
    assert_eq!(rollout.state, RolloutState::TimedOut);
    assert!(
        rollout
            .message
            .ends_with("no earlier revision to go back to"),
        "{}",
        rollout.message
    );
    // The same file once more, and this time the tasks run.
    cluster.ask(deploy(&of("1", ""))).unwrap();
    assert_eq!(progress(&cluster).state, RolloutState::Deploying);
    assert_eq!(present(&cluster).revision, 3);
    run(&mut cluster, 8);
    assert_eq!(progress(&cluster).state, RolloutState::Deployed);
}

#[test]
fn global_services_count_the_nodes_that_are_to_run_them() {
    use skep_model::{Availability, NodeState};
    let global = r#"{"Mode":{"Global":{}}}"#;
    let waits = [
        ("web", DependencyCondition::Healthy, "all"),
        ("all", DependencyCondition::Healthy, "db"),
    ];
    let wanted = stack(
        vec![
            one("all", "1", global),
            one("web", "1", ""),
            one("db", "1", ""),
        ],
        &waits,
    );
    let mut cluster = cluster(3);
    cluster.ask(deploy(&wanted)).unwrap();
    cluster.settle();
    // One that has not begun is not far enough, although nothing of it is missing yet.
    assert_eq!(images(&cluster), ["app_db 1", "app_db 1"]);
    run(&mut cluster, 10);
    assert_eq!(progress(&cluster).state, RolloutState::Deployed);
    cluster.set_availability("n1", Availability::Drain);
    cluster.heard("n2", NodeState::Down);
    run(&mut cluster, 5);
    let mut next = wanted.clone();
    for service in &mut next.services {
        service.task_template.container_spec.as_mut().unwrap().image = "2".to_owned();
    }
    cluster.ask(deploy(&next)).unwrap();
    run(&mut cluster, 40);
    let progress = progress(&cluster);
    assert_eq!(progress.state, RolloutState::Deployed, "{progress:?}");
}

#[test]
fn an_update_that_is_held_stays_so_although_a_task_fails() {
    let waits = [("web", DependencyCondition::Healthy, "db")];
    let of = |image: &str| stack(vec![one("db", image, ""), one("web", image, "")], &waits);
    let mut cluster = cluster(2);
    cluster.ask(deploy(&of("1"))).unwrap();
    run(&mut cluster, 10);
    cluster.ask(deploy(&of("2"))).unwrap();
    cluster.settle();
    let first = cluster.live("app_web")[0].id.clone();
    cluster.report(&first, TaskState::Failed);
    cluster.wait(6 * SECOND);
    let old = cluster.live("app_web").into_iter();
    let old =
        old.filter(|task| task.spec.image() == "1" && task.desired_state == TaskState::Running);
    assert_eq!(old.count(), 1, "the other one is not replaced");
    // Once it is deployed, what others do to a service is not held up by its neighbours.
    run(&mut cluster, 30);
    assert_eq!(progress(&cluster).state, RolloutState::Deployed);
    let db = cluster.live("app_db")[0].id.clone();
    cluster.report(&db, TaskState::Failed);
    cluster.set_image("app_web", "3");
    cluster.settle();
    let status = cluster.service("app_web").update_status.unwrap();
    assert!(
        !status.message.contains("waits for service"),
        "{}",
        status.message
    );
}
