//! Stacks as one object: what a deploy would do, what it has been, and the way back.

mod support;

use std::time::Duration;

use skep_model::stack::{ObjectAction, StackPlan};
use skep_model::{
    Config, ConfigSpec, ControlRequest, Network, NetworkSpec, Secret, SecretSpec, Stack, StackSpec,
};
use skep_reconcile::plan_stack;
use support::{Cluster, cluster, spec};

fn stack(image: &str) -> StackSpec {
    let mut web = spec(
        "app_web",
        2,
        r#"{"TaskTemplate":{"Networks":[{"Target":"app_default"}],
            "ContainerSpec":{"Secrets":[{"SecretName":"app_key"}]}}}"#,
    );
    web.task_template.container_spec.as_mut().unwrap().image = image.to_owned();
    StackSpec {
        name: "app".into(),
        networks: vec![NetworkSpec {
            name: "app_default".into(),
            ..NetworkSpec::default()
        }],
        secrets: vec![SecretSpec {
            name: "app_key".into(),
            data: b"hush".to_vec(),
            ..SecretSpec::default()
        }],
        services: vec![web, spec("app_db", 1, "")],
        ..StackSpec::default()
    }
}

fn deploy(spec: StackSpec, prune: bool) -> ControlRequest {
    ControlRequest::DeployStack {
        spec: Box::new(spec),
        prune,
        basis: None,
        wish: Default::default(),
    }
}

fn back(revision: u64) -> ControlRequest {
    ControlRequest::RollBackStack {
        name: "app".into(),
        revision,
    }
}

fn plan(cluster: &Cluster, request: &ControlRequest) -> StackPlan {
    let mut seed = 0;
    let mut random = || {
        seed += 1;
        seed
    };
    plan_stack(request, &cluster.view(), cluster.now, &mut random).unwrap()
}

/// `create network app_default`
fn lines(plan: &StackPlan) -> Vec<String> {
    let line = |change: &skep_model::stack::ObjectChange| {
        format!("{} {} {}", change.action.as_str(), change.kind, change.name)
    };
    plan.changes.iter().map(line).collect()
}

fn present(cluster: &Cluster) -> Stack {
    Stack::clone(cluster.view().by_name::<Stack>("app").unwrap())
}

#[test]
fn a_plan_says_what_the_deploy_then_does_and_is_empty_after_it() {
    let mut cluster = cluster(2);
    let first = plan(&cluster, &deploy(stack("img:1"), false));
    assert_eq!(
        lines(&first),
        [
            "create network app_default",
            "create secret app_key",
            "create service app_db",
            "create service app_web",
        ]
    );
    let web = first.changes[3].preview.as_ref().unwrap();
    assert_eq!(web.tasks.len(), 2, "both of its tasks are told");
    assert!(cluster.view().stacks().next().is_none(), "nothing is kept");
    cluster.ask(deploy(stack("img:1"), false)).unwrap();
    cluster.converge();
    let again = plan(&cluster, &deploy(stack("img:1"), true));
    assert_eq!(lines(&again), [""; 0]);

    let mut next = stack("img:2");
    next.services.pop();
    next.configs.push(ConfigSpec {
        name: "app_conf".into(),
        data: b"2".to_vec(),
        ..ConfigSpec::default()
    });
    let second = plan(&cluster, &deploy(next.clone(), true));
    assert_eq!(
        lines(&second),
        [
            "create config app_conf",
            "remove service app_db",
            "update service app_web"
        ]
    );
    assert_eq!(second.changes[2].changes, ["Image: img:1 -> img:2"]);
    cluster.ask(deploy(next.clone(), true)).unwrap();
    cluster.converge();
    assert_eq!(lines(&plan(&cluster, &deploy(next, true))), [""; 0]);
    let text = serde_json::to_string(&second).unwrap();
    assert!(!text.contains("hush") && !text.contains("aHVzaA"), "{text}");
}

#[test]
fn a_deploy_of_a_plan_is_refused_once_the_stack_is_another() {
    let mut cluster = cluster(2);
    cluster.ask(deploy(stack("img:1"), false)).unwrap();
    cluster.converge();
    let basis = plan(&cluster, &deploy(stack("img:2"), false)).basis;
    let planned = |basis: &str| ControlRequest::DeployStack {
        spec: Box::new(stack("img:2")),
        prune: false,
        basis: Some(basis.to_owned()),
        wish: Default::default(),
    };
    cluster.update("app_db", |spec| {
        spec.labels.insert("a".to_owned(), "b".to_owned());
    });
    assert_eq!(
        cluster.refusal(planned(&basis)),
        "stack app has changed since it was planned: plan it again"
    );
    let basis = plan(&cluster, &deploy(stack("img:2"), false)).basis;
    // What others do does not matter.
    cluster.create(spec("other", 1, ""));
    cluster.ask(planned(&basis)).unwrap();
}

