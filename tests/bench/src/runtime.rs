//! The runtime alone: the same bundle, with docker's seccomp profile, in a shim, in runc
//! and in crun.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use skep_shim::{ExitRecord, Launcher, ShimClient, bundle};

use crate::dockerd::{installed, remove_groups};
use crate::table::Table;

const ROUNDS: usize = 40;
/// Docker's profile; its rules that depend on capabilities or kernels are left out here.
const PROFILE: &str = include_str!("../../../engine/shim/src/seccomp/default.json");

struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        remove_groups("skb-runtime");
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn run(table: &mut Table) -> Result<()> {
    let Some(busybox) = installed("busybox") else {
        eprintln!("skipped: the runtime alone: there is no busybox on this machine");
        return Ok(());
    };
    let place = Place(std::env::temp_dir().join(format!("skb-runtime-{}", std::process::id())));
    let (root, state) = (place.0.join("root"), place.0.join("state"));
    for directory in ["bin", "proc", "sys", "dev"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    std::fs::create_dir_all(&state)?;
    std::fs::copy(busybox, root.join("bin/true"))?;
    let launcher = Launcher::new(skep_engine::SHIM)?;
    for with_filter in [true, false] {
        let spec = spec(&root, with_filter)?;
        std::fs::write(place.0.join("config.json"), spec.to_string())?;
        let mut times = vec![
            ("skep", Vec::new()),
            ("crun", Vec::new()),
            ("runc", Vec::new()),
        ];
        for round in 0..ROUNDS {
            for (name, times) in &mut times {
                let id = format!("skb-{round}");
                let took = match *name {
                    "skep" => in_shim(&launcher, &place.0, &state, &id)?,
                    other => match installed(other) {
                        Some(program) => in_other(&program, &place.0, &id)?,
                        None if round > 0 => continue,
                        None => {
                            eprintln!("skipped: {other} is not on this machine");
                            continue;
                        }
                    },
                };
                times.push(took);
            }
        }
        let group = match with_filter {
            true => "runtime, filtered",
            false => "runtime",
        };
        for (name, times) in times.into_iter().filter(|(_, times)| !times.is_empty()) {
            table.add(group, format!("{name}: true"), median(times), "ms");
        }
    }
    Ok(())
}

fn in_shim(launcher: &Launcher, bundle: &Path, state: &Path, id: &str) -> Result<Duration> {
    let began = Instant::now();
    let config = bundle::read(bundle, id, state)?;
    let path = state.join("shim.json");
    config.write(&path)?;
    launcher.prepare(&path)?.start(&[])?;
    // Gone means that it was over before anybody could ask.
    let _ = ShimClient::new(&config.paths.socket).wait(None);
    let record = ExitRecord::read(&config.paths.exit)?.context("the shim left no record")?;
    ensure!(record.exit_code == 0, "{record:?}");
    let took = began.elapsed();
    std::fs::remove_file(&config.paths.exit)?;
    Ok(took)
}

/// crun refuses hybrid control groups: it is not shown the second version there.
fn in_other(program: &Path, bundle: &Path, id: &str) -> Result<Duration> {
    let unmount = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", unmount]).arg(program);
    command
        .arg("--root")
        .arg(bundle.join("others"))
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(id)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // What making the mount namespace costs is not the runtime's.
    let began = Instant::now();
    ensure!(
        Command::new("unshare")
            .args(["-m", "sh", "-c", unmount, "true"])
            .status()?
            .success()
    );
    let around = began.elapsed();
    let began = Instant::now();
    let output = command.stderr(Stdio::piped()).spawn()?.wait_with_output()?;
    let took = began.elapsed();
    if !output.status.success() {
        bail!(
            "{}: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(took.saturating_sub(around))
}

fn spec(root: &Path, with_filter: bool) -> Result<Value> {
    let capabilities = skep_shim::capabilities::DEFAULT;
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": "/skb-runtime/true",
        "resources": {
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 64 << 20}, "pids": {"limit": 64},
        },
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    if with_filter {
        let profile: Value = serde_json::from_str(PROFILE)?;
        let rules: Vec<Value> = profile["syscalls"]
            .as_array()
            .context("a profile without rules")?
            .iter()
            .filter(|rule| rule.get("excludes").is_none() && is_for_all(rule))
            .map(|rule| {
                let mut plain = json!({"names": rule["names"], "action": rule["action"]});
                if let Some(args) = rule.get("args").filter(|args| args.is_array()) {
                    plain["args"] = args.clone();
                }
                plain
            })
            .collect();
        linux["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": rules,
        });
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/true"], "env": ["PATH=/bin"], "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
        },
        "root": {"path": root, "readonly": false},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
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
        ],
        "linux": linux,
    }))
}

/// Whether a rule depends on nothing but a processor of this kind.
fn is_for_all(rule: &Value) -> bool {
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    rule.get("includes")
        .and_then(Value::as_object)
        .is_none_or(|includes| {
            let arches = includes.get("arches").and_then(Value::as_array);
            includes.len() == 1
                && arches.is_some_and(|arches| arches.iter().any(|arch| arch == own))
        })
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}
