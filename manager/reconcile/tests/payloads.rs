//! Versions of secrets and configs: who is replaced, who is given them in place, what is kept.

mod support;

use std::time::Duration;

use skep_model::payload::{EARLIER_BYTES_MAX, EARLIER_KEPT_MAX, Payload, PayloadId, VersionChange};
use skep_model::service::UpdateState;
use skep_model::stack::StackSpec;
use skep_model::{
    Config, ConfigSpec, ControlRequest, ControlResponse, Secret, SecretSpec, Stack, Task,
    TaskState, TaskStatus,
};
use skep_reconcile::record_statuses;
use support::{Cluster, cluster, spec};

const USES: &str = r#"{"TaskTemplate":{"ContainerSpec":{
    "Secrets":[{"SecretName":"key","File":{"Name":"key","UID":"0","GID":"0","Mode":292}}]}}}"#;

/// A converged service `web` of two tasks that uses the secret `key`.
fn web(rest: &str) -> Cluster {
    let mut cluster = cluster(2);
    let secret = SecretSpec {
        name: "key".into(),
        data: b"one".to_vec(),
        ..Default::default()
    };
    cluster
        .ask(ControlRequest::CreateSecret { spec: secret })
        .unwrap();
    let mut wanted = spec("web", 2, USES);
    if !rest.is_empty() {
        let rest = spec("web", 2, rest);
        (wanted.labels, wanted.mode) = (rest.labels, rest.mode);
        wanted.update_config = rest.update_config;
    }
    cluster.create(wanted);
    cluster.converge();
    cluster
}

fn secret(cluster: &Cluster) -> Secret {
    Secret::clone(cluster.view().by_name::<Secret>("key").unwrap())
}

fn object(cluster: &Cluster) -> PayloadId {
    secret(cluster).payload_id()
}

fn change(cluster: &Cluster, change: VersionChange, users: &str) -> ControlRequest {
    ControlRequest::ChangeVersion {
        object: object(cluster),
        change,
        users: Some(users.to_owned()).filter(|users| !users.is_empty()),
        expiry: None,
    }
}

fn update(cluster: &mut Cluster, data: &str, users: &str) -> ControlResponse {
    let request = change(cluster, VersionChange::Next(data.into()), users);
    cluster.ask(request).unwrap()
}

/// Of each live task: the version it sees, the one it is to see.
fn seen(cluster: &Cluster) -> Vec<(u64, u64)> {
    let tasks = cluster.live("web");
    let versions = tasks.iter().map(|task| {
        let container = task.spec.container().unwrap();
        let pin = &container.secrets[0].version;
        let object = object(cluster);
        let object = object.as_str();
        (
            task.version_seen(object, pin),
            task.version_wanted(object, pin),
        )
    });
    versions.collect()
}

fn ids(tasks: &[Task]) -> Vec<&str> {
    tasks.iter().map(|task| task.id.as_str()).collect()
}

#[test]
fn an_update_replaces_the_tasks_that_use_it_one_after_the_other() {
    let mut cluster = web("");
    let before = cluster.live("web");
    let id = object(&cluster);
    let answer = update(&mut cluster, "two", "");
    assert_eq!(answer.id, "2");
    assert_eq!(answer.actions, ["Updating service web"]);
    cluster.settle();
    let replaced = cluster.live("web");
    let remain = ids(&before)
        .into_iter()
        .filter(|id| ids(&replaced).contains(id));
    assert!(remain.count() >= 1, "one at a time");
    cluster.converge();
    let after = cluster.live("web");
    assert!(
        after
            .iter()
            .all(|task| !ids(&before).contains(&task.id.as_str()))
    );
    assert_eq!(seen(&cluster), [(2, 2), (2, 2)]);
    assert_eq!(object(&cluster), id, "the same object");
    let service = cluster.service("web");
    assert_eq!(service.revision.because, "secret key 2");
    assert_eq!(secret(&cluster).of_version(1), Some(&b"one"[..]));
    // The same bytes again are no news.
    assert_eq!(update(&mut cluster, "two", "").id, "2");
    assert!(cluster.decide().commit.is_none());
}

