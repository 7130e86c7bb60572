//! `service create`.

use skep_model::ServiceSpec;
use skep_model::container::{ContainerSpec, DnsConfig, Privileges};
use skep_model::mount::Driver;
use skep_model::placement::Placement;
use skep_model::port::PortConfig;
use skep_model::resources::{Limits, MemoryBytes, NanoCpus, ResourceRequirements, Resources};
use skep_model::service::{Empty, EndpointSpec, Replicated, ReplicatedJob, ServiceMode};
use skep_model::task::{NetworkAttachmentConfig, TaskSpec};

use super::{autoscale, digest, references, schedule, spec};
use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::flags::Args;
use crate::grammar::{
    address, environment, file_reference, mount, network, placement, publish, ulimit, words,
};
use crate::progress;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let mut service = build(session, args)?;
    resolve_names(session, args, &mut service).await?;
    let image = service.task_template.image().to_owned();
    let auth = if args.flag("with-registry-auth") {
        Some(session.config.auth_header(&image))
    } else {
        None
    };
    digest::tag(&mut service);
    let unresolved = match args.flag("no-resolve-image") {
        true => None,
        false => digest::resolve(session, &mut service, auth.as_ref()).await,
    };
    let call = Call::post("/services/create")
        .json(&service)
        .header_maybe("X-Registry-Auth", auth);
    let answer = session.client.json(call).await?;
    for warning in answer.texts("Warnings") {
        session.warn(warning);
    }
    if let Some(warning) = unresolved {
        session.warn(warning);
    }
    let id = answer.str("ID").to_owned();
    session.say(&id)?;
    if args.flag("detach") {
        return Ok(());
    }
    progress::service::wait(
        session,
        &id,
        args.flag("quiet"),
        progress::service::Rollback::Failure,
    )
    .await
}

/// The spec that the flags describe. Networks, secrets and configs are still missing.
pub fn build(session: &Session, args: &Args) -> Outcome<ServiceSpec> {
    let container = container(session, args)?;
    let mode = mode(args)?;
    // Values of these flags are wrong or right whatever the daemon says: they are read first.
    args.each("network", network::parse)?;
    args.each("secret", |value| file_reference::parse(value, "secret"))?;
    args.each("config", |value| file_reference::parse(value, "config"))?;
    let ports: Vec<Vec<PortConfig>> = args.each("publish", publish::parse)?;
    let mut labels = environment::pairs(args.each("label", environment::label)?);
    schedule::set(args, &mut labels);
    autoscale::set(args, &mut labels);
    let service = ServiceSpec {
        name: args.text("name").to_owned(),
        labels,
        task_template: TaskSpec {
            container_spec: Some(container),
            resources: Some(resources(args)?),
            restart_policy: spec::restart_policy(args, None)?,
            placement: Some(Placement {
                constraints: args.list("constraint"),
                preferences: args.each("placement-pref", placement::preference)?,
                max_replicas: args.uint("replicas-max-per-node").unwrap_or(0),
                platforms: Vec::new(),
            }),
            log_driver: log_driver(args),
            drain_period: spec::nanos(args, "drain"),
            ..TaskSpec::default()
        },
        mode,
        update_config: spec::update_config(args, "update", None)?,
        rollback_config: spec::update_config(args, "rollback", None)?,
        networks: Vec::new(),
        endpoint_spec: Some(EndpointSpec {
            mode: spec::word(args, "endpoint-mode", "endpoint mode")?.unwrap_or_default(),
            ports: ports.into_iter().flatten().collect(),
        }),
    };
    schedule::check(args, &service)?;
    autoscale::check(args, &service)?;
    Ok(service)
}

fn mode(args: &Args) -> Outcome<ServiceMode> {
    let mode = args.maybe("mode").unwrap_or("replicated");
    let replicas = args.uint("replicas");
    let wrong = |text: &str| Err(Failure::message(text));
    if matches!(mode, "global" | "global-job") {
        if replicas.is_some() {
            return wrong("replicas can only be used with replicated or replicated-job mode");
        }
        if args
            .uint("replicas-max-per-node")
            .is_some_and(|most| most > 0)
        {
            return wrong(
                "replicas-max-per-node can only be used with replicated or replicated-job mode",
            );
        }
    }
    if mode != "replicated-job" && args.given("max-concurrent") {
        return wrong("max-concurrent can only be used with replicated-job mode");
    }
    Ok(match mode {
        "global" => ServiceMode::Global(Empty {}),
        "global-job" => ServiceMode::GlobalJob(Empty {}),
        "replicated" => ServiceMode::Replicated(Replicated { replicas }),
        "replicated-job" => ServiceMode::ReplicatedJob(ReplicatedJob {
            max_concurrent: args.uint("max-concurrent").or(replicas),
            total_completions: replicas,
        }),
        other => {
            return wrong(&format!(
                "Unknown mode: {other}, only replicated and global supported"
            ));
        }
    })
}

