//! How long a cluster of three managers takes to decide again after its leader was killed, and until
//! what ran on a node that was cut off runs elsewhere. All with the defaults.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::api::Api;
use crate::cluster::Cluster;
use crate::table::Table;

const KILLS: usize = 30;
const CUTS: usize = 5;
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until there is something.
fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if began.elapsed() > PATIENCE => bail!("not within {PATIENCE:?}: {what}"),
            Err(error) if began.elapsed() > PATIENCE => return Err(error.context(what.to_owned())),
            _ => thread::sleep(PAUSE),
        }
    }
}

fn host_name(node: &Value) -> &str {
    node["Description"]["Hostname"].as_str().unwrap_or_default()
}

fn nodes(api: &Api) -> Result<Vec<Value>> {
    let nodes = api.ask("GET", "/nodes", b"")?;
    Ok(nodes.as_array().cloned().unwrap_or_default())
}

/// The leader's host name, once every node is ready and every manager is reached.
fn settled(api: &Api) -> Result<String> {
    until("three managers that are well", || {
        let nodes = nodes(api)?;
        let well = nodes.iter().filter(|node| {
            node["Status"]["State"] == "ready"
                && node["ManagerStatus"]["Reachability"] == "reachable"
        });
        if well.count() < NODES.len() {
            return Ok(None);
        }
        let mut leaders = nodes
            .iter()
            .filter(|one| one["ManagerStatus"]["Leader"] == true);
        Ok(leaders.next().map(|node| host_name(node).to_owned()))
    })
}

fn percentile(times: &mut [Duration], of_100: usize) -> f64 {
    times.sort();
    let at = (times.len() * of_100).div_ceil(100).saturating_sub(1);
    times[at].as_secs_f64() * 1000.0
}

fn leader_killed(cluster: &Cluster, table: &mut Table) -> Result<()> {
    let mut times = Vec::new();
    for round in 0..KILLS {
        let leader = settled(&cluster.api_of("n1"))?;
        let other = NODES.into_iter().find(|node| *node != leader);
        let api = cluster.api_of(other.context("there are three")?);
        let began = Instant::now();
        cluster.dev("kill", &[&leader])?;
        let secret = json!({"Name": format!("s{round}"), "Data": "eA=="}).to_string();
        until("a write is accepted", || {
            Ok(api.ask("POST", "/secrets/create", secret.as_bytes()).ok())
        })?;
        times.push(began.elapsed());
        cluster.dev("start", &[&leader])?;
    }
    for (figure, of_100) in [("median", 50), ("worst of 30", 100)] {
        let value = percentile(&mut times, of_100);
        table.add(
            "leader killed until a write is accepted",
            figure,
            value,
            "ms",
        );
    }
    Ok(())
}

fn node_cut_off(cluster: &Cluster, table: &mut Table) -> Result<()> {
    const REPLICAS: usize = 6;
    let mut times = Vec::new();
    for round in 0..CUTS {
        let leader = settled(&cluster.api_of("n1"))?;
        let lost = NODES.into_iter().rev().find(|node| *node != leader);
        let lost = lost.context("there are three")?;
        let api = cluster.api_of(&leader);
        let ids: Vec<String> = nodes(&api)?
            .iter()
            .filter(|node| host_name(node) == lost)
            .filter_map(|node| Some(node["ID"].as_str()?.to_owned()))
            .collect();
        let name = format!("web{round}");
        let spec = json!({
            "Name": name,
            "TaskTemplate": {"ContainerSpec": {"Image": "skep/hello:latest"}},
            "Mode": {"Replicated": {"Replicas": REPLICAS}},
        });
        api.ask("POST", "/services/create", spec.to_string().as_bytes())?;
        let running_elsewhere = || -> Result<(usize, usize)> {
            let tasks = api.ask("GET", "/tasks", b"")?;
            let tasks = tasks.as_array().cloned().unwrap_or_default();
            let runs = tasks.iter().filter(|task| {
                task["Status"]["State"] == "running" && task["DesiredState"] == "running"
            });
            let is_lost = |task: &&Value| ids.iter().any(|id| task["NodeID"] == id.as_str());
            let (there, elsewhere): (Vec<&Value>, Vec<&Value>) = runs.partition(is_lost);
            Ok((there.len(), elsewhere.len()))
        };
        until("all tasks run", || {
            let (there, elsewhere) = running_elsewhere()?;
            Ok((there > 0 && there + elsewhere == REPLICAS).then_some(()))
        })?;
        let began = Instant::now();
        cluster.dev("exec", &[lost, "--", "ip", "link", "set", "eth0", "down"])?;
        until("all tasks run elsewhere", || {
            let (_, elsewhere) = running_elsewhere()?;
            Ok((elsewhere == REPLICAS).then_some(()))
        })?;
        times.push(began.elapsed());
        // Its routes went with its link: it starts anew.
        cluster.dev("kill", &[lost])?;
        cluster.dev("exec", &[lost, "--", "ip", "link", "set", "eth0", "up"])?;
        cluster.dev("start", &[lost])?;
        api.ask("DELETE", &format!("/services/{name}"), b"")?;
        until("the service is gone", || {
            let tasks = api.ask("GET", "/tasks", b"")?;
            Ok(tasks.as_array().is_some_and(Vec::is_empty).then_some(()))
        })?;
    }
    for (figure, of_100) in [("median", 50), ("worst of 5", 100)] {
        let value = percentile(&mut times, of_100);
        table.add(
            "node cut off until its tasks run elsewhere",
            figure,
            value,
            "ms",
        );
    }
    Ok(())
}

pub fn run(table: &mut Table) -> Result<()> {
    let cluster = Cluster::up()?;
    ensure!(
        nodes(&cluster.api())?.len() == NODES.len(),
        "there are not three nodes"
    );
    leader_killed(&cluster, table)?;
    node_cut_off(&cluster, table)
}