#[test]
fn a_rollback_brings_back_all_of_a_revision() {
    let mut cluster = cluster(2);
    cluster.ask(deploy(stack("img:1"), false)).unwrap();
    cluster.converge();
    let mut next = stack("img:2");
    next.services.push(spec("app_new", 1, ""));
    next.networks.push(NetworkSpec {
        name: "app_more".into(),
        ..NetworkSpec::default()
    });
    cluster.ask(deploy(next, false)).unwrap();
    cluster.converge();
    assert_eq!(present(&cluster).revision, 2);

    let told = plan(&cluster, &back(0));
    assert_eq!(
        lines(&told),
        [
            "remove network app_more",
            "remove service app_new",
            "update service app_web"
        ]
    );
    assert_eq!(told.changes[1].action, ObjectAction::Remove);
    cluster.ask(back(0)).unwrap();
    cluster.converge();
    let stack = present(&cluster);
    assert_eq!(
        (stack.revision, stack.because.as_str()),
        (3, "rolled back to 1")
    );
    assert!(
        cluster
            .live("app_web")
            .iter()
            .all(|task| task.spec.image() == "img:1")
    );
    assert!(cluster.tasks("app_new").is_empty());
    assert!(cluster.view().by_name::<Network>("app_more").is_none());
    // And forward again, by number.
    cluster.ask(back(2)).unwrap();
    cluster.converge();
    assert!(
        cluster
            .live("app_web")
            .iter()
            .all(|task| task.spec.image() == "img:2")
    );
    assert_eq!(cluster.live("app_new").len(), 1);
    let numbers: Vec<u64> = present(&cluster)
        .history
        .iter()
        .map(|past| past.number)
        .collect();
    assert_eq!(numbers, [3, 2, 1]);
}

#[test]
fn what_cannot_be_gone_back_to_says_why() {
    let mut cluster = cluster(2);
    assert!(cluster.refusal(back(0)).contains("has no revisions"));
    cluster.ask(deploy(stack("img:1"), false)).unwrap();
    assert!(cluster.refusal(back(0)).contains("no revision before"));
    assert!(cluster.refusal(back(1)).contains("is the present one"));
    assert!(cluster.refusal(back(7)).contains("no revision 7"));
    let mut next = stack("img:1");
    next.secrets.clear();
    let container = next.services[0]
        .task_template
        .container_spec
        .as_mut()
        .unwrap();
    container.secrets.clear();
    let done = cluster.ask(deploy(next, true)).unwrap();
    cluster.converge();
    let kept = "Keeping secret app_key for rollbacks".to_owned();
    assert!(done.actions.contains(&kept), "{:?}", done.actions);
    let secret = cluster
        .view()
        .by_name::<Secret>("app_key")
        .unwrap()
        .id
        .clone();
    // A user can do away with it all the same.
    cluster
        .ask(ControlRequest::RemoveSecret { id: secret })
        .unwrap();
    assert_eq!(
        cluster.refusal(back(1)),
        "revision 1 of stack app needs secret app_key, which was removed: create it again first"
    );
    assert_eq!(present(&cluster).revision, 2, "nothing was changed");
}

#[test]
fn pruning_leaves_what_others_use_and_says_so() {
    let mut cluster = cluster(2);
    let mut first = stack("img:1");
    first.networks.push(NetworkSpec {
        name: "app_more".into(),
        ..NetworkSpec::default()
    });
    cluster.ask(deploy(first, false)).unwrap();
    let other = r#"{"TaskTemplate":{"Networks":[{"Target":"app_more"}]}}"#;
    cluster.create(spec("other", 1, other));
    cluster.wait(Duration::from_secs(1));
    let done = cluster.ask(deploy(stack("img:1"), true)).unwrap();
    let id = cluster.network("app_more").id;
    let other = cluster.service("other").id;
    assert_eq!(
        done.warnings,
        [format!(
            "network app_more is not removed: network {id} is in use by service {other}"
        )]
    );
}

