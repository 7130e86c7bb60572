//! The store from outside: what commits do, what they refuse, and what watchers see.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use skep_model::state::ALL_STATES;
use skep_model::task::NetworkAttachmentConfig;
use skep_model::{
    Actor, Kind, Network, NodeId, Secret, Service, Task, TaskId, TaskState, TaskStatus, Timestamp,
    Version,
};
use skep_store::{Change, Commit, Conflict, Delta, FindError, Key, Snapshot, Store, Transaction};

const NOW: Timestamp = Timestamp::from_secs(1_000);

fn service(id: &str, name: &str) -> Service {
    let mut service = Service {
        id: id.into(),
        ..Service::default()
    };
    service.spec.name = name.to_owned();
    service
}

fn task(id: &str, state: TaskState, desired: TaskState) -> Task {
    Task {
        id: id.into(),
        service_id: "svc".into(),
        slot: 1,
        node_id: "node".into(),
        status: TaskStatus {
            state,
            ..TaskStatus::default()
        },
        desired_state: desired,
        ..Task::default()
    }
}

/// The commit that `write` makes on the store's present state.
fn commit(store: &Store, write: impl FnOnce(&mut Transaction)) -> Commit {
    let mut tx = Transaction::new(&store.snapshot(), NOW);
    write(&mut tx);
    tx.commit().expect("the test writes something")
}

fn store_with(write: impl FnOnce(&mut Transaction)) -> Store {
    let store = Store::new();
    let first = commit(&store, write);
    store.apply(1, &first).unwrap();
    store
}

#[test]
fn an_object_has_the_version_of_the_log_index_that_wrote_it() {
    let store = store_with(|tx| tx.put(service("a", "web")).unwrap());
    let change = commit(&store, |tx| {
        let mut web = Service::clone(tx.service(&"a".into()).unwrap());
        web.spec.labels.insert("k".into(), "v".into());
        tx.put(web).unwrap();
    });
    store.apply(7, &change).unwrap();
    let snapshot = store.snapshot();
    let web = snapshot.service(&"a".into()).unwrap();
    assert_eq!(
        (web.version, snapshot.version()),
        (Version::at(7), Version::at(7))
    );
    assert_eq!((web.created_at, web.updated_at), (NOW, NOW));
}

#[test]
fn writing_what_is_there_writes_nothing() {
    let store = store_with(|tx| tx.put(service("a", "web")).unwrap());
    let mut tx = Transaction::new(&store.snapshot(), Timestamp::from_secs(2_000));
    tx.put(service("a", "web")).unwrap();
    assert_eq!(tx.commit(), None);
}

#[test]
fn names_are_unique_without_regard_to_case() {
    let store = store_with(|tx| tx.put(service("a", "web")).unwrap());
    let mut tx = Transaction::new(&store.snapshot(), NOW);
    let error = tx.put(service("b", "WEB")).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(
        error.to_string(),
        "name conflicts with an existing object: service WEB already exists"
    );
    // A name that is given up in the same transaction may be taken.
    tx.remove::<Service>(&"a".into()).unwrap();
    tx.put(service("b", "WEB")).unwrap();
    store.apply(2, &tx.commit().unwrap()).unwrap();
    assert_eq!(
        store.snapshot().by_name::<Service>("web").unwrap().id,
        "b".into()
    );
}

#[test]
fn of_two_racing_creations_of_one_name_the_second_is_refused() {
    let store = Store::new();
    let one = commit(&store, |tx| tx.put(service("a", "web")).unwrap());
    let two = commit(&store, |tx| tx.put(service("b", "Web")).unwrap());
    store.apply(1, &one).unwrap();
    let refused = store.apply(2, &two).unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert_eq!(store.snapshot().count::<Service>(), 1);
}

