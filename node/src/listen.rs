//! Where the API is served: unix sockets, and TCP with TLS or, as dockerd has it, without, which is
//! never done in silence.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use skep_api::Listener;
use skep_pki::api::{ApiFiles, ApiTlsError, api_server_config};
use tokio::net::{TcpListener, UnixListener};
use tracing::{info, warn};

use crate::options::DaemonArgs;

/// Ports of TCP addresses that name none: without TLS, and with it.
const PORTS: (u16, u16) = (2375, 2376);
/// How long the start waits, as dockerd's does, so that the warnings are seen: where clients need
/// no certificate, and where nobody has said that this is meant.
const PAUSE: Duration = Duration::from_secs(1);
const LONG_PAUSE: Duration = Duration::from_secs(15);
/// What dockerd says of it in `info`.
const RISK: &str = "\n         Access to the remote API is equivalent to root access on the host. Refer\n         to the 'Docker daemon attack surface' section in the documentation for\n         more information: https://docs.docker.com/go/attack-surface/";

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot serve on `{address}`")]
    Listen {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot serve on `{address}`: want unix:///path or tcp://address:port")]
    Address { address: String },
    #[error("invalid TLS configuration: could not read `{}`, which --{flag} names", path.display())]
    File {
        flag: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("invalid TLS configuration")]
    Tls(#[from] ApiTlsError),
}

/// Who is served over TCP.
#[derive(Debug, Clone)]
pub enum ApiTls {
    /// Everybody, in the clear. `meant`: somebody has said so (`--tls=false`).
    Clear { meant: bool },
    /// Everybody, encrypted.
    Encrypted(Arc<ServerConfig>),
    /// Clients with a certificate.
    Verified(Arc<ServerConfig>),
}

impl ApiTls {
    /// What the flags ask for. As with dockerd, `--tls` verifies clients unless `--tlsverify=false`,
    /// and `--tlsverify` with any value is TLS, as is `DOCKER_TLS_VERIFY` in the environment.
    pub fn of(
        args: &DaemonArgs,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ListenError> {
        let by_environment = env("DOCKER_TLS_VERIFY").is_some_and(|value| !value.is_empty());
        if args.tlsverify.is_none() && args.tls != Some(true) && !by_environment {
            return Ok(Self::Clear {
                meant: args.tls == Some(false),
            });
        }
        let directory = match (env("DOCKER_CERT_PATH"), env("HOME")) {
            (Some(path), _) if !path.is_empty() => PathBuf::from(path),
            (_, home) => PathBuf::from(home.unwrap_or_default()).join(".docker"),
        };
        let read = |flag: &'static str, given: &Option<PathBuf>, name: &str| {
            let path = given.clone().unwrap_or_else(|| directory.join(name));
            std::fs::read(&path).map_err(|source| ListenError::File { flag, path, source })
        };
        let verify = args.tlsverify != Some(false);
        let cert = read("tlscert", &args.tlscert, "cert.pem")?;
        let key = read("tlskey", &args.tlskey, "key.pem")?;
        let authority = match verify {
            true => Some(read("tlscacert", &args.tlscacert, "ca.pem")?),
            false => None,
        };
        let config = api_server_config(&ApiFiles {
            cert: &cert,
            key: &key,
            client_authority: authority.as_deref(),
        })?;
        Ok(match verify {
            true => Self::Verified(config),
            false => Self::Encrypted(config),
        })
    }

    /// What `info` warns of while the API is served at these addresses.
    pub fn warnings(&self, hosts: &[String]) -> Vec<String> {
        let addresses = hosts.iter().filter_map(|host| host.strip_prefix("tcp://"));
        let address = |address: &str| self.with_port(address);
        match self {
            Self::Verified(_) => Vec::new(),
            Self::Clear { .. } => addresses
                .map(|host| {
                    let host = address(host);
                    format!("WARNING: API is accessible on http://{host} without encryption.{RISK}")
                })
                .collect(),
            Self::Encrypted(_) => addresses
                .map(|host| {
                    let host = address(host);
                    format!("WARNING: API is accessible on https://{host} without TLS client verification.{RISK}")
                })
                .collect(),
        }
    }

    /// `host:port` of what stands after `tcp://`.
    fn with_port(&self, given: &str) -> String {
        let port = match self {
            Self::Clear { .. } => PORTS.0,
            Self::Encrypted(_) | Self::Verified(_) => PORTS.1,
        };
        let given = given.trim_end_matches('/');
        let (host, given_port) = match given.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
            _ => (given, ""),
        };
        // An address of IPv6 without a port.
        let (host, given_port) = match given.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => (format!("[{ip}]"), ""),
            _ => (host.to_owned(), given_port),
        };
        let host = if host.is_empty() {
            "127.0.0.1".to_owned()
        } else {
            host
        };
        match given_port {
            "" => format!("{host}:{port}"),
            given => format!("{host}:{given}"),
        }
    }

    /// Warns of an address that clients need no certificate for, as dockerd does, and waits so that
    /// it is seen.
    async fn warn_of(&self, address: &str, is_loopback: bool) {
        let meant = match self {
            Self::Verified(_) => return,
            Self::Encrypted(_) => true,
            Self::Clear { meant } => *meant,
        };
        warn!(
            host = address,
            "Binding to IP address without --tlsverify is insecure and gives root access on this machine to everyone who has access to your network."
        );
        warn!(
            host = address,
            "Binding to an IP address, even on localhost, can also give access to scripts run in a browser. Be safe out there!"
        );
        tokio::time::sleep(PAUSE).await;
        if meant || is_loopback {
            return;
        }
        for line in [
            "Binding to an IP address without --tlsverify is deprecated. Startup is intentionally being slowed down to show this message",
            "Please consider generating tls certificates with client validation to prevent exposing unauthenticated root access to your network",
            "You can override this by explicitly specifying '--tls=false'",
        ] {
            warn!(host = address, "{line}");
        }
        tokio::time::sleep(LONG_PAUSE).await;
    }
}

