//! Secrets that expire: told of once each, renewed with each version, kept through clients that do
//! not know of it.

mod support;

use std::time::Duration;

use skep_model::expiry::{Expiry, Stage};
use skep_model::payload::{Payload, VersionChange};
use skep_model::stack::{StackPlan, StackSpec};
use skep_model::why::Trouble;
use skep_model::{ControlRequest, Nanos, Secret, SecretSpec};
use skep_reconcile::{plan_stack, remind};
use support::{Cluster, cluster};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn after(days: u32) -> Expiry {
    Expiry {
        after: (DAY * days).into(),
        ..Expiry::default()
    }
}

fn made(expiry: Expiry) -> Cluster {
    let mut cluster = cluster(1);
    let spec = SecretSpec {
        name: "key".into(),
        data: b"one".to_vec(),
        expiry: Some(expiry),
        ..Default::default()
    };
    cluster.ask(ControlRequest::CreateSecret { spec }).unwrap();
    cluster
}

fn secret(cluster: &Cluster) -> Secret {
    Secret::clone(cluster.view().by_name::<Secret>("key").unwrap())
}

/// What is told at a look, if anything is.
fn told(cluster: &mut Cluster) -> Option<bool> {
    let commit = remind(&cluster.view(), cluster.now)?;
    cluster.apply(&commit);
    secret(cluster).reminded.map(|told| told.expired)
}

fn next(cluster: &mut Cluster, data: &str, expiry: Option<Expiry>) -> Result<String, String> {
    let request = ControlRequest::ChangeVersion {
        object: secret(cluster).payload_id(),
        change: VersionChange::Next(data.into()),
        users: None,
        expiry,
    };
    let answer = cluster.ask(request);
    answer.map(|done| done.id).map_err(|error| error.message)
}

fn update(cluster: &mut Cluster, expiry: Option<Expiry>) -> Result<(), String> {
    let secret = secret(cluster);
    let mut spec = secret.spec;
    spec.data.clear();
    spec.expiry = expiry;
    spec.labels.insert("a".into(), "b".into());
    let request = ControlRequest::UpdateSecret {
        id: secret.id,
        version: secret.version,
        spec,
    };
    cluster
        .ask(request)
        .map(|_| ())
        .map_err(|error| error.message)
}

#[test]
fn each_version_is_told_of_once_that_it_expires_and_once_that_it_has() {
    let mut cluster = made(after(90));
    assert_eq!(told(&mut cluster), None);
    cluster.wait(DAY * 77);
    assert_eq!(told(&mut cluster), Some(false));
    // Also not by another leader, who has the state alone.
    assert_eq!(told(&mut cluster), None);
    cluster.wait(DAY * 14);
    assert_eq!(told(&mut cluster), Some(true));
    assert_eq!(told(&mut cluster), None);
    assert_eq!(next(&mut cluster, "two", None).unwrap(), "2");
    let renewed = secret(&cluster);
    assert_eq!(renewed.reminded, None);
    assert_eq!(renewed.spec.expiry.unwrap().at, cluster.now.plus(DAY * 90));
    assert_eq!(told(&mut cluster), None);
    cluster.wait(DAY * 80);
    assert_eq!(told(&mut cluster), Some(false), "of the new one");
    // A clock that is put back takes nothing back.
    let early = remind(&cluster.view(), skep_model::Timestamp::from_secs(1));
    assert_eq!(early, None);
}

#[test]
fn a_moment_is_one_versions_and_must_be_to_come() {
    let mut cluster = made(after(90));
    let at = cluster.now.plus(DAY * 30);
    let moment = Expiry {
        at,
        ..Expiry::default()
    };
    update(&mut cluster, Some(moment.clone())).unwrap();
    assert_eq!(secret(&cluster).spec.expiry.unwrap(), moment);
    next(&mut cluster, "two", None).unwrap();
    assert_eq!(secret(&cluster).spec.expiry, None);
    cluster.wait(DAY * 31);
    let over = next(&mut cluster, "three", Some(moment.clone())).unwrap_err();
    assert!(over.contains("is over: give a time to come"), "{over}");
    let over = update(&mut cluster, Some(moment)).unwrap_err();
    assert!(over.contains("is over"), "{over}");
    next(&mut cluster, "three", Some(after(5))).unwrap();
    assert_eq!(
        secret(&cluster).spec.expiry.unwrap().at,
        cluster.now.plus(DAY * 5)
    );
}

