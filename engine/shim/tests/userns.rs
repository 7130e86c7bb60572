//! Containers with a user namespace of their own, seen from inside and from the host.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::sync::OnceLock;

use common::{Container, cannot_run, launcher, until};
use skep_shim::InjectedBytes;
use skep_shim::config::{
    Device, HealthCheck, InjectedFile, Mount, MountKind, Namespace, Propagation, Rlimit,
};
use skep_shim::protocol::{ExecSpec, Health};
use skep_shim::userns::{IdMap, UserNamespace};

/// Root of the containers, on the host.
const ROOT: u32 = 1_900_000_000;

fn map() -> IdMap {
    IdMap::from_zero(ROOT, 65_536)
}

/// Why there are no user namespaces here, if so.
fn cannot_map() -> bool {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    if cannot_run() {
        return true;
    }
    let reason = REASON.get_or_init(|| {
        launcher()
            .network_namespace(&map())
            .err()
            .map(|error| error.to_string())
    });
    if let Some(reason) = reason {
        println!("skipped: {reason}");
    }
    reason.is_some()
}

fn mapped(script: &str) -> Container {
    let mut container = Container::shell(&format!("exec 2>&1; {script}"));
    container.config.user_namespace = Some(UserNamespace {
        map: map(),
        join: None,
    });
    container
}

fn bind(source: &Path, target: &str, idmapped: bool) -> Mount {
    Mount {
        target: target.into(),
        kind: MountKind::Bind {
            source: source.into(),
            subpath: Default::default(),
            propagation: Default::default(),
            non_recursive: false,
            copy_up: false,
            idmapped,
            flags: Default::default(),
        },
        readonly: false,
    }
}

/// Has lines, and says what there is otherwise.
fn check(output: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            output.lines().any(|given| given == *line),
            "no {line:?} in:\n{output}"
        );
    }
}

#[test]
fn root_inside_is_somebody_else_on_the_host() {
    if cannot_map() {
        return;
    }
    let container = mapped(
        "id -u; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; cat /proc/self/setgroups; \
         stat -c %u:%g /etc/passwd /proc/1 /; touch /made; mkdir /dir; stat -c %u /made; \
         grep -E 'CapEff|CapBnd|Seccomp:' /proc/self/status; hostname; sleep 100",
    );
    let started = container.start();
    until("the script", || {
        container.output().contains("box\n").then_some(())
    });
    check(
        &container.output(),
        &[
            "0",
            &format!(" 0 {ROOT} 65536"),
            "allow",
            "0:0",
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "Seccomp:\t2",
            "box",
        ],
    );
    let status = fs::metadata(format!("/proc/{}", started.pid)).unwrap();
    assert_eq!((status.uid(), status.gid()), (ROOT, ROOT));
    let map = fs::read_to_string(format!("/proc/{}/uid_map", started.pid)).unwrap();
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(words, ["0", &ROOT.to_string(), "65536"]);
    // On the disk nothing is shifted.
    for name in ["upper/made", "upper/dir"] {
        assert_eq!(
            fs::metadata(container.path(name)).unwrap().uid(),
            0,
            "{name}"
        );
    }
    // All namespaces belong to the new one.
    for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup", "user"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of(&started.pid.to_string()), of("self"), "{kind}");
    }
    container.client().signal(libc::SIGKILL, false).unwrap();
    assert_eq!(container.wait().exit_code, 137);
    assert!(common::cgroups_left(&container.config.id).is_empty());
}

#[test]
fn the_kernel_is_shown_hidden_and_protected() {
    if cannot_map() {
        return;
    }
    let output = mapped(
        "mount > /tmp/m; grep -c ' /sys type sysfs (ro' /tmp/m; grep -c ' /dev/mqueue type mqueue' /tmp/m; \
         grep -c ' /dev/pts type devpts' /tmp/m; grep -c ' /dev/shm type tmpfs' /tmp/m; \
         grep -c /sys/fs/cgroup /tmp/m | grep -qv '^0$' && echo cgroups; \
         ls /proc/acpi 2>/dev/null | wc -l; head -c1 /proc/kcore | wc -c; \
         echo x > /proc/sys/kernel/domainname && echo written; ls /sys/class/net; \
         stat -c %F /dev/null; echo gone > /dev/null && head -c 3 /dev/zero | wc -c; \
         ls -l /dev/fd /dev/ptmx | wc -l; echo yes > /dev/stdout; echo no > /dev/stderr",
    )
    .run()
    .1;
    check(
        &output,
        &[
            "1",
            "cgroups",
            "0",
            "lo",
            "character special file",
            "3",
            "2",
            "yes",
            "no",
        ],
    );
    assert!(!output.contains("written"), "{output}");
}

