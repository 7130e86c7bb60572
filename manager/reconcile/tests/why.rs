//! What is said about things that wait or went wrong.

mod support;

use std::time::Duration;

use skep_model::why::{Trouble, Why};
use skep_model::{Availability, Kind, NodeState, TaskState};
use skep_reconcile::why::{Sort, why};
use support::{Cluster, cluster, spec, web};

fn ask(cluster: &Cluster, object: &str) -> Why {
    why(&cluster.view(), Some(object), None, cluster.now).unwrap()
}

/// Trouble and words of each cause.
fn causes(cluster: &Cluster, object: &str) -> Vec<(Trouble, String)> {
    let causes = ask(cluster, object).causes.into_iter();
    causes.map(|cause| (cause.trouble, cause.message)).collect()
}

#[test]
fn what_is_well_has_no_causes() {
    let cluster = web(2, "");
    let why = ask(&cluster, "web");
    assert_eq!(why.summary, "2 of 2 tasks run");
    assert_eq!(why.causes, []);
    let what: Vec<&str> = why
        .transitions
        .iter()
        .map(|one| one.what.as_str())
        .collect();
    assert!(what.contains(&"runs") && what.contains(&"made"), "{what:?}");
}

#[test]
fn a_task_without_a_node_tells_what_each_lacks() {
    let mut cluster = cluster(3);
    cluster.set_availability("n0", Availability::Drain);
    cluster.create(spec(
        "web",
        1,
        r#"{"TaskTemplate":{"Resources":{"Reservations":{"NanoCPUs":99500000000}},"Placement":{"Constraints":["node.hostname!=n1"]}}}"#,
    ));
    cluster.settle();
    let why = ask(&cluster, "web.1");
    let [cause] = why.causes.as_slice() else {
        panic!("{why:?}");
    };
    assert_eq!(cause.trouble, Trouble::NoSuitableNode);
    let reasons: Vec<(&str, String)> = cause
        .refusals
        .iter()
        .map(|refusal| (refusal.node.as_str(), refusal.reasons.join("; ")))
        .collect();
    let room = |node: &str| {
        let view = cluster.view();
        let node = view.find_node(node).unwrap();
        let cpus = node.description.resources.nano_cpus.0 / 1_000_000_000;
        format!("99.5 CPUs wanted, {cpus} of {cpus} free")
    };
    assert_eq!(
        reasons,
        [
            ("n0", format!("is drained; {}", room("n0"))),
            (
                "n1",
                format!("{}; does not meet node.hostname!=n1", room("n1"))
            ),
            ("n2", room("n2")),
        ]
    );
}

#[test]
fn a_task_that_fails_again_and_again_is_told_by_its_last_end() {
    let mut cluster = web(
        1,
        r#"{"TaskTemplate":{"RestartPolicy":{"Delay":5000000000}}}"#,
    );
    for _ in 0..3 {
        let id = cluster.live("web")[0].id.clone();
        cluster.report(&id, TaskState::Failed);
        cluster.settle();
        cluster.wait(Duration::from_secs(5));
        cluster.obey();
        cluster.converge();
    }
    let id = cluster.live("web")[0].id.clone();
    cluster.report(&id, TaskState::Failed);
    cluster.settle();
    let why = ask(&cluster, "web");
    let [cause] = why.causes.as_slice() else {
        panic!("{why:?}");
    };
    assert!(
        cause.message.starts_with("failed 4 times, last on "),
        "{cause:?}"
    );
    assert!(
        cause.message.ends_with("; waits for its restart delay"),
        "{cause:?}"
    );
    assert_eq!(cause.next, cluster.now.plus(Duration::from_secs(5)));
}

#[test]
fn a_slot_that_is_given_up_says_by_which_rule() {
    for (policy, state, rule) in [
        (
            r#""Condition":"none""#,
            TaskState::Failed,
            "its restart condition is none",
        ),
        (
            r#""Condition":"on-failure""#,
            TaskState::Complete,
            "its restart condition is on-failure",
        ),
    ] {
        let rest = format!(r#"{{"TaskTemplate":{{"RestartPolicy":{{{policy}}}}}}}"#);
        let mut cluster = web(1, &rest);
        let id = cluster.live("web")[0].id.clone();
        cluster.report(&id, state);
        cluster.settle();
        let told = causes(&cluster, "web");
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, Trouble::GaveUp);
        assert!(told[0].1.ends_with(rule), "{told:?}");
    }
}

