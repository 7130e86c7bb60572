//! A service as `inspect --pretty` shows it.

use super::ls::mode;
use super::{autoscale, schedule};
use crate::duration;
use crate::human;
use crate::json::Json;

/// `networks` is the list that names are found in.
pub fn text(service: &Json, networks: &Json) -> String {
    let mut out = Text::default();
    out.line("", "");
    out.line("ID:\t\t", service.str("ID"));
    out.line("Name:\t\t", service.str("Spec.Name"));
    out.pairs("Labels:", service, "Spec.Labels", "=");
    service_mode(&mut out, service);
    autoscale::show(service, &mut |label, value| out.line(label, value));
    schedule::show(service, &mut |label, value| out.line(label, value));
    update_status(&mut out, service);
    placement(&mut out, service);
    change_config(&mut out, service, "UpdateConfig", "Update order:      ");
    change_config(&mut out, service, "RollbackConfig", "Rollback order:    ");
    container(&mut out, service.at("Spec.TaskTemplate.ContainerSpec"));
    log_driver(&mut out, service.at("Spec.TaskTemplate.LogDriver"));
    resources(&mut out, service.at("Spec.TaskTemplate.Resources"));
    attachments(&mut out, service, networks);
    endpoint(&mut out, service);
    health(
        &mut out,
        service.at("Spec.TaskTemplate.ContainerSpec.Healthcheck"),
    );
    out.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, label: &str, value: &str) {
        self.0.push_str(label);
        self.0.push_str(value);
        self.0.push('\n');
    }

    /// The last line of a list ends in a space.
    fn end_with_space(&mut self) {
        if self.0.ends_with('\n') {
            self.0.pop();
        }
        self.0.push_str(" \n");
    }

    fn line_if(&mut self, label: &str, value: &str) {
        if !value.is_empty() {
            self.line(label, value);
        }
    }

    fn pairs(&mut self, heading: &str, of: &Json, path: &str, between: &str) {
        let pairs = of.text_map(path);
        if pairs.is_empty() {
            return;
        }
        self.line(heading, "");
        for (name, value) in pairs {
            let between = if value.is_empty() { "" } else { between };
            self.line(&format!(" {name}{between}"), &value);
        }
    }
}

fn service_mode(out: &mut Text, service: &Json) {
    match mode(service) {
        "global" => out.line("Service Mode:", "\tGlobal"),
        "replicated" => {
            out.line("Service Mode:", "\tReplicated");
            let replicas = service.int("Spec.Mode.Replicated.Replicas");
            out.line(" Replicas:\t", &replicas.to_string());
        }
        "replicated job" => {
            out.line("Service Mode:", "\tReplicated Job");
            let job = service.at("Spec.Mode.ReplicatedJob");
            out.line(" Max Concurrent:\t", &job.int("MaxConcurrent").to_string());
            out.line(
                " Total Completions:\t",
                &job.int("TotalCompletions").to_string(),
            );
        }
        "global job" => out.line("Service Mode:", "\tGlobal Job"),
        _ => out.line("Service Mode:", ""),
    }
}

fn update_status(out: &mut Text, service: &Json) {
    let status = service.at("UpdateStatus");
    if status.str("State").is_empty() {
        return;
    }
    out.line("UpdateStatus:", "");
    out.line(" State:\t\t", status.str("State"));
    let now = crate::cmd::task::now();
    for (label, field) in [
        (" Started:\t", "StartedAt"),
        (" Completed:\t", "CompletedAt"),
    ] {
        let shown = field == "StartedAt" || status.str("State") == "completed";
        if let Ok(at) = skep_model::Timestamp::parse(status.str(field))
            && !at.is_zero()
            && shown
        {
            out.line(label, &human::ago(at, now));
        }
    }
    out.line(" Message:\t", status.str("Message"));
}

fn placement(out: &mut Text, service: &Json) {
    let placement = service.at("Spec.TaskTemplate.Placement");
    out.line("Placement:", "");
    let constraints = placement.texts("Constraints");
    if !constraints.is_empty() {
        out.line(" Constraints:\t", &format!("[{}]", constraints.join(" ")));
    }
    let preferences: Vec<String> = placement
        .list("Preferences")
        .iter()
        .map(|preference| format!("spread={}", preference.str("Spread.SpreadDescriptor")))
        .collect();
    if !preferences.is_empty() {
        out.line(" Preferences:   ", &format!("[{}]", preferences.join(" ")));
    }
    let most = placement.int("MaxReplicas");
    if most > 0 {
        out.line(" Max Replicas Per Node:   ", &most.to_string());
    }
}

fn change_config(out: &mut Text, service: &Json, which: &str, order: &str) {
    let config = service.at(&format!("Spec.{which}"));
    if *config == Json::Null {
        return;
    }
    out.line(&format!("{which}:"), "");
    out.line(" Parallelism:\t", &config.int("Parallelism").to_string());
    if config.int("Delay") > 0 {
        out.line(" Delay:\t\t", &duration::format(config.int("Delay")));
    }
    out.line(" On failure:\t", config.str("FailureAction"));
    if config.int("Monitor") > 0 {
        out.line(
            " Monitoring Period: ",
            &duration::format(config.int("Monitor")),
        );
    }
    let ratio = human::general(config.float("MaxFailureRatio"), 6);
    out.line(" Max failure ratio: ", &ratio);
    out.line(&format!(" {order}"), config.str("Order"));
}

