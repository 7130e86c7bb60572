//! What a container is, seen from inside and from its end.

mod common;

use common::{Container, cannot_run, cgroups_left, until};
use skep_shim::config::Rlimit;

fn shell(script: &str) -> (i32, String) {
    // In one pipe, or what comes first would be left to chance.
    Container::shell(&format!("exec 2>&1; {script}")).run()
}

#[test]
fn exit_codes_arrive_and_nothing_is_left() {
    if cannot_run() {
        return;
    }
    let container = Container::shell("echo out; echo err >&2; exit 7");
    let started = container.start();
    let record = container.wait();
    assert_eq!(record.exit_code, 7);
    assert_eq!(record.signal, None);
    assert_eq!(record.pid, started.pid);
    assert_eq!(record.started_at, started.started_at);
    assert!(!record.oom_killed);
    assert_eq!(record.error, "");
    let log = std::fs::read_to_string(&container.config.log.path).unwrap();
    assert!(
        log.contains(r#"{"log":"err\n","stream":"stderr","time":""#),
        "{log}"
    );
    assert!(
        log.contains(r#"{"log":"out\n","stream":"stdout","time":""#),
        "{log}"
    );

    assert!(cgroups_left(&container.config.id).is_empty());
    assert!(!container.config.paths.socket.exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let here = container.directory.path().to_str().unwrap();
    assert!(!mounts.contains(here), "a mount is left");
    until("the process to be gone", || {
        (!std::path::Path::new(&format!("/proc/{}", record.pid)).exists()).then_some(())
    });
}

#[test]
fn signals_end_it_with_128_and_their_number() {
    if cannot_run() {
        return;
    }
    let container = Container::new(&["sleep", "100"]);
    container.start();
    container.client().signal(libc::SIGKILL, false).unwrap();
    let record = container.wait();
    assert_eq!((record.exit_code, record.signal), (137, Some(9)));

    let container =
        Container::shell("trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    container.start();
    until("the trap", || {
        container.output().contains("ready").then_some(())
    });
    container.client().signal(libc::SIGTERM, false).unwrap();
    assert_eq!(container.wait().exit_code, 3);
}

#[test]
fn environment_directory_and_user_are_as_asked() {
    if cannot_run() {
        return;
    }
    let mut container =
        Container::shell("id; pwd; echo $HOME $A; hostname; cat /proc/sys/kernel/domainname");
    container.config.process.user = "web".into();
    container.config.process.cwd = "/made/here".into();
    container.config.process.env.push("A=b c".into());
    container.config.domainname = "example".into();
    let (code, output) = container.run();
    assert_eq!(
        output,
        "uid=1000(web) gid=1001(web) groups=50(logs),1001(web)\n/made/here\n/home/web b c\nbox\nexample\n"
    );
    assert_eq!(code, 0);
}

#[test]
fn privileges_are_dockers() {
    if cannot_run() {
        return;
    }
    let (_, output) = shell("grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status");
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
    let mut container = Container::shell("grep -E 'Cap|NoNewPrivs' /proc/self/status");
    container.config.process.user = "1000".into();
    container.config.process.no_new_privileges = true;
    let (_, output) = container.run();
    for line in [
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "NoNewPrivs:\t1",
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
    let mut container = Container::shell("mount -t tmpfs x /tmp; echo $?");
    container.config.seccomp = skep_shim::config::Seccomp::Profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#.into(),
    );
    container.config.process.args = ["sh", "-c", "mkdir /tmp/x"].map(String::from).to_vec();
    let (code, output) = container.run();
    assert_eq!(code, 1);
    assert!(output.contains("No space left"), "{output}");
}

#[test]
fn the_kernel_is_hidden_and_protected() {
    if cannot_run() {
        return;
    }
    let (_, output) = shell(
        "wc -c < /proc/timer_list; ls /sys/firmware | wc -l; \
         echo 1 > /proc/sys/kernel/panic; echo 1 > /proc/irq/default_smp_affinity; \
         mkdir /sys/fs/cgroup/x; ls /dev | tr '\\n' ' '; mount -t tmpfs x /tmp",
    );
    assert!(output.starts_with("0\n0\n"), "{output}");
    assert!(
        output.contains("can't create /proc/sys/kernel/panic: Read-only"),
        "{output}"
    );
    assert!(
        output.contains("can't create /proc/irq/default_smp_affinity: Read-only"),
        "{output}"
    );
    assert!(
        output.contains("can't create directory '/sys/fs/cgroup/x': Read-only"),
        "{output}"
    );
    // Not every kernel shows its memory.
    let core = match std::path::Path::new("/proc/kcore").exists() {
        true => "core ",
        false => "",
    };
    let devices = format!(
        "\n{core}fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "
    );
    assert!(output.contains(&devices), "{output}");
    assert!(
        output.contains("mount: permission denied") || output.contains("Operation not permitted"),
        "{output}"
    );
}

#[test]
fn devices_work_and_others_are_refused() {
    if cannot_run() {
        return;
    }
    let (_, output) = shell(
        "head -c 4 /dev/zero | wc -c; echo x > /dev/null && echo null; busybox mknod /tmp/d b 254 0; \
         head -c 1 /tmp/d > /dev/null || echo refused",
    );
    assert!(output.contains("4\nnull\n"), "{output}");
    assert!(output.ends_with("refused\n"), "{output}");
}

#[test]
fn a_readonly_root_is_readonly_but_its_mounts_are_not() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell(
        "exec 2>&1; touch /x; touch /dev/shm/ok && echo shm; touch /data/y && echo data; touch /seen/z; cat /seen/f; touch /scratch/s && stat -c %a /scratch",
    );
    container.config.rootfs.readonly = true;
    let volume = container.path("volume");
    let seen = container.path("seen");
    std::fs::create_dir(&volume).unwrap();
    std::fs::create_dir(&seen).unwrap();
    std::fs::write(seen.join("f"), "from the host\n").unwrap();
    container.config.mounts = vec![
        bind(&volume, "/data", false),
        bind(&seen, "/seen", true),
        skep_shim::config::Mount {
            target: "/scratch".into(),
            kind: skep_shim::config::MountKind::Tmpfs {
                options: "size=1m,mode=1770".into(),
            },
            readonly: false,
        },
    ];
    let (_, output) = container.run();
    assert!(output.contains("touch: /x: Read-only"), "{output}");
    assert!(output.contains("shm\ndata\n"), "{output}");
    assert!(output.contains("touch: /seen/z: Read-only"), "{output}");
    assert!(output.contains("from the host\n1770\n"), "{output}");
    assert!(volume.join("y").exists());
}

fn bind(source: &std::path::Path, target: &str, readonly: bool) -> skep_shim::config::Mount {
    skep_shim::config::Mount {
        target: target.into(),
        kind: skep_shim::config::MountKind::Bind {
            source: source.into(),
            subpath: Default::default(),
            propagation: Default::default(),
            non_recursive: false,
            copy_up: false,
            idmapped: false,
            flags: Default::default(),
        },
        readonly,
    }
}

#[test]
fn many_layers_are_mounted_under_short_names() {
    if cannot_run() {
        return;
    }
    let mut container = Container::new(&["cat", "/layer"]);
    let skep_shim::config::RootSource::Overlay { lower, .. } = &mut container.config.rootfs.source
    else {
        panic!("an overlay");
    };
    let base = lower.pop().unwrap();
    for number in 0..120 {
        let layer = base
            .parent()
            .unwrap()
            .join(format!("{number}-{}", "x".repeat(60)));
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join("layer"), format!("{number}\n")).unwrap();
        lower.push(layer);
    }
    lower.push(base);
    // The topmost comes first.
    assert_eq!(container.run(), (0, "0\n".into()));
}

#[test]
fn what_cannot_be_executed_is_told_as_docker_tells_it() {
    if cannot_run() {
        return;
    }
    let check = |program: &str, message: &str, exit_code| {
        let container = Container::new(&[program]);
        let Err(skep_shim::StartError::Failed(failed)) = container.try_start(&[]) else {
            panic!("{program} started");
        };
        assert_eq!(
            (failed.message.as_str(), failed.exit_code),
            (message, exit_code)
        );
        assert!(cgroups_left(&container.config.id).is_empty());
        until("the shim to end", || {
            (!container.config.paths.socket.exists()).then_some(())
        });
        assert!(!container.config.paths.exit.exists());
    };
    check(
        "foo",
        "exec: \"foo\": executable file not found in $PATH",
        127,
    );
    check(
        "/foo",
        "exec: \"/foo\": stat /foo: no such file or directory",
        127,
    );
    check(
        "/etc/passwd",
        "exec: \"/etc/passwd\": permission denied",
        126,
    );
    check("/etc", "exec: \"/etc\": is a directory", 126);
}

#[test]
fn a_program_of_a_wrong_format_ends_with_255() {
    if cannot_run() {
        return;
    }
    let container = Container::new(&["/odd"]);
    let odd = container.path("root/odd");
    std::fs::write(&odd, "\x7fELF nonsense").unwrap();
    std::fs::set_permissions(&odd, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (code, output) = container.run();
    assert_eq!(
        (code, output.as_str()),
        (255, "exec /odd: exec format error\n")
    );
}

#[test]
fn a_missing_bind_source_is_an_error() {
    if cannot_run() {
        return;
    }
    let mut container = Container::new(&["true"]);
    container.config.mounts = vec![bind("/no/such/dir".as_ref(), "/data", false)];
    let error = container.try_start(&[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "invalid mount config for type \"bind\": bind source path does not exist: /no/such/dir"
    );
}

#[test]
fn nothing_is_mounted_over_what_the_kernel_shows_of_processes() {
    if cannot_run() {
        return;
    }
    for place in ["/proc", "/proc/sys", "/proc/1", "/link/fs"] {
        let mut container = Container::new(&["true"]);
        std::os::unix::fs::symlink("/proc", container.path("root/link")).unwrap();
        let source = container.path("source");
        std::fs::create_dir(&source).unwrap();
        container.config.mounts = vec![bind(&source, place, false)];
        let error = container.try_start(&[]).unwrap_err().to_string();
        assert!(error.contains("it is inside /proc"), "{place}: {error}");
        container.config.mounts[0].kind = skep_shim::config::MountKind::Tmpfs {
            options: String::new(),
        };
        let error = container.try_start(&[]).unwrap_err().to_string();
        assert!(error.contains("it is inside /proc"), "{place}: {error}");
    }
    // What programs like to see made up can be, and the host's processes can be shown.
    let mut container = Container::shell("cat /proc/uptime");
    let source = container.path("uptime");
    std::fs::write(&source, "1.0 2.0\n").unwrap();
    container.config.mounts = vec![bind(&source, "/proc/uptime", false)];
    assert_eq!(container.run().1, "1.0 2.0\n");
    let mut container = Container::shell(&format!("head -n1 /proc/{}/status", std::process::id()));
    container.config.mounts = vec![bind(std::path::Path::new("/proc"), "/proc", true)];
    assert_eq!(container.run().0, 0);
}

#[test]
fn a_directory_does_not_fit_on_a_file() {
    if cannot_run() {
        return;
    }
    let mut container = Container::new(&["true"]);
    container.config.mounts = vec![bind("/tmp".as_ref(), "/etc/passwd", false)];
    let error = container.try_start(&[]).unwrap_err().to_string();
    assert!(
        error.contains("Are you trying to mount a directory onto a file (or vice-versa)?"),
        "{error}"
    );
}

#[test]
fn a_privileged_container_may_all() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell(
        "exec 2>&1; mount -t tmpfs x /tmp && echo mounted; grep Seccomp: /proc/self/status; \
         mkdir $(ls -d /sys/fs/cgroup/pids || echo /sys/fs/cgroup)/inner && echo group; \
         test -c /dev/kmsg && echo kmsg; test -w /proc/sys/kernel/panic && echo sysctl",
    );
    container.config.privileged = true;
    container.config.process.capabilities =
        skep_shim::capabilities::resolve(&[], &[], true).unwrap();
    let (_, output) = container.run();
    assert_eq!(output, "mounted\nSeccomp:\t0\ngroup\nkmsg\nsysctl\n");
}

#[test]
fn capabilities_are_found_however_they_are_written() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell("mount -t tmpfs x /tmp && echo mounted");
    container
        .config
        .process
        .capabilities
        .push("sys_admin".into());
    assert_eq!(container.run(), (0, "mounted\n".into()));
}

/// A mount of the host, taken away when dropped.
struct HostMount(std::path::PathBuf);

impl HostMount {
    fn new(path: &std::path::Path) -> Self {
        let run = |args: &[&str]| {
            let status = std::process::Command::new("mount")
                .args(args)
                .status()
                .unwrap();
            assert!(status.success());
        };
        std::fs::create_dir_all(path).unwrap();
        let text = path.to_str().unwrap();
        run(&["-t", "tmpfs", "shim-test", text]);
        let mount = Self(path.to_owned());
        run(&["--make-shared", text]);
        mount
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let path = c_string(&self.0);
        // SAFETY: the path is a C string.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
    }
}

fn c_string(path: &std::path::Path) -> std::ffi::CString {
    std::ffi::CString::new(path.to_str().unwrap()).unwrap()
}

#[test]
fn mounts_travel_as_far_as_asked() {
    if cannot_run() {
        return;
    }
    use skep_shim::config::{MountKind, Propagation};
    let mut container = Container::shell(
        "exec 2>&1; echo ready; while ! grep -q ' /slave/late ' /proc/mounts; do sleep 0.02; done; echo seen; \
         grep -c ' /private/late ' /proc/mounts; mount -t tmpfs x /shared/sub; mount -t tmpfs x /slave/sub; \
         mkdir -p /shared/done; sleep 100",
    );
    container
        .config
        .process
        .capabilities
        .push("CAP_SYS_ADMIN".into());
    let host = HostMount::new(&container.path("travel"));
    for name in ["late", "sub"] {
        std::fs::create_dir(host.0.join(name)).unwrap();
    }
    container.config.mounts = [
        ("/private", Propagation::Rprivate),
        ("/slave", Propagation::Rslave),
        ("/shared", Propagation::Rshared),
    ]
    .map(|(target, wanted)| {
        let mut mount = bind(&host.0, target, false);
        if let MountKind::Bind { propagation, .. } = &mut mount.kind {
            *propagation = wanted;
        }
        mount
    })
    .into();
    container.start();
    until("it to run", || {
        container.output().contains("ready").then_some(())
    });
    let late = HostMount::new(&host.0.join("late"));
    until("the mount to arrive", || {
        container.output().contains("seen\n0\n").then_some(())
    });
    until("the container's mounts", || {
        host.0.join("done").exists().then_some(())
    });
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let sub = format!(" {} ", host.0.join("sub").display());
    assert_eq!(mounts.matches(&sub).count(), 1, "{mounts}");
    container.client().signal(libc::SIGKILL, false).unwrap();
    container.wait();
    let inner = HostMount(host.0.join("sub"));
    drop(inner);
    drop(late);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&sub));
}

