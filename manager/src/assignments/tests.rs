use std::collections::BTreeMap;

use skep_model::container::{ContainerSpec, SecretReference};
use skep_model::network::IpamConfig;
use skep_model::service::VirtualIp;
use skep_model::task::{ContainerStatus, NetworkAttachment};
use skep_model::{
    Attachment, Config, Network, PortConfig, RegistryLogin, Secret, Service, Task, TaskState,
    Timestamp,
};
use skep_store::{Change, Commit, Key, Object, Store};

use super::*;

/// A store, filled object by object.
#[derive(Default)]
struct World {
    store: Store,
    version: u64,
}

impl World {
    /// Applies changes that may be: what the store refuses is left out.
    fn apply(&mut self, changes: Vec<Change>) {
        let commit = Commit {
            expected: Vec::new(),
            changes,
        };
        if self.store.apply(self.version + 1, &commit).is_ok() {
            self.version += 1;
        }
    }

    fn put(&mut self, object: Object) {
        self.apply(vec![Change::Put(object)]);
    }

    fn node(&mut self, id: &str, role: NodeRole) {
        let number = id.trim_start_matches('n').parse().unwrap_or(1);
        let mut node = Node {
            id: id.into(),
            index: number,
            role,
            ..Default::default()
        };
        node.spec.role = role;
        node.status.addr = format!("192.0.2.{number}");
        node.description.hostname = id.to_owned();
        node.description.takes_registry_logins = true;
        self.put(Object::Node(node.into()));
    }

    fn network(&mut self, id: &str) {
        let mut network = Network {
            id: id.into(),
            vni: 4096,
            ipam: vec![IpamConfig {
                subnet: Some("10.0.1.0/24".parse().unwrap()),
                ..Default::default()
            }],
            ..Default::default()
        };
        network.spec.name = id.to_owned();
        network.spec.ingress = id == "ingress";
        self.put(Object::Network(network.into()));
    }

    fn service(&mut self, id: &str, published: bool) {
        let mut service = Service {
            id: id.into(),
            ..Default::default()
        };
        service.spec.name = id.to_owned();
        service.endpoint.virtual_ips = vec![VirtualIp {
            network_id: "a".into(),
            addr: "10.0.1.2/24".to_owned(),
        }];
        if published {
            service.endpoint.ports = vec![PortConfig::default()];
        }
        self.put(Object::Service(service.into()));
    }

    fn task(&mut self, task: Task) {
        self.put(Object::Task(task.into()));
    }

    fn shared(&self) -> Shared {
        Shared::new(self.store.snapshot())
    }
}

fn task(id: &str, service: &str, node: &str, networks: &[&str]) -> Task {
    let reference = SecretReference {
        secret_id: "s".into(),
        ..Default::default()
    };
    let mut task = Task {
        id: id.into(),
        service_id: service.into(),
        service_name: service.to_owned(),
        slot: 1,
        node_id: node.into(),
        desired_state: TaskState::Running,
        attachments: networks
            .iter()
            .map(|network| NetworkAttachment {
                network_id: (*network).into(),
                addresses: vec![format!("10.0.1.{}/24", 3 + id.len())],
                aliases: Vec::new(),
            })
            .collect(),
        ..Default::default()
    };
    task.status.state = TaskState::Assigned;
    task.spec.container_spec = Some(ContainerSpec {
        secrets: vec![reference],
        hostname: "{{.Node.Hostname}}".to_owned(),
        ..Default::default()
    });
    task
}

/// Everything that a node is assigned, by key.
fn items(shared: &Shared, node: &str) -> BTreeMap<String, Bytes> {
    let change = Told::default().next(shared, &node.into()).unwrap();
    assert!(change.complete && change.remove.is_empty());
    let count = change.put.len();
    let items: BTreeMap<String, Bytes> = change
        .put
        .into_iter()
        .map(|item| (item.key, item.value))
        .collect();
    assert_eq!(items.len(), count, "each key once");
    items
}

fn peers(shared: &Shared, node: &str) -> Vec<String> {
    let keys = items(shared, node).into_keys();
    keys.filter_map(|key| key.strip_prefix("peer/").map(str::to_owned))
        .collect()
}

/// Four nodes, one of them a manager.
fn world() -> World {
    let mut world = World::default();
    world.node("n1", NodeRole::Manager);
    for id in ["n2", "n3", "n4"] {
        world.node(id, NodeRole::Worker);
    }
    let mut secret = Secret {
        id: "s".into(),
        ..Default::default()
    };
    secret.spec.name = "key".into();
    world.put(Object::Secret(secret.into()));
    world.network("ingress");
    world.network("a");
    world
}

