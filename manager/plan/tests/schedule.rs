//! Which node: filters with their words, ranking, spreading, and what counts against a node.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_model::resources::{GenericResource, Resources};
use skep_model::service::Endpoint;
use skep_model::{
    Availability, MemoryBytes, NanoCpus, Node, NodeState, PortConfig, PublishMode, Task, TaskState,
    TaskStatus, Timestamp, Version,
};
use skep_plan::{NodeTable, schedule};

const NOW: Timestamp = Timestamp::from_secs(10_000);

fn node(id: &str, edit: impl FnOnce(&mut Node)) -> Node {
    let mut node = Node {
        id: id.into(),
        ..Node::default()
    };
    node.status.state = NodeState::Ready;
    node.description.resources = Resources {
        nano_cpus: NanoCpus(2_000_000_000),
        memory_bytes: MemoryBytes(1 << 30),
        generic_resources: Vec::new(),
    };
    node.description.platform.architecture = "x86_64".into();
    node.description.platform.os = "linux".into();
    edit(&mut node);
    node
}

fn plain(id: &str) -> Node {
    node(id, |_| ())
}

fn table(nodes: impl IntoIterator<Item = Node>) -> NodeTable {
    let mut table = NodeTable::new();
    for node in nodes {
        table.put_node(&Arc::new(node));
    }
    table
}

/// A pending task from the JSON of its spec.
fn task(id: &str, spec: &str) -> Task {
    let spec = match spec {
        "" => "{}",
        spec => spec,
    };
    Task {
        id: id.into(),
        service_id: "web".into(),
        spec_version: Version::at(1),
        spec: serde_json::from_str(spec).unwrap(),
        status: TaskStatus {
            state: TaskState::Pending,
            ..TaskStatus::default()
        },
        desired_state: TaskState::Running,
        ..Task::default()
    }
}

/// The same task as it is once it runs on `node`.
fn running(id: &str, service: &str, node: &str) -> Task {
    let mut task = task(id, "");
    task.service_id = service.into();
    task.node_id = node.into();
    task.status.state = TaskState::Running;
    task
}

/// Places `count` tasks and counts them per node; a task without a node counts under its reason.
fn place(table: &mut NodeTable, count: usize, spec: &str) -> BTreeMap<String, usize> {
    place_all(table, (0..count).map(|at| task(&format!("t{at}"), spec)))
}

fn place_all(
    table: &mut NodeTable,
    tasks: impl IntoIterator<Item = Task>,
) -> BTreeMap<String, usize> {
    let tasks: Vec<Arc<Task>> = tasks.into_iter().map(Arc::new).collect();
    let mut counts = BTreeMap::new();
    for outcome in schedule(table, &tasks, &BTreeMap::new(), NOW) {
        let place = match outcome.result {
            Ok(placed) => placed.node.to_string(),
            Err(reason) => reason.explanation,
        };
        *counts.entry(place).or_default() += 1;
    }
    counts
}

fn check(got: BTreeMap<String, usize>, wanted: &[(&str, usize)]) {
    let wanted: BTreeMap<String, usize> = wanted
        .iter()
        .map(|(place, count)| ((*place).to_owned(), *count))
        .collect();
    assert_eq!(got, wanted);
}

#[test]
fn a_task_on_an_encrypted_network_goes_only_where_frames_can_be_encrypted() {
    use skep_model::encryption::EncryptionMethod::{Kernel, Userspace};

    let able = |id: &str, method| node(id, |node| node.description.encryption.method = method);
    let attached = |id: &str, network: &str| {
        let mut task = task(id, "");
        task.attachments = vec![skep_model::task::NetworkAttachment {
            network_id: network.into(),
            ..Default::default()
        }];
        task
    };
    let tasks = |network| (0..4).map(move |at| attached(&format!("t{at}"), network));
    let nodes = || [plain("a"), able("b", Kernel), able("c", Userspace)];
    let mut nodes_of = table(nodes());
    nodes_of.set_encrypted(["secret".into()]);
    check(
        place_all(&mut nodes_of.clone(), tasks("secret")),
        &[("b", 2), ("c", 2)],
    );
    check(
        place_all(&mut nodes_of, tasks("open").take(3)),
        &[("a", 1), ("b", 1), ("c", 1)],
    );
    let mut unable = table([plain("a"), plain("b")]);
    unable.set_encrypted(["secret".into()]);
    check(
        place_all(&mut unable, tasks("secret").take(1)),
        &[(
            "no suitable node (network encryption not possible on 2 nodes)",
            1,
        )],
    );
}

