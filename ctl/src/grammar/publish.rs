//! `--publish` of services.

use skep_model::port::PublishMode;
use skep_model::{PortConfig, Protocol};

use super::{csv, port_spec};

/// Ports that one flag publishes.
pub fn parse(value: &str) -> Result<Vec<PortConfig>, String> {
    if csv::is_long(value) {
        return long(value).map(|port| vec![port]);
    }
    let mappings = port_spec::parse(value)?;
    if mappings.iter().any(|mapping| !mapping.host_ip.is_empty()) {
        return Err("hostip is not supported".to_owned());
    }
    let mut ports = Vec::new();
    for mapping in mappings {
        let (first, last) = port_spec::range(&mapping.host_port).unwrap_or((0, 0));
        ports.extend((first..=last).map(|published_port| PortConfig {
            protocol: mapping.protocol,
            target_port: mapping.port,
            published_port,
            publish_mode: PublishMode::Ingress,
            ..PortConfig::default()
        }));
    }
    Ok(ports)
}

fn long(value: &str) -> Result<PortConfig, String> {
    let mut port = PortConfig::default();
    for field in csv::fields(value)? {
        let lower = field.to_lowercase();
        let (key, value) = lower
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("invalid field: {field}"))?;
        match key {
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

    #[test]
    fn published_ports() {
        let read = |value: &str| {
            parse(value).map(|ports| {
                ports
                    .iter()
                    .map(|p| {
                        format!(
                            "{}->{}/{} {:?}",
                            p.published_port, p.target_port, p.protocol, p.publish_mode
                        )
                    })
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(read("80").unwrap(), ["0->80/tcp Ingress"]);
        assert_eq!(read("8080:80/udp").unwrap(), ["8080->80/udp Ingress"]);
        assert_eq!(
            read("8080-8081:80-81").unwrap(),
            ["8080->80/tcp Ingress", "8081->81/tcp Ingress"]
        );
        assert_eq!(
            read("8080-8081:80").unwrap(),
            ["8080->80/tcp Ingress", "8081->80/tcp Ingress"]
        );
        assert_eq!(
            read("published=8080,target=80,mode=host,protocol=UDP").unwrap(),
            ["8080->80/udp Host"]
        );
        for (value, error) in [
            ("127.0.0.1:80:80", "hostip is not supported"),
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
