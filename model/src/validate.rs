//! Checks of whole specs, with the texts Swarm's users know.

use crate::container::{ContainerSpec, HealthConfig};
use crate::expiry::Expiry;
use crate::image_source::ImageSource;
use crate::limits::{
    CONFIG_BYTES_MAX, DRAIN_PERIOD_SECS_MAX, MEMORY_BYTES_MIN, NANO_CPUS_MIN, REPLICAS_MAX,
    SECRET_BYTES_MAX,
};
use crate::mount::MountType;
use crate::name::{check_dns_name, check_secret_name};
use crate::payload::{OnUpdate, Payload};
use crate::placement::Ranking;
use crate::port::PublishMode;
use crate::resources::GenericResource;
use crate::secret_store::check_driver;
use crate::service::{FailureAction, ReplicatedJob, ResolutionMode, UpdateConfig};
use crate::volume_home::VOLUME_PLACEMENT_LABEL;
use crate::{
    Config, ConfigSpec, Constraint, ControlError, MemoryBytes, NanoCpus, NetworkSpec, Secret,
    SecretSpec, ServiceMode, ServiceSpec, template,
};

type Checked = Result<(), ControlError>;

fn refuse<T>(message: impl Into<String>) -> Result<T, ControlError> {
    Err(ControlError::invalid(message))
}

/// Checks everything about a service spec that can be checked without looking at the cluster.
pub fn check_service(spec: &ServiceSpec) -> Checked {
    check_dns_name(&spec.name).map_err(|error| ControlError::invalid(error.to_string()))?;
    let Some(container) = spec.task_template.container() else {
        return refuse("TaskSpec: missing runtime");
    };
    if !matches!(spec.task_template.runtime.as_str(), "" | "container") {
        return refuse(format!(
            "RuntimeSpec: unsupported runtime {}",
            spec.task_template.runtime
        ));
    }
    check_container(container)?;
    if let Some(period) = spec.task_template.drain_period
        && !(0..=DRAIN_PERIOD_SECS_MAX * 1_000_000_000).contains(&period.0)
    {
        return refuse("TaskSpec: drain period must be between 0s and 24h");
    }
    check_resources(spec)?;
    check_restart(spec)?;
    check_placement(spec)?;
    check_mode(spec)?;
    spec.job_retention()
        .map_err(|error| ControlError::invalid(error.to_string()))?;
    crate::disconnect::check(spec).map_err(ControlError::invalid)?;
    ImageSource::read(&spec.labels).map_err(ControlError::invalid)?;
    crate::volume_home::check(spec).map_err(ControlError::invalid)?;
    check_on_update(spec)?;
    spec.schedule()
        .map_err(|error| ControlError::invalid(error.to_string()))?;
    spec.autoscale()
        .map_err(|error| ControlError::invalid(error.to_string()))?;
    check_update("update", spec.update_config.as_ref(), true)?;
    check_update("rollback", spec.rollback_config.as_ref(), false)?;
    check_endpoint(spec)
}

/// What an update of a secret or config is to do to the tasks.
fn check_on_update(spec: &ServiceSpec) -> Checked {
    for label in [Secret::ON_UPDATE_LABEL, Config::ON_UPDATE_LABEL] {
        if let Some(given) = spec.labels.get(label) {
            let read = given.parse::<OnUpdate>();
            read.map_err(|why| ControlError::invalid(format!("label {label}: {why}")))?;
        }
    }
    Ok(())
}