#[test]
fn a_secret_goes_only_where_a_live_task_uses_it() {
    let mut world = world();
    world.task(task("t", "web", "n2", &[]));
    assert!(items(&world.shared(), "n2").contains_key("secret/s"));
    assert!(!items(&world.shared(), "n3").contains_key("secret/s"));
    let mut ending = task("t", "web", "n2", &[]);
    ending.desired_state = TaskState::Shutdown;
    world.task(ending);
    let items = items(&world.shared(), "n2");
    assert!(items.contains_key("task/t"), "it stays assigned");
    assert!(!items.contains_key("secret/s"));
}

#[test]
fn nodes_know_managers_and_those_they_share_a_network_with() {
    let mut world = world();
    assert_eq!(peers(&world.shared(), "n1"), ["n2", "n3", "n4"]);
    assert_eq!(peers(&world.shared(), "n2"), ["n1"]);
    world.task(task("t", "web", "n2", &["a"]));
    assert_eq!(peers(&world.shared(), "n2"), ["n1"]);
    world.task(task("u", "web", "n3", &["a"]));
    assert_eq!(peers(&world.shared(), "n2"), ["n1", "n3"]);
    assert_eq!(peers(&world.shared(), "n3"), ["n1", "n2"]);
    assert_eq!(peers(&world.shared(), "n4"), ["n1"]);
    // Any node may be asked for a published port.
    world.task(task("v", "published", "n4", &["ingress"]));
    assert_eq!(peers(&world.shared(), "n4"), ["n1", "n2", "n3"]);
    assert_eq!(peers(&world.shared(), "n2"), ["n1", "n3", "n4"]);
}

#[test]
fn a_new_node_is_news_for_managers_alone() {
    let mut world = world();
    world.task(task("t", "web", "n2", &["a"]));
    let before = world.shared();
    world.node("n5", NodeRole::Worker);
    let (_, affected) = before.follow(world.store.snapshot());
    let nodes: Vec<&str> = affected
        .nodes()
        .unwrap()
        .iter()
        .map(NodeId::as_str)
        .collect();
    assert_eq!(nodes, ["n1", "n5"]);
}

/// Changes what is known of a node.
fn change(world: &mut World, id: &str, edit: impl FnOnce(&mut Node)) {
    let mut node = Node::clone(world.store.snapshot().node(&id.into()).unwrap());
    edit(&mut node);
    world.put(Object::Node(node.into()));
}

#[test]
fn a_node_that_moves_is_news_also_where_its_task_is_only_expected() {
    let mut world = world();
    world.task(task("t", "web", "n2", &["a"]));
    let mut expected = task("u", "web", "n3", &["a"]);
    expected.status.state = TaskState::Pending;
    world.task(expected);
    let before = world.shared();
    assert_eq!(peers(&before, "n2"), ["n1", "n3"]);
    change(&mut world, "n3", |node| {
        node.status.addr = "192.0.2.77".into();
    });
    let (_, affected) = before.follow(world.store.snapshot());
    assert!(affected.contains(&"n2".into()), "{affected:?}");
}

#[test]
fn a_node_that_is_no_manager_any_more_is_known_to_its_own_alone() {
    let mut world = world();
    change(&mut world, "n3", |node| {
        node.manager_status = Some(Default::default());
    });
    let before = world.shared();
    assert_eq!(peers(&before, "n2"), ["n1", "n3"]);
    change(&mut world, "n3", |node| node.manager_status = None);
    let (shared, affected) = before.follow(world.store.snapshot());
    assert!(affected.contains(&"n2".into()), "{affected:?}");
    assert_eq!(peers(&shared, "n2"), ["n1"]);
}

#[test]
fn a_node_is_called_that_is_to_renew_and_all_are_that_are_to_trust_another_root() {
    let mut world = world();
    let before = world.shared();
    let mut node = Node::clone(world.store.snapshot().node(&"n3".into()).unwrap());
    node.renewal = Some(skep_model::node::RenewalOrder {
        issuer: "next".to_owned(),
        at: Timestamp::from_secs(9),
    });
    world.put(Object::Node(node.into()));
    let (told, affected) = before.follow(world.store.snapshot());
    assert_eq!(affected.nodes(), Some(&BTreeSet::from(["n3".into()])));
    let mut cluster = skep_model::Cluster::default();
    cluster.root_ca.cert = "A".to_owned();
    world.put(Object::Cluster(cluster.into()));
    let (shared, affected) = told.follow(world.store.snapshot());
    assert_eq!(affected.nodes(), None);
    assert_eq!(shared.trusted_roots(), "A");
}

