//! Brings the nodes of a dev cluster up and down.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use ipnet::{IpNet, Ipv4Net};
use nix::sys::signal::{Signal, kill as send_signal};
use nix::unistd::Pid;
use serde_json::json;
use skep_engine::{Engine, EngineConfig, ListOptions, RemoveOptions};
use skep_net::{BridgeEndpoint, BridgeNetwork, Host, HostConfig, Namespaces, NetError, Report};
use tokio::time::{Instant, sleep};

use super::DevError;
use super::client::call;
use super::plan::{Node, Plan};

/// How long a daemon may take to answer after its start.
const READY: Duration = Duration::from_secs(20);
/// Exit status of `exec` when there is no such command, as of a shell (POSIX 2.8.2).
const COMMAND_NOT_FOUND: u8 = 127;
/// How long a daemon may take to stop.
const STOP: Duration = Duration::from_secs(15);
/// Name and id of the bridge that joins the nodes.
const WIRE: (&str, &str) = ("skep-dev", "skepdev0");

/// The namespace that holds the bridge, apart from this machine's own network: two clusters, or
/// a daemon of this machine, never meet.
fn wire_namespaces(plan: &Plan) -> Result<Namespaces, DevError> {
    let directory = plan.wire_dir();
    std::fs::create_dir_all(&directory).map_err(|source| DevError::Path {
        path: directory.clone(),
        source,
    })?;
    Ok(Namespaces::new(&directory))
}

/// The wire's own data plane; makes its namespace if there is none.
fn wire(plan: &Plan) -> Result<Host, DevError> {
    let netns = wire_namespaces(plan)?
        .create(WIRE.0)
        .map_err(DevError::Net)?;
    let config = HostConfig::new(plan.wire_dir().join("host"));
    netns
        .run(|| Host::open(config))
        .map_err(DevError::Net)?
        .map_err(DevError::Net)
}

/// Makes the network, starts the daemons, makes the cluster.
pub async fn up(plan: &Plan, log_level: &str) -> Result<(), DevError> {
    if plan.exists() {
        return Err(DevError::Exists {
            root: plan.root.clone(),
        });
    }
    plan.save()?;
    lay_wire(plan).map_err(DevError::Net)?;
    for node in &plan.nodes {
        spawn_daemon(plan, node, log_level)?;
    }
    for node in &plan.nodes {
        wait_ready(plan, node).await?;
    }
    make_cluster(plan).await?;
    report(plan);
    Ok(())
}

fn lay_wire(plan: &Plan) -> Result<(), NetError> {
    let host = wire(plan).map_err(|error| match error {
        DevError::Net(error) => error,
        other => NetError::Invalid {
            object: "wire".to_owned(),
            reason: other.to_string(),
        },
    })?;
    let prefix = plan.subnet.prefix_len();
    let on_subnet = |address| IpNet::V4(Ipv4Net::new(address, prefix).unwrap_or(plan.subnet));
    host.ensure_bridge(&BridgeNetwork {
        id: WIRE.0.to_owned(),
        bridge: Some(WIRE.1.to_owned()),
        gateways: vec![on_subnet(plan.bridge())],
        mtu: 1500,
        internal: false,
        icc: true,
        masquerade: true,
    })?;
    host.connect(&BridgeEndpoint {
        id: format!("{}-machine", WIRE.0),
        name: "machine".to_owned(),
        network: WIRE.0.to_owned(),
        // This machine is one more host on the wire.
        netns: format!("/proc/{}/ns/net", std::process::id()).into(),
        ifname: plan.interface(),
        addresses: vec![on_subnet(plan.gateway())],
        mac: None,
        default_route: false,
        ports: Vec::new(),
    })?;
    for node in &plan.nodes {
        let netns = plan.netns(node);
        host.namespaces().create(&netns)?;
        host.connect(&BridgeEndpoint {
            id: format!("{}-{}", WIRE.0, node.name),
            name: node.name.clone(),
            network: WIRE.0.to_owned(),
            netns: host.namespaces().path(&netns),
            ifname: "eth0".to_owned(),
            addresses: vec![on_subnet(node.address)],
            mac: None,
            default_route: true,
            ports: Vec::new(),
        })?;
    }
    Ok(())
}

