//! What a published port can be asked beyond Swarm's: where on a node it answers, whom its tasks
//! see, and which tasks come first. By fields of the port, or by labels of the service
//! (`skep.publish.8080.source=snat`), since clients of others do not know the fields.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{PortConfig, Protocol, PublishMode, ServiceSpec};

/// Service labels that speak of published ports begin so.
pub const LABEL_PREFIX: &str = "skep.publish.";
/// Linux allows no longer name (`IFNAMSIZ`).
const INTERFACE_BYTES_MAX: usize = 15;

/// Whom the tasks behind a port see as the client.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum PortSource {
    /// The client itself.
    #[default]
    Client,
    /// The node that the client came to.
    Snat,
    /// That node, which tells of the client by the PROXY protocol, version 2.
    ProxyProtocol,
    /// The same in version 1, which is text.
    ProxyProtocolV1,
}

impl PortSource {
    const ALL: [Self; 4] = [
        Self::Client,
        Self::Snat,
        Self::ProxyProtocol,
        Self::ProxyProtocolV1,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Snat => "snat",
            Self::ProxyProtocol => "proxy-protocol",
            Self::ProxyProtocolV1 => "proxy-protocol-v1",
        }
    }
}

/// Which tasks a node leads the clients of a port to.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum PortBalance {
    /// All, in turn.
    #[default]
    All,
    /// Those on the node itself if any serves there, else all.
    Local,
}

impl PortBalance {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Local => "local",
        }
    }
}

impl FromStr for PortSource {
    type Err = PublishError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter();
        let mut known = known.filter(|source| source.as_str() == given);
        known.next().ok_or_else(|| PublishError::Source {
            given: given.to_owned(),
        })
    }
}

impl FromStr for PortBalance {
    type Err = PublishError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        match given {
            "all" => Ok(Self::All),
            "local" => Ok(Self::Local),
            _ => Err(PublishError::Balance {
                given: given.to_owned(),
            }),
        }
    }
}

/// Why something asked of a published port cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error("invalid source `{given}`: must be client, snat, proxy-protocol or proxy-protocol-v1")]
    Source { given: String },
    #[error("invalid balance `{given}`: must be all or local")]
    Balance { given: String },
    #[error("invalid host address `{given}`: must be an IPv4 or IPv6 address of the nodes")]
    Address { given: String },
    #[error("`{given}` cannot lead to a task: publish on 127.0.0.1 instead")]
    Loopback { given: IpAddr },
    #[error("invalid interface `{given}`: must be 1 to 15 characters without `/` and spaces")]
    Interface { given: String },
    #[error("a port answers on an address or on an interface, not on both")]
    Both,
    #[error("{what} needs mode ingress: in host mode there is one task, which sees its clients")]
    HostMode { what: String },
    #[error("the PROXY protocol is spoken over tcp only")]
    NotTcp,
    #[error("unknown key `{given}`: must be host-ip, interface, source or balance")]
    Key { given: String },
    #[error("the service publishes no port {given}")]
    Port { given: String },
}

/// Which of a node's addresses a port answers on.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortHost {
    #[default]
    All,
    /// One; the unspecified one stands for all of its family.
    Ip(IpAddr),
    /// Those of an interface.
    Interface(String),
}

impl PortHost {
    /// Whether both may mean the same address. An address and an interface are taken to be
    /// apart: only a node knows.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => true,
            (Self::Ip(a), Self::Ip(b)) => {
                let all = a.is_unspecified() || b.is_unspecified();
                a == b || (a.is_ipv4() == b.is_ipv4() && all)
            }
            (Self::Interface(a), Self::Interface(b)) => a == b,
            (Self::Ip(ip), Self::Interface(_)) | (Self::Interface(_), Self::Ip(ip)) => {
                ip.is_unspecified()
            }
        }
    }
}

