//! One question over HTTP: with TLS and authorities of one's own where the address says https.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::words::chain;

/// Bytes of the longest answer: a secret in JSON, with others beside it.
const ANSWER_BYTES_MAX: usize = 2 << 20;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Gets `uri`; the status, and the body.
///
/// # Errors
/// Why there is no answer.
pub async fn get(
    uri: &Uri,
    headers: &[(&'static str, HeaderValue)],
    ca_file: Option<&Path>,
) -> Result<(u16, Bytes), String> {
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path).header(header::HOST, host);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| chain(&error))?;
    let stream = TokioIo::new(dial(uri, ca_file).await?);
    let broken = |error: hyper::Error| format!("the connection broke off: {}", chain(&error));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
        .await
        .map_err(broken)?;
    // Ends with the sender, or with the answer.
    let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| format!("the answer cannot be read: {}", chain(&*error)))?
        .to_bytes();
    drop(connection);
    Ok((status, body))
}

async fn dial(uri: &Uri, ca_file: Option<&Path>) -> Result<Box<dyn Stream>, String> {
    let is_tls = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let tcp = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("{host}:{port} cannot be reached: {error}"))?;
    if !is_tls {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| chain(&error))?;
    // Certificates are read from disk.
    let ca_file = ca_file.map(Path::to_owned);
    let config = tokio::task::spawn_blocking(move || config(ca_file.as_deref())).await;
    let config = Arc::new(config.map_err(|error| chain(&error))??);
    let stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|error| format!("no TLS with {host}:{port}: {}", chain(&error)))?;
    Ok(Box::new(stream))
}

fn config(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| chain(&error))?;
    let roots = roots(ca_file)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Those of the file alone; without one the host's, or a built-in list on a host without any.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let Some(path) = ca_file else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        return Ok(store);
    };
    let shown = path.display();
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|found| found.collect::<Result<Vec<_>, _>>());
    let found = found.map_err(|error| format!("ca-file {shown}: {}", chain(&error)))?;
    let (added, _) = store.add_parsable_certificates(found);
    match added {
        0 => Err(format!(
            "ca-file {shown} has no certificate of an authority"
        )),
        _ => Ok(store),
    }
}
