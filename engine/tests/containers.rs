//! The life of containers, on a real kernel.

mod common;

use common::*;
use skep_engine::types::{RestartPolicy, UpdateConfig};
use skep_engine::{
    EventQuery, Filters, Kind, ListOptions, PutArchiveOptions, RemoveOptions, StopOptions,
    WaitCondition,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_prints_and_ends_with_its_code() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let (code, text) = run_to_end(engine, "one", shell("echo out; echo err >&2; exit 7")).await;
    assert_eq!((code, text.as_str()), (7, "out\nerr\n"));
    let found = engine.container_inspect("one", true).await.unwrap();
    assert_eq!(found.state.status, "exited");
    assert_eq!(found.state.exit_code, 7);
    assert_eq!(found.name, "/one");
    assert_eq!(found.path, "sh");
    assert!(found.size_root_fs.unwrap() > 500_000);
    assert_eq!(found.size_rw, Some(0), "nothing was written");
    assert!(engine.container_changes("one").await.unwrap().is_empty());
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_asks_first_and_kills_then() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    run(
        engine,
        "polite",
        shell("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done"),
    )
    .await;
    run(
        engine,
        "deaf",
        shell("trap '' TERM; echo up; while :; do sleep 0.05; done"),
    )
    .await;
    for name in ["polite", "deaf"] {
        while log(engine, name).await != "up\n" {}
    }
    let second = StopOptions {
        timeout: Some(1),
        ..StopOptions::default()
    };
    engine
        .container_stop("polite", StopOptions::default())
        .await
        .unwrap();
    engine.container_stop("deaf", second.clone()).await.unwrap();
    let code = async |name| {
        engine
            .container_inspect(name, false)
            .await
            .unwrap()
            .state
            .exit_code
    };
    assert_eq!(code("polite").await, 3);
    assert_eq!(code("deaf").await, 137);
    assert_eq!(log(engine, "polite").await, "up\nbye\n");
    let again = engine.container_stop("deaf", second).await.unwrap_err();
    assert_eq!(again.kind(), Kind::NotModified);
    let killed = engine.container_kill("deaf", "TERM").await.unwrap_err();
    assert_eq!(killed.kind(), Kind::Conflict);
    assert!(
        killed
            .to_string()
            .starts_with("cannot kill container: deaf: container "),
        "{killed}"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_unique_and_changeable_and_removal_wants_force() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let id = run(engine, "web", running(&["sleep", "1000"])).await;
    let taken = engine
        .container_create(Some("/web"), shell("true"), Default::default())
        .await
        .unwrap_err();
    assert_eq!(
        taken.to_string(),
        format!(
            "Conflict. The container name \"/web\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
        )
    );
    assert_eq!(
        start(engine, "web").await.unwrap_err().kind(),
        Kind::NotModified
    );
    engine.container_rename(&id[..10], "front").await.unwrap();
    assert!(
        engine
            .container_inspect("web", false)
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!(
        engine
            .container_inspect("web", false)
            .await
            .unwrap_err()
            .to_string(),
        "No such container: web"
    );
    let refused = engine
        .container_remove("front", RemoveOptions::default())
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "cannot remove container \"front\": container is running: stop the container before removing or force remove"
    );
    let force = RemoveOptions {
        force: true,
        volumes: false,
    };
    engine.container_remove("front", force).await.unwrap();
    assert!(
        engine
            .container_remove(&id, force)
            .await
            .unwrap_err()
            .is_not_found()
    );
    // The name is free again, and a nameless container gets a name of its own.
    create(engine, "front", shell("true")).await;
    let nameless = engine
        .container_create(None, shell("true"), Default::default())
        .await
        .unwrap();
    let found = engine.container_inspect(&nameless.id, false).await.unwrap();
    assert!(found.name.contains('_'), "{}", found.name);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_why_and_leaves_nothing() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    create(engine, "none", running(&["/no/such/thing"])).await;
    let removed = engine
        .container_wait("none", skep_engine::WaitCondition::Removed)
        .unwrap();
    let error = start(engine, "none").await.unwrap_err();
    assert!(
        error.to_string().contains("no such file or directory"),
        "{error}"
    );
    assert_eq!(error.exit_code(), Some(127));
    let found = engine.container_inspect("none", false).await.unwrap();
    assert_eq!(
        (found.state.status.as_str(), found.state.exit_code),
        ("created", 127)
    );
    engine
        .container_remove("none", Default::default())
        .await
        .unwrap();
    // The removal went well, whatever the container died of.
    assert!(removed.wait().await.unwrap().error.is_none());
    create(engine, "dir", running(&["/etc"])).await;
    assert_eq!(
        start(engine, "dir").await.unwrap_err().exit_code(),
        Some(126)
    );
    // Its network may still be made, so only the start fails; a 404 from `create` is "no such image" to
    // clients, which then pull.
    let mut config = running(&["/hello"]);
    config.host_config.get_or_insert_default().network_mode = "nowhere".into();
    create(engine, "lost", config).await;
    assert_eq!(
        start(engine, "lost").await.unwrap_err().to_string(),
        "failed to set up container networking: network nowhere not found"
    );
    let missing = engine
        .container_create(
            None,
            skep_engine::types::ContainerConfig {
                image: "nope".into(),
                ..Default::default()
            },
            Default::default(),
        )
        .await
        .unwrap_err();
    assert_eq!(missing.to_string(), "No such image: nope:latest");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_restart_what_ends_and_a_stop_ends_that() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let policy = |name: &str, max| RestartPolicy {
        name: name.into(),
        maximum_retry_count: max,
    };
    let failing = with_host(shell("exit 3"), |host| {
        host.restart_policy = policy("on-failure", 2)
    });
    run(engine, "failing", failing).await;
    let ended = until_inspect(engine, "failing", "two retries", |found| {
        found.restart_count == 2 && found.state.status == "exited"
    })
    .await;
    assert_eq!(ended.state.exit_code, 3);

    let always = with_host(running(&["sleep", "1000"]), |host| {
        host.restart_policy = policy("always", 0)
    });
    run(engine, "always", always).await;
    let first = engine
        .container_inspect("always", false)
        .await
        .unwrap()
        .state
        .pid;
    unsafe { libc::kill(first as i32, libc::SIGKILL) };
    let second = until_inspect(engine, "always", "the restart", |found| {
        found.state.status == "running" && found.state.pid != first && found.state.pid != 0
    })
    .await;
    assert_eq!(second.restart_count, 1);
    engine
        .container_stop(
            "always",
            StopOptions {
                timeout: Some(0),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(
        engine
            .container_inspect("always", false)
            .await
            .unwrap()
            .state
            .status,
        "exited"
    );
    engine
        .container_start("always", Default::default())
        .await
        .unwrap();
    assert_eq!(
        engine
            .container_inspect("always", false)
            .await
            .unwrap()
            .restart_count,
        0
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_remove_waits_and_events_tell_the_story() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let query = EventQuery {
        filters: Filters::none().with("type", "container"),
        ..EventQuery::default()
    };
    let mut events = engine.events(query).unwrap();
    create(
        engine,
        "brief",
        with_host(shell("exit 5"), |host| host.auto_remove = true),
    )
    .await;
    let waiter = engine
        .container_wait("brief", WaitCondition::Removed)
        .unwrap();
    start(engine, "brief").await.unwrap();
    let ended = tokio::time::timeout(DEADLINE, waiter.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ended.status_code, 5);
    let mut actions = Vec::new();
    while actions.last().map(String::as_str) != Some("destroy") {
        let event = tokio::time::timeout(DEADLINE, events.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(event.actor.attributes["name"], "brief");
        if event.action == "die" {
            assert_eq!(event.actor.attributes["exitCode"], "5");
        }
        actions.push(event.action);
    }
    assert_eq!(actions, ["create", "start", "die", "destroy"]);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_stops_the_clock_and_update_changes_limits() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    run(
        engine,
        "p1",
        with_host(running(&["sleep", "1000"]), |host| host.memory = 64 << 20),
    )
    .await;
    engine.container_pause("p1").await.unwrap();
    assert_eq!(
        engine
            .container_inspect("p1", false)
            .await
            .unwrap()
            .state
            .status,
        "paused"
    );
    assert!(
        engine
            .container_pause("p1")
            .await
            .unwrap_err()
            .to_string()
            .ends_with("is already paused")
    );
    assert_eq!(engine.info().containers_paused, 1);
    engine.container_unpause("p1").await.unwrap();
    let update = UpdateConfig {
        memory: 32 << 20,
        memory_swap: 64 << 20,
        pids_limit: Some(50),
        ..Default::default()
    };
    engine.container_update("p1", update).await.unwrap();
    let stats = engine.container_stats("p1", true).await.unwrap();
    assert_eq!(stats.memory_stats.limit, Some(32 << 20));
    assert_eq!(stats.pids_stats.limit, Some(50));
    assert!(stats.cpu_stats.system_cpu_usage > 0);
    let top = engine.container_top("p1", "").await.unwrap();
    assert_eq!(top.titles[1], "PID");
    assert_eq!(top.processes.len(), 1);
    assert_eq!(top.processes[0][7], "sleep 1000");
    // A paused container can be stopped.
    engine.container_pause("p1").await.unwrap();
    engine
        .container_stop(
            "p1",
            StopOptions {
                timeout: Some(1),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_filtered() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut labelled = running(&["sleep", "1000"]);
    labelled.labels.insert("tier".into(), "front".into());
    run(engine, "alpha", labelled).await;
    run_to_end(engine, "beta", shell("exit 4")).await;
    create(engine, "gamma", shell("true")).await;
    let names = async |all: bool, filters: Filters| -> Vec<String> {
        let options = ListOptions {
            all,
            filters,
            ..ListOptions::default()
        };
        let list = engine.container_list(options).await.unwrap();
        list.into_iter()
            .map(|found| found.names[0].clone())
            .collect()
    };
    let none = Filters::none;
    assert_eq!(names(false, none()).await, ["/alpha"]);
    assert_eq!(names(true, none()).await, ["/gamma", "/beta", "/alpha"]);
    assert_eq!(
        names(false, none().with("status", "exited")).await,
        ["/beta"]
    );
    assert_eq!(names(false, none().with("exited", "4")).await, ["/beta"]);
    assert_eq!(
        names(true, none().with("label", "tier=front")).await,
        ["/alpha"]
    );
    assert_eq!(names(true, none().with("name", "^/be")).await, ["/beta"]);
    assert_eq!(names(true, none().with("name", "a$")).await.len(), 3);
    assert_eq!(
        names(true, none().with("ancestor", "busybox:test"))
            .await
            .len(),
        3
    );
    assert_eq!(names(true, none().with("ancestor", "other")).await.len(), 0);
    assert_eq!(names(true, none().with("before", "beta")).await, ["/alpha"]);
    assert_eq!(names(true, none().with("since", "beta")).await, ["/gamma"]);
    assert_eq!(names(true, none().with("network", "none")).await.len(), 3);
    assert_eq!(names(true, none().with("is-task", "true")).await.len(), 0);
    let wrong = ListOptions {
        filters: none().with("colour", "red"),
        ..ListOptions::default()
    };
    assert_eq!(
        engine.container_list(wrong).await.unwrap_err().to_string(),
        "invalid filter 'colour'"
    );
    let summary = engine
        .container_list(ListOptions {
            all: true,
            limit: 1,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(summary.len(), 1);
    assert_eq!(summary[0].status, "Created");
    let pruned = engine.container_prune(&none()).await.unwrap();
    assert_eq!(pruned.removed.len(), 2);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_reaches_the_process() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut config = shell(
        "id -u; pwd; hostname; echo $A $B; cat /etc/hosts /etc/hostname; ls -ld /dev/shm >/dev/null && touch /x 2>&1; cat /run/t/f 2>/dev/null; mount | grep -c /scratch",
    );
    config.user = "app".into();
    config.working_dir = "/var/deep/er".into();
    config.hostname = "myhost".into();
    config.env = vec!["A=1".into(), "B=two".into()];
    let config = with_host(config, |host| {
        host.extra_hosts = Some(vec!["db:10.9.8.7".into()]);
        host.readonly_rootfs = true;
        host.tmpfs.insert("/scratch".into(), "size=1m".into());
    });
    let (code, text) = run_to_end(engine, "c1", config).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.starts_with("1000\n/var/deep/er\nmyhost\n1 two\n127.0.0.1\tlocalhost\n"),
        "{text}"
    );
    assert!(text.contains("10.9.8.7\tdb\n"), "{text}");
    assert!(text.contains("myhost\n"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(text.ends_with("1\n"), "{text}");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_watched() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut config = shell("sleep 1000");
    config.healthcheck = Some(skep_engine::types::HealthConfig {
        test: vec!["CMD-SHELL".into(), "test -e /tmp/ok && echo fine".into()],
        interval: skep_model::Nanos(50_000_000),
        retries: 2,
        ..Default::default()
    });
    let query = EventQuery {
        filters: Filters::none().with("event", "health_status"),
        ..EventQuery::default()
    };
    let mut events = engine.events(query).unwrap();
    run(engine, "h1", config).await;
    let sick = until_inspect(engine, "h1", "unhealthy", |found| {
        found
            .state
            .health
            .as_ref()
            .is_some_and(|health| health.status == "unhealthy")
    })
    .await;
    assert!(sick.state.health.unwrap().failing_streak >= 2);
    engine
        .container_put_archive(
            "h1",
            "/tmp",
            PutArchiveOptions::default(),
            std::io::Cursor::new(one_file("ok", b"")),
        )
        .await
        .unwrap();
    let well = until_inspect(engine, "h1", "healthy", |found| {
        found
            .state
            .health
            .as_ref()
            .is_some_and(|health| health.status == "healthy")
    })
    .await;
    assert_eq!(
        well.state.health.unwrap().log.last().unwrap().output,
        "fine\n"
    );
    for expected in ["health_status: unhealthy", "health_status: healthy"] {
        let event = tokio::time::timeout(DEADLINE, events.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(event.action, expected);
    }
    let list = engine
        .container_list(ListOptions {
            filters: Filters::none().with("health", "healthy"),
            ..Default::default()
        })
        .await
        .unwrap();
    assert!(list[0].status.ends_with("(healthy)"), "{}", list[0].status);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_ends_is_noted() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let hungry = with_host(
        shell("dd if=/dev/zero of=/dev/null bs=200M count=1"),
        |host| {
            host.memory = 16 << 20;
            host.memory_swap = 16 << 20;
        },
    );
    let (code, _) = run_to_end(engine, "hungry", hungry).await;
    let found = engine.container_inspect("hungry", false).await.unwrap();
    assert!(found.state.oom_killed, "{:?}", found.state);
    assert_eq!(code, 137);
    bench.finish().await;
}

pub fn one_file(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    add_file(&mut builder, name, 0o644, contents);
    builder.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_vendors_come_with_what_they_need() {
    let Some(mut bench) = bench().await else {
        return;
    };
    let directory = bench.path().join("cdi");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(
        directory.join("vendor.yaml"),
        format!(
            "cdiVersion: \"0.6.0\"\nkind: vendor.com/class\ncontainerEdits:\n  env: [SHARED=yes]\ndevices:\n\
             - name: one\n  containerEdits:\n    env: [DEVICE=one]\n    additionalGids: [44]\n    deviceNodes:\n    - path: /dev/one\n      hostPath: /dev/null\n      fileMode: 0600\n\
             \x20   mounts:\n    - hostPath: {}\n      containerPath: /vendor\n      options: [ro, nosuid, nodev, rbind]\n\
             - name: hooked\n  containerEdits:\n    hooks:\n    - hookName: createContainer\n      path: /bin/true\n",
            directory.display()
        ),
    )
    .unwrap();
    bench.close().await;
    bench
        .open_as(skep_engine::EngineConfig {
            cdi_spec_dirs: vec![directory],
            ..bench.config()
        })
        .await;
    let engine = bench.engine();
    let info = engine.info();
    assert_eq!(
        info.cdi_devices,
        ["vendor.com/class=hooked", "vendor.com/class=one"]
    );
    let asking = |driver: &str, names: &[&str]| {
        let request = skep_engine::types::DeviceRequest {
            driver: driver.into(),
            device_ids: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        with_host(
            shell(
                "echo $SHARED $DEVICE; id -G; echo > /dev/one && stat -c %a /dev/one; ls /vendor; touch /vendor/x 2>&1",
            ),
            |host| host.device_requests = Some(vec![request]),
        )
    };
    let (_, text) = run_to_end(engine, "one", asking("cdi", &["vendor.com/class=one"])).await;
    assert_eq!(
        text,
        "yes one\n0 44\n600\nvendor.yaml\ntouch: /vendor/x: Read-only file system\n"
    );
    for (name, config, why) in [
        (
            "missing",
            asking("cdi", &["vendor.com/class=two", "nonsense"]),
            "CDI device injection failed: unresolvable CDI devices vendor.com/class=two, nonsense",
        ),
        (
            "hooked",
            asking("cdi", &["vendor.com/class=hooked"]),
            "the createContainer hook /bin/true",
        ),
        (
            "other",
            asking("gpus", &[]),
            "could not select device driver \"gpus\" with capabilities: []",
        ),
    ] {
        create(engine, name, config).await;
        let error = start(engine, name).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_do_not_follow_links_to_processes() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    // In the host's pid namespace, process 1 is the host's, and its root the host's root.
    let config = with_host(
        shell(
            "ln -s /proc/1/root /tmp/out; mkdir /tmp/views; mount --bind /proc /tmp/views; ln -s /tmp/views/1/root /tmp/other; touch /tmp/ready; sleep 100",
        ),
        |host| {
            host.pid_mode = "host".into();
            host.cap_add = Some(vec!["SYS_ADMIN".into()]);
            host.security_opt = Some(vec!["seccomp=unconfined".into()]);
        },
    );
    run(engine, "one", config).await;
    let deadline = std::time::Instant::now() + DEADLINE;
    while engine
        .container_path_stat("one", "/tmp/ready")
        .await
        .is_err()
    {
        assert!(
            std::time::Instant::now() < deadline,
            "the links are not made"
        );
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let file = bench.path().join("secret");
    std::fs::write(&file, "of the host").unwrap();
    for link in ["/tmp/out", "/tmp/other", "/proc/1/root", "/proc/self/root"] {
        let path = format!("{link}{}", file.display());
        let error = engine.container_path_stat("one", &path).await.unwrap_err();
        assert_eq!(error.kind(), skep_engine::Kind::NotFound, "{path}: {error}");
        let archive = std::io::Cursor::new(busybox_archive());
        let into = format!("{link}{}", bench.path().display());
        engine
            .container_put_archive("one", &into, Default::default(), archive)
            .await
            .unwrap_err();
    }
    assert!(!bench.path().join("bin").exists());
    bench.finish().await;
}
