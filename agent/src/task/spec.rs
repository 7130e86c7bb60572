//! What a task's container is, in the engine's terms. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use skep_dns::DnsConfig;
use skep_engine::types::{
    ContainerConfig, EndpointSettings, HostConfig, LogConfig, Mount, RestartPolicy,
};
use skep_engine::{CreateExtras, HostsEntry, InjectedFile, InjectedVariable, StartExtras};
use skep_model::Task;
use skep_model::container::{ContainerSpec, FileTarget};
use skep_model::payload::Payload as _;
use skep_model::resources::GenericResource;
use skep_model::stack::STACK_LABEL;
use skep_model::variable::{VariableError, check_name, check_value};
use zeroize::Zeroizing;

use super::payload::{Owner, Payloads};
use crate::assigned::Assigned;
use skep_model::template::{Context, TemplateError, expand};

/// Label by which a restarted agent finds its containers.
pub const TASK_ID_LABEL: &str = "com.docker.swarm.task.id";
/// Mode of a secret or config when its reference says none.
const FILE_MODE_DEFAULT: u32 = 0o444;

/// Why a task cannot become a container. Ends the task as rejected.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the task has no container spec")]
    NoContainer,
    #[error("secret `{name}` was not assigned to this node")]
    NoSecret { name: String },
    #[error("config `{name}` was not assigned to this node")]
    NoConfig { name: String },
    #[error("invalid user or group id `{given}` for `{file}`: want a number")]
    Owner { file: String, given: String },
    #[error("the template of `{object}` cannot be expanded: {why}")]
    Payload { object: String, why: String },
    #[error("{kind} `{object}` cannot be variable {name}: {source}")]
    Variable {
        kind: &'static str,
        object: String,
        name: String,
        source: Box<VariableError>,
    },
}

/// What templates of this task may speak of.
pub fn template_context(task: &Task, assigned: &Assigned) -> Context {
    let local = assigned.local.as_deref();
    task.template_context(
        local.map_or("", |local| &local.hostname),
        std::env::consts::ARCH,
        std::env::consts::OS,
    )
}

/// The create body of a task's container.
pub fn container_config(task: &Task, context: &Context) -> Result<ContainerConfig, SpecError> {
    let spec = task.spec.container().ok_or(SpecError::NoContainer)?;
    let mut env = Vec::with_capacity(spec.env.len());
    for variable in &spec.env {
        env.push(expand(variable, context)?);
    }
    env.extend(granted(&task.generic_resources));
    let some = |words: &Vec<String>| (!words.is_empty()).then(|| words.clone().into());
    Ok(ContainerConfig {
        hostname: expand(&spec.hostname, context)?,
        user: spec.user.clone(),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        env,
        entrypoint: some(&spec.command),
        cmd: some(&spec.args),
        healthcheck: spec.healthcheck.clone(),
        image: spec.image.clone(),
        working_dir: spec.dir.clone(),
        labels: labels(task, spec),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: spec
            .stop_grace_period
            .map(|grace| grace.duration().as_secs_f64().ceil() as i64),
        host_config: Some(host_config(task, spec, context)?),
        ..Default::default()
    })
}

/// A variable for each kind of resource that the task was granted: names with commas between, or a
/// count.
fn granted(resources: &[GenericResource]) -> impl Iterator<Item = String> {
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for resource in resources {
        let value = match resource {
            GenericResource::Named { value, .. } => value.clone(),
            GenericResource::Discrete { value, .. } => value.to_string(),
        };
        let kind = resource.kind().to_uppercase();
        kinds.entry(kind).or_default().push(value);
    }
    let kinds = kinds.into_iter();
    kinds.map(|(kind, values)| format!("DOCKER_RESOURCE_{kind}={}", values.join(",")))
}

fn labels(task: &Task, spec: &ContainerSpec) -> BTreeMap<String, String> {
    let mut labels = spec.labels.clone();
    let own = [
        ("com.docker.swarm.task", String::new()),
        (TASK_ID_LABEL, task.id.to_string()),
        ("com.docker.swarm.task.name", task.container_name()),
        ("com.docker.swarm.node.id", task.node_id.to_string()),
        ("com.docker.swarm.service.id", task.service_id.to_string()),
        ("com.docker.swarm.service.name", task.service_name.clone()),
    ];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value)));
    labels
}

