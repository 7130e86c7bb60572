//! A container as the flags of `run` and `create` describe it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::devices;
use crate::cmd::service::spec;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::flags::Args;
use crate::grammar::{address, csv, environment, mount, network, port_spec, ulimit};
use crate::reference::Reference;
use crate::session::Session;

/// A seccomp profile is smaller than this.
const PROFILE_BYTES_MAX: u64 = 4 << 20;

/// Which streams `run` stays attached to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attached {
    pub input: bool,
    pub out: bool,
    pub err: bool,
}

pub fn attached(args: &Args) -> Attached {
    if args.flag("detach") {
        return Attached::default();
    }
    let wanted = args.list("attach");
    if wanted.is_empty() {
        return Attached {
            input: args.flag("interactive"),
            out: true,
            err: true,
        };
    }
    let has = |name: &str| {
        wanted
            .iter()
            .any(|stream| stream.eq_ignore_ascii_case(name))
    };
    Attached {
        input: has("stdin"),
        out: has("stdout"),
        err: has("stderr"),
    }
}

/// The body of the create call.
pub fn build(session: &Session, args: &Args) -> Outcome<Value> {
    for stream in args.list("attach") {
        if !matches!(
            stream.to_lowercase().as_str(),
            "stdin" | "stdout" | "stderr"
        ) {
            return Err(args.invalid(
                "attach",
                &stream,
                "valid streams are STDIN, STDOUT and STDERR",
            ));
        }
    }
    check_modes(args)?;
    let networks = args.each("network", network::parse)?;
    let (exposed, bindings) = ports(args)?;
    let (binds, anonymous) = volumes(args);
    let mut body = config(session, args)?;
    body["ExposedPorts"] = Value::Object(exposed);
    if !anonymous.is_empty() {
        body["Volumes"] = Value::Object(anonymous);
    }
    let mut host = host_config(args)?;
    host["Binds"] = if binds.is_empty() {
        Value::Null
    } else {
        json!(binds)
    };
    host["PortBindings"] = Value::Object(bindings);
    host["NetworkMode"] = json!(
        networks
            .first()
            .map_or("default", |network| network.target.as_str())
    );
    let endpoints = endpoints(args, networks)?;
    body["HostConfig"] = host;
    body["NetworkingConfig"] = json!({"EndpointsConfig": endpoints});
    Ok(body)
}

/// Values that are wrong whatever the daemon says.
fn check_modes(args: &Args) -> Outcome {
    let wrong = |text: &str| Err(Failure::message(text));
    let shared = |flag: &str| matches!(args.text(flag), "" | "host");
    if !shared("pid") && !args.text("pid").starts_with("container:") {
        return wrong("--pid: invalid PID mode");
    }
    if !shared("uts") {
        return wrong("--uts: invalid UTS mode");
    }
    if !shared("userns") && args.text("userns") != "private" {
        return wrong("--userns: invalid USER mode");
    }
    if !shared("cgroupns") && args.text("cgroupns") != "private" {
        return wrong("--cgroupns: invalid CGROUP mode");
    }
    if args.text("log-driver") == "none" && args.given("log-opt") {
        return wrong("invalid logging opts for driver none");
    }
    let times = [
        "health-interval",
        "health-timeout",
        "health-start-period",
        "health-start-interval",
    ];
    for flag in times {
        if args.duration(flag).is_some_and(|nanos| nanos < 0) {
            return wrong(&format!("--{flag} cannot be negative"));
        }
    }
    if args.int("health-retries").is_some_and(|count| count < 0) {
        return wrong("--health-retries cannot be negative");
    }
    if let Some(address) = args.maybe("mac-address") {
        let parts: Vec<&str> = address.split([':', '-']).collect();
        let byte = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        if !(matches!(parts.len(), 6 | 8) && parts.iter().all(byte)) {
            return wrong(&format!("{address} is not a valid mac address"));
        }
    }
    let image = args.positional(0);
    let is_id = image.len() == 64 || image.starts_with("sha256:");
    if !is_id {
        Reference::required(image).map_err(Failure::Message)?;
    }
    Ok(())
}