fn container(out: &mut Text, container: &Json) {
    out.line("ContainerSpec:", "");
    out.line(" Image:\t\t", container.str("Image"));
    for (label, field) in [(" Args:\t\t", "Args"), (" Env:\t\t", "Env")] {
        let words: String = container
            .texts(field)
            .iter()
            .map(|word| format!("{word} "))
            .collect();
        out.line_if(label, &words);
    }
    out.line_if(" Dir:\t\t", container.str("Dir"));
    if let Some(Json::Bool(init)) = container.get("Init") {
        out.line(" Init:\t\t", &init.to_string());
    }
    out.line_if(" User: ", container.str("User"));
    let (add, drop) = (
        container.texts("CapabilityAdd"),
        container.texts("CapabilityDrop"),
    );
    if !add.is_empty() || !drop.is_empty() {
        out.line("Capabilities:", "");
        out.line_if(" Add: ", &add.join(", "));
        out.line_if(" Drop: ", &drop.join(", "));
    }
    out.pairs("SysCtls:", container, "Sysctls", ": ");
    let limits = container.list("Ulimits");
    if !limits.is_empty() {
        out.line("Ulimits:", "");
        for limit in limits {
            let shown = match (limit.int("Soft"), limit.int("Hard")) {
                (soft, hard) if soft == hard => soft.to_string(),
                (soft, hard) => format!("{soft}:{hard}"),
            };
            out.line(&format!(" {}: ", limit.str("Name")), &shown);
        }
    }
    let mounts = container.list("Mounts");
    if !mounts.is_empty() {
        out.line("Mounts:", "");
        for mount in mounts {
            out.line(" Target:\t", mount.str("Target"));
            out.line("  Source:\t", mount.str("Source"));
            out.line("  ReadOnly:\t", &mount.bool("ReadOnly").to_string());
            out.line("  Type:\t\t", mount.str("Type"));
        }
    }
    for (heading, list, name) in [
        ("Configs:", "Configs", "ConfigName"),
        ("Secrets:", "Secrets", "SecretName"),
    ] {
        let references = container.list(list);
        if !references.is_empty() {
            out.line(heading, "");
        }
        for reference in references {
            out.line(" Target:\t", reference.str("File.Name"));
            out.line("  Source:\t", reference.str(name));
        }
    }
}

fn health(out: &mut Text, health: &Json) {
    if *health == Json::Null {
        return;
    }
    let time = |field: &str| duration::format(health.int(field));
    out.line(" Healthcheck:", "");
    out.line("  Interval = ", &time("Interval"));
    out.line("  Retries = ", &health.int("Retries").to_string());
    out.line("  StartPeriod =\t", &time("StartPeriod"));
    out.line("  Timeout =\t", &time("Timeout"));
    if !health.list("Test").is_empty() {
        out.line("  Tests:", "");
    }
    for word in health.texts("Test") {
        out.line("\t Test = ", word);
    }
    out.end_with_space();
}

fn log_driver(out: &mut Text, driver: &Json) {
    if *driver == Json::Null {
        return;
    }
    out.line("Log Driver:", "");
    out.line_if(" Name:\t\t", driver.str("Name"));
    let options = driver.text_map("Options");
    if !options.is_empty() {
        out.line(" LogOpts:", "");
        for (name, value) in options {
            let between = if value.is_empty() { "" } else { ":       " };
            out.line(&format!("  {name}{between}"), &value);
        }
    }
    out.line("", "");
}

fn resources(out: &mut Text, resources: &Json) {
    if *resources == Json::Null {
        return;
    }
    let has = |part: &str| {
        resources.float(&format!("{part}.NanoCPUs")) > 0.0
            || resources.int(&format!("{part}.MemoryBytes")) > 0
            || resources.int(&format!("{part}.Pids")) > 0
    };
    let (reserved, limited) = (has("Reservations"), has("Limits"));
    out.line("Resources:", "");
    for (shown, part) in [(reserved, "Reservations"), (limited, "Limits")] {
        if !shown {
            continue;
        }
        out.line(&format!(" {part}:"), "");
        let cpus = resources.float(&format!("{part}.NanoCPUs")) / 1e9;
        if cpus > 0.0 {
            out.line("  CPU:\t\t", &human::general(cpus, 9));
        }
        let memory = resources.float(&format!("{part}.MemoryBytes"));
        if memory > 0.0 {
            out.line("  Memory:\t", &human::size_binary(memory));
        }
        let pids = resources.int(&format!("{part}.Pids"));
        if pids > 0 {
            out.line("  PIDs:\t\t", &pids.to_string());
        }
    }
}

fn attachments(out: &mut Text, service: &Json, networks: &Json) {
    let mut attached = service.list("Spec.TaskTemplate.Networks");
    if attached.is_empty() {
        attached = service.list("Spec.Networks");
    }
    if attached.is_empty() {
        return;
    }
    let names: Vec<&str> = attached
        .iter()
        .map(|attachment| {
            let id = attachment.str("Target");
            networks
                .list("")
                .iter()
                .find(|network| network.str("Id") == id)
                .map_or(id, |network| network.str("Name"))
        })
        .collect();
    out.line("Networks:", &format!(" {} ", names.join(" ")));
}

fn endpoint(out: &mut Text, service: &Json) {
    let mode = match service.str("Endpoint.Spec.Mode") {
        "" => service.str("Spec.EndpointSpec.Mode"),
        mode => mode,
    };
    out.line("Endpoint Mode:\t", mode);
    let ports = service.list("Endpoint.Ports");
    if ports.is_empty() {
        return;
    }
    out.line("Ports:", "");
    for port in ports {
        out.line(" PublishedPort = ", &port.int("PublishedPort").to_string());
        out.line("  Protocol = ", port.str("Protocol"));
        out.line("  TargetPort = ", &port.int("TargetPort").to_string());
        out.line("  PublishMode = ", port.str("PublishMode"));
        for field in ["HostIP", "HostInterface", "Source", "Balance"] {
            if !port.str(field).is_empty() {
                out.line(&format!("  {field} = "), port.str(field));
            }
        }
    }
    out.end_with_space();
}
