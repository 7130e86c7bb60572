//! What this kernel and host can do, found out once at start.

use serde::{Deserialize, Serialize};

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
    /// IPv6 is not disabled.
    pub ipv6: bool,
    /// SCTP sockets can be made: SCTP ports can be reserved.
    pub sctp: bool,
    /// `bridge-nf-call-iptables` of this namespace; `None`: no br_netfilter.
    pub bridge_nf_call_iptables: Option<bool>,
    /// `bridge-nf-call-ip6tables` of this namespace.
    pub bridge_nf_call_ip6tables: Option<bool>,
    /// Firewall chains of others that drop forwarded packets by policy, as
    /// `family table chain`. They win over everything we accept.
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