/// An update that fails goes back to a spec that names what the deploy has no more.
#[test]
fn pruning_leaves_what_the_way_back_needs() {
    let with = |config: &str, image: &str| {
        let mut stack = stack(image);
        stack.configs.push(ConfigSpec {
            name: config.into(),
            data: config.as_bytes().to_vec(),
            ..ConfigSpec::default()
        });
        let container = stack.services[1].task_template.container_spec.as_mut();
        container.unwrap().configs = serde_json::from_str(&format!(
            r#"[{{"ConfigName":"{config}","File":{{"Name":"/c"}}}}]"#
        ))
        .unwrap();
        stack
    };
    let mut cluster = cluster(2);
    cluster.ask(deploy(with("app_one", "img:1"), true)).unwrap();
    cluster.converge();
    cluster.ask(deploy(with("app_two", "img:1"), true)).unwrap();
    cluster.converge();
    assert!(cluster.view().by_name::<Config>("app_one").is_some());
    cluster.ask(cluster.rollback("app_db")).unwrap();
    cluster.converge();
    assert_eq!(cluster.live("app_db").len(), 1);
    cluster.ask(back(1)).unwrap();
    cluster.converge();
    // Nothing that was given away is missed on the way forward either.
    cluster.ask(back(2)).unwrap();
    assert!(cluster.view().by_name::<Config>("app_two").is_some());
}

fn secret_of(cluster: &Cluster) -> (u64, Vec<u8>) {
    use skep_model::payload::Payload as _;
    let view = cluster.view();
    let secret = view.by_name::<Secret>("app_key").unwrap();
    (secret.number(), secret.spec.data.clone())
}

#[test]
fn other_bytes_of_a_secret_are_its_next_version_and_a_rollback_brings_the_old_ones_back() {
    let mut cluster = cluster(2);
    let mut wanted = stack("img:1");
    cluster.ask(deploy(wanted.clone(), false)).unwrap();
    cluster.converge();
    wanted.secrets[0].data = b"louder".to_vec();
    let told = plan(&cluster, &deploy(wanted.clone(), false));
    assert_eq!(
        lines(&told),
        ["update secret app_key", "update service app_web"]
    );
    assert_eq!(told.changes[0].changes, ["other bytes: the next version"]);
    let text = serde_json::to_string(&told).unwrap();
    assert!(
        !text.contains("bG91ZGVy") && !text.contains("aHVzaA"),
        "{text}"
    );
    let done = cluster.ask(deploy(wanted.clone(), false)).unwrap();
    assert!(
        done.actions.contains(&"Updating secret app_key".to_owned()),
        "{done:?}"
    );
    assert_eq!(secret_of(&cluster), (2, b"louder".to_vec()));
    let old: Vec<_> = cluster
        .live("app_web")
        .iter()
        .map(|task| task.id.clone())
        .collect();
    cluster.converge();
    let new = cluster.live("app_web");
    assert!(
        new.iter().all(|task| !old.contains(&task.id)),
        "its users have followed"
    );
    assert_eq!(present(&cluster).revision, 2);
    assert_eq!(lines(&plan(&cluster, &deploy(wanted, false))), [""; 0]);
    cluster.ask(back(0)).unwrap();
    assert_eq!(secret_of(&cluster), (3, b"hush".to_vec()));
    cluster.converge();
    cluster.ask(back(2)).unwrap();
    assert_eq!(secret_of(&cluster), (4, b"louder".to_vec()));
}

#[test]
fn what_other_clients_made_of_a_stack_can_be_gone_back_to() {
    let mut cluster = cluster(2);
    // As docker's client does it: one by one, with the stack's label.
    let labelled = |name: &str, image: &str| {
        let mut spec = spec(
            name,
            1,
            r#"{"Labels":{"com.docker.stack.namespace":"app"}}"#,
        );
        spec.task_template.container_spec.as_mut().unwrap().image = image.to_owned();
        spec
    };
    cluster.create(labelled("app_web", "theirs:1"));
    cluster.create(labelled("app_old", "theirs:1"));
    cluster.converge();
    let ours = || StackSpec {
        name: "app".into(),
        services: vec![labelled("app_web", "ours:1")],
        ..StackSpec::default()
    };
    cluster.ask(deploy(ours(), true)).unwrap();
    cluster.converge();
    let stack = present(&cluster);
    assert_eq!(
        (stack.revision, stack.history[0].because.as_str()),
        (2, "deployed by another client")
    );
    cluster.ask(back(0)).unwrap();
    cluster.converge();
    assert_eq!(cluster.live("app_web")[0].spec.image(), "theirs:1");
    assert_eq!(cluster.live("app_old").len(), 1);
    // A change by hand is a revision as soon as the stack is deployed again; being scaled is none.
    let before = present(&cluster).revision;
    cluster.update("app_web", support::scale(2));
    cluster.ask(deploy(ours(), true)).unwrap();
    assert_eq!(present(&cluster).revision, before + 1);
    cluster.converge();
    cluster.set_image("app_web", "mended:1");
    cluster.converge();
    cluster.ask(deploy(ours(), true)).unwrap();
    let stack = present(&cluster);
    assert_eq!(stack.history[0].because, "changed by another client");
    assert_eq!(
        stack.history[0].spec.services[0].task_template.image(),
        "mended:1"
    );
}
