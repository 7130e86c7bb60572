//! The daemon's flags: dockerd's own where they mean something here, and `daemon.json` with the
//! same names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::builder::BoolishValueParser;
use ipnet::IpNet;
use serde_json::{Map, Value};
use skep_engine::types::{LogConfig, Ulimit};
use skep_engine::{AddressPool, EngineConfig};
use skep_manager::stores::option::{StoreOption, read_all};
use skep_model::image_source::ImageSource;
use skep_model::resources::{GenericResource, offered};
use skep_net::EncryptionChoice;

/// Why the daemon does not start with these options.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    #[error("unable to configure the daemon with file {}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("invalid value `{value}` for --{flag}: {reason}")]
    Value {
        flag: &'static str,
        value: String,
        reason: String,
    },
}

fn wrong(flag: &'static str, value: &str, reason: impl std::fmt::Display) -> OptionError {
    OptionError::Value {
        flag,
        value: value.to_owned(),
        reason: reason.to_string(),
    }
}

/// Runs the node daemon.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "skep daemon",
    bin_name = "skep daemon",
    version,
    about = "Run the node daemon",
    disable_help_subcommand = true
)]
pub struct DaemonArgs {
    /// Configuration file with these flags' names as keys (default /etc/skep/daemon.json, which may be absent)
    #[arg(long)]
    pub config_file: Option<PathBuf>,
    /// Root directory of persistent state
    #[arg(long, default_value = "/var/lib/skep")]
    pub data_root: PathBuf,
    /// Root directory of state that does not outlive a boot
    #[arg(long, default_value = "/run/skep")]
    pub exec_root: PathBuf,
    /// Address to serve the API on: unix:///path or tcp://address:port; repeatable
    #[arg(short = 'H', long = "host")]
    pub hosts: Vec<String>,
    /// Group that owns unix sockets
    #[arg(short = 'G', long, default_value = "docker")]
    pub group: String,
    /// File to write the process id to
    #[arg(short = 'p', long)]
    pub pidfile: Option<PathBuf>,
    /// Label of this node, KEY=VALUE; repeatable
    #[arg(long = "label")]
    pub labels: Vec<String>,
    /// What this node offers to services that reserve it, KIND=COUNT or KIND=NAME; repeatable
    #[arg(long = "node-generic-resource")]
    pub node_generic_resources: Vec<String>,
    /// Registry that may be spoken to without TLS; repeatable
    #[arg(long = "insecure-registry")]
    pub insecure_registries: Vec<String>,
    /// Mirror to try before docker.io; repeatable
    #[arg(long = "registry-mirror")]
    pub registry_mirrors: Vec<String>,
    /// Range for networks of this host, base=CIDR,size=N; repeatable
    #[arg(long = "default-address-pool")]
    pub default_address_pools: Vec<String>,
    /// Address and subnet of the default bridge
    #[arg(long)]
    pub bip: Option<String>,
    /// debug, info, warn or error
    #[arg(short = 'l', long, default_value = "info")]
    pub log_level: String,
    /// Same as --log-level debug
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// Cgroup below which containers get theirs
    #[arg(long, default_value = "/skep")]
    pub cgroup_parent: String,
    /// Storage driver; overlay2 is the one there is
    #[arg(short = 's', long)]
    pub storage_driver: Option<String>,
    /// Runtime option; native.cgroupdriver=cgroupfs is the one there is
    #[arg(long = "exec-opt")]
    pub exec_opts: Vec<String>,
    /// Log driver of containers that name none
    #[arg(long, default_value = "json-file")]
    pub log_driver: String,
    /// Option of that log driver, KEY=VALUE; repeatable
    #[arg(long = "log-opt")]
    pub log_opts: Vec<String>,
    /// Resolver of containers; repeatable
    #[arg(long)]
    pub dns: Vec<String>,
    /// Search domain of containers; repeatable
    #[arg(long)]
    pub dns_search: Vec<String>,
    /// Resolver option of containers; repeatable
    #[arg(long = "dns-opt", alias = "dns-option")]
    pub dns_opts: Vec<String>,
    /// Ulimit of containers, NAME=SOFT[:HARD]; repeatable
    #[arg(long = "default-ulimit")]
    pub default_ulimits: Vec<String>,
    /// Size of /dev/shm of containers
    #[arg(long)]
    pub default_shm_size: Option<String>,
    /// Users that containers' users are on this host: default, or USER|UID[:GROUP|GID] with ranges in /etc/subuid and /etc/subgid
    #[arg(long)]
    pub userns_remap: Option<String>,
    /// Directory where vendors describe devices (default /etc/cdi and /var/run/cdi; empty for none); repeatable
    #[arg(long = "cdi-spec-dir")]
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// What encrypts encrypted networks: auto (the kernel's WireGuard, else a process), kernel, userspace or none
    #[arg(long, default_value = "auto")]
    pub data_path_encryption: String,
    /// Where images of services come from: registry-first, peers-first (the other nodes), registry-only or peers-only; a service's label skep.image-source overrides it
    #[arg(long, default_value = "registry-first")]
    pub image_source: String,
    /// Store outside of the cluster that holds what secrets do, on managers: NAME=exec:/PATH (a command) or NAME=vault:https://HOST:8200,token-file=/PATH[,ca-file=/PATH][,namespace=NAME][,insecure=true]; repeatable
    #[arg(long = "secret-store")]
    pub secret_stores: Vec<String>,
    /// Run an init in every container
    #[arg(long)]
    pub init: bool,
    /// Host name that the node shows (default: the system's)
    #[arg(long)]
    pub node_name: Option<String>,
    /// Accepted and without effect: containers always survive the daemon
    #[arg(long, hide = true)]
    pub live_restore: bool,
    /// Accepted and without effect
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub userland_proxy: Option<String>,
    /// Accepted and without effect: rules are our own nftables tables
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub iptables: Option<String>,
    /// Accepted and without effect
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub ip_forward: Option<String>,
    /// Accepted and without effect yet
    #[arg(long, hide = true)]
    pub metrics_addr: Option<String>,
    /// Serve TCP with TLS, and to clients with a certificate only (--tlsverify=false: to all); implied by --tlsverify and $DOCKER_TLS_VERIFY. --tls=false says that TCP without TLS is meant
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub tls: Option<bool>,
    /// Serve TCP with TLS, and to clients with a certificate of --tlscacert only
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_parser = BoolishValueParser::new())]
    pub tlsverify: Option<bool>,
    /// Certificate of the authority that clients' certificates must be of (default ca.pem in $DOCKER_CERT_PATH or ~/.docker)
    #[arg(long)]
    pub tlscacert: Option<PathBuf>,
    /// The server's certificate (default cert.pem there)
    #[arg(long)]
    pub tlscert: Option<PathBuf>,
    /// The server's key (default key.pem there)
    #[arg(long)]
    pub tlskey: Option<PathBuf>,
}

