//! Where services, tasks and containers are on their networks, and the way into their namespaces.

use std::net::IpAddr;

use serde_json::Value;

use crate::Cluster;
use crate::station::Station;
use crate::tasks::Task;

/// The address of a text like `10.0.1.2/24`.
pub fn address(text: &Value) -> Option<IpAddr> {
    text.as_str()?.split('/').next()?.parse().ok()
}

impl Cluster {
    /// A service's virtual addresses on a network, the IPv4 one first.
    #[track_caller]
    pub fn vips(&self, at: &str, service: &str, network: &str) -> Vec<IpAddr> {
        let id = self.get(at, &format!("/networks/{network}"))["Id"].clone();
        let service = self.get(at, &format!("/services/{service}"));
        let vips = service["Endpoint"]["VirtualIPs"].as_array();
        let on_it = vips
            .into_iter()
            .flatten()
            .filter(|vip| vip["NetworkID"] == id);
        let mut found: Vec<IpAddr> = on_it.filter_map(|vip| address(&vip["Addr"])).collect();
        found.sort();
        found
    }

    /// A task's addresses on a network, the IPv4 one first.
    #[track_caller]
    pub fn task_addresses(&self, at: &str, task: &Task, network: &str) -> Vec<IpAddr> {
        let found = self.get(at, &format!("/tasks/{}", task.id));
        let mut found = attached(&found, network);
        found.sort();
        found
    }

    /// The namespace of a task that runs.
    #[track_caller]
    pub fn inside_task(&self, task: &Task) -> Station {
        let pid = self.container_pid(&task.node, &task.container);
        Station::of(pid.unwrap_or_else(|| panic!("no process of {task:?}")))
    }
}

/// The addresses of a task, as the API shows it, on a network.
pub fn attached(task: &Value, network: &str) -> Vec<IpAddr> {
    let attachments = task["NetworksAttachments"].as_array();
    let on_it = attachments
        .into_iter()
        .flatten()
        .filter(|one| one["Network"]["Spec"]["Name"] == network);
    on_it
        .flat_map(|one| one["Addresses"].as_array().into_iter().flatten())
        .filter_map(address)
        .collect()
}
