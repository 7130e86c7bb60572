//! A dev cluster of three nodes.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::api::Api;
use crate::services::{self, Subject};
use crate::table::Table;

pub struct Cluster {
    skep: PathBuf,
    root: PathBuf,
}

impl Cluster {
    /// Three nodes, all managers.
    pub fn up() -> Result<Self> {
        let here = std::env::current_exe().context("the place of this program")?;
        let skep = here.with_file_name("skep");
        ensure!(
            skep.exists(),
            "{} is missing: cargo build --release first",
            skep.display()
        );
        let root = std::env::temp_dir().join(format!("skb-{}", std::process::id()));
        let cluster = Self { skep, root };
        let subnet = ["--subnet", "10.198.0.0/24", "--log-level", "warn"];
        cluster.dev("up", &[&["--nodes", "3"], &subnet[..]].concat())?;
        Ok(cluster)
    }

    /// The API of its first node.
    pub fn api(&self) -> Api {
        self.api_of("n1")
    }

    pub fn api_of(&self, node: &str) -> Api {
        Api {
            socket: self.root.join(node).join("run/skep.sock"),
            version: "v1.50",
        }
    }

    /// Bytes of private memory of each daemon, by node.
    pub fn memory(&self) -> Result<Vec<(String, u64)>> {
        let of = |node: &str| {
            let pid = std::fs::read_to_string(self.root.join(node).join("run/skep.pid"))
                .with_context(|| format!("the process of {node}"))?;
            let path = format!("/proc/{}/smaps_rollup", pid.trim());
            let text = std::fs::read_to_string(&path).context(path)?;
            let private = text.lines().filter(|line| line.starts_with("Private_"));
            let kb = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            Ok((node.to_owned(), kb.sum::<u64>() * 1024))
        };
        ["n1", "n2", "n3"].into_iter().map(of).collect()
    }

    /// Runs `skep dev`.
    pub fn dev(&self, verb: &str, args: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.skep);
        command.args(["dev", verb, "--root"]).arg(&self.root);
        let status = command
            .args(args)
            .stdout(Stdio::null())
            .status()
            .context("skep dev")?;
        ensure!(status.success(), "skep dev {verb} failed");
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.dev("down", &[]) {
            eprintln!("{error:#}");
        }
    }
}

pub fn run(table: &mut Table) -> Result<()> {
    let cluster = Cluster::up()?;
    let api = cluster.api();
    let subject = Subject {
        name: "skep, 3 nodes",
        api: &api,
        image: "skep/hello:latest",
        serve: &[],
        end: &["check", "http://127.0.0.1:1/"],
    };
    services::run(table, &subject)
}