/// Keys of daemon.json and the flags they stand for.
const FILE_KEYS: &[(&str, &str)] = &[
    ("data-root", "data-root"),
    ("exec-root", "exec-root"),
    ("hosts", "host"),
    ("group", "group"),
    ("pidfile", "pidfile"),
    ("labels", "label"),
    ("node-generic-resources", "node-generic-resource"),
    ("insecure-registries", "insecure-registry"),
    ("registry-mirrors", "registry-mirror"),
    ("default-address-pools", "default-address-pool"),
    ("bip", "bip"),
    ("log-level", "log-level"),
    ("debug", "debug"),
    ("cgroup-parent", "cgroup-parent"),
    ("storage-driver", "storage-driver"),
    ("exec-opts", "exec-opt"),
    ("log-driver", "log-driver"),
    ("log-opts", "log-opt"),
    ("dns", "dns"),
    ("dns-search", "dns-search"),
    ("dns-opts", "dns-opt"),
    ("default-ulimits", "default-ulimit"),
    ("default-shm-size", "default-shm-size"),
    ("init", "init"),
    ("data-path-encryption", "data-path-encryption"),
    ("image-source", "image-source"),
    ("secret-stores", "secret-store"),
    ("cdi-spec-dirs", "cdi-spec-dir"),
    ("userns-remap", "userns-remap"),
    ("node-name", "node-name"),
    ("live-restore", "live-restore"),
    ("userland-proxy", "userland-proxy"),
    ("iptables", "iptables"),
    ("ip-forward", "ip-forward"),
    ("metrics-addr", "metrics-addr"),
    ("tls", "tls"),
    ("tlsverify", "tlsverify"),
    ("tlscacert", "tlscacert"),
    ("tlscert", "tlscert"),
    ("tlskey", "tlskey"),
];