fn host_config(
    task: &Task,
    spec: &ContainerSpec,
    context: &Context,
) -> Result<HostConfig, SpecError> {
    let list = |words: &Vec<String>| (!words.is_empty()).then(|| words.clone());
    let resources = task.spec.resources.clone().unwrap_or_default();
    let limits = resources.limits.unwrap_or_default();
    let reserved = resources.reservations.unwrap_or_default();
    let mut mounts = Vec::with_capacity(spec.mounts.len());
    for mount in &spec.mounts {
        mounts.push(Mount {
            source: expand(&mount.source, context)?,
            target: expand(&mount.target, context)?,
            ..mount.clone()
        });
    }
    Ok(HostConfig {
        network_mode: if uses_host_network(task) {
            "host".into()
        } else {
            "none".into()
        },
        mounts,
        cap_add: list(&spec.capability_add),
        cap_drop: list(&spec.capability_drop),
        group_add: list(&spec.groups),
        init: spec.init,
        readonly_rootfs: spec.read_only,
        sysctls: spec.sysctls.clone(),
        ulimits: spec.ulimits.clone().into(),
        oom_score_adj: spec.oom_score_adj,
        security_opt: security_options(spec),
        nano_cpus: limits.nano_cpus.0,
        memory: limits.memory_bytes.0,
        pids_limit: (limits.pids > 0).then_some(limits.pids),
        memory_reservation: reserved.memory_bytes.0,
        log_config: task
            .spec
            .log_driver
            .as_ref()
            .map_or_else(LogConfig::default, |driver| LogConfig {
                kind: driver.name.clone(),
                config: driver.options.clone(),
            }),
        restart_policy: RestartPolicy {
            name: "no".into(),
            maximum_retry_count: 0,
        },
        ..Default::default()
    })
}

fn security_options(spec: &ContainerSpec) -> Option<Vec<String>> {
    let privileges = spec.privileges.as_ref()?;
    let mut options = Vec::new();
    if privileges.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    match privileges
        .seccomp
        .as_ref()
        .map(|seccomp| seccomp.mode.as_str())
    {
        Some("unconfined") => options.push("seccomp=unconfined".to_owned()),
        Some("custom") => {
            let profile = privileges
                .seccomp
                .as_ref()
                .map(|s| s.profile.as_slice())
                .unwrap_or_default();
            options.push(format!("seccomp={}", String::from_utf8_lossy(profile)));
        }
        Some(_) | None => (),
    }
    (!options.is_empty()).then_some(options)
}

/// Whether the task runs in the node's own network namespace.
pub fn uses_host_network(task: &Task) -> bool {
    task.spec
        .networks
        .iter()
        .any(|network| network.target == "host")
}

/// The engine's extras: the prepared namespace, names, and hosts.
pub fn extras(
    task: &Task,
    netns: Option<PathBuf>,
    zones: Vec<PathBuf>,
    host_resolv_conf: &str,
    networks: BTreeMap<String, EndpointSettings>,
) -> CreateExtras {
    let spec = task.spec.container();
    let mut dns = DnsConfig::from_resolv_conf(host_resolv_conf);
    dns.zones = zones;
    dns.group = task.labels.get(STACK_LABEL).cloned().unwrap_or_default();
    if let Some(wanted) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        if !wanted.nameservers.is_empty() {
            dns.upstreams = wanted
                .nameservers
                .iter()
                .filter_map(|server| server.parse::<IpAddr>().ok())
                .map(|address| (address, 53).into())
                .collect();
        }
        if !wanted.search.is_empty() {
            dns.search.clone_from(&wanted.search);
        }
        if !wanted.options.is_empty() {
            dns.options.clone_from(&wanted.options);
        }
    }
    let hosts = spec
        .into_iter()
        .flat_map(|spec| &spec.hosts)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?.parse().ok()?;
            Some(HostsEntry {
                address,
                names: words.map(ToOwned::to_owned).collect(),
            })
        });
    CreateExtras {
        hosts: hosts.collect(),
        dns: netns.is_some().then_some(dns),
        netns,
        networks,
        resolv_conf: None,
    }
}

