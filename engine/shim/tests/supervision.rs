//! Health, pause, limits, injected files, and what survives whom.

mod common;

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use common::{Container, cannot_run, cgroups_left, launcher, until};
use skep_shim::cgroup::{self, Limits};
use skep_shim::config::{HealthCheck, InjectedFile};
use skep_shim::protocol::{Event, Health, State};
use skep_shim::{ClientError, ExitRecord, InjectedBytes};

const MILLI: u64 = 1_000_000;

fn checked(test: &str, timeout_ns: u64) -> Container {
    let mut container = Container::new(&["sleep", "100"]);
    container.config.health = Some(HealthCheck {
        test: vec!["CMD-SHELL".into(), test.into()],
        interval_ns: 30 * MILLI,
        timeout_ns,
        retries: 2,
        ..HealthCheck::default()
    });
    container
}

#[test]
fn health_goes_from_starting_over_healthy_to_unhealthy_and_back() {
    if cannot_run() {
        return;
    }
    let container = checked("echo checked; test ! -e /tmp/sick", 0);
    container.start();
    let status = container.client().status().unwrap();
    assert_eq!(status.health.unwrap().status, Health::Starting);
    let mut events = container.client().subscribe().unwrap();
    let health = container.wait_for_health(Health::Healthy);
    assert_eq!(health.log[0].output, "checked\n");
    assert_eq!(health.log[0].exit_code, 0);
    container.exec_shell("s", "touch /tmp/sick");
    let health = container.wait_for_health(Health::Unhealthy);
    assert!(health.failing_streak >= 2);
    assert_eq!(health.log.last().unwrap().exit_code, 1);
    let file = fs::read_to_string(&container.config.paths.status).unwrap();
    assert!(file.contains(r#""Status":"unhealthy""#), "{file}");
    container.exec_shell("w", "rm /tmp/sick");
    container.wait_for_health(Health::Healthy);
    until("five results", || {
        (container.client().status().ok()?.health?.log.len() == 5).then_some(())
    });

    container.client().signal(libc::SIGKILL, false).unwrap();
    let mut seen = Vec::new();
    let mut last = None;
    while let Some(event) = events.next_event().unwrap() {
        if let Event::Health(health) = &event {
            seen.push(health.status);
        }
        last = Some(event);
    }
    seen.dedup();
    assert!(
        seen.windows(3)
            .any(|w| w == [Health::Healthy, Health::Unhealthy, Health::Healthy]),
        "{seen:?}"
    );
    assert!(matches!(last, Some(Event::Exited(record)) if record.exit_code == 137));
}

#[test]
fn a_check_that_takes_too_long_or_cannot_run_fails() {
    if cannot_run() {
        return;
    }
    let container = checked("echo begun; sleep 50", 100 * MILLI);
    container.start();
    let health = container.wait_for_health(Health::Unhealthy);
    assert_eq!(health.log[0].exit_code, -1);
    assert_eq!(
        health.log[0].output,
        "Health check exceeded timeout (100ms): begun\n"
    );

    let mut container = checked("", 0);
    if let Some(check) = &mut container.config.health {
        check.test = vec!["CMD".into(), "nothing".into()];
    }
    container.start();
    let health = container.wait_for_health(Health::Unhealthy);
    assert!(
        health.log[0]
            .output
            .contains("exec: \"nothing\": executable file not found in $PATH"),
        "{health:?}"
    );
}

#[test]
fn paused_nothing_moves_and_it_can_still_be_killed() {
    if cannot_run() {
        return;
    }
    let container = Container::shell("while :; do echo tick; sleep 0.01; done");
    container.start();
    until("ticks", || (!container.output().is_empty()).then_some(()));
    container.client().pause().unwrap();
    assert_eq!(container.client().status().unwrap().state, State::Paused);
    let before = container.output().len();
    std::thread::sleep(Duration::from_millis(100));
    assert!(container.output().len() <= before + 10);
    assert!(matches!(
        container.client().pause(),
        Err(ClientError::Refused(_))
    ));
    container.client().resume().unwrap();
    let now = container.output().len();
    until("ticks again", || {
        (container.output().len() > now + 50).then_some(())
    });
    container.client().pause().unwrap();
    container.client().signal(libc::SIGKILL, false).unwrap();
    assert_eq!(container.wait().exit_code, 137);
    assert!(cgroups_left(&container.config.id).is_empty());
}

#[test]
fn limits_change_while_it_runs_and_use_is_measured() {
    if cannot_run() {
        return;
    }
    let mut container =
        Container::shell("head -c 8000000 /dev/zero > /dev/shm/fill; echo full; sleep 100");
    container.config.cgroup.limits.memory = Some(64 << 20);
    container.start();
    until("memory to be used", || {
        container.output().contains("full").then_some(())
    });
    let group = cgroup::at(&container.config.cgroup_path()).unwrap();
    let stats = group.stats().unwrap();
    assert_eq!(stats.memory.limit, 64 << 20);
    assert!(stats.memory.usage > 7_000_000, "{stats:?}");
    assert!(stats.pids.current >= 1);
    assert!(stats.cpu.total_ns > 0);
    container
        .client()
        .update(&Limits {
            memory: Some(256 << 20),
            pids: Some(50),
            nano_cpus: Some(500_000_000),
            ..Limits::default()
        })
        .unwrap();
    let stats = group.stats().unwrap();
    assert_eq!((stats.memory.limit, stats.pids.limit), (256 << 20, 50));
}

#[test]
fn out_of_memory_is_an_event() {
    if cannot_run() {
        return;
    }
    let mut container =
        Container::shell("sh -c 'x=a; while :; do x=$x$x; done'; echo killed $?; sleep 100");
    container.config.cgroup.limits.memory = Some(16 << 20);
    container.config.cgroup.limits.memory_swap = Some(16 << 20);
    let prepared = launcher().prepare(&container.write_config()).unwrap();
    let mut events = container.client().subscribe().unwrap();
    prepared.start(&[]).unwrap();
    until("the child to be killed", || {
        container.output().contains("killed 137").then_some(())
    });
    assert_eq!(events.next_event().unwrap(), Some(Event::Oom));
    assert!(container.client().status().unwrap().oom_kills >= 1);
    container.client().signal(libc::SIGKILL, false).unwrap();
    assert!(container.wait().oom_killed);
}

const SECRET: &[u8] = b"s3cr3t-bytes-that-must-not-be-on-a-disk";

#[test]
fn injected_files_are_readable_inside_and_nowhere_else() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell(
        "exec 2>&1; tr a-z A-Z < /run/secrets/db; stat -c '%a %u %g' /run/secrets/db /etc/app.conf; \
         id -u; echo x > /etc/app.conf; rm /run/secrets/db; grep -E 'secrets/db|app.conf' /proc/mounts; sleep 100",
    );
    container.config.process.user = "1000".into();
    let file = |name: &str, target: &str, uid, mode| InjectedFile {
        name: name.into(),
        target: target.into(),
        uid,
        gid: 1001,
        mode,
    };
    container.config.injected = vec![
        file("db", "/run/secrets/db", 1000, 0o400),
        file("conf", "/etc/app.conf", 0, 0o644),
    ];
    let files = [
        InjectedBytes {
            name: "conf",
            bytes: b"a=1\n",
        },
        InjectedBytes {
            name: "db",
            bytes: SECRET,
        },
    ];
    let started = container.try_start(&files).unwrap();
    let output = until("the listing", || {
        let output = container.output();
        (output.matches("tmpfs").count() >= 2).then_some(output)
    });
    // What it prints passes through the shim, so it prints it changed.
    let secret = String::from_utf8(SECRET.to_ascii_uppercase()).unwrap();
    assert!(
        output.starts_with(&format!("{secret}400 1000 1001\n644 0 1001\n1000\n")),
        "{output}"
    );
    assert!(output.contains("can't create /etc/app.conf"), "{output}");
    for mount in output
        .lines()
        .filter(|line| line.starts_with("tmpfs") || line.starts_with("none"))
    {
        for option in ["ro,", "nosuid", "nodev", "noexec"] {
            assert!(mount.contains(option), "{mount}");
        }
    }
    let found = files_with(container.directory.path(), SECRET);
    assert!(found.is_empty(), "{found:?}");
    // The shim has forgotten it.
    let shim = container.client().status().unwrap().shim_pid;
    assert_ne!(shim, started.pid);
    assert!(!memory_has(shim, SECRET), "the shim remembers a secret");
}

/// Files below a directory that contain these bytes.
fn files_with(directory: &Path, bytes: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), bytes));
        } else if kind.is_file() {
            let content = fs::read(entry.path()).unwrap();
            if content.windows(bytes.len()).any(|window| window == bytes) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Whether the private memory of a process contains these bytes.
fn memory_has(pid: i32, bytes: &[u8]) -> bool {
    use std::os::unix::fs::FileExt as _;
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut looked_at = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let from = u64::from_str_radix(from, 16).unwrap();
        let to = u64::from_str_radix(to, 16).unwrap();
        let mut content = vec![0; usize::try_from(to - from).unwrap()];
        if memory.read_exact_at(&mut content, from).is_ok() {
            looked_at += content.len();
            if content.windows(bytes.len()).any(|window| window == bytes) {
                return true;
            }
        }
    }
    assert!(looked_at > 0, "no memory of {pid} could be read");
    false
}

