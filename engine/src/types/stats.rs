//! Resource use of a container, in `GET /containers/{id}/stats`' shape.

use std::collections::BTreeMap;

use skep_model::Timestamp;

docker_json! {
    #[derive(Eq)]
    pub struct Stats {
        pub name: String,
        pub id: String,
        pub read: Timestamp,
        pub preread: Timestamp,
        pub pids_stats: PidsStats,
        pub blkio_stats: BlkioStats,
        pub num_procs: u32,
        pub storage_stats: StorageStats,
        pub cpu_stats: CpuStats,
        /// The previous reading, so that a client can compute a share.
        pub precpu_stats: CpuStats,
        pub memory_stats: MemoryStats,
        /// By interface name in the container.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub networks: BTreeMap<String, NetworkStats>,
    }

    #[derive(Eq)]
    pub struct PidsStats {
        #[serde(skip_serializing_if = "Option::is_none")]
        pub current: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub limit: Option<u64>,
    }

    #[derive(Eq)]
    pub struct BlkioStats {
        pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
        pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
        pub io_queue_recursive: Option<Vec<BlkioEntry>>,
        pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
        pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
        pub io_merged_recursive: Option<Vec<BlkioEntry>>,
        pub io_time_recursive: Option<Vec<BlkioEntry>>,
        pub sectors_recursive: Option<Vec<BlkioEntry>>,
    }

    #[derive(Eq)]
    pub struct BlkioEntry {
        pub major: u64,
        pub minor: u64,
        pub op: String,
        pub value: u64,
    }

    #[derive(Eq)]
    pub struct CpuStats {
        pub cpu_usage: CpuUsage,
        /// Nanoseconds of all processors of the host.
        pub system_cpu_usage: u64,
        pub online_cpus: u32,
        pub throttling_data: ThrottlingData,
    }

    /// Nanoseconds.
    #[derive(Eq)]
    pub struct CpuUsage {
        pub total_usage: u64,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub percpu_usage: Vec<u64>,
        pub usage_in_kernelmode: u64,
        pub usage_in_usermode: u64,
    }

    #[derive(Eq)]
    pub struct ThrottlingData {
        pub periods: u64,
        pub throttled_periods: u64,
        pub throttled_time: u64,
    }

    /// Bytes.
    #[derive(Eq)]
    pub struct MemoryStats {
        #[serde(skip_serializing_if = "Option::is_none")]
        pub usage: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub max_usage: Option<u64>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub stats: BTreeMap<String, u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub failcnt: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub limit: Option<u64>,
    }

    #[derive(Eq)]
    pub struct NetworkStats {
        pub rx_bytes: u64,
        pub rx_packets: u64,
        pub rx_errors: u64,
        pub rx_dropped: u64,
        pub tx_bytes: u64,
        pub tx_packets: u64,
        pub tx_errors: u64,
        pub tx_dropped: u64,
    }

    /// Windows only; always empty.
    #[derive(Eq)]
    pub struct StorageStats {}
}