fn check_container(container: &ContainerSpec) -> Checked {
    if container.image.is_empty() {
        return refuse("ContainerSpec: image reference must be provided");
    }
    if crate::image::check(&container.image).is_err() {
        return refuse(format!(
            "ContainerSpec: {:?} is not a valid repository/tag",
            container.image
        ));
    }
    check_templates(container)?;
    for mount in &container.mounts {
        if mount.target.is_empty() {
            return refuse("ContainerSpec: mount target must be provided");
        }
        if mount.kind == MountType::Cluster {
            return refuse(format!(
                "mount {}: type=cluster is not offered: there are no cluster volumes (CSI); use \
                 type=volume, and the label {VOLUME_PLACEMENT_LABEL}=sticky for tasks that return \
                 to it",
                mount.target
            ));
        }
        if mount.kind == MountType::Bind && !mount.source.starts_with('/') {
            return refuse(format!(
                "invalid bind mount source, must be an absolute path: {}",
                mount.source
            ));
        }
        let twice = container
            .mounts
            .iter()
            .filter(|other| other.target == mount.target)
            .count();
        if twice > 1 {
            return refuse(format!(
                "ContainerSpec: duplicate mount point: {}",
                mount.target
            ));
        }
    }
    let targets = |files: Vec<(&str, Option<&str>)>| -> Checked {
        let mut seen = std::collections::BTreeMap::new();
        for (object, target) in files {
            let Some(target) = target else { continue };
            if let Some(other) = seen.insert(target.to_owned(), object.to_owned()) {
                return refuse(format!(
                    "secret references '{other}' and '{object}' have a conflicting target: '{target}'"
                ));
            }
        }
        Ok(())
    };
    targets(
        container
            .secrets
            .iter()
            .map(|s| {
                (
                    s.secret_name.as_str(),
                    s.file.as_ref().map(|f| f.name.as_str()),
                )
            })
            .collect(),
    )?;
    targets(
        container
            .configs
            .iter()
            .map(|c| {
                (
                    c.config_name.as_str(),
                    c.file.as_ref().map(|f| f.name.as_str()),
                )
            })
            .collect(),
    )?;
    let variables = container.check_variables();
    variables.map_err(|error| ControlError::invalid(format!("ContainerSpec: {error}")))?;
    container.healthcheck.as_ref().map_or(Ok(()), check_health)
}

/// Refuses templates that no node could expand.
fn check_templates(container: &ContainerSpec) -> Checked {
    let nobody = template::Context::default();
    let hostname = std::iter::once(("hostname", &container.hostname));
    let env = container.env.iter().map(|variable| ("env", variable));
    let mounts = container
        .mounts
        .iter()
        .flat_map(|mount| [("mount", &mount.source), ("mount", &mount.target)]);
    for (what, text) in hostname.chain(env).chain(mounts) {
        if let Err(error) = template::expand(text, &nobody) {
            return refuse(format!("ContainerSpec: expanding {what} failed: {error}"));
        }
    }
    Ok(())
}

fn check_health(health: &HealthConfig) -> Checked {
    let fields = [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ];
    for (field, value) in fields {
        if value.0 != 0 && value.0 < 1_000_000 {
            return refuse(format!(
                "ContainerSpec: {field} in HealthConfig cannot be less than 1ms"
            ));
        }
    }
    if health.retries < 0 {
        return refuse("ContainerSpec: Retries in HealthConfig cannot be negative");
    }
    Ok(())
}

fn check_resources(spec: &ServiceSpec) -> Checked {
    let Some(resources) = &spec.task_template.resources else {
        return Ok(());
    };
    let check = |cpus: NanoCpus, memory: MemoryBytes| -> Checked {
        if cpus.0 != 0 && cpus.0 < NANO_CPUS_MIN {
            return refuse(format!(
                "invalid cpu value {}: Must be at least {}",
                cpus.0 as f64 / 1e9,
                NANO_CPUS_MIN as f64 / 1e9
            ));
        }
        if memory.0 != 0 && memory.0 < MEMORY_BYTES_MIN {
            return refuse(format!(
                "invalid memory value {}: Must be at least 4MiB",
                memory.0
            ));
        }
        Ok(())
    };
    if let Some(limits) = &resources.limits {
        check(limits.nano_cpus, limits.memory_bytes)?;
        if limits.pids < 0 {
            return refuse("invalid pids limit: must not be negative");
        }
    }
    let Some(wanted) = &resources.reservations else {
        return Ok(());
    };
    check(wanted.nano_cpus, wanted.memory_bytes)?;
    for resource in &wanted.generic_resources {
        let kind = resource.kind();
        if matches!(resource, GenericResource::Discrete { value, .. } if *value < 0) {
            return refuse(format!(
                "invalid argument for resource {kind}: the count must not be negative"
            ));
        }
        let of_kind = wanted.generic_resources.iter();
        let counts = of_kind.filter(|other| {
            other.kind() == kind && matches!(other, GenericResource::Discrete { .. })
        });
        if kind.is_empty() || counts.count() > 1 {
            return refuse(format!(
                "invalid argument for resource {kind}: a kind has a name and one count"
            ));
        }
    }
    Ok(())
}

