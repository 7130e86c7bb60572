//! What the OCI runtime specification (1.0 and later) asks of a runtime, on the same
//! bundle, of the shim and of runc: each case says what the specification wants to be
//! seen, and both must see the same.
//!
//! Left out is what docker containers never have and the shim refuses by name: hooks,
//! AppArmor and SELinux labels, other rootfs propagation than private, huge pages,
//! network classes, inheritable and ambient capabilities, named pipes as devices.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use common::{Container, cannot_run, until};
use serde_json::{Value, json};

/// Where runc is, if it is.
fn runc() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists())
    });
    found.as_deref()
}

/// A bundle with docker's settings and no limits.
fn bundle(root: &Path, group: &str, script: &str) -> Value {
    let capabilities = skep_shim::capabilities::DEFAULT;
    let namespaces =
        ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["sh", "-c", format!("exec 2>&1; {script}")],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0, "additionalGids": [0]},
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "noNewPrivileges": false,
        },
        "root": {"path": root, "readonly": false},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": group,
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// Exit code and what was printed.
type Seen = (i32, String);

/// One bundle, to be run by either.
struct Bundle {
    container: Container,
    group: String,
}

impl Bundle {
    fn new(script: &str, change: impl FnOnce(&mut Value, &Path)) -> Self {
        let mut container = Container::new(&[]);
        let group = format!("{}/{}", container.config.cgroup.parent, container.config.id);
        let mut spec = bundle(&container.path("root"), &group, script);
        change(&mut spec, container.directory.path());
        fs::write(container.path("config.json"), spec.to_string()).unwrap();
        let state = container.path("state");
        fs::create_dir(&state).unwrap();
        // What the harness looks at to clean up.
        container.config.paths = skep_shim::config::Paths::in_directory(&state);
        Self { container, group }
    }

    /// Runs it in a shim. The error is why it could not be started.
    fn in_shim(&mut self) -> Result<Seen, String> {
        let directory = self.container.directory.path();
        let state = self.container.path("state");
        let id = self.container.config.id.clone();
        self.container.config =
            skep_shim::bundle::read(directory, &id, &state).map_err(|error| error.to_string())?;
        let path = state.join("shim.json");
        self.container.config.write(&path).unwrap();
        common::launcher()
            .prepare(&path)
            .and_then(|prepared| prepared.start(&[]))
            .map_err(|error| error.to_string())?;
        let code = self.container.wait().exit_code;
        Ok((code, self.container.output()))
    }

