//! The configuration protocol of userspace WireGuards: `key=value` lines up to an
//! empty one, keys in hexadecimal. Pure.
//!
//! A part of it: what the data plane needs. Anything else is refused, never
//! ignored.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use zeroize::Zeroizing;

use crate::{PrivateKey, PublicKey};

/// How a tunnel is configured, or what is to change of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `None` leaves what is there.
    pub private_key: Option<PrivateKey>,
    /// `None` leaves what is there.
    pub listen_port: Option<u16>,
    /// Peers in order.
    pub peers: Vec<PeerConfig>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Who it is.
    pub public_key: PublicKey,
    /// It is to be forgotten; all else is without meaning then.
    pub remove: bool,
    /// Where its datagrams come from and go to.
    pub endpoint: Option<SocketAddr>,
    /// The one address behind it.
    pub allowed: Option<IpAddr>,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To be told the configuration.
    Get,
    /// To change it.
    Set(Config),
}

/// A text that is not of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{line}` is not understood")]
pub struct UapiError {
    /// The line, its value left out where that could be a private key.
    pub line: String,
}

/// Reads a request, without the empty line at its end.
pub fn parse_request(text: &str) -> Result<Request, UapiError> {
    let mut lines = text.lines();
    match lines.next() {
        Some("get=1") => Ok(Request::Get),
        Some("set=1") => parse_config(lines).map(Request::Set),
        other => Err(UapiError {
            line: other.unwrap_or_default().chars().take(32).collect(),
        }),
    }
}

/// Reads an answer to `get=1`, without the empty line at its end.
pub fn parse_answer(text: &str) -> Result<Config, UapiError> {
    let told = |line: &&str| !STATISTICS.iter().any(|key| line.starts_with(key));
    parse_config(text.lines().filter(told))
}

/// Lines of an answer that are no configuration.
const STATISTICS: [&str; 6] = [
    "errno=",
    "protocol_version=",
    "last_handshake_time_",
    "rx_bytes=",
    "tx_bytes=",
    "fwmark=",
];

fn parse_config<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Config, UapiError> {
    let mut config = Config::default();
    for line in lines {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let wrong = || UapiError {
            line: match key {
                "private_key" => "private_key=…".to_owned(),
                _ => line.chars().take(128).collect(),
            },
        };
        let peer = config.peers.last_mut();
        match (key, peer) {
            ("private_key", None) => {
                let bytes = key_bytes(value).ok_or_else(wrong)?;
                config.private_key = Some(PrivateKey::new(*bytes));
            }
            ("listen_port", None) => {
                config.listen_port = Some(value.parse().map_err(|_| wrong())?);
            }
            ("public_key", _) => config.peers.push(PeerConfig {
                public_key: PublicKey::new(*key_bytes(value).ok_or_else(wrong)?),
                remove: false,
                endpoint: None,
                allowed: None,
            }),
            ("remove", Some(peer)) if value == "true" => peer.remove = true,
            ("endpoint", Some(peer)) => {
                peer.endpoint = Some(value.parse().map_err(|_| wrong())?);
            }
            // One address per peer: a new one always replaces it.
            ("replace_allowed_ips", Some(_)) if value == "true" => {}
            ("allowed_ip", Some(peer)) => {
                peer.allowed = Some(whole_address(value).ok_or_else(wrong)?);
            }
            _ => return Err(wrong()),
        }
    }
    Ok(config)
}

fn key_bytes(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(hex::decode(text).ok()?);
    Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
}

/// An address with the prefix length that means itself alone.
fn whole_address(text: &str) -> Option<IpAddr> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv4() { "32" } else { "128" };
    (length == whole).then_some(address)
}

/// A request to change this, with the empty line at its end.
pub fn set_request(config: &Config) -> Zeroizing<String> {
    let mut text = Zeroizing::new("set=1\n".to_owned());
    write_config(&mut text, config);
    text.push('\n');
    text
}

/// The answer to `get=1`, with the empty line at its end.
pub fn get_answer(config: &Config) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    write_config(&mut text, config);
    text.push_str("errno=0\n\n");
    text
}

fn write_config(text: &mut String, config: &Config) {
    if let Some(key) = &config.private_key {
        let digits = Zeroizing::new(hex::encode(key.bytes()));
        text.push_str("private_key=");
        text.push_str(&digits);
        text.push('\n');
    }
    if let Some(port) = config.listen_port {
        let _ = writeln!(text, "listen_port={port}");
    }
    for peer in &config.peers {
        let _ = writeln!(text, "public_key={}", hex::encode(peer.public_key.bytes()));
        if peer.remove {
            text.push_str("remove=true\n");
            continue;
        }
        if let Some(endpoint) = peer.endpoint {
            let _ = writeln!(text, "endpoint={endpoint}");
        }
        if let Some(allowed) = peer.allowed {
            let length = if allowed.is_ipv4() { 32 } else { 128 };
            text.push_str("replace_allowed_ips=true\n");
            let _ = writeln!(text, "allowed_ip={allowed}/{length}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            private_key: Some(PrivateKey::new([3; 32])),
            listen_port: Some(4790),
            peers: vec![
                PeerConfig {
                    public_key: PublicKey::new([4; 32]),
                    remove: false,
                    endpoint: Some("[fd00::1]:4790".parse().unwrap()),
                    allowed: Some("198.18.0.2".parse().unwrap()),
                },
                PeerConfig {
                    public_key: PublicKey::new([5; 32]),
                    remove: true,
                    endpoint: None,
                    allowed: None,
                },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let request = set_request(&config());
        let read = parse_request(request.trim_end());
        assert_eq!(read, Ok(Request::Set(config())));
        let answer = get_answer(&config());
        assert_eq!(parse_answer(answer.trim_end()), Ok(config()));
        assert_eq!(parse_request("get=1"), Ok(Request::Get));
    }

    #[test]
    fn what_is_not_understood_is_refused_without_telling_keys() {
        for line in [
            "fwmark=1",
            "allowed_ip=10.0.0.0/8",
            "listen_port=70000",
            "remove=true",
        ] {
            let error = parse_request(&format!("set=1\n{line}")).unwrap_err();
            assert_eq!(error.line, line);
        }
        let error = parse_request("set=1\nprivate_key=00ff").unwrap_err();
        assert_eq!(error.line, "private_key=…");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z_]{0,12}=?[ -~\n]{0,80}") {
            let _ = parse_request(&text);
            let _ = parse_answer(&text);
        }
    }
}
