//! Hosts A, B, C and two clients on one wire, all in namespaces, built by the
//! crate itself: the wire is one of its bridge networks.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use skep_net::{
    BridgeEndpoint, BridgeNetwork, Encryption, GatewayLeg, Host, HostAddress, HostConfig, HostPort,
    HostState, IngressAddresses, IngressEndpoint, LocalEndpoint, LocalNode, Mac, Namespaces, Netns,
    Overlay, Peer, PrivateKey, Proto, PublishedPort, RemoteEndpoint, Report, Source, TaskSandbox,
    Tunnel, TunnelPeer, Vip, gateway_address6, names,
};
use tempfile::TempDir;

pub const NODES: [&str; 3] = ["A", "B", "C"];

pub struct Lab {
    pub stations: Namespaces,
    pub hosts: Vec<Host>,
    pub networks: Vec<Overlay>,
    pub tasks: Vec<Task>,
    pub published: Vec<PublishedPort>,
    /// Whether nodes have the routing mesh.
    pub mesh: bool,
    /// Whether overlays go over IPv6 between the nodes.
    pub underlay6: bool,
    /// Whether the routing mesh goes through tunnels.
    pub encrypted_ingress: bool,
    /// A node that has another address now.
    pub moved: Option<(usize, IpAddr)>,
    /// Generations of keys that nodes have, and the one that is used.
    pub keys: (RangeInclusive<u64>, u64),
    _wire: Host,
    _dir: TempDir,
}

/// A task as the tests think of it.
#[derive(Clone)]
pub struct Task {
    pub name: &'static str,
    pub node: usize,
    /// Network and addresses.
    pub endpoints: Vec<(&'static str, Vec<&'static str>)>,
    /// Last number of its ingress addresses 10.255.1.n and fd5a::1:n.
    pub ingress: Option<u8>,
    pub has_gateway: bool,
    pub open_ports: Vec<(Proto, u16)>,
    pub host_ports: Vec<HostPort>,
    pub services: Vec<Vip>,
    /// Where its resolver listens, UDP and TCP.
    pub dns_ports: Option<(u16, u16)>,
}

impl Task {
    pub fn new(name: &'static str, node: usize) -> Self {
        Self {
            name,
            node,
            endpoints: Vec::new(),
            ingress: None,
            has_gateway: false,
            open_ports: Vec::new(),
            host_ports: Vec::new(),
            services: Vec::new(),
            dns_ports: None,
        }
    }

    pub fn on(mut self, network: &'static str, ips: &[&'static str]) -> Self {
        self.endpoints.push((network, ips.to_vec()));
        self
    }

    pub fn published(mut self, ingress: u8, port: u16) -> Self {
        self.ingress = Some(ingress);
        self.has_gateway = true;
        self.open_ports = vec![(Proto::Tcp, port), (Proto::Udp, port)];
        self
    }

    pub fn ingress_ips(&self) -> Vec<IpAddr> {
        let number = self.ingress.into_iter();
        number
            .flat_map(|n| [ip(&format!("10.255.1.{n}")), ip(&format!("fd5a::1:{n}"))])
            .collect()
    }

    pub fn netns(&self) -> String {
        names::task_netns(self.name)
    }

    pub fn sandbox(&self, number: usize) -> TaskSandbox {
        let endpoints = self
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, (network, ips))| {
                let with_prefix = |text: &&str| {
                    let address = ip(text);
                    IpNet::new(address, if address.is_ipv4() { 24 } else { 64 }).unwrap()
                };
                LocalEndpoint {
                    id: format!("{}-{network}", self.name),
                    network: (*network).into(),
                    ips: ips.iter().map(with_prefix).collect(),
                    mac: None,
                    ifname: format!("eth{index}"),
                }
            });
        TaskSandbox {
            id: self.name.into(),
            netns: self.netns(),
            endpoints: endpoints.collect(),
            gateway: self.has_gateway.then(|| GatewayLeg {
                id: format!("{}-gw", self.name),
                ifname: format!("eth{}", self.endpoints.len()),
                ip4: gateway4(number),
                ip6: Some(gateway_address6(&HostConfig::new("/"), gateway4(number))),
                ingress: self.ingress_ips(),
                open_ports: self.open_ports.clone(),
                host_ports: self.host_ports.clone(),
            }),
            services: self.services.clone(),
            dns_ports: self.dns_ports,
        }
    }
}

fn gateway4(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 18, 1, number as u8 + 2)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is no address"))
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

pub fn overlay(id: &str, vni: u32, subnets: &[&str]) -> Overlay {
    Overlay {
        id: id.into(),
        vni,
        mtu: 1450,
        subnets: subnets.iter().map(|net| net.parse().unwrap()).collect(),
        encrypted: false,
        remote: Vec::new(),
    }
}

pub fn vip(address: &str, backends: &[&str]) -> Vip {
    Vip {
        vip: ip(address),
        backends: backends.iter().map(|text| ip(text)).collect(),
    }
}

