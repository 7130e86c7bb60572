//! Which nodes a task may run on, and how to say that there is none.

use skep_model::constraint::normal_architecture;
use skep_model::placement::{Platform, Ranking};
use skep_model::resources::Resources;
use skep_model::{Constraint, PublishMode, ServiceId, Task};

use super::NoNode;
use super::table::{Entry, HostPort, Load, NodeTable};

const PORT_IN_USE: &str = "host-mode port already in use";
const CONSTRAINTS: &str = "scheduling constraints not satisfied";
const MAX_REPLICAS: &str = "max replicas per node limit exceed";

/// Whether a task finds no node because `predecessor`, which it is to replace, is where it could
/// be: on a node that would take it but for the port that both publish, for as many tasks as a
/// node may have, or for the predecessor being there at all.
pub(crate) fn waits_for(table: &NodeTable, task: &Task, predecessor: &Task) -> bool {
    let Some(entry) = table.entry(&predecessor.node_id) else {
        return false;
    };
    let request = Request::of(task, table);
    if request.check_kind(entry).is_err() {
        return false;
    }
    let explanation = &task.status.err;
    let had = Load::host_ports(predecessor);
    let same_port = || {
        let mut wanted = request.host_ports.iter();
        wanted.any(|port| had.iter().any(|other| other.clashes(port)))
    };
    let apart = || {
        let mut beside = request.beside.iter();
        beside.any(|(name, is_wanted)| {
            !is_wanted && name.eq_ignore_ascii_case(&predecessor.service_name)
        })
    };
    explanation.contains(PORT_IN_USE) && same_port()
        || explanation.contains(MAX_REPLICAS) && request.max_replicas > 0
        || explanation.contains(CONSTRAINTS) && apart()
}

/// Why a node is refused, in the order of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refusal {
    Unavailable,
    Resources,
    Plugin,
    Constraints,
    Platform,
    Encryption,
    Variables,
    Stores,
    HostPort,
    MaxReplicas,
}

const REFUSALS: [Refusal; 10] = [
    Refusal::Unavailable,
    Refusal::Resources,
    Refusal::Plugin,
    Refusal::Constraints,
    Refusal::Platform,
    Refusal::Encryption,
    Refusal::Variables,
    Refusal::Stores,
    Refusal::HostPort,
    Refusal::MaxReplicas,
];

impl Refusal {
    pub(super) fn explain(self, nodes: usize) -> String {
        let on = match nodes {
            1 => "on 1 node".to_owned(),
            n => format!("on {n} nodes"),
        };
        match self {
            Self::Unavailable if nodes == 1 => "1 node not available for new tasks".to_owned(),
            Self::Unavailable => format!("{nodes} nodes not available for new tasks"),
            Self::Resources => format!("insufficient resources {on}"),
            Self::Plugin => format!("missing plugin {on}"),
            Self::Constraints => format!("{CONSTRAINTS} {on}"),
            Self::Platform => format!("unsupported platform {on}"),
            Self::Encryption => format!("network encryption not possible {on}"),
            Self::Variables => format!("secrets as variables not possible {on}"),
            Self::Stores => format!("secrets of outside stores not possible {on}"),
            Self::HostPort => format!("{PORT_IN_USE} {on}"),
            Self::MaxReplicas => MAX_REPLICAS.to_owned(),
        }
    }
}

/// How many nodes were refused for which reason.
#[derive(Debug, Default)]
pub(super) struct Refusals([usize; 10]);

impl Refusals {
    pub(super) fn add(&mut self, refusal: Refusal) {
        self.0[refusal as usize] += 1;
    }