#[test]
fn an_update_that_fails_goes_back_to_the_version_of_before() {
    let mut cluster = web(r#"{"UpdateConfig":{"Parallelism":1,"FailureAction":"rollback"}}"#);
    update(&mut cluster, "bad", "");
    cluster.settle();
    for _ in 0..40 {
        let view = cluster.view();
        let bad = view.tasks().find(|task| {
            let container = task.spec.container();
            let pin = container.map(|container| container.secrets[0].version.number());
            pin == Some(2) && task.is_live() && task.status.state >= TaskState::Assigned
        });
        match bad.map(|task| task.id.clone()) {
            Some(id) => cluster.report(&id, TaskState::Failed),
            None => cluster.obey(),
        }
        cluster.wait(Duration::from_secs(1));
    }
    cluster.converge();
    assert_eq!(seen(&cluster), [(1, 1), (1, 1)]);
    let service = cluster.service("web");
    let state = service.update_status.as_ref().unwrap().state;
    assert_eq!(state, UpdateState::RollbackCompleted);
    assert_eq!(secret(&cluster).number(), 2, "the secret itself stays");
    // An update of something else does not bring the bad one back.
    cluster.set_image("web", "img:2");
    cluster.converge();
    assert_eq!(seen(&cluster), [(1, 1), (1, 1)]);
    // Being told once more does.
    update(&mut cluster, "bad", "");
    cluster.converge();
    assert_eq!(seen(&cluster), [(2, 2), (2, 2)]);
}

#[test]
fn a_signal_replaces_no_task_and_new_tasks_get_the_newest() {
    let mut cluster = web(r#"{"Labels":{"skep.secret.on-update":"signal=USR1"}}"#);
    let before = cluster.live("web");
    let answer = update(&mut cluster, "two", "");
    assert_eq!(
        answer.actions,
        ["Replacing it in the tasks of service web, then SIGUSR1"]
    );
    cluster.settle();
    assert_eq!(ids(&cluster.live("web")), ids(&before));
    assert_eq!(seen(&cluster), [(1, 2), (1, 2)]);
    assert_eq!(cluster.live("web")[0].in_place[0].signal, "SIGUSR1");
    // What agents say of it.
    for task in cluster.live("web") {
        let mut status = TaskStatus {
            state: TaskState::Running,
            ..TaskStatus::default()
        };
        let object = object(&cluster).as_str().to_owned();
        status.versions.insert(object, 2);
        let report = [(task.id.clone(), task.node_id.clone(), status)];
        let commit = record_statuses(&cluster.view(), &report, cluster.now).unwrap();
        cluster.apply(&commit);
    }
    cluster.settle();
    assert_eq!(seen(&cluster), [(2, 2), (2, 2)]);
    assert_eq!(ids(&cluster.live("web")), ids(&before));
    let service = cluster.service("web");
    assert_eq!(service.revision.number, 1, "it runs the same");
}

#[test]
fn going_back_after_a_signal_replaces_the_tasks_that_were_given_more() {
    let mut cluster = web(r#"{"Labels":{"skep.secret.on-update":"signal"}}"#);
    let before = cluster.live("web");
    update(&mut cluster, "two", "");
    cluster.converge();
    assert_eq!(ids(&cluster.live("web")), ids(&before));
    let back = cluster.rollback("web");
    cluster.ask(back).unwrap();
    cluster.settle();
    cluster.converge();
    assert_eq!(seen(&cluster), [(1, 1), (1, 1)]);
    let after = cluster.live("web");
    assert!(ids(&after).iter().all(|id| !ids(&before).contains(id)));
    // And forward again, in place.
    update(&mut cluster, "three", "");
    cluster.converge();
    assert_eq!(ids(&cluster.live("web")), ids(&after));
    assert_eq!(seen(&cluster), [(1, 3), (1, 3)]);
}

#[test]
fn users_that_were_left_behind_follow_when_told_the_same_bytes() {
    let mut cluster = web("");
    update(&mut cluster, "two", "none");
    cluster.converge();
    assert_eq!(seen(&cluster), [(1, 1), (1, 1)]);
    let answer = update(&mut cluster, "two", "roll");
    assert_eq!(
        (answer.id.as_str(), answer.actions.len()),
        ("2", 1),
        "{answer:?}"
    );
    cluster.converge();
    assert_eq!(seen(&cluster), [(2, 2), (2, 2)]);
}

#[test]
fn revisions_of_the_past_do_not_keep_large_versions_from_being_replaced() {
    let mut cluster = web("");
    for number in 2..=12_u8 {
        let large = String::from_utf8(vec![b'a' + number; 500_000]).unwrap();
        update(&mut cluster, &large, "");
        cluster.converge();
    }
    let secret = secret(&cluster);
    assert_eq!(secret.number(), 12);
    let bytes = secret.versions.earlier.iter().map(|one| one.data.len());
    assert!(bytes.sum::<usize>() <= EARLIER_BYTES_MAX);
    // What is gone gives way to the present one.
    let oldest = cluster
        .service("web")
        .history
        .last()
        .unwrap()
        .revision
        .number;
    let back = cluster.rollback_to("web", oldest);
    cluster.ask(back).unwrap();
    cluster.converge();
    assert_eq!(seen(&cluster).len(), 2);
}

#[test]
fn a_config_that_is_forgotten_is_in_no_stack_either() {
    let mut cluster = cluster(1);
    let config = |data: &[u8]| ConfigSpec {
        name: "app_conf".into(),
        data: data.to_vec(),
        ..Default::default()
    };
    for data in [b"one", b"two"] {
        let spec = StackSpec {
            name: "app".into(),
            configs: vec![config(data)],
            ..StackSpec::default()
        };
        let deploy = ControlRequest::DeployStack {
            spec: Box::new(spec),
            prune: false,
            basis: None,
            wish: Default::default(),
        };
        cluster.ask(deploy).unwrap();
    }
    let held = |cluster: &Cluster| {
        let view = cluster.view();
        let stack = view.by_name::<Stack>("app").unwrap();
        let past = stack.history.iter().map(|past| &past.spec);
        let specs = std::iter::once(&stack.spec).chain(past);
        let data = specs.map(|spec| spec.configs[0].data.clone());
        data.collect::<Vec<_>>()
    };
    assert_eq!(held(&cluster), [b"two", b"one"]);
    let view = cluster.view();
    let object = view.by_name::<Config>("app_conf").unwrap();
    let object = object.payload_id();
    cluster
        .ask(ControlRequest::ForgetVersions { object })
        .unwrap();
    assert_eq!(held(&cluster), [b"two".to_vec(), Vec::new()]);
}

#[test]
fn without_a_word_to_them_only_new_tasks_get_it() {
    let mut cluster = web("");
    let before = cluster.live("web");
    update(&mut cluster, "two", "none");
    cluster.settle();
    assert_eq!(ids(&cluster.live("web")), ids(&before));
    assert_eq!(seen(&cluster), [(1, 1), (1, 1)]);
    cluster.report(&before[0].id, TaskState::Failed);
    cluster.converge();
    assert_eq!(seen(&cluster).iter().map(|(sees, _)| sees).max(), Some(&2));
    // Rolling out the next one replaces them all.
    update(&mut cluster, "three", "roll");
    cluster.converge();
    assert_eq!(seen(&cluster), [(3, 3), (3, 3)]);
}

#[test]
fn a_client_that_knows_of_no_versions_changes_none() {
    let mut cluster = web("");
    update(&mut cluster, "two", "");
    cluster.converge();
    cluster.update("web", |spec| {
        let container = spec.task_template.container_spec.as_mut().unwrap();
        container.secrets[0].version = Default::default();
        spec.labels.insert("tier".into(), "front".into());
    });
    let spec = cluster.service("web").spec;
    let pin = &spec.task_template.container().unwrap().secrets[0].version;
    assert_eq!(pin.number(), 2);
    // A revision of the past is what it was, payloads included.
    let back = cluster.rollback_to("web", 1);
    cluster.ask(back).unwrap();
    cluster.converge();
    assert_eq!(seen(&cluster), [(1, 1), (1, 1)]);
}

#[test]
fn going_back_is_a_version_of_its_own() {
    let mut cluster = web("");
    let refused = change(&cluster, VersionChange::Back(0), "");
    assert_eq!(
        cluster.refusal(refused),
        "secret key has no earlier version"
    );
    update(&mut cluster, "two", "");
    cluster.converge();
    let back = change(&cluster, VersionChange::Back(0), "");
    assert_eq!(cluster.ask(back).unwrap().id, "3");
    cluster.converge();
    let secret = secret(&cluster);
    assert_eq!(secret.spec.data, b"one");
    assert_eq!(secret.versions.because, "rolled back to 1");
    assert_eq!(seen(&cluster), [(3, 3), (3, 3)]);
    let unknown = change(&cluster, VersionChange::Back(9), "");
    assert_eq!(
        cluster.refusal(unknown),
        "secret key has no version 9 (any more); it has 3, 2, 1"
    );
}

#[test]
fn what_is_forgotten_is_nowhere_and_nothing_goes_back_to_it() {
    let mut cluster = web("");
    update(&mut cluster, "two", "");
    let forget = ControlRequest::ForgetVersions {
        object: object(&cluster),
    };
    let text = cluster.refusal(forget.clone());
    assert!(
        text.starts_with("secret key: version 1 cannot be forgotten yet, task web."),
        "{text}"
    );
    cluster.converge();
    let done = cluster.ask(forget).unwrap();
    assert_eq!(done.actions, ["Forgetting version 1"]);
    let kept = secret(&cluster);
    assert_eq!(
        (kept.versions.earlier.len(), kept.versions.forgotten),
        (0, 1)
    );
    assert_eq!(cluster.service("web").history.len(), 1);
    let back = cluster.rollback("web");
    cluster.ask(back).unwrap();
    cluster.converge();
    assert_eq!(seen(&cluster), [(2, 2), (2, 2)]);
}

#[test]
fn versions_that_nothing_needs_are_few() {
    let mut cluster = web("");
    for number in 2..30 {
        update(&mut cluster, &format!("word {number}"), "none");
    }
    let secret = secret(&cluster);
    let numbers: Vec<u64> = secret
        .versions
        .earlier
        .iter()
        .map(|one| one.number)
        .collect();
    assert_eq!(
        numbers,
        [28, 27, 26, 25, 24, 1],
        "tasks still see the first"
    );
    assert_eq!(numbers.len(), EARLIER_KEPT_MAX + 1);
}

#[test]
fn what_is_wrong_is_said_and_changes_nothing() {
    let mut cluster = web("");
    let before = cluster.view().version();
    for (data, users, wanted) in [
        (
            "",
            "",
            "secret data must be larger than 0 and less than 512000 bytes",
        ),
        (
            "x",
            "restart",
            "users: \"restart\" is none of roll, signal, signal=SIGNAL and none",
        ),
    ] {
        let request = change(&cluster, VersionChange::Next(data.into()), users);
        assert_eq!(cluster.refusal(request), wanted);
    }
    assert_eq!(cluster.view().version(), before);
}

#[test]
fn a_job_is_not_run_again_for_its_password() {
    let mut cluster = cluster(1);
    let secret = SecretSpec {
        name: "key".into(),
        data: b"one".to_vec(),
        ..Default::default()
    };
    cluster
        .ask(ControlRequest::CreateSecret { spec: secret })
        .unwrap();
    let mut job = spec("web", 1, USES);
    job.mode = serde_json::from_str(r#"{"ReplicatedJob":{}}"#).unwrap();
    cluster.create(job);
    cluster.settle();
    let iteration = |cluster: &Cluster| cluster.service("web").job_status;
    let before = iteration(&cluster);
    let answer = update(&mut cluster, "two", "roll");
    assert_eq!(answer.actions, ["New tasks of service web get it"]);
    cluster.settle();
    assert_eq!(iteration(&cluster), before);
}

/// The spec of a service that has `key` as a variable.
fn variable(env: &str) -> skep_model::ServiceSpec {
    let rest = format!(
        r#"{{"TaskTemplate":{{"ContainerSpec":{{"Env":[{env}],"Secrets":[{{"SecretName":"key",
            "File":{{"Name":"env:KEY","UID":"0","GID":"0","Mode":292}}}}]}}}}}}"#
    );
    spec("env", 2, &rest)
}