#[test]
fn a_task_with_secrets_as_variables_goes_only_where_they_are_known() {
    let with_target = |target: &str| {
        let text = format!(
            r#"{{"ContainerSpec":{{"Secrets":[{{"SecretName":"key","File":{{"Name":"{target}"}}}}]}}}}"#
        );
        (0..2).map(move |at| task(&format!("t{at}"), &text))
    };
    let newer = node("b", |node| node.description.knows_variables = true);
    let nodes = table([plain("a"), newer]);
    check(
        place_all(&mut nodes.clone(), with_target("env:KEY")),
        &[("b", 2)],
    );
    check(
        place_all(&mut nodes.clone(), with_target("key")),
        &[("a", 1), ("b", 1)],
    );
    check(
        place_all(&mut table([plain("a")]), with_target("env:KEY").take(1)),
        &[(
            "no suitable node (secrets as variables not possible on 1 node)",
            1,
        )],
    );
}

#[test]
fn each_filter_says_in_its_own_words_why_there_is_no_node() {
    let three = || table([plain("a"), plain("b"), plain("c")]);
    let cases = [
        (
            r#"{"Resources":{"Reservations":{"NanoCPUs":3000000000}}}"#,
            "insufficient resources on 3 nodes",
        ),
        (
            r#"{"Resources":{"Reservations":{"MemoryBytes":2000000000}}}"#,
            "insufficient resources on 3 nodes",
        ),
        (
            r#"{"Resources":{"Reservations":{"GenericResources":[{"DiscreteResourceSpec":{"Kind":"GPU","Value":1}}]}}}"#,
            "insufficient resources on 3 nodes",
        ),
        (
            r#"{"Placement":{"Constraints":["node.labels.zone==x"]}}"#,
            "scheduling constraints not satisfied on 3 nodes",
        ),
        (
            r#"{"Placement":{"Platforms":[{"Architecture":"arm64","OS":"linux"}]}}"#,
            "unsupported platform on 3 nodes",
        ),
    ];
    for (spec, words) in cases {
        check(
            place(&mut three(), 1, spec),
            &[(&format!("no suitable node ({words})"), 1)],
        );
    }
    check(place(&mut table([]), 1, ""), &[("no suitable node", 1)]);
}

#[test]
fn the_most_frequent_reason_comes_first() {
    let mut table = table([
        plain("a"),
        plain("b"),
        node("c", |node| node.spec.availability = Availability::Drain),
        node("d", |node| {
            node.spec.labels.insert("zone".into(), "x".into());
            node.description.resources = Resources::default();
        }),
    ]);
    let spec = r#"{"Placement":{"Constraints":["node.labels.zone==x"]},
        "Resources":{"Reservations":{"NanoCPUs":1}}}"#;
    check(
        place(&mut table, 1, spec),
        &[(
            "no suitable node (scheduling constraints not satisfied on 2 nodes; 1 node not available for new tasks; insufficient resources on 1 node)",
            1,
        )],
    );
}

#[test]
fn tasks_go_where_the_service_and_then_the_cluster_has_fewest() {
    let mut table = table([plain("a"), plain("b"), plain("c")]);
    table.task_changed(None, Some(&running("x", "web", "a")));
    table.task_changed(None, Some(&running("y", "db", "b")));
    check(place(&mut table, 1, ""), &[("c", 1)]);
    check(place(&mut table, 1, ""), &[("b", 1)]);
    check(place(&mut table, 6, ""), &[("a", 2), ("b", 2), ("c", 2)]);
}

