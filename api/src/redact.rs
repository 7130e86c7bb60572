//! What never leaves through the API: payloads of secrets, registry credentials, keys.

use skep_model::{Cluster, ClusterSpec, Secret, Service, ServiceSpec, Stack, StackSpec, Task};

/// A service as clients may see it.
pub fn service(service: &Service) -> Service {
    let mut public = service.clone();
    clean(&mut public.spec);
    if let Some(previous) = &mut public.previous_spec {
        clean(previous);
    }
    public
}

/// A task as clients may see it.
pub fn task(task: &Task) -> Task {
    let mut public = task.clone();
    public.spec.pull_credentials.clear();
    public
}

/// A secret without its payload.
pub fn secret(secret: &Secret) -> Secret {
    let mut public = secret.clone();
    public.spec.data.clear();
    public
}

/// A stack without payloads of secrets and without credentials.
pub fn stack(stack: &Stack) -> Stack {
    let mut public = stack.clone();
    let StackSpec {
        secrets, services, ..
    } = &mut public.spec;
    for secret in secrets {
        secret.data.clear();
    }
    services.iter_mut().for_each(clean);
    public
}

/// The cluster's settings without the key that signs certificates.
pub fn cluster_spec(cluster: &Cluster) -> ClusterSpec {
    let mut public = cluster.spec.clone();
    public.ca_config.signing_ca_key.clear();
    public
}

fn clean(spec: &mut ServiceSpec) {
    spec.task_template.pull_credentials.clear();
}
