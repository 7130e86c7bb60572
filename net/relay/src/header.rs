//! What the PROXY protocol says before the first byte of a connection
//! (<https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>).

use std::net::{IpAddr, SocketAddr};

use skep_net::ProxyVersion;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, the command `PROXY`.
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The header of a connection from `client` that came to `to`.
pub fn header(version: ProxyVersion, client: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from, at) = (client.ip().to_canonical(), to.ip().to_canonical());
    match version {
        ProxyVersion::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from_port, at_port) = (client.port(), to.port());
            format!("PROXY {family} {from} {at} {from_port} {at_port}\r\n").into_bytes()
        }
        ProxyVersion::V2 => {
            let addresses = [octets(from), octets(at)].concat();
            let family = if from.is_ipv4() {
                TCP_OVER_IPV4
            } else {
                TCP_OVER_IPV6
            };
            let length = u16::try_from(addresses.len() + 4).expect("36 at most");
            let mut header = SIGNATURE.to_vec();
            header.extend([PROXY, family]);
            header.extend(length.to_be_bytes());
            header.extend(addresses);
            header.extend(client.port().to_be_bytes());
            header.extend(to.port().to_be_bytes());
            header
        }
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_both_families() {
        let of = |version, client: &str, to: &str| {
            header(version, client.parse().unwrap(), to.parse().unwrap())
        };
        assert_eq!(
            of(ProxyVersion::V1, "10.77.0.101:45960", "10.77.0.1:8087"),
            b"PROXY TCP4 10.77.0.101 10.77.0.1 45960 8087\r\n"
        );
        assert_eq!(
            of(ProxyVersion::V1, "[fd77::101]:1", "[fd77::1]:2"),
            b"PROXY TCP6 fd77::101 fd77::1 1 2\r\n"
        );
        let four = of(ProxyVersion::V2, "10.77.0.101:258", "10.77.0.1:80");
        assert_eq!(four[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        assert_eq!(four[16..], [10, 77, 0, 101, 10, 77, 0, 1, 1, 2, 0, 80]);
        let six = of(ProxyVersion::V2, "[::1]:1", "[::2]:2");
        assert_eq!((six[13], &six[14..16], six.len()), (0x21, &[0, 36][..], 52));
    }
}
