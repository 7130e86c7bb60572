//! Ports of the host that are held while something is published on them.
//!
//! A held port is a bound socket: it shows up as taken to every other program,
//! and a port that another program has cannot be held. Packets never reach these
//! sockets while the port leads somewhere, since they are redirected before.

mod hold;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use crate::desired::bridge::{BoundPort, PortRequest};
use crate::{NetError, Proto, sysctl};

pub(crate) use hold::speaks_sctp;

/// Where ports are taken from when any will do, unless the kernel says otherwise.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// Why a port could not be held.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Something of ours has it.
    Held,
    /// The system says no.
    System(io::Error),
}

/// All ports this host holds, by owner.
#[derive(Default)]
pub(crate) struct Ports {
    held: BTreeMap<String, Vec<Held>>,
    /// Where the search for any free port goes on.
    next: u16,
}

struct Held {
    port: BoundPort,
    /// Absent when the kernel has no sockets of that protocol.
    _socket: Option<OwnedFd>,
}

/// Who asks, for error texts.
pub(crate) struct Asker<'a> {
    pub owner: &'a str,
    pub name: &'a str,
}

impl Ports {
    /// What an owner holds.
    pub fn of(&self, owner: &str) -> Vec<BoundPort> {
        let held = self.held.get(owner).map(Vec::as_slice).unwrap_or_default();
        held.iter().map(|held| held.port.clone()).collect()
    }

    pub fn release(&mut self, owner: &str) {
        self.held.remove(owner);
    }

    /// Gives back the owner's ports that `keep` says no to.
    pub fn retain(&mut self, owner: &str, keep: impl Fn(&BoundPort) -> bool) {
        if let Some(held) = self.held.get_mut(owner) {
            held.retain(|held| keep(&held.port));
        }
    }

    /// Holds one port for an owner; what it holds already is fine. Runs in the
    /// namespace of the calling thread.
    pub fn hold(&mut self, owner: &str, port: &BoundPort) -> Result<(), Refused> {
        for (other, held) in &self.held {
            for held in held {
                if other == owner && held.port == *port {
                    return Ok(());
                }
                if clashes(&held.port, port) {
                    return Err(Refused::Held);
                }
            }
        }
        let socket = hold::bind(port.proto, SocketAddr::new(port.host_ip, port.host_port));
        let socket = match socket {
            Ok(socket) => Some(socket),
            Err(error) if is_unspoken(port.proto, &error) => None,
            Err(error) => return Err(Refused::System(error)),
        };
        let held = Held {
            port: port.clone(),
            _socket: socket,
        };
        self.held.entry(owner.to_owned()).or_default().push(held);
        Ok(())
    }

    /// Whether an owner could hold a port now; what it holds already is fine. Runs in the namespace
    /// of the calling thread.
    pub fn check(&mut self, owner: &str, port: &BoundPort) -> Result<(), Refused> {
        if self.of(owner).iter().any(|held| clashes(held, port)) {
            return Ok(());
        }
        self.hold(owner, port)?;
        self.retain(owner, |held| held != port);
        Ok(())
    }

    /// Holds what an endpoint asks for: all of it or nothing new.
    pub fn hold_all(
        &mut self,
        asker: &Asker<'_>,
        requests: &[PortRequest],
    ) -> Result<Vec<BoundPort>, NetError> {
        let before = self.of(asker.owner);
        let mut bound = Vec::new();
        let mut reused = Vec::new();
        for request in requests {
            // Asked again by the same owner: the answer is the same.
            let same: Vec<_> = before
                .iter()
                .filter(|port| satisfies(port, request) && !reused.contains(*port))
                .cloned()
                .collect();
            if !same.is_empty() {
                reused.extend(same.iter().cloned());
                bound.extend(same);
                continue;
            }
            match self.hold_request(asker, request) {
                Ok(ports) => bound.extend(ports),
                Err(error) => {
                    self.retain(asker.owner, |port| before.contains(port));
                    return Err(error);
                }
            }
        }
        self.retain(asker.owner, |port| bound.contains(port));
        Ok(bound)
    }