#[test]
fn a_commit_that_relied_on_something_changed_is_refused_whole() {
    let store = store_with(|tx| tx.put(service("a", "web")).unwrap());
    let slow = commit(&store, |tx| {
        tx.rely_on(Key::Service("a".into()));
        tx.put(service("b", "db")).unwrap();
    });
    let quick = commit(&store, |tx| {
        let mut web = Service::clone(tx.service(&"a".into()).unwrap());
        web.spec_version = Version::at(2);
        tx.put(web).unwrap();
    });
    store.apply(2, &quick).unwrap();
    assert_eq!(
        store.apply(3, &slow),
        Err(Conflict::Version {
            key: Key::Service("a".into()),
            expected: 1,
            found: 2
        })
    );
    assert!(store.snapshot().service(&"b".into()).is_none());
    assert_eq!(store.snapshot().version(), Version::at(2));
}

#[test]
fn what_a_service_uses_is_not_removed_even_in_a_race() {
    let store = store_with(|tx| {
        let mut network = Network {
            id: "net".into(),
            ..Network::default()
        };
        network.spec.name = "front".into();
        tx.put(network).unwrap();
    });
    let use_it = commit(&store, |tx| {
        let mut web = service("a", "web");
        web.spec.task_template.networks = vec![NetworkAttachmentConfig {
            target: "net".into(),
            ..NetworkAttachmentConfig::default()
        }];
        tx.put(web).unwrap();
    });
    let remove_it = commit(&store, |tx| {
        tx.remove::<Network>(&"net".into()).unwrap();
    });
    store.apply(2, &use_it).unwrap();
    assert!(matches!(
        store.apply(3, &remove_it),
        Err(Conflict::InUse { .. })
    ));
}

/// Every observed state, every actor, every next state.
#[test]
fn a_transaction_moves_tasks_as_the_law_says_and_not_otherwise() {
    let actors = [
        Actor::Allocator,
        Actor::Scheduler,
        Actor::Agent,
        Actor::Enforcer,
        Actor::NodeMonitor,
    ];
    for from in ALL_STATES {
        let store = store_with(|tx| tx.put(task("t", from, TaskState::Running)).unwrap());
        for to in ALL_STATES.into_iter().filter(|to| *to != from) {
            for by in actors {
                let mut tx = Transaction::new(&store.snapshot(), NOW);
                let status = TaskStatus {
                    state: to,
                    ..TaskStatus::default()
                };
                let moved = tx.move_task(&"t".into(), by, status);
                assert_eq!(moved.is_ok(), from.may_become(to, by), "{from} {to} {by:?}");
                if let Some(commit) = tx.commit() {
                    store.clone_state().apply(2, &commit).unwrap();
                }
            }
        }
    }
}

/// A second store with the same content, so that one test can try many commits.
trait CloneState {
    fn clone_state(&self) -> Store;
}

impl CloneState for Store {
    fn clone_state(&self) -> Store {
        let copy = Store::new();
        let snapshot = self.snapshot();
        let changes = snapshot.dump(3).flatten();
        copy.restore(snapshot.version(), changes).unwrap();
        assert!(copy.snapshot().same_content(&snapshot));
        copy
    }
}

#[test]
fn a_forged_patch_cannot_move_a_task_backwards() {
    let store = store_with(|tx| {
        tx.put(task("t", TaskState::Running, TaskState::Shutdown))
            .unwrap();
    });
    for (state, desired) in [
        (Some(TaskState::Pending), None),
        (None, Some(TaskState::Running)),
    ] {
        let patch = skep_store::TaskPatch {
            id: "t".into(),
            status: state.map(|state| TaskStatus {
                state,
                ..TaskStatus::default()
            }),
            desired_state: desired,
            ..skep_store::TaskPatch::default()
        };
        let commit = Commit {
            expected: Vec::new(),
            changes: vec![Change::Patch(Box::new(patch))],
        };
        assert!(matches!(store.apply(2, &commit), Err(Conflict::Law { .. })));
    }
}

#[test]
fn desired_states_only_grow_and_draining_begins_when_a_task_is_to_stop() {
    let store = store_with(|tx| {
        tx.put(task("t", TaskState::Running, TaskState::Running))
            .unwrap();
    });
    let mut tx = Transaction::new(&store.snapshot(), NOW);
    tx.raise_desired(&"t".into(), TaskState::Shutdown).unwrap();
    assert_eq!(tx.task(&"t".into()).unwrap().draining_since, NOW);
    // Raising to less changes nothing; writing less is refused.
    tx.raise_desired(&"t".into(), TaskState::Running).unwrap();
    assert_eq!(
        tx.task(&"t".into()).unwrap().desired_state,
        TaskState::Shutdown
    );
    let lowered = tx.update_task(&"t".into(), Actor::Scheduler, |task| {
        task.desired_state = TaskState::Ready;
    });
    assert!(lowered.is_err());
}