    fn runc(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--root")
            .arg(self.container.path("runc"))
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// Runs it with runc.
    fn in_runc(&self, program: &Path) -> Result<Seen, String> {
        let bundle = self.container.directory.path().to_str().unwrap();
        let id = format!("runc-{}", self.container.config.id);
        let output = self
            .runc(program, &["run", "--bundle", bundle, &id])
            .output()
            .unwrap();
        let _ = self
            .runc(program, &["delete", "--force", &id])
            .stderr(Stdio::null())
            .status();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        match (output.status.code(), complaints.contains("level=error")) {
            (Some(code), false) => Ok((code, String::from_utf8_lossy(&output.stdout).into_owned())),
            _ => Err(complaints),
        }
    }
}

/// Runs a script in a bundle that was changed, in both runtimes. Every line of `wanted` must
/// be seen in both, and all else must be the same.
#[track_caller]
fn check(script: &str, wanted: &[&str], change: impl Fn(&mut Value, &Path)) {
    check_code(0, script, wanted, change);
}

#[track_caller]
fn check_code(code: i32, script: &str, wanted: &[&str], change: impl Fn(&mut Value, &Path)) {
    let ours = Bundle::new(script, &change).in_shim();
    let ours = ours.unwrap_or_else(|why| panic!("the shim refuses it: {why}"));
    for line in wanted {
        assert!(
            ours.1.lines().any(|seen| seen == *line),
            "no {line:?} in the shim:\n{}",
            ours.1
        );
    }
    assert_eq!(ours.0, code, "{}", ours.1);
    let Some(program) = runc() else {
        println!("skipped in part: there is no runc to compare with");
        return;
    };
    let theirs = Bundle::new(script, &change).in_runc(program);
    let theirs = theirs.unwrap_or_else(|why| panic!("runc refuses it: {why}"));
    assert_eq!(ours, theirs, "the shim and runc");
}

/// Neither runs it.
#[track_caller]
fn refused(change: impl Fn(&mut Value, &Path)) {
    if let Ok(seen) = Bundle::new("true", &change).in_shim() {
        panic!("the shim runs it: {seen:?}");
    }
    if let Some(program) = runc()
        && let Ok(seen) = Bundle::new("true", &change).in_runc(program)
    {
        panic!("runc runs it: {seen:?}");
    }
}

fn nothing(_: &mut Value, _: &Path) {}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

#[test]
fn the_process_is_who_and_where_it_was_asked_to_be() {
    if cannot_run() {
        return;
    }
    check(
        "id -u; id -g; id -G; pwd; umask; echo $A; echo $HOME",
        &[
            "1000",
            "1001",
            "1001 5 7",
            "/made/here",
            "0022",
            "b c",
            "/home/web",
        ],
        |spec, _| {
            let process = &mut spec["process"];
            process["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [1001, 5, 7]});
            process["cwd"] = json!("/made/here");
            push(&mut process["env"], json!("A=b c"));
        },
    );
    check(
        "echo $$; cat /proc/1/comm; ls -l /proc/self/fd | wc -l",
        &["1", "sh"],
        nothing,
    );
    check_code(7, "exit 7", &[], nothing);
    check_code(137, "kill -9 $$; sleep 1; exit 9", &[], |spec, _| {
        // A first process is deaf to its own signals: it must not be one.
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|namespace| namespace["type"] != "pid");
    });
}

#[test]
fn a_process_that_cannot_be_is_refused() {
    if cannot_run() {
        return;
    }
    refused(|spec, _| spec["process"]["args"] = json!([]));
    refused(|spec, _| spec["process"]["args"] = json!(["/no/such/program"]));
    refused(|spec, _| spec["process"]["cwd"] = json!("relative"));
    // A runc that is older than 1.2 takes any version.
    let invalid = Bundle::new("true", |spec, _| spec["ociVersion"] = json!("invalid")).in_shim();
    assert!(invalid.unwrap_err().contains("ociVersion"));
    refused(|spec, _| spec["root"]["path"] = json!("/no/such/root"));
    refused(|spec, _| {
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_TEST", "soft": 1, "hard": 2}]);
    });
    refused(|spec, _| {
        push(
            &mut spec["mounts"],
            json!({"destination": "/x", "type": "bind", "source": "/no/such/place", "options": ["bind"]}),
        );
    });
    refused(|spec, _| {
        push(
            &mut spec["linux"]["namespaces"],
            json!({"type": "ipc", "path": "/no/such/file"}),
        );
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .remove(2);
    });
    refused(|spec, _| {
        // The path of a namespace of another kind.
        let path = format!("/proc/{}/ns/uts", std::process::id());
        spec["linux"]["namespaces"][2] = json!({"type": "ipc", "path": path});
    });
}

#[test]
fn what_is_not_known_is_ignored() {
    if cannot_run() {
        return;
    }
    check("echo runs", &["runs"], |spec, _| {
        spec["unknown"] = json!("property");
        spec["annotations"] = json!({"org.example.key": ""});
    });
}

#[test]
fn capabilities_and_privileges_are_as_asked() {
    if cannot_run() {
        return;
    }
    let status =
        "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status | sed 's/ *$//'";
    check(
        status,
        &[
            "CapBnd:\t00000000a80425fb",
            "CapEff:\t00000000a80425fb",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t0",
            "Seccomp:\t0",
        ],
        nothing,
    );
    let few = |spec: &mut Value, _: &Path| {
        let sets = ["CAP_KILL", "CAP_NET_BIND_SERVICE"];
        spec["process"]["capabilities"] =
            json!({"bounding": sets, "effective": sets, "permitted": sets});
        spec["process"]["noNewPrivileges"] = json!(true);
    };
    check(
        status,
        &[
            "CapPrm:\t0000000000000420",
            "CapBnd:\t0000000000000420",
            "CapInh:\t0000000000000000",
            "NoNewPrivs:\t1",
        ],
        few,
    );
    check(
        status,
        &["CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"],
        |spec, _| {
            spec["process"]["capabilities"] = json!({});
        },
    );
    // Another user has them in the bounding set only, whatever was permitted.
    let ours = Bundle::new(status, |spec, _| {
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    })
    .in_shim()
    .unwrap();
    assert!(
        ours.1.contains("CapEff:\t0000000000000000")
            && ours.1.contains("CapBnd:\t00000000a80425fb")
    );
}

#[test]
fn limits_of_the_process_are_as_asked() {
    if cannot_run() {
        return;
    }
    let limits = "grep -E 'Max (core|data|file|stack|cpu|open|address|pending)' /proc/self/limits | tr -s ' ' | sed 's/ *$//'; cat /proc/self/oom_score_adj";
    check(
        limits,
        &[
            "Max open files 300 400 files",
            "Max core file size 0 1024 bytes",
            "Max cpu time 60 120 seconds",
            "100",
        ],
        |spec, _| {
            spec["process"]["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "soft": 300, "hard": 400},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 1024},
                {"type": "RLIMIT_CPU", "soft": 60, "hard": 120},
                {"type": "RLIMIT_DATA", "soft": 1_000_000_000, "hard": 2_000_000_000},
                {"type": "RLIMIT_FSIZE", "soft": 1_000_000, "hard": 2_000_000},
                {"type": "RLIMIT_STACK", "soft": 4_000_000, "hard": 8_000_000},
            ]);
            spec["process"]["oomScoreAdj"] = json!(100);
        },
    );
}

