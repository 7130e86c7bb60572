//! Which addresses a node goes by when those of its host change. Pure.
//!
//! An address that the host still has is kept. In place of one that it has lost comes another one of
//! the same interface: the first one where the interface was named, else the only one. An address
//! that was given as such is the user's own choice: it is taken again when it comes back. Where
//! nothing was asked for and the interface itself is gone, the only address that the host has left
//! serves until the interface has one again; while the interface is there it is waited for, since a
//! lease that lapses is no reason to go by the address of a bridge of virtual machines. Where all
//! that leaves a choice, or nothing to choose, the old one is kept: somebody else must decide.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tracing::{info, warn};

use super::address::{self, is_our_own};
use super::files::{Origin, Saved};

/// So many looks in a row must find the same before it counts: addresses come and go one by one
/// while an interface is set up anew.
const LOOKS: u32 = 2;

/// What is seen of this host.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Addresses by the names of their interfaces.
    pub own: Vec<(String, IpNet)>,
    /// All links, whether they have addresses or not.
    pub links: BTreeSet<String>,
}

impl Seen {
    /// The interface that carries an address.
    pub fn carrier(&self, ip: IpAddr) -> Option<&str> {
        let found = self.own.iter().find(|(_, net)| net.addr() == ip);
        found.map(|(interface, _)| interface.as_str())
    }
}

/// How an address was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish {
    /// Not at all: the host had one only.
    Any,
    Interface(String),
    Ip(IpAddr),
}

impl Wish {
    /// What was asked for an address that is `now`. Memberships of before the question was kept had
    /// asked for it.
    fn of(origin: &Origin, now: IpAddr) -> Self {
        let Some(asked) = &origin.asked else {
            return Self::Ip(now);
        };
        match address::split(asked).0 {
            "" => Self::Any,
            host => match host.parse() {
                Ok(ip) => Self::Ip(ip),
                Err(_) => Self::Interface(host.to_owned()),
            },
        }
    }
}

/// What becomes of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Stay,
    Move(IpAddr),
    /// It is gone, and nothing is to come in its place for this reason.
    Lost(String),
}

/// The next address in place of `now`.
fn next(wish: &Wish, now: IpAddr, origin: &Origin, seen: &Seen) -> Next {
    let alike = |net: &IpNet| net.addr().is_ipv4() == now.is_ipv4();
    let on = |interface: &str| -> Vec<IpAddr> {
        let all = seen.own.iter();
        let all = all.filter(|(name, net)| name == interface && alike(net));
        all.map(|(_, net)| net.addr()).collect()
    };
    let interface = origin.interface.as_str();
    let present = seen.carrier(now);
    match wish {
        Wish::Interface(name) => match on(name).as_slice() {
            _ if present == Some(name) => Next::Stay,
            [first, ..] => Next::Move(*first),
            [] => Next::Lost(format!("`{name}` has no other")),
        },
        Wish::Ip(given) if *given != now && seen.carrier(*given).is_some() => Next::Move(*given),
        Wish::Ip(_) if present.is_some() => Next::Stay,
        // It never was one of this host's, as behind a router that translates.
        Wish::Ip(_) if interface.is_empty() => Next::Stay,
        Wish::Ip(_) => only(interface, &on(interface)),
        Wish::Any => match on(&origin.home).as_slice() {
            [first, ..] if present != Some(origin.home.as_str()) => Next::Move(*first),
            _ if present.is_some() => Next::Stay,
            _ if seen.links.contains(interface) => only(interface, &on(interface)),
            _ => {
                let all = seen.own.iter();
                let usable = all.filter(|(name, net)| alike(net) && !is_our_own(name));
                let usable: Vec<IpAddr> = usable.map(|(_, net)| net.addr()).collect();
                match usable.as_slice() {
                    [one] => Next::Move(*one),
                    [] => Next::Lost(format!("`{interface}` is gone, and there is no other")),
                    [first, second, ..] => Next::Lost(format!(
                        "`{interface}` is gone, and there are several others, such as {first} and {second}"
                    )),
                }
            }
        },
    }
}

/// The only one of these, which are all of an interface's.
fn only(interface: &str, addresses: &[IpAddr]) -> Next {
    match addresses {
        [one] => Next::Move(*one),
        [] => Next::Lost(format!("`{interface}` has no other")),
        [first, second, ..] => Next::Lost(format!(
            "`{interface}` has several, such as {first} and {second}"
        )),
    }
}

/// What is waited with until it has been seen often enough.
#[derive(Debug, Default)]
struct Settling {
    seen: Option<(Next, u32)>,
}

impl Settling {
    /// Whether this is news that has been the same for long enough, now for the first time.
    fn settles(&mut self, next: &Next) -> bool {
        let times = match self.seen.take() {
            Some((seen, times)) if seen == *next => times.saturating_add(1),
            _ => 1,
        };
        self.seen = Some((next.clone(), times));
        times == LOOKS && *next != Next::Stay
    }
}

