//! Stacks that others deploy service by service, as docker's client does, have a history as well.

use std::time::Duration;

use skep_model::rollout::{RolloutState, RolloutWish};
use skep_model::{ControlRequest, ServiceMode, ServiceSpec, Stack, StackSpec, Timestamp};
use skep_reconcile::{Resting, advance_stacks, settle_stacks};

mod support;
use support::{Cluster, cluster, spec};

/// A service of the stack as docker's client makes it.
fn labelled(name: &str, image: &str) -> ServiceSpec {
    let label = r#"{"Labels":{"com.docker.stack.namespace":"app"}}"#;
    let mut spec = spec(name, 1, label);
    spec.task_template.container_spec.as_mut().unwrap().image = image.to_owned();
    spec
}

fn deploy(services: Vec<ServiceSpec>) -> ControlRequest {
    ControlRequest::DeployStack {
        spec: Box::new(StackSpec {
            name: "app".into(),
            services,
            ..StackSpec::default()
        }),
        prune: true,
        basis: None,
        wish: RolloutWish::default(),
    }
}

/// The agents obey and the leader looks at stacks, for so many seconds.
fn pass(cluster: &mut Cluster, resting: &mut Resting, seconds: usize) {
    let mut seed = 1;
    let mut random = || {
        seed += 1;
        seed
    };
    for _ in 0..seconds {
        cluster.obey();
        cluster.settle();
        let view = cluster.view();
        let commit = advance_stacks(&view, Timestamp::ZERO, cluster.now, &mut random)
            .or_else(|| settle_stacks(&view, resting, cluster.now, &mut random));
        if let Some(commit) = commit {
            cluster.apply(&commit);
        }
        cluster.wait(Duration::from_secs(1));
    }
}

fn present(cluster: &Cluster) -> Option<Stack> {
    let view = cluster.view();
    view.by_name::<Stack>("app")
        .map(|stack| Stack::clone(stack))
}

/// Its revision, why it began, and how far it is.
fn revision(cluster: &Cluster) -> (u64, String, RolloutState) {
    let stack = present(cluster).expect("a stack");
    (stack.revision, stack.because, stack.rollout.unwrap().state)
}

fn back(cluster: &mut Cluster, number: u64) {
    let request = ControlRequest::RollBackStack {
        name: "app".into(),
        revision: number,
    };
    cluster.ask(request).unwrap();
}

const DEPLOYED: RolloutState = RolloutState::Deployed;

#[test]
fn a_stack_of_labels_gets_a_revision_once_it_rests() {
    let (mut cluster, mut resting) = (cluster(2), Resting::default());
    cluster.create(labelled("app_web", "one"));
    pass(&mut cluster, &mut resting, 4);
    cluster.create(labelled("app_db", "one"));
    pass(&mut cluster, &mut resting, 4);
    assert_eq!(present(&cluster), None, "it is still being deployed");
    pass(&mut cluster, &mut resting, 4);
    let first = (1, "deployed by another client".to_owned(), DEPLOYED);
    assert_eq!(revision(&cluster), first);

    cluster.update("app_web", support::scale(2));
    pass(&mut cluster, &mut resting, 9);
    assert_eq!(revision(&cluster), first, "services are scaled");

    cluster.set_image("app_web", "two");
    pass(&mut cluster, &mut resting, 20);
    let second = (2, "changed by another client".to_owned(), DEPLOYED);
    assert_eq!(revision(&cluster), second);
    pass(&mut cluster, &mut Resting::default(), 9);
    assert_eq!(revision(&cluster), second, "another leader finds no more");

    back(&mut cluster, 0);
    pass(&mut cluster, &mut resting, 20);
    assert_eq!(cluster.live("app_web")[0].spec.image(), "one");
    assert_eq!(
        revision(&cluster),
        (3, "rolled back to 1".to_owned(), DEPLOYED)
    );
}

#[test]
fn what_was_changed_a_moment_ago_is_what_is_gone_back_from() {
    let (mut cluster, mut resting) = (cluster(2), Resting::default());
    cluster
        .ask(deploy(vec![labelled("app_web", "one")]))
        .unwrap();
    pass(&mut cluster, &mut resting, 9);
    cluster.set_image("app_web", "two");
    back(&mut cluster, 0);
    pass(&mut cluster, &mut resting, 20);
    assert_eq!(cluster.live("app_web")[0].spec.image(), "one");
    assert_eq!(
        revision(&cluster),
        (3, "rolled back to 1".to_owned(), DEPLOYED)
    );
}

