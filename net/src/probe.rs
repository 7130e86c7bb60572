//! What this kernel and host can do, found out once at start.

use serde::{Deserialize, Serialize};

use crate::apply::{Ground, open_socket};
use crate::{nft, sysctl};

/// Abilities of the host that decide how the data plane is built; shown in `info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// nf_tables is there. Without it nothing but host networking works.
    pub nf_tables: bool,
    /// VXLAN devices can be made: overlay networks work.
    pub vxlan: bool,
    /// The netdev egress hook: the routing mesh keeps client addresses.
    pub netdev_egress: bool,
    /// Conntrack zones in one direction: equal client ports do not clash.
    pub conntrack_zones: bool,
    /// macvlan networks work.
    pub macvlan: bool,
    /// ipvlan networks work.
    pub ipvlan: bool,
    /// The kernel has WireGuard.
    pub wireguard: bool,
    /// TUN devices can be made: WireGuard works in a process.
    pub tun: bool,
    /// IPv6 is not disabled.
    pub ipv6: bool,
    /// SCTP sockets can be made: SCTP ports can be reserved.
    pub sctp: bool,
    /// `bridge-nf-call-iptables` of this namespace; `None`: no br_netfilter.
    pub bridge_nf_call_iptables: Option<bool>,
    /// `bridge-nf-call-ip6tables` of this namespace.
    pub bridge_nf_call_ip6tables: Option<bool>,
    /// Firewall chains of others that drop what they do not know of forwarded
    /// packets, and in which our links could not be let through, as `family table
    /// chain`. They win over everything we accept.
    pub foreign_forward_drops: Vec<String>,
}

impl Capabilities {
    /// What should be said to a person about this host, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut unless = |able: bool, text: &str| {
            if !able {
                warnings.push(format!("WARNING: {text}"));
            }
        };
        unless(
            self.nf_tables,
            "No nf_tables support: no container networking",
        );
        unless(self.vxlan, "No vxlan support: no overlay networks");
        unless(self.netdev_egress, "No netdev egress hook: no routing mesh");
        unless(
            self.conntrack_zones,
            "No conntrack zones: equal client ports may clash",
        );
        unless(
            self.bridge_nf_call_iptables != Some(false),
            "bridge-nf-call-iptables is disabled",
        );
        unless(
            self.bridge_nf_call_ip6tables != Some(false),
            "bridge-nf-call-ip6tables is disabled",
        );
        for chain in &self.foreign_forward_drops {
            unless(
                false,
                &format!("Firewall chain `{chain}` drops forwarded packets"),
            );
        }
        warnings
    }
}

/// Tries everything in a namespace that ends with the probing thread.
pub(crate) fn probe(ground: &Ground) -> Capabilities {
    let mut found = scratch::trial().unwrap_or_default();
    let here = ground.root.run(|| {
        let switch = |name: &str| {
            sysctl::get(&format!("net/bridge/bridge-nf-call-{name}")).map(|value| value == "1")
        };
        let drops = open_socket(libc::NETLINK_NETFILTER)
            .ok()
            .and_then(|mut socket| nft::closed(&mut socket).ok())
            .map(|chains| chains.iter().map(ToString::to_string).collect());
        (
            switch("iptables"),
            switch("ip6tables"),
            drops.unwrap_or_default(),
            sysctl::get("net/ipv6/conf/all/disable_ipv6").as_deref() == Some("0"),
        )
    });
    if let Ok((iptables, ip6tables, drops, ip6)) = here {
        found.bridge_nf_call_iptables = iptables;
        found.bridge_nf_call_ip6tables = ip6tables;
        found.foreign_forward_drops = drops;
        found.ipv6 = ip6;
    }
    found
}

mod scratch {
    //! Trials in a namespace of their own.

    use super::Capabilities;
    use crate::NetError;
    use crate::apply::open_socket;
    use crate::netlink::link::{self, Birth};
    use crate::netlink::socket::Socket;
    use crate::nft::{self, Chain, Family, Field, Hook, Rule, Set, Table};

    pub(super) fn trial() -> Result<Capabilities, NetError> {
        crate::netns::in_fresh(|| {
            let mut route = open_socket(libc::NETLINK_ROUTE)?;
            let mut filter = open_socket(libc::NETLINK_NETFILTER)?;
            let mut works =
                |table: Table| nft::reconcile(&mut filter, &[table], |_, _| false).is_ok();
            let mut found = Capabilities {
                nf_tables: works(Table::new(Family::Inet, "sk-probe")),
                conntrack_zones: works(zones()),
                ..Capabilities::default()
            };
            let vxlan = Birth::Vxlan {
                vni: 4242,
                local: [127, 0, 0, 1].into(),
                port: 4789,
                proxy: true,
            };
            found.vxlan = makes(&mut route, "sk-vxlan", &vxlan);
            let mut filter = open_socket(libc::NETLINK_NETFILTER)?;
            found.netdev_egress =
                found.vxlan && nft::reconcile(&mut filter, &[egress()], |_, _| false).is_ok();
            let parent = bridge(&mut route);
            if let Some(parent) = parent {
                found.macvlan = makes(
                    &mut route,
                    "sk-macvlan",
                    &Birth::Macvlan { parent, mode: 4 },
                );
                found.ipvlan = makes(&mut route, "sk-ipvlan", &Birth::Ipvlan { parent, mode: 0 });
            }
            found.wireguard = makes(&mut route, "sk-wg", &Birth::Plain("wireguard"));
            found.tun = skep_wg::can_serve().is_ok();
            found.sctp = crate::ports::speaks_sctp();
            Ok(found)
        })?
    }

    fn makes(route: &mut Socket, name: &str, birth: &Birth<'_>) -> bool {
        route
            .request(link::create(name, None, None, None, birth))
            .is_ok()
    }

    /// The index of a bridge to put children on.
    fn bridge(route: &mut Socket) -> Option<u32> {
        makes(route, "sk-parent", &Birth::Bridge).then_some(())?;
        let links = link::list(route).ok()?;
        links
            .iter()
            .find(|link| link.name == "sk-parent")
            .map(|link| link.index)
    }

    fn zones() -> Table {
        let mut table = Table::new(Family::Inet, "sk-probe-zones");
        table.set(Set::map("zone", &[Field::Mac], &[Field::Zone]));
        let rule = Rule::new().zone_by_source_mac("zone");
        table.chain(Chain::base(
            "pre",
            Hook::filter_prerouting(-301),
            vec![rule],
        ));
        table
    }

    fn egress() -> Table {
        let mut table = Table::new(Family::Netdev, "sk-probe-egress");
        table.chain(Chain::base("eg", Hook::egress("sk-vxlan"), Vec::new()));
        table
    }
}
