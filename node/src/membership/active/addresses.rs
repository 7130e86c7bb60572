//! Follows the addresses of this host: the node goes by those it has, and tells them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use skep_proto::v1::JoinRequest;
use skep_proto::v1::membership_client::MembershipClient;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::{Active, lock};
use crate::membership::files::Saved;
use crate::membership::moving::{Moving, Notice, Seen};
use crate::membership::{address, describe, skep_error_chain};

/// The host's addresses are looked at this often: a node that was not heard for three seconds is
/// taken for lost, and its tasks are replaced.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What managers know is compared with it every so many looks.
const ANNOUNCED_EVERY: u32 = 2;
/// How long a manager may take to take in where this one is now.
const ANNOUNCE: Duration = Duration::from_secs(3);
/// How often a manager tries to listen on its new address, and the pause in between: an address may
/// be there a moment before it can be used.
const LISTEN: (usize, Duration) = (10, Duration::from_secs(1));

/// A look at this host.
struct Look {
    seen: Seen,
    /// MTU of the device that carries the data path; `None` while none does.
    mtu: Option<u32>,
}

impl Active {
    /// Keeps true what others know of this node's addresses, for as long as it is a member.
    pub(super) async fn keep_addresses(self: Arc<Self>) {
        let (mut moving, mut looks) = (Moving::default(), 0_u32);
        let mut known: BTreeSet<IpAddr> = BTreeSet::new();
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let Some(look) = self.look_around().await else {
                continue;
            };
            let before = self.saved();
            let (now, notices) = moving.look(&before, &look.seen);
            notices.iter().for_each(Notice::tell);
            if now != before {
                self.go_by(&before, &now).await;
            }
            self.tell_addresses(&look);
            let outer = look.seen.own.iter();
            let outer = outer.filter(|(name, _)| !address::is_our_own(name));
            let present = outer.map(|(_, net)| net.addr()).collect();
            let is_gone = !known.is_subset(&present);
            known = present;
            if is_gone || now.advertise != before.advertise {
                // What comes from an address that is gone is not answered any more.
                self.connector.forget_all();
                self.restart_session();
            }
            looks = looks.wrapping_add(1);
            if looks % ANNOUNCED_EVERY == 0 {
                self.announce().await;
            }
        }
    }

    async fn look_around(&self) -> Option<Look> {
        let host = Arc::clone(&self.around.host);
        let data_path: Option<IpAddr> = self.saved().data_path.parse().ok();
        let look = move || {
            let found = host.outer()?;
            let mut carriers = found.addresses.iter();
            let carrier = carriers.find(|one| Some(one.net.addr()) == data_path);
            Ok::<_, skep_net::NetError>(Look {
                mtu: carrier.map(|one| one.mtu),
                seen: address::seen(found),
            })
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(look)) => Some(look),
            Ok(Err(error)) => {
                warn!(error = %error.chain(), "this host's addresses cannot be looked at");
                None
            }
            Err(error) => {
                warn!(%error, "this host's addresses cannot be looked at");
                None
            }
        }
    }

    /// Takes up other addresses: all that begins from now on does so with them.
    async fn go_by(&self, before: &Saved, now: &Saved) {
        {
            let mut saved = lock(&self.saved);
            saved.listen.clone_from(&now.listen);
            saved.advertise.clone_from(&now.advertise);
            saved.data_path.clone_from(&now.data_path);
            saved.origins.clone_from(&now.origins);
            self.save(&saved);
        }
        let data_path: Option<IpAddr> = now.data_path.parse().ok();
        self.description.send_if_modified(|description| {
            let changed = description.data_path_addr != data_path;
            description.data_path_addr = data_path;
            changed
        });
        if now.advertise != before.advertise {
            let mut managers = self.managers.borrow().clone();
            managers.retain(|address| *address != before.advertise);
            self.note_managers(managers);
        }
        if now.listen != before.listen {
            self.restart_manager().await;
        }
    }

    /// Has the manager listen where it is now.
    async fn restart_manager(&self) {
        let Some(running) = lock(&self.manager).take() else {
            return;
        };
        running.shutdown().await;
        drop(running);
        for _ in 0..LISTEN.0 {
            match self.start_manager().await {
                Ok(()) => return,
                Err(error) => warn!(%error, "the manager does not start at its new address yet"),
            }
            sleep(LISTEN.1).await;
        }
        error!("the manager does not start at its new address: restart the daemon once it can");
    }

    fn tell_addresses(&self, look: &Look) {
        let addresses = describe::told(&look.seen.own);
        self.description.send_if_modified(|description| {
            let mtu = look.mtu.unwrap_or(description.data_path_mtu);
            let changed = description.addresses != addresses || description.data_path_mtu != mtu;
            description.addresses = addresses;
            description.data_path_mtu = mtu;
            changed
        });
        if let Some(mtu) = look.mtu {
            self.worker.set_underlay_mtu(mtu);
        }
    }

    /// Has the other managers know where this one is, if it is one and they do not. Each is told: it
    /// may be just this one that must reach this manager before there is a leader again.
    async fn announce(&self) {
        let Ok(manager) = self.manager() else { return };
        let saved = self.saved();
        let members = manager.members();
        let known = members.iter().find(|(node, _)| *node == saved.node);
        let Some((_, known)) = known.filter(|(_, known)| *known != saved.advertise) else {
            return;
        };
        let others = members.iter().map(|(_, address)| address);
        let others = others.filter(|address| *address != known);
        let mut telling = JoinSet::new();
        for address in std::iter::once(&saved.advertise).chain(others) {
            let request = JoinRequest {
                raft_id: saved.raft_id,
                address: saved.advertise.clone(),
            };
            let (address, channel) = (address.clone(), self.connector.channel(address));
            telling.spawn(async move {
                let mut client = MembershipClient::new(channel);
                (address, timeout(ANNOUNCE, client.join(request)).await)
            });
        }
        while let Some(told) = telling.join_next().await {
            match told {
                Ok((_, Ok(Ok(reply)))) => {
                    info!(
                        address = saved.advertise,
                        "the managers know this one's new address"
                    );
                    self.take_managers(&reply.into_inner().managers);
                    return;
                }
                Ok((manager, Ok(Err(status)))) => {
                    debug!(manager, %status, "a manager does not know this one's new address yet");
                }
                Ok((manager, Err(_))) => {
                    debug!(
                        manager,
                        "a manager does not hear of this one's new address in time"
                    );
                }
                Err(error) => debug!(%error, "a manager was not told this one's new address"),
            }
        }
    }

    /// Writes down what is saved, if anything is: during init it is written when all is well.
    pub(super) fn save(&self, saved: &Saved) {
        if matches!(self.files.load(), Ok(Some(_)))
            && let Err(error) = self.files.save(saved)
        {
            let error = skep_error_chain(&error);
            warn!(
                error,
                "what this node knows of its cluster could not be saved"
            );
        }
    }
}
