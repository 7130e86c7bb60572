//! Why an object is as it is: what it waits for, what went wrong, and what to do about it.

use serde::{Deserialize, Serialize};

use crate::serde_help::is_zero;
use crate::{NodeId, Timestamp};

/// What kind of trouble it is. Scripts go by these words; they do not change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    // The cluster.
    /// Too few managers answer to decide anything.
    Quorum,
    /// This manager's keys are sealed.
    Locked,
    /// A node's certificate has run out.
    Certificate,

    // Nodes.
    NodeDown,
    NodePaused,
    NodeDrained,
    /// A manager that the leader does not reach.
    ManagerUnreachable,
    /// What nodes send each other does not arrive.
    NetworkPath,

    // A task that has no node.
    /// No node takes tasks at all.
    NoNode,
    /// Reservations do not fit.
    NoRoom,
    Constraint,
    Platform,
    Plugin,
    /// An encrypted network, and no node that encrypts.
    Encryption,
    HostPort,
    MaxReplicas,
    /// The volumes of its slot are on a node that does not take it.
    VolumeElsewhere,
    /// Several of these, on different nodes.
    NoSuitableNode,
    /// A network has no address left.
    Addresses,
    /// A network, or something else it needs, is not there.
    Allocation,
    /// A service of its stack that it depends on is not far enough.
    Dependency,

    // A task that cannot start.
    ImageMissing,
    ImageDenied,
    Registry,
    /// The image is not for this node's platform.
    ImagePlatform,
    Mount,
    /// A volume with data of its slot is gone from its node.
    VolumeMissing,
    Command,
    User,
    PortTaken,
    Payload,
    /// A store outside of the cluster does not give what a secret of it holds.
    SecretStore,
    DiskFull,
    Start,

    // A task that ended.
    Exit,
    Killed,
    OutOfMemory,
    Unhealthy,
    /// It has ended so often that it is tried no more.
    GaveUp,

    // Something that takes its time.
    /// A replacement waits for its delay.
    RestartDelay,
    /// A replacement waits for its predecessor to stop.
    Predecessor,
    Pulling,
    Starting,
    /// Its health check has not passed yet.
    Health,
    /// Balancers and names of some nodes still lead to a task that is to stop.
    Draining,
    Stopping,
    Updating,
    UpdatePaused,
    RolledBack,
    RollbackPaused,

    // A job with a schedule.
    /// Its last run did not complete.
    RunFailed,
    /// Runs were due while another one was not finished, or nobody could start them.
    RunsUnstarted,

    // A secret.
    /// It expires soon.
    SecretExpiring,
    SecretExpired,

    #[default]
    Other,
}

impl Trouble {
    /// Whether it passes by itself, as far as can be seen.
    pub const fn is_passing(self) -> bool {
        matches!(
            self,
            Self::Pulling
                | Self::Starting
                | Self::Draining
                | Self::Stopping
                | Self::Updating
                | Self::Predecessor
                | Self::Dependency
        )
    }
}

/// Why a node does not take a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Refusal {
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// Its host name.
    pub node: String,
    pub reasons: Vec<String>,
}

/// One thing that is amiss or waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Cause {
    /// Who has the trouble: a task's, service's or node's name.
    pub subject: String,
    pub trouble: Trouble,
    pub message: String,
    /// What can be done; empty where nothing has to be.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advice: String,
    /// Since when it is so; zero when that is not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub since: Timestamp,
    /// When it is tried again; zero when no time is set.
    #[serde(skip_serializing_if = "is_zero")]
    pub next: Timestamp,
    /// Why each node does not take a task that has none. Of thousands of tasks that no node takes, on
    /// many nodes, only the first are told so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// Something that happened to a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Transition {
    pub at: Timestamp,
    /// The task's name.
    pub subject: String,
    /// Host name of its node; empty before it had one.
    pub node: String,
    pub what: String,
}

/// `GET /skep/v1/why`. Not part of Docker's API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Why {
    /// What was asked about: `service web`, `node n1`, `cluster`.
    pub object: String,
    /// How it stands, in a few words.
    pub summary: String,
    /// What is amiss, what needs somebody first; empty when all is as wanted.
    pub causes: Vec<Cause>,
    /// What happened last, the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transitions: Vec<Transition>,
}