#[test]
fn volumes_keep_the_containers_ids_and_binds_the_hosts() {
    if cannot_map() {
        return;
    }
    let mut container = mapped(
        "touch /volume/root; stat -c %u:%g /volume/mine /host/roots; cat /host/roots; \
         echo overwritten > /host/roots; echo new > /host/new; chown 5:6 /volume/mine; \
         cat /host/given && echo changed > /host/given; su_ok=1",
    );
    let (volume, host) = (container.path("volume"), container.path("host"));
    for directory in [&volume, &host] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(volume.join("mine"), "").unwrap();
    fs::write(host.join("roots"), "secret\n").unwrap();
    fs::set_permissions(host.join("roots"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(host.join("given"), "for you\n").unwrap();
    chown(host.join("given"), Some(ROOT), Some(ROOT)).unwrap();
    container.config.mounts = vec![bind(&volume, "/volume", true), bind(&host, "/host", false)];
    let (_, output) = container.run();
    check(&output, &["0:0", "65534:65534", "for you"]);
    assert!(output.contains("Permission denied"), "{output}");
    assert_eq!(fs::read_to_string(host.join("roots")).unwrap(), "secret\n");
    assert_eq!(fs::read_to_string(host.join("given")).unwrap(), "changed\n");
    assert!(!host.join("new").exists());
    assert_eq!(fs::metadata(volume.join("root")).unwrap().uid(), 0);
    let mine = fs::metadata(volume.join("mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (5, 6));
}

#[test]
fn a_new_volume_is_filled_with_unshifted_ids() {
    if cannot_map() {
        return;
    }
    let mut container = mapped("stat -c %u:%g /data /data/file");
    let data = container.path("root/data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "x").unwrap();
    chown(data.join("file"), Some(1000), Some(1001)).unwrap();
    chown(&data, Some(7), Some(8)).unwrap();
    let volume = container.path("volume");
    fs::create_dir(&volume).unwrap();
    let mut mount = bind(&volume, "/data", true);
    if let MountKind::Bind { copy_up, .. } = &mut mount.kind {
        *copy_up = true;
    }
    container.config.mounts = vec![mount];
    assert_eq!(container.run().1, "7:8\n1000:1001\n");
    let file = fs::metadata(volume.join("file")).unwrap();
    assert_eq!((file.uid(), file.gid()), (1000, 1001));
    assert_eq!(fs::metadata(&volume).unwrap().uid(), 7);
}

#[test]
fn execs_and_checks_are_in_the_namespace_too() {
    if cannot_map() {
        return;
    }
    let mut container = mapped("echo ready; sleep 100");
    container.config.health = Some(HealthCheck {
        test: ["CMD-SHELL", "test $(id -u) = 0 && touch /checked"]
            .map(String::from)
            .to_vec(),
        interval_ns: 20_000_000,
        ..HealthCheck::default()
    });
    container.start();
    let (code, output) = container.exec_shell(
        "e1",
        "id -u; readlink /proc/self/ns/user; readlink /proc/1/ns/user; echo out > /dev/stdout; touch /by-exec; grep CapEff /proc/self/status; exit 4",
    );
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(code, 4, "{output}");
    assert_eq!(lines[0], "0");
    assert_eq!(lines[1], lines[2]);
    assert_eq!(lines[3..], ["out", "CapEff:\t00000000a80425fb"]);
    assert_eq!(
        fs::metadata(container.path("upper/by-exec")).unwrap().uid(),
        0
    );
    let (_, output) = container.exec(ExecSpec {
        id: "e2".into(),
        args: ["sh", "-c", "id -u; id -G; echo to > /dev/stdout; touch /x"]
            .map(String::from)
            .to_vec(),
        user: Some("web".into()),
        ..ExecSpec::default()
    });
    assert!(output.starts_with("1000\n1001 50\nto\n"), "{output}");
    assert!(output.contains("Permission denied"), "{output}");
    let (_, output) = container.exec(ExecSpec {
        id: "e3".into(),
        args: ["sh", "-c", "tty; stat -c %u:%g $(tty); echo x > $(tty)"]
            .map(String::from)
            .to_vec(),
        terminal: true,
        ..ExecSpec::default()
    });
    assert_eq!(output, "/dev/pts/0\r\n0:5\r\nx\r\n");
    container.wait_for_health(Health::Healthy);
    assert_eq!(
        fs::metadata(container.path("upper/checked")).unwrap().uid(),
        0
    );
}

#[test]
fn terminals_users_and_init_work() {
    if cannot_map() {
        return;
    }
    let mut container = mapped(
        "tty; stat -c %u:%g /dev/pts/0 /dev/console; id -u; id -G; touch /no; pwd; stat -c %u .",
    );
    container.config.process.terminal = true;
    container.config.process.user = "web".into();
    container.config.process.cwd = "/made/here".into();
    container.config.process.additional_groups = vec!["7".into()];
    container.config.init = true;
    let (_, output) = container.run();
    let output = output.replace('\r', "");
    check(
        &output,
        &[
            "/dev/pts/0",
            "1000:5",
            "1000",
            "1001 7 50",
            "/made/here",
            "0",
        ],
    );
    assert!(output.contains("touch: /no: Permission denied"), "{output}");
}

#[test]
fn tmpfs_secrets_and_devices_belong_to_the_container() {
    if cannot_map() {
        return;
    }
    let mut container = mapped(
        "stat -c %u:%g:%a /scratch /run/secrets/one /run/secrets/two; cat /run/secrets/one; \
         touch /scratch/x && stat -c %u /scratch/x; stat -c %t:%T /dev/gift; echo > /dev/gift && echo usable; \
         mount -o remount,rw /run/secrets/one || echo locked",
    );
    container.config.mounts = vec![Mount {
        target: "/scratch".into(),
        kind: MountKind::Tmpfs {
            options: "size=1m,mode=700,uid=1000".into(),
        },
        readonly: false,
    }];
    container.config.devices = vec![Device {
        path_on_host: "/dev/null".into(),
        path_in_container: "/dev/gift".into(),
        permissions: "rw".into(),
        ..Device::default()
    }];
    container.config.injected = [("one", 0, 0o400), ("two", 1000, 0o440)]
        .map(|(name, uid, mode)| InjectedFile {
            name: name.into(),
            target: format!("/run/secrets/{name}"),
            uid,
            gid: uid,
            mode,
        })
        .to_vec();
    let files = ["one", "two"].map(|name| InjectedBytes {
        name,
        bytes: b"hidden\n",
    });
    container.try_start(&files).unwrap();
    container.wait();
    check(
        &container.output(),
        &[
            "1000:0:700",
            "0:0:400",
            "1000:1000:440",
            "hidden",
            "0",
            "1:3",
            "usable",
            "locked",
        ],
    );
}

#[test]
fn the_network_belongs_to_the_container() {
    if cannot_map() {
        return;
    }
    let script = "ip link set lo mtu 1400 && echo configured; cat /proc/sys/net/ipv4/ping_group_range \
                  /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni | tr '\\t' ' '";
    let sysctls = [
        ("net.ipv4.ping_group_range", "0 2147483647"),
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("kernel.shmmni", "17"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut container = mapped(script);
    container
        .config
        .process
        .capabilities
        .push("NET_ADMIN".into());
    container.config.sysctls = sysctls.clone().into();
    check(&container.run().1, &["configured", "0", "17"]);

    // One that was made before for a map is entered together with its owner.
    let held = launcher().network_namespace(&map()).unwrap();
    let mut container = mapped(script);
    container
        .config
        .process
        .capabilities
        .push("NET_ADMIN".into());
    container.config.namespaces.net = Namespace::Join(held.path().into());
    let (_, output) = container.run();
    check(&output, &["configured"]);

    // That of somebody else can be used, not configured.
    let other = Container::shell("echo ready; sleep 100");
    let started = other.start();
    let mut container = mapped(&format!("{script}; ls /sys/class/net"));
    container
        .config
        .process
        .capabilities
        .push("NET_ADMIN".into());
    container.config.namespaces.net =
        Namespace::Join(format!("/proc/{}/ns/net", started.pid).into());
    container.config.sysctls = sysctls.into();
    let (_, output) = container.run();
    check(&output, &["0", "17", "lo"]);
    assert!(!output.contains("configured"), "{output}");
}

#[test]
fn another_containers_namespaces_are_joined_with_its_owner() {
    if cannot_map() {
        return;
    }
    let first = mapped("echo ready; sleep 100");
    let pid = first.start().pid;
    let path = |kind: &str| Namespace::Join(format!("/proc/{pid}/ns/{kind}").into());
    let mut second = mapped(
        "id -u; kill -0 1 && echo seen; readlink /proc/1/ns/user; readlink /proc/self/ns/user",
    );
    second.config.namespaces.pid = path("pid");
    second.config.namespaces.net = path("net");
    second.config.namespaces.ipc = path("ipc");
    second.config.shm = skep_shim::config::Shm::OfProcess { pid };
    second.config.user_namespace = Some(UserNamespace {
        map: map(),
        join: Some(format!("/proc/{pid}/ns/user").into()),
    });
    let (_, output) = second.run();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], ["0", "seen"], "{output}");
    assert_eq!(lines[2], lines[3]);
}

#[test]
fn mounts_inside_do_not_travel_to_the_host() {
    if cannot_map() {
        return;
    }
    let mut container =
        mapped("mount -t tmpfs none /shared && echo mounted; umount /proc/acpi; umount /etc/host");
    container
        .config
        .process
        .capabilities
        .push("SYS_ADMIN".into());
    let shared = container.path("shared");
    fs::create_dir(&shared).unwrap();
    let mut mount = bind(&shared, "/shared", false);
    if let MountKind::Bind { propagation, .. } = &mut mount.kind {
        *propagation = Propagation::Rshared;
    }
    container.config.mounts = vec![mount];
    let (_, output) = container.run();
    check(&output, &["mounted"]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(shared.to_str().unwrap()));
}

#[test]
fn limits_readonly_roots_and_layers_work() {
    if cannot_map() {
        return;
    }
    let mut container = mapped(
        "ulimit -n; touch /x; cat /layer; dd if=/dev/zero of=/dev/shm/x bs=1M count=1 2>/dev/null && echo shm",
    );
    container.config.rootfs.readonly = true;
    container.config.process.rlimits = vec![Rlimit {
        name: "nofile".into(),
        soft: 77,
        hard: 99,
    }];
    let skep_shim::config::RootSource::Overlay { lower, .. } = &mut container.config.rootfs.source
    else {
        panic!("an overlay");
    };
    let base = lower.pop().unwrap();
    for number in 0..40 {
        let layer = base.with_file_name(format!("layer-{number},x:y"));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join("layer"), format!("layer {number}\n")).unwrap();
        lower.push(layer);
    }
    lower.push(base);
    let (_, output) = container.run();
    check(&output, &["77", "layer 0", "shm"]);
    assert!(output.contains("touch: /x: Read-only"), "{output}");
}

#[test]
fn what_cannot_be_mapped_is_refused_by_name() {
    if cannot_map() {
        return;
    }
    let mut container = mapped("true");
    // The kernel's own file systems have no ids to map.
    container.config.mounts = vec![bind(Path::new("/proc"), "/volume", true)];
    let error = container.try_start(&[]).unwrap_err().to_string();
    assert!(
        error.contains("mapping the ids of /proc") && error.contains("--userns=host"),
        "{error}"
    );

    let container = mapped("true");
    let mut config = container.config.clone();
    config.user_namespace = Some(UserNamespace {
        map: IdMap::default(),
        join: None,
    });
    let path = container.path("config.json");
    config.write(&path).unwrap();
    let error = launcher().prepare(&path).unwrap_err().to_string();
    assert!(
        error.contains("leaves root of the container out"),
        "{error}"
    );
}
