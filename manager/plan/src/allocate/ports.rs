//! Published ports: one number per protocol for the whole cluster.

use std::collections::BTreeMap;

use skep_model::limits::DYNAMIC_PORTS;
use skep_model::service::Endpoint;
use skep_model::{PortConfig, Protocol, PublishMode, Service, ServiceId, ServiceSpec};

/// Why a port cannot be published. The text is Swarm's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    #[error("port '{port}' is already in use by service '{name}' ({id}) as an ingress port")]
    Ingress {
        port: u16,
        name: String,
        id: ServiceId,
    },
    #[error("port '{port}' is already in use by service '{name}' ({id}) as a host-published port")]
    Host {
        port: u16,
        name: String,
        id: ServiceId,
    },
    #[error("no port from {} to {} is free for {protocol}", DYNAMIC_PORTS.start(), DYNAMIC_PORTS.end())]
    Exhausted { protocol: Protocol },
}

/// Who publishes which port.
#[derive(Debug, Clone, Default)]
pub struct PortsInUse {
    ingress: BTreeMap<(Protocol, u16), (ServiceId, String)>,
    host: BTreeMap<(Protocol, u16), (ServiceId, String)>,
}

impl PortsInUse {
    /// Takes in the ports that a service has been given, and those it asks for by number.
    pub fn add(&mut self, service: &Service) {
        for port in &service.endpoint.ports {
            self.add_port(service, port);
        }
    }

    /// Takes in also the numbers that a service asks for and has not been given yet.
    pub fn add_wanted(&mut self, service: &Service) {
        self.add(service);
        for port in service.spec.ports() {
            self.add_port(service, port);
        }
    }

    fn add_port(&mut self, service: &Service, port: &PortConfig) {
        if port.published_port == 0 {
            return;
        }
        let map = match port.publish_mode {
            PublishMode::Ingress => &mut self.ingress,
            PublishMode::Host => &mut self.host,
        };
        map.entry((port.protocol, port.published_port))
            .or_insert_with(|| (service.id.clone(), service.spec.name.clone()));
    }

    /// Whether `service` may publish `port`: an ingress number has one user, a host-published one
    /// any number of them as long as none is ingress.
    pub fn check(&self, service: &ServiceId, port: &PortConfig) -> Result<(), PortError> {
        let key = (port.protocol, port.published_port);
        if port.published_port == 0 {
            return Ok(());
        }
        let other = |map: &BTreeMap<_, (ServiceId, String)>| {
            map.get(&key).filter(|(id, _)| id != service).cloned()
        };
        if let Some((id, name)) = other(&self.ingress) {
            let port = port.published_port;
            return Err(PortError::Ingress { port, name, id });
        }
        if port.publish_mode == PublishMode::Ingress
            && let Some((id, name)) = other(&self.host)
        {
            let port = port.published_port;
            return Err(PortError::Host { port, name, id });
        }
        Ok(())
    }

    /// The ports of `service` with their numbers filled in. Numbers chosen earlier stay.
    pub fn resolve(
        &mut self,
        service: &Service,
        spec: &ServiceSpec,
    ) -> Result<Vec<PortConfig>, PortError> {
        let mut ports = Vec::with_capacity(spec.ports().len());
        let mut earlier = chosen_earlier(&service.endpoint);
        for wanted in spec.ports() {
            let mut port = wanted.clone();
            if port.published_port == 0 && port.publish_mode == PublishMode::Ingress {
                let same = earlier.iter().position(|(asked, _)| asked == wanted);
                port.published_port = match same {
                    Some(at) => earlier.swap_remove(at).1,
                    None => self.free(port.protocol)?,
                };
            }
            self.check(&service.id, &port)?;
            self.add_port(service, &port);
            ports.push(port);
        }
        Ok(ports)
    }

    fn free(&self, protocol: Protocol) -> Result<u16, PortError> {
        DYNAMIC_PORTS
            .into_iter()
            .find(|number| {
                let key = (protocol, *number);
                !self.ingress.contains_key(&key) && !self.host.contains_key(&key)
            })
            .ok_or(PortError::Exhausted { protocol })
    }
}

/// What the endpoint asked for without a number, and the number it got.
fn chosen_earlier(endpoint: &Endpoint) -> Vec<(PortConfig, u16)> {
    endpoint
        .spec
        .ports
        .iter()
        .zip(&endpoint.ports)
        .filter(|(asked, _)| {
            asked.published_port == 0 && asked.publish_mode == PublishMode::Ingress
        })
        .map(|(asked, given)| (asked.clone(), given.published_port))
        .collect()
}