#[test]
fn platforms_have_two_names() {
    let mut table = table([plain("a")]);
    let spec = r#"{"Placement":{"Platforms":[{"Architecture":"arm64","OS":"linux"},{"Architecture":"amd64","OS":"linux"}]}}"#;
    check(place(&mut table, 1, spec), &[("a", 1)]);
}

#[test]
fn a_node_is_filled_up_to_its_reservations_and_room_comes_back() {
    let spec = r#"{"Resources":{"Reservations":{"NanoCPUs":1000000000}}}"#;
    let full = "no suitable node (insufficient resources on 1 node)";
    let mut table = table([plain("a")]);
    check(place(&mut table, 3, spec), &[("a", 2), (full, 1)]);

    let mut gone = task("t0", spec);
    gone.node_id = "a".into();
    gone.status.state = TaskState::Running;
    let mut stopping = gone.clone();
    stopping.desired_state = TaskState::Shutdown;
    table.task_changed(Some(&gone), Some(&stopping));
    check(place(&mut table, 1, spec), &[(full, 1)]);
    let mut stopped = stopping.clone();
    stopped.status.state = TaskState::Shutdown;
    table.task_changed(Some(&stopping), Some(&stopped));
    check(place(&mut table, 1, spec), &[("a", 1)]);
}

#[test]
fn limits_never_influence_placement() {
    let mut table = table([plain("a")]);
    let spec = r#"{"Resources":{"Limits":{"NanoCPUs":64000000000,"MemoryBytes":99000000000}}}"#;
    check(place(&mut table, 5, spec), &[("a", 5)]);
}

#[test]
fn at_most_so_many_replicas_per_node() {
    let mut table = table([plain("a"), plain("b")]);
    check(
        place(&mut table, 5, r#"{"Placement":{"MaxReplicas":2}}"#),
        &[
            ("a", 2),
            ("b", 2),
            ("no suitable node (max replicas per node limit exceed)", 1),
        ],
    );
}

#[test]
fn a_host_port_serves_one_task_per_node() {
    let published = |id: &str| {
        let mut task = task(id, "");
        task.endpoint = Some(Endpoint {
            ports: vec![PortConfig {
                target_port: 80,
                published_port: 80,
                publish_mode: PublishMode::Host,
                ..PortConfig::default()
            }],
            ..Endpoint::default()
        });
        task
    };
    let mut table = table([plain("a"), plain("b")]);
    check(
        place_all(&mut table, ["1", "2", "3"].map(published)),
        &[
            ("a", 1),
            ("b", 1),
            (
                "no suitable node (host-mode port already in use on 2 nodes)",
                1,
            ),
        ],
    );
}

#[test]
fn a_node_where_the_version_keeps_failing_is_a_last_resort() {
    let mut table = table([plain("a"), plain("b")]);
    for at in 0..5 {
        let before = running(&format!("f{at}"), "web", "a");
        table.task_changed(None, Some(&before));
        let mut failed = before.clone();
        failed.status.state = TaskState::Failed;
        failed.status.applied_at = NOW;
        table.task_changed(Some(&before), Some(&failed));
    }
    check(place(&mut table, 4, ""), &[("b", 4)]);
    let mut newer = task("n", "");
    newer.spec_version = Version::at(2);
    check(place_all(&mut table, [newer]), &[("a", 1)]);
}

fn zoned(id: &str, zone: &str, rack: &str) -> Node {
    node(id, |node| {
        node.spec.labels.insert("zone".into(), zone.into());
        node.description
            .engine
            .labels
            .insert("rack".into(), rack.into());
    })
}

#[test]
fn spreading_evens_label_values_not_nodes() {
    let preference =
        r#"{"Placement":{"Preferences":[{"Spread":{"SpreadDescriptor":"node.labels.zone"}}]}}"#;
    let mut table = table([
        zoned("a", "x", ""),
        zoned("b", "x", ""),
        zoned("c", "y", ""),
    ]);
    check(
        place(&mut table, 8, preference),
        &[("a", 2), ("b", 2), ("c", 4)],
    );
}

#[test]
fn nodes_without_the_label_are_one_more_group() {
    let preference =
        r#"{"Placement":{"Preferences":[{"Spread":{"SpreadDescriptor":"node.labels.zone"}}]}}"#;
    let mut table = table([zoned("a", "x", ""), plain("b"), plain("c")]);
    check(
        place(&mut table, 4, preference),
        &[("a", 2), ("b", 1), ("c", 1)],
    );
}

#[test]
fn spreading_starts_by_making_up_for_what_runs_and_nests() {
    let preferences = r#"{"Placement":{"Preferences":[
        {"Spread":{"SpreadDescriptor":"node.labels.zone"}},
        {"Spread":{"SpreadDescriptor":"engine.labels.rack"}}]}}"#;
    let mut table = table([
        zoned("a", "x", "1"),
        zoned("b", "x", "2"),
        zoned("c", "x", "2"),
        zoned("d", "y", "1"),
    ]);
    for at in 0..2 {
        table.task_changed(None, Some(&running(&format!("r{at}"), "web", "d")));
    }
    check(place(&mut table, 2, preferences), &[("a", 1), ("b", 1)]);
    check(
        place(&mut table, 4, preferences),
        &[("a", 1), ("c", 1), ("d", 2)],
    );
}

