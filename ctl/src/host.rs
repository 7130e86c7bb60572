//! Where the daemon is, and the bytes to and from it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::{ConfigFile, Context};
use crate::tls::{self, Tls};

/// The daemon's own socket, tried first.
pub const SKEP_SOCKET: &str = "/run/skep/skep.sock";
/// Where dockerd listens.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the far end of `ssh://` runs: whichever client is there.
const DIAL: &str = "if command -v skep >/dev/null 2>&1; then exec skep system dial-stdio; else exec docker system dial-stdio; fi";

/// Both directions of a connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
    Tls {
        address: String,
        server: String,
    },
    Ssh {
        user_host: String,
        port: Option<String>,
    },
}

/// A daemon's address.
#[derive(Debug, Clone)]
pub struct Host {
    /// As the user wrote it.
    pub name: String,
    address: Address,
    tls: Option<Tls>,
}

/// What the global flags say about the daemon.
#[derive(Debug, Clone, Default)]
pub struct HostFlags {
    pub host: Option<String>,
    pub context: Option<String>,
    pub tls: bool,
    pub tls_verify: bool,
    pub tls_ca: Option<String>,
    pub tls_cert: Option<String>,
    pub tls_key: Option<String>,
}

impl Host {
    /// Flags, then `SKEP_HOST`, `DOCKER_HOST`, the context, skep's socket, docker's socket.
    pub fn find(
        flags: &HostFlags,
        env: &BTreeMap<String, String>,
        config: &ConfigFile,
    ) -> Result<Self, String> {
        let set = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
        let context = flags.context.clone().or_else(|| set("DOCKER_CONTEXT"));
        let name = if let Some(host) = &flags.host {
            host.clone()
        } else if let Some(context) = flags.context.as_ref().filter(|name| *name != "default") {
            return Self::of_context(config.context(context)?);
        } else if let Some(host) = set("SKEP_HOST").or_else(|| set("DOCKER_HOST")) {
            host
        } else {
            let current = context.unwrap_or_else(|| config.text("currentContext").to_owned());
            match current.as_str() {
                "" | "default" if Path::new(SKEP_SOCKET).exists() => {
                    format!("unix://{SKEP_SOCKET}")
                }
                "" | "default" => format!("unix://{DOCKER_SOCKET}"),
                current => return Self::of_context(config.context(current)?),
            }
        };
        let verify = flags.tls_verify || set("DOCKER_TLS_VERIFY").is_some();
        let tls = (flags.tls || verify || set("DOCKER_TLS").is_some()).then(|| {
            let directory =
                set("DOCKER_CERT_PATH").map_or_else(|| config.directory.clone(), PathBuf::from);
            let file = |given: &Option<String>, name: &str| {
                given
                    .as_ref()
                    .map_or_else(|| directory.join(name), PathBuf::from)
            };
            Tls {
                ca: file(&flags.tls_ca, "ca.pem"),
                cert: file(&flags.tls_cert, "cert.pem"),
                key: file(&flags.tls_key, "key.pem"),
                verify,
            }
        });
        Self::parse(&name, tls)
    }

    /// A context brings its own certificates; flags and environment say nothing about them.
    fn of_context(context: Context) -> Result<Self, String> {
        let tls = context.tls.map(|directory| Tls {
            ca: directory.join("ca.pem"),
            cert: directory.join("cert.pem"),
            key: directory.join("key.pem"),
            verify: !context.skips_verification,
        });
        Self::parse(&context.host, tls)
    }

