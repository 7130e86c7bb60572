//! Channels to managers and other nodes: gRPC over TLS 1.3, with the certificate that is current when a
//! connection is made.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// The name that every manager's certificate carries.
const MANAGER_NAME: &str = "swarm-manager";
/// How long a TCP connection and handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that does not answer a ping for this long is given up.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Dials managers and keeps one channel per address.
pub struct Connector {
    config: Arc<ArcSwap<ClientConfig>>,
    channels: Mutex<HashMap<String, Channel>>,
}

impl Connector {
    /// Dials with whatever `config` holds at the time.
    pub fn new(config: Arc<ArcSwap<ClientConfig>>) -> Self {
        Self {
            config,
            channels: Mutex::new(HashMap::new()),
        }
    }

    /// A channel to `address` (`host:port`). It connects when first used, and again when broken.
    pub fn channel(&self, address: &str) -> Channel {
        let mut channels = self
            .channels
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        channels
            .entry(address.to_owned())
            .or_insert_with(|| open(address.to_owned(), Arc::clone(&self.config)))
            .clone()
    }

    /// A channel to the node that has this id at `address`, whatever its role; not kept.
    pub fn channel_to(&self, node: &str, address: &str) -> Channel {
        open_as(
            address.to_owned(),
            node.to_owned(),
            Arc::clone(&self.config),
        )
    }

    /// What it dials with now.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.load_full()
    }

    /// Drops the channel to `address`, so that the next use dials anew with the present
    /// certificate.
    pub fn forget(&self, address: &str) {
        self.channels
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .remove(address);
    }

    /// Drops every channel: the certificate has changed.
    pub fn forget_all(&self) {
        self.channels
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clear();
    }
}

/// A channel that is not kept: for the questions a node asks before it has a certificate.
pub fn open_once(address: &str, config: Arc<ClientConfig>) -> Channel {
    open(address.to_owned(), Arc::new(ArcSwap::new(config)))
}

fn open(address: String, config: Arc<ArcSwap<ClientConfig>>) -> Channel {
    open_as(address, MANAGER_NAME.to_owned(), config)
}

fn open_as(address: String, name: String, config: Arc<ArcSwap<ClientConfig>>) -> Channel {
    Endpoint::from_static("http://swarm-manager")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            dial(address.clone(), name.clone(), config.load_full())
        }))
}

async fn dial(
    address: String,
    name: String,
    config: Arc<ClientConfig>,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let connect = async {
        let tcp = TcpStream::connect(&address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, tcp).await
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
        Ok(stream) => stream.map(TokioIo::new),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{address} did not answer"),
        )),
    }
}
