//! What a container uses, in the shape docker's `stats` needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One measurement of a container's cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Whether the numbers come from cgroup v2 (docker prints some fields
    /// differently then).
    pub unified: bool,
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    pub blkio: BlkioStats,
}

/// Processor time, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStats {
    pub total_ns: u64,
    pub user_ns: u64,
    pub kernel_ns: u64,
    /// One entry per processor; cgroup v1 only.
    pub per_cpu_ns: Vec<u64>,
    /// Periods that passed, of those throttled, and the time throttled.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_ns: u64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// Page cache included.
    pub usage: u64,
    /// Highest usage seen; zero where the kernel does not say.
    pub max_usage: u64,
    /// `u64::MAX` when unlimited (show the host's memory instead).
    pub limit: u64,
    /// Times the limit was hit.
    pub fail_count: u64,
    /// Processes the kernel killed.
    pub oom_kills: u64,
    /// The lines of `memory.stat`.
    pub details: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidsStats {
    pub current: u64,
    /// `u64::MAX` when unlimited.
    pub limit: u64,
}

/// Block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioStats {
    pub service_bytes: Vec<BlkioEntry>,
    pub serviced: Vec<BlkioEntry>,
}

/// One counter of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    /// `read`, `write`, …
    pub op: String,
    pub value: u64,
}
