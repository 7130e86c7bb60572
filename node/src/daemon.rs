//! The daemon: opens engine and network, takes up the membership, serves the API until told to
//! stop. Containers go on without it.

use std::ffi::OsString;
use std::io;
use std::io::IsTerminal as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use skep_api::{About, ApiState, Cluster};
use skep_engine::Engine;
use skep_manager::stores::Stores;
use skep_net::{Host, HostConfig};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::listen::{self, ApiTls, ListenError};
use crate::membership::{Membership, Surroundings, skep_error_chain};
use crate::options::{DaemonArgs, OptionError, file_flags};

/// The configuration file that is read when none is named.
const CONFIG_FILE: &str = "/etc/skep/daemon.json";

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Option(#[from] OptionError),
    #[error("cannot use `{}`", path.display())]
    Path {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("the engine cannot be opened")]
    Engine(#[source] skep_engine::EngineError),
    #[error("the host's network cannot be opened")]
    Net(#[source] skep_net::NetError),
    #[error("the daemon needs to be run as root")]
    NotRoot,
    #[error("another daemon uses `{}`", path.display())]
    InUse { path: PathBuf },
    #[error("cannot start")]
    Start(#[source] io::Error),
}

/// How long another daemon may take to be gone, and between two looks.
const LOCK_WAIT: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Runs `skep daemon`; `args` begins with the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args = match read_args(args) {
        Ok(args) => args,
        Err(Refused::Usage(error)) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        Err(Refused::Option(error)) => return fail(&error.into()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => Err(DaemonError::Start(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &DaemonError) -> ExitCode {
    eprintln!("failed to start daemon: {}", skep_error_chain(error));
    ExitCode::FAILURE
}

enum Refused {
    Usage(clap::Error),
    Option(OptionError),
}

/// Flags of the command line over those of the configuration file.
fn read_args(args: Vec<OsString>) -> Result<DaemonArgs, Refused> {
    let given = DaemonArgs::try_parse_from(&args).map_err(Refused::Usage)?;
    let (path, must_exist) = match &given.config_file {
        Some(path) => (path.clone(), true),
        None => (PathBuf::from(CONFIG_FILE), false),
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => return Ok(given),
        Err(error) => {
            return Err(Refused::Option(OptionError::File {
                path,
                reason: error.to_string(),
            }));
        }
    };
    let flags = file_flags(&path, &text).map_err(Refused::Option)?;
    // What the command line says comes later and wins.
    let mut all: Vec<OsString> = args.iter().take(1).cloned().collect();
    all.extend(flags.into_iter().map(OsString::from));
    all.extend(args.into_iter().skip(1));
    DaemonArgs::command_overriding()
        .try_get_matches_from(all)
        .map_err(Refused::Usage)
        .and_then(|matches| {
            use clap::FromArgMatches as _;
            DaemonArgs::from_arg_matches(&matches).map_err(Refused::Usage)
        })
}

impl DaemonArgs {
    /// The same flags, where a later one replaces an earlier one of the same name.
    fn command_overriding() -> clap::Command {
        use clap::CommandFactory as _;
        DaemonArgs::command().args_override_self(true)
    }
}

async fn run(args: DaemonArgs) -> Result<(), DaemonError> {
    args.check()?;
    start_log(&args);
    let tls = ApiTls::of(&args, |name| std::env::var_os(name))?;
    if !nix::unistd::geteuid().is_root() {
        return Err(DaemonError::NotRoot);
    }
    // Keys and secrets are in this memory: a crash must leave none of it on a disk.
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        warn!(%error, "a crash may leave a core dump with secrets");
    }
    for warning in args.warnings() {
        warn!("{warning}");
    }
    for directory in [&args.data_root, &args.exec_root] {
        make_private(directory)?;
    }
    let _only_one = only_one(&args.data_root, LOCK_WAIT)?;
    let mut host_config = HostConfig::new(args.exec_root.clone());
    // This program, whatever its file is called by then.
    host_config.relay = Some("/proc/self/exe".into());
    host_config.encryption = args.encryption()?;
    let reserved = IpNet::V4(host_config.gateway_subnet);
    let host = Arc::new(Host::open(host_config).map_err(DaemonError::Net)?);
    let engine = Engine::open_with(args.engine_config(reserved)?, Arc::clone(&host))
        .await
        .map_err(DaemonError::Engine)?;
    if let Err(error) = engine.ensure_hello_image().await {
        warn!(%error, "the built-in image skep/hello could not be made");
    }
    let looked_at = Arc::clone(&host);
    tokio::task::spawn_blocking(move || {
        for warning in looked_at.capabilities().warnings() {
            warn!("{}", warning.trim_start_matches("WARNING: "));
        }
    });
    let membership = Membership::resume(Surroundings {
        engine: Arc::clone(&engine),
        host,
        data_root: args.data_root.clone(),
        exec_root: args.exec_root.clone(),
        hostname: args.node_name.clone().unwrap_or_else(hostname),
        labels: args.labels.clone(),
        generic_resources: args.generic_resources()?,
        image_source: args.image_source()?,
        secret_stores: Arc::new(Stores::new(args.secret_stores()?)),
    })
    .await;
    let listeners = listen::listeners(&args, &tls).await?;
    if let Some(pidfile) = &args.pidfile {
        std::fs::write(pidfile, std::process::id().to_string()).map_err(|source| {
            DaemonError::Path {
                path: pidfile.clone(),
                source,
            }
        })?;
    }
    let state = ApiState {
        engine: Arc::clone(&engine),
        cluster: Arc::new(membership.clone()) as Arc<dyn Cluster>,
        asked: Default::default(),
        task_execs: Default::default(),
        about: About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            daemon_id: daemon_id(&args.data_root),
            node_name: args.node_name.clone().unwrap_or_default(),
            debug: args.debug,
            image_source: args.image_source()?,
            warnings: tls.warnings(&args.hosts),
            ..Default::default()
        },
    };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(skep_api::serve(listeners, Arc::new(state), stop.clone()));
    info!(version = env!("CARGO_PKG_VERSION"), data_root = %args.data_root.display(), "daemon ready");
    wait_for_signal().await.map_err(DaemonError::Start)?;
    info!("daemon stops; containers go on");
    stop.cancel();
    let _ = serving.await;
    membership.shutdown().await;
    engine.close().await;
    if let Some(pidfile) = &args.pidfile {
        let _ = std::fs::remove_file(pidfile);
    }
    Ok(())
}

fn start_log(args: &DaemonArgs) {
    let level = match args.log_level.as_str() {
        _ if args.debug => "debug",
        "fatal" => "error",
        level => level,
    };
    let filter = std::env::var("SKEP_LOG").unwrap_or_else(|_| {
        format!(
            "{level},openraft=off,sled=warn,h2=warn,hyper=warn,rustls=warn,tonic=warn,tower=warn"
        )
    });
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .try_init();
}

fn make_private(directory: &Path) -> Result<(), DaemonError> {
    let fail = |source| DaemonError::Path {
        path: directory.to_owned(),
        source,
    };
    std::fs::create_dir_all(directory).map_err(fail)?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711)).map_err(fail)
}

/// Holds the data root for this daemon alone. One that was just killed has it until the last of its
/// threads is out of the kernel.
fn only_one(data_root: &Path, wait: Duration) -> Result<Flock<std::fs::File>, DaemonError> {
    let path = data_root.join("daemon.lock");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| DaemonError::Path {
            path: path.clone(),
            source,
        })?;
    let deadline = Instant::now() + wait;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, _)) if Instant::now() < deadline => {
                file = back;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(_) => {
                return Err(DaemonError::InUse {
                    path: data_root.to_owned(),
                });
            }
        }
    }
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// A random text made at the first start, which `info` shows.
fn daemon_id(data_root: &Path) -> String {
    let path = data_root.join("engine-id");
    if let Ok(id) = std::fs::read_to_string(&path) {
        return id.trim().to_owned();
    }
    let id = skep_model::id::random_id(&mut || u64::from_be_bytes(skep_pki::random_bytes()));
    if let Err(error) = std::fs::write(&path, &id) {
        warn!(%error, "the daemon's id could not be kept");
    }
    id
}

async fn wait_for_signal() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    // A terminal that goes away is no reason to stop.
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hangup.recv() => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_root_is_had_by_one_and_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let first = only_one(root.path(), Duration::ZERO).unwrap();
        let refused = only_one(root.path(), Duration::from_millis(20)).unwrap_err();
        assert!(matches!(refused, DaemonError::InUse { path } if path == root.path()));
        let goes = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
        });
        only_one(root.path(), Duration::from_secs(60)).unwrap();
        goes.join().unwrap();
    }
}
