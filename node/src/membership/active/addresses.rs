//! Follows the addresses of this host: the node goes by those it has, and tells them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use skep_model::NodeRole;
use skep_proto::v1::JoinRequest;
use skep_proto::v1::membership_client::MembershipClient;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};

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
/// Pause before a manager that did not start is started again, doubled with each failure: an address
/// may be there a moment before it can be used.
const START_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// A look at this host.
struct Look {
    seen: Seen,
    /// MTU of the device that carries the data path; `None` while none does.
    mtu: Option<u32>,
    /// Addresses of this host that what it says to managers comes from.
    sources: BTreeSet<IpAddr>,
}

/// The addresses that this node is known by.
fn named(saved: &Saved) -> impl Iterator<Item = IpAddr> {
    let socket = |text: &str| text.parse().map(|address: SocketAddr| address.ip());
    let named = [
        socket(&saved.listen),
        socket(&saved.advertise),
        saved.data_path.parse(),
    ];
    let named = named.into_iter().flatten();
    named.filter(|ip| !ip.is_unspecified())
}

/// The addresses of this host that its connections to managers may hang on. Others come and go as
/// they like.
#[derive(Debug, Default)]
struct Used(BTreeSet<IpAddr>);

impl Used {
    /// Whether one of them is gone. Connections that were made before the ways changed still have
    /// the addresses that they were made from.
    fn is_lost(&mut self, now: &BTreeSet<IpAddr>, seen: &Seen) -> bool {
        let is_lost = self.0.iter().any(|ip| seen.carrier(*ip).is_none());
        if is_lost {
            self.0.clear();
        }
        let present = now.iter().filter(|ip| seen.carrier(**ip).is_some());
        self.0.extend(present);
        is_lost
    }
}

/// The address of this host that would speak to a manager now. Nothing is sent for that.
fn source(manager: &str) -> Option<IpAddr> {
    let manager: SocketAddr = manager.parse().ok()?;
    let any: IpAddr = match manager {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(manager).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_loopback()).then_some(source)
}

/// What is to be done about the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    Nothing,
    Start,
    Restart,
}

/// Where this node's manager is to listen, if it is to have one. Without a place in the log there is
/// nothing for it to do: whoever makes a manager of the node gives it one first.
fn wanted(role: NodeRole, saved: &Saved) -> Option<&str> {
    (role == NodeRole::Manager && saved.raft_id != 0).then_some(saved.listen.as_str())
}

/// What follows from where the manager is to listen, and where the one that runs does. One that is
/// not to run any more is stopped by whoever makes a worker of the node.
fn duty(wanted: Option<&str>, listens: Option<&str>) -> Duty {
    match (wanted, listens) {
        (None, _) => Duty::Nothing,
        (Some(_), None) => Duty::Start,
        (Some(wanted), Some(listens)) if wanted == listens => Duty::Nothing,
        (Some(_), Some(_)) => Duty::Restart,
    }
}

/// When a manager that does not start is tried again.
#[derive(Debug, Default)]
struct Starts {
    /// Where it was to listen, when it is tried there next, and the pause before that.
    failed: Option<(String, Instant, Duration)>,
}

impl Starts {
    /// Another address is tried at once.
    fn is_due(&self, at: &str, now: Instant) -> bool {
        let failed = self.failed.as_ref();
        failed.is_none_or(|(address, next, _)| address != at || now >= *next)
    }

    fn failed(&mut self, at: &str, now: Instant) -> Duration {
        let pause = match &self.failed {
            Some((address, _, pause)) if address == at => (*pause * 2).min(START_RETRY.1),
            _ => START_RETRY.0,
        };
        self.failed = Some((at.to_owned(), now + pause, pause));
        pause
    }
}