fn config(session: &Session, args: &Args) -> Outcome<Value> {
    let (image, command) = args
        .positionals()
        .split_first()
        .expect("the arity wants an image");
    let attached = attached(args);
    let interactive = args.flag("interactive");
    let mut variables = Vec::new();
    for path in args.list("env-file") {
        variables.extend(environment::file(&path, Some(&session.env)).map_err(Failure::Message)?);
    }
    variables.extend(args.each("env", |value| environment::variable(value, &session.env))?);
    let mut labels = BTreeMap::new();
    for path in args.list("label-file") {
        labels.extend(environment::pairs(
            environment::file(&path, None).map_err(Failure::Message)?,
        ));
    }
    labels.extend(environment::pairs(args.each("label", environment::label)?));
    let entrypoint = match args.maybe("entrypoint") {
        None => Value::Null,
        // An empty one takes the image's away.
        Some("") => json!([""]),
        Some(program) => json!([program]),
    };
    let mut config = json!({
        "Hostname": args.text("hostname"),
        "Domainname": args.text("domainname"),
        "User": args.text("user"),
        "AttachStdin": attached.input,
        "AttachStdout": attached.out,
        "AttachStderr": attached.err,
        "Tty": args.flag("tty"),
        "OpenStdin": interactive,
        "StdinOnce": interactive && attached.input,
        "Env": variables,
        "Cmd": if command.is_empty() { Value::Null } else { json!(command) },
        "Image": image,
        "Volumes": {},
        "WorkingDir": args.text("workdir"),
        "Entrypoint": entrypoint,
        "Labels": labels,
    });
    if let Some(signal) = args.maybe("stop-signal") {
        config["StopSignal"] = json!(signal);
    }
    if let Some(seconds) = args.int("stop-timeout") {
        config["StopTimeout"] = json!(seconds);
    }
    if let Some(health) = spec::healthcheck(args)? {
        config["Healthcheck"] = json!(health);
    }
    Ok(config)
}

fn host_config(args: &Args) -> Outcome<Value> {
    let (add, drop) = spec::capabilities(args.list("cap-add"), args.list("cap-drop"));
    let mut host = json!({
        "ContainerIDFile": args.text("cidfile"),
        "LogConfig": {
            "Type": args.text("log-driver"),
            "Config": environment::pairs(args.list("log-opt")),
        },
        "RestartPolicy": restart_policy(args.text("restart")).map_err(Failure::Message)?,
        "AutoRemove": args.flag("rm"),
        "VolumeDriver": args.text("volume-driver"),
        "VolumesFrom": null_if_empty(args.list("volumes-from")),
        "CapAdd": null_if_empty(add),
        "CapDrop": null_if_empty(drop),
        "CgroupnsMode": args.text("cgroupns"),
        "Dns": args.each("dns", address::ip)?,
        "DnsOptions": args.list("dns-option"),
        "DnsSearch": args.each("dns-search", address::search_domain)?,
        "ExtraHosts": null_if_empty(args.each("add-host", address::extra_host)?),
        "GroupAdd": null_if_empty(args.list("group-add")),
        "IpcMode": args.text("ipc"),
        "Cgroup": "",
        "Links": null_if_empty(args.list("link")),
        "OomScoreAdj": args.int("oom-score-adj").unwrap_or(0),
        "PidMode": args.text("pid"),
        "Privileged": args.flag("privileged"),
        "PublishAllPorts": args.flag("publish-all"),
        "ReadonlyRootfs": args.flag("read-only"),
        "UTSMode": args.text("uts"),
        "UsernsMode": args.text("userns"),
        "ShmSize": args.bytes("shm-size").unwrap_or(0),
        "Isolation": args.text("isolation"),
    });
    resources(args, &mut host)?;
    security(args, &mut host)?;
    args.each("sysctl", allowed_sysctl)?;
    let maps = [
        ("storage-opt", "StorageOpt"),
        ("sysctl", "Sysctls"),
        ("annotation", "Annotations"),
    ];
    for (flag, field) in maps {
        if args.given(flag) {
            host[field] = json!(environment::pairs(args.list(flag)));
        }
    }
    if args.given("tmpfs") {
        let mounts = args.list("tmpfs");
        let mounts: BTreeMap<&str, &str> = mounts
            .iter()
            .map(|mount| mount.split_once(':').unwrap_or((mount, "")))
            .collect();
        host["Tmpfs"] = json!(mounts);
    }
    let mounts = args.each("mount", |value| {
        let (mount, kind) = mount::parse_any(value, &files::absolute)?;
        let mut mount = json!(mount);
        mount["Type"] = json!(kind);
        Ok(mount)
    })?;
    if !mounts.is_empty() {
        host["Mounts"] = json!(mounts);
    }
    if let Some(runtime) = args.maybe("runtime") {
        host["Runtime"] = json!(runtime);
    }
    if args.given("init") {
        host["Init"] = json!(args.flag("init"));
    }
    if args.flag("use-api-socket") {
        return Err(Failure::message("--use-api-socket is not supported"));
    }
    Ok(host)
}