    fn hold_request(
        &mut self,
        asker: &Asker<'_>,
        request: &PortRequest,
    ) -> Result<Vec<BoundPort>, NetError> {
        let (first, last) = request.host_ports;
        let candidates: Vec<u16> = match (first, last) {
            (0, 0) => self.ephemeral(),
            (first, last) if first != 0 && first <= last => (first..=last).collect(),
            _ => {
                return Err(NetError::Invalid {
                    object: format!("port range {first}-{last}"),
                    reason: "it must be increasing and not begin with 0".into(),
                });
            }
        };
        let only = candidates.len() == 1;
        for port in candidates {
            match self.hold_everywhere(asker.owner, request, port) {
                Ok(bound) => {
                    if (first, last) == (0, 0) {
                        self.next = port.saturating_add(1);
                    }
                    return Ok(bound);
                }
                Err((address, refused)) if only => {
                    return Err(explain(asker, request.proto, address, port, refused));
                }
                // No other port will make an address local.
                Err((address, Refused::System(error)))
                    if error.kind() == io::ErrorKind::AddrNotAvailable =>
                {
                    let refused = Refused::System(error);
                    return Err(explain(asker, request.proto, address, port, refused));
                }
                Err(_) => {}
            }
        }
        Err(NetError::NoFreePort {
            name: asker.name.into(),
            id: asker.owner.into(),
        })
    }

    /// Every port of the ephemeral range, beginning after the last one given out.
    fn ephemeral(&self) -> Vec<u16> {
        let (first, last) = sysctl::get("net/ipv4/ip_local_port_range")
            .and_then(|text| {
                let mut words = text.split_whitespace().map(str::parse::<u16>);
                Some((words.next()?.ok()?, words.next()?.ok()?))
            })
            .filter(|(first, last)| *first > 0 && first <= last)
            .unwrap_or(EPHEMERAL);
        let next = self.next.clamp(first, last);
        (next..=last).chain(first..next).collect()
    }

    /// Holds one number on every address the request means.
    fn hold_everywhere(
        &mut self,
        owner: &str,
        request: &PortRequest,
        port: u16,
    ) -> Result<Vec<BoundPort>, (IpAddr, Refused)> {
        let addresses = match request.host_ip {
            Some(ip) => vec![ip],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        let mut bound = Vec::new();
        for host_ip in addresses {
            let wish = BoundPort {
                proto: request.proto,
                target: request.target,
                host_ip,
                host_port: port,
            };
            // Two requests of one owner do not share a port.
            let held = match self.of(owner).contains(&wish) {
                true => Err(Refused::Held),
                false => self.hold(owner, &wish),
            };
            match held {
                Ok(()) => bound.push(wish),
                // A host without IPv6 publishes on IPv4 alone.
                Err(Refused::System(error))
                    if request.host_ip.is_none() && host_ip.is_ipv6() && has_no_ip6(&error) => {}
                Err(refused) => {
                    self.retain(owner, |port| !bound.contains(port));
                    return Err((host_ip, refused));
                }
            }
        }
        Ok(bound)
    }
}

fn satisfies(port: &BoundPort, request: &PortRequest) -> bool {
    let (first, last) = request.host_ports;
    let in_range = (first, last) == (0, 0) || (first..=last).contains(&port.host_port);
    let address = match request.host_ip {
        Some(ip) => port.host_ip == ip,
        None => port.host_ip.is_unspecified(),
    };
    port.proto == request.proto && port.target == request.target && in_range && address
}

fn clashes(a: &BoundPort, b: &BoundPort) -> bool {
    let same_address = a.host_ip == b.host_ip
        || (a.host_ip.is_ipv4() == b.host_ip.is_ipv4()
            && (a.host_ip.is_unspecified() || b.host_ip.is_unspecified()));
    a.proto == b.proto && a.host_port == b.host_port && same_address
}

fn has_no_ip6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

/// A protocol the kernel forwards but has no sockets of cannot clash either.
fn is_unspoken(proto: Proto, error: &io::Error) -> bool {
    let absent = [libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT];
    proto == Proto::Sctp
        && error
            .raw_os_error()
            .is_some_and(|code| absent.contains(&code))
}

fn explain(
    asker: &Asker<'_>,
    proto: Proto,
    address: IpAddr,
    port: u16,
    refused: Refused,
) -> NetError {
    let address = match address {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let (name, id) = (asker.name.to_owned(), asker.owner.to_owned());
    match refused {
        Refused::Held => NetError::PortTaken {
            name,
            id,
            address,
            port,
        },
        Refused::System(error) => NetError::PortUnusable {
            name,
            id,
            address,
            port,
            proto,
            reason: reason(&error),
        },
    }
}

/// The system's reason, the way other programs print it.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "address already in use".into(),
        Some(libc::EADDRNOTAVAIL) => "cannot assign requested address".into(),
        Some(libc::EACCES) => "permission denied".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn asker(owner: &str) -> Asker<'_> {
        Asker { owner, name: "web" }
    }