#[test]
fn a_full_branch_leaves_its_share_to_the_others() {
    let mut table = table([
        node("a", |node| {
            node.spec.labels.insert("zone".into(), "x".into());
            node.description.resources.nano_cpus = NanoCpus(1_000_000_000);
        }),
        zoned("b", "y", ""),
    ]);
    let spec = r#"{"Placement":{"Preferences":[{"Spread":{"SpreadDescriptor":"node.labels.zone"}}]},
        "Resources":{"Reservations":{"NanoCPUs":500000000}}}"#;
    check(place(&mut table, 6, spec), &[("a", 2), ("b", 4)]);
}

/// Each task takes a quarter of a node's processors.
#[test]
fn nodes_are_ranked_by_what_the_label_says() {
    for (ranking, wanted) in [
        ("tasks", [("a", 2), ("b", 2), ("c", 2)]),
        ("binpack", [("a", 2), ("b", 3), ("c", 1)]),
        ("reserved", [("a", 1), ("b", 2), ("c", 3)]),
    ] {
        let mut table = table(["a", "b", "c"].map(plain));
        let spec = r#"{"Resources":{"Reservations":{"NanoCPUs":500000000}}}"#;
        for (id, node, part) in [("x", "a", 2), ("y", "b", 1)] {
            let reserved = spec.replace("500000000", &(part * 500_000_000u64).to_string());
            let mut other = task(id, &reserved);
            other.service_id = "other".into();
            other.node_id = node.into();
            other.status.state = TaskState::Running;
            table.task_changed(None, Some(&other));
        }
        let tasks: Vec<Arc<Task>> = (0..6)
            .map(|number| {
                let mut task = task(&format!("t{number}"), spec);
                let label = ("skep.placement".to_owned(), ranking.to_owned());
                task.labels = BTreeMap::from([label]);
                Arc::new(task)
            })
            .collect();
        let mut got: BTreeMap<&str, usize> = wanted.iter().map(|(node, _)| (*node, 0)).collect();
        for outcome in schedule(&mut table, &tasks, &BTreeMap::new(), NOW) {
            let node = outcome.result.unwrap().node;
            *got.get_mut(node.as_str()).unwrap() += 1;
        }
        assert_eq!(got, BTreeMap::from(wanted), "{ranking}");
    }
}

#[test]
fn a_task_with_a_node_is_only_confirmed_there() {
    let mut preset = task("t", "");
    preset.node_id = "b".into();
    let mut table = table([
        plain("a"),
        node("b", |node| node.spec.availability = Availability::Pause),
    ]);
    check(
        place_all(&mut table, [preset.clone()]),
        &[("no suitable node (1 node not available for new tasks)", 1)],
    );
    table.put_node(&Arc::new(plain("b")));
    check(place_all(&mut table, [preset]), &[("b", 1)]);
}