/// A secret or config as a task is to see it.
pub struct TaskPayload {
    /// The id of either.
    pub object: String,
    /// Whether what it holds may depend on others.
    pub is_template: bool,
    pub put: Put,
}

/// Where a task has a payload.
pub enum Put {
    File(InjectedFile),
    Variable(InjectedVariable),
}

/// The secrets and configs of a task, from memory to memory.
pub fn start_extras(task: &Task, assigned: &Assigned) -> Result<StartExtras, SpecError> {
    let mut extras = StartExtras::default();
    for payload in task_payloads(task, assigned)? {
        match payload.put {
            Put::File(file) => extras.files.push(file),
            Put::Variable(variable) => extras.variables.push(variable),
        }
    }
    Ok(extras)
}

/// The same one by one, and what they are.
pub fn task_payloads(task: &Task, assigned: &Assigned) -> Result<Vec<TaskPayload>, SpecError> {
    let Some(spec) = task.spec.container() else {
        return Ok(Vec::new());
    };
    let context = template_context(task, assigned);
    let payloads = Payloads {
        spec,
        assigned,
        context: &context,
        in_place: &task.in_place,
    };
    let mut found = Vec::new();
    for reference in &spec.secrets {
        let Some(target) = &reference.file else {
            continue;
        };
        let (id, name) = (&reference.secret_id, &reference.secret_name);
        let missing = || SpecError::NoSecret { name: name.clone() };
        let number = payloads.number(id.as_str(), &reference.version);
        let secret = assigned.secrets.get(id).ok_or_else(missing)?;
        let data = secret.of_version(number).ok_or_else(missing)?;
        let templating = secret.spec.templating.as_ref();
        let data = payloads.of(Owner::Secret, name, data, templating)?;
        found.push(TaskPayload {
            object: id.to_string(),
            is_template: templating.is_some(),
            put: put(Owner::Secret, target, name, data)?,
        });
    }
    for reference in &spec.configs {
        let Some(target) = &reference.file else {
            continue;
        };
        let (id, name) = (&reference.config_id, &reference.config_name);
        let missing = || SpecError::NoConfig { name: name.clone() };
        let number = payloads.number(id.as_str(), &reference.version);
        let config = assigned.configs.get(id).ok_or_else(missing)?;
        let data = config.of_version(number).ok_or_else(missing)?;
        let templating = config.spec.templating.as_ref();
        let data = payloads.of(Owner::Config, name, data, templating)?;
        found.push(TaskPayload {
            object: id.to_string(),
            is_template: templating.is_some(),
            put: put(Owner::Config, target, name, data)?,
        });
    }
    Ok(found)
}

fn put(owner: Owner, target: &FileTarget, object: &str, data: Vec<u8>) -> Result<Put, SpecError> {
    let (kind, base) = match owner {
        Owner::Secret => ("secret", "/run/secrets"),
        Owner::Config => ("config", "/"),
    };
    let Some(name) = target.variable() else {
        return file(target, base, object, data).map(Put::File);
    };
    let value = Zeroizing::new(data);
    let checked = check_name(name).and_then(|()| check_value(name, &value));
    checked.map_err(|source| SpecError::Variable {
        kind,
        object: object.to_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    })?;
    Ok(Put::Variable(InjectedVariable {
        name: name.to_owned(),
        value,
    }))
}

