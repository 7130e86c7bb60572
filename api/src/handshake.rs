//! From an accepted connection to a stream of requests: TLS, where the listener wants it. A client
//! that fails holds up no other, and the log says why it was not let in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::server::Stream;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that has connected.
pub(crate) enum Accepted {
    Ready(Box<dyn Stream>),
    Encrypted(TcpStream, SocketAddr, Arc<ServerConfig>),
}

/// Interactive sessions send single keys.
pub(crate) fn quick(stream: TcpStream) -> TcpStream {
    let _ = stream.set_nodelay(true);
    stream
}

/// What requests come from; `None` when the client may not send any, which the log tells.
pub(crate) async fn opened(
    accepted: Accepted,
    stop: &CancellationToken,
) -> Option<Box<dyn Stream>> {
    let (stream, from, config) = match accepted {
        Accepted::Ready(stream) => return Some(stream),
        Accepted::Encrypted(stream, from, config) => (stream, from, config),
    };
    let acceptor = TlsAcceptor::from(config);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let outcome = tokio::select! {
        outcome = handshake => outcome,
        () = stop.cancelled() => return None,
    };
    match outcome {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            let reason = refusal(&error);
            warn!(client = %from, reason, "TLS handshake failed: the client was not let in");
            None
        }
        Err(_) => {
            warn!(client = %from, "TLS handshake took too long: the client was not let in");
            None
        }
    }
}

/// Why a handshake failed, for the daemon's log.
fn refusal(error: &io::Error) -> String {
    let cause = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    let Some(cause) = cause else {
        return error.to_string();
    };
    match cause {
        Error::NoCertificatesPresented => "it showed no client certificate".to_owned(),
        Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its client certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its client certificate is not valid yet".to_owned()
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its client certificate is of another authority than --tlscacert".to_owned()
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "its certificate is not one for clients (extended key usage clientAuth)".to_owned()
            }
            other => format!("its client certificate is not valid: {other}"),
        },
        Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        // How a client says so differs from one to another.
        Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::DecryptError,
        ) => "it does not trust the certificate of --tlscert".to_owned(),
        other => other.to_string(),
    }
}