#[test]
fn a_new_volume_is_filled_from_the_image() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell("cat /etc/copy/passwd; stat -c %u:%a /etc/copy");
    let etc = container.path("root/etc/copy");
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(etc.join("passwd"), "copied\n").unwrap();
    std::os::unix::fs::chown(&etc, Some(1000), None).unwrap();
    let volume = container.path("volume");
    std::fs::create_dir(&volume).unwrap();
    let mut mount = bind(&volume, "/etc/copy", false);
    if let skep_shim::config::MountKind::Bind { copy_up, .. } = &mut mount.kind {
        *copy_up = true;
    }
    container.config.mounts = vec![mount];
    assert_eq!(container.run(), (0, "copied\n1000:755\n".into()));
    assert_eq!(
        std::fs::read_to_string(volume.join("passwd")).unwrap(),
        "copied\n"
    );
}

#[test]
fn limits_of_resources_are_set_and_clipped() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell("ulimit -n; ulimit -Hn; ulimit -c");
    container.config.process.rlimits = vec![
        Rlimit {
            name: "nofile".into(),
            soft: 100,
            hard: 200,
        },
        Rlimit {
            name: "core".into(),
            soft: 0,
            hard: 0,
        },
        // More than the kernel allows at all.
        Rlimit {
            name: "nproc".into(),
            soft: u64::MAX,
            hard: u64::MAX,
        },
    ];
    assert_eq!(container.run(), (0, "100\n200\n0\n".into()));
}

