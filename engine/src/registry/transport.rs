//! HTTP to registries: plain or TLS, through a proxy where the environment says
//! so, with deadlines on everything.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tower::Service;

use super::endpoint::Endpoint;
use crate::error::{EngineError, IoContext as _, Result};

/// How long a connection may take to come about, from the look-up of the name to the end of the
/// TLS handshake, where something depends on it.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The same where the answer would be good to have but is not needed: somebody is waiting.
pub(super) const CONNECT_TIMEOUT_COURTESY: Duration = Duration::from_millis(1500);
/// How long a registry may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle connections kept per registry.
const IDLE_MAX: usize = 8;

/// The body of a request.
pub(super) type Body = BoxBody<Bytes, io::Error>;

/// Clients by host, how certificates are checked and how long a connection may take; made when
/// first needed.
#[derive(Debug)]
pub(super) struct Transport {
    certificates: PathBuf,
    clients: Mutex<HashMap<(String, bool, Duration), HttpClient>>,
}

type HttpClient = Client<Connector, Body>;

impl Transport {
    pub(super) fn new(certificates: PathBuf) -> Self {
        Self {
            certificates,
            clients: Mutex::default(),
        }
    }

    /// Sends one request to a URL; redirects are the caller's affair.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        connect_timeout: Duration,
        request: Request<Body>,
    ) -> Result<Response<Incoming>> {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let client = self.client(endpoint, connect_timeout)?;
        let failed = |why: String| {
            let method = method.as_str();
            let verb = format!("{}{}", &method[..1], method[1..].to_lowercase());
            EngineError::unavailable(format!("{verb} \"{}\": {why}", without_query(&uri)))
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(failed(reason(&error, endpoint, &uri))),
            Err(_) => Err(failed(
                "net/http: request canceled (timeout exceeded)".into(),
            )),
        }
    }

    fn client(&self, endpoint: &Endpoint, connect_timeout: Duration) -> Result<HttpClient> {
        let key = (endpoint.host.clone(), endpoint.verify, connect_timeout);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let directory = self.certificates.join(&endpoint.host);
        let tls = tls_config(endpoint.verify, &directory)?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(connect_timeout));
        http.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(Connector {
                connect_timeout,
                http,
                tls: TlsConnector::from(Arc::new(tls)),
                proxies: Arc::new(Matcher::from_env()),
            });
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// Why there is no answer, in Go's words where it has some: people search for them.
fn reason(error: &(dyn std::error::Error + 'static), endpoint: &Endpoint, uri: &Uri) -> String {
    let whole = chain(error);
    let (host, port) = match endpoint.host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => {
            let plain = uri.scheme_str() == Some("http");
            (endpoint.host.as_str(), if plain { "80" } else { "443" })
        }
    };
    if whole.contains("dns error") {
        return format!("dial tcp: lookup {host}: no such host");
    }
    if !whole.contains("tcp connect error") {
        return whole;
    }
    let refused = std::iter::successors(Some(error), |error| error.source()).find_map(|cause| {
        let code = cause.downcast_ref::<io::Error>()?.raw_os_error()?;
        let text = io::Error::from_raw_os_error(code).to_string();
        let text = text.split(" (os error").next()?.to_lowercase();
        Some(format!("dial tcp {host}:{port}: connect: {text}"))
    });
    refused.unwrap_or(whole)
}

/// An error with all its causes, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// A URL for messages: signed download links carry secrets in their query.
fn without_query(uri: &Uri) -> String {
    let text = uri.to_string();
    text.split('?').next().unwrap_or_default().to_owned()
}

fn tls_config(verify: bool, directory: &Path) -> Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| EngineError::internal("cannot set up TLS").because(error))?;
    let builder = if verify {
        builder.with_root_certificates(roots(directory)?)
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    };
    match client_certificate(directory)? {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| EngineError::invalid("client certificate of registry").because(error)),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// The host's authorities, or a built-in list on a host without any, and those
/// configured for this registry.
fn roots(directory: &Path) -> Result<rustls::RootCertStore> {
    let mut store = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    store.add_parsable_certificates(native.certs);
    if store.is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for path in files(directory, "crt")? {
        let certificates = CertificateDer::pem_file_iter(&path)
            .and_then(|found| found.collect::<Result<Vec<_>, _>>())
            .map_err(|error| {
                EngineError::invalid(format!("cannot read `{}`", path.display())).because(error)
            })?;
        store.add_parsable_certificates(certificates);
    }
    Ok(store)
}

type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// `client.cert` and `client.key` of a registry, if configured.
fn client_certificate(directory: &Path) -> Result<Option<ClientIdentity>> {
    let Some(path) = files(directory, "cert")?.into_iter().next() else {
        return Ok(None);
    };
    let wrong = |error: rustls::pki_types::pem::Error| {
        EngineError::invalid(format!("cannot read `{}`", path.display())).because(error)
    };
    let chain = CertificateDer::pem_file_iter(&path)
        .and_then(|found| found.collect::<Result<Vec<_>, _>>())
        .map_err(wrong)?;
    let key = PrivateKeyDer::from_pem_file(path.with_extension("key")).map_err(wrong)?;
    Ok(Some((chain, key)))
}

fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).during(|| format!("cannot read `{}`", directory.display()));
        }
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == extension))
        .collect();
    found.sort();
    Ok(found)
}

/// For registries that were configured as insecure: takes any certificate.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Makes connections: directly or through a proxy, then TLS if the URL says so.
#[derive(Clone)]
struct Connector {
    connect_timeout: Duration,
    http: HttpConnector,
    tls: TlsConnector,
    proxies: Arc<Matcher>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let timeout = connector.connect_timeout;
            tokio::time::timeout(timeout, connector.connect(uri))
                .await
                .map_err(|_| format!("no connection within {timeout:?}"))?
        })
    }
}

impl Connector {
    async fn connect(mut self, uri: Uri) -> std::result::Result<TokioIo<Stream>, Failure> {
        let plain = match self.proxies.intercept(&uri) {
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.http);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                tunnel.call(uri.clone()).await?
            }
            None => self.http.call(uri.clone()).await?,
        }
        .into_inner();
        if uri.scheme_str() != Some("https") {
            return Ok(TokioIo::new(Stream(Box::pin(plain))));
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())?;
        let secured = self.tls.connect(name, plain).await?;
        Ok(TokioIo::new(Stream(Box::pin(secured))))
    }
}

trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// A connection of either sort.
struct Stream(Pin<Box<dyn Io>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(context)
    }
}
