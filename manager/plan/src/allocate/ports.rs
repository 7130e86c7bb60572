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
    #[error("{0}")]
    Invalid(String),
}

/// Who publishes which port.
#[derive(Debug, Clone, Default)]
pub struct PortsInUse {
    by_number: BTreeMap<(Protocol, u16), Vec<User>>,
}

#[derive(Debug, Clone)]
struct User {
    port: PortConfig,
    id: ServiceId,
    name: String,
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
        // Specs are checked before they are stored.
        for port in service.spec.published().iter().flatten() {
            self.add_port(service, port);
        }
    }

    fn add_port(&mut self, service: &Service, port: &PortConfig) {
        if port.published_port == 0 {
            return;
        }
        let key = (port.protocol, port.published_port);
        let users = self.by_number.entry(key).or_default();
        if !users
            .iter()
            .any(|user| user.port == *port && user.id == service.id)
        {
            users.push(User {
                port: port.clone(),
                id: service.id.clone(),
                name: service.spec.name.clone(),
            });
        }
    }

    /// Whether `service` may publish `port`: an ingress number has one user per address, a
    /// host-published one any number of them as long as none is ingress.
    pub fn check(&self, service: &ServiceId, port: &PortConfig) -> Result<(), PortError> {
        let users = self.by_number.get(&(port.protocol, port.published_port));
        let others = || {
            let users = users.into_iter().flatten();
            users.filter(|user| user.id != *service && user.port.clashes(port))
        };
        let is_ingress = |port: &PortConfig| port.publish_mode == PublishMode::Ingress;
        let number = port.published_port;
        if let Some(user) = others().find(|user| is_ingress(&user.port)) {
            return Err(PortError::Ingress {
                port: number,
                name: user.name.clone(),
                id: user.id.clone(),
            });
        }
        match others().next().filter(|_| is_ingress(port)) {
            Some(user) => Err(PortError::Host {
                port: number,
                name: user.name.clone(),
                id: user.id.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The ports of `service` with their numbers and what its labels ask filled in. Numbers
    /// chosen earlier stay.
    pub fn resolve(
        &mut self,
        service: &Service,
        spec: &ServiceSpec,
    ) -> Result<Vec<PortConfig>, PortError> {
        let published = spec.published().map_err(PortError::Invalid)?;
        let mut ports = Vec::with_capacity(published.len());
        let mut earlier = chosen_earlier(&service.endpoint);
        for (wanted, mut port) in spec.ports().iter().zip(published) {
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
            .find(|number| !self.by_number.contains_key(&(protocol, *number)))
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
