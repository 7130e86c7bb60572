//! Plain containers on attachable networks: who may join, which addresses they get.

mod support;

use std::net::IpAddr;

use skep_model::{Attachment, ControlRequest, GuestContainer, Kind, NetworkSpec};
use support::{Cluster, cluster, spec};

fn with_network(attachable: bool, subnet: &str) -> Cluster {
    let mut cluster = cluster(2);
    let mut network = NetworkSpec {
        name: "net".into(),
        attachable,
        ..NetworkSpec::default()
    };
    let config = format!(r#"{{"Configs":[{{"Subnet":"{subnet}"}}]}}"#);
    network.ipam = Some(serde_json::from_str(&config).unwrap());
    cluster
        .ask(ControlRequest::CreateNetwork {
            spec: Box::new(network),
        })
        .unwrap();
    cluster.settle();
    cluster
}

fn attach(node: &str, container: &str, addresses: &[&str]) -> ControlRequest {
    ControlRequest::Attach {
        node: node.into(),
        network: "net".into(),
        container: Box::new(GuestContainer {
            id: container.into(),
            name: format!("name-{container}"),
            ..GuestContainer::default()
        }),
        addresses: addresses
            .iter()
            .map(|text| text.parse::<IpAddr>().unwrap())
            .collect(),
    }
}

fn place(cluster: &Cluster, container: &str) -> Attachment {
    let view = cluster.view();
    let mut all = view.attachments();
    let found = all.find(|place| place.container.id == container);
    Attachment::clone(found.expect("the container has a place"))
}

#[test]
fn a_container_gets_an_address_that_nobody_else_has_and_gives_it_back() {
    let mut cluster = with_network(true, "10.9.0.0/29");
    cluster.create(spec(
        "web",
        1,
        r#"{"TaskTemplate":{"Networks":[{"Target":"net"}]}}"#,
    ));
    cluster.settle();
    cluster.ask(attach("n0", "a", &[])).unwrap();
    cluster.ask(attach("n1", "b", &["10.9.0.6"])).unwrap();
    cluster.settle();
    // .1 is the gateway, .2 the service's, .3 its task's.
    assert_eq!(place(&cluster, "a").addresses, ["10.9.0.4/29"]);
    assert_eq!(place(&cluster, "b").addresses, ["10.9.0.6/29"]);
    // Asking again changes nothing.
    let before = place(&cluster, "a");
    cluster.ask(attach("n0", "a", &[])).unwrap();
    cluster.settle();
    assert_eq!(place(&cluster, "a"), before);

    for container in ["c", "d"] {
        cluster.ask(attach("n0", container, &[])).unwrap();
    }
    cluster.settle();
    assert_eq!(place(&cluster, "c").addresses, ["10.9.0.5/29"]);
    assert_eq!(
        place(&cluster, "d").waits_for,
        "network net: no available IPv4 addresses on this network's address pools"
    );
    let network = cluster.network("net").id;
    let busy = cluster.refusal(ControlRequest::RemoveNetwork {
        id: network.clone(),
    });
    assert_eq!(
        busy,
        format!(
            "network {network} is in use by service {}",
            cluster.service("web").id
        )
    );
    cluster
        .ask(ControlRequest::Detach {
            node: "n0".into(),
            network,
            container: "a".into(),
        })
        .unwrap();
    cluster.ask(attach("n0", "d", &[])).unwrap();
    cluster.settle();
    assert_eq!(place(&cluster, "d").addresses, ["10.9.0.4/29"]);
}

#[test]
fn wrong_places_are_refused_with_their_reason() {
    let mut cluster = with_network(false, "10.9.0.0/24");
    let refused = cluster.ask(attach("n0", "a", &[])).unwrap_err();
    assert_eq!(
        (refused.kind, refused.message.as_str()),
        (
            Kind::PermissionDenied,
            "network net not manually attachable"
        )
    );

    let mut cluster = with_network(true, "10.9.0.0/24");
    for (container, address, reason) in [
        (
            "a",
            "10.8.0.1",
            "invalid config for network net: invalid endpoint settings:\nno configured subnet contains IP address 10.8.0.1",
        ),
        ("b", "10.9.0.1", "Address already in use"),
        ("c", "10.9.0.255", "Address already in use"),
    ] {
        cluster.ask(attach("n0", container, &[address])).unwrap();
        cluster.settle();
        assert_eq!(place(&cluster, container).waits_for, reason, "{address}");
    }
}

#[test]
fn places_go_with_their_node_and_hold_their_network() {
    let mut cluster = with_network(true, "10.9.0.0/24");
    cluster.ask(attach("n1", "a", &[])).unwrap();
    cluster.settle();
    let network = cluster.network("net").id;
    let busy = cluster.refusal(ControlRequest::RemoveNetwork {
        id: network.clone(),
    });
    assert_eq!(
        busy,
        format!("network {network} is in use by container name-a on node n1")
    );
    cluster
        .ask(ControlRequest::RemoveNode {
            id: "n1".into(),
            force: true,
        })
        .unwrap();
    assert_eq!(cluster.view().attachments().count(), 0);
    cluster
        .ask(ControlRequest::RemoveNetwork { id: network })
        .unwrap();
}
