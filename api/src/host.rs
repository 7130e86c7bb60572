//! Facts about this host, read from the kernel each time they are asked for.

use std::fs;

/// What `info` and `version` say about the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub kernel: String,
    /// Machine name as uname(1) prints it.
    pub machine: &'static str,
    /// `PRETTY_NAME` of os-release.
    pub system: String,
    /// `VERSION_ID` of os-release.
    pub system_version: String,
    /// Bytes.
    pub memory: u64,
    pub processors: usize,
    pub open_files: usize,
    pub forwards_ipv4: bool,
}

impl Host {
    /// Reads everything; what cannot be read is empty or 0.
    pub fn read() -> Self {
        let line = |path: &str| {
            fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .unwrap_or_default()
        };
        let release = fs::read_to_string("/etc/os-release")
            .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        let system = release_field(&release, "PRETTY_NAME");
        Self {
            name: line("/proc/sys/kernel/hostname"),
            kernel: line("/proc/sys/kernel/osrelease"),
            machine: std::env::consts::ARCH,
            system: match system.as_str() {
                "" => "Linux".to_owned(),
                _ => system,
            },
            system_version: release_field(&release, "VERSION_ID"),
            memory: memory_total(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            open_files: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            forwards_ipv4: line("/proc/sys/net/ipv4/ip_forward") == "1",
        }
    }
}

fn release_field(release: &str, key: &str) -> String {
    release
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
        .unwrap_or_default()
}

/// Go's name of this machine.
pub fn architecture() -> &'static str {
    crate::platform::normal(std::env::consts::ARCH)
}

fn memory_total(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kibibytes| kibibytes.parse::<u64>().ok())
        .map_or(0, |kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_with_and_without_quotes() {
        let release = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\nVERSION_ID='13'\n";
        assert_eq!(release_field(release, "PRETTY_NAME"), "Debian GNU/Linux 13");
        assert_eq!(release_field(release, "VERSION_ID"), "13");
        assert_eq!(release_field(release, "NONE"), "");
        assert_eq!(memory_total("MemTotal:  2048 kB\n"), 2 << 20);
    }

    #[test]
    fn this_host_has_memory_and_processors() {
        let host = Host::read();
        assert!(host.memory > 0 && host.processors > 0 && !host.kernel.is_empty());
    }
}
