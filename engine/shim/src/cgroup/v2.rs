//! Version 2: one hierarchy with all controllers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::limits::{Limits, ThrottleKind};
use super::stats::{BlkioEntry, Stats};
use super::{Group, View, device_filter, files};
use crate::sys;

/// Reads of the frozen state before giving up, a millisecond apart.
const FREEZE_ATTEMPTS: usize = 1000;

/// A path in the one hierarchy.
#[derive(Debug)]
pub struct Unified {
    root: PathBuf,
    path: String,
}

impl Unified {
    pub fn new(root: &Path, path: &str) -> Self {
        Self {
            root: root.to_owned(),
            path: path.to_owned(),
        }
    }

    fn directory(&self) -> PathBuf {
        self.root.join(&self.path)
    }

    fn set(&self, name: &str, value: &str) -> io::Result<()> {
        files::write(&self.directory().join(name), value)
    }

    fn number(&self, name: &str) -> io::Result<u64> {
        files::number(&self.directory().join(name))
    }

    fn table(&self, name: &str) -> BTreeMap<String, u64> {
        files::table(&self.directory().join(name)).unwrap_or_default()
    }

    /// Gives the groups below `group` every controller it has itself. Those that
    /// cannot be given are missed only by a limit that needs them.
    fn delegate(group: &Path) {
        let controllers = files::read(&group.join("cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split(' ').filter(|name| !name.is_empty()) {
            let _ = files::write(
                &group.join("cgroup.subtree_control"),
                &format!("+{controller}"),
            );
        }
    }

    fn create_all(&self, limits: &Limits, devices: Option<&[String]>) -> io::Result<()> {
        let own = self.directory();
        Self::delegate(&self.root);
        files::make_all(&self.root, &self.path, |group| {
            if group != own {
                Self::delegate(group);
            }
            Ok(())
        })?;
        if let Some(rules) = devices {
            let group = sys::open(&own, libc::O_RDONLY | libc::O_DIRECTORY)?;
            device_filter::attach(group.as_fd(), rules).map_err(|error| {
                let text = sys::errno_text(&error);
                io::Error::new(error.kind(), format!("filtering devices: {text}"))
            })?;
        }
        self.update(limits)
    }

    fn set_memory(&self, limits: &Limits) -> io::Result<()> {
        if let Some(memory) = limits.memory {
            self.set("memory.max", &or_max(memory))?;
        }
        if let Some(value) = swap_only(limits.memory, limits.effective_memory_swap()) {
            let file = self.directory().join("memory.swap.max");
            // A kernel without swap accounting; docker goes on too.
            if file.exists() {
                files::write(&file, &value)?;
            }
        }
        if let Some(reservation) = limits.memory_reservation {
            self.set("memory.low", &or_max(reservation))?;
        }
        Ok(())
    }

    fn set_cpu(&self, limits: &Limits) -> io::Result<()> {
        if let Some(shares) = limits.cpu_shares {
            self.set("cpu.weight", &weight_of_shares(shares).to_string())?;
        }
        if let Some((quota, period)) = limits.cpu_bandwidth() {
            self.set("cpu.max", &format!("{} {period}", or_max(quota)))?;
        }
        if let Some(cpus) = &limits.cpuset_cpus {
            self.set("cpuset.cpus", cpus)?;
        }
        if let Some(mems) = &limits.cpuset_mems {
            self.set("cpuset.mems", mems)?;
        }
        Ok(())
    }

    fn set_io(&self, limits: &Limits) -> io::Result<()> {
        if let Some(weight) = limits.blkio_weight {
            if self.directory().join("io.bfq.weight").exists() {
                self.set("io.bfq.weight", &weight.to_string())?;
            } else {
                self.set("io.weight", &weight_of_blkio(weight).to_string())?;
            }
        }
        for wanted in &limits.blkio_weight_devices {
            let device = files::device_number(&wanted.device)?;
            if self.directory().join("io.bfq.weight").exists() {
                self.set("io.bfq.weight", &format!("{device} {}", wanted.weight))?;
            } else {
                let weight = weight_of_blkio(wanted.weight);
                self.set("io.weight", &format!("{device} {weight}"))?;
            }
        }
        for throttle in &limits.blkio_throttle {
            let key = match throttle.kind {
                ThrottleKind::ReadBytes => "rbps",
                ThrottleKind::WriteBytes => "wbps",
                ThrottleKind::ReadOperations => "riops",
                ThrottleKind::WriteOperations => "wiops",
            };
            let device = files::device_number(&throttle.device)?;
            self.set("io.max", &format!("{device} {key}={}", throttle.rate))?;
        }
        Ok(())
    }
}

impl Group for Unified {
    fn create(&self, limits: &Limits, devices: Option<&[String]>) -> io::Result<()> {
        self.create_all(limits, devices).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = self.remove();
        })
    }

    fn update(&self, limits: &Limits) -> io::Result<()> {
        self.set_memory(limits)?;
        self.set_cpu(limits)?;
        if let Some(pids) = limits.pids {
            self.set("pids.max", &or_max(pids))?;
        }
        self.set_io(limits)
    }

    fn birthplace(&self) -> io::Result<Option<OwnedFd>> {
        sys::open(self.directory(), libc::O_RDONLY | libc::O_DIRECTORY).map(Some)
    }

    fn join(&self) -> io::Result<()> {
        self.set("cgroup.procs", "0")
    }

    fn processes(&self) -> io::Result<Vec<i32>> {
        files::processes(&self.directory())
    }

    fn freeze(&self, frozen: bool) -> io::Result<()> {
        let wanted = u64::from(frozen);
        self.set("cgroup.freeze", &wanted.to_string())?;
        for _ in 0..FREEZE_ATTEMPTS {
            if self.table("cgroup.events").get("frozen") == Some(&wanted) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _ = self.set("cgroup.freeze", "0");
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "unable to freeze all processes",
        ))
    }

    fn is_frozen(&self) -> io::Result<bool> {
        Ok(self.number("cgroup.freeze")? == 1)
    }

    fn kill(&self) -> io::Result<()> {
        // cgroup.kill is there since 5.14.
        match self.set("cgroup.kill", "1") {
            Ok(()) => Ok(()),
            Err(_) => {
                files::kill(&self.processes()?);
                Ok(())
            }
        }
    }

    fn oom_kills(&self) -> u64 {
        self.table("memory.events")
            .get("oom_kill")
            .copied()
            .unwrap_or(0)
    }

    fn watch_oom(&self) -> io::Result<OwnedFd> {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(
            &self.directory().join("memory.events"),
            AddWatchFlags::IN_MODIFY,
        )?;
        Ok(inotify.into())
    }

    fn stats(&self) -> io::Result<Stats> {
        if !self.directory().exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut stats = Stats {
            unified: true,
            ..Stats::default()
        };
        let of = |table: &BTreeMap<String, u64>, key: &str| table.get(key).copied().unwrap_or(0);
        let cpu = self.table("cpu.stat");
        stats.cpu.total_ns = of(&cpu, "usage_usec") * 1000;
        stats.cpu.user_ns = of(&cpu, "user_usec") * 1000;
        stats.cpu.kernel_ns = of(&cpu, "system_usec") * 1000;
        stats.cpu.periods = of(&cpu, "nr_periods");
        stats.cpu.throttled_periods = of(&cpu, "nr_throttled");
        stats.cpu.throttled_ns = of(&cpu, "throttled_usec") * 1000;

        let events = self.table("memory.events");
        stats.memory.usage = self.number("memory.current").unwrap_or(0);
        stats.memory.max_usage = self.number("memory.peak").unwrap_or(0);
        stats.memory.limit = self.number("memory.max").unwrap_or(u64::MAX);
        stats.memory.fail_count = of(&events, "max");
        stats.memory.oom_kills = of(&events, "oom_kill");
        stats.memory.details = self.table("memory.stat");

        stats.pids.current = self.number("pids.current").unwrap_or(0);
        stats.pids.limit = self.number("pids.max").unwrap_or(u64::MAX);

        let io = fs::read_to_string(self.directory().join("io.stat")).unwrap_or_default();
        stats.blkio.service_bytes = parse_io(&io, [("rbytes", "read"), ("wbytes", "write")]);
        stats.blkio.serviced = parse_io(&io, [("rios", "read"), ("wios", "write")]);
        Ok(stats)
    }

    fn remove(&self) -> io::Result<()> {
        files::remove(&self.directory())
    }

    fn view(&self) -> View {
        View::Unified {
            directory: self.directory(),
        }
    }
}