#[test]
fn a_deploy_as_a_whole_is_no_work_of_others() {
    let (mut cluster, mut resting) = (cluster(2), Resting::default());
    for (number, image) in [(1, "one"), (2, "two")] {
        let services = vec![labelled("app_web", image), labelled("app_db", image)];
        cluster.ask(deploy(services)).unwrap();
        pass(&mut cluster, &mut resting, 12);
        assert_eq!(
            revision(&cluster),
            (number, "deployed".to_owned(), DEPLOYED)
        );
    }
    // A service that goes back is not what anybody wants the stack to be.
    let request = cluster.rollback("app_db");
    cluster.ask(request).unwrap();
    pass(&mut cluster, &mut resting, 12);
    assert_eq!(revision(&cluster).0, 2);
}

#[test]
fn a_stack_of_which_others_leave_nothing_goes() {
    let (mut cluster, mut resting) = (cluster(2), Resting::default());
    cluster
        .ask(deploy(vec![labelled("app_web", "one")]))
        .unwrap();
    pass(&mut cluster, &mut resting, 3);
    let id = cluster.service("app_web").id;
    cluster.ask(ControlRequest::RemoveService { id }).unwrap();
    pass(&mut cluster, &mut resting, 4);
    assert!(
        present(&cluster).is_some(),
        "somebody may be about to deploy it again"
    );
    pass(&mut cluster, &mut resting, 4);
    assert_eq!(present(&cluster), None);
}

#[test]
fn a_difference_that_no_deploy_takes_away_is_one_revision() {
    let (mut cluster, mut resting) = (cluster(2), Resting::default());
    cluster
        .ask(deploy(vec![labelled("app_web", "one")]))
        .unwrap();
    pass(&mut cluster, &mut resting, 9);
    // As another kind of service it cannot be brought back to what the stack's file says.
    let id = cluster.service("app_web").id;
    cluster.ask(ControlRequest::RemoveService { id }).unwrap();
    let mut everywhere = labelled("app_web", "one");
    everywhere.mode = ServiceMode::Global(Default::default());
    cluster.create(everywhere);
    pass(&mut cluster, &mut resting, 60);
    let (number, because, _) = revision(&cluster);
    assert_eq!((number, because.as_str()), (2, "changed by another client"));
}

#[test]
fn an_update_that_may_still_fail_is_no_revision() {
    let (mut cluster, mut resting) = (cluster(2), Resting::default());
    cluster
        .ask(deploy(vec![labelled("app_web", "one")]))
        .unwrap();
    pass(&mut cluster, &mut resting, 9);
    cluster.update("app_web", |spec| {
        let update = spec.update_config.get_or_insert_default();
        update.monitor = skep_model::Nanos::from_secs(20);
        let container = spec.task_template.container_spec.as_mut();
        container.expect("a container").image = "two".to_owned();
    });
    pass(&mut cluster, &mut resting, 12);
    assert_eq!(revision(&cluster).0, 1);
    pass(&mut cluster, &mut resting, 30);
    assert_eq!(revision(&cluster).0, 2);
}

/// A rollback leads to the bytes that a secret had, whoever had changed the stack in between.
#[test]
fn a_revision_of_others_knows_the_versions_of_secrets() {
    let (mut cluster, mut resting) = (cluster(2), Resting::default());
    let wanted = |image: &str| match deploy(vec![labelled("app_web", image)]) {
        ControlRequest::DeployStack {
            mut spec,
            prune,
            basis,
            wish,
        } => {
            let mut secret = skep_model::SecretSpec {
                name: "app_key".into(),
                ..Default::default()
            };
            // Files are read again with each deploy; a revision has no bytes.
            secret.data = if image == "one" {
                b"old".to_vec()
            } else {
                b"new".to_vec()
            };
            spec.secrets.push(secret);
            ControlRequest::DeployStack {
                spec,
                prune,
                basis,
                wish,
            }
        }
        other => other,
    };
    cluster.ask(wanted("one")).unwrap();
    pass(&mut cluster, &mut resting, 9);
    let id = cluster
        .view()
        .by_name::<skep_model::Secret>("app_key")
        .unwrap()
        .id
        .clone();
    let change = skep_model::payload::VersionChange::Next(b"new".to_vec());
    cluster
        .ask(ControlRequest::ChangeVersion {
            object: skep_model::payload::PayloadId::Secret(id),
            change,
            users: None,
            expiry: None,
        })
        .unwrap();
    cluster.set_image("app_web", "two");
    pass(&mut cluster, &mut resting, 20);
    assert_eq!(revision(&cluster).0, 2);
    cluster.ask(wanted("three")).unwrap();
    pass(&mut cluster, &mut resting, 20);
    back(&mut cluster, 2);
    let view = cluster.view();
    let secret = view.by_name::<skep_model::Secret>("app_key").unwrap();
    assert_eq!(secret.spec.data, b"new");
}