/// Whether this test can run; says why not.
pub fn can_run() -> bool {
    // SAFETY: geteuid only reads.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("skipped: needs root for network namespaces");
    }
    root
}

/// From here on this thread's mounts (pinned namespaces) are its own and vanish
/// with the process, however it ends.
fn own_mounts() {
    // SAFETY: both calls take constant arguments; they change this thread's (and
    // its future children's) mounts only.
    let rc = unsafe {
        libc::unshare(libc::CLONE_NEWNS)
            + libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            )
    };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}

/// How a host of the lab is set up.
pub fn config(run_dir: PathBuf) -> HostConfig {
    let mut config = HostConfig::new(run_dir);
    config.program = env!("CARGO_BIN_EXE_skep-wireguard").into();
    config
}

/// An open host in a fresh namespace of its own.
pub fn lone_host() -> (Host, Netns, TempDir) {
    own_mounts();
    let dir = TempDir::new().unwrap();
    let netns = Namespaces::new(&dir.path().join("lab"))
        .create("host")
        .unwrap();
    let config = HostConfig::new(dir.path().join("run"));
    let host = netns.run(|| Host::open(config)).unwrap().unwrap();
    (host, netns, dir)
}

/// Processes of tunnels end with their control sockets.
impl Drop for Lab {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = std::fs::remove_dir_all(host.tunnel_dir());
        }
    }
}

impl Lab {
    pub fn new() -> Self {
        own_mounts();
        let dir = TempDir::new().unwrap();
        let stations = Namespaces::new(&dir.path().join("lab"));
        let open = |name: &str| {
            let config = config(dir.path().join(format!("run-{name}")));
            stations
                .create(name)
                .unwrap()
                .run(|| Host::open(config))
                .unwrap()
                .unwrap()
        };
        let wire = open("wire");
        wire.ensure_bridge(&BridgeNetwork {
            id: "wire".into(),
            bridge: None,
            gateways: Vec::new(),
            mtu: 1500,
            internal: false,
            icc: true,
            masquerade: false,
        })
        .unwrap();
        let plug = |name: &str, number: u8| {
            stations.create(name).unwrap();
            wire.connect(&BridgeEndpoint {
                id: name.into(),
                name: name.into(),
                network: "wire".into(),
                netns: stations.path(name),
                ifname: "eth0".into(),
                addresses: vec![
                    format!("10.77.0.{number}/24").parse().unwrap(),
                    format!("fd77::{number}/64").parse().unwrap(),
                ],
                mac: None,
                default_route: false,
                ports: Vec::new(),
            })
            .unwrap();
        };
        for (index, name) in NODES.iter().enumerate() {
            plug(name, index as u8 + 1);
        }
        plug("cl1", 101);
        plug("cl2", 102);
        let hosts = NODES.iter().map(|name| open(name)).collect();
        Self {
            stations,
            hosts,
            networks: Vec::new(),
            tasks: Vec::new(),
            published: Vec::new(),
            mesh: false,
            underlay6: false,
            encrypted_ingress: false,
            moved: None,
            keys: (0..=0, 0),
            _wire: wire,
            _dir: dir,
        }
    }

    pub fn station(&self, name: &str) -> Netns {
        self.stations.open(name).unwrap()
    }

    /// The namespace of a task.
    pub fn inside(&self, name: &str) -> Netns {
        let task = self
            .tasks
            .iter()
            .find(|task| task.name == name)
            .expect("a task");
        self.hosts[task.node]
            .namespaces()
            .open(&task.netns())
            .unwrap()
    }

    pub fn task(&mut self, name: &str) -> &mut Task {
        self.tasks
            .iter_mut()
            .find(|task| task.name == name)
            .expect("a task")
    }

    pub fn run_dir(&self, node: usize) -> PathBuf {
        self.hosts[node].config().run_dir.clone()
    }

    fn ingress(&self, node: usize) -> Option<IngressAddresses> {
        self.mesh.then(|| IngressAddresses {
            ip4: format!("10.255.0.{}/16", node + 1).parse().unwrap(),
            ip6: Some(format!("fd5a::{}/64", node + 1).parse().unwrap()),
        })
    }

    /// The address that frames of a node leave from.
    pub fn vtep(&self, node: usize) -> IpAddr {
        match self.underlay6 {
            _ if self.moved.is_some_and(|(moved, _)| moved == node) => {
                self.moved.expect("just looked at").1
            }
            false => ip(&format!("10.77.0.{}", node + 1)),
            true => ip(&format!("fd77::{}", node + 1)),
        }
    }

    fn key(node: usize, generation: u64) -> PrivateKey {
        PrivateKey::new([node as u8 + 1 + 16 * generation as u8; 32])
    }

