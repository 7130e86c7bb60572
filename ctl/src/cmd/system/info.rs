//! `info`.

use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::template::{Dot, Template};

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let answer = session.client.json(Call::get("/info")).await;
    let client = serde_json::json!({
        "Debug": false,
        "Version": env!("CARGO_PKG_VERSION"),
        "DefaultAPIVersion": format!("{}.{}", crate::client::API_VERSION.0, crate::client::API_VERSION.1),
        "Os": std::env::consts::OS,
        "Arch": super::version::go_architecture(),
        "Context": "default",
        "Plugins": [],
        "Warnings": null,
    });
    let (info, failure) = match answer {
        Ok(info) => (info, None),
        Err(failure) => (Json::Null, Some(failure)),
    };
    let format = args.text("format");
    if !format.is_empty() {
        let mut fields = info.fields("").to_vec();
        let errors = failure
            .iter()
            .map(|failure| Json::from(failure.to_string()))
            .collect();
        if failure.is_some() {
            fields.push(("ServerErrors".to_owned(), Json::List(errors)));
        }
        fields.push(("ClientInfo".to_owned(), Json::of(&client)));
        let all = Json::Object(fields);
        let text = if format == "json" {
            all.compact(false)
        } else {
            let template = Template::parse(format)
                .map_err(|why| Failure::message(format!("template parsing error: {why}")))?;
            template.run(&Dot::of(&all)).map_err(Failure::Message)?
        };
        session.say(text)?;
        return failure.map_or(Ok(()), |_| Err(Failure::exit(1)));
    }
    let mut text = format!(
        "Client: skep\n Version:    {}\n Context:    default\n Debug Mode: false\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    );
    if let Some(failure) = failure {
        session.print(&text)?;
        session.warn(failure.to_string());
        session.warn("errors pretty printing info");
        return Err(Failure::exit(1));
    }
    server(&mut text, &info);
    session.print(&text)?;
    for warning in info.texts("Warnings") {
        session.warn(warning);
    }
    Ok(())
}

fn line(text: &mut String, label: &str, value: impl std::fmt::Display) {
    text.push_str(&format!(" {label}: {value}\n"));
}

fn line_if(text: &mut String, label: &str, value: &str) {
    if !value.is_empty() {
        line(text, label, value);
    }
}

fn server(text: &mut String, info: &Json) {
    line(text, "Containers", info.int("Containers"));
    for (label, field) in [
        ("Running", "ContainersRunning"),
        ("Paused", "ContainersPaused"),
        ("Stopped", "ContainersStopped"),
    ] {
        line(text, &format!(" {label}"), info.int(field));
    }
    line(text, "Images", info.int("Images"));
    line_if(text, "Server Version", info.str("ServerVersion"));
    line_if(text, "Storage Driver", info.str("Driver"));
    for pair in info.list("DriverStatus") {
        if let [name, value] = &pair.texts("")[..] {
            line(text, &format!(" {name}"), value);
        }
    }
    line_if(text, "Logging Driver", info.str("LoggingDriver"));
    line_if(text, "Cgroup Driver", info.str("CgroupDriver"));
    line_if(text, "Cgroup Version", info.str("CgroupVersion"));
    text.push_str(" Plugins:\n");
    for (label, field) in [
        ("Volume", "Volume"),
        ("Network", "Network"),
        ("Authorization", "Authorization"),
        ("Log", "Log"),
    ] {
        let names = info.texts(&format!("Plugins.{field}"));
        if !names.is_empty() || matches!(label, "Volume" | "Network" | "Log") {
            line(text, &format!(" {label}"), names.join(" "));
        }
    }
    let specs = info.texts("CDISpecDirs");
    if !specs.is_empty() {
        text.push_str(" CDI spec directories:\n");
        specs
            .iter()
            .for_each(|path| text.push_str(&format!("  {path}\n")));
    }
    swarm(text, info.at("Swarm"));
    let mut runtimes: Vec<&str> = info
        .fields("Runtimes")
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    if !runtimes.is_empty() {
        runtimes.sort_unstable();
        line(text, "Runtimes", runtimes.join(" "));
        line(text, "Default Runtime", info.str("DefaultRuntime"));
    }
    if info.str("OSType") == "linux" {
        line(text, "Init Binary", info.str("InitBinary"));
        for (label, field) in [
            ("containerd", "ContainerdCommit"),
            ("runc", "RuncCommit"),
            ("init", "InitCommit"),
        ] {
            line(
                text,
                &format!("{label} version"),
                info.str(&format!("{field}.ID")),
            );
        }
        security(text, info);
    }
    line_if(text, "Kernel Version", info.str("KernelVersion"));
    line_if(text, "Operating System", info.str("OperatingSystem"));
    line_if(text, "OSType", info.str("OSType"));
    line_if(text, "Architecture", info.str("Architecture"));
    line(text, "CPUs", info.int("NCPU"));
    line(
        text,
        "Total Memory",
        human::size_binary(info.float("MemTotal")),
    );
    line_if(text, "Name", info.str("Name"));
    line_if(text, "ID", info.str("ID"));
    line(text, "Docker Root Dir", info.str("DockerRootDir"));
    line(text, "Debug Mode", info.bool("Debug"));
    line_if(text, "HTTP Proxy", info.str("HttpProxy"));
    line_if(text, "HTTPS Proxy", info.str("HttpsProxy"));
    line_if(text, "No Proxy", info.str("NoProxy"));
    let labels = info.texts("Labels");
    if !labels.is_empty() {
        text.push_str(" Labels:\n");
        labels
            .iter()
            .for_each(|label| text.push_str(&format!("  {label}\n")));
    }
    line(text, "Experimental", info.bool("ExperimentalBuild"));
    registries(text, info.at("RegistryConfig"));
    line(
        text,
        "Live Restore Enabled",
        info.bool("LiveRestoreEnabled"),
    );
    line_if(text, "Product License", info.str("ProductLicense"));
    let pools = info.list("DefaultAddressPools");
    if !pools.is_empty() {
        text.push_str(" Default Address Pools:\n");
        for pool in pools {
            text.push_str(&format!(
                "   Base: {}, Size: {}\n",
                pool.str("Base"),
                pool.int("Size")
            ));
        }
    }
    text.push('\n');
}