#[test]
fn the_host_has_the_name_and_parameters_it_was_given() {
    if cannot_run() {
        return;
    }
    check(
        "hostname; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni",
        &["other", "1", "17"],
        |spec, _| {
            spec["hostname"] = json!("other");
            spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "17"});
        },
    );
    // Later than the runc of some distributions.
    let ours = Bundle::new("cat /proc/sys/kernel/domainname", |spec, _| {
        spec["domainname"] = json!("example");
    })
    .in_shim();
    assert_eq!(ours, Ok((0, "example\n".into())));
    refused(|spec, _| spec["linux"]["sysctl"] = json!({"net.no.such": "1"}));
}

#[test]
fn namespaces_are_new_joined_or_the_hosts() {
    if cannot_run() {
        return;
    }
    let kinds = ["pid", "net", "ipc", "uts", "mnt", "cgroup"];
    let script = |kinds: &[&str]| {
        kinds
            .iter()
            .map(|kind| {
                let own = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
                format!("test $(readlink /proc/self/ns/{kind}) = '{}' && echo {kind} shared || echo {kind} new; ", own.display())
            })
            .collect::<String>()
    };
    check(
        &script(&kinds),
        &kinds.map(|kind| match kind {
            "pid" => "pid new",
            "net" => "net new",
            "ipc" => "ipc new",
            "uts" => "uts new",
            "mnt" => "mnt new",
            _ => "cgroup new",
        }),
        nothing,
    );
    check(
        &script(&kinds),
        &[
            "pid shared",
            "net shared",
            "ipc shared",
            "uts shared",
            "mnt new",
        ],
        |spec, _| {
            spec["linux"]["namespaces"] = json!([{"type": "mount"}]);
            spec.as_object_mut().unwrap().remove("hostname");
        },
    );
    // Those of another process, by path.
    let other = Container::new(&["sleep", "100"]);
    let pid = other.start().pid;
    let of = |kind: &str| {
        fs::read_link(format!("/proc/{pid}/ns/{kind}"))
            .unwrap()
            .display()
            .to_string()
    };
    let script = "for kind in net ipc uts pid; do readlink /proc/self/ns/$kind; done; hostname";
    check(
        script,
        &[&of("net"), &of("ipc"), &of("uts"), &of("pid"), "box"],
        |spec, _| {
            let mut namespaces: Vec<Value> = [
                ("network", "net"),
                ("ipc", "ipc"),
                ("uts", "uts"),
                ("pid", "pid"),
            ]
            .map(|(kind, file)| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}))
            .to_vec();
            namespaces.push(json!({"type": "mount"}));
            spec["linux"]["namespaces"] = json!(namespaces);
            spec.as_object_mut().unwrap().remove("hostname");
        },
    );
}