/// Turns a configuration file into the flags it stands for.
pub fn file_flags(path: &Path, text: &str) -> Result<Vec<String>, OptionError> {
    let fail = |reason: String| OptionError::File {
        path: path.to_owned(),
        reason,
    };
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let keys: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| fail(format!("invalid JSON: {error}")))?;
    let mut flags = Vec::new();
    for (key, value) in &keys {
        let Some((_, flag)) = FILE_KEYS.iter().find(|(known, _)| known == key) else {
            return Err(fail(format!(
                "the following directives don't match any configuration option: {key}"
            )));
        };
        push_flag(&mut flags, flag, value).map_err(|reason| fail(format!("{key}: {reason}")))?;
    }
    Ok(flags)
}

fn push_flag(flags: &mut Vec<String>, flag: &str, value: &Value) -> Result<(), String> {
    let switch = matches!(flag, "debug" | "init" | "live-restore");
    match value {
        Value::Bool(on) if switch => {
            if *on {
                flags.push(format!("--{flag}"));
            }
        }
        Value::Bool(on) => flags.push(format!("--{flag}={on}")),
        Value::String(text) => flags.push(format!("--{flag}={text}")),
        Value::Number(number) => flags.push(format!("--{flag}={number}")),
        Value::Array(items) => {
            for item in items {
                match (flag, item) {
                    ("default-address-pool", Value::Object(pool)) => {
                        let text = |key: &str| match pool.get(key) {
                            Some(Value::String(text)) => text.clone(),
                            Some(Value::Number(number)) => number.to_string(),
                            _ => String::new(),
                        };
                        flags.push(format!(
                            "--{flag}=base={},size={}",
                            text("base"),
                            text("size")
                        ));
                    }
                    (_, item) => push_flag(flags, flag, item)?,
                }
            }
        }
        Value::Object(entries) => {
            for (key, value) in entries {
                let text = match (flag, value) {
                    ("default-ulimit", Value::Object(limit)) => {
                        let number =
                            |key: &str| limit.get(key).and_then(Value::as_i64).unwrap_or(-1);
                        format!("{key}={}:{}", number("Soft"), number("Hard"))
                    }
                    (_, Value::String(text)) => format!("{key}={text}"),
                    (_, other) => format!("{key}={other}"),
                };
                flags.push(format!("--{flag}={text}"));
            }
        }
        Value::Null => (),
    }
    Ok(())
}

