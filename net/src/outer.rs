//! The addresses of this host, and those by which others may know it.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::names;
use crate::netlink::entry::{self, Names};
use crate::netlink::link;
use crate::view::NsKey;
use crate::{Host, NetError};

/// An address by which others may know this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterAddress {
    /// The link that has it.
    pub interface: String,
    /// With the prefix length of its subnet.
    pub net: IpNet,
    /// The link's MTU.
    pub mtu: u32,
}

/// What of this host others may know it by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outer {
    pub addresses: Vec<OuterAddress>,
    /// All links but those that we have made, whether they have addresses or not.
    pub links: BTreeSet<String>,
}

impl Host {
    /// This host's addresses with the name of their interface, loopback and
    /// link-local ones left out.
    pub fn addresses(&self) -> Result<Vec<(String, IpNet)>, NetError> {
        self.look(|socket, names| {
            Ok(entry::addresses(socket, names)?
                .into_iter()
                .filter(is_public)
                .collect())
        })
    }

    /// Of those the ones by which others may know this host: not those of links that we have made,
    /// which are the same on every node.
    pub fn outer_addresses(&self) -> Result<Vec<OuterAddress>, NetError> {
        Ok(self.outer()?.addresses)
    }

    /// The same with the links. One look, since it is taken often.
    pub fn outer(&self) -> Result<Outer, NetError> {
        let look = |source| NetError::Kernel {
            action: "look at",
            object: NsKey::Root.to_string(),
            source,
        };
        self.ground.with_socket(&NsKey::Root, |socket| {
            let mut links = link::list(socket).map_err(look)?;
            links.retain(|link| !is_made_by_us(&link.name, link.alias.as_deref()));
            let names: Names = links
                .iter()
                .map(|link| (link.index, link.name.clone()))
                .collect();
            let found = entry::addresses(socket, &names).map_err(look)?;
            let outer = found.into_iter().filter(is_public);
            let mtu = |interface: &str| {
                let mut links = links.iter();
                links
                    .find(|link| link.name == interface)
                    .map(|link| link.mtu)
            };
            let addresses = outer
                .map(|(interface, net)| OuterAddress {
                    mtu: mtu(&interface).unwrap_or(1500),
                    interface,
                    net,
                })
                .collect();
            let links = links.into_iter().map(|link| link.name).collect();
            Ok(Outer { addresses, links })
        })
    }
}

/// Neither of the loopback nor of one link alone.
fn is_public((dev, net): &(String, IpNet)) -> bool {
    let is_link_local = match net {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    };
    dev != "lo" && !is_link_local && !net.addr().is_loopback()
}

/// Whether a link of the root namespace is of our making: the ingress device, tunnels, ends of
/// containers' links, and bridges, whatever name they were given.
fn is_made_by_us(name: &str, alias: Option<&str>) -> bool {
    let named = ["sk-", names::GATEWAY_PREFIX, names::BRIDGE_PORT_PREFIX];
    named.iter().any(|prefix| name.starts_with(prefix))
        || alias.is_some_and(|alias| alias.starts_with(names::BRIDGE_ALIAS_PREFIX))
}
