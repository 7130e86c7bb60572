//! Version 1: a hierarchy per controller, each with a directory of the same path.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::files;
use super::limits::{Limits, ThrottleKind};
use super::stats::{BlkioEntry, Stats};
use super::{Group, View};

/// Processor time in `cpuacct.stat` is in hundredths of a second on every
/// architecture.
const TICK_NS: u64 = 10_000_000;
/// Reads of the freezer's state before giving up, a millisecond apart.
const FREEZE_ATTEMPTS: usize = 1000;

/// The hierarchies of a host and one path in them.
#[derive(Debug)]
pub struct Hierarchies {
    mounts: Vec<Mounted>,
    path: String,
}

/// One mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    point: PathBuf,
    /// Names of its controllers, or its own name (`name=systemd`).
    controllers: Vec<String>,
}

/// Files for the weights of single devices; which there is depends on the I/O
/// scheduler.
pub(super) const DEVICE_WEIGHTS: [&str; 2] = ["blkio.bfq.weight_device", "blkio.weight_device"];

impl Hierarchies {
    /// Finds the hierarchies that are mounted.
    pub fn find(path: &str) -> io::Result<Self> {
        let mounts = parse_mounts(&fs::read_to_string("/proc/self/mountinfo")?);
        if mounts.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no control groups are mounted",
            ));
        }
        Ok(Self {
            mounts,
            path: path.to_owned(),
        })
    }

    fn directories(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.mounts.iter().map(|mount| mount.point.join(&self.path))
    }

    fn mounted(&self, controller: &str) -> Option<&Mounted> {
        self.mounts
            .iter()
            .find(|mount| mount.controllers.iter().any(|name| name == controller))
    }

    /// A file of a controller; `None` when the controller is not mounted.
    fn file(&self, controller: &str, name: &str) -> Option<PathBuf> {
        self.mounted(controller)
            .map(|mount| mount.point.join(&self.path).join(name))
    }

    /// Writes a limit that somebody asked for; without the controller that fails.
    fn set(&self, controller: &str, name: &str, value: &str) -> io::Result<()> {
        let file = self.file(controller, name).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the {controller} controller is not mounted, cannot set {name}"),
            )
        })?;
        files::write(&file, value)
    }

    fn get(&self, controller: &str, name: &str) -> io::Result<u64> {
        files::number(&self.existing(controller, name)?)
    }

    fn table(&self, controller: &str, name: &str) -> BTreeMap<String, u64> {
        self.existing(controller, name)
            .and_then(|file| files::table(&file))
            .unwrap_or_default()
    }

    fn existing(&self, controller: &str, name: &str) -> io::Result<PathBuf> {
        self.file(controller, name)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Any hierarchy will do to list processes; one that every host has is best.
    fn main_directory(&self) -> PathBuf {
        let mount = ["pids", "memory", "freezer", "devices"]
            .iter()
            .find_map(|controller| self.mounted(controller))
            .unwrap_or(&self.mounts[0]);
        mount.point.join(&self.path)
    }

    fn set_memory(&self, limits: &Limits) -> io::Result<()> {
        let memory = |value: i64| self.set("memory", "memory.limit_in_bytes", &value.to_string());
        let swap_file = self.file("memory", "memory.memsw.limit_in_bytes");
        let swap = |value: i64| match &swap_file {
            // A kernel without swap accounting; docker goes on too.
            Some(file) if !file.exists() => Ok(()),
            _ => self.set("memory", "memory.memsw.limit_in_bytes", &value.to_string()),
        };
        match (limits.memory, limits.effective_memory_swap()) {
            // Memory must never be above memory and swap, so which goes first
            // depends on where they come from.
            (Some(wanted), Some(with_swap)) => match memory(wanted) {
                Ok(()) => swap(with_swap)?,
                Err(_) => {
                    swap(with_swap)?;
                    memory(wanted)?;
                }
            },
            (None, Some(with_swap)) => swap(with_swap)?,
            (_, None) => {}
        }
        if let Some(reservation) = limits.memory_reservation {
            self.set(
                "memory",
                "memory.soft_limit_in_bytes",
                &reservation.to_string(),
            )?;
        }
        if let Some(swappiness) = limits.memory_swappiness {
            self.set("memory", "memory.swappiness", &swappiness.to_string())?;
        }
        if limits.oom_kill_disable {
            self.set("memory", "memory.oom_control", "1")?;
        }
        Ok(())
    }

    fn set_cpu(&self, limits: &Limits) -> io::Result<()> {
        if let Some(shares) = limits.cpu_shares {
            self.set("cpu", "cpu.shares", &shares.to_string())?;
        }
        if let Some((quota, period)) = limits.cpu_bandwidth() {
            self.set("cpu", "cpu.cfs_period_us", &period.to_string())?;
            self.set("cpu", "cpu.cfs_quota_us", &quota.to_string())?;
        }
        if let Some(cpus) = &limits.cpuset_cpus {
            self.set("cpuset", "cpuset.cpus", cpus)?;
        }
        if let Some(mems) = &limits.cpuset_mems {
            self.set("cpuset", "cpuset.mems", mems)?;
        }
        Ok(())
    }

    fn set_blkio(&self, limits: &Limits) -> io::Result<()> {
        if let Some(weight) = limits.blkio_weight {
            // Which file there is depends on the I/O scheduler; without either the
            // kernel has no weights and docker goes on too.
            let names = ["blkio.bfq.weight", "blkio.weight"];
            let files = names.iter().filter_map(|name| self.file("blkio", name));
            if let Some(file) = files.into_iter().find(|file| file.exists()) {
                files::write(&file, &weight.to_string())?;
            }
        }
        for wanted in &limits.blkio_weight_devices {
            let device = files::device_number(&wanted.device)?;
            let files = DEVICE_WEIGHTS
                .iter()
                .filter_map(|name| self.file("blkio", name));
            if let Some(file) = files.into_iter().find(|file| file.exists()) {
                files::write(&file, &format!("{device} {}", wanted.weight))?;
            }
        }
        for throttle in &limits.blkio_throttle {
            let name = match throttle.kind {
                ThrottleKind::ReadBytes => "blkio.throttle.read_bps_device",
                ThrottleKind::WriteBytes => "blkio.throttle.write_bps_device",
                ThrottleKind::ReadOperations => "blkio.throttle.read_iops_device",
                ThrottleKind::WriteOperations => "blkio.throttle.write_iops_device",
            };
            let device = files::device_number(&throttle.device)?;
            self.set("blkio", name, &format!("{device} {}", throttle.rate))?;
        }
        Ok(())
    }

    fn set_devices(&self, rules: Option<&[String]>) -> io::Result<()> {
        let (Some(rules), Some(_)) = (rules, self.mounted("devices")) else {
            return Ok(());
        };
        self.set("devices", "devices.deny", "a")?;
        for rule in rules {
            self.set("devices", "devices.allow", rule)?;
        }
        Ok(())
    }

    fn create_all(&self, limits: &Limits, devices: Option<&[String]>) -> io::Result<()> {
        for mount in &self.mounts {
            let is_cpuset = mount.controllers.iter().any(|name| name == "cpuset");
            files::make_all(&mount.point, &self.path, |group| match is_cpuset {
                true => inherit_cpuset(group),
                false => Ok(()),
            })?;
        }
        self.set_devices(devices)?;
        self.update(limits)
    }

    fn blkio(&self, names: [&str; 2]) -> Vec<BlkioEntry> {
        names
            .iter()
            .filter_map(|name| self.file("blkio", name))
            .find_map(|file| fs::read_to_string(file).ok())
            .map(|text| parse_blkio(&text))
            .unwrap_or_default()
    }
}

