//! A manager's listener: accepts TLS connections with the certificate that is current, and says
//! who called.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way at once; more callers wait in the kernel's backlog.
const HANDSHAKES_MAX: usize = 256;
/// Accepted connections that wait for the server to take them.
const BACKLOG: usize = 64;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The verified certificate, DER; `None` when the caller has none yet.
    pub certificate: Option<Arc<[u8]>>,
    pub address: SocketAddr,
}

/// An accepted connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The server hands connections to tasks of their own that outlive it. An end of the
        // stream is what makes them go, so that nobody talks to a manager that has stopped.
        if self.stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connections as they complete their handshakes. Ends when the receiver is dropped; those that
/// were accepted end when `stop` is cancelled. The handshakes run beside the accept loop, so a caller that stalls holds up nobody.
pub fn accept(
    listener: TcpListener,
    config: Arc<ArcSwap<ServerConfig>>,
    stop: CancellationToken,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ready.closed() => return,
            };
            let Ok((tcp, address)) = accepted else {
                // Out of descriptors, or the caller hung up already: take breath, go on.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let (ready, acceptor) = (ready.clone(), TlsAcceptor::from(config.load_full()));
            let stop = stop.clone();
            tokio::spawn(async move {
                let _place = place;
                let _ = tcp.set_nodelay(true);
                let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp));
                if let Ok(Ok(stream)) = handshake.await {
                    let certificate = stream
                        .get_ref()
                        .1
                        .peer_certificates()
                        .and_then(|chain| chain.first())
                        .map(|der| Arc::from(der.as_ref()));
                    let caller = Caller {
                        certificate,
                        address,
                    };
                    let stop = Box::pin(stop.cancelled_owned());
                    let _ = ready
                        .send(Ok(Connection {
                            stream,
                            caller,
                            stop,
                        }))
                        .await;
                }
            });
        }
    });
    receiver
}
