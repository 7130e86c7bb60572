//! The network of the routing mesh, which can be replaced, and what published ports are asked.

mod support;

use skep_model::mount::Driver;
use skep_model::network::{IpamConfig, IpamOptions};
use skep_model::publish::PortSource;
use skep_model::{ControlRequest, Kind, NetworkSpec, TaskState};
use support::{Cluster, cluster, spec};

const PUBLISHED: &str = r#"{"EndpointSpec":{"Ports":[{"TargetPort":80,"PublishedPort":8080}]}}"#;

fn remove(cluster: &Cluster, name: &str) -> ControlRequest {
    ControlRequest::RemoveNetwork {
        id: cluster.network(name).id,
    }
}

fn ingress(name: &str, subnet: &str, ipv6_enabled: bool) -> ControlRequest {
    let options = [(
        "com.docker.network.driver.mtu".to_owned(),
        "1400".to_owned(),
    )];
    ControlRequest::CreateNetwork {
        spec: Box::new(NetworkSpec {
            name: name.to_owned(),
            ingress: true,
            ipv6_enabled,
            driver: Some(Driver {
                name: "overlay".to_owned(),
                options: options.into_iter().collect(),
            }),
            ipam: Some(IpamOptions {
                driver: None,
                configs: vec![IpamConfig {
                    subnet: Some(subnet.parse().unwrap()),
                    ..IpamConfig::default()
                }],
            }),
            ..NetworkSpec::default()
        }),
    }
}

fn node_addresses(cluster: &Cluster) -> Vec<String> {
    let view = cluster.view();
    let nodes = view.nodes().flat_map(|node| node.ingress_addresses.clone());
    nodes.collect()
}

#[test]
fn the_ingress_network_is_replaced_and_nodes_move_to_it() {
    let mut cluster = cluster(2);
    let before = node_addresses(&cluster);
    assert_eq!(before.len(), 4, "both families on both nodes: {before:?}");
    let second = cluster
        .ask(ingress("mine", "10.99.0.0/24", false))
        .unwrap_err();
    let id = cluster.network("ingress").id;
    assert_eq!(
        (second.kind, second.message),
        (
            Kind::Conflict,
            format!("ingress network ({id}) is already present")
        )
    );

    cluster.create(spec("web", 1, PUBLISHED));
    cluster.settle();
    let service = cluster.service("web").id;
    let removal = remove(&cluster, "ingress");
    assert_eq!(
        cluster.refusal(removal.clone()),
        format!("ingress network cannot be removed because service {service} depends on it")
    );
    cluster
        .ask(ControlRequest::RemoveService { id: service })
        .unwrap();
    cluster.obey();
    cluster.settle();
    cluster.ask(removal).unwrap();
    cluster.settle();
    assert!(node_addresses(&cluster).is_empty());

    // What needs it waits, and says for what.
    cluster.create(spec("later", 1, PUBLISHED));
    cluster.settle();
    let task = &cluster.tasks("later")[0];
    assert_eq!(task.status.state, TaskState::New);
    assert_eq!(task.status.err, "the ingress network is missing");

    cluster.ask(ingress("mine", "10.99.0.0/24", false)).unwrap();
    cluster.settle();
    // The first one went to the task that had waited.
    assert_eq!(node_addresses(&cluster), ["10.99.0.3/24", "10.99.0.4/24"]);
    assert_eq!(cluster.network("mine").mtu, 1400);
    assert_ne!(cluster.network("mine").vni, 4096, "its number rests");
    let task = &cluster.tasks("later")[0];
    assert_eq!(task.status.state, TaskState::Assigned);
    let address = &task.attachments[0].addresses[0];
    assert!(address.starts_with("10.99.0."), "{address}");
}

#[test]
fn an_mtu_that_no_link_has_is_refused() {
    let mut cluster = cluster(1);
    let mtu = |text: &str, ipv6_enabled| {
        let ControlRequest::CreateNetwork { mut spec } = ingress("x", "10.9.0.0/24", ipv6_enabled)
        else {
            unreachable!("it was made so")
        };
        spec.ingress = false;
        let options = &mut spec.driver.as_mut().unwrap().options;
        *options = [("com.docker.network.mtu".to_owned(), text.to_owned())].into();
        ControlRequest::CreateNetwork { spec }
    };
    for (text, v6, least) in [("x", false, 68), ("70000", false, 68), ("1200", true, 1280)] {
        assert_eq!(
            cluster.refusal(mtu(text, v6)),
            format!(
                "invalid value {text:?} for option com.docker.network.mtu: must be a number from {least} to 65535"
            )
        );
    }
    cluster.ask(mtu("1200", false)).unwrap();
    cluster.settle();
    assert_eq!(cluster.network("x").mtu, 1200);
}

#[test]
fn labels_change_what_a_port_is_asked_and_restart_nothing() {
    let mut cluster = cluster(1);
    cluster.create(spec("web", 1, PUBLISHED));
    cluster.converge();
    let before = cluster.live("web");
    cluster.update("web", |spec| {
        let label = ("skep.publish.8080.source".to_owned(), "snat".to_owned());
        spec.labels.extend([label]);
    });
    cluster.converge();
    let port = &cluster.service("web").endpoint.ports[0];
    assert_eq!((port.source, port.published_port), (PortSource::Snat, 8080));
    let ids = |tasks: &[skep_model::Task]| tasks.iter().map(|t| t.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&cluster.live("web")), ids(&before));

    let wrong = cluster.change("web", |spec| {
        let label = ("skep.publish.8080.source".to_owned(), "none".to_owned());
        spec.labels.extend([label]);
    });
    assert_eq!(
        cluster.refusal(wrong),
        "label `skep.publish.8080.source`: invalid source `none`: must be client, snat, proxy-protocol or proxy-protocol-v1"
    );
}

#[test]
fn a_number_has_one_user_per_address() {
    let mut cluster = cluster(1);
    let on = |name: &str, address: &str| ControlRequest::CreateService {
        spec: Box::new(spec(
            name,
            1,
            &format!(
                r#"{{"EndpointSpec":{{"Ports":[{{"TargetPort":80,"PublishedPort":8080,"HostIP":"{address}"}}]}}}}"#
            ),
        )),
    };
    cluster.ask(on("a", "10.0.0.5")).unwrap();
    cluster.ask(on("b", "10.0.0.6")).unwrap();
    cluster.converge();
    assert_eq!(cluster.service("b").endpoint.ports[0].host_ip, "10.0.0.6");
    let id = cluster.service("a").id;
    assert_eq!(
        cluster.refusal(on("c", "10.0.0.5")),
        format!("port '8080' is already in use by service 'a' ({id}) as an ingress port")
    );
    assert!(cluster.ask(on("d", "")).is_err(), "all addresses hold both");
    assert_eq!(
        cluster.refusal(on("e", "eth0")),
        "EndpointSpec: port 80/tcp: invalid host address `eth0`: must be an IPv4 or IPv6 address of the nodes"
    );
}
