//! Small decisions one by one: restarts, what is outdated, history, addresses, ports, numbers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use skep_model::cluster::RestingVni;
use skep_model::service::{EndpointSpec, JobStatus, ReplicatedJob, UpdateState, UpdateStatus};
use skep_model::task::{RestartCondition, RestartPolicy};
use skep_model::{
    Nanos, Node, PortConfig, PublishMode, Service, ServiceMode, Task, TaskState, TaskStatus,
    Timestamp, Version,
};
use skep_plan::allocate::addresses::{AddressPool, default_gateway};
use skep_plan::allocate::numbers::{choose_index, choose_vni, mtu};
use skep_plan::allocate::ports::PortsInUse;
use skep_plan::allocate::subnets;
use skep_plan::reap::reap;
use skep_plan::service::dirty::is_dirty;
use skep_plan::service::restart::{Restart, decide, earlier};

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn ended(id: &str, state: TaskState, secs: i64) -> Task {
    Task {
        id: id.into(),
        status: TaskStatus {
            state,
            applied_at: at(secs),
            ..TaskStatus::default()
        },
        desired_state: TaskState::Shutdown,
        created_at: at(secs - 1),
        slot: 1,
        ..Task::default()
    }
}

#[test]
fn every_condition_meets_every_end() {
    use RestartCondition::{Any, None, OnFailure};
    use TaskState::{Complete, Failed, Rejected, Shutdown};
    for (condition, state, is_job, again) in [
        (Any, Complete, false, true),
        (Any, Complete, true, false),
        (Any, Failed, false, true),
        (Any, Failed, true, true),
        (Any, Rejected, false, true),
        (Any, Shutdown, false, true),
        (OnFailure, Complete, false, false),
        (OnFailure, Failed, false, true),
        (OnFailure, Rejected, false, true),
        (OnFailure, Shutdown, false, true),
        (None, Complete, false, false),
        (None, Failed, false, false),
        (None, Shutdown, false, false),
    ] {
        let policy = RestartPolicy {
            condition,
            ..RestartPolicy::default()
        };
        let task = ended("t", state, 100);
        let decision = decide(&task, &policy, [&task], false, is_job);
        assert_eq!(
            decision != Restart::Never,
            again,
            "{condition:?} {state} job: {is_job}"
        );
    }
}

#[test]
fn attempts_are_counted_per_version_and_within_the_window() {
    let policy = |attempts, window: i64| RestartPolicy {
        max_attempts: Some(attempts),
        window: Some(Nanos::from_secs(window)),
        ..RestartPolicy::default()
    };
    let mut other_version = ended("v", TaskState::Failed, 99);
    other_version.spec_version = Version::at(9);
    let history = [
        ended("a", TaskState::Failed, 10),
        ended("b", TaskState::Failed, 90),
        ended("stopped", TaskState::Shutdown, 95),
        other_version,
        ended("c", TaskState::Failed, 100),
    ];
    for (attempts, window, again) in [
        (0, 0, true),
        (1, 0, false),
        (2, 0, false),
        (3, 0, true),
        (2, 20, true),
        (1, 20, false),
        (1, 5, true),
    ] {
        let decision = decide(
            &history[4],
            &policy(attempts, window),
            &history,
            false,
            false,
        );
        assert_eq!(
            decision != Restart::Never,
            again,
            "{attempts} in {window} s"
        );
    }
}

#[test]
fn attempts_of_tasks_that_did_not_count_them_are_found_in_history() {
    let mut tasks: Vec<Task> = (0..4)
        .map(|secs| ended(&format!("t{secs}"), TaskState::Failed, secs))
        .collect();
    tasks[0].status.state = TaskState::Shutdown;
    tasks[1].spec_version = Version::at(9);
    assert_eq!(earlier(&tasks[3], &tasks), 1);
    tasks[3].restarts = 5;
    assert_eq!(earlier(&tasks[3], &tasks), 5, "history is shorter");
}

