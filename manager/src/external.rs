//! Has an authority outside of the cluster sign certificates, over HTTPS in the form of cfssl.
//!
//! The manager shows its own certificate, and believes nothing of the answer that it has not checked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use skep_model::cluster::RootCa;
use skep_model::external_ca::ExternalCa;
use skep_model::{Cluster, ClusterSpec, ControlError, Kind, Timestamp};
use skep_pki::Peer;
use skep_pki::external::{authority_client_config, cfssl_request, check_issued};
use skep_reconcile::control::{RootWish, root_wish};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::warn;

/// What one authority may take. A node that joins waits ten seconds in all.
const TIMEOUT: Duration = Duration::from_secs(3);
/// What all may take together.
const TIMEOUT_ALL: Duration = Duration::from_secs(8);
/// Bytes of the longest answer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Characters of an authority's own words that are told.
const WORDS_MAX: usize = 300;
const HTTPS_PORT: u16 = 443;

/// What a certificate is to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub csr_pem: &'a str,
    /// Whose it is.
    pub peer: &'a Peer,
    pub life: Duration,
    pub now: Timestamp,
}

/// The authorities that sign for a cluster now.
#[derive(Debug, Clone)]
pub struct Authorities {
    urls: Vec<String>,
    /// The root that must have signed, PEM.
    issuer: String,
    /// What goes along with each certificate, PEM.
    chain: String,
    /// Roots of certificates that the authorities themselves may have, PEM.
    trusted: String,
    /// What one of them may take, and what all may take together.
    pub patience: (Duration, Duration),
}

/// The root that signs now.
fn issuer(root: &RootCa) -> (&str, bool) {
    match &root.rotation {
        None => (&root.cert, true),
        Some(rotation) => (&rotation.cert, false),
    }
}

impl Authorities {
    /// Those of a cluster; `None` when its managers sign themselves.
    ///
    /// # Errors
    /// The settings cannot be read.
    pub fn of(cluster: &Cluster) -> Result<Option<Self>, ControlError> {
        let (issuer, is_present) = issuer(&cluster.root_ca);
        let all = ExternalCa::read(&cluster.spec.ca_config.external_cas)?;
        let signing = all
            .into_iter()
            .filter(|ca| ca.signs_for(issuer, is_present));
        let urls: Vec<String> = signing.map(|ca| ca.url).collect();
        let rotation = cluster.root_ca.rotation.as_ref();
        Ok((!urls.is_empty()).then(|| Self {
            urls,
            issuer: issuer.to_owned(),
            chain: rotation.map_or_else(String::new, |next| next.cross_signed.clone()),
            trusted: cluster.root_ca.trusted(),
            patience: (TIMEOUT, TIMEOUT_ALL),
        }))
    }