#[test]
fn wrong_injected_files_are_refused_before_anything_runs() {
    if cannot_run() {
        return;
    }
    let mut container = Container::new(&["true"]);
    container.config.injected = vec![InjectedFile {
        name: "db".into(),
        target: "/run/secrets/db".into(),
        uid: 0,
        gid: 0,
        mode: 0o444,
    }];
    assert!(container.try_start(&[]).is_err());
    until("the shim to end", || {
        (!container.config.paths.socket.exists()).then_some(())
    });
}

#[test]
fn a_prepared_container_that_nobody_starts_leaves_nothing() {
    if cannot_run() {
        return;
    }
    let container = Container::new(&["true"]);
    let prepared = launcher().prepare(&container.write_config()).unwrap();
    let info = prepared.info().clone();
    assert_eq!(container.client().status().unwrap().state, State::Prepared);
    assert!(info.netns.is_some());
    drop(prepared);
    until("the shim to end", || {
        (!Path::new(&format!("/proc/{}", info.shim_pid)).exists()).then_some(())
    });
    assert!(!container.config.paths.socket.exists());
    assert!(!container.config.paths.exit.exists());
    assert!(cgroups_left(&container.config.id).is_empty());
}

#[test]
fn a_container_outlives_the_process_that_started_it() {
    if cannot_run() {
        return;
    }
    let container = Container::shell("sleep 0.5; echo survived; exit 9");
    let config = container.write_config();
    // Another process starts it and is gone at once.
    let program = common::static_shim();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "starts_a_container_for_another_test",
            "--nocapture",
        ])
        .env("SHIM_TEST_CONFIG", &config)
        .env("SHIM_TEST_PROGRAM", &program)
        .status()
        .unwrap();
    assert!(status.success());
    let shim = container.client().status().unwrap().shim_pid;
    let parent = fs::read_to_string(format!("/proc/{shim}/status")).unwrap();
    assert!(!parent.contains(&format!("PPid:\t{}\n", std::process::id())));
    assert_eq!(container.wait().exit_code, 9);
    assert_eq!(container.output(), "survived\n");
}