/// Opens every address that the flags name.
pub async fn listeners(args: &DaemonArgs, tls: &ApiTls) -> Result<Vec<Listener>, ListenError> {
    let mut addresses = args.hosts.clone();
    if addresses.is_empty() {
        let socket = args.exec_root.join("skep.sock");
        addresses.push(format!("unix://{}", socket.display()));
    }
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(listen(&address, &args.group, tls).await?);
    }
    Ok(listeners)
}

async fn listen(address: &str, group: &str, tls: &ApiTls) -> Result<Listener, ListenError> {
    let fail = |source| ListenError::Listen {
        address: address.to_owned(),
        source,
    };
    if let Some(path) = address.strip_prefix("unix://") {
        return unix(Path::new(path), group)
            .map(Listener::Unix)
            .map_err(fail);
    }
    let Some(tcp) = address.strip_prefix("tcp://") else {
        return Err(ListenError::Address {
            address: address.to_owned(),
        });
    };
    let tcp = tls.with_port(tcp);
    let is_loopback = tcp
        .to_socket_addrs()
        .is_ok_and(|mut found| found.all(|found| found.ip().is_loopback()));
    tls.warn_of(address, is_loopback).await;
    let listener = TcpListener::bind(&tcp).await.map_err(fail)?;
    match tls {
        ApiTls::Clear { .. } => Ok(Listener::Tcp(listener)),
        ApiTls::Encrypted(config) | ApiTls::Verified(config) => {
            let verifies = matches!(tls, ApiTls::Verified(_));
            info!(address = tcp, verifies, "the API is served over TLS");
            Ok(Listener::Tls(listener, Arc::clone(config)))
        }
    }
}