#[test]
fn too_much_memory_is_killed_and_said_so() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell("x=a; while :; do x=$x$x; done");
    container.config.cgroup.limits.memory = Some(16 << 20);
    container.config.cgroup.limits.memory_swap = Some(16 << 20);
    container.start();
    let record = container.wait();
    assert_eq!(record.exit_code, 137);
    assert!(record.oom_killed);
}

#[test]
fn too_many_processes_are_refused() {
    if cannot_run() {
        return;
    }
    let mut container =
        Container::shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; echo all; wait");
    container.config.cgroup.limits.pids = Some(5);
    let (code, output) = container.run();
    assert!(output.contains("can't fork"), "{output}");
    assert_ne!(code, 0);
}

#[test]
fn kernel_parameters_are_the_containers_own() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni",
    );
    container.config.sysctls = [
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("kernel.shmmni", "17"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    assert_eq!(container.run(), (0, "0\n17\n".into()));
}

#[test]
fn init_reaps_and_passes_signals_on() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell(
        "trap 'exit 5' TERM; (sleep 0.01 &); head -n1 /proc/1/status; echo pid $$; while :; do sleep 0.05; done",
    );
    container.config.init = true;
    container.start();
    until("it to run", || {
        container.output().contains("pid ").then_some(())
    });
    let output = container.output();
    assert!(output.contains("Name:\tdocker-init"), "{output}");
    assert!(!output.contains("pid 1\n"), "{output}");
    container.client().signal(libc::SIGTERM, false).unwrap();
    assert_eq!(container.wait().exit_code, 5);
}

