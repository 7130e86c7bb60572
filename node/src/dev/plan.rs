//! What a dev cluster consists of: names, addresses and directories. Pure but for its one file.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::DevError;

/// Where a dev cluster lives when no directory is named.
pub const ROOT: &str = "/var/lib/skep-dev";
/// Nodes of one dev cluster.
const NODES_MAX: usize = 50;
/// Managers when their number is not given.
const MANAGERS_DEFAULT: usize = 3;

/// A dev cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub root: PathBuf,
    pub subnet: Ipv4Net,
    pub nodes: Vec<Node>,
    /// `--data-path-encryption` of every daemon; empty leaves it to them.
    #[serde(default)]
    pub data_path_encryption: String,
}

/// One of its nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub address: Ipv4Addr,
    pub manager: bool,
}

impl Plan {
    pub fn new(
        root: PathBuf,
        subnet: Ipv4Net,
        nodes: usize,
        managers: Option<usize>,
    ) -> Result<Self, DevError> {
        if !(1..=NODES_MAX).contains(&nodes) {
            return Err(DevError::Plan(format!(
                "--nodes must be 1 to {NODES_MAX}, not {nodes}"
            )));
        }
        let managers = managers.unwrap_or(MANAGERS_DEFAULT.min(nodes));
        if !(1..=nodes).contains(&managers) {
            return Err(DevError::Plan(format!(
                "--managers must be 1 to {nodes}, not {managers}"
            )));
        }
        let addresses: Vec<Ipv4Addr> = subnet.hosts().skip(10).take(nodes).collect();
        if addresses.len() < nodes || subnet.prefix_len() > 26 {
            return Err(DevError::Plan(format!("--subnet {subnet} is too small")));
        }
        let nodes = addresses
            .into_iter()
            .enumerate()
            .map(|(at, address)| Node {
                name: format!("n{}", at + 1),
                address,
                manager: at < managers,
            })
            .collect();
        Ok(Self {
            root,
            subnet,
            nodes,
            data_path_encryption: String::new(),
        })
    }

    fn file(root: &Path) -> PathBuf {
        root.join("dev.json")
    }

    /// The cluster whose state is in `root`.
    pub fn load(root: &Path) -> Result<Self, DevError> {
        let path = Self::file(root);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DevError::None {
                    root: root.to_owned(),
                });
            }
            Err(source) => return Err(DevError::Path { path, source }),
        };
        serde_json::from_slice(&bytes).map_err(|error| DevError::Path {
            path,
            source: error.into(),
        })
    }

    pub fn exists(&self) -> bool {
        Self::file(&self.root).exists()
    }

    pub fn save(&self) -> Result<(), DevError> {
        let path = Self::file(&self.root);
        let bytes = serde_json::to_vec_pretty(self).expect("plain fields serialise");
        std::fs::create_dir_all(&self.root)
            .and_then(|()| std::fs::write(&path, bytes))
            .map_err(|source| DevError::Path { path, source })
    }

    pub fn node(&self, name: &str) -> Result<&Node, DevError> {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .ok_or_else(|| DevError::NoNode {
                name: name.to_owned(),
            })
    }

    /// The first manager: it makes the cluster.
    pub fn first(&self) -> &Node {
        &self.nodes[0]
    }

    /// This machine's own address on the nodes' bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.hosts().next().unwrap_or(self.subnet.addr())
    }

    /// The bridge's own address: where nodes send what is not for the subnet.
    pub fn bridge(&self) -> Ipv4Addr {
        self.subnet.hosts().nth(1).unwrap_or(self.subnet.addr())
    }

    /// Name of this machine's interface on the wire; told apart by the subnet.
    pub fn interface(&self) -> String {
        let [a, b, c, _] = self.subnet.addr().octets();
        format!("skd{a:02x}{b:02x}{c:02x}")
    }

    /// Runtime directory of the bridge that joins the nodes.
    pub fn wire_dir(&self) -> PathBuf {
        self.root.join("wire")
    }

    pub fn data_root(&self, node: &Node) -> PathBuf {
        self.root.join(&node.name).join("data")
    }

    /// Short, because socket paths may be no longer than 107 bytes.
    pub fn exec_root(&self, node: &Node) -> PathBuf {
        self.root.join(&node.name).join("run")
    }

    pub fn socket(&self, node: &Node) -> PathBuf {
        self.exec_root(node).join("skep.sock")
    }

    pub fn pidfile(&self, node: &Node) -> PathBuf {
        self.exec_root(node).join("skep.pid")
    }

    pub fn log(&self, node: &Node) -> PathBuf {
        self.root.join(&node.name).join("daemon.log")
    }

    /// A `daemon.json` of the node's own, which may be absent.
    pub fn config_file(&self, node: &Node) -> PathBuf {
        self.root.join(&node.name).join("daemon.json")
    }

    /// Name of the node's network namespace.
    pub fn netns(&self, node: &Node) -> String {
        format!("dev-{}", node.name)
    }

    /// Cgroup of the node's containers; told apart by the cluster's directory.
    pub fn cgroup_parent(&self, node: &Node) -> String {
        let tag: String = self
            .root
            .to_string_lossy()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        format!("/skep-dev{tag}/{}", node.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(nodes: usize, managers: Option<usize>) -> Result<Plan, DevError> {
        Plan::new(
            "/tmp/x".into(),
            "10.199.0.0/24".parse().unwrap(),
            nodes,
            managers,
        )
    }

    #[test]
    fn up_to_three_nodes_are_managers_unless_told() {
        let of = |nodes, managers| {
            plan(nodes, managers)
                .unwrap()
                .nodes
                .iter()
                .filter(|node| node.manager)
                .count()
        };
        assert_eq!(
            (of(1, None), of(3, None), of(5, None), of(5, Some(1))),
            (1, 3, 3, 1)
        );
    }

    #[test]
    fn nonsense_is_refused_by_flag() {
        assert!(plan(0, None).unwrap_err().to_string().contains("--nodes"));
        assert!(
            plan(3, Some(4))
                .unwrap_err()
                .to_string()
                .contains("--managers")
        );
        let small = Plan::new("/tmp/x".into(), "10.0.0.0/28".parse().unwrap(), 3, None);
        assert!(small.unwrap_err().to_string().contains("--subnet"));
    }
}
