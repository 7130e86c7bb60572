//! What texts of agents, allocator and scheduler mean, and what can be done about it.

use skep_model::why::{Refusal, Trouble};
use skep_model::{Task, TaskState, TaskStatus};
use skep_plan::schedule::{AND_THERE, AT_HOME, STILL_STOPS};

/// How the scheduler's explanations begin.
pub(super) const NO_NODE: &str = "no suitable node";

/// Parts of the scheduler's reasons.
const REASONS: [(&str, Trouble); 9] = [
    ("not available for new tasks", Trouble::NoNode),
    ("insufficient resources", Trouble::NoRoom),
    ("missing plugin", Trouble::Plugin),
    ("scheduling constraints", Trouble::Constraint),
    ("unsupported platform", Trouble::Platform),
    ("network encryption", Trouble::Encryption),
    ("secrets of outside stores", Trouble::SecretStore),
    ("host-mode port", Trouble::HostPort),
    ("max replicas per node", Trouble::MaxReplicas),
];

/// Parts of what agents say, in small letters, those that decide first.
const ERRORS: [(&str, Trouble); 38] = [
    ("is missing on this node", Trouble::VolumeMissing),
    ("unhealthy container", Trouble::Unhealthy),
    ("out of memory", Trouble::OutOfMemory),
    ("no space left on device", Trouble::DiskFull),
    ("disk quota exceeded", Trouble::DiskFull),
    ("port is already allocated", Trouble::PortTaken),
    ("address already in use", Trouble::PortTaken),
    ("pull access denied", Trouble::ImageDenied),
    ("unauthorized", Trouble::ImageDenied),
    ("authentication required", Trouble::ImageDenied),
    ("no basic auth credentials", Trouble::ImageDenied),
    ("access to the resource is denied", Trouble::ImageDenied),
    ("no matching manifest", Trouble::ImagePlatform),
    ("does not match the", Trouble::ImagePlatform),
    ("exec format error", Trouble::ImagePlatform),
    ("connection refused", Trouble::Registry),
    ("failed to lookup address", Trouble::Registry),
    ("no such host", Trouble::Registry),
    ("network is unreachable", Trouble::Registry),
    ("timed out", Trouble::Registry),
    ("toomanyrequests", Trouble::Registry),
    ("no such image", Trouble::ImageMissing),
    ("manifest unknown", Trouble::ImageMissing),
    ("bind source path", Trouble::Mount),
    ("invalid mount config", Trouble::Mount),
    ("error while mounting volume", Trouble::Mount),
    ("volume", Trouble::Mount),
    ("executable file not found", Trouble::Command),
    ("no command specified", Trouble::Command),
    ("is a directory", Trouble::Command),
    ("permission denied", Trouble::Command),
    ("unable to find user", Trouble::User),
    ("unable to find group", Trouble::User),
    ("template", Trouble::Payload),
    ("secret", Trouble::Payload),
    ("config", Trouble::Payload),
    ("network", Trouble::Start),
    ("no such file or directory", Trouble::Command),
];

/// What a task without a node lacks, by the scheduler's explanation.
pub(super) fn of_refused(explanation: &str) -> Trouble {
    let is_bound = explanation.contains(AT_HOME);
    if is_bound && explanation.contains(STILL_STOPS) {
        return Trouble::Predecessor;
    }
    // What its node lacks can be given to it: the data are not to be let go for that.
    let explanation = match explanation.split_once(AND_THERE) {
        Some((_, there)) => there,
        None if is_bound => return Trouble::VolumeElsewhere,
        None => explanation,
    };
    let mut named = REASONS
        .iter()
        .filter(|(part, _)| explanation.contains(part));
    match (named.next(), named.next()) {
        (Some((_, trouble)), None) => *trouble,
        (None, _) => Trouble::NoNode,
        (Some(_), Some(_)) => Trouble::NoSuitableNode,
    }
}

/// The same, by what each node has against it.
pub(super) fn of_refusals(refusals: &[Refusal]) -> Trouble {
    let constraint = |reason: &String| reason.starts_with("does not meet ");
    let unavailable = |reason: &String| reason.starts_with("is ");
    let all = |what: &dyn Fn(&String) -> bool| {
        let mut each = refusals.iter();
        each.all(|refusal| refusal.reasons.iter().any(what))
    };
    match (refusals.is_empty(), all(&unavailable), all(&constraint)) {
        (true, _, _) | (_, true, _) => Trouble::NoNode,
        (_, _, true) => Trouble::Constraint,
        _ => Trouble::NoSuitableNode,
    }
}

/// What the allocator's reason means.
pub(super) fn of_allocation(reason: &str) -> Trouble {
    match reason {
        reason if reason.contains("no available") => Trouble::Addresses,
        reason if reason.contains("already in use by service") => Trouble::PortTaken,
        reason if reason.contains("is free for") => Trouble::PortTaken,
        _ => Trouble::Allocation,
    }
}

