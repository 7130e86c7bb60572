//! The first commit of a cluster.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use skep_model::cluster::{JoinTokens, RootCa};
use skep_model::limits::VNI_FIRST;
use skep_model::mount::Driver;
use skep_model::network::{IpamConfig, IpamOptions};
use skep_model::node::TlsInfo;
use skep_model::{
    Cluster, ClusterId, ClusterSpec, Network, NetworkId, NetworkSpec, Random, Timestamp,
};
use skep_plan::allocate::addresses::default_gateway;
use skep_plan::allocate::numbers::MTU_DEFAULT;
use skep_plan::allocate::subnets;
use skep_store::{Commit, Snapshot, Transaction};

/// What a cluster is made of.
#[derive(Debug, Clone, Default)]
pub struct InitialCluster {
    pub id: ClusterId,
    pub spec: ClusterSpec,
    pub tls_info: TlsInfo,
    pub root_ca: RootCa,
    pub join_tokens: JoinTokens,
    /// Empty unless autolock is on.
    pub unlock_key: String,
    /// Empty means 10.0.0.0/8.
    pub default_addr_pool: Vec<IpNet>,
    /// Prefix length of subnets from the pool; 0 means 24.
    pub subnet_size: u8,
    /// 0 means 4789.
    pub data_path_port: u16,
    /// IPv4 subnet of the ingress network; none means 10.255.0.0/16.
    pub ingress_subnet: Option<IpNet>,
    /// MTU of the first node's data path device; 0 when not known.
    pub data_path_mtu: u32,
}

/// The commit that makes the cluster object and the ingress network.
pub fn initial_cluster(wanted: InitialCluster, now: Timestamp, random: &mut dyn Random) -> Commit {
    let mut tx = Transaction::new(&Snapshot::default(), now);
    let pools = match wanted.default_addr_pool.is_empty() {
        true => vec![subnets::default_pool()],
        false => wanted.default_addr_pool,
    };
    let cluster = Cluster {
        id: wanted.id,
        spec: wanted.spec,
        tls_info: wanted.tls_info,
        root_ca: wanted.root_ca,
        join_tokens: wanted.join_tokens,
        unlock_key: wanted.unlock_key,
        default_addr_pool: pools,
        subnet_size: match wanted.subnet_size {
            0 => 24,
            size => size,
        },
        data_path_port: match wanted.data_path_port {
            0 => 4789,
            port => port,
        },
        ..Cluster::default()
    };
    let ingress = Network {
        id: NetworkId::random(random),
        spec: ingress_spec(wanted.ingress_subnet),
        vni: VNI_FIRST,
        mtu: match wanted.data_path_mtu {
            0 => MTU_DEFAULT,
            mtu => mtu.saturating_sub(50),
        },
        ..Network::default()
    };
    let site = random.next_u64();
    let ingress = Network {
        ipam: ingress
            .spec
            .ipam
            .iter()
            .flat_map(|ipam| &ipam.configs)
            .filter_map(|config| config.subnet)
            .chain([site_subnet(site)])
            .map(|subnet| IpamConfig {
                subnet: Some(subnet),
                range: None,
                gateway: Some(default_gateway(subnet)),
            })
            .collect(),
        ..ingress
    };
    tx.put(cluster).expect("a new cluster has no other objects");
    tx.put(ingress).expect("a new cluster has no other objects");
    tx.commit().expect("two objects were made")
}

/// The spec of the ingress network that a cluster is born with.
fn ingress_spec(subnet: Option<IpNet>) -> NetworkSpec {
    let subnet = subnet.unwrap_or_else(|| {
        let net = Ipv4Net::new(Ipv4Addr::new(10, 255, 0, 0), 16);
        IpNet::V4(net.expect("16 is a prefix length"))
    });
    NetworkSpec {
        name: "ingress".to_owned(),
        labels: BTreeMap::new(),
        driver: Some(Driver {
            name: "overlay".to_owned(),
            ..Driver::default()
        }),
        ipv6_enabled: true,
        ingress: true,
        ipam: Some(IpamOptions {
            driver: None,
            configs: vec![IpamConfig {
                subnet: Some(subnet.trunc()),
                ..IpamConfig::default()
            }],
        }),
        scope: "swarm".to_owned(),
        ..NetworkSpec::default()
    }
}

/// A /64 of unique local addresses (RFC 4193) at a random site.
fn site_subnet(random: u64) -> IpNet {
    let site = u128::from(random & 0xff_ffff_ffff) << 80;
    let address = Ipv6Addr::from((u128::from(0xfdu8) << 120) | site);
    IpNet::V6(Ipv6Net::new(address, 64).expect("64 is a prefix length"))
}