#[test]
fn a_change_of_a_task_travels_without_its_spec() {
    let store = store_with(|tx| {
        let mut big = task("t", TaskState::Running, TaskState::Running);
        big.spec.pull_credentials = "x".repeat(5_000);
        tx.put(big).unwrap();
    });
    let stop = commit(&store, |tx| {
        tx.raise_desired(&"t".into(), TaskState::Shutdown).unwrap();
    });
    let json = serde_json::to_string(&stop).unwrap();
    assert!(json.len() < 500, "{json}");
    let read: Commit = serde_json::from_str(&json).unwrap();
    assert_eq!(read, stop);
    store.apply(2, &read).unwrap();
    let snapshot = store.snapshot();
    let stopped = snapshot.task(&"t".into()).unwrap();
    assert_eq!(stopped.desired_state, TaskState::Shutdown);
    assert_eq!(stopped.spec.pull_credentials.len(), 5_000);
}

#[test]
fn new_tasks_take_from_their_service_what_their_commit_leaves_out() {
    let store = store_with(|tx| {
        let mut web = service("svc", "web");
        web.spec.labels.insert("a".into(), "b".into());
        web.spec.task_template.container_spec = Some(skep_model::ContainerSpec {
            image: "img".into(),
            env: vec!["X=1".repeat(500)],
            ..Default::default()
        });
        tx.put(web).unwrap();
    });
    let of_service = |tx: &Transaction, id: &str, state| {
        let web = tx.service(&"svc".into()).unwrap().clone();
        let mut task = task(id, state, TaskState::Running);
        task.spec = web.spec.task_template.clone();
        task.labels = web.spec.labels.clone();
        task.endpoint = (state > TaskState::New).then(|| web.endpoint.clone());
        task
    };
    let mut made = Vec::new();
    let make = commit(&store, |tx| {
        let mut own_labels = of_service(tx, "c", TaskState::New);
        own_labels.labels.clear();
        for task in [
            of_service(tx, "a", TaskState::New),
            of_service(tx, "b", TaskState::Assigned),
            own_labels,
        ] {
            made.push(task.clone());
            tx.put(task).unwrap();
        }
    });
    let json = serde_json::to_string(&make).unwrap();
    assert_eq!(
        json.matches("X=1X=1").count(),
        500 / 2,
        "only the third carries its spec"
    );
    store
        .apply(2, &serde_json::from_str(&json).unwrap())
        .unwrap();
    for task in made {
        let snapshot = store.snapshot();
        let stored = snapshot.task(&task.id).unwrap();
        assert_eq!(
            (&stored.spec, &stored.labels, &stored.endpoint),
            (&task.spec, &task.labels, &task.endpoint)
        );
    }
    // The service changed meanwhile: the whole commit is refused.
    let late = commit(&store, |tx| {
        let task = of_service(tx, "d", TaskState::New);
        tx.put(task).unwrap();
    });
    let change = commit(&store, |tx| {
        let mut web = Service::clone(tx.service(&"svc".into()).unwrap());
        web.spec.labels.clear();
        tx.put(web).unwrap();
    });
    store.apply(3, &change).unwrap();
    assert!(matches!(
        store.apply(4, &late),
        Err(Conflict::Version { .. })
    ));
}

