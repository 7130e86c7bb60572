//! What never leaves through the API: payloads of secrets, registry credentials, keys, and what the
//! managers keep only for themselves.

use skep_model::payload::Versions;
use skep_model::revision::{PastRevision, Revision, ServiceHistory};
use skep_model::{
    Cluster, ClusterSpec, Config, Node, Secret, Service, ServiceSpec, Stack, StackSpec, Task,
    TaskState, Timestamp, Version,
};

/// A service as clients may see it.
pub fn service(service: &Service) -> Service {
    let mut public = Service {
        spec_version: Version::default(),
        previous_spec_version: None,
        // They are told by a path of their own.
        revision: Revision::default(),
        history: Vec::new(),
        ..service.clone()
    };
    clean(&mut public.spec);
    if let Some(previous) = &mut public.previous_spec {
        clean(previous);
    }
    public
}

/// What a service has run, the newest first.
pub fn history(service: &Service) -> ServiceHistory {
    let present = PastRevision {
        revision: service.revision.clone(),
        spec: Box::new(service.spec.clone()),
        spec_version: Version::default(),
    };
    let past = service.history.iter().cloned();
    let mut revisions: Vec<PastRevision> = std::iter::once(present).chain(past).collect();
    for revision in &mut revisions {
        clean(&mut revision.spec);
        revision.spec_version = Version::default();
    }
    ServiceHistory {
        id: service.id.clone(),
        name: service.spec.name.clone(),
        revisions,
    }
}

/// A task as clients may see it.
pub fn task(task: &Task) -> Task {
    let mut public = Task {
        spec_version: Version::default(),
        start_not_before: Timestamp::default(),
        draining_since: Timestamp::default(),
        drained_at: Timestamp::default(),
        running_since: Timestamp::default(),
        by_update: false,
        restarts: 0,
        volumes_expected: Vec::new(),
        ..task.clone()
    };
    public.spec.pull_credentials.clear();
    public.desired_state = desired_state(task);
    public
}

/// What is wanted of a task, in Swarm's words: a job's is to complete, and stays so when it has.
pub fn desired_state(task: &Task) -> TaskState {
    let completed = task.status.state == TaskState::Complete;
    match (task.job_iteration, task.desired_state) {
        (Some(_), TaskState::Running) => TaskState::Complete,
        (Some(_), TaskState::Shutdown) if completed => TaskState::Complete,
        (_, desired) => desired,
    }
}

/// A node without what the managers noted for themselves.
pub fn node(node: &Node) -> Node {
    Node {
        renewal: None,
        ..node.clone()
    }
}

/// A secret without its payload.
pub fn secret(secret: &Secret) -> Secret {
    let mut public = secret.clone();
    public.spec.data.clear();
    public.reminded = None;
    hide_earlier(&mut public.versions);
    public
}

/// A config with its present payload alone: earlier ones are told by a path of their own.
pub fn config(config: &Config) -> Config {
    let mut public = config.clone();
    hide_earlier(&mut public.versions);
    public
}

fn hide_earlier(versions: &mut Versions) {
    versions.forgotten = 0;
    for earlier in &mut versions.earlier {
        earlier.data.clear();
    }
}

/// A stack without payloads of secrets and without credentials.
pub fn stack(stack: &Stack) -> Stack {
    let mut public = stack.clone();
    let past = public.history.iter_mut().map(|past| &mut past.spec);
    for spec in std::iter::once(&mut public.spec).chain(past) {
        let StackSpec {
            secrets, services, ..
        } = spec;
        for secret in secrets {
            secret.data.clear();
        }
        services.iter_mut().for_each(clean);
    }
    public
}

/// The cluster's settings without the key that signs certificates.
pub fn cluster_spec(cluster: &Cluster) -> ClusterSpec {
    let mut public = cluster.spec.clone();
    public.ca_config.signing_ca_key.clear();
    // A client takes a limit that is not told for none at all.
    public.orchestration.task_history_retention_limit = Some(cluster.task_history_limit());
    public
}

fn clean(spec: &mut ServiceSpec) {
    spec.task_template.pull_credentials.clear();
}
