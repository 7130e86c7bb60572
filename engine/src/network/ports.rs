//! Published ports: what a container asks for, and what it got.

use std::net::IpAddr;

use skep_net::{BoundPort, PortRequest, Proto};

use crate::container::ContainerRecord;
use crate::error::{EngineError, Result};
use crate::types::{PortBinding, PortMap};

/// What a container's configuration asks to be published.
pub(super) fn requests(record: &ContainerRecord) -> Result<Vec<PortRequest>> {
    let (config, host) = (&record.config, &record.host_config);
    let mut requests = Vec::new();
    for (port, bindings) in &host.port_bindings {
        let (target, proto) = parse(port)?;
        let bindings = bindings.as_deref().unwrap_or_default();
        // A binding that says nothing asks for any port.
        let any = [PortBinding::default()];
        let bindings = if bindings.is_empty() {
            &any[..]
        } else {
            bindings
        };
        for binding in bindings {
            requests.push(PortRequest {
                proto,
                target,
                host_ip: address(&binding.host_ip)?,
                host_ports: crate::container::parse_port_range(&binding.host_port)?,
            });
        }
    }
    if host.publish_all_ports {
        for port in config.exposed_ports.keys() {
            if host.port_bindings.contains_key(port) {
                continue;
            }
            let (target, proto) = parse(port)?;
            requests.push(PortRequest {
                proto,
                target,
                host_ip: None,
                host_ports: (0, 0),
            });
        }
    }
    Ok(requests)
}

fn parse(port: &str) -> Result<(u16, Proto)> {
    let (target, proto) = crate::container::parse_port(port)?;
    let proto = proto.parse().map_err(EngineError::invalid)?;
    Ok((target, proto))
}

/// No address and `0.0.0.0` are different: the first means both families.
fn address(text: &str) -> Result<Option<IpAddr>> {
    match text {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| EngineError::invalid(format!("invalid IP address: {text}"))),
    }
}

/// Bound ports as `inspect` shows them, with the exposed ones that are not bound.
pub(super) fn shown(record: &ContainerRecord, bound: &[BoundPort]) -> PortMap {
    let mut map: PortMap = record
        .config
        .exposed_ports
        .keys()
        .map(|port| (port.clone(), None))
        .collect();
    for port in bound {
        let key = format!("{}/{}", port.target, port.proto);
        map.entry(key)
            .or_default()
            .get_or_insert_default()
            .push(PortBinding {
                host_ip: port.host_ip.to_string(),
                host_port: port.host_port.to_string(),
            });
    }
    map
}

/// The requests that bind again what was bound, after a restart of the engine.
pub(super) fn again(map: &PortMap) -> Vec<PortRequest> {
    let mut requests = Vec::new();
    for (port, bindings) in map {
        let Ok((target, proto)) = parse(port) else {
            continue;
        };
        for binding in bindings.iter().flatten() {
            if let (Ok(ip), Ok(host_port)) = (binding.host_ip.parse(), binding.host_port.parse()) {
                requests.push(PortRequest {
                    proto,
                    target,
                    host_ip: Some(ip),
                    host_ports: (host_port, host_port),
                });
            }
        }
    }
    requests
}