fn check_restart(spec: &ServiceSpec) -> Checked {
    let Some(restart) = &spec.task_template.restart_policy else {
        return Ok(());
    };
    if restart.delay.is_some_and(|delay| delay.0 < 0) {
        return refuse("TaskSpec: restart-delay cannot be negative");
    }
    if restart.window.is_some_and(|window| window.0 < 0) {
        return refuse("TaskSpec: restart-window cannot be negative");
    }
    Ok(())
}

fn check_placement(spec: &ServiceSpec) -> Checked {
    Ranking::of(&spec.labels).map_err(|error| ControlError::invalid(error.to_string()))?;
    let Some(placement) = &spec.task_template.placement else {
        return Ok(());
    };
    for text in &placement.constraints {
        let constraint = text
            .parse::<Constraint>()
            .map_err(|error| ControlError::invalid(error.to_string()))?;
        let (own, is_wanted) = constraint.of_service().unwrap_or_default();
        if is_wanted && own.eq_ignore_ascii_case(&spec.name) {
            return refuse(format!(
                "constraint {constraint}: the service's first task would wait for itself"
            ));
        }
    }
    if placement.max_replicas > 0 && !matches!(spec.mode, ServiceMode::Replicated(_)) {
        return refuse("MaxReplicas is only supported for replicated services");
    }
    Ok(())
}

fn check_mode(spec: &ServiceSpec) -> Checked {
    let count = match &spec.mode {
        ServiceMode::Replicated(replicated) => replicated.count(),
        ServiceMode::ReplicatedJob(ReplicatedJob {
            total_completions,
            max_concurrent,
        }) => total_completions.or(*max_concurrent).unwrap_or(1),
        ServiceMode::Global(_) | ServiceMode::GlobalJob(_) => 0,
    };
    if count > REPLICAS_MAX {
        return refuse(format!(
            "Number of replicas must be at most {REPLICAS_MAX}, got {count}"
        ));
    }
    if spec.mode.is_job() && (spec.update_config.is_some() || spec.rollback_config.is_some()) {
        return refuse(
            "Job-mode services cannot have update options: update config is not allowed",
        );
    }
    Ok(())
}

fn check_update(what: &str, config: Option<&UpdateConfig>, may_roll_back: bool) -> Checked {
    let Some(config) = config else { return Ok(()) };
    if config.delay.0 < 0 {
        return refuse(format!("TaskSpec: {what}-delay cannot be negative"));
    }
    if config.monitor.0 < 0 {
        return refuse(format!("TaskSpec: {what}-monitor cannot be negative"));
    }
    if !(0.0..=1.0).contains(&config.max_failure_ratio) {
        return refuse(format!(
            "TaskSpec: {what}-maxfailureratio cannot be less than 0 or bigger than 1"
        ));
    }
    if !may_roll_back && config.failure_action == FailureAction::Rollback {
        return refuse("invalid rollback failure action: rollback. Must be pause or continue");
    }
    Ok(())
}

fn check_endpoint(spec: &ServiceSpec) -> Checked {
    let ports = spec.ports();
    let ingress = |port: &&crate::PortConfig| port.publish_mode == PublishMode::Ingress;
    if spec.resolution() == ResolutionMode::Dnsrr && ports.iter().any(|port| ingress(&port)) {
        return refuse(
            "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
        );
    }
    if ports.iter().any(|port| port.target_port == 0) {
        return refuse("EndpointSpec: TargetPort must be set");
    }
    let ports = spec.published().map_err(ControlError::invalid)?;
    for (at, port) in ports.iter().enumerate() {
        let same = |other: &crate::PortConfig| {
            port.clashes(other) && other.publish_mode == port.publish_mode
        };
        if ports[..at].iter().any(same) {
            return refuse("EndpointSpec: duplicate published ports provided");
        }
    }
    Ok(())
}