impl Active {
    /// Keeps true what others know of this node's addresses, for as long as it is a member.
    pub(super) async fn keep_addresses(self: Arc<Self>) {
        let (mut moving, mut starts, mut looks) = (Moving::default(), Starts::default(), 0_u32);
        let mut used = Used::default();
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
                self.go_by(&before, &now);
            }
            self.keep_manager(&mut starts).await;
            self.tell_addresses(&look);
            let in_use = named(&now).chain(look.sources.iter().copied()).collect();
            if used.is_lost(&in_use, &look.seen) || now.advertise != before.advertise {
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
        let managers = self.managers.borrow().clone();
        let look = move || {
            let found = host.outer()?;
            let mut carriers = found.addresses.iter();
            let carrier = carriers.find(|one| Some(one.net.addr()) == data_path);
            Ok::<_, skep_net::NetError>(Look {
                mtu: carrier.map(|one| one.mtu),
                sources: managers.iter().filter_map(|one| source(one)).collect(),
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
    fn go_by(&self, before: &Saved, now: &Saved) {
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
    }

    /// Has a manager run, if this node is to be one, and listen where it is now.
    async fn keep_manager(&self, starts: &mut Starts) {
        let mut listens = self.listens.lock().await;
        let (role, saved) = (self.identity.load().peer.role, self.saved());
        let wanted = wanted(role, &saved);
        let duty = duty(wanted, listens.as_deref());
        let (Some(at), true) = (wanted, duty != Duty::Nothing) else {
            return;
        };
        if !starts.is_due(at, Instant::now()) {
            return;
        }
        if duty == Duty::Restart {
            self.stop_manager(&mut listens).await;
        }
        match self.start_manager(&mut listens).await {
            Ok(()) => *starts = Starts::default(),
            Err(error) => {
                let pause = starts.failed(at, Instant::now());
                warn!(%error, ?pause, "the manager does not start yet: it is tried again");
            }
        }
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

    /// Has the other managers know where this one is, if it is one and they do not. Each is told
    /// and waited for: it may be just this one that must reach this manager before there is a leader
    /// again, and one that missed this word may hold to another that is not true any more.
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
        let mut is_known = false;
        while let Some(told) = telling.join_next().await {
            match told {
                Ok((manager, Ok(Ok(reply)))) => {
                    debug!(manager, "a manager knows this one's new address");
                    is_known = true;
                    self.take_managers(&reply.into_inner().managers);
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
        if is_known {
            let address = saved.advertise;
            info!(address, "the managers know this one's new address");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_runs_on_managers_with_a_place_in_the_log_alone() {
        let saved = |raft_id| Saved {
            raft_id,
            listen: "192.0.2.1:2377".into(),
            ..Saved::default()
        };
        let (placed, unplaced) = (saved(7), saved(0));
        let at = Some("192.0.2.1:2377");
        assert_eq!(wanted(NodeRole::Manager, &placed), at);
        assert_eq!(wanted(NodeRole::Manager, &unplaced), None);
        assert_eq!(wanted(NodeRole::Worker, &placed), None);
        assert_eq!(duty(at, None), Duty::Start);
        assert_eq!(duty(at, at), Duty::Nothing);
        assert_eq!(duty(at, Some("192.0.2.9:2377")), Duty::Restart);
        assert_eq!(duty(None, at), Duty::Nothing);
        assert_eq!(duty(None, None), Duty::Nothing);
    }

    #[test]
    fn a_start_that_fails_is_tried_for_ever_but_not_all_the_time() {
        let (mut starts, mut now) = (Starts::default(), Instant::now());
        assert!(starts.is_due("a:1", now));
        for seconds in [1, 2, 4, 8, 8, 8] {
            let pause = starts.failed("a:1", now);
            assert_eq!(pause, Duration::from_secs(seconds));
            assert!(!starts.is_due("a:1", now + pause / 2));
            assert!(starts.is_due("b:1", now), "elsewhere it may be better");
            now += pause;
            assert!(starts.is_due("a:1", now));
        }
        assert_eq!(starts.failed("b:1", now), START_RETRY.0);
    }

    #[test]
    fn only_addresses_in_use_are_missed() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let seen = |addresses: &[&str]| Seen {
            own: addresses
                .iter()
                .map(|text| ("eth0".to_owned(), ip(text).into()))
                .collect(),
            ..Seen::default()
        };
        let (known, source, other) = ("192.0.2.1", "192.0.2.2", "192.168.122.1");
        let saved = Saved {
            listen: "0.0.0.0:2377".into(),
            advertise: "192.0.2.1:2377".into(),
            data_path: known.into(),
            ..Saved::default()
        };
        assert_eq!(named(&saved).collect::<Vec<_>>(), [ip(known), ip(known)]);
        let in_use: BTreeSet<IpAddr> = named(&saved).chain([ip(source)]).collect();
        let mut used = Used::default();
        assert!(!used.is_lost(&in_use, &seen(&[known, source, other])));
        assert!(!used.is_lost(&in_use, &seen(&[known, source])), "a bridge");
        // The way to managers is another one now, but a connection may be of before.
        let fewer = BTreeSet::from([ip(known)]);
        assert!(!used.is_lost(&fewer, &seen(&[known, source])));
        assert!(used.is_lost(&fewer, &seen(&[known])), "the source");
        assert!(used.is_lost(&fewer, &seen(&[])), "the address itself");
        for _ in 0..3 {
            assert!(!used.is_lost(&fewer, &seen(&[])), "once only");
        }
        assert!(!used.is_lost(&fewer, &seen(&[known])), "it is back");
        assert!(used.is_lost(&fewer, &seen(&[other])));
    }

    #[test]
    fn the_source_of_what_is_said_to_oneself_is_no_address_to_miss() {
        assert_eq!(source("127.0.0.1:2377"), None);
        assert_eq!(source("nonsense"), None);
    }
}