    /// Those that are to sign for another root, which `swarm ca --rotate` names.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn for_root(
        given: &[serde_json::Value],
        cert: &str,
        present: &RootCa,
    ) -> Result<Self, ControlError> {
        let all = ExternalCa::read(given)?.into_iter();
        let signing = all.filter(|ca| ca.signs_for(cert, false));
        Ok(Self {
            urls: signing.map(|ca| ca.url).collect(),
            issuer: cert.to_owned(),
            chain: String::new(),
            trusted: format!("{}\n{cert}", present.trusted()),
            patience: (TIMEOUT, TIMEOUT_ALL),
        })
    }

    /// A certificate by the first of them that signs, with what must go along with it. `member` is what
    /// this manager dials others with.
    ///
    /// # Errors
    /// None of them signed; the text says why for each.
    pub async fn sign(
        &self,
        member: &ClientConfig,
        wanted: Wanted<'_>,
    ) -> Result<String, ControlError> {
        self.each(member, Some(wanted)).await
    }

    /// Whether at least one of them is there and is who it says.
    ///
    /// # Errors
    /// None of them is; the text says why for each.
    pub async fn probe(&self, member: &ClientConfig) -> Result<(), ControlError> {
        self.each(member, None).await.map(drop)
    }

    /// Asks one after the other until one answers; whether it is there, where nothing is wanted.
    async fn each(
        &self,
        member: &ClientConfig,
        wanted: Option<Wanted<'_>>,
    ) -> Result<String, ControlError> {
        let failed = |why: String| ControlError::new(Kind::FailedPrecondition, why);
        let config = authority_client_config(member, &self.trusted)
            .map_err(|error| failed(format!("external CAs cannot be asked: {error}")))?;
        let (each, all) = self.patience;
        let until = tokio::time::Instant::now() + all;
        let mut reasons = Vec::new();
        for url in &self.urls {
            let one = until.min(tokio::time::Instant::now() + each);
            let asked = tokio::time::timeout_at(one, self.one(url, &config, wanted)).await;
            match asked.unwrap_or_else(|_| Err("it did not answer in time".to_owned())) {
                Ok(found) => return Ok(found),
                Err(why) => {
                    warn!(url, why, "an external CA was of no use");
                    reasons.push(format!("{url}: {why}"));
                }
            }
        }
        Err(failed(format!(
            "no external CA of the swarm signs: {}",
            reasons.join("; ")
        )))
    }

    async fn one(
        &self,
        url: &str,
        config: &Arc<ClientConfig>,
        wanted: Option<Wanted<'_>>,
    ) -> Result<String, String> {
        let uri: Uri = url.parse().map_err(|_| "the URL is not one".to_owned())?;
        let stream = dial(&uri, Arc::clone(config)).await?;
        let Some(Wanted {
            csr_pem,
            peer,
            life,
            now,
        }) = wanted
        else {
            return Ok(String::new());
        };
        let body = cfssl_request(csr_pem, peer).to_string();
        let cert = ask(&uri, stream, Bytes::from(body)).await?;
        let checked = check_issued(&cert, csr_pem, &self.issuer, peer, (life, now));
        Ok(checked.map_err(|error| error.to_string())? + &self.chain)
    }
}

/// Refuses a root whose key is with authorities that nobody reaches: the cluster would wait for its
/// certificates, and go on with the old ones until they run out.
///
/// # Errors
/// The settings cannot be read, or none of the authorities is there.
pub async fn before_update(
    root: &RootCa,
    spec: &ClusterSpec,
    member: &ClientConfig,
) -> Result<(), ControlError> {
    let RootWish::Adopt { cert } = root_wish(root, &spec.ca_config)? else {
        return Ok(());
    };
    Authorities::for_root(&spec.ca_config.external_cas, cert, root)?
        .probe(member)
        .await
}

/// cfssl's answer.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    success: bool,
    #[serde(default)]
    result: Option<Signed>,
    #[serde(default)]
    errors: Option<Vec<Refusal>>,
}

#[derive(Deserialize)]
struct Signed {
    #[serde(default)]
    certificate: String,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
}

/// Posts a request and reads the certificate out of the answer.
async fn ask(uri: &Uri, stream: TlsStream<TcpStream>, body: Bytes) -> Result<String, String> {
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let stream = TokioIo::new(stream);
    let broken = |error: hyper::Error| format!("the connection broke off: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
        .await
        .map_err(broken)?;
    // Ends with the sender, or with the answer.
    let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| format!("the answer cannot be read: {error}"))?
        .to_bytes();
    drop(connection);
    read_answer(status.as_u16(), &body)
}

fn read_answer(status: u16, body: &[u8]) -> Result<String, String> {
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return Err(format!("it answered {status}, and not in cfssl's form"));
    };
    let refusals = answer.errors.unwrap_or_default();
    let words: Vec<&str> = refusals.iter().map(|it| it.message.as_str()).collect();
    match answer.result {
        Some(signed) if answer.success && !signed.certificate.is_empty() => Ok(signed.certificate),
        _ => {
            let words: String = words.join(", ").chars().take(WORDS_MAX).collect();
            let words: String = words.replace(char::is_control, " ");
            Err(format!("it refused ({status}): {words}"))
        }
    }
}

async fn dial(uri: &Uri, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, String> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(HTTPS_PORT);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let tcp = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("it cannot be reached: {error}"))?;
    TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|error| format!("no TLS with it: {error}"))
}
