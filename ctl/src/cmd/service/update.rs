//! `service update`.

use skep_model::ServiceSpec;
use skep_model::container::{ContainerSpec, DnsConfig, Privileges};
use skep_model::resources::{MemoryBytes, NanoCpus};
use skep_model::service::ServiceMode;
use skep_model::task::{NetworkAttachmentConfig, TaskSpec};

use super::rollback::way_back;
use super::{
    UpdateOptions, autoscale, create, digest, fetch, lists, preview, references, schedule, spec,
    store,
};
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::flags::Args;
use crate::grammar::{
    address, csv, environment, file_reference, mount, network, placement, publish, ulimit, words,
};
use crate::progress;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let name = args.positional(0);
    let service = fetch(session, name).await?;
    let rollback = args.flag("rollback");
    if rollback {
        let others = args.def().flags.iter().any(|flag| {
            let apart = ["rollback", "detach", "quiet", "dry-run"];
            !apart.contains(&flag.long.as_str()) && args.given(&flag.long)
        });
        if others {
            return Err(Failure::message(
                "other flags may not be combined with --rollback",
            ));
        }
    }
    let mut changed = service.spec.clone();
    change(session, args, &mut changed)?;
    change_references(session, args, &mut changed).await?;
    let registry_auth = if args.flag("with-registry-auth") {
        Some(session.config.auth_header(changed.task_template.image()))
    } else {
        None
    };
    digest::tag(&mut changed);
    let unresolved = match args.given("image") && !args.flag("no-resolve-image") {
        true => digest::resolve(session, &mut changed, registry_auth.as_ref()).await,
        false => None,
    };
    let back = match rollback {
        true => Some(way_back(session, None).await?),
        false => None,
    };
    let options = UpdateOptions {
        registry_auth,
        back,
    };
    if args.flag("dry-run") {
        return preview::show(session, &service, &changed, options).await;
    }
    store(session, &service, &changed, options).await?;
    if let Some(warning) = unresolved {
        session.warn(warning);
    }
    session.say(name)?;
    if args.flag("detach") {
        return Ok(());
    }
    let asked = if rollback {
        progress::service::Rollback::Asked
    } else {
        progress::service::Rollback::Failure
    };
    progress::service::wait(session, name, args.flag("quiet"), asked).await
}

/// Changes what the flags name, except what needs the daemon to be looked up.
pub fn change(session: &Session, args: &Args, service: &mut ServiceSpec) -> Outcome {
    lists::labels(
        &mut service.labels,
        environment::pairs(args.each("label-add", environment::label)?),
        &args.list("label-rm"),
    );
    schedule::set(args, &mut service.labels);
    autoscale::set(args, &mut service.labels);
    let task = &mut service.task_template;
    change_container(session, args, task.container_spec.get_or_insert_default())?;
    change_resources(args, task)?;
    change_placement(args, task)?;
    task.restart_policy = spec::restart_policy(args, task.restart_policy.take())?;
    if let Some(driver) = create::log_driver(args) {
        task.log_driver = Some(driver);
    }
    if let Some(period) = spec::nanos(args, "drain") {
        task.drain_period = Some(period);
    }
    if args.flag("force") {
        task.force_update += 1;
    }
    change_mode(args, &mut service.mode)?;
    service.update_config = spec::update_config(args, "update", service.update_config.take())?;
    service.rollback_config =
        spec::update_config(args, "rollback", service.rollback_config.take())?;
    change_endpoint(args, service)?;
    schedule::check(args, service)?;
    autoscale::check(args, service)
}

/// Sets `field` if the flag is given.
fn text(args: &Args, flag: &str, field: &mut String) {
    if let Some(value) = args.maybe(flag) {
        value.clone_into(field);
    }
}

