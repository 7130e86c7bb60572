//! A dev cluster of three nodes.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::api::Api;
use crate::services::{self, Subject};
use crate::table::Table;

struct Cluster {
    skep: PathBuf,
    root: PathBuf,
}

impl Cluster {
    fn up() -> Result<Self> {
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

    fn dev(&self, verb: &str, args: &[&str]) -> Result<()> {
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
    let api = Api {
        socket: cluster.root.join("n1/run/skep.sock"),
        version: "v1.50",
    };
    let subject = Subject {
        name: "skep, 3 nodes",
        api: &api,
        image: "skep/hello:latest",
        serve: &[],
        end: &["check", "http://127.0.0.1:1/"],
    };
    services::run(table, &subject)
}