impl fmt::Display for PortHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Ip(ip) if ip.is_ipv6() => write!(f, "[{ip}]"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

impl PortConfig {
    /// Where the port answers on nodes.
    pub fn host(&self) -> Result<PortHost, PublishError> {
        match (self.host_ip.as_str(), self.interface.as_str()) {
            ("", "") => Ok(PortHost::All),
            ("", name) => match is_interface_name(name) {
                true => Ok(PortHost::Interface(name.to_owned())),
                false => Err(PublishError::Interface {
                    given: name.to_owned(),
                }),
            },
            (text, "") => match text.parse::<IpAddr>() {
                Ok(given) if given.is_loopback() && given.is_ipv6() => {
                    Err(PublishError::Loopback { given })
                }
                Ok(ip) if !ip.is_multicast() => Ok(PortHost::Ip(ip.to_canonical())),
                _ => Err(PublishError::Address {
                    given: text.to_owned(),
                }),
            },
            _ => Err(PublishError::Both),
        }
    }

    /// Whether both ports may mean the same number of the same address.
    pub fn clashes(&self, other: &Self) -> bool {
        let host = |port: &Self| port.host().unwrap_or_default();
        self.published_port != 0
            && self.published_port == other.published_port
            && self.protocol == other.protocol
            && host(self).overlaps(&host(other))
    }

    /// Refuses what cannot be asked of this port.
    pub fn check(&self) -> Result<(), PublishError> {
        self.host()?;
        if self.publish_mode == PublishMode::Host {
            let source = Some(self.source).filter(|source| *source != PortSource::Client);
            let balance = Some(self.balance).filter(|balance| *balance != PortBalance::All);
            let source = source.map(|source| format!("source {}", source.as_str()));
            let balance = balance.map(|balance| format!("balance {}", balance.as_str()));
            if let Some(what) = source.or(balance) {
                return Err(PublishError::HostMode { what });
            }
        }
        match self.source {
            PortSource::Client | PortSource::Snat => Ok(()),
            PortSource::ProxyProtocol | PortSource::ProxyProtocolV1 => match self.protocol {
                Protocol::Tcp => Ok(()),
                Protocol::Udp | Protocol::Sctp => Err(PublishError::NotTcp),
            },
        }
    }

    fn put(&mut self, key: &str, value: &str) -> Result<(), PublishError> {
        // What the port says itself comes first.
        let on_all = self.host_ip.is_empty() && self.interface.is_empty();
        match key {
            "host-ip" if on_all => value.clone_into(&mut self.host_ip),
            "interface" if on_all => value.clone_into(&mut self.interface),
            "host-ip" | "interface" => {}
            "source" => {
                let source = value.parse()?;
                if self.source == PortSource::default() {
                    self.source = source;
                }
            }
            "balance" => {
                let balance = value.parse()?;
                if self.balance == PortBalance::default() {
                    self.balance = balance;
                }
            }
            _ => {
                return Err(PublishError::Key {
                    given: key.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Whether an interface can have this name.
pub fn is_interface_name(name: &str) -> bool {
    let fits = (1..=INTERFACE_BYTES_MAX).contains(&name.len());
    fits && !matches!(name, "." | "..") && !name.contains(|c: char| c == '/' || c.is_whitespace())
}

impl ServiceSpec {
    /// Published ports as asked for by their fields and by the service's labels; in the order of
    /// `ports`. An error says which label or port is wrong.
    pub fn published(&self) -> Result<Vec<PortConfig>, String> {
        let mut ports = self.ports().to_vec();
        for (label, value) in &self.labels {
            let Some(rest) = label.strip_prefix(LABEL_PREFIX) else {
                continue;
            };
            apply(&mut ports, rest, value).map_err(|error| format!("label `{label}`: {error}"))?;
        }
        for port in &ports {
            port.check().map_err(|error| {
                let PortConfig {
                    target_port,
                    protocol,
                    ..
                } = port;
                format!("EndpointSpec: port {target_port}/{protocol}: {error}")
            })?;
        }
        Ok(ports)
    }
}

/// `8080[/tcp].source` and what it is to be.
fn apply(ports: &mut [PortConfig], label: &str, value: &str) -> Result<(), PublishError> {
    let (which, key) = label.rsplit_once('.').unwrap_or((label, ""));
    let no_port = || PublishError::Port {
        given: which.to_owned(),
    };
    let (number, protocol) = match which.split_once('/') {
        Some((number, protocol)) => (number, Some(protocol.parse().map_err(|_| no_port())?)),
        None => (which, None),
    };
    let number: u16 = number.parse().map_err(|_| no_port())?;
    let meant = ports.iter_mut().filter(|port| {
        // A port that is yet to be chosen is known by what it leads to.
        let own = match port.published_port {
            0 => port.target_port,
            published => published,
        };
        own == number && protocol.is_none_or(|protocol: Protocol| protocol == port.protocol)
    });
    let mut found = false;
    for port in meant {
        found = true;
        port.put(key, value)?;
    }
    if found { Ok(()) } else { Err(no_port()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(labels: &[(&str, &str)], port: &str) -> ServiceSpec {
        let json = format!(r#"{{"Name":"web","EndpointSpec":{{"Ports":[{port}]}}}}"#);
        let mut spec: ServiceSpec = serde_json::from_str(&json).unwrap();
        let labels = labels.iter().copied();
        spec.labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        spec
    }

    const WEB: &str = r#"{"TargetPort":80,"PublishedPort":8080}"#;

    #[test]
    fn labels_ask_what_fields_ask() {
        let by_labels = spec(
            &[
                ("skep.publish.8080.source", "snat"),
                ("skep.publish.8080/tcp.balance", "local"),
                ("skep.publish.8080.host-ip", "10.0.0.5"),
                ("other", "x"),
            ],
            WEB,
        );
        let by_fields = spec(
            &[],
            r#"{"TargetPort":80,"PublishedPort":8080,"HostIP":"10.0.0.5","Source":"snat","Balance":"local"}"#,
        );
        assert_eq!(by_labels.published().unwrap(), by_fields.ports());
        assert_eq!(by_fields.published().unwrap(), by_fields.ports());
        let unnumbered = spec(
            &[("skep.publish.80.source", "snat")],
            r#"{"TargetPort":80}"#,
        );
        assert_eq!(unnumbered.published().unwrap()[0].source, PortSource::Snat);
        // A port that asks nothing looks as it does to Swarm.
        let json = serde_json::to_string(&spec(&[], WEB).ports()[0]).unwrap();
        assert!(!json.contains("Source") && !json.contains("Host"), "{json}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let label = |key: &str, value: &str| {
            spec(&[(&format!("{LABEL_PREFIX}{key}"), value)], WEB)
                .published()
                .unwrap_err()
        };
        let port = |json: &str| spec(&[], json).published().unwrap_err();
        for (error, text) in [
            (
                label("8080.source", "x"),
                "label `skep.publish.8080.source`: invalid source `x`: must be client, snat, proxy-protocol or proxy-protocol-v1",
            ),
            (
                label("8080.balance", "x"),
                "label `skep.publish.8080.balance`: invalid balance `x`: must be all or local",
            ),
            (
                label("8080.sauce", "x"),
                "label `skep.publish.8080.sauce`: unknown key `sauce`: must be host-ip, interface, source or balance",
            ),
            (
                label("81.source", "snat"),
                "label `skep.publish.81.source`: the service publishes no port 81",
            ),
            (
                label("8080/udp.source", "snat"),
                "label `skep.publish.8080/udp.source`: the service publishes no port 8080/udp",
            ),
            (
                label("8080.host-ip", "10.0.0.500"),
                "EndpointSpec: port 80/tcp: invalid host address `10.0.0.500`: must be an IPv4 or IPv6 address of the nodes",
            ),
            (
                port(r#"{"TargetPort":80,"HostIP":"::1"}"#),
                "EndpointSpec: port 80/tcp: `::1` cannot lead to a task: publish on 127.0.0.1 instead",
            ),
            (
                port(r#"{"TargetPort":80,"HostInterface":"a b"}"#),
                "EndpointSpec: port 80/tcp: invalid interface `a b`: must be 1 to 15 characters without `/` and spaces",
            ),
            (
                port(r#"{"TargetPort":80,"HostInterface":"eth0","HostIP":"10.0.0.1"}"#),
                "EndpointSpec: port 80/tcp: a port answers on an address or on an interface, not on both",
            ),
            (
                port(r#"{"TargetPort":53,"Protocol":"udp","Source":"proxy-protocol"}"#),
                "EndpointSpec: port 53/udp: the PROXY protocol is spoken over tcp only",
            ),
            (
                port(r#"{"TargetPort":80,"PublishMode":"host","Source":"snat"}"#),
                "EndpointSpec: port 80/tcp: source snat needs mode ingress: in host mode there is one task, which sees its clients",
            ),
        ] {
            assert_eq!(error, text);
        }
    }

    #[test]
    fn a_number_may_be_used_once_per_address() {
        let port = |ip: &str, interface: &str| PortConfig {
            published_port: 80,
            host_ip: ip.to_owned(),
            interface: interface.to_owned(),
            ..PortConfig::default()
        };
        for (a, b, clash) in [
            (port("", ""), port("10.0.0.1", ""), true),
            (port("", ""), port("", "eth0"), true),
            (port("10.0.0.1", ""), port("10.0.0.1", ""), true),
            (port("10.0.0.1", ""), port("10.0.0.2", ""), false),
            (port("0.0.0.0", ""), port("10.0.0.2", ""), true),
            (port("0.0.0.0", ""), port("::", ""), false),
            (port("::", ""), port("", "eth0"), true),
            (port("10.0.0.1", ""), port("", "eth0"), false),
            (port("", "eth0"), port("", "eth0"), true),
            (port("", "eth0"), port("", "eth1"), false),
        ] {
            assert_eq!(
                (a.clashes(&b), b.clashes(&a)),
                (clash, clash),
                "{a:?} {b:?}"
            );
        }
    }
}
