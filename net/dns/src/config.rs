//! What one container's resolver needs to know, and its `resolv.conf`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The address every container finds its resolver at, on port 53.
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The resolver of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// Zone files of the networks the container is on, in order of attachment.
    /// A file that does not exist (yet) is an empty network.
    pub zones: Vec<PathBuf>,
    /// Whose names come first where several groups on a network use the same one: the stack.
    pub group: String,
    /// Resolvers for names that no zone knows, asked from the host's network
    /// namespace. None: such names get an error, nothing leaves the host.
    pub upstreams: Vec<SocketAddr>,
    /// Search list for the container's `resolv.conf`.
    pub search: Vec<String>,
    /// Resolver options for the container's `resolv.conf`; `ndots:0` is added
    /// unless an `ndots` is given.
    pub options: Vec<String>,
}

impl DnsConfig {
    /// The text of the container's `/etc/resolv.conf`.
    pub fn resolv_conf(&self) -> String {
        let mut text = format!("nameserver {SERVER_ADDRESS}\n");
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        let mut options = self.options.clone();
        if !options.iter().any(|option| option.starts_with("ndots:")) {
            options.push("ndots:0".into());
        }
        let _ = writeln!(text, "options {}", options.join(" "));
        text
    }

    /// Reads a host's `resolv.conf`: its name servers (port 53), search list and
    /// options. Lines it does not understand are skipped.
    pub fn from_resolv_conf(text: &str) -> Self {
        let mut config = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words
                        .next()
                        .map(|word| word.split('%').next().unwrap_or(word));
                    if let Some(Ok(ip)) = address.map(str::parse::<IpAddr>) {
                        config.upstreams.push(SocketAddr::new(ip, 53));
                    }
                }
                Some("search" | "domain") => {
                    config.search = words
                        .filter(|word| *word != ".")
                        .map(str::to_owned)
                        .collect();
                }
                Some("options") => config.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_asks_us_and_keeps_search_and_options() {
        let host = DnsConfig::from_resolv_conf(
            "# made by hand\nsearch a.example b.example\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver x\noptions edns0 timeout:1\n",
        );
        assert_eq!(host.upstreams.len(), 2);
        assert_eq!(
            host.resolv_conf(),
            "nameserver 127.0.0.11\nsearch a.example b.example\noptions edns0 timeout:1 ndots:0\n"
        );
    }

    #[test]
    fn a_given_ndots_wins() {
        let config = DnsConfig {
            options: vec!["ndots:2".into()],
            ..DnsConfig::default()
        };
        assert_eq!(
            config.resolv_conf(),
            "nameserver 127.0.0.11\noptions ndots:2\n"
        );
    }
}