/// Checks a secret before it is made.
pub fn check_secret(spec: &SecretSpec) -> Checked {
    check_secret_name(&spec.name).map_err(|error| ControlError::invalid(error.to_string()))?;
    spec.expiry.as_ref().map_or(Ok(()), Expiry::check)?;
    if let Some(driver) = &spec.driver {
        check_driver(driver).map_err(|why| ControlError::invalid(format!("Driver: {why}")))?;
        return if spec.data.is_empty() {
            Ok(())
        } else {
            refuse("secret data must be empty when using driver")
        };
    }
    if spec.data.is_empty() || spec.data.len() >= SECRET_BYTES_MAX {
        return refuse(format!(
            "secret data must be larger than 0 and less than {SECRET_BYTES_MAX} bytes"
        ));
    }
    Ok(())
}

/// Checks a config before it is made.
pub fn check_config(spec: &ConfigSpec) -> Checked {
    check_secret_name(&spec.name).map_err(|error| ControlError::invalid(error.to_string()))?;
    if spec.data.is_empty() || spec.data.len() >= CONFIG_BYTES_MAX {
        return refuse(format!(
            "config data must be larger than 0 and less than {CONFIG_BYTES_MAX} bytes"
        ));
    }
    Ok(())
}

/// Checks a network before it is made.
pub fn check_network(spec: &NetworkSpec) -> Checked {
    check_dns_name(&spec.name).map_err(|error| ControlError::invalid(error.to_string()))?;
    let driver = spec
        .driver
        .as_ref()
        .map_or("", |driver| driver.name.as_str());
    if !matches!(driver, "" | "overlay") {
        return refuse(format!(
            "network driver {driver} does not span a cluster; use overlay"
        ));
    }
    spec.mtu().map_err(ControlError::invalid)?;
    if spec.ingress && (spec.attachable || spec.internal) {
        return refuse("an ingress network can be neither attachable nor internal");
    }
    for config in spec.ipam.iter().flat_map(|ipam| &ipam.configs) {
        let Some(subnet) = config.subnet else {
            return refuse("ipam configuration: subnet must be given with gateway or range");
        };
        if subnet.trunc() != subnet {
            return refuse(format!(
                "invalid network config:\ninvalid subnet {subnet}: it should be {}",
                subnet.trunc()
            ));
        }
        if config.range.is_some_and(|range| !subnet.contains(&range)) {
            return refuse(format!(
                "no matching subnet for range {}",
                config.range.expect("just looked at")
            ));
        }
        if config
            .gateway
            .is_some_and(|gateway| !subnet.contains(&gateway))
        {
            return refuse(format!(
                "no matching subnet for gateway {}",
                config.gateway.expect("just looked at")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(json: &str) -> Result<(), String> {
        let spec: ServiceSpec = serde_json::from_str(json).expect("test JSON parses");
        check_service(&spec).map_err(|error| error.message)
    }

    #[test]
    fn a_minimal_service_is_valid() {
        assert_eq!(
            service(
                r#"{"Name":"web","Labels":null,"TaskTemplate":{"ContainerSpec":{"Image":"x"}}}"#
            ),
            Ok(())
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (
                r#"{"Name":"-"}"#,
                "name must be valid as a DNS name component",
            ),
            (r#"{"Name":"a"}"#, "TaskSpec: missing runtime"),
            (
                r#"{"Name":"a","TaskTemplate":{"ContainerSpec":{}}}"#,
                "ContainerSpec: image reference must be provided",
            ),
            (
                r#"{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"Not/An Image"}}}"#,
                "ContainerSpec: \"Not/An Image\" is not a valid repository/tag",
            ),
            (
                r#"{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"x"}},"EndpointSpec":{"Mode":"dnsrr","Ports":[{"TargetPort":80}]}}"#,
                "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
            ),
            (
                r#"{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"x"},"Placement":{"Constraints":["x"]}}}"#,
                "constraint expected one operator from ==, !=",
            ),
        ];
        for (json, text) in cases {
            assert_eq!(service(json), Err(text.to_owned()), "{json}");
        }
    }

    #[test]
    fn secrets_are_bounded() {
        let secret = |size: usize| SecretSpec {
            name: "s".into(),
            data: vec![1; size],
            ..Default::default()
        };
        assert!(check_secret(&secret(0)).is_err());
        assert!(check_secret(&secret(1)).is_ok());
        assert!(check_secret(&secret(SECRET_BYTES_MAX - 1)).is_ok());
        assert!(check_secret(&secret(SECRET_BYTES_MAX)).is_err());
    }
}