fn unix(path: &Path, group: &str) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // A socket that a killed daemon left; one that is served holds the data root's lock.
    match std::fs::remove_file(path) {
        Ok(()) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    if let Ok(Some(group)) = nix::unistd::Group::from_name(group) {
        let _ = nix::unistd::chown(path, None, Some(group.gid));
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn of(directory: &Path, words: &[&str]) -> Result<ApiTls, ListenError> {
        let args = DaemonArgs::parse_from(std::iter::once("skep").chain(words.iter().copied()));
        let home = directory.as_os_str().to_owned();
        ApiTls::of(&args, |name| {
            (name == "DOCKER_CERT_PATH").then(|| home.clone())
        })
    }

    #[test]
    fn flags_say_who_is_served() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let clear = |words: &[&str]| match of(path, words).unwrap() {
            ApiTls::Clear { meant } => meant,
            other => panic!("{other:?}"),
        };
        assert!(!clear(&[]));
        assert!(clear(&["--tls=false"]));
        let missing = of(path, &["--tlsverify"]).unwrap_err().to_string();
        assert!(
            missing.contains("cert.pem") && missing.contains("--tlscert"),
            "{missing}"
        );

        let now = skep_model::Timestamp::from_secs(1_900_000_000);
        let root = skep_pki::generate_root(now).unwrap();
        for (name, text) in [
            ("ca", &root.cert_pem),
            ("cert", &root.cert_pem),
            ("key", &root.key_pem),
        ] {
            std::fs::write(path.join(format!("{name}.pem")), text).unwrap();
        }
        for words in [
            &["--tls"][..],
            &["--tlsverify"],
            &["--tls", "--tlsverify=true"],
        ] {
            let found = of(path, words).unwrap();
            assert!(matches!(found, ApiTls::Verified(_)), "{words:?}");
            assert!(
                found
                    .warnings(&["tcp://0.0.0.0:2376".to_owned()])
                    .is_empty()
            );
        }
        let asked = |words: &[&str], value: &str| {
            let args = DaemonArgs::parse_from(std::iter::once("skep").chain(words.iter().copied()));
            ApiTls::of(&args, |name| match name {
                "DOCKER_TLS_VERIFY" => Some(value.into()),
                "DOCKER_CERT_PATH" => Some(path.as_os_str().to_owned()),
                _ => None,
            })
        };
        for words in [&[][..], &["--tls=false"]] {
            let found = asked(words, "1").unwrap();
            assert!(matches!(found, ApiTls::Verified(_)), "{words:?}");
        }
        let open = asked(&["--tlsverify=false"], "1").unwrap();
        assert!(matches!(open, ApiTls::Encrypted(_)));
        let nothing = asked(&[], "").unwrap();
        assert!(matches!(nothing, ApiTls::Clear { meant: false }));
        let open = of(path, &["--tls", "--tlsverify=false"]).unwrap();
        assert!(matches!(open, ApiTls::Encrypted(_)));
        let hosts = ["unix:///x".to_owned(), "tcp://10.0.0.1".to_owned()];
        let warned = open.warnings(&hosts);
        assert_eq!(warned.len(), 1);
        assert!(warned[0].starts_with(
            "WARNING: API is accessible on https://10.0.0.1:2376 without TLS client verification."
        ));
        let other = skep_pki::generate_root(now).unwrap();
        std::fs::write(path.join("key.pem"), other.key_pem).unwrap();
        let mismatch = of(path, &["--tls"]).unwrap_err();
        let text = crate::membership::skep_error_chain(&mismatch);
        assert!(text.contains("do not belong together"), "{text}");
        std::fs::write(path.join("ca.pem"), "nonsense").unwrap();
        std::fs::write(path.join("key.pem"), root.key_pem).unwrap();
        let text = crate::membership::skep_error_chain(&of(path, &["--tls"]).unwrap_err());
        assert!(text.contains("--tlscacert"), "{text}");
    }

    #[test]
    fn addresses_without_a_port_get_dockerds() {
        let clear = ApiTls::Clear { meant: false };
        for (given, wanted) in [
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("0.0.0.0", "0.0.0.0:2375"),
            ("", "127.0.0.1:2375"),
            (":9", "127.0.0.1:9"),
            ("[::1]:9", "[::1]:9"),
            ("::1", "[::1]:2375"),
            ("name/", "name:2375"),
        ] {
            assert_eq!(clear.with_port(given), wanted, "{given}");
        }
    }
}