    /// `no suitable node (…)`, the most frequent reason first.
    pub(super) fn explain(&self) -> NoNode {
        let mut reasons: Vec<(usize, Refusal)> = REFUSALS
            .into_iter()
            .map(|refusal| (self.0[refusal as usize], refusal))
            .filter(|(nodes, _)| *nodes > 0)
            .collect();
        reasons.sort_by_key(|(nodes, refusal)| (usize::MAX - nodes, *refusal));
        let parts: Vec<String> = reasons
            .into_iter()
            .map(|(nodes, refusal)| refusal.explain(nodes))
            .collect();
        let explanation = match parts.as_slice() {
            [] => "no suitable node".to_owned(),
            parts => format!("no suitable node ({})", parts.join("; ")),
        };
        NoNode { explanation }
    }
}

/// What the tasks of one group ask of a node, parsed once.
#[derive(Debug)]
pub(super) struct Request {
    pub service: ServiceId,
    pub spec_version: u64,
    /// Spread preferences, outermost first.
    pub spread: Vec<String>,
    pub reservations: Resources,
    /// None when a constraint cannot be read: then no node will do.
    pub constraints: Option<Vec<Constraint>>,
    pub platforms: Vec<Platform>,
    pub host_ports: Vec<HostPort>,
    pub max_replicas: u64,
    pub plugins: Vec<(&'static str, String)>,
    /// Its frames must be encrypted between nodes.
    pub encrypted: bool,
    /// Secrets or configs of it are variables, which older agents would make files of.
    pub has_variables: bool,
    /// Secrets of it are in other stores, which older agents do not ask for.
    pub needs_stores: bool,
    pub ranking: Ranking,
    /// Services, by name, that the task is to be beside of (`true`) or apart from.
    pub beside: Vec<(String, bool)>,
}

impl Request {
    pub(super) fn of(task: &Task, table: &NodeTable) -> Self {
        let placement = task.spec.placement.clone().unwrap_or_default();
        let constraints: Option<Vec<Constraint>> = placement
            .constraints
            .iter()
            .map(|text| text.parse().ok())
            .collect();
        let of_services = constraints.iter().flatten();
        let of_services = of_services.filter_map(Constraint::of_service);
        let beside = of_services
            .map(|(name, is_wanted)| (name.to_owned(), is_wanted))
            .collect();
        Self {
            service: task.service_id.clone(),
            spec_version: task.spec_version.index,
            spread: placement
                .preferences
                .iter()
                .map(|preference| preference.spread.spread_descriptor.clone())
                .collect(),
            reservations: task
                .spec
                .resources
                .as_ref()
                .and_then(|resources| resources.reservations.clone())
                .unwrap_or_default(),
            constraints,
            platforms: placement.platforms,
            host_ports: Load::host_ports(task),
            max_replicas: placement.max_replicas,
            plugins: plugins(task),
            encrypted: table.encrypts(task),
            has_variables: task
                .spec
                .container()
                .is_some_and(|container| container.variables().next().is_some()),
            needs_stores: table.needs_stores(task),
            // Checked when the service was made.
            ranking: Ranking::of(&task.labels).unwrap_or_default(),
            beside,
        }
    }

    /// Whether the node will do now.
    pub(super) fn check(&self, entry: &Entry) -> Result<(), Refusal> {
        let kind = self.check_kind(entry);
        // Refusals are told in their order, and room comes second.
        if kind != Err(Refusal::Unavailable) {
            self.check_room(entry)?;
        }
        kind?;
        self.check_shared(entry)
    }

    /// Whether the node would do if nothing else ran there.
    fn check_kind(&self, entry: &Entry) -> Result<(), Refusal> {
        if !entry.node.takes_tasks() {
            return Err(Refusal::Unavailable);
        }
        if !self
            .plugins
            .iter()
            .all(|(kind, name)| has_plugin(entry, kind, name))
        {
            return Err(Refusal::Plugin);
        }
        let meets = self.constraints.as_ref().is_some_and(|constraints| {
            constraints
                .iter()
                .all(|constraint| constraint.matches(&entry.node))
        });
        if !meets {
            return Err(Refusal::Constraints);
        }
        if !self.runs_on(&entry.node.description.platform) {
            return Err(Refusal::Platform);
        }
        if self.encrypted && !entry.node.description.encryption.is_able() {
            return Err(Refusal::Encryption);
        }
        if self.has_variables && !entry.node.description.knows_variables {
            return Err(Refusal::Variables);
        }
        if self.needs_stores && !entry.node.description.asks_stores {
            return Err(Refusal::Stores);
        }
        Ok(())
    }

