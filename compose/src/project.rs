//! Compose files as what the containers of one host are made of, for clients that make plain
//! containers, networks and volumes rather than a stack.

mod container;
mod mount;
mod network;
mod print;
mod relations;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
pub use skep_model::DependencyCondition as Condition;

pub use crate::file::develop::Action as WatchAction;
pub use print::images_only;

use crate::context::Context;
use crate::file::File;
use crate::file::build::Build;
use crate::file::develop;
use crate::file::hook::Hook;
use crate::file::host::Host;
use crate::file::network::Network;
use crate::file::service::Service;
use crate::report::At;
use crate::{Diagnostic, Options};

/// How to read compose files as a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectOptions {
    /// Prefix of every object's name.
    pub name: String,
    /// Whether `$VAR` and `${VAR}` are replaced.
    pub interpolate: bool,
    /// Absolute directory that relative paths in the files start from.
    pub working_dir: String,
    /// Profiles whose services count; `*` is all of them.
    pub profiles: Vec<String>,
    /// Services that count with the profiles they have.
    pub services: Vec<String>,
}

impl ProjectOptions {
    pub(crate) fn options(&self) -> Options {
        Options {
            stack: self.name.clone(),
            interpolate: self.interpolate,
            strict: false,
            working_dir: self.working_dir.clone(),
        }
    }
}

/// What compose files mean to one host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Project {
    pub name: String,
    /// Services that count, by name.
    pub services: BTreeMap<String, ProjectService>,
    /// Services that no given profile wants, with their profiles.
    pub disabled: BTreeMap<String, Vec<String>>,
    /// All of the file's, by key; and `default` where a service joins it.
    pub networks: BTreeMap<String, ProjectNetwork>,
    pub volumes: BTreeMap<String, ProjectVolume>,
    /// The files merged and normalised, as YAML.
    pub document: String,
    /// The same as JSON.
    pub json: Value,
    /// What has no effect here, in the order of the files.
    pub warnings: Vec<Diagnostic>,
}

/// A service, as far as its containers need it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProjectService {
    pub image: Option<String>,
    pub build: Option<ProjectBuild>,
    pub container_name: Option<String>,
    pub replicas: u64,
    pub profiles: Vec<String>,
    pub depends_on: BTreeMap<String, ProjectDependency>,
    /// `always`, `never`, `missing` or `build`; empty: not given.
    pub pull_policy: String,
    /// `os/architecture`; empty: any.
    pub platform: String,
    /// Whether a foreground `up` shows its output.
    pub attach: bool,
    /// Body of the API's call to create a container: all but image, names, labels of the project
    /// and networks.
    pub body: Value,
    /// Networks to join, the most important first.
    pub networks: Vec<ProjectEndpoint>,
    pub shared: SharedNamespaces,
    /// `SERVICE[:MODE]` or `container:NAME[:MODE]`.
    pub volumes_from: Vec<String>,
    /// Services by the name they are to have.
    pub links: Vec<(String, String)>,
    /// Containers of others, `NAME:ALIAS`.
    pub external_links: Vec<String>,
    /// Files that are put into a container before it starts.
    pub files: Vec<ProjectFile>,
    /// Run in a container after its start.
    pub post_start: Vec<ProjectHook>,
    /// Run in a container before it is stopped.
    pub pre_stop: Vec<ProjectHook>,
    /// What follows changes of files while somebody watches.
    pub watch: Vec<ProjectWatch>,
}

/// Namespaces that are another's: `host`, `none`, `service:NAME`, `container:NAME`, …
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SharedNamespaces {
    pub network: Option<String>,
    pub pid: Option<String>,
    pub ipc: Option<String>,
}

/// How an image is built.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProjectBuild {
    /// An absolute path, or an address.
    pub context: String,
    /// Empty: `Dockerfile`.
    pub dockerfile: String,
    pub dockerfile_inline: Option<String>,
    pub args: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub target: String,
    pub network: String,
    pub extra_hosts: Vec<String>,
    pub tags: Vec<String>,
    pub no_cache: bool,
    pub pull: bool,
    /// Bytes; 0: the daemon's own.
    pub shm_size: i64,
}

