//! The merged files as one normalised document: what `stack config` prints.

use crate::emit::emit;
use crate::file::service::{CredentialSpec, Logging, Service, Ulimit};
use crate::file::volume::print_map;
use crate::file::{File, VERSION_DEFAULT};
use crate::out::{MapOut, Out};
use crate::report::Placed;
use crate::text::duration;

/// The keys of a service in the order docker prints them; others follow by name.
const SERVICE_ORDER: [&str; 52] = [
    "build",
    "cap_add",
    "cap_drop",
    "cgroupns_mode",
    "cgroup_parent",
    "command",
    "configs",
    "container_name",
    "credential_spec",
    "depends_on",
    "deploy",
    "devices",
    "dns",
    "dns_search",
    "domainname",
    "entrypoint",
    "environment",
    "env_file",
    "expose",
    "external_links",
    "extra_hosts",
    "hostname",
    "healthcheck",
    "image",
    "init",
    "ipc",
    "isolation",
    "labels",
    "links",
    "logging",
    "mac_address",
    "network_mode",
    "networks",
    "pid",
    "ports",
    "privileged",
    "read_only",
    "restart",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "oom_score_adj",
    "userns_mode",
    "volumes",
];

/// Prints the merged files.
pub(crate) fn print(file: &File) -> String {
    let mut out = MapOut::default();
    let version = match file.version.as_deref() {
        None | Some("" | "3") => VERSION_DEFAULT,
        Some(version) => version,
    };
    out.put_text("version", Some(version));
    let services = file
        .services
        .iter()
        .map(|(name, service)| (name.clone(), print_service(service)));
    out.put_some("services", Some(Out::sorted(services.collect())));
    fn section<T>(
        entries: &std::collections::BTreeMap<String, Placed<T>>,
        print: impl Fn(&T) -> Out,
    ) -> Out {
        let entries = entries
            .iter()
            .map(|(name, entry)| (name.clone(), print(&entry.value)));
        Out::sorted(entries.collect())
    }
    out.put(
        "networks",
        section(&file.networks, |network| network.print()),
    );
    out.put("volumes", section(&file.volumes, |volume| volume.print()));
    out.put("secrets", section(&file.secrets, |secret| secret.print()));
    out.put("configs", section(&file.configs, |config| config.print()));
    out.extend(file.extras.clone());
    emit(&out.done())
}

