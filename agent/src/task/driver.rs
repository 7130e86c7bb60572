//! Drives one task: looks, asks `step` what to do, does it, and looks again.

mod files;
mod lease;
mod pull;
mod report;
mod secrets;
mod volumes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_engine::types::EndpointSettings;
use skep_engine::{EngineError, Kind, RemoveOptions, StartExtras, StopOptions, since_boot};
use skep_model::{Task, TaskId, TaskState, TaskStatus, Timestamp};
use skep_net::{Connections, NetError};
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use crate::leases::Lease;
use crate::network;
use crate::task::spec::{self, SpecError};
use crate::task::step::{Health, Observed, Op, Progress, step};
use crate::worker::Worker;

/// Grace between stop signal and kill when the spec says none.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// A task is looked at again this often even when nothing was heard.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Pause after an operation that failed without ending the task.
const RETRY: Duration = Duration::from_secs(1);

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
enum DriveError {
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("{}", .0.chain())]
    Net(#[from] NetError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("{0}")]
    Impossible(crate::worker::SandboxError),
    /// A fresh one would look like data that is gone.
    #[error(
        "volume `{name}` is missing on this node, where slot {slot} has had it; to begin with an empty one: skep volume release --to {node} {service} {slot}"
    )]
    NoVolume {
        name: String,
        slot: u64,
        node: String,
        service: String,
    },
}

/// One task under this agent's care.
pub(crate) struct Driver {
    worker: Arc<Worker>,
    id: TaskId,
    /// Name or id of the container.
    container: String,
    /// The newest assignment; `None` when the task is no longer assigned.
    task: Option<Arc<Task>>,
    status: TaskStatus,
    stop_since: Option<Timestamp>,
    drained_since: Option<Timestamp>,
    ended_since: Option<Timestamp>,
    image_ready: bool,
    /// What secrets of outside stores hold, until the program has it.
    fetched: secrets::Fetched,
    /// Stores that are asked while the program runs.
    asking: Option<secrets::Asking>,
    /// Until when the container has been let run, as the engine counts.
    leased_until: Duration,
    /// It was still there when its lease was over.
    lapsed: bool,
    /// Files in it are not replaced before.
    files_not_before: Timestamp,
}

impl Driver {
    pub(crate) fn new(
        worker: Arc<Worker>,
        id: TaskId,
        container: String,
        task: Option<Arc<Task>>,
        remembered: Option<TaskStatus>,
    ) -> Self {
        let given = task
            .as_ref()
            .map(|task| task.status.clone())
            .unwrap_or_default();
        // Whichever is further: a report may have been lost with the session.
        let status = match remembered {
            Some(own) if own.state > given.state => own,
            Some(_) | None => given,
        };
        Self {
            worker,
            id,
            container,
            task,
            status,
            stop_since: None,
            drained_since: None,
            ended_since: None,
            image_ready: false,
            fetched: secrets::Fetched::default(),
            asking: None,
            leased_until: Duration::ZERO,
            lapsed: false,
            files_not_before: Timestamp::ZERO,
        }
    }