#[test]
fn a_program_under_init_is_in_front_of_the_terminal() {
    if cannot_run() {
        return;
    }
    let mut container = Container::new(&["tty"]);
    container.config.init = true;
    container.config.process.terminal = true;
    assert_eq!(container.run(), (0, "/dev/pts/0\r\n".into()));
}

#[test]
fn namespaces_can_be_the_hosts_or_anothers() {
    if cannot_run() {
        return;
    }
    use skep_shim::config::{Namespace, Shm};
    let first = Container::shell("echo shared > /dev/shm/f; echo ready; sleep 100");
    let started = first.start();
    until("the first", || {
        first.output().contains("ready").then_some(())
    });
    let of = |name: &str| Namespace::Join(format!("/proc/{}/ns/{name}", started.pid).into());

    let mut second = Container::shell(
        "hostname; cat /dev/shm/f; ps | grep -c 'sleep 10[0]'; readlink /proc/self/ns/net",
    );
    second.config.namespaces.pid = of("pid");
    second.config.namespaces.ipc = of("ipc");
    second.config.namespaces.uts = of("uts");
    second.config.namespaces.net = of("net");
    second.config.shm = Shm::OfProcess { pid: started.pid };
    second.config.hostname = "other".into();
    let (_, output) = second.run();
    let net = std::fs::read_link(format!("/proc/{}/ns/net", started.pid)).unwrap();
    assert_eq!(output, format!("box\nshared\n1\n{}\n", net.display()));

    let mut third = Container::shell("readlink /proc/self/ns/pid; readlink /proc/self/ns/net");
    third.config.namespaces.pid = Namespace::Host;
    third.config.namespaces.net = Namespace::Host;
    let (_, output) = third.run();
    let own = |name: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        link.display().to_string()
    };
    assert_eq!(output, format!("{}\n{}\n", own("pid"), own("net")));
}

#[test]
fn what_is_left_in_the_hosts_pid_namespace_is_killed() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell("sleep 1000 & echo $!; exit 0");
    container.config.namespaces.pid = skep_shim::config::Namespace::Host;
    let (code, output) = container.run();
    assert_eq!(code, 0);
    let pid = output.trim();
    assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
}
