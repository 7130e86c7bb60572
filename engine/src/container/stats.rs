//! `docker stats`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use skep_shim::{ShimConfig, cgroup};
use tokio::sync::mpsc;

use super::Container;
use crate::clock;
use crate::engine::Engine;
use crate::error::{IoContext as _, Result};
use crate::streams::{StatsStream, blocking};
use crate::types::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats,
    ThrottlingData,
};

/// Between two readings of a stream.
const PERIOD: Duration = Duration::from_secs(1);

impl Engine {
    /// One reading; unless `one_shot`, with another of a second before.
    pub async fn container_stats(&self, name: &str, one_shot: bool) -> Result<Stats> {
        let container = self.containers.find(name)?;
        let first = self.read_stats(&container).await?;
        if one_shot || !container.status().is_live() {
            return Ok(first);
        }
        tokio::time::sleep(PERIOD).await;
        let second = self.read_stats(&container).await?;
        Ok(after(&first, second))
    }

    /// A reading a second, of zeros while it does not run; ends when it is
    /// removed.
    pub async fn container_stats_stream(&self, name: &str) -> Result<StatsStream> {
        let container = self.containers.find(name)?;
        let (sender, receiver) = mpsc::channel(1);
        let weak = Arc::downgrade(&self.shared());
        self.spawn(async move {
            let mut ticks = tokio::time::interval(PERIOD);
            let mut pulse = container.watch();
            let mut before: Option<Stats> = None;
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = sender.closed() => return,
                    _ = pulse.wait_for(|pulse| pulse.removed) => return,
                }
                let Some(engine) = weak.upgrade() else { return };
                let read = engine.read_stats(&container).await;
                let stats = read.map(|now| match &before {
                    Some(before) => after(before, now),
                    None => now,
                });
                before = stats.as_ref().ok().cloned();
                let failed = stats.is_err();
                if sender.send(stats).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(StatsStream::new(receiver))
    }

    async fn read_stats(&self, container: &Arc<Container>) -> Result<Stats> {
        let (engine, target) = (self.shared(), Arc::clone(container));
        blocking(move || {
            let (name, pid, live) = {
                let inner = target.lock();
                let record = &inner.record;
                (
                    format!("/{}", record.name),
                    record.state.pid,
                    record.state.status.is_live(),
                )
            };
            let empty = Stats {
                name,
                id: target.id.clone(),
                ..Stats::default()
            };
            if !live {
                return Ok(empty);
            }
            let path = target.runtime.join("config.json");
            let config = ShimConfig::read(&path).during(|| "cannot read statistics".into())?;
            let read = cgroup::at(&config.cgroup_path()).and_then(|group| group.stats());
            let read = match read {
                Ok(read) => read,
                // It ended while we looked.
                Err(_) if !target.status().is_live() => return Ok(empty),
                Err(error) => return Err(error).during(|| "cannot read statistics".into()),
            };
            let networks = engine.interface_counters(pid).into_iter().map(|link| {
                (
                    link.name.clone(),
                    NetworkStats {
                        rx_bytes: link.rx_bytes,
                        rx_packets: link.rx_packets,
                        rx_errors: link.rx_errors,
                        rx_dropped: link.rx_dropped,
                        tx_bytes: link.tx_bytes,
                        tx_packets: link.tx_packets,
                        tx_errors: link.tx_errors,
                        tx_dropped: link.tx_dropped,
                    },
                )
            });
            Ok(Stats {
                networks: networks.collect(),
                ..convert(empty, read)
            })
        })
        .await
    }
}

/// A reading with the one before it.
fn after(before: &Stats, now: Stats) -> Stats {
    Stats {
        preread: before.read,
        precpu_stats: before.cpu_stats.clone(),
        ..now
    }
}

fn convert(empty: Stats, read: cgroup::Stats) -> Stats {
    let limit = |limit: u64| (limit != u64::MAX).then_some(limit);
    let entries = |entries: Vec<cgroup::BlkioEntry>| {
        Some(
            entries
                .into_iter()
                .map(|entry| BlkioEntry {
                    major: entry.major,
                    minor: entry.minor,
                    op: entry.op,
                    value: entry.value,
                })
                .collect(),
        )
    };
    let (system, processors) = host_cpu();
    Stats {
        read: clock::now(),
        pids_stats: PidsStats {
            current: Some(read.pids.current),
            limit: limit(read.pids.limit),
        },
        blkio_stats: BlkioStats {
            io_service_bytes_recursive: entries(read.blkio.service_bytes),
            io_serviced_recursive: match read.unified {
                true => None,
                false => entries(read.blkio.serviced),
            },
            ..BlkioStats::default()
        },
        cpu_stats: CpuStats {
            cpu_usage: CpuUsage {
                total_usage: read.cpu.total_ns,
                percpu_usage: read.cpu.per_cpu_ns,
                usage_in_kernelmode: read.cpu.kernel_ns,
                usage_in_usermode: read.cpu.user_ns,
            },
            system_cpu_usage: system,
            online_cpus: processors,
            throttling_data: ThrottlingData {
                periods: read.cpu.periods,
                throttled_periods: read.cpu.throttled_periods,
                throttled_time: read.cpu.throttled_ns,
            },
        },
        memory_stats: MemoryStats {
            usage: Some(read.memory.usage),
            max_usage: (!read.unified).then_some(read.memory.max_usage),
            stats: read.memory.details,
            failcnt: (!read.unified).then_some(read.memory.fail_count),
            limit: Some(read.memory.limit.min(host_memory())),
        },
        ..empty
    }
}

/// Nanoseconds all processors of the host were busy or idle, and how many there
/// are.
fn host_cpu() -> (u64, u32) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .map_or(100, |ticks| ticks as u64);
    let mut total = 0;
    let mut processors = 0;
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        match fields.next() {
            // User, nice, system, idle, iowait, irq, softirq: what docker sums up.
            Some("cpu") => {
                total = fields
                    .take(7)
                    .filter_map(|field| field.parse::<u64>().ok())
                    .sum();
            }
            Some(name) if name.starts_with("cpu") => processors += 1,
            _ => {}
        }
    }
    (total * 1_000_000_000 / ticks, processors)
}

/// Bytes of the host's memory.
fn host_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let fields: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .collect();
    fields
        .get("MemTotal")
        .and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(u64::MAX, |kilobytes| kilobytes * 1024)
}