#[test]
fn clients_that_do_not_know_of_it_leave_it_and_never_takes_it_away() {
    let mut cluster = made(after(90));
    let had = secret(&cluster).spec.expiry;
    update(&mut cluster, None).unwrap();
    let kept = secret(&cluster);
    assert_eq!((kept.spec.expiry, kept.spec.labels.len()), (had.clone(), 1));
    // The same bytes again are no new version.
    cluster.wait(DAY);
    assert_eq!(next(&mut cluster, "one", None).unwrap(), "1");
    assert_eq!(secret(&cluster).spec.expiry, had);
    let never = Expiry {
        never: true,
        ..Expiry::default()
    };
    update(&mut cluster, Some(never)).unwrap();
    assert_eq!(secret(&cluster).spec.expiry, None);
    let wrong = update(
        &mut cluster,
        Some(Expiry {
            after: Nanos(5),
            ..Expiry::default()
        }),
    );
    assert!(wrong.unwrap_err().contains("a minute at least"));
}

#[test]
fn why_names_what_expires() {
    let mut cluster = made(after(90));
    let causes = |cluster: &Cluster| {
        let why = skep_reconcile::why::why(&cluster.view(), None, None, cluster.now).unwrap();
        let causes = why.causes.into_iter();
        let causes = causes.filter(|cause| cause.subject == "secret key");
        causes.map(|cause| cause.trouble).collect::<Vec<_>>()
    };
    assert_eq!(causes(&cluster), []);
    cluster.wait(DAY * 80);
    assert_eq!(causes(&cluster), [Trouble::SecretExpiring]);
    cluster.wait(DAY * 80);
    assert_eq!(causes(&cluster), [Trouble::SecretExpired]);
    assert_eq!(secret(&cluster).stage(cluster.now), Stage::Expired);
}

/// A deploy of a stack with the secret `key` that expires so.
fn deploy(data: &str, expiry: &Expiry, basis: Option<String>) -> ControlRequest {
    ControlRequest::DeployStack {
        spec: Box::new(StackSpec {
            name: "app".into(),
            secrets: vec![SecretSpec {
                name: "key".into(),
                data: data.into(),
                expiry: Some(expiry.clone()),
                ..SecretSpec::default()
            }],
            ..StackSpec::default()
        }),
        prune: false,
        basis,
        wish: Default::default(),
    }
}

fn plan(cluster: &Cluster, request: &ControlRequest) -> StackPlan {
    plan_stack(request, &cluster.view(), cluster.now, &mut || 7).unwrap()
}

#[test]
fn a_moment_in_a_file_is_given_once() {
    let mut cluster = cluster(1);
    let at = |cluster: &Cluster, days: u32| Expiry {
        at: cluster.now.plus(DAY * days),
        ..Expiry::default()
    };
    let said = at(&cluster, 30);
    let expiry = |cluster: &Cluster| secret(cluster).spec.expiry;
    cluster.ask(deploy("one", &said, None)).unwrap();
    assert_eq!(expiry(&cluster), Some(said.clone()));
    // A version of its own has no moment, and the file's is not its.
    next(&mut cluster, "two", None).unwrap();
    let again = deploy("two", &said, None);
    assert!(plan(&cluster, &again).changes.is_empty());
    cluster.ask(again).unwrap();
    assert_eq!(expiry(&cluster), None);
    cluster.ask(deploy("three", &said, None)).unwrap();
    assert_eq!((secret(&cluster).number(), expiry(&cluster)), (3, None));
    // Another moment that was given by hand stays, also where the file says more of reminders.
    let by_hand = at(&cluster, 50);
    update(&mut cluster, Some(by_hand.clone())).unwrap();
    let reminded = Expiry {
        remind: Some((DAY * 3).into()),
        ..said
    };
    cluster.ask(deploy("three", &reminded, None)).unwrap();
    let both = Expiry {
        remind: reminded.remind,
        ..by_hand
    };
    assert_eq!(expiry(&cluster), Some(both));
    // Another one in the file holds.
    let other = at(&cluster, 60);
    cluster.ask(deploy("three", &other, None)).unwrap();
    assert_eq!(expiry(&cluster), Some(other));
}

#[test]
fn a_reminder_is_no_change_of_a_plan() {
    let mut cluster = cluster(1);
    cluster.ask(deploy("one", &after(90), None)).unwrap();
    let wanted = deploy("two", &after(90), None);
    let basis = plan(&cluster, &wanted).basis;
    cluster.wait(DAY * 80);
    assert_eq!(told(&mut cluster), Some(false));
    assert_eq!(plan(&cluster, &wanted).basis, basis);
    // Bytes and times that others change are.
    update(&mut cluster, Some(after(50))).unwrap();
    let timed = plan(&cluster, &wanted).basis;
    assert_ne!(timed, basis);
    next(&mut cluster, "three", None).unwrap();
    assert_ne!(plan(&cluster, &wanted).basis, timed);
    let stale = deploy("two", &after(90), Some(basis));
    assert!(cluster.refusal(stale).contains("plan it again"));
}