/// Settings of the kernel that a container has for itself.
fn allowed_sysctl(value: &str) -> Result<(), String> {
    const ALLOWED: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let name = value.split('=').next().unwrap_or("");
    let own = ALLOWED.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.");
    if own && value.contains('=') {
        Ok(())
    } else {
        Err(format!("sysctl '{value}' is not allowed"))
    }
}

fn null_if_empty(list: Vec<String>) -> Value {
    if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    }
}

fn resources(args: &Args, host: &mut Value) -> Outcome {
    host["CgroupParent"] = json!(args.text("cgroup-parent"));
    host["CpusetCpus"] = json!(args.text("cpuset-cpus"));
    host["CpusetMems"] = json!(args.text("cpuset-mems"));
    host["NanoCpus"] = json!(args.nano_cpus("cpus").unwrap_or(0));
    host["BlkioWeight"] = json!(args.uint("blkio-weight").unwrap_or(0));
    for (flag, field) in [
        ("memory", "Memory"),
        ("memory-reservation", "MemoryReservation"),
        ("memory-swap", "MemorySwap"),
    ] {
        host[field] = json!(args.bytes(flag).unwrap_or(0));
    }
    for (flag, field) in [
        ("cpu-shares", "CpuShares"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
    ] {
        host[field] = json!(args.int(flag).unwrap_or(0));
    }
    if let Some(swappiness) = args.int("memory-swappiness").filter(|value| *value != -1) {
        if !(0..=100).contains(&swappiness) {
            return Err(Failure::message(format!(
                "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
            )));
        }
        host["MemorySwappiness"] = json!(swappiness);
    }
    if args.given("oom-kill-disable") {
        host["OomKillDisable"] = json!(args.flag("oom-kill-disable"));
    }
    if let Some(limit) = args.int("pids-limit") {
        host["PidsLimit"] = json!(limit);
    }
    host["Ulimits"] = json!(args.each("ulimit", ulimit::parse)?);
    host["DeviceCgroupRules"] = null_if_empty(args.list("device-cgroup-rule"));
    let (named, paths): (Vec<String>, Vec<String>) = args
        .list("device")
        .into_iter()
        .partition(|device| devices::is_cdi(device));
    let mut list = Vec::new();
    for path in &paths {
        list.push(devices::device(path).map_err(Failure::Message)?);
    }
    host["Devices"] = json!(list);
    let mut requests = args.each("gpus", devices::gpus)?;
    if !named.is_empty() {
        requests.push(devices::cdi_request(&named));
    }
    if !requests.is_empty() {
        host["DeviceRequests"] = json!(requests);
    }
    host["BlkioWeightDevice"] = json!(args.each("blkio-weight-device", devices::weight)?);
    host["BlkioDeviceReadBps"] = json!(args.each("device-read-bps", devices::rate_bytes)?);
    host["BlkioDeviceWriteBps"] = json!(args.each("device-write-bps", devices::rate_bytes)?);
    host["BlkioDeviceReadIOps"] = json!(args.each("device-read-iops", devices::rate_operations)?);
    host["BlkioDeviceWriteIOps"] = json!(args.each("device-write-iops", devices::rate_operations)?);
    Ok(())
}

/// Security options; a seccomp profile is read here and sent as text.
fn security(args: &Args, host: &mut Value) -> Outcome {
    let mut options = Vec::new();
    for option in args.list("security-opt") {
        if option == "systempaths=unconfined" {
            host["MaskedPaths"] = json!([]);
            host["ReadonlyPaths"] = json!([]);
            continue;
        }
        if option != "no-new-privileges" && !option.contains(['=', ':']) {
            return Err(Failure::message(format!(
                "Invalid --security-opt: {}",
                crate::human::quote(&option)
            )));
        }
        match option.split_once('=') {
            Some(("seccomp", path)) if !matches!(path, "unconfined" | "builtin") => {
                let profile = files::read(path, PROFILE_BYTES_MAX).map_err(|why| {
                    Failure::message(format!("opening seccomp profile ({path}) failed: {why}"))
                })?;
                let profile: Value = serde_json::from_slice(&profile).map_err(|why| {
                    Failure::message(format!(
                        "compacting json for seccomp profile ({path}) failed: {why}"
                    ))
                })?;
                options.push(format!("seccomp={profile}"));
            }
            _ => options.push(option),
        }
    }
    host["SecurityOpt"] = null_if_empty(options);
    Ok(())
}

/// `no`, `always`, `unless-stopped`, `on-failure[:count]`.
pub fn restart_policy(text: &str) -> Result<Value, String> {
    let (name, count) = text.split_once(':').unwrap_or((text, ""));
    if text.starts_with(':') {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    let count: i64 = match count {
        "" => 0,
        count => count.parse().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    let name = if name.is_empty() { "no" } else { name };
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

/// Exposed ports, and published ones with their addresses.
fn ports(args: &Args) -> Outcome<(Map<String, Value>, Map<String, Value>)> {
    let mut exposed = Map::new();
    let mut bindings: Map<String, Value> = Map::new();
    for value in args.list("publish") {
        let short = if csv::is_long(&value) {
            long_port(&value)
        } else {
            Ok(value.clone())
        };
        let mappings = short
            .and_then(|short| port_spec::parse(&short))
            .map_err(Failure::Message)?;
        for mapping in mappings {
            let port = format!("{}/{}", mapping.port, mapping.protocol);
            exposed.insert(port.clone(), json!({}));
            let binding = json!({"HostIp": mapping.host_ip, "HostPort": mapping.host_port});
            match bindings.entry(port).or_insert_with(|| json!([])) {
                Value::Array(list) => list.push(binding),
                other => *other = json!([binding]),
            }
        }
    }
    for value in args.list("expose") {
        let (numbers, protocol) = value.split_once('/').unwrap_or((&value, "tcp"));
        if value.contains(':') {
            return Err(Failure::message(format!(
                "invalid port format for --expose: {value}"
            )));
        }
        let (first, last) = port_spec::range(numbers).ok_or_else(|| {
            Failure::message(format!(
                "invalid range format for --expose: {value}, error: invalid port"
            ))
        })?;
        for port in first..=last {
            exposed.insert(format!("{port}/{protocol}"), json!({}));
        }
    }
    Ok((exposed, bindings))
}

/// `target=80,published=8080,…` in the short form.
fn long_port(value: &str) -> Result<String, String> {
    let mut target = String::new();
    let mut published = String::new();
    let mut protocol = "tcp".to_owned();
    for field in csv::fields(value)? {
        match field.split_once('=') {
            Some(("target", value)) => value.clone_into(&mut target),
            Some(("published", value)) => value.clone_into(&mut published),
            Some(("protocol", value)) => value.clone_into(&mut protocol),
            Some(("mode", _)) => {}
            _ => {
                return Err(format!(
                    "invalid publish opts format (should be name=value but got '{field}')"
                ));
            }
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

/// Binds, and paths that get an anonymous volume.
fn volumes(args: &Args) -> (Vec<String>, Map<String, Value>) {
    let mut binds = Vec::new();
    let mut anonymous = Map::new();
    for volume in args.list("volume") {
        match volume.split_once(':') {
            None => {
                anonymous.insert(volume, json!({}));
            }
            Some((source, rest)) if source.starts_with('.') => {
                binds.push(format!("{}:{rest}", files::absolute(source)));
            }
            Some(_) => binds.push(volume),
        }
    }
    (binds, anonymous)
}

/// How each network is joined. Flags without a network of their own belong to the first.
fn endpoints(args: &Args, mut networks: Vec<network::NetworkFlag>) -> Outcome<Map<String, Value>> {
    let flags = ["network-alias", "ip", "ip6", "link-local-ip", "mac-address"];
    if networks.is_empty() && flags.iter().any(|flag| args.given(flag)) {
        networks.push(network::NetworkFlag {
            target: "default".to_owned(),
            ..Default::default()
        });
    }
    let Some(first) = networks.first_mut() else {
        return Ok(Map::new());
    };
    if !first.aliases.is_empty() && args.given("network-alias") {
        return Err(Failure::message(
            "conflicting options: cannot specify both --network-alias and per-network alias",
        ));
    }
    first.aliases.extend(args.list("network-alias"));
    first.link_local.extend(args.list("link-local-ip"));
    for (flag, field) in [
        ("ip", &mut first.ip),
        ("ip6", &mut first.ip6),
        ("mac-address", &mut first.mac),
    ] {
        if let Some(value) = args.maybe(flag) {
            if !field.is_empty() {
                return Err(Failure::message(format!(
                    "conflicting options: cannot specify both --{flag} and per-network address"
                )));
            }
            value.clone_into(field);
        }
    }
    let user_defined = !matches!(
        first.target.as_str(),
        "" | "default" | "bridge" | "host" | "none"
    ) && !first.target.starts_with("container:");
    if !first.aliases.is_empty() && !user_defined {
        return Err(Failure::message(
            "network-scoped aliases are only supported for user-defined networks",
        ));
    }
    let links = args.list("link");
    let mut endpoints = Map::new();
    for (index, network) in networks.into_iter().enumerate() {
        if endpoints.contains_key(&network.target) {
            return Err(Failure::message(format!(
                "network {} is specified multiple times",
                crate::human::quote(&network.target)
            )));
        }
        let mut endpoint = json!({
            "Aliases": (!network.aliases.is_empty()).then_some(network.aliases),
            "DriverOpts": (!network.driver_opts.is_empty()).then_some(network.driver_opts),
            "GwPriority": network.gw_priority,
        });
        // On the default network links are the host's business.
        if index == 0 && !links.is_empty() && user_defined {
            endpoint["Links"] = json!(links);
        }
        if !network.mac.is_empty() {
            endpoint["MacAddress"] = json!(network.mac);
        }
        if !network.ip.is_empty() || !network.ip6.is_empty() || !network.link_local.is_empty() {
            endpoint["IPAMConfig"] = json!({
                "IPv4Address": network.ip,
                "IPv6Address": network.ip6,
                "LinkLocalIPs": network.link_local,
            });
        }
        endpoints.insert(network.target, endpoint);
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies() {
        assert_eq!(restart_policy("").unwrap()["Name"], "no");
        assert_eq!(
            restart_policy("on-failure:3").unwrap(),
            json!({"Name": "on-failure", "MaximumRetryCount": 3})
        );
        assert!(restart_policy("on-failure:x").is_err());
        assert!(restart_policy(":3").is_err());
    }

    #[test]
    fn ports_have_a_long_form() {
        assert_eq!(
            long_port("target=80,published=8080,protocol=udp").unwrap(),
            "8080:80/udp"
        );
        assert_eq!(long_port("target=80").unwrap(), ":80/tcp");
        assert!(long_port("target=80,x=1").is_err());
    }
}
