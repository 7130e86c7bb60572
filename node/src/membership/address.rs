//! Which addresses a node listens on and is known by.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use skep_model::ControlError;
use skep_net::{Outer, OuterAddress};

use super::moving::Seen;

/// Port of the managers' listener when none is given.
pub const CONTROL_PORT: u16 = 2377;

/// Addresses by the names of their interfaces.
pub fn without_mtu(found: Vec<OuterAddress>) -> Vec<(String, IpNet)> {
    let pair = |one: OuterAddress| (one.interface, one.net);
    found.into_iter().map(pair).collect()
}

/// What the node's own addresses are chosen by.
pub fn seen(outer: Outer) -> Seen {
    Seen {
        own: without_mtu(outer.addresses),
        links: outer.links,
    }
}

/// Splits `address[:port]` or `interface[:port]`; IPv6 addresses with port are in brackets.
pub(super) fn split(given: &str) -> (&str, Option<u16>) {
    if given.parse::<IpAddr>().is_ok() {
        return (given, None);
    }
    match given.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (
                host.trim_start_matches('[').trim_end_matches(']'),
                Some(port),
            ),
            Err(_) => (given, None),
        },
        None => (given, None),
    }
}

/// Reads `host[:port]` where host is an address or the name of one of this host's interfaces.
fn resolve(
    flag: &str,
    given: &str,
    port: u16,
    own: &[(String, IpNet)],
) -> Result<SocketAddr, ControlError> {
    let (host, given_port) = split(given);
    let port = given_port.unwrap_or(port);
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let mut of_interface: Vec<IpAddr> = own
        .iter()
        .filter(|(name, _)| name == host)
        .map(|(_, net)| net.addr())
        .collect();
    of_interface.sort_by_key(IpAddr::is_ipv6);
    match of_interface.as_slice() {
        [] => Err(ControlError::invalid(format!(
            "invalid {flag} `{given}`: neither an address nor an interface of this host; want <ip|interface>[:port]"
        ))),
        [first, ..] => Ok(SocketAddr::new(*first, port)),
    }
}

/// The address to listen on.
pub fn listen(given: &str, own: &[(String, IpNet)]) -> Result<SocketAddr, ControlError> {
    let given = if given.is_empty() { "0.0.0.0" } else { given };
    resolve("--listen-addr", given, CONTROL_PORT, own)
}

/// The address to be known by: the one given, else the one listened on, else the only one
/// that this host has.
pub fn advertise(
    given: &str,
    listen: SocketAddr,
    own: &[(String, IpNet)],
) -> Result<SocketAddr, ControlError> {
    if !given.is_empty() {
        let address = resolve("--advertise-addr", given, listen.port(), own)?;
        if address.ip().is_unspecified() {
            return Err(ControlError::invalid(
                "advertise address must be a non-zero IP address or network interface (with optional port number)",
            ));
        }
        return Ok(address);
    }
    if !listen.ip().is_unspecified() {
        return Ok(listen);
    }
    let usable: Vec<&(String, IpNet)> = own
        .iter()
        .filter(|(name, net)| net.addr().is_ipv4() && !is_our_own(name))
        .collect();
    match usable.as_slice() {
        [] => Err(ControlError::invalid(
            "could not find the system's IP address",
        )),
        [(_, net)] => Ok(SocketAddr::new(net.addr(), listen.port())),
        [(name, net), (other_name, other), ..] => Err(ControlError::invalid(format!(
            "could not choose an IP address to advertise since this system has multiple addresses on different interfaces ({} on {name} and {} on {other_name})",
            net.addr(),
            other.addr(),
        ))),
    }
}

/// Interfaces that we made ourselves are no way to reach this host.
pub(super) fn is_our_own(interface: &str) -> bool {
    ["sk-", "skv-", "gw-", "docker", "veth", "br-"]
        .iter()
        .any(|prefix| interface.starts_with(prefix))
}

/// The address VXLAN frames leave from: the one given, else the advertised one.
pub fn data_path(
    given: &str,
    advertise: SocketAddr,
    own: &[(String, IpNet)],
) -> Result<IpAddr, ControlError> {
    match given {
        "" => Ok(advertise.ip()),
        given => resolve("--data-path-addr", given, 0, own).map(|address| address.ip()),
    }
}

/// A manager to join: `host:port`, the port may be left out.
pub fn remote(given: &str) -> Result<String, ControlError> {
    let (host, port) = split(given);
    if host.is_empty() {
        return Err(ControlError::invalid(
            "at least 1 RemoteAddr is required to join",
        ));
    }
    let port = port.unwrap_or(CONTROL_PORT);
    Ok(if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Vec<(String, IpNet)> {
        vec![("eth0".into(), "192.0.2.1/24".parse().unwrap())]
    }

    #[test]
    fn the_only_address_is_advertised_and_two_need_a_choice() {
        let listen = listen("", &own()).unwrap();
        assert_eq!(
            advertise("", listen, &own()).unwrap().to_string(),
            "192.0.2.1:2377"
        );
        assert_eq!(
            advertise("eth0:5000", listen, &own()).unwrap().to_string(),
            "192.0.2.1:5000"
        );
        let mut two = own();
        two.push(("eth1".into(), "198.51.100.1/24".parse().unwrap()));
        let error = advertise("", listen, &two).unwrap_err();
        assert!(
            error
                .message
                .contains("multiple addresses on different interfaces")
        );
        // Which flag chooses one is the client's to say.
        assert!(
            error
                .message
                .starts_with("could not choose an IP address to advertise")
        );
        two.push(("gw-abc".into(), "172.18.0.1/32".parse().unwrap()));
        two.remove(1);
        assert!(advertise("", listen, &two).is_ok());
    }

    #[test]
    fn nonsense_names_its_flag() {
        assert!(
            listen("nowhere", &own())
                .unwrap_err()
                .message
                .contains("--listen-addr")
        );
        let at = "0.0.0.0:2377".parse().unwrap();
        assert!(advertise("0.0.0.0", at, &own()).is_err());
        assert!(
            data_path("nowhere", at, &own())
                .unwrap_err()
                .message
                .contains("--data-path-addr")
        );
    }

    #[test]
    fn remotes_get_the_default_port() {
        assert_eq!(remote("192.0.2.1").unwrap(), "192.0.2.1:2377");
        assert_eq!(remote("host:99").unwrap(), "host:99");
        assert_eq!(remote("fd00::1").unwrap(), "[fd00::1]:2377");
        assert!(remote("").is_err());
    }
}