#[test]
fn the_delay_is_skipped_when_the_node_is_lost() {
    let policy = RestartPolicy::default();
    let task = ended("t", TaskState::Failed, 100);
    let start = |hasty| match decide(&task, &policy, [&task], hasty, false) {
        Restart::At { start_at, .. } => start_at,
        Restart::Never => panic!("the policy is any"),
    };
    assert_eq!(start(false), at(105));
    assert_eq!(start(true), at(100));
}

#[test]
fn a_failure_in_the_delay_phase_is_not_answered_before_its_end() {
    let mut task = ended("t", TaskState::Rejected, 101);
    task.start_not_before = at(105);
    assert_eq!(
        decide(&task, &RestartPolicy::default(), [&task], false, false),
        Restart::At {
            make_at: at(105),
            start_at: at(110)
        }
    );
}

/// A service and a running task of its last version but one.
fn pair(task_spec: &str, wanted: &str) -> (Task, Service) {
    let mut service = Service {
        spec_version: Version::at(2),
        ..Service::default()
    };
    service.spec.task_template = serde_json::from_str(wanted).unwrap();
    let mut task = ended("t", TaskState::Running, 100);
    task.spec_version = Version::at(1);
    task.spec = serde_json::from_str(task_spec).unwrap();
    (task, service)
}