/// The other process of the test above; without its variables it does nothing.
#[test]
fn starts_a_container_for_another_test() {
    let (Ok(config), Ok(program)) = (
        std::env::var("SHIM_TEST_CONFIG"),
        std::env::var("SHIM_TEST_PROGRAM"),
    ) else {
        println!("skipped: part of another test");
        return;
    };
    let launcher = skep_shim::Launcher::new(&fs::read(program).unwrap()).unwrap();
    launcher
        .prepare(Path::new(&config))
        .unwrap()
        .start(&[])
        .unwrap();
}

#[test]
fn what_a_killed_shim_leaves_is_swept() {
    if cannot_run() {
        return;
    }
    let mut container = Container::new(&["sleep", "100"]);
    container.config.namespaces.pid = skep_shim::config::Namespace::Host;
    let started = container.start();
    assert!(skep_shim::sweep(&container.config).is_err(), "it is alive");
    let shim = container.client().status().unwrap().shim_pid;
    // SAFETY: no pointers; the pid is that of our own shim.
    unsafe { libc::kill(shim, libc::SIGKILL) };
    until("the shim to be gone", || {
        matches!(container.client().status(), Err(ClientError::Gone { .. })).then_some(())
    });
    let record = skep_shim::sweep(&container.config).unwrap();
    assert_eq!((record.exit_code, record.pid), (137, started.pid));
    assert_eq!(record.started_at, started.started_at);
    assert_eq!(
        ExitRecord::read(&container.config.paths.exit).unwrap(),
        Some(record)
    );
    assert!(cgroups_left(&container.config.id).is_empty());
    assert!(!container.config.paths.socket.exists());
}

