//! The files every container gets from its engine: hosts, hostname, resolv.conf.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use skep_dns::DnsConfig;

use crate::error::{IoContext as _, Result};
use crate::extras::HostsEntry;

/// The text of /etc/hosts. `own` are the container's addresses with its names.
pub(crate) fn hosts(own: &[HostsEntry], extra: &[HostsEntry]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    // What a user adds is found first only if it stands first.
    for entry in extra.iter().chain(own) {
        let _ = writeln!(text, "{}\t{}", entry.address, entry.names.join(" "));
    }
    text
}

/// The text of /etc/hosts of a container in the host's own network.
pub(crate) fn hosts_of_host(host: &str, extra: &[HostsEntry]) -> String {
    let mut text = host.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for entry in extra {
        let _ = writeln!(text, "{}\t{}", entry.address, entry.names.join(" "));
    }
    text
}

/// The text of a resolv.conf that names resolvers directly (no DNS of ours).
/// Loopback resolvers of the host cannot be reached from a container's network,
/// so there public ones take their place.
pub(crate) fn resolv_conf(config: &DnsConfig, own_network: bool) -> String {
    let mut servers: Vec<IpAddr> = config.upstreams.iter().map(|server| server.ip()).collect();
    if own_network {
        servers.retain(|server| !server.is_loopback());
        if servers.is_empty() {
            servers = [[8, 8, 8, 8], [8, 8, 4, 4]].map(IpAddr::from).to_vec();
        }
    }
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !config.search.is_empty() {
        let _ = writeln!(text, "search {}", config.search.join(" "));
    }
    if !config.options.is_empty() {
        let _ = writeln!(text, "options {}", config.options.join(" "));
    }
    text
}

/// Writes a file that is bind-mounted: in place, so that a running container
/// sees the change.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let what = || format!("cannot write `{}`", path.display());
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .during(what)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))
        .during(what)?;
    file.write_all(text.as_bytes()).during(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_hosts_stand_before_the_containers_own() {
        let entry = |address: &str, name: &str| HostsEntry {
            address: address.parse().unwrap(),
            names: vec![name.into()],
        };
        let text = hosts(&[entry("10.0.0.2", "me")], &[entry("10.0.0.9", "db")]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.9\tdb\n10.0.0.2\tme\n"));
    }

    #[test]
    fn loopback_resolvers_are_only_good_on_the_host() {
        let config = DnsConfig::from_resolv_conf("nameserver 127.0.0.53\nsearch x.test\n");
        assert_eq!(
            resolv_conf(&config, false),
            "nameserver 127.0.0.53\nsearch x.test\n"
        );
        assert_eq!(
            resolv_conf(&config, true),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\nsearch x.test\n"
        );
    }
}