fn container(session: &Session, args: &Args) -> Outcome<ContainerSpec> {
    let (image, command) = args
        .positionals()
        .split_first()
        .expect("the arity wants an image");
    let mut variables = Vec::new();
    for path in args.list("env-file") {
        variables.extend(environment::file(&path, Some(&session.env)).map_err(Failure::Message)?);
    }
    variables.extend(args.each("env", |value| environment::variable(value, &session.env))?);
    let (capability_add, capability_drop) =
        spec::capabilities(args.list("cap-add"), args.list("cap-drop"));
    let hosts = args.each("host", address::extra_host)?;
    let credentials = args.each("credential-spec", spec::credential_spec)?.pop();
    Ok(ContainerSpec {
        image: image.clone(),
        labels: environment::pairs(args.each("container-label", environment::label)?),
        command: args
            .each("entrypoint", words::split)?
            .pop()
            .unwrap_or_default(),
        args: command.to_vec(),
        hostname: args.text("hostname").to_owned(),
        env: environment::merge(variables),
        dir: args.text("workdir").to_owned(),
        user: args.text("user").to_owned(),
        groups: args.list("group"),
        privileges: credentials
            .filter(|spec| !spec.is_null())
            .map(|spec| Privileges {
                credential_spec: Some(spec),
                ..Privileges::default()
            }),
        init: Some(args.flag("init")),
        stop_signal: args.text("stop-signal").to_owned(),
        tty: args.flag("tty"),
        open_stdin: false,
        read_only: args.flag("read-only"),
        mounts: args.each("mount", |value| mount::parse(value, &files::absolute))?,
        stop_grace_period: spec::nanos(args, "stop-grace-period"),
        healthcheck: spec::healthcheck(args)?,
        hosts: hosts.iter().map(|host| address::hosts_line(host)).collect(),
        dns_config: Some(DnsConfig {
            nameservers: args.each("dns", address::ip)?,
            search: args.each("dns-search", address::search_domain)?,
            options: args.list("dns-option"),
        }),
        secrets: Vec::new(),
        configs: Vec::new(),
        isolation: args.text("isolation").to_owned(),
        sysctls: environment::pairs(args.list("sysctl")),
        capability_add,
        capability_drop,
        ulimits: ulimits(args)?,
        oom_score_adj: args.int("oom-score-adj").unwrap_or(0),
    })
}

/// One of each name, the last one given, sorted.
fn ulimits(args: &Args) -> Outcome<Vec<skep_model::container::Ulimit>> {
    let by_name: std::collections::BTreeMap<_, _> = args
        .each("ulimit", ulimit::parse)?
        .into_iter()
        .map(|limit| (limit.name.clone(), limit))
        .collect();
    Ok(by_name.into_values().collect())
}

fn resources(args: &Args) -> Outcome<ResourceRequirements> {
    Ok(ResourceRequirements {
        limits: Some(Limits {
            nano_cpus: NanoCpus(args.nano_cpus("limit-cpu").unwrap_or(0)),
            memory_bytes: MemoryBytes(args.bytes("limit-memory").unwrap_or(0)),
            pids: args.int("limit-pids").unwrap_or(0),
        }),
        reservations: Some(Resources {
            nano_cpus: NanoCpus(args.nano_cpus("reserve-cpu").unwrap_or(0)),
            memory_bytes: MemoryBytes(args.bytes("reserve-memory").unwrap_or(0)),
            generic_resources: args.each("generic-resource", placement::generic_resource)?,
        }),
    })
}

/// The log driver that the flags name, `None` for the daemon's own.
pub fn log_driver(args: &Args) -> Option<Driver> {
    match args.text("log-driver") {
        "" => None,
        name => Some(Driver {
            name: name.to_owned(),
            options: environment::pairs(args.list("log-opt")),
        }),
    }
}

/// Fills in the ids of networks, secrets and configs.
async fn resolve_names(session: &Session, args: &Args, service: &mut ServiceSpec) -> Outcome {
    let mut networks = Vec::new();
    for flag in args.each("network", network::parse)? {
        networks.push(NetworkAttachmentConfig {
            target: references::network(session, &flag.target)
                .await?
                .to_string(),
            aliases: flag.aliases,
            driver_opts: flag.driver_opts,
        });
    }
    networks.sort_by(|a, b| a.target.cmp(&b.target));
    service.task_template.networks = networks;
    let secrets = args.each("secret", |value| file_reference::parse(value, "secret"))?;
    let configs = args.each("config", |value| file_reference::parse(value, "config"))?;
    let secrets = references::secrets(session, &secrets).await?;
    let configs = references::configs(session, &configs).await?;
    let container = service.task_template.container_spec.get_or_insert_default();
    container.secrets = secrets;
    container.configs = configs;
    Ok(())
}