#[test]
fn ids_are_mapped_in_a_user_namespace() {
    if cannot_run() {
        return;
    }
    let script = "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; cat /proc/self/setgroups; grep CapEff /proc/self/status";
    let change = |spec: &mut Value, directory: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        // Root of the container must get to its root.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        push(&mut spec["linux"]["namespaces"], json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 1_900_000_000_u32, "size": 2000}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
    };
    check(
        script,
        &[
            "0",
            " 0 1900000000 2000",
            "allow",
            "CapEff:\t00000000a80425fb",
        ],
        change,
    );
}

/// Mounts in the order of their places: place, type, options of the mount.
const MOUNTS: &str = "awk '{ for (i = 7; $i != \"-\"; i++); print $5, $(i+1), $6, (i > 7 ? \"travels\" : \"private\") }' /proc/self/mountinfo | sort";

#[test]
fn the_kernels_file_systems_are_mounted_with_their_options() {
    if cannot_run() {
        return;
    }
    // What is above the hierarchies of control groups is writable with runc, not with us.
    let places = "grep -E '^/(proc|sys|dev|dev/pts|dev/shm|dev/mqueue|sys/fs/cgroup/[^ ]*|proc/(bus|fs|irq|sys|sysrq-trigger)) '";
    check(
        &format!("{MOUNTS} | {places}"),
        &[
            "/proc proc rw,nosuid,nodev,noexec,relatime private",
            "/sys sysfs ro,nosuid,nodev,noexec,relatime private",
            "/dev tmpfs rw,nosuid private",
            "/dev/pts devpts rw,nosuid,noexec,relatime private",
            "/dev/shm tmpfs rw,nosuid,nodev,noexec,relatime private",
            "/dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime private",
            "/proc/sys proc ro,nosuid,nodev,noexec,relatime private",
        ],
        nothing,
    );
    check(
        "stat -c '%a %u %g' /dev /dev/shm /dev/pts /dev/mqueue /proc /sys",
        &["755 0 0", "1777 0 0"],
        nothing,
    );
    check(
        "df -k /dev/shm | tail -n1 | tr -s ' ' | cut -d' ' -f2; ls -A /dev/shm /dev/mqueue | wc -l",
        &["1024"],
        |spec, _| {
            spec["mounts"][3]["options"] =
                json!(["nosuid", "noexec", "nodev", "mode=1777", "size=1024k"]);
        },
    );
}

#[test]
fn mounts_have_the_options_they_were_given() {
    if cannot_run() {
        return;
    }
    let change = |spec: &mut Value, directory: &Path| {
        let source = directory.join("source");
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("file"), "text\n").unwrap();
        let file = source.join("file");
        for (place, from, kind, options) in [
            ("/bound", &source, "bind", vec!["bind"]),
            ("/readonly", &source, "bind", vec!["rbind", "ro"]),
            (
                "/locked",
                &source,
                "bind",
                vec!["rbind", "nosuid", "nodev", "noexec"],
            ),
            ("/one/file", &file, "bind", vec!["bind", "ro"]),
            ("/slave", &source, "bind", vec!["rbind", "rslave"]),
            ("/private", &source, "bind", vec!["rbind", "rprivate"]),
            (
                "/memory",
                &file,
                "tmpfs",
                vec!["nosuid", "noexec", "size=64k", "mode=701"],
            ),
            ("/bound/sub", &source, "tmpfs", vec!["ro"]),
        ] {
            push(
                &mut spec["mounts"],
                json!({"destination": place, "type": kind, "source": from, "options": options}),
            );
        }
    };
    check(
        &format!(
            "{MOUNTS} | grep -E '^/(bound|readonly|locked|one|private|memory)' | sed 's/ext4\\|xfs\\|btrfs\\|overlay/disk/'; stat -c %a /memory; ls /bound /one; touch /readonly/x /bound/x /bound/sub/x; cat /one/file; echo > /one/file"
        ),
        &[
            "/memory tmpfs rw,nosuid,noexec,relatime private",
            "/bound/sub tmpfs ro,relatime private",
            "701",
            "touch: /readonly/x: Read-only file system",
            "text",
        ],
        |spec, directory| {
            change(spec, directory);
            // Its exit code is that of the last command, which fails.
            let script = spec["process"]["args"][2].as_str().unwrap().to_owned() + "; true";
            spec["process"]["args"][2] = json!(script);
        },
    );
}