impl Group for Hierarchies {
    fn create(&self, limits: &Limits, devices: Option<&[String]>) -> io::Result<()> {
        self.create_all(limits, devices).inspect_err(|_| {
            // The first error is the one to tell; what cannot be removed now has
            // no process in it and is removed when the name is used again.
            let _ = self.remove();
        })
    }

    fn update(&self, limits: &Limits) -> io::Result<()> {
        self.set_memory(limits)?;
        self.set_cpu(limits)?;
        if let Some(pids) = limits.pids {
            let value = if pids < 0 {
                "max".to_owned()
            } else {
                pids.to_string()
            };
            self.set("pids", "pids.max", &value)?;
        }
        self.set_blkio(limits)
    }

    fn birthplace(&self) -> io::Result<Option<OwnedFd>> {
        Ok(None)
    }

    fn join(&self) -> io::Result<()> {
        // A thread that moves itself spares the kernel a lock over all processes,
        // and with it the milliseconds a grace period takes.
        self.directories()
            .try_for_each(|group| files::write(&group.join("tasks"), "0"))
    }

    fn processes(&self) -> io::Result<Vec<i32>> {
        files::processes(&self.main_directory())
    }

    fn freeze(&self, frozen: bool) -> io::Result<()> {
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        let file = self.existing("freezer", "freezer.state")?;
        for _ in 0..FREEZE_ATTEMPTS {
            // A process that forks while it is being frozen makes the kernel stop
            // half way; writing again makes it go on.
            files::write(&file, wanted)?;
            if files::read(&file)? == wanted {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _ = files::write(&file, "THAWED");
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "unable to freeze all processes",
        ))
    }

    fn is_frozen(&self) -> io::Result<bool> {
        let file = self.existing("freezer", "freezer.state")?;
        Ok(files::read(&file)? != "THAWED")
    }

    fn kill(&self) -> io::Result<()> {
        files::kill(&self.processes()?);
        Ok(())
    }

    fn oom_kills(&self) -> u64 {
        self.table("memory", "memory.oom_control")
            .get("oom_kill")
            .copied()
            .unwrap_or(0)
    }

    fn watch_oom(&self) -> io::Result<OwnedFd> {
        let control = fs::File::open(self.existing("memory", "memory.oom_control")?)?;
        // SAFETY: no pointers; a new descriptor nobody else owns, checked.
        let event = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        files::write(
            &self.existing("memory", "cgroup.event_control")?,
            &format!("{} {}", event.as_raw_fd(), control.as_raw_fd()),
        )?;
        Ok(event)
    }