    /// Whether the image runs on such a node.
    pub(super) fn runs_on(&self, platform: &Platform) -> bool {
        self.platforms.is_empty() || self.platforms.iter().any(|wanted| suits(wanted, platform))
    }

    /// The part of [`Request::check`] that placing a task can change.
    pub(super) fn check_again(&self, entry: &Entry) -> bool {
        self.check_room(entry).is_ok() && self.check_shared(entry).is_ok()
    }

    fn check_room(&self, entry: &Entry) -> Result<(), Refusal> {
        let wanted = &self.reservations;
        let fits = (wanted.nano_cpus.0 == 0 || wanted.nano_cpus.0 <= entry.free_cpus())
            && (wanted.memory_bytes.0 == 0 || wanted.memory_bytes.0 <= entry.free_memory())
            && entry.generic.grant(&wanted.generic_resources).is_some();
        if fits {
            Ok(())
        } else {
            Err(Refusal::Resources)
        }
    }

    fn check_shared(&self, entry: &Entry) -> Result<(), Refusal> {
        let mut beside = self.beside.iter();
        if !beside.all(|(name, is_wanted)| entry.runs(name) == *is_wanted) {
            return Err(Refusal::Constraints);
        }
        if self.host_ports.iter().any(|port| entry.has_port(port)) {
            return Err(Refusal::HostPort);
        }
        let here = u64::from(entry.active_of(&self.service));
        if self.max_replicas > 0 && here >= self.max_replicas {
            return Err(Refusal::MaxReplicas);
        }
        Ok(())
    }
}

fn suits(wanted: &Platform, has: &Platform) -> bool {
    let same = |a: &str, b: &str| a.is_empty() || a.eq_ignore_ascii_case(b);
    same(&wanted.os, &has.os)
        && same(
            normal_architecture(&wanted.architecture),
            normal_architecture(&has.architecture),
        )
}

/// Plugins a task needs besides the built-in ones.
fn plugins(task: &Task) -> Vec<(&'static str, String)> {
    let mut needed = Vec::new();
    if let Some(driver) = &task.spec.log_driver
        && !matches!(driver.name.as_str(), "" | "none")
    {
        needed.push(("Log", driver.name.clone()));
    }
    let mounts = task.spec.container().map(|container| &container.mounts);
    for mount in mounts.into_iter().flatten() {
        let driver = mount
            .volume_options
            .as_ref()
            .and_then(|options| options.driver_config.as_ref());
        if let Some(driver) = driver
            && !matches!(driver.name.as_str(), "" | "local")
        {
            needed.push(("Volume", driver.name.clone()));
        }
    }
    needed
}

/// A node that lists no plugin of a kind has not told about that kind.
pub(super) fn has_plugin(entry: &Entry, kind: &str, name: &str) -> bool {
    let mut of_kind = entry
        .node
        .description
        .engine
        .plugins
        .iter()
        .filter(|plugin| plugin.kind == kind)
        .peekable();
    of_kind.peek().is_none() || of_kind.any(|plugin| plugin.name == name)
}

impl Load {
    /// The ports that a task takes on its node for itself.
    pub(super) fn host_ports(task: &Task) -> Vec<HostPort> {
        let ports = task.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
        ports
            .filter(|port| port.publish_mode == PublishMode::Host && port.published_port != 0)
            .map(|port| HostPort {
                number: port.published_port,
                protocol: port.protocol,
                host: port.host().unwrap_or_default(),
            })
            .collect()
    }
}
