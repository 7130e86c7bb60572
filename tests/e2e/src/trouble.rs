//! Troubles of nodes beyond a death: daemons that stand still, and networks that fall apart.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Cluster;
use crate::cluster::{is_alive, skep_binary};
use crate::run::{Ran, TIMEOUT, run};

impl Cluster {
    /// Lets a node's daemon stand still, with all of its connections, until the answer is dropped.
    #[track_caller]
    pub fn pause(&self, node: &str) -> Paused {
        let pid = self
            .daemon(node)
            .unwrap_or_else(|| panic!("{node} does not run"));
        send(pid, Signal::SIGSTOP);
        Paused { pid }
    }

    /// Takes two groups of nodes apart: none of one reaches any of the other, until the answer is
    /// dropped. Neither notices anything of its link, and nobody is told that nobody is there.
    #[track_caller]
    pub fn part(&self, one: &[&str], other: &[&str]) -> Parted {
        let addresses = |nodes: &[&str]| -> Vec<String> {
            nodes
                .iter()
                .map(|node| self.address(node).to_string())
                .collect()
        };
        let mut lost = Vec::new();
        for (from, to) in [(one, other), (other, one)] {
            let to = addresses(to);
            lost.extend(from.iter().map(|node| ((*node).to_owned(), to.clone())));
        }
        let parted = Parted {
            root: self.root.clone(),
            lost,
        };
        parted.routes("add").into_iter().for_each(|ran| {
            ran.ok();
        });
        parted
    }
}

/// A daemon that stands still.
pub struct Paused {
    pid: u32,
}

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        if is_alive(self.pid) {
            send(self.pid, Signal::SIGCONT);
        }
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().expect("process ids are small"));
    if let Err(error) = kill(pid, signal) {
        eprintln!("{signal} to process {pid}: {error}");
    }
}

/// Nodes that do not reach each other.
pub struct Parted {
    root: PathBuf,
    /// Node, and the addresses that it does not reach.
    lost: Vec<(String, Vec<String>)>,
}

impl Parted {
    fn routes(&self, verb: &str) -> Vec<Ran> {
        let node = |(node, lost): &(String, Vec<String>)| {
            let lines = lost
                .iter()
                .map(|address| format!("ip route {verb} blackhole {address}/32"));
            inside(&self.root, node, &lines.collect::<Vec<_>>().join("; "))
        };
        self.lost.iter().map(node).collect()
    }
}

impl Drop for Parted {
    fn drop(&mut self) {
        for ran in self.routes("del").iter().filter(|ran| ran.status != 0) {
            eprintln!("nodes stay apart: {ran}");
        }
    }
}

fn inside(root: &Path, node: &str, script: &str) -> Ran {
    let mut command = Command::new(skep_binary());
    command.args(["dev", "exec", "--root"]).arg(root);
    command.args([node, "--", "sh", "-c", script]);
    run(&mut command, b"", TIMEOUT)
}