/// A command that runs in a node's network namespace.
fn spawn_inside(plan: &Plan, node: &Node, command: &mut Command) -> Result<Child, DevError> {
    let netns = wire(plan)?
        .namespaces()
        .open(&plan.netns(node))
        .map_err(DevError::Net)?;
    // A child is born into the namespace of the thread that makes it.
    netns
        .run(|| command.spawn())
        .map_err(DevError::Net)?
        .map_err(|source| DevError::Path {
            path: command.get_program().into(),
            source,
        })
}

fn own_program() -> Result<PathBuf, DevError> {
    std::env::current_exe().map_err(|source| DevError::Path {
        path: "/proc/self/exe".into(),
        source,
    })
}

fn spawn_daemon(plan: &Plan, node: &Node, log_level: &str) -> Result<(), DevError> {
    let path = plan.log(node);
    let directory = plan.exec_root(node);
    std::fs::create_dir_all(&directory).map_err(|source| DevError::Path {
        path: directory,
        source,
    })?;
    let open = OpenOptions::new().create(true).append(true).open(&path);
    let log = open.and_then(|log| Ok((log.try_clone()?, log)));
    let (out, err) = log.map_err(|source| DevError::Path { path, source })?;
    let mut command = Command::new(own_program()?);
    command
        .arg("daemon")
        .arg("--data-root")
        .arg(plan.data_root(node))
        .arg("--exec-root")
        .arg(plan.exec_root(node))
        .arg("--pidfile")
        .arg(plan.pidfile(node))
        .arg("--host")
        .arg(format!("unix://{}", plan.socket(node).display()))
        .args(["--node-name", &node.name, "--log-level", log_level])
        .args(["--cgroup-parent", &plan.cgroup_parent(node)])
        .args(match plan.data_path_encryption.as_str() {
            "" => Vec::new(),
            choice => vec!["--data-path-encryption", choice],
        });
    // A node's own settings, if its owner has put a file there.
    let file = plan.config_file(node);
    if file.exists() {
        command.arg("--config-file").arg(file);
    }
    command
        // Meant for a client and its daemon elsewhere.
        .env_remove("DOCKER_TLS_VERIFY")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        // Lives on when this command ends or its terminal goes.
        .process_group(0);
    spawn_inside(plan, node, &mut command)?;
    Ok(())
}

