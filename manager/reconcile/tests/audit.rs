//! The audit finds what was put wrong on purpose, and nothing in a sound cluster.

mod support;

use skep_model::audit::FindingKind;
use skep_model::node::NetworkProblem;
use skep_model::{ControlRequest, GuestContainer, NetworkSpec, Node, Service, Task, Timestamp};
use skep_reconcile::audit::audit;
use skep_store::Transaction;
use support::{Cluster, cluster, spec};

fn sound() -> Cluster {
    let mut cluster = cluster(2);
    cluster
        .ask(ControlRequest::CreateNetwork {
            spec: Box::new(NetworkSpec {
                name: "net".into(),
                attachable: true,
                ..NetworkSpec::default()
            }),
        })
        .unwrap();
    cluster.settle();
    cluster.create(spec(
        "web",
        2,
        r#"{"TaskTemplate":{"Networks":[{"Target":"net"}]},"EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]}}"#,
    ));
    cluster
        .ask(ControlRequest::Attach {
            node: "n1".into(),
            network: "net".into(),
            container: Box::new(GuestContainer {
                id: "c".into(),
                name: "box".into(),
                ..GuestContainer::default()
            }),
            addresses: Vec::new(),
        })
        .unwrap();
    cluster.settle();
    cluster
}

/// What is found once `wrong` was written.
fn found(wrong: impl FnOnce(&Cluster, &mut Transaction)) -> Vec<(FindingKind, String)> {
    let mut cluster = sound();
    let mut tx = Transaction::new(&cluster.view(), cluster.now);
    wrong(&cluster, &mut tx);
    let commit = tx.commit().unwrap();
    cluster.apply(&commit);
    let audit = audit(&cluster.view(), Timestamp(i64::MAX));
    let findings = audit.findings.into_iter();
    findings.map(|found| (found.kind, found.message)).collect()
}

#[test]
fn a_sound_cluster_has_no_finding() {
    let audit = audit(&sound().view(), Timestamp(i64::MAX));
    assert_eq!(audit.findings, []);
    // Of web: address and two tasks on net, those again on ingress; a container; two nodes.
    assert_eq!((audit.networks, audit.nodes), (2, 2));
    assert!(audit.addresses >= 8, "{audit:?}");
}

#[test]
fn an_address_with_two_holders_is_named_with_both() {
    let findings = found(|cluster, tx| {
        let service = cluster.service("web");
        let vip = service.endpoint.virtual_ips[0].clone();
        let task = cluster.view().tasks().next().map(|task| Task::clone(task));
        let mut task = task.unwrap();
        for attachment in &mut task.attachments {
            if attachment.network_id == vip.network_id {
                attachment.addresses = vec![vip.addr.clone()];
            }
        }
        tx.put(task).unwrap();
    });
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, FindingKind::Address);
    assert!(
        findings[0].1.starts_with("service web and task "),
        "{findings:?}"
    );
}

#[test]
fn foreign_addresses_gone_networks_and_double_ports_are_named() {
    let findings = found(|cluster, tx| {
        let mut service = cluster.service("web");
        service.endpoint.virtual_ips[0].addr = "192.0.2.1/24".into();
        tx.put(service).unwrap();
    });
    assert_eq!(
        findings,
        [(
            FindingKind::Address,
            "service web has 192.0.2.1, which is outside of the network's subnets".to_owned()
        )]
    );
    let findings = found(|cluster, tx| {
        let mut other = Service {
            id: "other".into(),
            ..cluster.service("web")
        };
        other.spec.name = "other".into();
        other.endpoint.virtual_ips.clear();
        tx.put(other).unwrap();
    });
    assert!(
        findings
            .iter()
            .any(|(kind, message)| *kind == FindingKind::Port
                && message.contains("port '8080' is already in use by service")),
        "{findings:?}"
    );
}

#[test]
fn what_nodes_say_is_told_with_their_names() {
    let findings = found(|cluster, tx| {
        let view = cluster.view();
        let mut node = Node::clone(view.node(&"n0".into()).unwrap());
        node.description.hostname = "first".into();
        node.description.network_problems = vec![NetworkProblem {
            network: "net".into(),
            peer: "n1".into(),
            message: "large frames are lost".into(),
        }];
        tx.put(node).unwrap();
    });
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, FindingKind::Path);
    assert!(
        findings[0].1.ends_with("large frames are lost"),
        "{findings:?}"
    );
}