#[test]
fn a_variable_is_replaced_with_its_task_even_where_others_are_given_it_in_place() {
    let mut cluster = web(r#"{"Labels":{"skep.secret.on-update":"signal=USR1"}}"#);
    let mut wanted = variable("");
    wanted
        .labels
        .insert("skep.secret.on-update".into(), "signal=USR1".into());
    cluster.create(wanted);
    cluster.converge();
    let before = cluster.live("env");
    let answer = update(&mut cluster, "two", "");
    assert_eq!(
        answer.actions,
        [
            "Updating service env",
            "Replacing it in the tasks of service web, then SIGUSR1"
        ]
    );
    cluster.converge();
    let after = cluster.live("env");
    assert!(
        after
            .iter()
            .all(|task| !ids(&before).contains(&task.id.as_str()))
    );
    assert!(after.iter().all(|task| task.in_place.is_empty()));
    // A client that knows of no versions, and has the reference as it was.
    let mut spec = cluster.service("env").spec;
    let container = spec.task_template.container_spec.as_mut().unwrap();
    assert_eq!(container.secrets[0].version.number(), 2);
    container.secrets[0].version = Default::default();
    cluster.update("env", |had| *had = spec);
    cluster.converge();
    assert_eq!(
        ids(&cluster.live("env")),
        ids(&after),
        "nothing has changed"
    );
}

#[test]
fn what_cannot_be_a_variable_is_refused_where_it_is_known() {
    let mut cluster = web("");
    let refused = |cluster: &mut Cluster, spec| {
        cluster.refusal(ControlRequest::CreateService {
            spec: Box::new(spec),
        })
    };
    let text = refused(&mut cluster, variable(r#""KEY=1""#));
    assert!(
        text.contains("`key` would be variable KEY, which the service sets"),
        "{text}"
    );
    let zero = ControlRequest::CreateSecret {
        spec: SecretSpec {
            name: "zero".into(),
            data: b"a\0b".to_vec(),
            ..Default::default()
        },
    };
    cluster.ask(zero).unwrap();
    let mut spec = variable("");
    let container = spec.task_template.container_spec.as_mut().unwrap();
    container.secrets[0].secret_name = "zero".into();
    let text = refused(&mut cluster, spec);
    assert_eq!(
        text,
        "secret zero cannot be variable KEY: its value has a zero byte: no variable can hold that, use a file"
    );
    cluster.create(variable(""));
    cluster.converge();
    let next = change(&cluster, VersionChange::Next(b"a\0b".to_vec()), "");
    let text = cluster.refusal(next);
    assert!(
        text.starts_with("service env: secret key cannot be variable KEY"),
        "{text}"
    );
    let long = vec![b'x'; 128 << 10];
    let next = change(&cluster, VersionChange::Next(long), "");
    let text = cluster.refusal(next);
    assert!(text.contains("its value has 131072 bytes"), "{text}");
    assert_eq!(secret(&cluster).number(), 1);
}