impl DaemonArgs {
    /// What is to be said at the start about flags that change nothing.
    pub fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self.metrics_addr.is_some() {
            warnings.push("--metrics-addr has no effect yet");
        }
        if self.userland_proxy.as_deref() == Some("true") {
            warnings.push("--userland-proxy has no effect: published ports need no proxy");
        }
        if self.iptables.as_deref() == Some("false") {
            warnings
                .push("--iptables=false has no effect: rules are kept in our own nftables tables");
        }
        warnings
    }

    /// Refuses, by name, what cannot be honoured and would be missed.
    pub fn check(&self) -> Result<(), OptionError> {
        if let Some(driver) = &self.storage_driver
            && driver != "overlay2"
        {
            return Err(wrong(
                "storage-driver",
                driver,
                "the one storage driver is overlay2",
            ));
        }
        for option in &self.exec_opts {
            if option != "native.cgroupdriver=cgroupfs" {
                return Err(wrong(
                    "exec-opt",
                    option,
                    "the one option is native.cgroupdriver=cgroupfs",
                ));
            }
        }
        if !matches!(
            self.log_level.as_str(),
            "debug" | "info" | "warn" | "error" | "fatal" | "trace"
        ) {
            return Err(wrong(
                "log-level",
                &self.log_level,
                "want debug, info, warn or error",
            ));
        }
        self.generic_resources()?;
        self.image_source()?;
        self.secret_stores()?;
        Ok(())
    }

    /// Stores outside of the cluster that hold what secrets do.
    pub fn secret_stores(&self) -> Result<Vec<StoreOption>, OptionError> {
        read_all(&self.secret_stores).map_err(|(given, why)| wrong("secret-store", &given, why))
    }

    /// Where images of services come from that do not say.
    pub fn image_source(&self) -> Result<ImageSource, OptionError> {
        let given = &self.image_source;
        given
            .parse()
            .map_err(|why: String| wrong("image-source", given, why))
    }

    /// What services may reserve here besides processors and memory.
    pub fn generic_resources(&self) -> Result<Vec<GenericResource>, OptionError> {
        let given = &self.node_generic_resources;
        offered(given).map_err(|why| wrong("node-generic-resource", &given.join(","), why))
    }

    /// What may encrypt between nodes.
    pub fn encryption(&self) -> Result<EncryptionChoice, OptionError> {
        match self.data_path_encryption.as_str() {
            "auto" => Ok(EncryptionChoice::Auto),
            "kernel" => Ok(EncryptionChoice::Kernel),
            "userspace" => Ok(EncryptionChoice::Userspace),
            "none" => Ok(EncryptionChoice::None),
            other => Err(wrong(
                "data-path-encryption",
                other,
                "want auto, kernel, userspace or none",
            )),
        }
    }

    /// The engine's configuration.
    pub fn engine_config(&self, reserved: IpNet) -> Result<EngineConfig, OptionError> {
        let mut config = EngineConfig::new(self.data_root.clone(), self.exec_root.clone());
        config.cgroup_parent.clone_from(&self.cgroup_parent);
        config.labels.clone_from(&self.labels);
        config.default_log = LogConfig {
            kind: self.log_driver.clone(),
            config: pairs("log-opt", &self.log_opts)?,
        };
        config.registries.mirrors.clone_from(&self.registry_mirrors);
        config
            .registries
            .insecure
            .clone_from(&self.insecure_registries);
        // The range of the tasks' own way out must not be given to a network as well.
        config.address_pools.retain(|pool| pool.base != reserved);
        if !self.default_address_pools.is_empty() {
            config.address_pools = self
                .default_address_pools
                .iter()
                .map(|given| pool(given))
                .collect::<Result<_, _>>()?;
        }
        if let Some(bip) = &self.bip {
            config.bridge_address = Some(bip.parse().map_err(|error| wrong("bip", bip, error))?);
        }
        for server in &self.dns {
            config.dns.push(
                server
                    .parse()
                    .map_err(|error| wrong("dns", server, error))?,
            );
        }
        config.dns_search.clone_from(&self.dns_search);
        config.dns_options.clone_from(&self.dns_opts);
        config.default_ulimits = self
            .default_ulimits
            .iter()
            .map(|given| ulimit(given))
            .collect::<Result<_, _>>()?;
        if let Some(size) = &self.default_shm_size {
            config.default_shm_bytes = bytes(size)
                .ok_or_else(|| wrong("default-shm-size", size, "want a size such as 64m"))?;
        }
        config.init = self.init;
        if !self.cdi_spec_dirs.is_empty() {
            config.cdi_spec_dirs.clone_from(&self.cdi_spec_dirs);
            config
                .cdi_spec_dirs
                .retain(|directory| !directory.as_os_str().is_empty());
        }
        if let Some(spec) = self.userns_remap.as_deref().filter(|spec| !spec.is_empty()) {
            let remap = skep_engine::userns::remap(spec)
                .map_err(|error| wrong("userns-remap", spec, error))?;
            if let Some(note) = &remap.note {
                tracing::warn!("user namespaces: {note}");
            }
            config.userns_remap = remap.map;
        }
        Ok(config)
    }
}