/// Negative is unlimited.
fn or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

/// Version 2 limits swap alone, docker memory and swap together.
fn swap_only(memory: Option<i64>, together: Option<i64>) -> Option<String> {
    match (memory, together) {
        (_, None) => None,
        (_, Some(..0)) => Some("max".to_owned()),
        (Some(memory), Some(together)) if memory >= 0 => {
            Some((together - memory).max(0).to_string())
        }
        _ => None,
    }
}

/// 2..262144 around 1024 to 1..10000, as runc and docker map it.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// 10..1000 to 1..10000.
fn weight_of_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

/// Lines of `major:minor key=value…`.
fn parse_io(text: &str, keys: [(&str, &str); 2]) -> Vec<BlkioEntry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let device = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let op = keys.iter().find(|(name, _)| *name == key);
            if let (Some((_, op)), Ok(value)) = (op, value.parse()) {
                entries.push(BlkioEntry {
                    major,
                    minor,
                    op: (*op).to_owned(),
                    value,
                });
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_numbers_become_version_2_numbers() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 39);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert_eq!(weight_of_blkio(1000), 10_000);
        assert_eq!(swap_only(Some(64), Some(128)), Some("64".into()));
        assert_eq!(swap_only(Some(64), Some(-1)), Some("max".into()));
        assert_eq!(swap_only(None, None), None);
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let group = directory.path().join("skep/c");
        fs::create_dir_all(&group).unwrap();
        let files = [
            "memory.max",
            "memory.swap.max",
            "memory.low",
            "cpu.weight",
            "cpu.max",
            "cpuset.cpus",
            "pids.max",
            "io.weight",
        ];
        for name in files {
            fs::write(group.join(name), "").unwrap();
        }
        let unified = Unified::new(directory.path(), "skep/c");
        unified
            .update(&Limits {
                memory: Some(1000),
                memory_reservation: Some(500),
                nano_cpus: Some(1_500_000_000),
                cpu_shares: Some(2),
                cpuset_cpus: Some("0-1".into()),
                pids: Some(-1),
                blkio_weight: Some(10),
                ..Limits::default()
            })
            .unwrap();
        let written = files.map(|name| fs::read_to_string(group.join(name)).unwrap());
        assert_eq!(
            written,
            [
                "1000",
                "1000",
                "500",
                "1",
                "150000 100000",
                "0-1",
                "max",
                "1"
            ]
        );
    }

    #[test]
    fn io_counters_are_read_by_device() {
        let entries = parse_io(
            "254:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
            [("rbytes", "read"), ("wbytes", "write")],
        );
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[1].op.as_str(), entries[1].value), ("write", 20));
    }
}