#[test]
fn the_root_is_writable_or_not_and_nothing_of_the_host_is_left() {
    if cannot_run() {
        return;
    }
    let script = "touch /x && echo written; touch /dev/shm/y && echo memory; ls /; awk '$5 == \"/\" { print $6 }' /proc/self/mountinfo | cut -d, -f1; wc -l < /proc/self/mountinfo | grep -q '^[0-9]\\{1,2\\}$' && echo few; true";
    check(script, &["written", "memory", "rw", "few"], nothing);
    check(
        script,
        &["touch: /x: Read-only file system", "memory", "ro"],
        |spec, _| {
            spec["root"]["readonly"] = json!(true);
            // Who cannot write to the root cannot make places in it either.
        },
    );
    check(
        "cd ..; cd ../..; pwd; ls -d /proc/1/root/bin",
        &["/", "/proc/1/root/bin"],
        nothing,
    );
}

#[test]
fn devices_and_links_are_there() {
    if cannot_run() {
        return;
    }
    let script = "for node in null zero full random urandom tty; do stat -c '%n %F %t:%T %a %u:%g' /dev/$node; done; \
                  for link in fd stdin stdout stderr ptmx; do echo $link $(readlink /dev/$link); done; \
                  echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo > /dev/full || echo full";
    check(
        script,
        &[
            "/dev/null character special file 1:3 666 0:0",
            "/dev/tty character special file 5:0 666 0:0",
            "fd /proc/self/fd",
            "stdin /proc/self/fd/0",
            "ptmx pts/ptmx",
            "4",
            "full",
        ],
        nothing,
    );
    let devices = |spec: &mut Value, _: &Path| {
        spec["linux"]["devices"] = json!([
            {"path": "/dev/test1", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 5, "gid": 6},
            {"path": "/dev/test2", "type": "b", "major": 7, "minor": 99, "fileMode": 0o640},
            {"path": "/dev/test3", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666},
        ]);
        push(
            &mut spec["linux"]["resources"]["devices"],
            json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}),
        );
    };
    check(
        "stat -c '%n %F %t:%T %a %u:%g' /dev/test*; head -c 2 /dev/test3 | wc -c; head -c 1 /dev/test2",
        &[
            "/dev/test1 character special file a:e5 660 5:6",
            "/dev/test2 block special file 7:63 640 0:0",
            "2",
            "head: /dev/test2: Operation not permitted",
        ],
        |spec, directory| {
            devices(spec, directory);
            let script = spec["process"]["args"][2].as_str().unwrap().to_owned() + "; true";
            spec["process"]["args"][2] = json!(script);
        },
    );
    // What is not in the list cannot be used, though it can be made.
    check(
        "mknod /dev/kmsg c 1 11 && echo made; head -c 1 /dev/kmsg; true",
        &["made", "head: /dev/kmsg: Operation not permitted"],
        |spec, directory| {
            let _ = std::os::unix::fs::symlink("busybox", directory.join("root/bin/mknod"));
            push(
                &mut spec["linux"]["resources"]["devices"],
                json!({"allow": true, "type": "c", "access": "m"}),
            );
        },
    );
}