#[test]
fn reports_are_taken_in_or_dropped_but_never_fail_a_batch() {
    let store = store_with(|tx| {
        tx.put(task("a", TaskState::Assigned, TaskState::Running))
            .unwrap();
        tx.put(task("b", TaskState::Running, TaskState::Running))
            .unwrap();
        tx.put(task("c", TaskState::Assigned, TaskState::Running))
            .unwrap();
    });
    let report = |task: &str, node: &str, state| Change::Report {
        task: TaskId::from(task),
        node: NodeId::from(node),
        status: Box::new(TaskStatus {
            state,
            applied_at: NOW,
            ..TaskStatus::default()
        }),
    };
    let batch = Commit {
        expected: Vec::new(),
        changes: vec![
            report("a", "node", TaskState::Running),
            report("b", "node", TaskState::Preparing),
            report("c", "other", TaskState::Running),
            report("gone", "node", TaskState::Running),
        ],
    };
    let applied = store.apply(2, &batch).unwrap();
    assert_eq!(applied.events.len(), 1);
    let snapshot = store.snapshot();
    let running = snapshot.task(&"a".into()).unwrap();
    assert_eq!(
        (running.status.state, running.running_since),
        (TaskState::Running, NOW)
    );
    assert_eq!(
        snapshot.task(&"b".into()).unwrap().status.state,
        TaskState::Running
    );
    assert_eq!(
        snapshot.task(&"c".into()).unwrap().status.state,
        TaskState::Assigned
    );
}

#[test]
fn objects_are_found_by_id_name_and_the_start_of_one_id() {
    let store = store_with(|tx| {
        tx.put(service("abc1", "web")).unwrap();
        tx.put(service("abd2", "abc")).unwrap();
    });
    let snapshot = store.snapshot();
    let find = |given: &str| {
        snapshot
            .find::<Service>(given)
            .map(|found| found.id.to_string())
    };
    assert_eq!(find("abc1"), Ok("abc1".into()));
    assert_eq!(find("WEB"), Ok("abc1".into()));
    assert_eq!(
        find("abc"),
        Ok("abd2".into()),
        "a name comes before a prefix"
    );
    assert_eq!(find("abd"), Ok("abd2".into()));
    assert!(matches!(
        find("ab"),
        Err(FindError::Ambiguous { matches: 2, .. })
    ));
    assert_eq!(find("").unwrap_err().to_string(), "service  not found");
    assert_eq!(find("zz").unwrap_err().to_string(), "service zz not found");
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_watcher_is_woken_and_sees_every_change_in_order() {
    let store = store_with(|tx| tx.put(service("a", "web")).unwrap());
    let (start, mut watch) = store.watch(10);
    assert_eq!(start.version(), Version::at(1));
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut context = Context::from_waker(&waker);
    {
        let waiting = pin!(watch.recv());
        assert!(matches!(waiting.poll(&mut context), Poll::Pending));
    }
    let add = commit(&store, |tx| {
        tx.put(service("b", "db")).unwrap();
        tx.put(service("c", "cache")).unwrap();
    });
    store.apply(2, &add).unwrap();
    assert_eq!(count.0.load(Ordering::SeqCst), 1);
    let mut seen = Vec::new();
    while let Ok(Some(event)) = watch.try_next() {
        assert!(matches!(event.change, Delta::Created(_)));
        seen.push((event.version.index, event.change.key().to_string()));
    }
    assert_eq!(
        seen,
        [(2, "service b".to_owned()), (2, "service c".to_owned())]
    );
}

#[test]
fn a_slow_watcher_and_one_whose_state_was_replaced_are_told() {
    let store = Store::new();
    let (_, mut slow) = store.watch(1);
    let (_, mut quick) = store.watch(10);
    let two = commit(&store, |tx| {
        tx.put(service("a", "web")).unwrap();
        tx.put(service("b", "db")).unwrap();
    });
    store.apply(1, &two).unwrap();
    assert!(slow.try_next().is_err());
    assert!(slow.try_next().is_err(), "it stays told");
    assert!(quick.try_next().unwrap().is_some());
    store.restore(Version::at(9), []).unwrap();
    assert!(quick.try_next().is_err());
}

/// Random writes, and after each the indexes must say what a look at everything says.
#[test]
fn indexes_agree_with_the_tables() {
    let store = Store::new();
    let mut state = 1u64;
    let mut next = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % bound
    };
    for index in 1..600 {
        let mut tx = Transaction::new(&store.snapshot(), NOW);
        let id: TaskId = format!("t{}", next(30)).as_str().into();
        match tx.task(&id).cloned() {
            Some(_) if next(3) == 0 => drop(tx.remove::<Task>(&id).unwrap()),
            Some(known) => {
                let next_state = ALL_STATES[next(14) as usize];
                let _ = tx.update_task(&id, Actor::Agent, |task| {
                    if known.status.state.may_become(next_state, Actor::Agent) {
                        task.status.state = next_state;
                    }
                    task.desired_state = task.desired_state.max(ALL_STATES[next(14) as usize]);
                    if task.node_id.is_empty() {
                        task.node_id = format!("n{}", next(3)).as_str().into();
                    }
                });
            }
            None => {
                let mut new = task(
                    id.as_str(),
                    ALL_STATES[next(8) as usize],
                    TaskState::Running,
                );
                new.service_id = format!("s{}", next(3)).as_str().into();
                new.slot = next(4);
                new.node_id = ["", "n0", "n1"][next(3) as usize].into();
                tx.put(new).unwrap();
            }
        }
        if let Some(commit) = tx.commit() {
            store.apply(index, &commit).unwrap();
        }
        check_indexes(&store.snapshot());
        check_indexes(&store.clone_state().snapshot());
    }
}

