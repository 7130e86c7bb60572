//! Secrets whose bytes are in stores outside of the cluster: their versions, their users, and what is
//! said while a store gives nothing.

mod support;

use std::collections::BTreeMap;

use skep_model::mount::Driver;
use skep_model::payload::{Payload, PayloadId, VersionChange};
use skep_model::stack::StackSpec;
use skep_model::why::Trouble;
use skep_model::{
    ControlRequest, ControlResponse, Secret, SecretSpec, TaskId, TaskState, TaskStatus,
};
use skep_reconcile::why::why;
use skep_reconcile::{NodeWord, describe_nodes, record_statuses};
use support::{Cluster, cluster, scale, spec};

const USES: &str = r#"{"TaskTemplate":{"ContainerSpec":{
    "Secrets":[{"SecretName":"key","File":{"Name":"key"}}]}}}"#;

fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn outside(path: &str) -> SecretSpec {
    SecretSpec {
        name: "key".into(),
        driver: Some(Driver {
            name: "vault".into(),
            options: options(&[("path", path), ("field", "pin")]),
        }),
        ..SecretSpec::default()
    }
}

/// A converged service `web` of two tasks that uses the secret `key`, which a vault has.
fn web() -> Cluster {
    let mut cluster = cluster(2);
    let spec_of_secret = outside("a");
    let create = ControlRequest::CreateSecret {
        spec: spec_of_secret,
    };
    cluster.ask(create).unwrap();
    cluster.create(spec("web", 2, USES));
    cluster.converge();
    cluster
}

fn secret(cluster: &Cluster) -> Secret {
    Secret::clone(cluster.view().by_name::<Secret>("key").unwrap())
}

fn request(cluster: &Cluster, change: VersionChange) -> ControlRequest {
    ControlRequest::ChangeVersion {
        object: secret(cluster).payload_id(),
        change,
        users: None,
        expiry: None,
    }
}

fn change(cluster: &mut Cluster, change: VersionChange) -> ControlResponse {
    let request = request(cluster, change);
    let response = cluster.ask(request).unwrap();
    cluster.converge();
    response
}

/// The versions that the live tasks see.
fn seen(cluster: &Cluster) -> Vec<u64> {
    let tasks = cluster.live("web");
    let id = secret(cluster).id;
    let seen = tasks.iter().map(|task| {
        let pin = &task.spec.container().unwrap().secrets[0].version;
        task.version_seen(id.as_str(), pin)
    });
    seen.collect()
}

#[test]
fn a_version_without_bytes_has_its_users_fetch_anew() {
    let mut cluster = web();
    let before = cluster.live("web");
    let answer = change(&mut cluster, VersionChange::Anew(BTreeMap::new()));
    assert_eq!(answer.id, "2");
    assert_eq!(answer.actions, ["Updating service web"]);
    assert_eq!(seen(&cluster), [2, 2]);
    let after = cluster.live("web");
    assert!(
        after
            .iter()
            .all(|task| before.iter().all(|old| old.id != task.id))
    );
    // Nothing is known of what the store holds: each time is another version.
    assert_eq!(
        change(&mut cluster, VersionChange::Anew(BTreeMap::new())).id,
        "3"
    );
    let changes = options(&[("path", "b"), ("field", "")]);
    assert_eq!(change(&mut cluster, VersionChange::Anew(changes)).id, "4");
    let now = secret(&cluster);
    assert_eq!(now.origin_of(4).unwrap().options, options(&[("path", "b")]));
    let first = options(&[("field", "pin"), ("path", "a")]);
    assert_eq!(now.origin_of(1).unwrap().options, first);
    // Going back asks as it was asked then.
    assert_eq!(change(&mut cluster, VersionChange::Back(1)).id, "5");
    let now = secret(&cluster);
    assert_eq!(now.origin_of(5).unwrap().options, first);
    assert_eq!(now.versions.because, "rolled back to 1");
    assert_eq!(seen(&cluster), [5, 5]);
    // Nor is it known whether it has changed since.
    assert_eq!(change(&mut cluster, VersionChange::Back(1)).id, "6");
    let now = secret(&cluster);
    let object = PayloadId::Secret(now.id.clone());
    cluster
        .ask(ControlRequest::ForgetVersions { object })
        .unwrap();
    assert_eq!(secret(&cluster).versions.earlier, []);
}

#[test]
fn a_service_that_goes_back_asks_as_it_did() {
    let mut cluster = web();
    change(&mut cluster, VersionChange::Anew(options(&[("path", "b")])));
    let back = cluster.rollback_to("web", 1);
    cluster.ask(back).unwrap();
    cluster.converge();
    assert_eq!(seen(&cluster), [1, 1]);
    let secret = secret(&cluster);
    assert_eq!(secret.number(), 2);
    assert_eq!(secret.origin_of(1).unwrap().options["path"], "a");
}