#[test]
fn what_an_agent_says_of_its_task_is_no_news_to_it() {
    let mut world = world();
    world.service("web", false);
    world.task(task("t", "web", "n2", &["a"]));
    world.task(task("u", "web", "n3", &["a"]));
    let shared = world.shared();
    let mut told = Told::default();
    told.next(&shared, &"n2".into());
    let mut prepares = task("t", "web", "n2", &["a"]);
    prepares.status.state = TaskState::Preparing;
    world.task(prepares);
    let (shared, affected) = shared.follow(world.store.snapshot());
    assert_eq!(affected, Affected::default());
    assert_eq!(told.next(&shared, &"n2".into()), None);
    // That it runs is news to all who are on its network, but not as a task.
    let mut runs = task("t", "web", "n2", &["a"]);
    runs.status.state = TaskState::Running;
    runs.running_since = Timestamp::from_secs(9);
    world.task(runs);
    let (shared, affected) = shared.follow(world.store.snapshot());
    assert!(affected.contains(&"n3".into()) && !affected.contains(&"n4".into()));
    let change = told.next(&shared, &"n2".into()).unwrap();
    let keys: Vec<&str> = change.put.iter().map(|item| item.key.as_str()).collect();
    assert_eq!((keys, change.complete), (vec!["service/a/web"], false));
}

#[test]
fn everybody_is_called_when_somebody_waits_for_all() {
    let mut world = world();
    world.task(task("t", "web", "n2", &["a"]));
    let before = world.shared();
    let mut ending = task("t", "web", "n2", &["a"]);
    ending.desired_state = TaskState::Shutdown;
    world.task(ending);
    let (shared, affected) = before.follow(world.store.snapshot());
    assert_eq!(affected.nodes(), None);
    assert_eq!(**shared.awaited(), [world.version]);
    let (_, affected) = shared.follow(world.store.snapshot());
    assert_eq!(affected, Affected::default(), "once is enough");
}

/// Small numbers that look like chance, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.roll(all.len() as u64) as usize]
    }
}

const NODES: [&str; 6] = ["n1", "n2", "n3", "n4", "n5", "n6"];
const NETWORKS: [&str; 3] = ["ingress", "a", "b"];
const SERVICES: [&str; 3] = ["x", "y", "z"];

fn random_task(dice: &mut Dice, world: &World) -> Task {
    let id = format!("t{}", dice.roll(12));
    let states = [
        TaskState::Pending,
        TaskState::Assigned,
        TaskState::Running,
        TaskState::Shutdown,
    ];
    let networks: Vec<&str> = NETWORKS
        .into_iter()
        .chain(["host"])
        .filter(|_| dice.roll(3) == 0)
        .collect();
    let fresh = task(&id, dice.pick(&SERVICES), dice.pick(&NODES), &networks);
    let snapshot = world.store.snapshot();
    let known = snapshot.task(&fresh.id);
    let mut task = known.map_or(fresh, |known| Task::clone(known));
    task.status.state = states[dice.roll(4) as usize];
    if dice.roll(2) == 0 {
        task.desired_state = states[2 + dice.roll(2) as usize];
    }
    if task.status.state == TaskState::Running {
        task.running_since = Timestamp::from_secs(7);
        task.status.container_status = Some(ContainerStatus {
            container_id: "0123456789abcdef".to_owned(),
            ..Default::default()
        });
    }
    task
}