/// Something to tell the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    Moved {
        what: &'static str,
        from: IpAddr,
        to: IpAddr,
        /// The address that was given and is gone.
        given: Option<IpAddr>,
    },
    Lost {
        what: &'static str,
        kept: IpAddr,
        why: String,
    },
}

impl Notice {
    /// Says it in the log.
    pub fn tell(&self) {
        match self {
            Self::Moved {
                what,
                from,
                to,
                given: None,
            } => info!(address = what, %from, %to, "this node goes by another address of its host"),
            Self::Moved {
                what,
                from,
                to,
                given: Some(given),
            } => warn!(
                address = what, %from, %to, %given,
                "the address that was given is gone: this node goes by the only other one of its interface until it comes back"
            ),
            Self::Lost { what, kept, why } => warn!(
                address = what, %kept, why,
                "the address this node goes by is gone, and none can take its place: give it back, or leave and join by another"
            ),
        }
    }
}

/// Looks at a host's addresses again and again.
#[derive(Debug, Default)]
pub struct Moving {
    listen: Settling,
    advertise: Settling,
    data_path: Settling,
}

impl Moving {
    /// What is to be saved of the addresses now, and what there is to tell; all else stays as it is.
    pub fn look(&mut self, saved: &Saved, seen: &Seen) -> (Saved, Vec<Notice>) {
        let mut now = saved.clone();
        let (asked, origins) = (&saved.origins, &mut now.origins);
        let mut look = Look {
            seen,
            notices: Vec::new(),
        };
        let listen: Option<SocketAddr> = saved.listen.parse().ok();
        let listen = listen.filter(|listen| !listen.ip().is_unspecified());
        if let Some(listen) = listen {
            let wish = Wish::of(&asked.listen, listen.ip());
            let ip = look.follow(
                ("listen", listen.ip()),
                &wish,
                &mut origins.listen,
                &mut self.listen,
            );
            now.listen = SocketAddr::new(ip, listen.port()).to_string();
        }
        let advertise: Option<SocketAddr> = saved.advertise.parse().ok();
        let advertise = advertise.map(|advertise| {
            let wish = match Wish::of(&asked.advertise, advertise.ip()) {
                // What is listened on was advertised.
                Wish::Any if listen.is_some() => Wish::of(&asked.listen, advertise.ip()),
                wish => wish,
            };
            let ip = look.follow(
                ("advertise", advertise.ip()),
                &wish,
                &mut origins.advertise,
                &mut self.advertise,
            );
            SocketAddr::new(ip, advertise.port())
        });
        if let Some(advertise) = advertise {
            now.advertise = advertise.to_string();
        }
        let data_path: Option<IpAddr> = saved.data_path.parse().ok();
        if let (Some(data_path), Some(advertise)) = (data_path, advertise) {
            let ip = match Wish::of(&asked.data_path, data_path) {
                Wish::Any => advertise.ip(),
                wish => look.follow(
                    ("data path", data_path),
                    &wish,
                    &mut origins.data_path,
                    &mut self.data_path,
                ),
            };
            now.data_path = ip.to_string();
        }
        (now, look.notices)
    }

    /// The same for a node that has not begun yet, and has nothing to wait for.
    pub fn at_start(saved: &Saved, seen: &Seen) -> (Saved, Vec<Notice>) {
        let mut moving = Self::default();
        for _ in 1..LOOKS {
            moving.look(saved, seen);
        }
        moving.look(saved, seen)
    }
}

struct Look<'a> {
    seen: &'a Seen,
    notices: Vec<Notice>,
}

impl Look<'_> {
    fn follow(
        &mut self,
        (what, now): (&'static str, IpAddr),
        wish: &Wish,
        origin: &mut Origin,
        settling: &mut Settling,
    ) -> IpAddr {
        if let Some(interface) = self.seen.carrier(now) {
            if interface == origin.home {
                origin.home.clear();
            }
            interface.clone_into(&mut origin.interface);
        }
        let next = next(wish, now, origin, self.seen);
        if !settling.settles(&next) {
            return now;
        }
        let (to, notice) = match next {
            Next::Stay => return now,
            Next::Move(to) => {
                let interface = self.seen.carrier(to).unwrap_or_default();
                let left = std::mem::replace(&mut origin.interface, interface.to_owned());
                if interface == origin.home {
                    origin.home.clear();
                } else if *wish == Wish::Any && interface != left && origin.home.is_empty() {
                    origin.home = left;
                }
                let given = match wish {
                    Wish::Ip(given) if *given != to => Some(*given),
                    _ => None,
                };
                let from = now;
                (
                    to,
                    Notice::Moved {
                        what,
                        from,
                        to,
                        given,
                    },
                )
            }
            Next::Lost(why) => (
                now,
                Notice::Lost {
                    what,
                    kept: now,
                    why,
                },
            ),
        };
        self.notices.push(notice);
        to
    }
}

#[cfg(test)]
mod tests;
