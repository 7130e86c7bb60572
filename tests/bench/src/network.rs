//! The network of a cluster: ways of packets, updates of rules, and how fast a change is everywhere.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use skep_e2e::station::Station;
use skep_e2e::wait::holds;
use skep_e2e::{Cluster, eventually, secs};
use skep_net::{Host, HostConfig, Vip};

use crate::paths;
use crate::table::Table;

const ROUNDS: usize = 7;
const BACKENDS: u32 = 3;
const TABLE: &str = "nft list map inet sk-svc be4";

pub fn run(table: &mut Table) -> Result<()> {
    for services in [10, 1000, 10_000] {
        rules(table, services)?;
    }
    let Some(cluster) = Cluster::up(3, 1) else {
        return Ok(());
    };
    paths::run(table, &cluster)?;
    everywhere(table, &cluster);
    Ok(())
}

fn services(count: u32) -> Vec<Vip> {
    let ip = |number: u32| IpAddr::from(Ipv4Addr::from(0x0a40_0000 + number));
    let vip = |number| Vip {
        vip: ip(number),
        backends: (1..=BACKENDS)
            .map(|backend| ip(backend * 0x10_0000 + number))
            .collect(),
    };
    (1..=count).map(vip).collect()
}

/// One task's service addresses: all of them, and one backend more or less.
fn rules(table: &mut Table, count: u32) -> Result<()> {
    const NETNS: &str = "t-bench";
    let place = std::env::temp_dir().join(format!("skn-{}", std::process::id()));
    let host = Host::open(HostConfig::new(&place))?;
    host.namespaces().create(NETNS)?;
    let measured = (|| {
        let mut all = services(count);
        let began = Instant::now();
        host.set_services(NETNS, &all)?;
        let built = began.elapsed();
        let mut changed = Vec::new();
        for round in 0..ROUNDS {
            let backends = &mut all[count as usize / 2].backends;
            match round % 2 {
                0 => drop(backends.pop()),
                _ => backends.push(Ipv4Addr::new(10, 200, 0, 1).into()),
            }
            let began = Instant::now();
            host.set_services(NETNS, &all)?;
            changed.push(began.elapsed());
        }
        anyhow::Ok((built, changed))
    })();
    host.namespaces().delete(NETNS)?;
    std::fs::remove_dir_all(&place).context("the benchmark's directory")?;
    let (built, mut changed) = measured?;
    changed.sort();
    let group = format!("{count} services");
    let rows = [
        ("all rules of a task made", built),
        ("one backend changed, median", changed[ROUNDS / 2]),
        ("one backend changed, best", changed[0]),
    ];
    for (figure, time) in rows {
        table.add(&group, figure, millis(time), "ms");
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// From the request to scale down until no balancer on any node leads to the task.
fn everywhere(table: &mut Table, c: &Cluster) {
    c.skep(
        "n1",
        "service create -d --no-resolve-image --name spread --mode global --network bench \
         skep/hello:latest",
    )
    .ok();
    c.skep(
        "n1",
        "service create -d --no-resolve-image --name scaled --network bench skep/hello:latest",
    )
    .ok();
    let observers: Vec<Station> = c
        .wait_running("n1", "spread", 3, secs(60))
        .iter()
        .map(|task| c.inside_task(task))
        .collect();
    let vip = c.vips("n1", "scaled", "bench")[0].to_string();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        c.skep("n1", "service scale -d scaled=3").ok();
        let leads = |count: usize| {
            let led = observers
                .iter()
                .map(|one| one.run(TABLE).out.matches(&vip).count());
            let led: Vec<usize> = led.collect();
            holds(led.iter().all(|led| *led == count), format!("{led:?}"))
        };
        eventually("three are led to", secs(30), || leads(3));
        let mut service = c.get("n1", "/services/scaled");
        let path = format!(
            "/services/{}/update?version={}",
            service["ID"].as_str().unwrap_or_default(),
            service["Version"]["Index"]
        );
        service["Spec"]["Mode"]["Replicated"]["Replicas"] = 1.into();
        let began = Instant::now();
        c.api("n1", "POST", &path, Some(&service["Spec"]));
        while leads(1).is_err() {
            assert!(began.elapsed() < secs(30), "two tasks are still led to");
        }
        times.push(began.elapsed());
    }
    times.sort();
    let group = "change everywhere";
    table.add(
        group,
        "scale request to every task's rules, best",
        millis(times[0]),
        "ms",
    );
    table.add(group, "the same, median", millis(times[ROUNDS / 2]), "ms");
}
