//! `linux.resources` of a bundle.

use serde::Deserialize;
use serde_json::Value;

use crate::ShimConfig;
use crate::cgroup::Limits;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Resources {
    memory: Memory,
    cpu: Cpu,
    pids: Pids,
    #[serde(rename = "blockIO")]
    block_io: BlockIo,
    devices: Vec<Rule>,
    hugepage_limits: Vec<Value>,
    network: Option<Value>,
    rdma: Option<Value>,
    unified: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Memory {
    limit: Option<i64>,
    swap: Option<i64>,
    reservation: Option<i64>,
    swappiness: Option<u64>,
    #[serde(rename = "disableOOMKiller")]
    disable_oom_killer: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Cpu {
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
    cpus: Option<String>,
    mems: Option<String>,
    realtime_runtime: Option<i64>,
    realtime_period: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pids {
    limit: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BlockIo {
    weight: Option<u16>,
    leaf_weight: Option<u16>,
    weight_device: Vec<Value>,
    throttle_read_bps_device: Vec<Value>,
    throttle_write_bps_device: Vec<Value>,
    #[serde(rename = "throttleReadIOPSDevice")]
    throttle_read_iops_device: Vec<Value>,
    #[serde(rename = "throttleWriteIOPSDevice")]
    throttle_write_iops_device: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rule {
    allow: bool,
    #[serde(rename = "type")]
    kind: String,
    major: Option<i64>,
    minor: Option<i64>,
    access: String,
}

impl Rule {
    /// Takes everything away: what a container begins with anyway.
    fn denies_all(&self) -> bool {
        let all = |number: Option<i64>| number.is_none_or(|number| number < 0);
        !self.allow && matches!(self.kind.as_str(), "" | "a") && all(self.major) && all(self.minor)
    }

    /// In docker's form.
    fn text(&self) -> String {
        let number = |number: Option<i64>| match number {
            Some(number) if number >= 0 => number.to_string(),
            _ => "*".to_owned(),
        };
        let kind = match self.kind.as_str() {
            "" => "a",
            kind => kind,
        };
        format!(
            "{kind} {}:{} {}",
            number(self.major),
            number(self.minor),
            self.access
        )
    }
}

impl Resources {
    /// What a rule lets do with one device.
    pub(super) fn access_to(&self, block: bool, major: u32, minor: u32) -> Option<&str> {
        let is = |wanted: Option<i64>, number: u32| {
            wanted.is_none_or(|wanted| wanted < 0 || wanted == i64::from(number))
        };
        self.devices
            .iter()
            .filter(|rule| rule.allow)
            .filter(|rule| {
                matches!(
                    (rule.kind.as_str(), block),
                    ("" | "a", _) | ("b", true) | ("c", false)
                )
            })
            .filter(|rule| is(rule.major, major) && is(rule.minor, minor))
            .map(|rule| rule.access.as_str())
            .next_back()
    }
}

pub(super) fn convert(config: &mut ShimConfig, resources: &Resources) -> Result<(), String> {
    let block = &resources.block_io;
    let asked = [
        (!resources.hugepage_limits.is_empty(), "hugepageLimits"),
        (resources.network.is_some(), "network"),
        (resources.rdma.is_some(), "rdma"),
        (resources.unified.is_some(), "unified"),
        (
            resources.cpu.realtime_period.is_some() || resources.cpu.realtime_runtime.is_some(),
            "cpu.realtimePeriod and realtimeRuntime",
        ),
        (
            block.leaf_weight.is_some()
                || !block.weight_device.is_empty()
                || !block.throttle_read_bps_device.is_empty()
                || !block.throttle_write_bps_device.is_empty()
                || !block.throttle_read_iops_device.is_empty()
                || !block.throttle_write_iops_device.is_empty(),
            "blockIO by device",
        ),
    ];
    if let Some((_, name)) = asked.iter().find(|(asked, _)| *asked) {
        return Err(format!("linux.resources.{name} is not supported"));
    }
    for rule in &resources.devices {
        if rule.allow {
            config.device_cgroup_rules.push(rule.text());
        } else if !rule.denies_all() {
            return Err(format!(
                "linux.resources.devices: `{}` denies, only denying all is supported",
                rule.text()
            ));
        }
    }
    let (memory, cpu) = (&resources.memory, &resources.cpu);
    config.cgroup.limits = Limits {
        memory: memory.limit,
        // Without a value the specification leaves swap alone.
        memory_swap: memory.swap.or(memory.limit.map(|_| -1)),
        memory_reservation: memory.reservation,
        memory_swappiness: memory.swappiness,
        oom_kill_disable: memory.disable_oom_killer,
        nano_cpus: None,
        cpu_quota_us: cpu.quota,
        cpu_period_us: cpu.period,
        cpu_shares: cpu.shares,
        cpuset_cpus: cpu.cpus.clone(),
        cpuset_mems: cpu.mems.clone(),
        pids: resources.pids.limit,
        blkio_weight: block.weight,
        blkio_throttle: Vec::new(),
        blkio_weight_devices: Vec::new(),
    };
    Ok(())
}
