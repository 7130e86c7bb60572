//! Names and numbers of everything we put into the kernel.
//!
//! What bears one of these names is ours and may be changed or deleted; nothing
//! else ever is.

/// FNV-1a. Names must be the same on every run and build, which the standard
/// library's hashers do not promise.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The first `length` characters of an id that is long and random enough to be
/// told apart by them, else as many hexadecimal digits of its hash.
pub(crate) fn short(id: &str, length: usize) -> String {
    let is_random = id.len() >= 25
        && id
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if is_random {
        return id[..length].to_owned();
    }
    let digits = format!("{:016x}", hash(id.as_bytes()));
    digits[..length.min(16)].to_owned()
}

/// The pinned namespace of a task: `t-<taskid12>`.
pub fn task_netns(task: &str) -> String {
    format!("t-{}", short(task, 12))
}

/// The pinned namespace of an overlay network on this node: `n-<netid12>`.
pub(crate) fn overlay_netns(network: &str) -> String {
    format!("n-{}", short(network, 12))
}

/// The pinned namespace of a plain container: `c-<containerid12>`.
pub fn container_netns(container: &str) -> String {
    format!("c-{}", short(container, 12))
}

/// The sandbox's end of a task's overlay veth.
pub(crate) fn overlay_port(endpoint: &str) -> String {
    format!("t{}", short(endpoint, 10))
}

/// The root namespace's end of a task's gateway veth.
pub(crate) fn gateway_port(endpoint: &str) -> String {
    format!("{GATEWAY_PREFIX}{}", short(endpoint, 10))
}

/// The bridge of a user network that was given no name of its own.
pub fn bridge(network: &str) -> String {
    format!("sk-{}", short(network, 10))
}

/// The root namespace's end of a bridge endpoint's veth.
pub(crate) fn bridge_port(endpoint: &str) -> String {
    format!("{BRIDGE_PORT_PREFIX}{}", short(endpoint, 10))
}

/// The firewall table of a bridge network.
pub(crate) fn bridge_table(network: &str) -> String {
    format!("{BRIDGE_TABLE_PREFIX}{}", short(network, 12))
}

/// The interface of the tunnel that a generation of keys has.
pub(crate) fn tunnel(generation: u64) -> &'static str {
    TUNNELS[usize::from(generation % 2 == 1)]
}

/// For even generations, for odd ones.
pub(crate) const TUNNELS: [&str; 2] = ["sk-wg0", "sk-wg1"];
pub(crate) const GATEWAY_PREFIX: &str = "gw-";
pub(crate) const BRIDGE_PORT_PREFIX: &str = "skv-";
pub(crate) const BRIDGE_TABLE_PREFIX: &str = "sk-br-";
pub(crate) const BRIDGE_ALIAS_PREFIX: &str = "skep bridge ";
pub(crate) const INGRESS_DEVICE: &str = "sk-ing";
pub(crate) const OVERLAY_BRIDGE: &str = "br0";
pub(crate) const OVERLAY_VXLAN: &str = "vxlan0";
pub(crate) const MESH_TABLE: &str = "sk-mesh";
pub(crate) const GUARD_TABLE: &str = "sk-guard";
pub(crate) const SERVICE_TABLE: &str = "sk-svc";
pub(crate) const DNS_TABLE: &str = "sk-dns";

/// The VXLAN network of the routing mesh.
pub const INGRESS_VNI: u32 = 4096;
/// The group of every gateway veth in the root namespace.
pub(crate) const GATEWAY_GROUP: u32 = 90;
/// The preference of our one policy rule, and the table it leads to.
pub(crate) const MESH_RULE_PREFERENCE: u32 = 1000;
pub(crate) const MESH_ROUTE_TABLE: u32 = 20_000;
/// The address of a neighbour nobody is: frames to it are re-addressed on egress.
pub(crate) const NOBODY_MAC: crate::Mac = crate::Mac([0x02, 0x42, 0x0a, 0xff, 0xff, 0xfe]);
/// The IPv6 address every gateway veth has on the root namespace's side.
pub(crate) const LINK_LOCAL_GATEWAY: std::net::Ipv6Addr =
    std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