    fn parse(name: &str, tls: Option<Tls>) -> Result<Self, String> {
        let wrong = || format!("unable to parse docker host `{name}`");
        let (scheme, rest) = match name.split_once("://") {
            Some(parts) => parts,
            None if name.starts_with('/') => ("unix", name),
            None if name.contains(':') => ("tcp", name),
            None => return Err(wrong()),
        };
        let address = match scheme {
            "unix" if !rest.is_empty() => Address::Unix(PathBuf::from(rest)),
            "tcp" | "http" | "https" => {
                let rest = rest.split('/').next().unwrap_or(rest);
                let secure = tls.is_some() || scheme == "https";
                let port = if secure { 2376 } else { 2375 };
                let (server, address) = match rest.rsplit_once(':') {
                    Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                        (host, rest.to_owned())
                    }
                    _ => (rest, format!("{rest}:{port}")),
                };
                if server.is_empty() {
                    return Err(wrong());
                }
                let server = server.trim_matches(['[', ']']).to_owned();
                if secure {
                    Address::Tls { address, server }
                } else {
                    Address::Tcp(address)
                }
            }
            "ssh" if !rest.is_empty() && !rest.starts_with('-') => {
                let rest = rest.split('/').next().unwrap_or(rest);
                let (user_host, port) = match rest.rsplit_once(':') {
                    Some((host, port)) => (host, Some(port.to_owned())),
                    None => (rest, None),
                };
                Address::Ssh {
                    user_host: user_host.to_owned(),
                    port,
                }
            }
            _ => return Err(wrong()),
        };
        Ok(Self {
            name: name.to_owned(),
            address,
            tls,
        })
    }

    /// Opens a connection.
    pub async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.open())
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")))
    }

    async fn open(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp(address) => Box::new(tcp(address).await?),
            Address::Tls { address, server } => {
                let config = tls::client_config(self.tls.as_ref())?;
                let server = ServerName::try_from(server.clone()).map_err(io::Error::other)?;
                let stream = tcp(address).await?;
                Box::new(
                    tokio_rustls::TlsConnector::from(Arc::new(config))
                        .connect(server, stream)
                        .await?,
                )
            }
            Address::Ssh { user_host, port } => {
                let mut command = tokio::process::Command::new("ssh");
                command.args(["-T", "-o", "ConnectTimeout=30"]);
                if let Some(port) = port {
                    command.args(["-p", port]);
                }
                let mut child = command
                    .args(["--", user_host, DIAL])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .kill_on_drop(false)
                    .spawn()?;
                let (input, output) = (child.stdin.take(), child.stdout.take());
                let (Some(input), Some(output)) = (input, output) else {
                    return Err(io::Error::other("ssh has no standard streams"));
                };
                Box::new(tokio::io::join(output, input))
            }
        })
    }
}

async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        let of = |name: &str| Host::parse(name, None).map(|host| host.address);
        assert_eq!(
            of("unix:///run/x.sock"),
            Ok(Address::Unix("/run/x.sock".into()))
        );
        assert_eq!(
            of("tcp://10.0.0.1:4000"),
            Ok(Address::Tcp("10.0.0.1:4000".into()))
        );
        assert_eq!(of("tcp://name"), Ok(Address::Tcp("name:2375".into())));
        assert_eq!(
            of("10.0.0.1:2375"),
            Ok(Address::Tcp("10.0.0.1:2375".into()))
        );
        assert_eq!(
            of("ssh://me@host:22"),
            Ok(Address::Ssh {
                user_host: "me@host".into(),
                port: Some("22".into())
            })
        );
        assert!(of("nonsense").is_err());
        assert!(of("ssh://-oProxyCommand=x").is_err());
    }

    #[test]
    fn flags_come_before_the_environment() {
        let config = ConfigFile::default();
        let env = BTreeMap::from([
            ("SKEP_HOST".to_owned(), "tcp://a:1".to_owned()),
            ("DOCKER_HOST".to_owned(), "tcp://b:1".to_owned()),
        ]);
        let flags = HostFlags {
            host: Some("tcp://c:1".into()),
            ..HostFlags::default()
        };
        assert_eq!(Host::find(&flags, &env, &config).unwrap().name, "tcp://c:1");
        assert_eq!(
            Host::find(&HostFlags::default(), &env, &config)
                .unwrap()
                .name,
            "tcp://a:1"
        );
    }
}