    fn request(proto: Proto, host_ports: (u16, u16)) -> PortRequest {
        PortRequest {
            proto,
            target: 80,
            host_ip: Some(LOCAL),
            host_ports,
        }
    }

    #[test]
    fn any_port_is_given_held_and_given_back() {
        let mut ports = Ports::default();
        let bound = ports
            .hold_all(&asker("e1"), &[request(Proto::Tcp, (0, 0))])
            .unwrap();
        let port = bound[0].host_port;
        assert!(
            TcpListener::bind((LOCAL, port)).is_err(),
            "others cannot have it"
        );
        let refused = TcpStream::connect((LOCAL, port)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        let again = ports
            .hold_all(&asker("e1"), &[request(Proto::Tcp, (0, 0))])
            .unwrap();
        assert_eq!(again, bound, "asked again, the answer is the same");

        let taken = ports
            .hold_all(&asker("e2"), &[request(Proto::Tcp, (port, port))])
            .unwrap_err();
        assert_eq!(
            taken.to_string(),
            format!(
                "driver failed programming external connectivity on endpoint web (e2): \
                 Bind for 127.0.0.1:{port} failed: port is already allocated"
            )
        );
        ports.release("e1");
        TcpListener::bind((LOCAL, port)).unwrap();
    }

    #[test]
    fn programs_that_have_a_port_keep_it() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let udp = UdpSocket::bind((LOCAL, 0)).unwrap();
        let mut ports = Ports::default();
        for (proto, port) in [
            (Proto::Tcp, listener.local_addr().unwrap().port()),
            (Proto::Udp, udp.local_addr().unwrap().port()),
        ] {
            let error = ports
                .hold_all(&asker("e"), &[request(proto, (port, port))])
                .unwrap_err();
            assert!(
                error.to_string().ends_with("address already in use"),
                "{error}"
            );
            assert_eq!(error.kind(), crate::Kind::Conflict);
        }
    }

    #[test]
    fn a_range_gives_its_first_free_port_and_all_or_nothing_is_kept() {
        let mut ports = Ports::default();
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let busy = listener.local_addr().unwrap().port();
        let range = (busy, busy.saturating_add(20));
        let bound = ports
            .hold_all(&asker("e1"), &[request(Proto::Tcp, range)])
            .unwrap();
        assert!(bound[0].host_port > busy);

        let requests = [
            request(Proto::Udp, (0, 0)),
            request(Proto::Tcp, (busy, busy)),
        ];
        assert!(ports.hold_all(&asker("e2"), &requests).is_err());
        assert_eq!(ports.of("e2"), []);
        assert!(
            ports
                .hold_all(&asker("e3"), &[request(Proto::Tcp, (9, 3))])
                .is_err()
        );
    }

    #[test]
    fn all_addresses_clash_with_each() {
        let port = |ip: &str| BoundPort {
            proto: Proto::Tcp,
            target: 80,
            host_ip: ip.parse().unwrap(),
            host_port: 80,
        };
        assert!(clashes(&port("0.0.0.0"), &port("10.0.0.1")));
        assert!(!clashes(&port("10.0.0.2"), &port("10.0.0.1")));
        assert!(!clashes(&port("0.0.0.0"), &port("::")));
    }
}