fn file(
    target: &FileTarget,
    base: &str,
    object: &str,
    data: Vec<u8>,
) -> Result<InjectedFile, SpecError> {
    let name = if target.name.is_empty() {
        object
    } else {
        &target.name
    };
    let owner = |given: &str| -> Result<u32, SpecError> {
        match given {
            "" => Ok(0),
            given => given.parse().map_err(|_| SpecError::Owner {
                file: name.to_owned(),
                given: given.to_owned(),
            }),
        }
    };
    Ok(InjectedFile {
        // `join` keeps an absolute name as it is.
        target: PathBuf::from(base).join(name),
        uid: owner(&target.uid)?,
        gid: owner(&target.gid)?,
        mode: if target.mode == 0 {
            FILE_MODE_DEFAULT
        } else {
            target.mode & 0o7777
        },
        data: Zeroizing::new(data),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skep_model::container::SecretReference;
    use skep_model::{Secret, SecretSpec, TaskSpec};

    use super::*;

    fn task(spec: ContainerSpec) -> Task {
        Task {
            id: "t1".into(),
            service_name: "web".into(),
            slot: 2,
            spec: TaskSpec {
                container_spec: Some(spec),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn env_and_hostname_are_expanded_and_labels_say_whose_it_is() {
        let task = task(ContainerSpec {
            image: "x".into(),
            hostname: "{{.Service.Name}}-{{.Task.Slot}}".into(),
            env: vec!["SLOT={{.Task.Slot}}".into()],
            ..Default::default()
        });
        let context = template_context(&task, &Assigned::default());
        let config = container_config(&task, &context).unwrap();
        assert_eq!(config.hostname, "web-2");
        assert_eq!(config.env, ["SLOT=2"]);
        assert_eq!(config.labels[TASK_ID_LABEL], "t1");
        assert_eq!(config.labels["com.docker.swarm.task.name"], "web.2.t1");
    }

    #[test]
    fn a_secret_lands_under_run_secrets_unless_its_target_is_absolute() {
        let reference = |name: &str| SecretReference {
            file: Some(FileTarget {
                name: name.into(),
                uid: "7".into(),
                ..Default::default()
            }),
            secret_id: "s".into(),
            secret_name: "key".into(),
            ..Default::default()
        };
        let task = task(ContainerSpec {
            secrets: vec![reference("key"), reference("/etc/key"), reference("")],
            ..Default::default()
        });
        assert!(matches!(
            start_extras(&task, &Assigned::default()),
            Err(SpecError::NoSecret { .. })
        ));
        let secret = Secret {
            id: "s".into(),
            spec: SecretSpec {
                data: b"x".to_vec(),
                ..Default::default()
            },
            ..Default::default()
        };
        let mut assigned = Assigned::default();
        assigned.secrets.insert("s".into(), Arc::new(secret));
        let files = start_extras(&task, &assigned).unwrap().files;
        let targets: Vec<_> = files
            .iter()
            .map(|file| file.target.to_str().unwrap())
            .collect();
        assert_eq!(
            targets,
            ["/run/secrets/key", "/etc/key", "/run/secrets/key"]
        );
        assert_eq!((files[0].uid, files[0].mode), (7, 0o444));
    }

    #[test]
    fn a_secret_whose_target_is_a_variable_is_no_file() {
        let task = task(
            serde_json::from_str(
                r#"{"Image":"x","Secrets":[{"SecretID":"s","SecretName":"key",
                    "File":{"Name":"env:KEY"}},{"SecretID":"s","SecretName":"key",
                    "File":{"Name":"/env:KEY"}}]}"#,
            )
            .unwrap(),
        );
        let given = |data: &[u8]| {
            let mut secret = Secret {
                id: "s".into(),
                ..Default::default()
            };
            secret.spec.data = data.to_vec();
            let mut assigned = Assigned::default();
            assigned.secrets.insert("s".into(), Arc::new(secret));
            start_extras(&task, &assigned)
        };
        let extras = given(b"hunter2").unwrap();
        assert_eq!(extras.files.len(), 1);
        assert_eq!(extras.variables[0].name, "KEY");
        assert_eq!(**extras.variables[0].value, *b"hunter2");
        assert!(!format!("{extras:?}").contains("hunter2"));
        let error = given(b"hun\0ter").unwrap_err().to_string();
        assert!(
            error.contains("secret `key` cannot be variable KEY: its value has a zero byte"),
            "{error}"
        );
    }

    #[test]
    fn granted_resources_of_a_kind_are_one_variable() {
        let resources: Vec<GenericResource> = serde_json::from_str(
            r#"[{"NamedResourceSpec":{"Kind":"gpu","Value":"a"}},
                {"DiscreteResourceSpec":{"Kind":"SSD","Value":2}},
                {"NamedResourceSpec":{"Kind":"gpu","Value":"b"}}]"#,
        )
        .unwrap();
        assert_eq!(
            granted(&resources).collect::<Vec<_>>(),
            ["DOCKER_RESOURCE_GPU=a,b", "DOCKER_RESOURCE_SSD=2"]
        );
    }
}