#[test]
fn specs_are_compared_by_meaning() {
    let mut labelled = Node::default();
    labelled.spec.labels.insert("zone".into(), "a".into());
    let cases = [
        ("{}", "{}", false),
        (
            "{}",
            r#"{"Resources":{},"RestartPolicy":{},"Placement":{}}"#,
            false,
        ),
        (
            r#"{"RestartPolicy":{"Delay":5000000000}}"#,
            r#"{"RestartPolicy":{"MaxAttempts":0,"Window":0}}"#,
            false,
        ),
        ("{}", r#"{"RestartPolicy":{"Condition":"none"}}"#, true),
        ("{}", r#"{"Runtime":"container"}"#, false),
        ("{}", r#"{"ForceUpdate":1}"#, true),
        ("{}", r#"{"PullCredentials":"x"}"#, false),
        (
            r#"{"ContainerSpec":{"Env":["A=1","B=2"]}}"#,
            r#"{"ContainerSpec":{"Env":["B=2","A=1"]}}"#,
            true,
        ),
        (
            r#"{"ContainerSpec":{"Labels":{"a":"1","b":"2"}}}"#,
            r#"{"ContainerSpec":{"Labels":{"b":"2","a":"1"}}}"#,
            false,
        ),
        (
            r#"{"Networks":[{"Target":"a"},{"Target":"b","Aliases":["x","y"]}]}"#,
            r#"{"Networks":[{"Target":"b","Aliases":["y","x"]},{"Target":"a"}]}"#,
            false,
        ),
        ("{}", r#"{"Networks":[{"Target":"a"}]}"#, true),
        (r#"{"LogDriver":{"Name":"json-file"}}"#, "{}", false),
        ("{}", r#"{"LogDriver":{"Name":"json-file"}}"#, true),
        (
            "{}",
            r#"{"Placement":{"Constraints":["node.labels.zone==a"]}}"#,
            false,
        ),
        (
            "{}",
            r#"{"Placement":{"Constraints":["node.labels.zone==b"]}}"#,
            true,
        ),
        ("{}", r#"{"Placement":{"MaxReplicas":1}}"#, false),
    ];
    for (had, wanted, dirty) in cases {
        let (task, service) = pair(had, wanted);
        assert_eq!(
            is_dirty(&task, &service, Some(&labelled)),
            dirty,
            "{had} to {wanted}"
        );
        let mut same_version = task.clone();
        same_version.spec_version = service.spec_version;
        assert!(!is_dirty(&same_version, &service, Some(&labelled)));
    }
}

#[test]
fn a_changed_endpoint_makes_tasks_outdated_and_a_changed_order_of_ports_does_not() {
    let port = |number| PortConfig {
        target_port: number,
        ..PortConfig::default()
    };
    let endpoint = |ports: &[u16]| EndpointSpec {
        ports: ports.iter().copied().map(port).collect(),
        ..EndpointSpec::default()
    };
    for (had, wanted, dirty) in [
        (endpoint(&[]), None, false),
        (endpoint(&[80, 81]), Some(endpoint(&[81, 80])), false),
        (endpoint(&[80]), Some(endpoint(&[81])), true),
        (endpoint(&[80]), None, true),
    ] {
        let (mut task, mut service) = pair("{}", "{}");
        let given = skep_model::service::Endpoint {
            spec: had,
            ..Default::default()
        };
        task.endpoint = Some(given);
        service.spec.endpoint_spec = wanted;
        assert_eq!(
            is_dirty(&task, &service, None),
            dirty,
            "{task:?} {service:?}"
        );
    }
}

#[test]
fn history_is_cut_at_the_limit_and_what_is_counted_stays() {
    let slot = |count: i64| -> Vec<Arc<Task>> {
        let mut tasks: Vec<Task> = (0..count)
            .map(|at| ended(&format!("t{at}"), TaskState::Failed, 10 + at))
            .collect();
        let last = tasks.last_mut().unwrap();
        last.status.state = TaskState::Running;
        last.desired_state = TaskState::Running;
        tasks.into_iter().map(Arc::new).collect()
    };
    let gone = |service: &Service, tasks: &[Arc<Task>], limit| {
        reap(Some(service), tasks, limit, at(100))
            .gone
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let mut service = Service::default();
    assert_eq!(gone(&service, &slot(7), 5), ["t0", "t1"]);
    assert_eq!(gone(&service, &slot(7), -1), [""; 0]);
    assert_eq!(
        gone(&service, &slot(3), 0),
        ["t0", "t1"],
        "the live one stays"
    );
    service.spec.task_template.restart_policy = Some(RestartPolicy {
        max_attempts: Some(100),
        ..RestartPolicy::default()
    });
    let mut counted = slot(7);
    Arc::make_mut(&mut counted[6]).restarts = 6;
    assert_eq!(
        gone(&service, &counted, 5),
        ["t0", "t1"],
        "the limit holds: attempts are counted elsewhere"
    );
    assert_eq!(
        gone(&service, &slot(7), 5),
        [""; 0],
        "tasks of before did not count theirs"
    );
    let policy = service.spec.task_template.restart_policy.as_mut().unwrap();
    (policy.max_attempts, policy.window) = (Some(5), Some(Nanos::from_secs(60)));
    assert_eq!(
        gone(&service, &slot(7), 2),
        ["t0"],
        "within a window: attempts and one more"
    );

    let mut updating = Service {
        update_status: Some(UpdateStatus {
            state: UpdateState::Updating,
            started_at: None,
            completed_at: None,
            message: String::new(),
        }),
        ..Service::default()
    };
    let mut tasks = slot(4);
    Arc::make_mut(&mut tasks[0]).by_update = true;
    assert_eq!(gone(&updating, &tasks, 2), ["t1", "t2"]);
    updating.update_status = None;
    assert_eq!(gone(&updating, &tasks, 2), ["t0", "t1"]);
}

#[test]
fn completions_of_the_present_iteration_are_never_forgotten() {
    let service = Service {
        spec: skep_model::ServiceSpec {
            mode: ServiceMode::ReplicatedJob(ReplicatedJob::default()),
            ..Default::default()
        },
        job_status: Some(JobStatus {
            job_iteration: Version::at(2),
            ..JobStatus::default()
        }),
        ..Service::default()
    };
    let task = |id: &str, iteration, secs| {
        let mut task = ended(id, TaskState::Complete, secs);
        task.job_iteration = Some(Version::at(iteration));
        Arc::new(task)
    };
    let tasks = [
        task("old", 1, 10),
        task("now", 2, 20),
        task("failed", 2, 30),
    ];
    assert_eq!(
        reap(Some(&service), &tasks, 1, at(100)).gone,
        ["old".into()]
    );
}

#[test]
fn finished_tasks_of_jobs_go_by_age_and_number_once_nobody_counts_them() {
    let mut service = Service {
        spec: skep_model::ServiceSpec {
            mode: ServiceMode::ReplicatedJob(ReplicatedJob::default()),
            ..Default::default()
        },
        job_status: Some(JobStatus {
            job_iteration: Version::at(2),
            ..JobStatus::default()
        }),
        ..Service::default()
    };
    let mut slot = 0;
    let mut task = |id: &str, iteration, secs| {
        slot += 1;
        let mut task = ended(id, TaskState::Complete, secs);
        (task.slot, task.job_iteration) = (slot, Some(Version::at(iteration)));
        Arc::new(task)
    };
    let tasks = [
        task("a", 1, 10),
        task("b", 1, 20),
        task("c", 2, 30),
        task("d", 2, 40),
    ];
    let look_at = |service: &Service, now| {
        let reaped = reap(Some(service), &tasks, 5, now);
        let gone: Vec<String> = reaped.gone.iter().map(ToString::to_string).collect();
        (gone.join(" "), reaped.wake_at)
    };
    let look = |service: &Service| look_at(service, at(70));
    let label = |service: &mut Service, key: &str, value: &str| {
        service.spec.labels = [(key.to_owned(), value.to_owned())].into();
    };
    assert_eq!(
        look(&service),
        (String::new(), None),
        "by default many are kept"
    );
    label(&mut service, "skep.job.keep", "1");
    assert_eq!(look(&service), ("a".into(), None), "the newest ones stay");
    label(&mut service, "skep.job.ttl", "55s");
    assert_eq!(look(&service), ("a".into(), Some(at(75))));
    label(&mut service, "skep.job.keep", "0");
    assert_eq!(
        look(&service).0,
        "b a",
        "a job that is under way counts by its tasks"
    );
    service.job_status.as_mut().unwrap().finished_at = Some(at(40));
    assert_eq!(look(&service).0, "b a", "who waits for it counts them");
    assert_eq!(look_at(&service, at(100)).0, "d c b a");
    label(&mut service, "skep.job.ttl", "65s");
    assert_eq!(look_at(&service, at(100)), ("c b a".into(), Some(at(105))));
}

#[test]
fn tasks_to_be_removed_go_once_nothing_of_them_can_run() {
    let task = |state| {
        let mut task = ended("t", state, 10);
        task.desired_state = TaskState::Remove;
        [Arc::new(task)]
    };
    for (state, goes) in [
        (TaskState::New, true),
        (TaskState::Pending, true),
        (TaskState::Assigned, false),
        (TaskState::Running, false),
        (TaskState::Shutdown, true),
        (TaskState::Orphaned, true),
    ] {
        assert_eq!(
            !reap(None, &task(state), 5, at(100)).gone.is_empty(),
            goes,
            "{state}"
        );
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_pool_hands_out_every_address_once_but_the_reserved_ones() {
    for (subnet, range, wanted) in [
        ("10.0.0.0/29", None, vec![2, 3, 4, 5, 6]),
        ("10.0.0.0/24", Some("10.0.0.8/30"), vec![8, 9, 10, 11]),
        ("10.0.0.0/30", None, vec![2]),
        ("10.0.0.0/31", None, vec![]),
        ("10.0.0.0/32", None, vec![]),
    ] {
        let subnet = net(subnet);
        let mut pool = AddressPool::new(subnet, range.map(net), Some(default_gateway(subnet)));
        let mut got = Vec::new();
        while let Some(address) = pool.take() {
            let IpAddr::V4(v4) = address.addr() else {
                panic!()
            };
            assert_eq!(address.prefix_len(), subnet.prefix_len());
            got.push(v4.octets()[3]);
        }
        assert_eq!(got, wanted, "{subnet} {range:?}");
    }
}

#[test]
fn an_address_rests_before_it_is_used_again() {
    let subnet = net("10.0.0.0/29");
    let mut pool = AddressPool::new(subnet, None, Some(default_gateway(subnet)));
    pool.mark(ip("10.0.0.2"));
    pool.remember(ip("10.0.0.4"));
    pool.mark(ip("192.168.0.1"));
    let mut next = || pool.take().map(|net| net.addr().to_string());
    let order: Vec<_> = std::iter::from_fn(&mut next).collect();
    assert_eq!(order, ["10.0.0.5", "10.0.0.6", "10.0.0.3", "10.0.0.4"]);
}

#[test]
fn ipv6_pools_work_alike() {
    let subnet = net("fd00::/64");
    let mut pool = AddressPool::new(subnet, None, Some(default_gateway(subnet)));
    assert_eq!(pool.take().unwrap().to_string(), "fd00::2/64");
    pool.mark(ip("fd00::3"));
    assert_eq!(pool.take().unwrap().to_string(), "fd00::4/64");
    assert!(pool.is_taken(ip("fd00::1")));
}

#[test]
fn subnets_come_from_the_pools_in_order_and_overlap_nothing() {
    for (pools, size, taken, wanted) in [
        (vec!["10.0.0.0/8"], 24, vec![], Some("10.0.1.0/24")),
        (
            vec!["10.0.0.0/8"],
            24,
            vec!["10.0.1.0/24"],
            Some("10.0.2.0/24"),
        ),
        (
            vec!["10.0.0.0/8"],
            24,
            vec!["10.0.0.0/16"],
            Some("10.1.0.0/24"),
        ),
        (
            vec!["10.0.0.0/8"],
            24,
            vec!["10.0.1.128/25", "10.0.3.0/24"],
            Some("10.0.2.0/24"),
        ),
        (
            vec!["10.0.0.0/23"],
            24,
            vec!["10.0.1.0/24"],
            Some("10.0.0.0/24"),
        ),
        (vec!["10.0.0.0/23"], 24, vec!["10.0.0.0/8"], None),
        (
            vec!["10.0.0.0/24", "172.20.0.0/16"],
            25,
            vec!["10.0.0.0/25", "10.0.0.128/25"],
            Some("172.20.0.128/25"),
        ),
        (
            vec!["10.0.0.0/24"],
            24,
            vec!["fd00::/8"],
            Some("10.0.0.0/24"),
        ),
        (
            vec!["255.255.255.0/24"],
            25,
            vec!["255.255.255.0/25"],
            Some("255.255.255.128/25"),
        ),
        (vec!["255.255.255.0/24"], 24, vec!["255.255.255.0/24"], None),
    ] {
        let pools: Vec<IpNet> = pools.into_iter().map(net).collect();
        let taken: Vec<IpNet> = taken.into_iter().map(net).collect();
        assert_eq!(
            subnets::choose(&pools, size, &taken),
            wanted.map(net),
            "{pools:?} {taken:?}"
        );
    }
    let first = subnets::choose_v6("cluster", &[]).unwrap();
    let second = subnets::choose_v6("cluster", &[first]).unwrap();
    assert!(!subnets::overlap(&first, &second));
}

fn publisher(id: &str, ports: &[(u16, PublishMode)]) -> Service {
    let mut service = Service {
        id: id.into(),
        ..Service::default()
    };
    service.spec.name = id.to_owned();
    let ports = ports.iter().map(|(number, mode)| PortConfig {
        target_port: 80,
        published_port: *number,
        publish_mode: *mode,
        ..PortConfig::default()
    });
    service.spec.endpoint_spec = Some(EndpointSpec {
        ports: ports.collect(),
        ..EndpointSpec::default()
    });
    service
}

#[test]
fn ingress_ports_have_one_user_and_host_ports_many() {
    use PublishMode::{Host, Ingress};
    for (held, wanted, error) in [
        (Ingress, Ingress, Some("as an ingress port")),
        (Ingress, Host, Some("as an ingress port")),
        (Host, Ingress, Some("as a host-published port")),
        (Host, Host, None),
    ] {
        let mut in_use = PortsInUse::default();
        in_use.add_wanted(&publisher("web", &[(80, held)]));
        let other = publisher("other", &[(80, wanted)]);
        let result = in_use
            .resolve(&other, &other.spec)
            .map_err(|error| error.to_string());
        let text = |how| format!("port '80' is already in use by service 'web' (web) {how}");
        assert_eq!(result.err(), error.map(text), "{held:?} {wanted:?}");
    }
}

#[test]
fn automatic_ports_stay_with_their_service_and_run_out() {
    let auto = [(0, PublishMode::Ingress)];
    let mut in_use = PortsInUse::default();
    let mut web = publisher("web", &auto);
    web.endpoint.spec = web.spec.endpoint_spec.clone().unwrap();
    web.endpoint.ports = in_use.resolve(&web, &web.spec).unwrap();
    assert_eq!(web.endpoint.ports[0].published_port, 30_000);
    assert_eq!(
        in_use.resolve(&web, &web.spec).unwrap()[0].published_port,
        30_000
    );
    for number in 30_001..=32_767 {
        let other = publisher(&format!("s{number}"), &auto);
        assert_eq!(
            in_use.resolve(&other, &other.spec).unwrap()[0].published_port,
            number
        );
    }
    let last = publisher("last", &auto);
    assert_eq!(
        in_use.resolve(&last, &last.spec).unwrap_err().to_string(),
        "no port from 30000 to 32767 is free for tcp"
    );
}

#[test]
fn numbers_are_the_lowest_free_ones() {
    let resting = [RestingVni {
        vni: 4097,
        until: at(10),
    }];
    let used = BTreeSet::from([4096]);
    assert_eq!(choose_vni(&used, &resting, at(9), false), Some(4098));
    assert_eq!(choose_vni(&used, &resting, at(10), false), Some(4097));
    assert_eq!(choose_vni(&used, &resting, at(10), true), Some(4098));
    assert_eq!(choose_index(&BTreeSet::from([1, 2, 4])), Some(3));
}

#[test]
fn the_narrowest_underlay_decides_the_mtu() {
    let node = |mtu, address: Option<&str>| {
        let mut node = Node::default();
        node.description.data_path_mtu = mtu;
        node.description.data_path_addr = address.map(ip);
        node
    };
    for (nodes, encrypted, wanted) in [
        (vec![], false, 1450),
        (vec![node(0, None)], false, 1450),
        (vec![node(1500, None), node(9000, None)], false, 1450),
        (vec![node(1500, Some("fd00::1"))], false, 1430),
        (vec![node(9000, None)], false, 8950),
        (vec![node(1500, None)], true, 1370),
        (vec![node(100, None)], false, 1280),
    ] {
        assert_eq!(mtu(&nodes, encrypted), wanted, "{nodes:?}");
    }
}

#[test]
fn of_too_many_reservations_the_newest_task_loses() {
    let mut node = Node::default();
    node.description.resources.nano_cpus = skep_model::NanoCpus(10);
    let task = |id: &str, secs| {
        let mut task = ended(id, TaskState::Running, secs);
        task.desired_state = TaskState::Running;
        task.spec.resources = serde_json::from_str(r#"{"Reservations":{"NanoCPUs":4}}"#).unwrap();
        Arc::new(task)
    };
    let tasks = [task("new", 30), task("old", 10), task("older", 5)];
    let evicted = skep_plan::enforce::evicted(&node, &tasks, |_| None);
    assert_eq!(evicted, ["new".into()]);
    node.spec.availability = skep_model::Availability::Pause;
    assert!(skep_plan::enforce::evicted(&node, &tasks, |_| None).is_empty());
}
