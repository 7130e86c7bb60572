//! What a container may use, in docker's terms.

use serde::{Deserialize, Serialize};

/// Limits of a container. Absent ones are not set (at start) or stay (in an update).
/// Bytes and counts are as in docker's `HostConfig`; the engine turns docker's zero
/// ("not given") into absence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory; -1 is unlimited.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together; -1 is unlimited. Twice `memory` when
    /// absent and `memory` is given, as docker does.
    pub memory_swap: Option<i64>,
    /// Bytes the kernel tries to come back to under pressure.
    pub memory_reservation: Option<i64>,
    /// 0 to 100; cgroup v1 only.
    pub memory_swappiness: Option<u64>,
    /// Rather stall than kill when memory ends; cgroup v1 only.
    pub oom_kill_disable: bool,
    /// Billionths of one processor. Wins over `cpu_quota_us` and `cpu_period_us`.
    pub nano_cpus: Option<i64>,
    /// Microseconds of processor time in each period; -1 is unlimited.
    pub cpu_quota_us: Option<i64>,
    /// Microseconds, 1000 to 1000000; 100000 when absent.
    pub cpu_period_us: Option<u64>,
    /// Relative weight, 2 to 262144; the kernel's default is 1024.
    pub cpu_shares: Option<u64>,
    /// Processors as a list (`0-2,4`).
    pub cpuset_cpus: Option<String>,
    /// Memory nodes as a list.
    pub cpuset_mems: Option<String>,
    /// Most processes and threads; -1 is unlimited.
    pub pids: Option<i64>,
    /// Relative weight, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Bytes or operations per second for single devices.
    pub blkio_throttle: Vec<BlkioThrottle>,
    /// Weights for single devices, where the kernel has them
    /// ([`super::has_device_weights`]).
    pub blkio_weight_devices: Vec<BlkioWeight>,
}

/// A weight for one block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioWeight {
    /// Device node on the host.
    pub device: std::path::PathBuf,
    /// 10 to 1000.
    pub weight: u16,
}

/// A ceiling for one block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioThrottle {
    /// Device node on the host.
    pub device: std::path::PathBuf,
    pub kind: ThrottleKind,
    /// Bytes or operations per second.
    pub rate: u64,
}

/// What is throttled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThrottleKind {
    ReadBytes,
    WriteBytes,
    ReadOperations,
    WriteOperations,
}

/// Period docker uses for `--cpus`.
pub const CPU_PERIOD_US: u64 = 100_000;

impl Limits {
    /// Quota and period in microseconds, from whichever way they were given; a
    /// quota of -1 is unlimited.
    pub fn cpu_bandwidth(&self) -> Option<(i64, u64)> {
        match (self.nano_cpus, self.cpu_quota_us, self.cpu_period_us) {
            (Some(nano), _, _) => {
                let quota = nano.saturating_mul(CPU_PERIOD_US as i64) / 1_000_000_000;
                Some((quota.max(1000), CPU_PERIOD_US))
            }
            (None, None, None) => None,
            (None, quota, period) => Some((quota.unwrap_or(-1), period.unwrap_or(CPU_PERIOD_US))),
        }
    }

    /// Memory and swap together, with docker's rule for its absence.
    pub fn effective_memory_swap(&self) -> Option<i64> {
        match (self.memory_swap, self.memory) {
            (Some(swap), _) => Some(swap),
            (None, Some(memory)) if memory > 0 => Some(memory.saturating_mul(2)),
            (None, Some(_)) => Some(-1),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_processor_is_half_of_each_period() {
        let limits = Limits {
            nano_cpus: Some(500_000_000),
            ..Limits::default()
        };
        assert_eq!(limits.cpu_bandwidth(), Some((50_000, 100_000)));
        assert_eq!(Limits::default().cpu_bandwidth(), None);
    }

    #[test]
    fn swap_is_as_much_again_unless_said_otherwise() {
        let mut limits = Limits {
            memory: Some(64 << 20),
            ..Limits::default()
        };
        assert_eq!(limits.effective_memory_swap(), Some(128 << 20));
        limits.memory_swap = Some(-1);
        assert_eq!(limits.effective_memory_swap(), Some(-1));
    }
}