fn random_change(dice: &mut Dice, world: &mut World) {
    let remove = |key: Key| vec![Change::Remove(key)];
    match dice.roll(20) {
        0 => {
            let role = match dice.roll(3) {
                0 => NodeRole::Manager,
                _ => NodeRole::Worker,
            };
            world.node(dice.pick(&NODES), role);
        }
        1 => {
            let snapshot = world.store.snapshot();
            if let Some(node) = snapshot.node(&dice.pick(&NODES).into()) {
                let mut node = Node::clone(node);
                match dice.roll(4) {
                    0 => node.description.hostname.push('x'),
                    1 => node.status.addr = format!("192.0.2.{}", dice.roll(200)),
                    2 => {
                        let status = skep_model::node::ManagerStatus::default();
                        node.manager_status = (dice.roll(2) == 0).then_some(status);
                    }
                    _ => node.index = dice.roll(4) as u16,
                }
                world.put(Object::Node(node.into()));
            }
        }
        2 => world.apply(remove(Key::Node(dice.pick(&NODES).into()))),
        3 | 4 => world.network(dice.pick(&NETWORKS)),
        5 => world.apply(remove(Key::Network(dice.pick(&NETWORKS).into()))),
        6 | 7 => world.service(dice.pick(&SERVICES), dice.roll(2) == 0),
        8 => world.apply(remove(Key::Service(dice.pick(&SERVICES).into()))),
        9 => {
            let id = format!("t{}", dice.roll(12));
            world.apply(remove(Key::Task(id.as_str().into())));
        }
        10 => {
            let mut place = Attachment {
                id: dice.pick(&["p", "q"]).into(),
                node_id: dice.pick(&NODES).into(),
                network_id: dice.pick(&NETWORKS).into(),
                addresses: vec!["10.0.1.99/24".to_owned()],
                ..Default::default()
            };
            place.container.id = format!("container{}", dice.roll(3));
            place.container.name = place.id.to_string();
            world.put(Object::Attachment(place.into()));
        }
        11 => world.apply(remove(Key::Attachment(dice.pick(&["p", "q"]).into()))),
        12 if dice.roll(3) == 0 => world.apply(remove(Key::RegistryLogin("l".into()))),
        12 if dice.roll(2) == 0 => {
            // The images of tasks in here name no registry.
            let mut login = RegistryLogin {
                id: "l".into(),
                ..Default::default()
            };
            login.spec.host = "docker.io".to_owned();
            login.spec.password = dice.roll(9).to_string();
            world.put(Object::RegistryLogin(login.into()));
        }
        12 => {
            let mut config = Config {
                id: "c".into(),
                ..Default::default()
            };
            config.spec.name = "conf".to_owned();
            config.spec.data = vec![dice.roll(9) as u8];
            world.put(Object::Config(config.into()));
        }
        _ => world.task(random_task(dice, world)),
    }
}

/// Whatever happens, whoever follows step by step, and looks only when called, knows what whoever
/// begins now is told.
#[test]
fn following_leads_to_the_same_as_beginning() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut world = world();
        let mut shared = Shared::default();
        let mut known: BTreeMap<&str, (Told, BTreeMap<String, Bytes>)> = BTreeMap::new();
        for round in 0..60 {
            for _ in 0..dice.roll(4) {
                random_change(&mut dice, &mut world);
            }
            let (next, affected) = shared.follow(world.store.snapshot());
            shared = next;
            let begun = world.shared();
            for node in NODES {
                let wanted = items(&begun, node);
                let (told, have) = known.entry(node).or_default();
                if round == 0 || affected.contains(&node.into()) {
                    let change = told.next(&shared, &node.into()).unwrap_or_default();
                    for key in &change.remove {
                        assert!(have.remove(key).is_some(), "seed {seed}: {key}");
                    }
                    for item in change.put {
                        have.insert(item.key, item.value);
                    }
                }
                let differ: Vec<&String> = wanted
                    .keys()
                    .chain(have.keys())
                    .filter(|key| wanted.get(*key) != have.get(*key))
                    .collect();
                assert!(
                    differ.is_empty(),
                    "seed {seed}, round {round}, {node}: {differ:?}"
                );
            }
        }
    }
}

/// Frames of strangers are dropped: whoever knows a node is known to it.
#[test]
fn knowing_is_mutual() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut world = world();
        for _ in 0..60 {
            random_change(&mut dice, &mut world);
        }
        let shared = world.shared();
        let snapshot = world.store.snapshot();
        let numbered = |node: &str| {
            snapshot
                .node(&node.into())
                .is_some_and(|node| node.index != 0)
        };
        let members = NODES.into_iter().filter(|node| numbered(node));
        let known: BTreeMap<&str, Vec<String>> =
            members.map(|node| (node, peers(&shared, node))).collect();
        for (node, peers) in &known {
            for peer in peers {
                let theirs = &known[peer.as_str()];
                // A task that is not assigned yet is known of already where its network is.
                let early = snapshot.tasks().any(|task| {
                    !task.node_id.is_empty() && task.status.state < TaskState::Assigned
                });
                assert!(
                    early || theirs.iter().any(|other| other == node),
                    "seed {seed}: {node} knows {peer}"
                );
            }
        }
    }
}