/// Why a task ended.
pub(super) fn of_end(task: &Task) -> Trouble {
    let status = &task.status;
    if status.state == TaskState::Complete {
        return Trouble::Exit;
    }
    let text = status.err.to_lowercase();
    let exit = text.strip_prefix("task: non-zero exit (");
    let code = exit.and_then(|rest| rest.split_once(')'));
    let known = ERRORS.iter().find(|(part, _)| text.contains(part));
    match code {
        // What the program itself says of its end may have any words in it.
        Some((_, "")) => of_exit_code(code.map_or("", |(code, _)| code)),
        Some((code, rest)) => match known.filter(|(part, _)| rest.contains(part)) {
            Some((_, trouble)) => *trouble,
            None => of_exit_code(code),
        },
        None => known.map_or(Trouble::Start, |(_, trouble)| *trouble),
    }
}

/// 128 and a signal's number, or what the program said.
fn of_exit_code(code: &str) -> Trouble {
    match code.parse::<u32>() {
        Ok(129..=192) => Trouble::Killed,
        Ok(126 | 127) => Trouble::Command,
        _ => Trouble::Exit,
    }
}

/// How a task ended, in its agent's words.
pub fn ended(task: &Task) -> &str {
    let status = &task.status;
    match (status.err.as_str(), status.state) {
        ("", TaskState::Complete) => "ended with success",
        ("", _) => status.message.as_str(),
        (err, _) => err,
    }
}

/// A state with what was said about it.
pub(super) fn state(status: &TaskStatus) -> String {
    let state = status.state.to_string();
    match status.err.as_str() {
        "" => state,
        err => format!("{state}: {err}"),
    }
}

/// What can be done; `SERVICE` stands for the service's name.
pub(super) const fn advice(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::NoNode => "make a node active, or bring one back: node ls",
        Trouble::NoRoom => {
            "lower --reserve-cpu, --reserve-memory or --generic-resource, scale something down, or \
             add a node"
        }
        Trouble::Constraint => {
            "change the constraint (--constraint-rm), or give a node the label: node update \
             --label-add"
        }
        Trouble::Platform | Trouble::ImagePlatform => {
            "use an image for the nodes' platform, or add a node of the image's"
        }
        Trouble::Plugin => "use a driver that the nodes have",
        Trouble::Encryption => "`node inspect` says why nodes cannot encrypt",
        Trouble::HostPort => "publish another port, fewer replicas than nodes, or in mode ingress",
        Trouble::MaxReplicas => "raise --replicas-max-per-node, or add a node",
        Trouble::VolumeElsewhere => {
            "bring the node back or make it active (node ls), or let go of what the slot has there: \
             volume release SERVICE SLOT"
        }
        Trouble::VolumeMissing => {
            "bring the volume back, or have the slot begin with an empty one: volume release --to \
             NODE SERVICE SLOT"
        }
        Trouble::NoSuitableNode => "each node says below what is in the way",
        Trouble::Addresses => {
            "remove what is not needed from the network, or use one with a larger subnet"
        }
        Trouble::Allocation => "`network ls` and `network inspect` show what it waits for",
        Trouble::Dependency => "`why SERVICE` of the other service says what it lacks",
        Trouble::ImageMissing => {
            "check the image's name and tag, push it to a registry that all nodes reach, or load \
             it on the nodes"
        }
        Trouble::ImageDenied => {
            "log in and give the credentials to the service: service update \
             --with-registry-auth SERVICE; or to the whole cluster: registry login HOST"
        }
        Trouble::Registry => "check that the node reaches the registry",
        Trouble::Mount => "check the mount's source and options: service inspect SERVICE",
        Trouble::Command => "check the command and entrypoint: service inspect SERVICE",
        Trouble::User => "use a user that the image knows, or a number",
        Trouble::PortTaken => "publish another port, or stop what uses it on the node",
        Trouble::Payload => "check what its secrets and configs hold, and their templates",
        Trouble::SecretStore => {
            "it is asked again by itself: see to the store, its token and what the secret asks for \
             (secret inspect; secret update --driver-opt), or upgrade nodes that ask none"
        }
        Trouble::DiskFull => "make room on the node: system df, system prune",
        Trouble::Exit | Trouble::Killed => "service logs SERVICE",
        Trouble::OutOfMemory => "raise --limit-memory, or let it use less",
        Trouble::Unhealthy | Trouble::Health => {
            "look at the health check's output (inspect of the container on its node) and at \
             service logs SERVICE"
        }
        Trouble::SecretExpiring | Trouble::SecretExpired => {
            "replace it with secret rotate SECRET, or give it another time with secret update \
             --expires 90d SECRET"
        }
        Trouble::GaveUp => "mend what ends it, then service update --force SERVICE",
        Trouble::NodeDown
        | Trouble::NodePaused
        | Trouble::NodeDrained
        | Trouble::ManagerUnreachable
        | Trouble::NetworkPath
        | Trouble::Quorum
        | Trouble::Locked
        | Trouble::Certificate
        | Trouble::Start
        | Trouble::RestartDelay
        | Trouble::Predecessor
        | Trouble::Pulling
        | Trouble::Starting
        | Trouble::Draining
        | Trouble::Stopping
        | Trouble::Updating
        | Trouble::UpdatePaused
        | Trouble::RolledBack
        | Trouble::RollbackPaused
        | Trouble::RunFailed
        | Trouble::RunsUnstarted
        | Trouble::Other => "",
    }
}