pub(crate) fn print_service(service: &Service) -> Out {
    let mut out = MapOut::default();
    let text = |value: &Option<String>| value.as_ref().map_or(Out::Null, Out::text);
    let placed = |value: &Option<Placed<String>>| {
        value
            .as_ref()
            .map_or(Out::Null, |value| Out::text(&value.value))
    };
    let flag = |value: Option<bool>| Out::Bool(value.unwrap_or(false));
    let places = |values: &[Placed<String>]| {
        Out::List(values.iter().map(|value| Out::text(&value.value)).collect())
    };
    let words =
        |words: &Option<Vec<String>>| words.as_ref().map_or(Out::Null, |words| Out::list(words));
    let map = |map: &Option<std::collections::BTreeMap<String, String>>| {
        map.as_ref().map_or(Out::Null, print_map)
    };

    out.put("cap_add", Out::list(&service.cap_add));
    out.put("cap_drop", Out::list(&service.cap_drop));
    out.put("command", words(&service.command));
    out.put(
        "configs",
        Out::List(service.configs.iter().map(|used| used.print()).collect()),
    );
    if let Some(spec) = &service.credential_spec {
        out.put("credential_spec", print_credentials(&spec.value));
    }
    out.put(
        "deploy",
        service
            .deploy
            .as_ref()
            .map_or(Out::Null, |deploy| deploy.print()),
    );
    out.put("dns", places(&service.dns));
    out.put("dns_search", Out::list(&service.dns_search));
    out.put("dns_opt", Out::list(&service.dns_opt));
    out.put("entrypoint", words(&service.entrypoint));
    let variables = service.environment.iter().map(|(name, value)| {
        let value = value.as_ref().map_or(Out::Null, Out::text);
        (name.clone(), value)
    });
    out.put("environment", Out::sorted(variables.collect()));
    out.put("env_file", Out::list(&service.env_file));
    out.put("extra_hosts", Out::list(&service.extra_hosts));
    out.put("group_add", Out::list(&service.group_add));
    out.put("hostname", text(&service.hostname));
    out.put_some(
        "healthcheck",
        service.health.as_ref().map(|health| health.print()),
    );
    out.put("image", placed(&service.image));
    out.put_some("init", service.init.map(Out::Bool));
    out.put("isolation", text(&service.isolation));
    out.put("labels", map(&service.labels));
    out.put_some("logging", service.logging.as_ref().map(print_logging));
    let networks = service.networks.iter().map(|(name, joined)| {
        let joined = joined
            .value
            .as_ref()
            .map_or(Out::Null, |joined| joined.print());
        (name.clone(), joined)
    });
    out.put("networks", Out::sorted(networks.collect()));
    out.put(
        "ports",
        Out::List(service.ports.iter().map(|port| port.print()).collect()),
    );
    out.put("platform", placed(&service.platform));
    out.put("profiles", places(&service.profiles));
    out.put("read_only", flag(service.read_only));
    out.put("restart", placed(&service.restart));
    out.put(
        "secrets",
        Out::List(service.secrets.iter().map(|used| used.print()).collect()),
    );
    out.put("stdin_open", flag(service.stdin_open));
    out.put_some(
        "stop_grace_period",
        service
            .stop_grace_period
            .map(|length| Out::text(duration::print(length))),
    );
    out.put("stop_signal", text(&service.stop_signal));
    out.put("sysctls", map(&service.sysctls));
    out.put("tmpfs", places(&service.tmpfs));
    out.put("tty", flag(service.tty));
    let ulimits = service
        .ulimits
        .iter()
        .map(|(name, limit)| (name.clone(), print_ulimit(*limit)));
    out.put("ulimits", Out::sorted(ulimits.collect()));
    out.put("user", text(&service.user));
    out.put(
        "oom_score_adj",
        Out::Int(service.oom_score_adj.unwrap_or(0)),
    );
    out.put(
        "volumes",
        Out::List(
            service
                .volumes
                .iter()
                .map(|volume| volume.print())
                .collect(),
        ),
    );
    out.put("working_dir", text(&service.working_dir));
    out.put_some("scale", service.scale.map(crate::file::health::count));
    out.put(
        "cpus",
        service
            .cpus
            .as_ref()
            .map_or(Out::Null, |cpus| Out::text(&cpus.text)),
    );
    out.put(
        "mem_reservation",
        service
            .mem_reservation
            .map_or(Out::Null, |bytes| Out::text(bytes.to_string())),
    );
    out.put_some("pids_limit", service.pids_limit.map(Out::Int));
    for (name, value) in &service.passthrough {
        out.put(name, value.clone());
    }

    let mut entries = out.into_entries();
    let rank = |name: &str| {
        SERVICE_ORDER
            .iter()
            .position(|known| *known == name)
            .unwrap_or(SERVICE_ORDER.len())
    };
    entries.sort_by(|a, b| rank(&a.0).cmp(&rank(&b.0)).then_with(|| a.0.cmp(&b.0)));
    let mut out = MapOut::from(entries);
    out.extend(service.extras.clone());
    out.done()
}

fn print_logging(logging: &Logging) -> Out {
    let mut out = MapOut::default();
    out.put_text("driver", logging.driver.as_deref());
    out.put(
        "options",
        logging.options.as_ref().map_or(Out::Null, print_map),
    );
    out.done()
}

fn print_credentials(spec: &CredentialSpec) -> Out {
    let mut out = MapOut::default();
    out.put_text("config", spec.config.as_deref());
    out.put_text("file", spec.file.as_deref());
    out.put_text("registry", spec.registry.as_deref());
    out.done()
}

fn print_ulimit(limit: Ulimit) -> Out {
    match limit {
        Ulimit::Both(limit) => Out::Int(limit),
        Ulimit::Each { soft, hard } => Out::Map(vec![
            ("soft".to_owned(), Out::Int(soft)),
            ("hard".to_owned(), Out::Int(hard)),
        ]),
    }
}