#[test]
fn a_node_that_is_lost_is_told_with_what_ran_there() {
    let mut cluster = web(2, "");
    let node = cluster.live("web")[0].node_id.clone();
    cluster.heard(node.as_str(), NodeState::Down);
    let told = causes(&cluster, node.as_str());
    assert_eq!(told[0].0, Trouble::NodeDown, "{told:?}");
    let of_web = causes(&cluster, "web");
    assert!(
        of_web.contains(&(Trouble::NodeDown, format!("its node {node} is down"))),
        "{of_web:?}"
    );
    let all = why(&cluster.view(), None, None, cluster.now).unwrap();
    assert_eq!(
        all.summary,
        "2 of 3 nodes take tasks, 0 of 1 services are as wanted"
    );
}

#[test]
fn names_are_looked_for_in_order_and_wrong_ones_are_refused() {
    let mut cluster = cluster(2);
    cluster.create(spec("n1", 1, ""));
    cluster.converge();
    assert_eq!(ask(&cluster, "n1").object, "service n1");
    let ask = |object: &str, sort| why(&cluster.view(), Some(object), sort, cluster.now);
    assert!(
        ask("n1", Some(Sort::Node))
            .unwrap()
            .object
            .starts_with("node ")
    );
    assert!(ask("n1.1", None).unwrap().object.starts_with("task n1.1 ("));
    let refused = ask("nosuch", None).unwrap_err();
    assert_eq!(refused.kind, Kind::NotFound);
    assert_eq!(
        refused.message,
        "no service, task, node or stack is called nosuch"
    );
    let refused = ask("n1", Some(Sort::Stack)).unwrap_err();
    assert_eq!(refused.message, "no such stack: n1");
    assert_eq!(Sort::parse("wish").unwrap_err().kind, Kind::Invalid);
}

#[test]
fn many_tasks_that_fit_nowhere_are_told_within_bounds() {
    let mut cluster = cluster(150);
    cluster.create(spec(
        "web",
        250,
        r#"{"TaskTemplate":{"Resources":{"Reservations":{"NanoCPUs":99500000000}}}}"#,
    ));
    cluster.settle();
    let why = ask(&cluster, "web");
    assert_eq!(why.causes.len(), 201, "and that there are more");
    let refusals = why.causes.iter().map(|cause| cause.refusals.len());
    let told: Vec<usize> = refusals.filter(|count| *count > 0).collect();
    assert!(told.iter().all(|count| *count == 150), "{told:?}");
    assert_eq!(told.len(), 20_000 / 150);
    assert_eq!(why.causes[0].refusals.len(), 150);
}

#[test]
fn a_node_that_is_down_tells_when_it_is_removed() {
    let down = |cluster: &Cluster| {
        let told = causes(cluster, "n1");
        let [(Trouble::NodeDown, message)] = told.as_slice() else {
            panic!("{told:?}");
        };
        message.clone()
    };
    let mut cluster = cluster(2);
    cluster.heard("n1", NodeState::Down);
    let message = down(&cluster);
    assert!(!message.contains("removed"), "{message}");
    let request = cluster.cluster_request(|spec| {
        let label = skep_model::cluster::NODE_EXPIRY_LABEL;
        spec.labels.insert(label.to_owned(), "24h".to_owned());
    });
    cluster.ask(request).unwrap();
    cluster.now = cluster.now.plus(Duration::from_secs(3600));
    let message = down(&cluster);
    let at = cluster.now.plus(Duration::from_secs(23 * 3600));
    let wanted = format!("it is removed from the cluster at {at} if it does not come back");
    assert!(message.contains(&wanted), "{message}");
    // Managers are not.
    cluster.heard("n0", NodeState::Down);
    let told = causes(&cluster, "n0");
    assert!(
        told.iter().all(|(_, message)| !message.contains("removed")),
        "{told:?}"
    );
}
