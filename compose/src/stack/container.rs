//! The container part of a service.

use std::collections::BTreeSet;

use skep_model::Nanos;
use skep_model::container::{ContainerSpec, DnsConfig, HealthConfig, Privileges, Ulimit};

use super::{labelled, mount, object};
use crate::context::Context;
use crate::file::File;
use crate::file::health::Health;
use crate::file::service::{self, Service};
use crate::text::image;

pub(super) fn container(
    name: &str,
    service: &Service,
    file: &File,
    cx: &mut Context<'_>,
) -> ContainerSpec {
    let (capability_add, capability_drop) = capabilities(&service.cap_add, &service.cap_drop);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    ContainerSpec {
        image: service
            .image
            .as_ref()
            .map(|image| image::familiar(&image.value))
            .unwrap_or_default(),
        labels: labelled(service.labels.as_ref(), cx),
        command: service.entrypoint.clone().unwrap_or_default(),
        args: service.command.clone().unwrap_or_default(),
        hostname: text(&service.hostname),
        env: environment(service),
        dir: text(&service.working_dir),
        user: text(&service.user),
        groups: service.group_add.clone(),
        privileges: Some(privileges(service, file, cx)),
        init: service.init,
        stop_signal: text(&service.stop_signal),
        tty: service.tty.unwrap_or(false),
        open_stdin: service.stdin_open.unwrap_or(false),
        read_only: service.read_only.unwrap_or(false),
        mounts: mount::mounts(name, service, file, cx),
        stop_grace_period: service.stop_grace_period,
        healthcheck: service
            .health
            .as_ref()
            .map(|health| healthcheck(health, name, cx)),
        hosts: hosts(service),
        dns_config: dns(service),
        secrets: object::used_secrets(name, service, file, cx),
        configs: object::used_configs(name, service, file, cx),
        isolation: text(&service.isolation),
        sysctls: service.sysctls.clone().unwrap_or_default(),
        capability_add,
        capability_drop,
        ulimits: ulimits(service),
        oom_score_adj: service.oom_score_adj.unwrap_or(0),
    }
}

/// `NAME=value` or `NAME`, ordered.
fn environment(service: &Service) -> Vec<String> {
    let mut variables: Vec<String> = service
        .environment
        .iter()
        .map(|(name, value)| match value {
            Some(value) => format!("{name}={value}"),
            None => name.clone(),
        })
        .collect();
    variables.sort();
    variables
}

fn privileges(service: &Service, file: &File, cx: &Context<'_>) -> Privileges {
    let credential_spec = service.credential_spec.as_ref().and_then(|placed| {
        let spec = &placed.value;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        // By its full name here; the cluster puts its id in place.
        let config = spec.config.as_ref().and_then(|config| {
            let object = &file.configs.get(config)?.value;
            Some(object::full_name(config, object, cx))
        });
        (*spec != service::CredentialSpec::default()).then(|| {
            serde_json::json!({
                "Config": text(&config),
                "File": text(&spec.file),
                "Registry": text(&spec.registry),
            })
        })
    });
    Privileges {
        credential_spec,
        ..Privileges::default()
    }
}

/// Capabilities with their full names, each once, ordered; adding wins over dropping.
fn capabilities(add: &[String], drop: &[String]) -> (Vec<String>, Vec<String>) {
    let normal = |names: &[String]| -> BTreeSet<String> {
        let names: BTreeSet<String> = names
            .iter()
            .map(|name| {
                let name = name.trim().to_ascii_uppercase();
                if name == "ALL" || name == "RESET" || name.starts_with("CAP_") {
                    name
                } else {
                    format!("CAP_{name}")
                }
            })
            .collect();
        if names.contains("ALL") {
            BTreeSet::from(["ALL".to_owned()])
        } else {
            names
        }
    };
    let (add, drop) = (normal(add), normal(drop));
    let kept = |names: BTreeSet<String>| -> Vec<String> {
        names.into_iter().filter(|name| name != "RESET").collect()
    };
    let drop = drop.difference(&add).cloned().collect();
    (kept(add), kept(drop))
}

fn healthcheck(health: &Health, name: &str, cx: &mut Context<'_>) -> HealthConfig {
    if health.disable == Some(true) {
        if let Some(test) = health.test.as_ref().filter(|test| !test.value.is_empty()) {
            cx.error(
                test.at,
                format!("service {name}: test and disable can't be set at the same time"),
            );
        }
        return HealthConfig {
            test: vec!["NONE".to_owned()],
            ..HealthConfig::default()
        };
    }
    let length = |length: Option<Nanos>| length.unwrap_or(Nanos(0));
    HealthConfig {
        test: health
            .test
            .as_ref()
            .map(|test| test.value.clone())
            .unwrap_or_default(),
        interval: length(health.interval),
        timeout: length(health.timeout),
        start_period: length(health.start_period),
        start_interval: length(health.start_interval),
        retries: i64::try_from(health.retries.unwrap_or(0)).unwrap_or(i64::MAX),
    }
}

/// `address name`, as /etc/hosts wants it.
fn hosts(service: &Service) -> Vec<String> {
    service
        .extra_hosts
        .iter()
        .filter_map(|host| host.split_once(':'))
        .map(|(name, address)| format!("{address} {name}"))
        .collect()
}

fn dns(service: &Service) -> Option<DnsConfig> {
    let addresses = service
        .dns
        .iter()
        .filter(|server| server.value.parse::<std::net::IpAddr>().is_ok());
    let nameservers = addresses.map(|server| server.value.clone()).collect();
    let config = DnsConfig {
        nameservers,
        search: service.dns_search.clone(),
        options: service.dns_opt.clone(),
    };
    (config != DnsConfig::default()).then_some(config)
}

fn ulimits(service: &Service) -> Vec<Ulimit> {
    service
        .ulimits
        .iter()
        .map(|(name, limit)| {
            let (soft, hard) = match *limit {
                service::Ulimit::Both(limit) => (limit, limit),
                service::Ulimit::Each { soft, hard } => (soft, hard),
            };
            Ulimit {
                name: name.clone(),
                hard,
                soft,
            }
        })
        .collect()
}