fn pairs(flag: &'static str, given: &[String]) -> Result<BTreeMap<String, String>, OptionError> {
    given
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(wrong(flag, pair, "want KEY=VALUE")),
        })
        .collect()
}

fn pool(given: &str) -> Result<AddressPool, OptionError> {
    let flag = "default-address-pool";
    let entries = pairs(
        flag,
        &given.split(',').map(str::to_owned).collect::<Vec<_>>(),
    )?;
    let want = "want base=CIDR,size=PREFIX";
    let base = entries.get("base").and_then(|base| base.parse().ok());
    let size = entries.get("size").and_then(|size| size.parse().ok());
    match (base, size) {
        (Some(base), Some(size)) => Ok(AddressPool { base, size }),
        _ => Err(wrong(flag, given, want)),
    }
}

fn ulimit(given: &str) -> Result<Ulimit, OptionError> {
    let want = || wrong("default-ulimit", given, "want NAME=SOFT[:HARD]");
    let (name, limits) = given.split_once('=').ok_or_else(want)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    match (soft.parse(), hard.parse()) {
        (Ok(soft), Ok(hard)) => Ok(Ulimit {
            name: name.to_owned(),
            soft,
            hard,
        }),
        _ => Err(want()),
    }
}

/// `64m`, `1g`, `512k`, `1024` as bytes.
fn bytes(given: &str) -> Option<i64> {
    let lower = given.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &lower[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> DaemonArgs {
        DaemonArgs::parse_from(std::iter::once("skep").chain(words.iter().copied()))
    }

    #[test]
    fn a_file_says_the_same_as_flags() {
        let text = r#"{"labels":["a=b"],"debug":true,"log-opts":{"max-size":"10m"},
            "default-address-pools":[{"base":"10.1.0.0/16","size":24}],
            "default-ulimits":{"nofile":{"Soft":1,"Hard":2}},"iptables":false,
            "node-generic-resources":["SSD=3","GPU=a"],
            "secret-stores":{"pass":"exec:/bin/sh"}}"#;
        let flags = file_flags(Path::new("daemon.json"), text).unwrap();
        let words: Vec<&str> = flags.iter().map(String::as_str).collect();
        let args = parse(&words);
        assert!(args.debug);
        assert_eq!(args.labels, ["a=b"]);
        assert_eq!(args.generic_resources().unwrap().len(), 2);
        assert_eq!(args.secret_stores().unwrap()[0].name, "pass");
        assert_eq!(args.default_address_pools, ["base=10.1.0.0/16,size=24"]);
        let config = args
            .engine_config("172.18.0.0/16".parse().unwrap())
            .unwrap();
        assert_eq!(config.default_log.config["max-size"], "10m");
        assert_eq!(config.default_ulimits[0].hard, 2);
        assert_eq!(args.warnings().len(), 1);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = file_flags(Path::new("daemon.json"), r#"{"nonsense":1}"#).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("don't match any configuration option: nonsense")
        );
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        assert!(parse(&["-s", "zfs"]).check().is_err());
        let refused = parse(&["--image-source", "mirror"]).check().unwrap_err();
        assert!(refused.to_string().contains("--image-source"), "{refused}");
        let refused = parse(&["--secret-store", "pass=exec:bin/pass"]).check();
        let refused = refused.unwrap_err().to_string();
        assert_eq!(
            refused,
            "invalid value `pass=exec:bin/pass` for --secret-store: exec: \"bin/pass\" is no absolute path"
        );
        let refused = parse(&["--node-generic-resource", "GPU"]).check();
        assert!(refused.unwrap_err().to_string().contains("KIND=COUNT"));
        assert!(
            parse(&["--exec-opt", "native.cgroupdriver=systemd"])
                .check()
                .is_err()
        );
        assert!(parse(&["-s", "overlay2", "-l", "debug"]).check().is_ok());
    }

    #[test]
    fn the_tasks_own_range_is_not_given_away() {
        let reserved: IpNet = "172.18.0.0/16".parse().unwrap();
        let config = parse(&[]).engine_config(reserved).unwrap();
        assert!(
            config
                .address_pools
                .iter()
                .all(|pool| pool.base != reserved)
        );
    }
}
