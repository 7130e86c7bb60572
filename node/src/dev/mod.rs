//! `skep dev`: a whole cluster on one machine. Each node is a network namespace on a private
//! bridge, with its own address, data root, exec root and API socket.

mod client;
mod demo;
mod fleet;
mod plan;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Why a dev cluster could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    #[error("a dev cluster is up already in `{}`; `skep dev down` takes it down", root.display())]
    Exists { root: PathBuf },
    #[error("no dev cluster is up in `{}`; `skep dev up` brings one up", root.display())]
    None { root: PathBuf },
    #[error("there is no node `{name}`; `skep dev ls` lists them")]
    NoNode { name: String },
    #[error("{0}")]
    Plan(String),
    #[error("cannot use `{}`", path.display())]
    Path {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the cluster's network could not be changed")]
    Net(#[source] skep_net::NetError),
    #[error("{node}: {what}; its log is `{}`", log.display())]
    Node {
        node: String,
        what: String,
        log: PathBuf,
    },
    #[error("{what}: {message}")]
    Api { what: String, message: String },
    #[error("not everything could be removed: {0}")]
    Remains(String),
    #[error("needs to be run as root")]
    NotRoot,
}

/// Runs a whole cluster on this machine, each node in its own network namespace.
#[derive(Debug, Parser)]
#[command(
    name = "skep dev",
    bin_name = "skep dev",
    version,
    disable_help_subcommand = true
)]
struct DevArgs {
    #[command(subcommand)]
    command: DevCommand,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Bring a cluster up
    Up {
        /// Number of nodes, 1 to 50
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// Number of managers among them (default: all up to three)
        #[arg(long)]
        managers: Option<usize>,
        /// Also deploy the demo stack, show it converge and ask its published port on every node
        #[arg(long)]
        demo: bool,
        /// Network of the nodes; the first address is this machine's
        #[arg(long, default_value = "10.199.0.0/24")]
        subnet: ipnet::Ipv4Net,
        /// Directory of the cluster's state
        #[arg(long, default_value = plan::ROOT)]
        root: PathBuf,
        /// What encrypts encrypted networks: auto, kernel, userspace or none
        #[arg(long, default_value = "auto")]
        data_path_encryption: String,
        /// Log level of the nodes
        #[arg(long, default_value = "info")]
        log_level: String,
    },
    /// Take the cluster down and remove everything of it
    Down {
        #[arg(long, default_value = plan::ROOT)]
        root: PathBuf,
    },
    /// List the nodes
    Ls {
        #[arg(long, default_value = plan::ROOT)]
        root: PathBuf,
    },
    /// Run a command in a node's network namespace, with DOCKER_HOST at the node's socket
    Exec {
        #[arg(long, default_value = plan::ROOT)]
        root: PathBuf,
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Kill nodes' daemons without warning, all at once; their containers go on
    Kill {
        #[arg(long, default_value = plan::ROOT)]
        root: PathBuf,
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Start nodes' daemons again
    Start {
        #[arg(long, default_value = plan::ROOT)]
        root: PathBuf,
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// Remove every container and network of one data root
    #[command(hide = true)]
    Wipe {
        #[arg(long)]
        data_root: PathBuf,
        #[arg(long)]
        exec_root: PathBuf,
        #[arg(long)]
        cgroup_parent: String,
    },
}

/// Runs `skep dev`; `args` begins with the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args = match DevArgs::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if !nix::unistd::geteuid().is_root() {
        return fail(&DevError::NotRoot);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return fail(&DevError::Plan(format!("cannot start: {error}")));
        }
    };
    match runtime.block_on(run(args.command)) {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

fn fail(error: &DevError) -> ExitCode {
    eprintln!("error: {}", crate::membership::skep_error_chain(error));
    ExitCode::FAILURE
}

async fn run(command: DevCommand) -> Result<ExitCode, DevError> {
    match command {
        DevCommand::Up {
            nodes,
            managers,
            demo,
            subnet,
            root,
            data_path_encryption,
            log_level,
        } => {
            let mut plan = plan::Plan::new(root, subnet, nodes, managers)?;
            plan.data_path_encryption = data_path_encryption;
            let up = async {
                fleet::up(&plan, &log_level).await?;
                if demo { demo::run(&plan).await } else { Ok(()) }
            };
            let outcome = up.await;
            if outcome.is_err() && !matches!(outcome, Err(DevError::Exists { .. })) {
                eprintln!(
                    "the cluster is left as it is to be looked at; `skep dev down` removes it"
                );
            }
            outcome?;
        }
        DevCommand::Down { root } => fleet::down(&plan::Plan::load(&root)?).await?,
        DevCommand::Ls { root } => fleet::list(&plan::Plan::load(&root)?).await,
        DevCommand::Exec {
            root,
            node,
            command,
        } => {
            let plan = plan::Plan::load(&root)?;
            return fleet::exec(&plan, &node, &command);
        }
        DevCommand::Kill { root, nodes } => fleet::kill(&plan::Plan::load(&root)?, &nodes).await?,
        DevCommand::Start { root, nodes } => {
            fleet::start(&plan::Plan::load(&root)?, &nodes).await?
        }
        DevCommand::Wipe {
            data_root,
            exec_root,
            cgroup_parent,
        } => {
            fleet::wipe(data_root, exec_root, cgroup_parent).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