fn security(text: &mut String, info: &Json) {
    let options = info.texts("SecurityOptions");
    if options.is_empty() {
        return;
    }
    text.push_str(" Security Options:\n");
    for option in options {
        for pair in option.split(',') {
            let (key, value) = pair.split_once('=').unwrap_or(("name", pair));
            if key == "name" {
                text.push_str(&format!("  {value}\n"));
            } else {
                let mut chars = key.chars();
                let key: String = chars
                    .next()
                    .into_iter()
                    .flat_map(char::to_uppercase)
                    .chain(chars)
                    .collect();
                text.push_str(&format!("   {key}: {value}\n"));
            }
        }
    }
}

fn registries(text: &mut String, config: &Json) {
    let cidrs = config.texts("InsecureRegistryCIDRs");
    let insecure: Vec<&str> = config
        .fields("IndexConfigs")
        .iter()
        .filter(|(_, index)| !index.bool("Secure"))
        .map(|(name, _)| name.as_str())
        .collect();
    if !cidrs.is_empty() || !insecure.is_empty() {
        text.push_str(" Insecure Registries:\n");
        insecure
            .iter()
            .chain(&cidrs)
            .for_each(|name| text.push_str(&format!("  {name}\n")));
    }
    let mirrors = config.texts("Mirrors");
    if !mirrors.is_empty() {
        text.push_str(" Registry Mirrors:\n");
        mirrors
            .iter()
            .for_each(|mirror| text.push_str(&format!("  {mirror}\n")));
    }
}

fn swarm(text: &mut String, swarm: &Json) {
    line(text, "Swarm", swarm.str("LocalNodeState"));
    if matches!(swarm.str("LocalNodeState"), "inactive" | "locked" | "") {
        return;
    }
    let cluster = swarm.at("Cluster");
    let spec = cluster.at("Spec");
    line(text, " NodeID", swarm.str("NodeID"));
    if !swarm.str("Error").is_empty() {
        line(text, " Error", swarm.str("Error"));
    }
    line(text, " Is Manager", swarm.bool("ControlAvailable"));
    let manager = *cluster != Json::Null
        && swarm.bool("ControlAvailable")
        && !matches!(swarm.str("LocalNodeState"), "error");
    if manager {
        line(text, " ClusterID", cluster.str("ID"));
        line(text, " Managers", swarm.int("Managers"));
        line(text, " Nodes", swarm.int("Nodes"));
        let pools: String = cluster
            .texts("DefaultAddrPool")
            .iter()
            .map(|pool| format!("{pool}  "))
            .collect();
        line(text, " Default Address Pool", pools);
        line(text, " SubnetSize", cluster.int("SubnetSize"));
        line(text, " Data Path Port", cluster.int("DataPathPort"));
        text.push_str("  Orchestration:\n");
        let history = match spec.at("Orchestration.TaskHistoryRetentionLimit") {
            Json::Null => 5,
            _ => spec.int("Orchestration.TaskHistoryRetentionLimit"),
        };
        line(text, "  Task History Retention Limit", history);
        text.push_str("  Raft:\n");
        line(
            text,
            "  Snapshot Interval",
            spec.int("Raft.SnapshotInterval"),
        );
        if *spec.at("Raft.KeepOldSnapshots") != Json::Null {
            line(
                text,
                "  Number of Old Snapshots to Retain",
                spec.int("Raft.KeepOldSnapshots"),
            );
        }
        line(text, "  Heartbeat Tick", spec.int("Raft.HeartbeatTick"));
        line(text, "  Election Tick", spec.int("Raft.ElectionTick"));
        text.push_str("  Dispatcher:\n");
        line(
            text,
            "  Heartbeat Period",
            age(spec.int("Dispatcher.HeartbeatPeriod")),
        );
        text.push_str("  CA Configuration:\n");
        line(
            text,
            "  Expiry Duration",
            age(spec.int("CAConfig.NodeCertExpiry")),
        );
        line(text, "  Force Rotate", spec.int("CAConfig.ForceRotate"));
        let signing = spec.str("CAConfig.SigningCACert").trim();
        if !signing.is_empty() {
            text.push_str(&format!("   Signing CA Certificate: \n{signing}\n\n"));
        }
        let external = spec.list("CAConfig.ExternalCAs");
        if !external.is_empty() {
            text.push_str("   External CAs:\n");
            for ca in external {
                text.push_str(&format!("     {}: {}\n", ca.str("Protocol"), ca.str("URL")));
            }
        }
        line(
            text,
            " Autolock Managers",
            spec.bool("EncryptionConfig.AutoLockManagers"),
        );
        line(
            text,
            " Root Rotation In Progress",
            cluster.bool("RootRotationInProgress"),
        );
    }
    line(text, " Node Address", swarm.str("NodeAddr"));
    let mut managers: Vec<&str> = swarm
        .list("RemoteManagers")
        .iter()
        .map(|manager| manager.str("Addr"))
        .collect();
    if !managers.is_empty() {
        managers.sort_unstable();
        text.push_str("  Manager Addresses:\n");
        managers
            .iter()
            .for_each(|address| text.push_str(&format!("   {address}\n")));
    }
}

fn age(nanos: i64) -> String {
    human::age(std::time::Duration::from_nanos(nanos.unsigned_abs()))
}
