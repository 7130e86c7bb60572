//! `--publish` of services. Beyond docker's, an address or an interface of the nodes may come
//! first, and the long form knows `host-ip`, `interface`, `source` and `balance`.

use std::net::IpAddr;

use skep_model::port::PublishMode;
use skep_model::publish::is_interface_name;
use skep_model::{PortConfig, Protocol};

use super::{csv, port_spec};

/// Ports that one flag publishes.
pub fn parse(value: &str) -> Result<Vec<PortConfig>, String> {
    if csv::is_long(value) {
        return long(value).map(|port| vec![port]);
    }
    let (interface, value) = match value.split_once(':') {
        Some((name, rest)) if names_interface(name, rest) => (name, rest),
        _ => ("", value),
    };
    let mut ports = Vec::new();
    for mapping in port_spec::parse(value)? {
        let (first, last) = port_spec::range(&mapping.host_port).unwrap_or((0, 0));
        ports.extend((first..=last).map(|published_port| PortConfig {
            protocol: mapping.protocol,
            target_port: mapping.port,
            published_port,
            publish_mode: PublishMode::Ingress,
            host_ip: mapping.host_ip.clone(),
            interface: interface.to_owned(),
            ..PortConfig::default()
        }));
    }
    Ok(ports)
}

/// Whether what comes before the first colon is the name of an interface: where an address could
/// be, and none.
fn names_interface(name: &str, rest: &str) -> bool {
    let in_front = rest.contains(':') && !name.starts_with('[');
    let is_name = name.contains(|c: char| c.is_ascii_alphabetic()) && is_interface_name(name);
    // An IPv6 address without brackets has more colons.
    in_front && is_name && rest.matches(':').count() == 1
}

fn long(value: &str) -> Result<PortConfig, String> {
    let mut port = PortConfig::default();
    for field in csv::fields(value)? {
        let (key, given) = field
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("invalid field: {field}"))?;
        let (key, value) = (key.to_lowercase(), given.to_lowercase());
        let value = value.as_str();
        match key.as_str() {
            "host-ip" | "host_ip" => {
                value
                    .parse::<IpAddr>()
                    .map_err(|_| format!("invalid IP address: {given}"))?;
                value.clone_into(&mut port.host_ip);
            }
            // Names of interfaces may have capitals.
            "interface" => given.clone_into(&mut port.interface),
            "source" => port.source = value.parse().map_err(|error| format!("{error}"))?,
            "balance" => port.balance = value.parse().map_err(|error| format!("{error}"))?,
            "protocol" => {
                port.protocol = match value {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    "sctp" => Protocol::Sctp,
                    _ => return Err(format!("invalid protocol value '{value}'")),
                }
            }
            "mode" => {
                port.publish_mode = match value {
                    "ingress" => PublishMode::Ingress,
                    "host" => PublishMode::Host,
                    _ => {
                        return Err(format!(
                            "invalid publish mode value ({value}): must be either 'ingress' or 'host'"
                        ));
                    }
                }
            }
            "target" => port.target_port = number("target", value)?,
            "published" => port.published_port = number("published", value)?,
            _ => return Err(format!("invalid field key: {key}")),
        }
    }
    if port.target_port == 0 {
        return Err("missing mandatory field 'target'".to_owned());
    }
    Ok(port)
}

fn number(which: &str, value: &str) -> Result<u16, String> {
    value.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            std::num::IntErrorKind::PosOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("invalid {which} port ({value}): value must be an integer: {why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::publish::{PortBalance, PortSource};

    #[test]
    fn published_ports() {
        let read = |value: &str| {
            parse(value).map(|ports| {
                ports
                    .iter()
                    .map(|p| {
                        format!(
                            "{}:{}->{}/{} {:?}",
                            p.host().unwrap(),
                            p.published_port,
                            p.target_port,
                            p.protocol,
                            p.publish_mode
                        )
                    })
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(read("80").unwrap(), ["*:0->80/tcp Ingress"]);
        assert_eq!(read("8080:80/udp").unwrap(), ["*:8080->80/udp Ingress"]);
        assert_eq!(
            read("8080-8081:80-81").unwrap(),
            ["*:8080->80/tcp Ingress", "*:8081->81/tcp Ingress"]
        );
        assert_eq!(
            read("8080-8081:80").unwrap(),
            ["*:8080->80/tcp Ingress", "*:8081->80/tcp Ingress"]
        );
        assert_eq!(
            read("published=8080,target=80,mode=host,protocol=UDP").unwrap(),
            ["*:8080->80/udp Host"]
        );
        for (value, port) in [
            ("10.0.0.5:80:8080", "10.0.0.5:80->8080/tcp Ingress"),
            ("[fd00::5]:80:8080/udp", "[fd00::5]:80->8080/udp Ingress"),
            ("eth1:80:8080", "eth1:80->8080/tcp Ingress"),
            ("br-Lan.7::8080", "br-Lan.7:0->8080/tcp Ingress"),
            (
                "published=80,target=81,host-ip=10.0.0.5,mode=host",
                "10.0.0.5:80->81/tcp Host",
            ),
            (
                "published=80,target=81,interface=Wan0",
                "Wan0:80->81/tcp Ingress",
            ),
        ] {
            assert_eq!(read(value).unwrap(), [port], "{value}");
        }
        let long = parse("target=80,source=proxy-protocol,balance=local").unwrap();
        assert_eq!(
            (long[0].source, long[0].balance),
            (PortSource::ProxyProtocol, PortBalance::Local)
        );
        for (value, error) in [
            ("10.0.0.500:80:80", "invalid IP address: 10.0.0.500"),
            ("target=80,host-ip=eth0", "invalid IP address: eth0"),
            (
                "target=80,source=x",
                "invalid source `x`: must be client, snat, proxy-protocol or proxy-protocol-v1",
            ),
            (
                "target=80,balance=x",
                "invalid balance `x`: must be all or local",
            ),
            ("published=80", "missing mandatory field 'target'"),
            (
                "target=x",
                "invalid target port (x): value must be an integer: invalid syntax",
            ),
            (
                "target=99999",
                "invalid target port (99999): value must be an integer: value out of range",
            ),
            ("foo=80", "invalid field key: foo"),
            (
                "target=80,mode=x",
                "invalid publish mode value (x): must be either 'ingress' or 'host'",
            ),
            ("target=80,protocol=x", "invalid protocol value 'x'"),
        ] {
            assert_eq!(read(value).unwrap_err(), error, "{value}");
        }
    }
}