fn check_indexes(snapshot: &Snapshot) {
    let ids = |tasks: &mut dyn Iterator<Item = &Arc<Task>>| {
        let mut ids: Vec<String> = tasks.map(|task| task.id.to_string()).collect();
        ids.sort();
        ids
    };
    let all = |keep: &dyn Fn(&Task) -> bool| ids(&mut snapshot.tasks().filter(|task| keep(task)));
    for at in 0..3 {
        let (service, node) = (format!("s{at}"), format!("n{at}"));
        let (service, node) = (service.as_str().into(), node.as_str().into());
        assert_eq!(
            ids(&mut snapshot.tasks_of_service(&service)),
            all(&|task| task.service_id == service)
        );
        assert_eq!(
            ids(&mut snapshot.tasks_on_node(&node)),
            all(&|task| task.node_id == node)
        );
        for slot in 0..4 {
            assert_eq!(
                ids(&mut snapshot.tasks_of_slot(&service, slot)),
                all(&|task| task.service_id == service && task.slot == slot)
            );
        }
    }
    assert_eq!(
        ids(&mut snapshot.waiting_tasks()),
        all(&|task| task.status.state < TaskState::Assigned)
    );
    assert_eq!(
        ids(&mut snapshot.leaving_tasks()),
        all(&|task| task.desired_state == TaskState::Remove)
    );
    let mut services: Vec<String> = snapshot
        .tasks()
        .map(|task| task.service_id.to_string())
        .collect();
    services.sort();
    services.dedup();
    let indexed = snapshot.services_with_tasks();
    assert_eq!(
        indexed.iter().map(ToString::to_string).collect::<Vec<_>>(),
        services
    );
}

#[test]
fn only_what_differs_is_listed_between_snapshots() {
    let store = store_with(|tx| {
        for at in 0..500 {
            let id = format!("t{at:04}");
            tx.put(task(&id, TaskState::Running, TaskState::Running))
                .unwrap();
        }
    });
    let before = store.snapshot();
    let change = commit(&store, |tx| {
        tx.raise_desired(&"t0007".into(), TaskState::Shutdown)
            .unwrap();
        tx.remove::<Task>(&"t0300".into()).unwrap();
        tx.put(task("t9999", TaskState::New, TaskState::Running))
            .unwrap();
    });
    store.apply(2, &change).unwrap();
    let after = store.snapshot();
    let mut changes: Vec<_> = after
        .changes_since::<Task>(&before)
        .map(|(old, new)| {
            let id = |task: Option<&Arc<Task>>| task.map(|task| task.id.to_string());
            (id(old), id(new))
        })
        .collect();
    changes.sort();
    let some = |id: &str| Some(id.to_owned());
    assert_eq!(
        changes,
        [
            (None, some("t9999")),
            (some("t0007"), some("t0007")),
            (some("t0300"), None)
        ]
    );
    assert_eq!(after.changes_since::<Secret>(&before).count(), 0);
}
