//! Control groups: place a container's processes, limit and measure them.

mod limits;
mod stats;

pub use limits::{BlkioThrottle, CPU_PERIOD_US, Limits, ThrottleKind};
pub use stats::{BlkioEntry, BlkioStats, CpuStats, MemoryStats, PidsStats, Stats};