#[test]
fn bytes_are_here_or_elsewhere() {
    let mut cluster = web();
    let next = request(&cluster, VersionChange::Next(b"x".to_vec()));
    assert_eq!(
        cluster.refusal(next),
        "secret key has its bytes from secret store vault: change them there, then have its users fetch them: skep secret rotate key"
    );
    let long = options(&[("path", &"x".repeat(10_000))]);
    let refused = request(&cluster, VersionChange::Anew(long));
    assert!(cluster.refusal(refused).contains("at most 32 options"));
    let here = SecretSpec {
        name: "here".into(),
        data: b"x".to_vec(),
        ..SecretSpec::default()
    };
    let made = cluster
        .ask(ControlRequest::CreateSecret { spec: here })
        .unwrap();
    let anew = ControlRequest::ChangeVersion {
        object: PayloadId::Secret(made.id.as_str().into()),
        change: VersionChange::Anew(BTreeMap::new()),
        users: None,
        expiry: None,
    };
    assert_eq!(
        cluster.refusal(anew),
        "secret here is in no other store: its next version needs bytes"
    );
    for (driver, data, why) in [
        (
            Driver::default(),
            &b""[..],
            "Driver: \"\" is no name of a secret store",
        ),
        (
            outside("a").driver.unwrap(),
            b"x",
            "secret data must be empty when using driver",
        ),
    ] {
        let spec = SecretSpec {
            name: "other".into(),
            driver: Some(driver),
            data: data.to_vec(),
            ..SecretSpec::default()
        };
        let refusal = cluster.refusal(ControlRequest::CreateSecret { spec });
        assert!(refusal.contains(why), "{refusal}");
    }
}

fn deploy(cluster: &mut Cluster, secret: SecretSpec) -> Result<ControlResponse, String> {
    let stack = StackSpec {
        name: "app".into(),
        secrets: vec![secret],
        services: vec![spec("web", 2, USES)],
        ..StackSpec::default()
    };
    let request = ControlRequest::DeployStack {
        spec: Box::new(stack),
        prune: false,
        basis: None,
        wish: Default::default(),
    };
    let response = cluster.ask(request).map_err(|error| error.message)?;
    cluster.converge();
    Ok(response)
}

#[test]
fn a_file_that_asks_for_another_place_has_its_users_follow() {
    let mut cluster = cluster(2);
    deploy(&mut cluster, outside("a")).unwrap();
    deploy(&mut cluster, outside("a")).unwrap();
    assert_eq!(seen(&cluster), [1, 1], "the same file changes nothing");
    let answer = deploy(&mut cluster, outside("b")).unwrap();
    assert!(
        answer.actions.contains(&"Updating secret key".to_owned()),
        "{answer:?}"
    );
    assert_eq!(seen(&cluster), [2, 2]);
    let mut shorter = outside("b");
    shorter.driver.as_mut().unwrap().options.remove("field");
    deploy(&mut cluster, shorter).unwrap();
    assert_eq!(
        secret(&cluster).spec.driver.unwrap().options,
        options(&[("path", "b")])
    );
    let mut labelled = outside("b");
    labelled.driver.as_mut().unwrap().options.clear();
    labelled.labels = options(&[("skep.driver.path", "c")]);
    deploy(&mut cluster, labelled).unwrap();
    assert_eq!(seen(&cluster), [4, 4]);
    assert_eq!(secret(&cluster).spec.origin().unwrap().options["path"], "c");
    let mut other = outside("b");
    other.driver.as_mut().unwrap().name = "other".into();
    let refused = deploy(&mut cluster, other).unwrap_err();
    assert!(refused.contains("only updates to Labels"), "{refused}");
}