#[test]
fn generic_resources_are_granted_by_name_or_number_and_given_back() {
    let named = |value: &str| GenericResource::Named {
        kind: "GPU".into(),
        value: value.into(),
    };
    let discrete = |kind: &str, value| GenericResource::Discrete {
        kind: kind.into(),
        value,
    };
    let offer = node("a", |node| {
        node.description.resources.generic_resources =
            vec![named("u1"), named("u2"), discrete("SSD", 3)];
    });
    let mut table = table([offer]);
    let spec = r#"{"Resources":{"Reservations":{"GenericResources":[
        {"DiscreteResourceSpec":{"Kind":"GPU","Value":1}},
        {"DiscreteResourceSpec":{"Kind":"SSD","Value":1}}]}}}"#;
    let tasks: Vec<Arc<Task>> = (0..3)
        .map(|at| Arc::new(task(&format!("t{at}"), spec)))
        .collect();
    let outcomes = schedule(&mut table, &tasks, &BTreeMap::new(), NOW);
    let granted = |at: usize| {
        outcomes[at]
            .result
            .clone()
            .map(|placed| placed.generic_resources)
    };
    assert_eq!(granted(0), Ok(vec![named("u1"), discrete("SSD", 1)]));
    assert_eq!(granted(1), Ok(vec![named("u2"), discrete("SSD", 1)]));
    assert!(granted(2).is_err());

    let mut ran = task("t0", spec);
    ran.node_id = "a".into();
    ran.status.state = TaskState::Running;
    ran.generic_resources = granted(0).unwrap();
    let mut ended = ran.clone();
    ended.status.state = TaskState::Failed;
    table.task_changed(Some(&ran), Some(&ended));
    let again = schedule(&mut table, &tasks[2..], &BTreeMap::new(), NOW);
    assert_eq!(
        again[0].result.clone().unwrap().generic_resources,
        granted(0).unwrap()
    );
}

#[test]
fn a_plugin_that_a_node_does_not_list_is_missing() {
    let lists = |name: &str| {
        node(name, |node| {
            node.description.engine.plugins = vec![skep_model::node::PluginDescription {
                kind: "Log".into(),
                name: name.into(),
            }];
        })
    };
    let mut table = table([lists("a"), lists("b")]);
    check(
        place(&mut table, 1, r#"{"LogDriver":{"Name":"b"}}"#),
        &[("b", 1)],
    );
    check(
        place(&mut table, 1, r#"{"LogDriver":{"Name":"c"}}"#),
        &[("no suitable node (missing plugin on 2 nodes)", 1)],
    );
}

/// Whatever is accounted for one by one must be the same as what is counted afresh.
#[test]
fn the_table_after_many_changes_is_the_table_of_what_is_left() {
    let nodes = ["a", "b", "c"];
    let mut state = 5u64;
    let mut next = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % bound
    };
    let mut tasks: BTreeMap<String, Task> = BTreeMap::new();
    let mut kept = table(nodes.map(plain));
    let spec = r#"{"Resources":{"Reservations":{"NanoCPUs":100000000}}}"#;
    for _ in 0..400 {
        let id = format!("t{}", next(20));
        let old = tasks.get(&id).cloned();
        let new = (next(4) > 0).then(|| {
            let mut new = old.clone().unwrap_or_else(|| task(&id, spec));
            new.node_id = nodes[next(3) as usize].into();
            new.status.state = skep_model::state::ALL_STATES[next(14) as usize];
            new.desired_state = skep_model::state::ALL_STATES[next(13) as usize];
            new
        });
        kept.task_changed(old.as_ref(), new.as_ref());
        match new {
            Some(new) => drop(tasks.insert(id, new)),
            None => drop(tasks.remove(&id)),
        }
    }
    let mut fresh = table(nodes.map(plain));
    for task in tasks.values() {
        fresh.task_changed(None, Some(task));
    }
    assert_eq!(place(&mut kept, 70, spec), place(&mut fresh, 70, spec));
}