    /// Runs until the task is gone from this node.
    pub(crate) async fn run(
        mut self,
        mut desired: watch::Receiver<Option<Arc<Task>>>,
        wake: Arc<Notify>,
    ) {
        if self.status.state > TaskState::Assigned {
            self.worker.statuses.put(&self.id, self.status.clone());
        }
        let mut confirmed = self.worker.leases.follow();
        loop {
            confirmed.mark_unchanged();
            self.task = desired.borrow_and_update().clone();
            let stopping = self.task.as_ref().is_none_or(|task| {
                task.desired_state > TaskState::Running && task.desired_state != TaskState::Complete
            });
            if stopping && self.stop_since.is_none() {
                self.stop_since = Some(now());
            }
            let drained = self
                .task
                .as_ref()
                .is_some_and(|task| !task.drained_at.is_zero());
            if drained && self.drained_since.is_none() {
                self.drained_since = Some(now());
            }
            let progress = match self.look().await {
                Ok(progress) => progress,
                Err(error) => {
                    warn!(task = %self.id, %error, "a task's container cannot be looked at");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            self.keep_lease(&progress).await;
            self.keep_files(&progress.observed, &wake).await;
            let op = step(&progress, now());
            debug!(task = %self.id, ?op, "next");
            if op == Op::Forget {
                match self.forget().await {
                    Ok(()) => return,
                    Err(error) => {
                        warn!(task = %self.id, %error, "a task's remains cannot be removed yet");
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                }
            }
            if let Op::Wait { until } = op {
                let mut pause =
                    until.map_or(LOOK_AGAIN, |until| until.since(now()).min(LOOK_AGAIN));
                if let Some(stop_after) = self.stop_after() {
                    pause = pause.min(stop_after / lease::LEASE_PARTS);
                }
                tokio::select! {
                    _ = confirmed.changed(), if self.stop_after().is_some() => (),
                    _ = desired.changed() => (),
                    () = wake.notified() => (),
                    () = tokio::time::sleep(pause) => (),
                }
                continue;
            }
            // What may take long: a change of mind must not wait for it.
            let outcome = match op {
                Op::PullImage => {
                    let pull = self.pull();
                    tokio::select! {
                        outcome = pull => outcome.map(|()| self.image_ready = true),
                        _ = desired.changed() => continue,
                    }
                }
                Op::FetchSecrets => {
                    let questions = self.questions(None);
                    let ask = secrets::ask_all(&self.worker, &self.id, &questions);
                    let asked = tokio::select! {
                        asked = ask => asked,
                        _ = desired.changed() => continue,
                    };
                    self.note_stores(asked).await;
                    Ok(())
                }
                op => self.perform(op, &progress).await,
            };
            if let Err(error) = outcome {
                self.fail(&error).await;
            }
        }
    }

    async fn look(&mut self) -> Result<Progress, EngineError> {
        let observed = match self
            .worker
            .engine
            .container_inspect(&self.container, false)
            .await
        {
            Ok(found) => {
                let state = &found.state;
                match state.status.as_str() {
                    "created" => Observed::Created,
                    "running" | "paused" | "restarting" => Observed::Running {
                        health: match state.health.as_ref().map(|health| health.status.as_str()) {
                            None | Some("none" | "") => Health::None,
                            Some("starting") => Health::Starting,
                            Some("unhealthy") => Health::Unhealthy,
                            Some(_) => Health::Healthy,
                        },
                    },
                    _ => Observed::Exited {
                        code: state.exit_code,
                        oom_killed: state.oom_killed,
                        error: state.error.clone(),
                    },
                }
            }
            Err(error) if error.kind() == Kind::NotFound => Observed::Absent,
            Err(error) => return Err(error),
        };
        let attached = self
            .task
            .as_ref()
            .is_some_and(|task| !task.attachments.is_empty());
        let has_ended = matches!(observed, Observed::Exited { .. });
        if has_ended && self.ended_since.is_none() {
            self.ended_since = Some(now());
        }
        let has_endpoints = attached && self.status.state == TaskState::Running;
        let connections = if has_endpoints && (has_ended || self.stop_since.is_some()) {
            self.worker.connections(&self.id).await
        } else {
            Connections::default()
        };
        let lease = self.worker.leases.stand(self.stop_after());
        let is_there = matches!(observed, Observed::Running { .. } | Observed::Exited { .. });
        let has_lapsed = lease == Lease::Lapsed
            || (lease != Lease::Unbound
                && !self.leased_until.is_zero()
                && since_boot() >= self.leased_until);
        self.lapsed |= has_lapsed && is_there;
        Ok(Progress {
            lease: match self.lapsed {
                true => Lease::Lapsed,
                false => lease,
            },
            desired: self.task.as_ref().map(|task| task.desired_state),
            state: self.status.state,
            observed,
            image_ready: self.image_ready,
            secrets: self.fetch_due(),
            sandbox_ready: self.needs_no_sandbox() || self.worker.has_sandbox(&self.id),
            has_endpoints,
            stop_since: self.stop_since,
            drained_since: self.drained_since,
            serves_clients: connections.served > 0,
            drain: self
                .task
                .as_ref()
                .map_or(Duration::ZERO, |task| task.spec.drain_period()),
            ended_since: self.ended_since,
            undelivered: connections.undelivered > 0,
        })
    }

    /// Tasks in the node's own network namespace have none of their own. One that has ended
    /// counts as having none either, once it was taken down.
    fn needs_no_sandbox(&self) -> bool {
        let host = self
            .task
            .as_ref()
            .is_some_and(|task| spec::uses_host_network(task));
        host && !self.worker.has_sandbox(&self.id) && !self.status.state.is_terminal()
    }

    async fn perform(&mut self, op: Op, progress: &Progress) -> Result<(), DriveError> {
        match op {
            Op::Report {
                state,
                message,
                err,
            } => {
                self.report(state, message, err).await;
                Ok(())
            }
            Op::PrepareNetwork => self.prepare_network().await,
            Op::CreateContainer => self.create().await,
            Op::StartContainer => self.start().await,
            Op::StopContainer => self.stop(progress).await,
            Op::RemoveSandbox => Ok(self.worker.remove_sandbox(&self.id).await?),
            Op::PullImage | Op::FetchSecrets | Op::Forget | Op::Wait { .. } => Ok(()),
        }
    }

    async fn prepare_network(&mut self) -> Result<(), DriveError> {
        let Some(task) = self.task.clone() else {
            return Ok(());
        };
        if spec::uses_host_network(&task) {
            return Ok(());
        }
        self.worker
            .prepare_sandbox(&task)
            .await
            .map_err(|error| match error {
                crate::worker::SandboxError::Net(error) => DriveError::Net(error),
                other => DriveError::Impossible(other),
            })
    }

    async fn create(&mut self) -> Result<(), DriveError> {
        let Some(task) = self.task.clone() else {
            return Ok(());
        };
        self.expect_volumes(&task).await?;
        let assigned = self.assigned();
        let config = spec::container_config(&task, &spec::template_context(&task, &assigned))?;
        // Found out now rather than at the start: whether everything it refers to is here.
        drop(spec::start_extras(&task, &assigned)?);
        let networks = network::named_networks(&task, &assigned);
        let zones = networks
            .iter()
            .map(|network| self.worker.zone_path(&network.id))
            .collect();
        let netns = (!spec::uses_host_network(&task)).then(|| self.worker.netns_path(&task.id));
        let resolv = tokio::fs::read_to_string("/etc/resolv.conf")
            .await
            .unwrap_or_default();
        let shown = shown_networks(&task, &assigned);
        let mut extras = spec::extras(&task, netns, zones, &resolv, shown);
        if let Some(dns) = extras.dns.as_mut()
            && !network::needs_gateway(&task, &assigned)
        {
            // Who may not leave does not ask outside either.
            dns.upstreams.clear();
        }
        match self
            .worker
            .engine
            .container_create(Some(&task.container_name()), config, extras)
            .await
        {
            Ok(created) => {
                self.container = created.id;
                Ok(())
            }
            Err(error) if error.kind() == Kind::Conflict => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn start(&mut self) -> Result<(), DriveError> {
        let Some(task) = self.task.clone() else {
            return Ok(());
        };
        let extras = spec::start_extras(&task, &self.assigned())?;
        let engine = &self.worker.engine;
        let prepared = engine.container_prepare(&self.container, extras).await?;
        if let Some(ports) = prepared.dns {
            self.worker
                .redirect_dns(&task.id, (ports.udp, ports.tcp))
                .await?;
        }
        if let Some(stop_after) = self.stop_after() {
            match self.worker.leases.until(stop_after) {
                Some(until) => self.lease(until).await?,
                // It was held a moment ago; the next look knows better.
                None => return Ok(()),
            }
        }
        match self
            .worker
            .engine
            .container_start(&self.container, StartExtras::default())
            .await
        {
            Ok(()) => {
                info!(task = %self.id, service = %task.service_name, "task started");
                let given = task.in_place.iter();
                self.status.versions = given.map(|one| (one.object.clone(), one.number)).collect();
                self.fetched.let_go();
                Ok(())
            }
            Err(error) if error.kind() == Kind::NotModified => {
                self.fetched.let_go();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn stop(&mut self, progress: &Progress) -> Result<(), DriveError> {
        let unhealthy = progress.observed
            == Observed::Running {
                health: Health::Unhealthy,
            };
        let asked = self.stop_since.is_some();
        let grace = self.grace();
        let options = StopOptions {
            signal: None,
            timeout: Some(grace.as_secs_f64().ceil() as i64),
        };
        match self
            .worker
            .engine
            .container_stop(&self.container, options)
            .await
        {
            Ok(()) => (),
            Err(error) if matches!(error.kind(), Kind::NotModified | Kind::NotFound) => (),
            Err(error) => return Err(error.into()),
        }
        if unhealthy && !asked && !self.status.state.is_terminal() {
            self.report(
                TaskState::Failed,
                "started",
                "task: unhealthy container".to_owned(),
            )
            .await;
        }
        Ok(())
    }

    /// Removes container, namespace, journal entry and statuses.
    async fn forget(&mut self) -> Result<(), DriveError> {
        self.worker.remove_sandbox(&self.id).await?;
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        match self
            .worker
            .engine
            .container_remove(&self.container, options)
            .await
        {
            Ok(()) => (),
            Err(error) if error.kind() == Kind::NotFound => (),
            Err(error) => return Err(error.into()),
        }
        self.worker.forget(&self.id);
        Ok(())
    }

    /// An operation failed. Before the process runs that ends the task as rejected, later as
    /// failed; when the task is to stop anyway, it is tried again.
    async fn fail(&mut self, error: &DriveError) {
        let err = error.to_string();
        warn!(task = %self.id, error = %err, "an operation of a task failed");
        if self.status.state.is_terminal() || self.stop_since.is_some() {
            tokio::time::sleep(RETRY).await;
            return;
        }
        let state = if self.status.state < TaskState::Starting {
            TaskState::Rejected
        } else {
            TaskState::Failed
        };
        self.fetched.let_go();
        self.report(state, "preparing", err).await;
    }
}

/// What `inspect` of the container shows under its networks.
fn shown_networks(
    task: &Task,
    assigned: &crate::assigned::Assigned,
) -> BTreeMap<String, EndpointSettings> {
    let mut shown = BTreeMap::new();
    for attachment in &task.attachments {
        let Some(network) = assigned.networks.get(&attachment.network_id) else {
            continue;
        };
        let first = network::parse_all(&attachment.addresses).into_iter().next();
        let settings = EndpointSettings {
            network_id: network.id.to_string(),
            aliases: Some(attachment.aliases.clone()),
            ip_address: first.map(|net| net.addr().to_string()).unwrap_or_default(),
            ip_prefix_len: first.map_or(0, |net| i64::from(net.prefix_len())),
            mac_address: first
                .map(|net| skep_net::Mac::of(net.addr()).to_string())
                .unwrap_or_default(),
            ..Default::default()
        };
        shown.insert(network.spec.name.clone(), settings);
    }
    shown
}

/// The wall clock.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}
