//! The manager on this node: started, stopped, given its vote and freed of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skep_manager::{Manager, ManagerConfig, Timing};
use skep_model::{ControlError, Kind};
use skep_pki::Sealer;
use skep_proto::status;
use skep_proto::v1::membership_client::MembershipClient;
use skep_proto::v1::{JoinRequest, LeaveRequest};

use super::{Active, internal, lock};
use crate::membership::{Chosen, clock_random, nonzero, skep_error_chain};

/// How often a joining manager asks before it gives up, and how long it waits in between.
const JOIN_ATTEMPTS: (usize, Duration) = (30, Duration::from_millis(500));
/// How long a leader that leaves waits for another one.
const STEP_DOWN: Duration = Duration::from_secs(3);
/// How long the only manager that is left may take to lead.
pub(super) const TAKE_OVER: Duration = Duration::from_secs(15);
/// Log entries between snapshots, and entries kept for followers that are a little slow.
const SNAPSHOTS: (u64, u64) = (10_000, 500);

impl Active {
    /// Starts the manager, of which none runs.
    pub(super) async fn start_manager(
        &self,
        listens: &mut Option<String>,
    ) -> Result<(), ControlError> {
        let config = self.manager_config()?;
        let at = self.saved().listen;
        let manager = Manager::start(config)
            .await
            .map_err(|error| internal(skep_error_chain(&error)))?;
        *lock(&self.manager) = Some(Arc::new(manager));
        *listens = Some(at);
        // The manager on this very node is the nearest one.
        self.note_managers(self.saved().managers);
        Ok(())
    }

    /// Stops the manager if one runs. It stays known until it is closed: whoever gives up waiting
    /// for that leaves it to the next one to close.
    pub(super) async fn stop_manager(&self, listens: &mut Option<String>) {
        let running = lock(&self.manager).clone();
        if let Some(running) = running {
            running.shutdown().await;
            lock(&self.manager).take();
        }
        *listens = None;
    }

    /// Makes this manager the only one of its cluster, with everything that its log holds, at
    /// another address if one is given. Tasks notice nothing.
    pub(in crate::membership) async fn go_on_alone(
        self: &Arc<Self>,
        chosen: Chosen,
    ) -> Result<(), ControlError> {
        let mut listens = self.listens.lock().await;
        self.manager()?;
        self.stop_manager(&mut listens).await;
        let before = self.saved();
        {
            let mut saved = lock(&self.saved);
            saved.listen = chosen.listen.to_string();
            saved.advertise = chosen.advertise.to_string();
            saved.origins = chosen.origins;
        }
        let alone = Manager::go_on_alone(&self.manager_config()?).await;
        if let Err(error) = alone {
            *lock(&self.saved) = before;
            self.start_manager(&mut listens).await?;
            return Err(internal(skep_error_chain(&error)));
        }
        let saved = {
            let mut saved = lock(&self.saved);
            saved.managers = vec![saved.advertise.clone()];
            saved.clone()
        };
        self.files.save(&saved)?;
        self.start_manager(&mut listens).await?;
        drop(listens);
        self.manager()?.take_over(TAKE_OVER).await?;
        self.restart_session();
        Ok(())
    }

    pub(super) fn manager_config(&self) -> Result<ManagerConfig, ControlError> {
        let saved = self.saved();
        let key = self.files.data_key()?;
        let listen: SocketAddr = saved
            .listen
            .parse()
            .map_err(|_| internal("the listen address is damaged"))?;
        Ok(ManagerConfig {
            node: saved.node.clone(),
            cluster: saved.cluster.clone(),
            raft_id: saved.raft_id,
            address: saved.advertise.clone(),
            listen,
            directory: self.files.raft(),
            sealer: Sealer::new(&key),
            connector: Arc::clone(&self.connector),
            server_tls: Arc::clone(&self.server_tls),
            timing: Timing::default(),
            snapshot_every: SNAPSHOTS.0,
            keep_entries: SNAPSHOTS.1,
            secret_stores: Arc::clone(&self.around.secret_stores),
        })
    }

    pub(super) async fn become_manager(&self) -> Result<(), ControlError> {
        let mut listens = self.listens.lock().await;
        {
            let mut saved = lock(&self.saved);
            if saved.raft_id == 0 {
                saved.raft_id = nonzero(&mut clock_random());
            }
            self.files.save(&saved)?;
        }
        self.has_vote.store(false, Ordering::SeqCst);
        if listens.is_none() {
            self.start_manager(&mut listens).await?;
        }
        drop(listens);
        self.join_log().await?;
        self.has_vote.store(true, Ordering::SeqCst);
        Ok(())
    }

    pub(super) async fn become_worker(&self) -> Result<(), ControlError> {
        let mut listens = self.listens.lock().await;
        self.stop_manager(&mut listens).await;
        self.files.remove_log();
        let own = {
            let mut saved = lock(&self.saved);
            saved.raft_id = 0;
            self.files.save(&saved)?;
            saved.advertise.clone()
        };
        drop(listens);
        let mut others = self.managers.borrow().clone();
        others.retain(|address| *address != own);
        self.note_managers(others);
        Ok(())
    }

    /// Asks the leader, through any manager, to make this manager a voting member of the log.
    pub async fn join_log(&self) -> Result<(), ControlError> {
        let saved = self.saved();
        let mut last = ControlError::new(Kind::Unavailable, "no manager is known");
        for _ in 0..JOIN_ATTEMPTS.0 {
            let others: Vec<String> = saved
                .managers
                .iter()
                .filter(|address| **address != saved.advertise)
                .cloned()
                .collect();
            for address in others {
                let request = JoinRequest {
                    raft_id: saved.raft_id,
                    address: saved.advertise.clone(),
                };
                let mut client = MembershipClient::new(self.connector.channel(&address));
                match client.join(request).await {
                    Ok(reply) => {
                        self.take_managers(&reply.into_inner().managers);
                        return Ok(());
                    }
                    Err(answer) => last = status::to_control(&answer),
                }
            }
            if last.kind != Kind::Unavailable {
                return Err(last);
            }
            tokio::time::sleep(JOIN_ATTEMPTS.1).await;
        }
        Err(last)
    }

    /// Tells the leader that this node leaves; a manager gives up its vote.
    pub async fn leave_log(&self) -> Result<(), ControlError> {
        let own = self.saved().advertise;
        let manager = lock(&self.manager).clone();
        if let Some(manager) = &manager
            && manager.leader().0
            && manager.addresses().len() > 1
        {
            manager.step_down(STEP_DOWN).await;
        }
        let mut others = match &manager {
            Some(manager) => manager.addresses(),
            None => self.managers.borrow().clone(),
        };
        others.retain(|address| manager.is_none() || *address != own);
        let mut last = Ok(());
        for address in others {
            let mut client = MembershipClient::new(self.connector.channel(&address));
            match client.leave(LeaveRequest { node: true }).await {
                Ok(_) => return Ok(()),
                Err(answer) => last = Err(status::to_control(&answer)),
            }
        }
        last
    }
}