    /// Tunnels among all nodes, where some network is encrypted.
    fn encryption(&self, node: usize) -> Encryption {
        let encrypted = self.networks.iter().filter(|overlay| overlay.encrypted);
        let vnis: BTreeSet<u32> = encrypted.map(|overlay| overlay.vni).collect();
        let port = |generation: u64| 4790 + (generation % 2) as u16;
        let tunnel = |generation| Tunnel {
            generation,
            private_key: Self::key(node, generation),
            port: port(generation),
            mtu: 1420,
            peers: (0..NODES.len())
                .filter(|peer| *peer != node)
                .map(|peer| TunnelPeer {
                    index: peer as u16 + 1,
                    public_key: Self::key(peer, generation).public(),
                    endpoint: SocketAddr::new(self.vtep(peer), port(generation)),
                })
                .collect(),
        };
        Encryption {
            tunnels: match vnis.is_empty() && !self.encrypted_ingress {
                true => Vec::new(),
                false => self.keys.0.clone().map(tunnel).collect(),
            },
            vnis,
            used: self.keys.1,
            ingress: self.encrypted_ingress,
            ..Encryption::default()
        }
    }

    pub fn state(&self, node: usize) -> HostState {
        let address4 = |node: usize| ip(&format!("10.77.0.{}", node + 1));
        let address6 = |node: usize| ip(&format!("fd77::{}", node + 1));
        let vtep = |node: usize| self.vtep(node);
        let also: &dyn Fn(usize) -> IpAddr = match self.underlay6 {
            false => &address6,
            true => &address4,
        };
        let mtu = if self.underlay6 { 1430 } else { 1450 };
        let local = LocalNode {
            index: node as u16 + 1,
            vtep: vtep(node),
            data_port: 4789,
            ingress: self.ingress(node),
            ingress_vni: names::INGRESS_VNI,
            ingress_mtu: mtu - if self.encrypted_ingress { 80 } else { 0 },
            addresses: vec![also(node)],
        };
        let peers = (0..NODES.len()).filter(|peer| *peer != node).map(|peer| {
            let ingress = self.ingress(peer);
            Peer {
                index: peer as u16 + 1,
                vtep: vtep(peer),
                addresses: vec![also(peer)],
                ingress_ip4: ingress.as_ref().map(|ingress| ingress.ip4.addr()),
                ingress_ip6: ingress
                    .and_then(|ingress| ingress.ip6)
                    .map(|net| net.addr()),
            }
        });
        let here = |network: &str| {
            self.tasks.iter().any(|task| {
                task.node == node && task.endpoints.iter().any(|(id, _)| *id == network)
            })
        };
        let overlays = self
            .networks
            .iter()
            .filter(|overlay| here(&overlay.id))
            .map(|overlay| {
                let mut overlay = Overlay {
                    mtu: mtu - if overlay.encrypted { 80 } else { 0 },
                    ..overlay.clone()
                };
                for task in self.tasks.iter().filter(|task| task.node != node) {
                    for (_, ips) in task.endpoints.iter().filter(|(id, _)| *id == overlay.id) {
                        let ips: Vec<IpAddr> = ips.iter().map(|text| ip(text)).collect();
                        let mac = Mac::of(ips[0]);
                        overlay.remote.push(RemoteEndpoint {
                            ips,
                            mac,
                            vtep: vtep(task.node),
                            node: task.node as u16 + 1,
                        });
                    }
                }
                overlay
            });
        let sandboxes = self
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, task)| task.node == node)
            .map(|(number, task)| task.sandbox(number));
        let ingress_endpoints =
            self.tasks
                .iter()
                .filter(|task| task.ingress.is_some())
                .map(|task| IngressEndpoint {
                    ips: task.ingress_ips(),
                    node: task.node as u16 + 1,
                });
        HostState {
            node: local,
            peers: peers.collect(),
            overlays: overlays.collect(),
            sandboxes: sandboxes.collect(),
            ingress_endpoints: ingress_endpoints.collect(),
            published: self.published.clone(),
            encryption: self.encryption(node),
        }
    }

    /// Applies the state of every node; all of it must succeed.
    pub fn apply(&self) -> Vec<Report> {
        let reports: Vec<Report> = (0..NODES.len())
            .map(|node| {
                let report = self.hosts[node].apply(&self.state(node));
                let failures: Vec<_> = report
                    .failures
                    .iter()
                    .map(|failure| format!("{}: {}", failure.object, failure.error.chain()))
                    .collect();
                assert!(failures.is_empty(), "{}: {failures:#?}", NODES[node]);
                report
            })
            .collect();
        reports
    }

    /// Publishes a port on all nodes, served by these tasks.
    pub fn publish(&mut self, port: u16, tasks: &[&str], target: u16) {
        let backends: Vec<(IpAddr, u16)> = self
            .tasks
            .iter()
            .filter(|task| tasks.contains(&task.name))
            .flat_map(|task| task.ingress_ips())
            .map(|ip| (ip, target))
            .collect();
        self.published.retain(|published| published.port != port);
        for proto in [Proto::Tcp, Proto::Udp] {
            self.published.push(PublishedPort {
                proto,
                port,
                host: HostAddress::All,
                source: Source::Client,
                backends: backends.clone(),
            });
        }
    }
}
