//! Services and containers through a daemon's API: rows that are the same for every daemon.

use std::time::Duration;

use anyhow::Result;

use crate::api::Api;
use crate::table::Table;

const ROUNDS: usize = 5;

/// A daemon under test.
pub struct Subject<'a> {
    pub name: &'a str,
    pub api: &'a Api,
    pub image: &'a str,
    /// What a service's task runs; empty for what the image says.
    pub serve: &'a [&'a str],
    /// What a container runs that ends at once.
    pub end: &'a [&'a str],
}

pub fn run(table: &mut Table, subject: &Subject<'_>) -> Result<()> {
    let Subject {
        name, api, image, ..
    } = subject;
    api.create_service("warm", image, subject.serve, 3)?;
    api.remove_service("warm")?;
    for replicas in [1, 10, 100] {
        let rounds = if replicas == 100 { 3 } else { ROUNDS };
        let (mut created, mut removed) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let service = format!("b{replicas}-{round}");
            created.push(api.create_service(&service, image, subject.serve, replicas)?);
            removed.push(api.remove_service(&service)?);
        }
        let group = format!("{replicas} replicas");
        let row = |what: &str| format!("{name}: {what}");
        table.add(&group, row("create to running"), median(created), "ms");
        table.add(
            &format!("{group} gone"),
            row("remove to gone"),
            median(removed),
            "ms",
        );
    }
    let mut lives = Vec::new();
    for round in 0..ROUNDS * 4 {
        lives.push(api.run_container(&format!("c{round}"), image, subject.end)?);
    }
    let row = format!("{name}: create, start, wait, remove");
    table.add("container", row, median(lives), "ms");
    Ok(())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}