/// What a service waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectDependency {
    pub condition: Condition,
    pub required: bool,
    /// Whether the service is started again when this one is made anew.
    pub restart: bool,
}

/// How a network is joined.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectEndpoint {
    /// The network's key in the file.
    pub network: String,
    pub aliases: Vec<String>,
    /// The other fields of the API's `EndpointSettings`.
    pub settings: Value,
}

/// A file of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectFile {
    /// Absolute.
    pub target: String,
    pub content: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectHook {
    pub command: Vec<String>,
    pub user: String,
    pub privileged: bool,
    pub working_dir: String,
    pub environment: Vec<String>,
}

/// Files of this machine, and what follows when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectWatch {
    /// Absolute.
    pub path: String,
    pub action: WatchAction,
    /// Where in the container files are copied to; absolute, empty where none are.
    pub target: String,
    /// Patterns as those of `.dockerignore`, from `path`.
    pub ignore: Vec<String>,
    /// Where there are some, no other files count.
    pub include: Vec<String>,
    /// Whether all files are copied when watching begins.
    pub initial_sync: bool,
    /// Run in the container after a copy.
    pub exec: Option<ProjectHook>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ProjectNetwork {
    /// Its name on the host.
    pub name: String,
    pub external: bool,
    /// Body of the API's call to create it, without name and labels of the project.
    pub body: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ProjectVolume {
    pub name: String,
    pub external: bool,
    pub body: Value,
}

/// Which services count, and what becomes of the rest of the file.
pub(crate) fn convert(mut file: File, options: &ProjectOptions, cx: &mut Context<'_>) -> Project {
    let disabled = relations::split_disabled(&mut file, options);
    relations::check(&mut file, &disabled, cx);
    let uses_default = file.services.values().any(|service| {
        let mode = service
            .host
            .as_ref()
            .and_then(|host| host.text("network_mode"));
        mode.is_none() && (service.networks.is_empty() || service.networks.contains_key("default"))
    });
    let mut networks: BTreeMap<String, ProjectNetwork> = file
        .networks
        .iter()
        .map(|(key, network)| (key.clone(), network::of(key, &network.value, options)))
        .collect();
    if uses_default {
        networks
            .entry("default".to_owned())
            .or_insert_with(|| network::of("default", &Network::default(), options));
    }
    let volumes = file
        .volumes
        .iter()
        .map(|(key, volume)| {
            let volume = &volume.value;
            let project_volume = ProjectVolume {
                name: name_of(volume.name.as_ref(), key, options),
                external: volume.is_external(),
                body: json!({
                    "Driver": volume.driver.clone().unwrap_or_default(),
                    "DriverOpts": volume.driver_opts.clone().unwrap_or_default(),
                    "Labels": volume.labels.clone().unwrap_or_default(),
                }),
            };
            (key.clone(), project_volume)
        })
        .collect();
    let services = file
        .services
        .iter()
        .map(|(name, service)| (name.clone(), service_of(name, service, &file, &volumes, cx)))
        .collect();
    let out = print::document(&file, &networks, options);
    Project {
        name: options.name.clone(),
        services,
        disabled,
        networks,
        volumes,
        document: crate::emit::emit(&out),
        json: print::json(&out),
        warnings: Vec::new(),
    }
}

/// An object's name on the host: its own, or its key behind the project's name.
fn name_of(own: Option<&String>, key: &str, options: &ProjectOptions) -> String {
    own.cloned()
        .unwrap_or_else(|| format!("{}_{key}", options.name))
}

fn service_of(
    name: &str,
    service: &Service,
    file: &File,
    volumes: &BTreeMap<String, ProjectVolume>,
    cx: &mut Context<'_>,
) -> ProjectService {
    let empty = Host::default();
    let host = service.host.as_deref().unwrap_or(&empty);
    let places = |list: &[crate::report::Placed<String>]| -> Vec<String> {
        list.iter().map(|item| item.value.clone()).collect()
    };
    let text = |name: &str| host.text(name).map(str::to_owned);
    let hooks = |name: &str| {
        let hooks = host.hooks.get(name).map_or(&[][..], Vec::as_slice);
        hooks.iter().map(hook_of).collect()
    };
    let mut files = Vec::new();
    let body = container::body(name, service, host, file, volumes, &mut files, cx);
    ProjectService {
        image: service.image.as_ref().map(|image| image.value.clone()),
        build: host.build.as_ref().map(|build| build_of(&build.value)),
        container_name: text("container_name"),
        replicas: replicas(service),
        profiles: places(&service.profiles),
        depends_on: relations::dependencies(service),
        pull_policy: match host.text("pull_policy") {
            None => String::new(),
            Some("if_not_present") => "missing".to_owned(),
            Some(policy @ ("always" | "never" | "missing" | "build")) => policy.to_owned(),
            Some(_) => "missing".to_owned(),
        },
        platform: service
            .platform
            .as_ref()
            .map(|platform| platform.value.clone())
            .unwrap_or_default(),
        attach: host.flags.get("attach").copied().unwrap_or(true),
        body,
        networks: network::endpoints(service, host),
        shared: SharedNamespaces {
            network: text("network_mode"),
            pid: text("pid"),
            ipc: text("ipc"),
        },
        volumes_from: places(host.list("volumes_from")),
        links: host
            .list("links")
            .iter()
            .map(|link| match link.value.split_once(':') {
                Some((service, alias)) => (service.to_owned(), alias.to_owned()),
                None => (link.value.clone(), link.value.clone()),
            })
            .collect(),
        external_links: places(host.list("external_links")),
        files,
        post_start: hooks("post_start"),
        pre_stop: hooks("pre_stop"),
        watch: host.watch.iter().map(watch_of).collect(),
    }
}

/// Containers of a service: `scale`, or what `deploy` says.
fn replicas(service: &Service) -> u64 {
    let deployed = service.deploy.as_ref().and_then(|deploy| deploy.replicas);
    service
        .scale
        .or(deployed.map(|replicas| replicas.value))
        .unwrap_or(1)
}

fn hook_of(hook: &Hook) -> ProjectHook {
    ProjectHook {
        command: hook.command.clone(),
        user: hook.user.clone().unwrap_or_default(),
        privileged: hook.privileged,
        working_dir: hook.working_dir.clone().unwrap_or_default(),
        environment: hook.environment.clone(),
    }
}

fn watch_of(rule: &develop::Rule) -> ProjectWatch {
    ProjectWatch {
        path: rule.path.clone(),
        action: rule.action,
        target: rule.target.clone().unwrap_or_default(),
        ignore: rule.ignore.clone(),
        include: rule.include.clone(),
        initial_sync: rule.initial_sync,
        exec: rule.exec.as_ref().map(hook_of),
    }
}

fn build_of(build: &Build) -> ProjectBuild {
    let flag = |name: &str| build.flags.get(name).copied().unwrap_or(false);
    ProjectBuild {
        context: build.context.clone().unwrap_or_default(),
        dockerfile: build.dockerfile.clone().unwrap_or_default(),
        dockerfile_inline: build.dockerfile_inline.clone(),
        args: build.args.clone(),
        labels: build.labels.clone().unwrap_or_default(),
        target: build.target.clone().unwrap_or_default(),
        network: build.network.clone().unwrap_or_default(),
        extra_hosts: build.extra_hosts.clone(),
        tags: build.tags.clone(),
        no_cache: flag("no_cache"),
        pull: flag("pull"),
        shm_size: build.shm_size.unwrap_or(0),
    }
}

/// Says that a service refers to something that is not in the file.
fn undefined(service: &str, what: &str, name: &str, at: At, cx: &mut Context<'_>) {
    cx.error(
        at,
        format!("service {service:?} refers to undefined {what} {name}: invalid compose project"),
    );
}

/// All profiles that services name.
pub fn profiles(project: &Project) -> BTreeSet<String> {
    let counted = project
        .services
        .values()
        .flat_map(|service| &service.profiles);
    counted
        .chain(project.disabled.values().flatten())
        .cloned()
        .collect()
}