#[test]
fn the_same_place_said_otherwise_is_the_same_place() {
    let mut cluster = cluster(2);
    let said = |path: &str| {
        let mut spec = outside(path);
        let options = &mut spec.driver.as_mut().unwrap().options;
        options.insert("namespace".into(), String::new());
        spec
    };
    deploy(&mut cluster, said("a")).unwrap();
    deploy(&mut cluster, said("b")).unwrap();
    deploy(&mut cluster, said("b")).unwrap();
    deploy(&mut cluster, outside("b")).unwrap();
    assert_eq!(seen(&cluster), [2, 2], "an empty option says nothing");
    // From the driver into labels, and back.
    let mut labelled = outside("b");
    let taken = std::mem::take(&mut labelled.driver.as_mut().unwrap().options);
    let labels = taken.into_iter();
    labelled.labels = labels
        .map(|(key, value)| (format!("skep.driver.{key}"), value))
        .collect();
    // One that is empty hides no label.
    let mut both = outside("");
    both.labels = options(&[("skep.driver.path", "c")]);
    for spec in [labelled.clone(), outside("b"), labelled.clone(), both] {
        deploy(&mut cluster, spec.clone()).unwrap();
        let number = secret(&cluster).number();
        assert_eq!(secret(&cluster).spec.origin(), spec.origin());
        deploy(&mut cluster, spec).unwrap();
        assert_eq!(secret(&cluster).number(), number, "the same file again");
    }
}

#[test]
fn what_labels_said_is_kept_with_each_version() {
    let mut cluster = cluster(2);
    let labelled = |path: &str| {
        let mut spec = outside(path);
        spec.driver.as_mut().unwrap().options.clear();
        spec.labels = options(&[("skep.driver.path", path)]);
        spec
    };
    deploy(&mut cluster, labelled("a")).unwrap();
    deploy(&mut cluster, labelled("b")).unwrap();
    let now = secret(&cluster);
    assert_eq!(now.number(), 2);
    let path = |number| now.origin_of(number).unwrap().options["path"].clone();
    assert_eq!((path(1), path(2)), ("a".to_owned(), "b".to_owned()));
}

fn say(cluster: &mut Cluster, id: &TaskId, state: TaskState, err: &str) {
    let view = cluster.view();
    let node = view.task(id).unwrap().node_id.clone();
    let status = TaskStatus {
        state,
        err: err.to_owned(),
        ..TaskStatus::default()
    };
    let commit = record_statuses(&view, &[(id.clone(), node, status)], cluster.now);
    cluster.apply(&commit.unwrap());
}

#[test]
fn a_task_that_waits_for_a_store_says_so_and_is_left_alone() {
    let mut cluster = web();
    let refused = "secret store vault: it is sealed (503) (asked by manager n0)";
    // One that runs goes on, and tells what it is not given in place.
    let running = cluster.live("web")[0].id.clone();
    say(&mut cluster, &running, TaskState::Running, refused);
    cluster.settle();
    assert_eq!(cluster.live("web").len(), 2);
    let told = why(&cluster.view(), Some("web"), None, cluster.now).unwrap();
    let [cause] = told.causes.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(cause.trouble, Trouble::SecretStore);
    say(&mut cluster, &running, TaskState::Running, "");
    let told = why(&cluster.view(), Some("web"), None, cluster.now).unwrap();
    assert_eq!(told.causes, []);
    // A new one waits, for as long as it takes.
    cluster.update("web", scale(3));
    cluster.settle();
    let new = cluster.live("web");
    let new = new
        .iter()
        .find(|task| task.status.state < TaskState::Running)
        .unwrap()
        .id
        .clone();
    say(&mut cluster, &new, TaskState::Preparing, refused);
    cluster.wait(std::time::Duration::from_secs(3600));
    cluster.settle();
    assert!(cluster.live("web").iter().any(|task| task.id == new));
    let told = why(&cluster.view(), Some(new.as_str()), None, cluster.now).unwrap();
    let [cause] = told.causes.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(cause.trouble, Trouble::SecretStore);
    assert!(cause.message.starts_with("waits on ") && cause.message.ends_with(refused));
    assert!(cause.advice.contains("asked again by itself"), "{cause:?}");
}

#[test]
fn only_nodes_that_ask_stores_take_such_tasks() {
    let mut cluster = cluster(1);
    let create = ControlRequest::CreateSecret { spec: outside("a") };
    cluster.ask(create).unwrap();
    let mut description = cluster.view().find_node("n0").unwrap().description.clone();
    description.asks_stores = false;
    let word = NodeWord {
        id: "n0".into(),
        description: Some(description),
        ..NodeWord::default()
    };
    let commit = describe_nodes(&cluster.view(), &[word], cluster.now);
    cluster.apply(&commit.unwrap());
    cluster.create(spec("web", 1, USES));
    cluster.settle();
    let told = why(&cluster.view(), Some("web"), None, cluster.now).unwrap();
    let [cause] = told.causes.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(
        cause.message,
        "no suitable node (secrets of outside stores not possible on 1 node)"
    );
    assert_eq!(cause.trouble, Trouble::SecretStore);
    assert_eq!(
        cause.refusals[0].reasons,
        ["is of a version that asks no outside stores of secrets: upgrade it"]
    );
}