#[test]
fn the_same_container_starts_again() {
    if cannot_run() {
        return;
    }
    let container = Container::shell("echo run >> /tmp/runs; wc -l < /tmp/runs");
    for run in 1..=3 {
        container.start();
        assert_eq!(container.wait().exit_code, 0);
        assert!(container.output().ends_with(&format!("{run}\n")));
    }
    container
        .config
        .paths
        .socket
        .exists()
        .then(|| panic!("a socket is left"));
}

#[test]
fn two_shims_of_one_container_are_one_too_many() {
    if cannot_run() {
        return;
    }
    let container = Container::new(&["sleep", "100"]);
    container.start();
    let error = container.try_start(&[]).unwrap_err();
    assert!(error.to_string().contains("another shim"), "{error}");
    assert_eq!(container.client().status().unwrap().state, State::Running);
}

#[test]
fn many_live_side_by_side() {
    if cannot_run() {
        return;
    }
    let launcher = launcher();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for round in 0..6 {
                    let code = thread * 10 + round;
                    let container = Container::shell(&format!("echo {code}; exit {code}"));
                    let prepared = launcher.prepare(&container.write_config()).unwrap();
                    prepared.start(&[]).unwrap();
                    assert_eq!(container.wait().exit_code, code);
                    assert_eq!(container.output(), format!("{code}\n"));
                }
            });
        }
    });
}

#[test]
fn long_directories_are_no_hindrance() {
    if cannot_run() {
        return;
    }
    let mut container = Container::new(&["true"]);
    let deep = container.path(&"d".repeat(150));
    fs::create_dir(&deep).unwrap();
    container.config.paths = skep_shim::config::Paths::in_directory(&deep);
    assert_eq!(container.run().0, 0);
}

#[test]
fn other_users_may_not_ask() {
    if cannot_run() {
        return;
    }
    let container = Container::new(&["sleep", "100"]);
    container.start();
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(&container.config.paths.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_program_is_sealed_and_the_shim_is_small() {
    if cannot_run() {
        return;
    }
    // Two, as they share the pages of their program with one another.
    let (container, second) = (
        Container::new(&["sleep", "100"]),
        Container::new(&["sleep", "100"]),
    );
    container.start();
    second.start();
    second.client().status().unwrap();
    let shim = container.client().status().unwrap().shim_pid;
    let program = fs::read_link(format!("/proc/{shim}/exe")).unwrap();
    assert_eq!(program.to_str(), Some("/memfd:skep-shim (deleted)"));
    let opened = fs::File::open(format!("/proc/{shim}/exe")).unwrap();
    // SAFETY: asks about a descriptor we own.
    let seals = unsafe { libc::fcntl(opened.as_raw_fd(), libc::F_GET_SEALS) };
    assert_ne!(seals & libc::F_SEAL_WRITE, 0);

    let memory = fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let kilobytes = |name: &str| -> u64 {
        let line = memory.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
        number.unwrap().trim().parse().unwrap()
    };
    let private = kilobytes("Private_Dirty:");
    println!(
        "private memory of a waiting shim: {private} kB, of that anonymous {} kB",
        kilobytes("Anonymous:")
    );
    assert!(private < 1024, "{memory}");
}