    fn stats(&self) -> io::Result<Stats> {
        if !self.main_directory().exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let or_zero = |controller, name| self.get(controller, name).unwrap_or(0);
        let mut stats = Stats::default();

        let ticks = self.table("cpuacct", "cpuacct.stat");
        let throttled = self.table("cpu", "cpu.stat");
        let of = |table: &BTreeMap<String, u64>, key: &str| table.get(key).copied().unwrap_or(0);
        stats.cpu.total_ns = or_zero("cpuacct", "cpuacct.usage");
        stats.cpu.user_ns = of(&ticks, "user") * TICK_NS;
        stats.cpu.kernel_ns = of(&ticks, "system") * TICK_NS;
        stats.cpu.per_cpu_ns = self
            .existing("cpuacct", "cpuacct.usage_percpu")
            .and_then(|file| files::read(&file))
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        stats.cpu.periods = of(&throttled, "nr_periods");
        stats.cpu.throttled_periods = of(&throttled, "nr_throttled");
        stats.cpu.throttled_ns = of(&throttled, "throttled_time");

        stats.memory.usage = or_zero("memory", "memory.usage_in_bytes");
        stats.memory.max_usage = or_zero("memory", "memory.max_usage_in_bytes");
        stats.memory.limit = self
            .get("memory", "memory.limit_in_bytes")
            .unwrap_or(u64::MAX);
        stats.memory.fail_count = or_zero("memory", "memory.failcnt");
        stats.memory.oom_kills = self.oom_kills();
        stats.memory.details = self.table("memory", "memory.stat");

        stats.pids.current = or_zero("pids", "pids.current");
        stats.pids.limit = self.get("pids", "pids.max").unwrap_or(u64::MAX);

        stats.blkio.service_bytes = self.blkio([
            "blkio.throttle.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes",
        ]);
        stats.blkio.serviced = self.blkio([
            "blkio.throttle.io_serviced_recursive",
            "blkio.throttle.io_serviced",
        ]);
        Ok(stats)
    }

    fn remove(&self) -> io::Result<()> {
        // All are tried, so that one that is busy does not keep the others.
        let mut first = Ok(());
        for group in self.directories() {
            first = first.and(files::remove(&group));
        }
        first
    }

    fn view(&self) -> View {
        let mut directories = Vec::new();
        let mut links = Vec::new();
        for mount in &self.mounts {
            let Some(name) = mount.point.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            directories.push((name.to_owned(), mount.point.join(&self.path)));
            for controller in &mount.controllers {
                if controller != name && !controller.contains('=') {
                    links.push((controller.clone(), name.to_owned()));
                }
            }
        }
        View::Hierarchies { directories, links }
    }
}

/// A new cpuset is empty and takes no process until it has processors and memory.
fn inherit_cpuset(group: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = group.join(name);
        if files::read(&file)?.is_empty() {
            let parent = group.parent().unwrap_or(group).join(name);
            files::write(&file, &files::read(&parent)?)?;
        }
    }
    Ok(())
}

/// The version 1 hierarchies in a `mountinfo`, the first mount of each.
fn parse_mounts(mountinfo: &str) -> Vec<Mounted> {
    let mut mounts: Vec<Mounted> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let mut after = after.split(' ');
        let (Some("cgroup"), Some(point)) = (after.next(), before.split(' ').nth(4)) else {
            continue;
        };
        let controllers: Vec<String> = after
            .nth(1)
            .unwrap_or_default()
            .split(',')
            .filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children"))
            .filter(|option| !option.starts_with("release_agent="))
            .map(str::to_owned)
            .collect();
        let seen = mounts.iter().any(|mount| mount.controllers == controllers);
        if !controllers.is_empty() && !seen {
            mounts.push(Mounted {
                point: point.into(),
                controllers,
            });
        }
    }
    mounts
}

/// Lines of device, operation and value. The last line is a total and has no device.
fn parse_blkio(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: words.next()?.to_owned(),
                value: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_with_their_controllers() {
        let mounts = parse_mounts(concat!(
            "30 25 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n",
            "31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n",
            "33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n",
            "34 40 0:29 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n",
        ));
        let hierarchies = Hierarchies {
            mounts,
            path: "skep/c".into(),
        };
        assert_eq!(
            hierarchies.file("cpuacct", "cpuacct.usage").unwrap(),
            Path::new("/sys/fs/cgroup/cpu,cpuacct/skep/c/cpuacct.usage")
        );
        assert_eq!(hierarchies.mounts.len(), 2);
        let View::Hierarchies { directories, links } = hierarchies.view() else {
            panic!("version 1 has hierarchies");
        };
        assert_eq!(directories[0].0, "systemd");
        assert_eq!(
            links,
            [
                ("cpu".to_owned(), "cpu,cpuacct".to_owned()),
                ("cpuacct".to_owned(), "cpu,cpuacct".to_owned())
            ]
        );
    }

    #[test]
    fn block_counters_are_read_and_the_total_is_not_a_device() {
        let entries = parse_blkio("8:0 Read 4096\n8:0 Write 512\nTotal 4608\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[1].major, entries[1].value), (8, 512));
    }
}