#[test]
fn paths_are_masked_and_protected() {
    if cannot_run() {
        return;
    }
    let change = |spec: &mut Value, directory: &Path| {
        let root = directory.join("root");
        fs::create_dir_all(root.join("hidden/sub")).unwrap();
        fs::write(root.join("hidden/sub/file"), "secret\n").unwrap();
        fs::write(root.join("secret"), "secret\n").unwrap();
        fs::create_dir_all(root.join("kept")).unwrap();
        fs::write(root.join("kept/file"), "text\n").unwrap();
        for path in ["/hidden", "/secret", "/no/such/path"] {
            push(&mut spec["linux"]["maskedPaths"], json!(path));
        }
        for path in ["/kept", "/no/such/path"] {
            push(&mut spec["linux"]["readonlyPaths"], json!(path));
        }
    };
    check(
        "ls /hidden | wc -l; cat /secret; touch /hidden/x || echo no; cat /kept/file; touch /kept/x || echo no; head -c1 /proc/kcore | wc -c; ls /proc/acpi 2>/dev/null | wc -l; echo x > /proc/sys/kernel/domainname || echo no",
        &["0", "text", "touch: /kept/x: Read-only file system", "no"],
        change,
    );
}

#[test]
fn calls_are_filtered() {
    if cannot_run() {
        return;
    }
    let profile = |rule: Value| {
        move |spec: &mut Value, _: &Path| {
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                "syscalls": [rule],
            });
        }
    };
    let script = "grep Seccomp: /proc/self/status; mkdir /made && echo made; mkdir /other; true";
    check(
        script,
        &[
            "Seccomp:\t2",
            "mkdir: can't create directory '/made': No space left on device",
        ],
        profile(json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28})),
    );
    // By argument: only this mode.
    check(
        "mkdir -m 0700 /one && echo one; mkdir /two && echo two; true",
        &["two"],
        profile(
            json!({"names": ["chmod", "fchmodat", "mkdir"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": 0o700, "op": "SCMP_CMP_EQ"}]}),
        ),
    );
    // Together with no_new_privs, and for a user without any capability.
    check(
        "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; id -u; hostname new; true",
        &["Seccomp:\t2", "NoNewPrivs:\t1", "1000"],
        |spec, directory| {
            profile(json!({"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}))(spec, directory);
            spec["process"]["noNewPrivileges"] = json!(true);
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            spec["process"]["capabilities"] = json!({});
        },
    );
}

#[test]
fn control_groups_are_limited_as_asked() {
    if cannot_run() {
        return;
    }
    let files = [
        "memory/memory.limit_in_bytes",
        "memory/memory.soft_limit_in_bytes",
        "memory/memory.swappiness",
        "pids/pids.max",
        "cpu/cpu.shares",
        "cpu/cpu.cfs_quota_us",
        "cpu/cpu.cfs_period_us",
        "cpuset/cpuset.cpus",
        "cpuset/cpuset.mems",
        "blkio/blkio.weight",
        "blkio/blkio.bfq.weight",
        "memory.max",
        "memory.low",
        "pids.max",
        "cpu.max",
        "cpu.weight",
        "cpuset.cpus",
    ]
    .join(" ");
    let script = format!(
        "cd /sys/fs/cgroup; for file in {files}; do test -e $file && echo $file $(cat $file); done; true"
    );
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let wanted: &[&str] = if unified {
        &["memory.max 67108864", "pids.max 50", "cpu.max 50000 200000"]
    } else {
        &[
            "memory/memory.limit_in_bytes 67108864",
            "memory/memory.soft_limit_in_bytes 33554432",
            "memory/memory.swappiness 50",
            "pids/pids.max 50",
            "cpu/cpu.shares 512",
            "cpu/cpu.cfs_quota_us 50000",
            "cpu/cpu.cfs_period_us 200000",
            "cpuset/cpuset.cpus 0",
            "cpuset/cpuset.mems 0",
        ]
    };
    check(&script, wanted, |spec, _| {
        let resources = &mut spec["linux"]["resources"];
        resources["memory"] = json!({"limit": 64 << 20, "reservation": 32 << 20});
        if !unified {
            resources["memory"]["swappiness"] = json!(50);
        }
        resources["pids"] = json!({"limit": 50});
        resources["cpu"] =
            json!({"shares": 512, "quota": 50000, "period": 200_000, "cpus": "0", "mems": "0"});
    });
    // Nothing asked for is nothing limited.
    check(&script, &[], nothing);
    if !unified {
        // Docker allows the console, an old runc tunnels.
        check(
            "grep -vE '^c (5:1|10:200) ' /sys/fs/cgroup/devices/devices.list | sort",
            &["c 1:3 rwm", "c 5:0 rwm", "c 136:* rwm", "c 10:229 rw"],
            |spec, _| {
                push(
                    &mut spec["linux"]["resources"]["devices"],
                    json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}),
                );
            },
        );
    }
}

#[test]
fn limits_that_are_passed_end_the_same_way() {
    if cannot_run() {
        return;
    }
    check_code(
        137,
        "head -c 100m /dev/zero | tail > /dev/null; exit $?",
        &[],
        |spec, _| {
            spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
        },
    );
    check_code(
        2,
        "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait",
        &[],
        |spec, _| spec["linux"]["resources"]["pids"] = json!({"limit": 4}),
    );
}

/// Created, started, signalled, over: what is allowed when.
#[test]
fn a_container_lives_as_the_specification_says() {
    if cannot_run() {
        return;
    }
    let script = "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    // Ours: created is prepared.
    let mut bundle = Bundle::new(script, nothing);
    let state = bundle.container.path("state");
    let id = bundle.container.config.id.clone();
    bundle.container.config =
        skep_shim::bundle::read(bundle.container.directory.path(), &id, &state).unwrap();
    let path = state.join("shim.json");
    bundle.container.config.write(&path).unwrap();
    let container = &bundle.container;
    let prepared = common::launcher().prepare(&path).unwrap();
    assert_eq!(container.output(), "", "nothing runs before the start");
    assert!(
        common::launcher().prepare(&path).is_err(),
        "an id is taken once"
    );
    prepared.start(&[]).unwrap();
    until("the script", || {
        container.output().contains("ready").then_some(())
    });
    container.client().signal(libc::SIGTERM, false).unwrap();
    assert_eq!(container.wait().exit_code, 3);
    assert!(
        container.client().signal(libc::SIGTERM, false).is_err(),
        "it is over"
    );
    assert!(common::cgroups_left(&container.config.id).is_empty());

    let Some(program) = runc() else {
        println!("skipped in part: there is no runc to compare with");
        return;
    };
    let bundle = Bundle::new(script, nothing);
    let directory = bundle
        .container
        .directory
        .path()
        .to_str()
        .unwrap()
        .to_owned();
    let id = format!("runc-{}", bundle.container.config.id);
    let output = bundle.container.path("output");
    let run = |words: &[&str]| {
        let mut command = bundle.runc(program, words);
        command.stdout(
            fs::File::options()
                .create(true)
                .append(true)
                .open(&output)
                .unwrap(),
        );
        command.stderr(Stdio::null()).status().unwrap().success()
    };
    let printed = || fs::read_to_string(&output).unwrap();
    assert!(run(&["create", "--bundle", &directory, &id]));
    assert_eq!(printed(), "");
    assert!(!run(&["create", "--bundle", &directory, &id]));
    assert!(run(&["start", &id]));
    until("the script", || printed().contains("ready").then_some(()));
    assert!(run(&["kill", &id, "TERM"]));
    until("the end", || printed().contains("told").then_some(()));
    until("that it is over", || {
        (!run(&["kill", &id, "TERM"])).then_some(())
    });
    assert!(run(&["delete", &id]));
    assert!(
        !Path::new("/sys/fs/cgroup/pids")
            .join(bundle.group.trim_start_matches('/'))
            .exists()
    );
}