fn change_container(session: &Session, args: &Args, container: &mut ContainerSpec) -> Outcome {
    text(args, "image", &mut container.image);
    text(args, "workdir", &mut container.dir);
    text(args, "user", &mut container.user);
    text(args, "hostname", &mut container.hostname);
    text(args, "stop-signal", &mut container.stop_signal);
    text(args, "isolation", &mut container.isolation);
    if let Some(words) = args.each("args", words::split)?.pop() {
        container.args = words;
    }
    if let Some(words) = args.each("entrypoint", words::split)?.pop() {
        container.command = words;
    }
    for (flag, field) in [
        ("tty", &mut container.tty),
        ("read-only", &mut container.read_only),
    ] {
        if args.given(flag) {
            *field = args.flag(flag);
        }
    }
    if args.given("init") {
        container.init = Some(args.flag("init"));
    }
    if let Some(period) = spec::nanos(args, "stop-grace-period") {
        container.stop_grace_period = Some(period);
    }
    if let Some(score) = args.int("oom-score-adj") {
        container.oom_score_adj = score;
    }
    if let Some(credentials) = args.each("credential-spec", spec::credential_spec)?.pop() {
        let privileges = container.privileges.get_or_insert_with(Privileges::default);
        privileges.credential_spec = Some(credentials).filter(|spec| !spec.is_null());
    }
    lists::labels(
        &mut container.labels,
        environment::pairs(args.each("container-label-add", environment::label)?),
        &args.list("container-label-rm"),
    );
    lists::labels(
        &mut container.sysctls,
        environment::pairs(args.list("sysctl-add")),
        &args.list("sysctl-rm"),
    );
    let variables = args.each("env-add", |value| {
        environment::variable(value, &session.env)
    })?;
    lists::environment(&mut container.env, variables, &args.list("env-rm"));
    lists::set(
        &mut container.groups,
        args.list("group-add"),
        &args.list("group-rm"),
    );
    let mounts = args.each("mount-add", |value| mount::parse(value, &files::absolute))?;
    lists::mounts(&mut container.mounts, mounts, &args.list("mount-rm"))
        .map_err(Failure::Message)?;
    lists::ulimits(
        &mut container.ulimits,
        args.each("ulimit-add", ulimit::parse)?,
        &args.list("ulimit-rm"),
    );
    let (add, drop) = spec::capabilities(args.list("cap-add"), args.list("cap-drop"));
    lists::capabilities(
        &mut container.capability_add,
        &mut container.capability_drop,
        add,
        drop,
    );
    let hosts = args.each("host-add", address::extra_host)?;
    let hosts = hosts.iter().map(|host| address::hosts_line(host)).collect();
    lists::hosts(&mut container.hosts, hosts, &args.list("host-rm"));
    change_dns(args, container)?;
    change_health(args, container)
}

fn change_dns(args: &Args, container: &mut ContainerSpec) -> Outcome {
    let flags = [
        "dns-add",
        "dns-rm",
        "dns-option-add",
        "dns-option-rm",
        "dns-search-add",
        "dns-search-rm",
    ];
    if !spec::any(args, &flags) {
        return Ok(());
    }
    let dns = container.dns_config.get_or_insert_with(DnsConfig::default);
    lists::set(
        &mut dns.nameservers,
        args.each("dns-add", address::ip)?,
        &args.list("dns-rm"),
    );
    lists::set(
        &mut dns.search,
        args.each("dns-search-add", address::search_domain)?,
        &args.list("dns-search-rm"),
    );
    lists::set(
        &mut dns.options,
        args.list("dns-option-add"),
        &args.list("dns-option-rm"),
    );
    Ok(())
}

fn change_health(args: &Args, container: &mut ContainerSpec) -> Outcome {
    if args.flag("no-healthcheck") {
        container.healthcheck = spec::healthcheck(args)?;
    } else if spec::any(args, &spec::HEALTH_FLAGS) || args.given("no-healthcheck") {
        let health = container.healthcheck.get_or_insert_default();
        if health.test.first().is_some_and(|word| word == "NONE") {
            health.test.clear();
        }
        spec::merge_health(args, health);
    }
    Ok(())
}

fn change_resources(args: &Args, task: &mut TaskSpec) -> Outcome {
    if spec::any(args, &["limit-cpu", "limit-memory", "limit-pids"]) {
        let limits = task
            .resources
            .get_or_insert_default()
            .limits
            .get_or_insert_default();
        if let Some(cpus) = args.nano_cpus("limit-cpu") {
            limits.nano_cpus = NanoCpus(cpus);
        }
        if let Some(bytes) = args.bytes("limit-memory") {
            limits.memory_bytes = MemoryBytes(bytes);
        }
        if let Some(pids) = args.int("limit-pids") {
            limits.pids = pids;
        }
    }
    if spec::any(
        args,
        &[
            "reserve-cpu",
            "reserve-memory",
            "generic-resource-add",
            "generic-resource-rm",
        ],
    ) {
        let reserved = task
            .resources
            .get_or_insert_default()
            .reservations
            .get_or_insert_default();
        if let Some(cpus) = args.nano_cpus("reserve-cpu") {
            reserved.nano_cpus = NanoCpus(cpus);
        }
        if let Some(bytes) = args.bytes("reserve-memory") {
            reserved.memory_bytes = MemoryBytes(bytes);
        }
        lists::generic(
            &mut reserved.generic_resources,
            args.each("generic-resource-add", placement::generic_resource)?,
            &args.each("generic-resource-rm", placement::generic_kind)?,
        )
        .map_err(Failure::Message)?;
    }
    Ok(())
}

