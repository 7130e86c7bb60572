//! Cleans up after a shim that died before its container, so that a container is
//! never half alive.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::cgroup;
use crate::client::{ClientError, ShimClient};
use crate::config::ShimConfig;
use crate::exit::ExitRecord;
use crate::protocol::Status;
use crate::time;

/// How long killing and removing may take.
const SWEEP_MAX: Duration = Duration::from_secs(10);
/// Between two tries.
const PERIOD: Duration = Duration::from_millis(5);
/// Exit code of a container whose shim was killed: as if it had been killed itself.
const KILLED: i32 = 137;

/// Ends what a dead shim left: kills the container's processes, removes its cgroup
/// and socket, writes an exit record if there is none, and returns the record.
///
/// # Errors
/// `AlreadyExists` when the shim is alive after all; `TimedOut` when a process
/// cannot be killed; or whatever the file system says.
pub fn sweep(config: &ShimConfig) -> io::Result<ExitRecord> {
    match ShimClient::new(&config.paths.socket).status() {
        Err(ClientError::Gone { .. }) => {}
        Ok(_) | Err(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("the shim of {} is alive", config.id),
            ));
        }
    }
    let group = cgroup::at(&config.cgroup_path())?;
    let oom_killed = group.oom_kills() > 0;
    let deadline = Instant::now() + SWEEP_MAX;
    loop {
        let alive = group.processes().unwrap_or_default();
        let removed = if alive.is_empty() {
            group.remove()
        } else {
            // The frozen cannot die; a group that is not frozen does not mind.
            let _ = group.freeze(false);
            group.kill()?;
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("processes could not be killed: {alive:?}"),
            ))
        };
        match removed {
            Ok(()) => break,
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(PERIOD),
        }
    }
    match std::fs::remove_file(&config.paths.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(record) = ExitRecord::read(&config.paths.exit)? {
        return Ok(record);
    }
    let last = std::fs::read(&config.paths.status)
        .ok()
        .and_then(|json| serde_json::from_slice::<Status>(&json).ok());
    let record = ExitRecord {
        id: config.id.clone(),
        pid: last.as_ref().map_or(0, |status| status.pid),
        exit_code: KILLED,
        signal: Some(libc::SIGKILL),
        oom_killed,
        error: "the shim of this container died".into(),
        started_at: last.map_or(String::new(), |status| status.started_at),
        finished_at: time::now(),
    };
    record.write(&config.paths.exit)?;
    Ok(record)
}