async fn wait_ready(plan: &Plan, node: &Node) -> Result<(), DevError> {
    let deadline = Instant::now() + READY;
    let socket = plan.socket(node);
    loop {
        let last = match call(&socket, Method::GET, "/info", None).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            let what = format!("the daemon does not answer ({last})");
            return Err(DevError::Node {
                node: node.name.clone(),
                what,
                log: plan.log(node),
            });
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn make_cluster(plan: &Plan) -> Result<(), DevError> {
    let first = plan.first();
    let socket = plan.socket(first);
    let listen = "0.0.0.0:2377";
    let body = json!({"ListenAddr": listen, "AdvertiseAddr": first.address.to_string()});
    call(&socket, Method::POST, "/swarm/init", Some(&body)).await?;
    let swarm = call(&socket, Method::GET, "/swarm", None).await?;
    let token = |role: &str| {
        swarm["JoinTokens"][role]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let (manager, worker) = (token("Manager"), token("Worker"));
    for node in &plan.nodes[1..] {
        let body = json!({
            "ListenAddr": listen,
            "AdvertiseAddr": node.address.to_string(),
            "RemoteAddrs": [first.address.to_string()],
            "JoinToken": if node.manager { &manager } else { &worker },
        });
        call(&plan.socket(node), Method::POST, "/swarm/join", Some(&body)).await?;
    }
    // A node takes tasks once the leader has heard of it.
    let deadline = Instant::now() + READY;
    loop {
        let nodes = call(&socket, Method::GET, "/nodes", None).await?;
        let ready = nodes.as_array().into_iter().flatten();
        let ready = ready
            .filter(|node| node["Status"]["State"] == "ready")
            .count();
        if ready == plan.nodes.len() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(DevError::Plan(format!(
                "only {ready} of {} nodes are ready",
                plan.nodes.len()
            )));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn report(plan: &Plan) {
    println!("{} nodes are up:", plan.nodes.len());
    for node in &plan.nodes {
        let role = if node.manager { "manager" } else { "worker" };
        println!(
            "  {:<4} {:<15} {:<8} DOCKER_HOST=unix://{}",
            node.name,
            node.address,
            role,
            plan.socket(node).display()
        );
    }
    println!(
        "\nTalk to a node:   skep dev exec {} -- skep node ls",
        plan.first().name
    );
    println!("Take all down:    skep dev down");
}

fn pid_of(plan: &Plan, node: &Node) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(plan.pidfile(node))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    // The number may belong to somebody else by now.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let wanted = plan.data_root(node);
    let is_ours = command
        .split(|byte| *byte == 0)
        .any(|word| word == wanted.as_os_str().as_encoded_bytes());
    is_ours.then(|| Pid::from_raw(pid))
}

async fn wait_gone(pid: Pid, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    // A zombie of ours has ended as well.
    let runs = || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .trim_start()
                .starts_with('Z')
        })
    };
    while runs() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Stops the daemons, removes containers, networks and files. Goes on past failures and names
/// all of them.
pub async fn down(plan: &Plan) -> Result<(), DevError> {
    let mut remains = Vec::new();
    for node in &plan.nodes {
        if let Some(pid) = pid_of(plan, node) {
            let _ = send_signal(pid, Signal::SIGTERM);
        }
    }
    for node in &plan.nodes {
        if let Some(pid) = pid_of(plan, node)
            && !wait_gone(pid, STOP).await
        {
            let _ = send_signal(pid, Signal::SIGKILL);
            if !wait_gone(pid, STOP).await {
                remains.push(format!("daemon of {} (pid {pid})", node.name));
            }
        }
    }
    for node in &plan.nodes {
        if let Err(error) = wipe_node(plan, node) {
            remains.push(format!("{}: {error}", node.name));
        }
    }
    remove_cgroups(plan);
    match wire(plan) {
        Ok(host) => {
            let report = host.remove_everything();
            remains.extend(failures(&report));
            drop(host);
            let deleted = wire_namespaces(plan)
                .and_then(|namespaces| namespaces.delete(WIRE.0).map_err(DevError::Net));
            if let Err(error) = deleted {
                remains.push(error.to_string());
            }
        }
        Err(error) => remains.push(error.to_string()),
    }
    if remains.is_empty()
        && let Err(error) = std::fs::remove_dir_all(&plan.root)
    {
        remains.push(format!("{}: {error}", plan.root.display()));
    }
    if remains.is_empty() {
        Ok(())
    } else {
        Err(DevError::Remains(remains.join("; ")))
    }
}

/// Removes the empty cgroups of the nodes, under every controller; those in use stay.
fn remove_cgroups(plan: &Plan) {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let controllers = std::fs::read_dir(root).into_iter().flatten().flatten();
    let roots = controllers
        .map(|entry| entry.path())
        .chain([root.to_owned()]);
    for controller in roots {
        for node in &plan.nodes {
            let group = controller.join(plan.cgroup_parent(node).trim_start_matches('/'));
            let _ = std::fs::remove_dir(&group);
            if let Some(parent) = group.parent() {
                let _ = std::fs::remove_dir(parent);
            }
        }
    }
}

fn failures(report: &Report) -> Vec<String> {
    let text =
        |failure: &skep_net::Failure| format!("{}: {}", failure.object, failure.error.chain());
    report.failures.iter().map(text).collect()
}

/// Removes a node's containers from inside of its namespace.
fn wipe_node(plan: &Plan, node: &Node) -> Result<(), DevError> {
    if !plan.data_root(node).exists() {
        return Ok(());
    }
    let mut command = Command::new(own_program()?);
    command
        .args(["dev", "wipe", "--data-root"])
        .arg(plan.data_root(node))
        .arg("--exec-root")
        .arg(plan.exec_root(node))
        .arg("--cgroup-parent")
        .arg(plan.cgroup_parent(node))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = match spawn_inside(plan, node, &mut command) {
        Ok(child) => child,
        // The namespace is gone already, as after a reboot: nothing runs in it.
        Err(DevError::Net(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let status = child.wait().map_err(|source| DevError::Path {
        path: plan.data_root(node),
        source,
    })?;
    if status.success() {
        return Ok(());
    }
    let what = format!("its containers could not be removed ({status})");
    Err(DevError::Node {
        node: node.name.clone(),
        what,
        log: plan.log(node),
    })
}

/// Removes every container of a data root and everything of ours in this namespace.
pub async fn wipe(
    data_root: PathBuf,
    exec_root: PathBuf,
    cgroup_parent: String,
) -> Result<(), DevError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |message: String| DevError::Api { what, message }
    };
    let host = Arc::new(Host::open(HostConfig::new(exec_root.clone())).map_err(DevError::Net)?);
    let mut config = EngineConfig::new(data_root, exec_root);
    config.cgroup_parent = cgroup_parent;
    let engine: Arc<Engine> = Engine::open_with(config, Arc::clone(&host))
        .await
        .map_err(|error| failed("open")(error.to_string()))?;
    let options = ListOptions {
        all: true,
        ..Default::default()
    };
    let containers = engine
        .container_list(options)
        .await
        .map_err(|error| failed("list")(error.to_string()))?;
    let mut remains = Vec::new();
    for container in containers {
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        if let Err(error) = engine.container_remove(&container.id, options).await {
            remains.push(format!("{}: {error}", container.id));
        }
    }
    engine.close().await;
    let report = host.remove_everything();
    remains.extend(failures(&report));
    if remains.is_empty() {
        Ok(())
    } else {
        Err(DevError::Remains(remains.join("; ")))
    }
}

/// Prints the nodes.
pub async fn list(plan: &Plan) {
    println!(
        "{:<6}{:<17}{:<10}{:<10}SOCKET",
        "NODE", "ADDRESS", "ROLE", "DAEMON"
    );
    for node in &plan.nodes {
        let daemon = if pid_of(plan, node).is_some() {
            "up"
        } else {
            "down"
        };
        let role = if node.manager { "manager" } else { "worker" };
        let address = IpAddr::V4(node.address).to_string();
        println!(
            "{:<6}{address:<17}{role:<10}{daemon:<10}{}",
            node.name,
            plan.socket(node).display()
        );
    }
}

/// Runs a command in a node's namespace; its exit status is ours.
pub fn exec(plan: &Plan, name: &str, command: &[OsString]) -> Result<ExitCode, DevError> {
    let node = plan.node(name)?;
    let [program, args @ ..] = command else {
        return Err(DevError::Plan("no command given".to_owned()));
    };
    let socket = format!("unix://{}", plan.socket(node).display());
    // `skep` means this very program, wherever it lies.
    let program = if program == "skep" {
        own_program()?.into_os_string()
    } else {
        program.clone()
    };
    let mut inside = Command::new(program);
    inside
        .args(args)
        .env("DOCKER_HOST", &socket)
        .env("SKEP_HOST", &socket);
    let mut child = match spawn_inside(plan, node, &mut inside) {
        Ok(child) => child,
        // As a shell says it, so that a script can tell it from the command's own failure.
        Err(DevError::Path { path, source }) if source.kind() == io::ErrorKind::NotFound => {
            eprintln!("skep dev exec: {}: command not found", path.display());
            return Ok(ExitCode::from(COMMAND_NOT_FOUND));
        }
        Err(error) => return Err(error),
    };
    let status = child.wait().map_err(|source| DevError::Path {
        path: inside.get_program().into(),
        source,
    })?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}

/// Kills nodes' daemons, all at once; nothing is done unless all of them run.
pub async fn kill(plan: &Plan, names: &[String]) -> Result<(), DevError> {
    let mut running = Vec::new();
    for name in names {
        let Some(pid) = pid_of(plan, plan.node(name)?) else {
            return Err(DevError::Plan(format!("the daemon of {name} does not run")));
        };
        running.push((name, pid));
    }
    for (_, pid) in &running {
        let _ = send_signal(*pid, Signal::SIGKILL);
    }
    for (name, pid) in running {
        if !wait_gone(pid, STOP).await {
            return Err(DevError::Plan(format!(
                "the daemon of {name} (pid {pid}) does not go away"
            )));
        }
    }
    Ok(())
}

/// Starts nodes' daemons again; nothing is done unless none of them runs.
pub async fn start(plan: &Plan, names: &[String]) -> Result<(), DevError> {
    let mut nodes = Vec::new();
    for name in names {
        let node = plan.node(name)?;
        if pid_of(plan, node).is_some() {
            return Err(DevError::Plan(format!("the daemon of {name} runs already")));
        }
        nodes.push(node);
    }
    for node in &nodes {
        spawn_daemon(plan, node, "info")?;
    }
    for node in nodes {
        wait_ready(plan, node).await?;
    }
    Ok(())
}