fn change_placement(args: &Args, task: &mut TaskSpec) -> Outcome {
    let flags = [
        "constraint-add",
        "constraint-rm",
        "placement-pref-add",
        "placement-pref-rm",
        "replicas-max-per-node",
    ];
    if !spec::any(args, &flags) {
        return Ok(());
    }
    let placement = task.placement.get_or_insert_default();
    lists::set(
        &mut placement.constraints,
        args.list("constraint-add"),
        &args.list("constraint-rm"),
    );
    let removed = args.each("placement-pref-rm", placement::preference)?;
    placement
        .preferences
        .retain(|preference| !removed.contains(preference));
    placement
        .preferences
        .extend(args.each("placement-pref-add", placement::preference)?);
    if let Some(most) = args.uint("replicas-max-per-node") {
        placement.max_replicas = most;
    }
    Ok(())
}

fn change_mode(args: &Args, mode: &mut ServiceMode) -> Outcome {
    let replicas = args.uint("replicas");
    let concurrent = args.uint("max-concurrent");
    match mode {
        ServiceMode::Replicated(mode) if concurrent.is_none() => {
            mode.replicas = replicas.or(mode.replicas);
        }
        ServiceMode::ReplicatedJob(mode) => {
            mode.total_completions = replicas.or(mode.total_completions);
            mode.max_concurrent = concurrent.or(mode.max_concurrent);
        }
        _ if concurrent.is_some() => {
            return Err(Failure::message(
                "max-concurrent can only be used with replicated-job mode",
            ));
        }
        _ if replicas.is_some() => {
            return Err(Failure::message(
                "replicas can only be used with replicated mode",
            ));
        }
        _ => {}
    }
    Ok(())
}

fn change_endpoint(args: &Args, service: &mut ServiceSpec) -> Outcome {
    if !spec::any(args, &["endpoint-mode", "publish-add", "publish-rm"]) {
        return Ok(());
    }
    let endpoint = service.endpoint_spec.get_or_insert_default();
    if let Some(mode) = spec::word(args, "endpoint-mode", "endpoint mode")? {
        endpoint.mode = mode;
    }
    let added = args
        .each("publish-add", publish::parse)?
        .into_iter()
        .flatten()
        .collect();
    let removed = args.each("publish-rm", |value| {
        let ports = publish::parse(value)?;
        let mode_matters = csv::is_long(value);
        Ok(ports
            .into_iter()
            .map(move |port| lists::PortRemoval { port, mode_matters }))
    })?;
    let removed: Vec<_> = removed.into_iter().flatten().collect();
    lists::ports(&mut endpoint.ports, added, &removed);
    Ok(())
}

/// Networks, secrets and configs, which are named but stored by id.
async fn change_references(session: &Session, args: &Args, service: &mut ServiceSpec) -> Outcome {
    if spec::any(args, &["network-add", "network-rm"]) {
        change_networks(session, args, service).await?;
    }
    let container = service.task_template.container_spec.get_or_insert_default();
    if spec::any(args, &["secret-add", "secret-rm"]) {
        let removed = args.list("secret-rm");
        container.secrets.retain(|secret| {
            !removed
                .iter()
                .any(|name| *name == secret.secret_name || name == secret.secret_id.as_str())
        });
        let added = args.each("secret-add", |value| file_reference::parse(value, "secret"))?;
        container
            .secrets
            .extend(references::secrets(session, &added).await?);
    }
    if spec::any(args, &["config-add", "config-rm"]) {
        let removed = args.list("config-rm");
        container.configs.retain(|config| {
            !removed
                .iter()
                .any(|name| *name == config.config_name || name == config.config_id.as_str())
        });
        let added = args.each("config-add", |value| file_reference::parse(value, "config"))?;
        container
            .configs
            .extend(references::configs(session, &added).await?);
    }
    Ok(())
}

async fn change_networks(session: &Session, args: &Args, service: &mut ServiceSpec) -> Outcome {
    let old = std::mem::take(&mut service.networks);
    let networks = &mut service.task_template.networks;
    if networks.is_empty() {
        *networks = old;
    }
    for name in args.list("network-rm") {
        let id = references::network(session, &name).await?;
        networks.retain(|network| network.target != id.as_str() && network.target != name);
    }
    for flag in args.each("network-add", network::parse)? {
        let id = references::network(session, &flag.target).await?;
        if networks.iter().any(|network| network.target == id.as_str()) {
            return Err(Failure::message(format!(
                "service is already attached to network {}",
                flag.target
            )));
        }
        networks.push(NetworkAttachmentConfig {
            target: id.to_string(),
            aliases: flag.aliases,
            driver_opts: flag.driver_opts,
        });
    }
    networks.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(())
}
