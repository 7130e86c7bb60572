//! Bounds that several rooms share. A bound with one user lives beside that user.

/// A secret's payload is smaller than this many bytes (500 KiB), as in Swarm.
pub const SECRET_BYTES_MAX: usize = 500 * 1024;
/// A config's payload is smaller than this many bytes (1000 KiB), as in Swarm.
pub const CONFIG_BYTES_MAX: usize = 1000 * 1024;
/// Longest name of a service, network or stack object: one DNS label.
pub const DNS_LABEL_LEN_MAX: usize = 63;
/// Longest name of a secret or config.
pub const SECRET_NAME_LEN_MAX: usize = 64;
/// First and last port handed out for `published=0` in ingress mode.
pub const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// First VXLAN network id handed out; it belongs to the ingress network.
pub const VNI_FIRST: u32 = 4096;
/// Last VXLAN network id (24 bits).
pub const VNI_LAST: u32 = 0x00ff_ffff;
/// How long a freed VXLAN network id rests: a node that was cut off may still send frames for it.
pub const VNI_QUARANTINE_SECS: i64 = 600;
/// Tasks of one slot or node kept in the history, the live one included.
pub const TASK_HISTORY_DEFAULT: i64 = 5;
/// Smallest memory limit or reservation, as in Swarm: 4 MiB.
pub const MEMORY_BYTES_MIN: i64 = 4 * 1024 * 1024;
/// Smallest CPU limit or reservation, as in Swarm: a thousandth of a processor.
pub const NANO_CPUS_MIN: i64 = 1_000_000;
/// Shortest life of a node certificate: one hour.
pub const CERT_EXPIRY_SECS_MIN: i64 = 3600;
/// Longest drain period: one day. A bound on mistakes.
pub const DRAIN_PERIOD_SECS_MAX: i64 = 24 * 3600;
/// Replicas of one service. A bound on mistakes, well over what one cluster runs.
pub const REPLICAS_MAX: u64 = 100_000;
/// How long a worker may be down before it is removed, in seconds: a minute, since a restart must not
/// cost a node its membership, to ten years, since more is a mistake.
pub const NODE_EXPIRY_SECS: std::ops::RangeInclusive<u64> = 60..=10 * 365 * 24 * 3600;
/// Log entries between two snapshots: more often than every ten entries a manager would write its
/// whole state all the time, and a log that is never cut grows for ever.
pub const SNAPSHOT_INTERVAL: std::ops::RangeInclusive<u64> = 10..=1_000_000;
/// Old snapshots that a manager keeps at most. A bound on mistakes: each is a whole state.
pub const OLD_SNAPSHOTS_MAX: u64 = 100;
/// Changes in one commit; larger work is cut into several.
pub const CHANGES_PER_COMMIT_MAX: usize = 2000;
