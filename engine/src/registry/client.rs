//! The registry protocol: manifests, blobs, uploads.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use serde::Deserialize;

use super::authorize::NO_CREDENTIALS;
use super::endpoint::{Endpoint, endpoints};
use super::transport::{Body, CONNECT_TIMEOUT, CONNECT_TIMEOUT_COURTESY, Transport};
use crate::config::RegistryConfig;
use crate::error::{EngineError, Kind, Result};
use crate::image::digest::Digest;
use crate::image::manifest::{ACCEPTED, DOCUMENT_BYTES_MAX};
use crate::image::reference::Reference;
use crate::options::RegistryAuth;

/// Redirects followed for one request.
const REDIRECTS_MAX: usize = 5;
/// How long a body may be silent.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer of a token server or error body that is read.
pub(super) const SMALL_BODY_MAX: u64 = 1 << 20;

/// All registries, and what was learnt about them.
#[derive(Debug)]
pub(crate) struct Registries {
    config: RegistryConfig,
    version: String,
    transport: Transport,
    /// The endpoint that answered last, by domain.
    working: Mutex<HashMap<String, Endpoint>>,
}

/// One repository, for the length of one pull or push.
#[derive(Debug)]
pub(crate) struct Repository<'a> {
    registries: &'a Registries,
    reference: &'a Reference,
    pub(super) auth: &'a RegistryAuth,
    pub(super) scope: String,
    connect_timeout: Duration,
    /// `Authorization` by endpoint base.
    tokens: Mutex<HashMap<String, String>>,
}

/// A manifest or index as a registry gave it.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
}

/// The error body of the registry protocol.
#[derive(Debug, Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
}

#[derive(Debug, Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Registries {
    pub(crate) fn new(config: RegistryConfig, version: &str) -> Self {
        Self {
            transport: Transport::new(config.certificates.clone()),
            config,
            version: version.to_owned(),
            working: Mutex::default(),
        }
    }

    /// A repository to read from, or to write to as well.
    pub(crate) fn repository<'a>(
        &'a self,
        reference: &'a Reference,
        auth: &'a RegistryAuth,
        write: bool,
    ) -> Repository<'a> {
        let actions = if write { "pull,push" } else { "pull" };
        Repository {
            registries: self,
            reference,
            auth,
            scope: format!("repository:{}:{actions}", reference.path()),
            connect_timeout: CONNECT_TIMEOUT,
            tokens: Mutex::default(),
        }
    }

    /// Gets a file from a URL, redirects followed. The answer may be a failure's.
    pub(crate) async fn download(&self, url: &str) -> Result<Response<Incoming>> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let host = url
                .split_once("://")
                .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
                .and_then(|(_, rest)| rest.split(['/', '?']).next())
                .filter(|host| !host.is_empty())
                .ok_or_else(|| EngineError::invalid(format!("invalid URL `{url}`")))?
                .to_owned();
            let endpoint = Endpoint {
                base: String::new(),
                host,
                verify: true,
                mirror: false,
            };
            let request = Request::get(&url)
                .header(USER_AGENT, format!("skep/{}", self.version))
                .body(empty_body())
                .map_err(|error| {
                    EngineError::invalid(format!("invalid URL `{url}`")).because(error)
                })?;
            let response = self
                .transport
                .send(&endpoint, CONNECT_TIMEOUT, request)
                .await?;
            let target = response
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok());
            match target {
                Some(target) if response.status().is_redirection() => url = resolve(&url, target),
                _ => return Ok(response),
            }
        }
        Err(EngineError::unavailable(format!(
            "`{url}` redirects too often"
        )))
    }

    fn endpoints(&self, domain: &str) -> Vec<Endpoint> {
        let mut all = endpoints(domain, &self.config);
        let working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = working.get(domain)
            && let Some(at) = all.iter().position(|endpoint| endpoint == known)
            && !all[..at].iter().any(|endpoint| endpoint.mirror)
        {
            all[..=at].rotate_right(1);
        }
        all
    }

    fn works(&self, domain: &str, endpoint: &Endpoint) {
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        working.insert(domain.to_owned(), endpoint.clone());
    }

    /// Tries credentials at a registry (`docker login`).
    pub(crate) async fn login(&self, auth: &RegistryAuth) -> Result<String> {
        let domain = match auth
            .serveraddress
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .split('/')
            .next()
        {
            None | Some("" | "index.docker.io") => "docker.io",
            Some(host) => host,
        };
        // Only the domain matters; the repository is never named to the registry.
        let reference: Reference = format!("{domain}/login/login").parse()?;
        let mut repository = self.repository(&reference, auth, false);
        repository.scope = String::new();
        let answer = repository
            .request(Method::GET, "/v2/", HeaderMap::new(), None)
            .await
            .map_err(|error| match error.kind() {
                // dockerd's status for it; clients take 503 for their own daemon's.
                Kind::Unavailable => EngineError::internal(error.to_string()),
                _ => error,
            })?;
        let status = answer.response.status();
        let kind = match status {
            StatusCode::OK => return Ok("Login Succeeded".into()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Unauthorized,
            _ => Kind::Internal,
        };
        Err(EngineError::new(
            kind,
            format!(
                "login attempt to {}/v2/ failed with status: {status}",
                answer.endpoint.base
            ),
        ))
    }
}

/// An answer and who gave it.
pub(super) struct Answer {
    pub(super) endpoint: Endpoint,
    pub(super) response: Response<Incoming>,
}

impl Repository<'_> {
    /// Gives up early on a registry that cannot be reached.
    pub(super) fn into_courtesy(self) -> Self {
        Self {
            connect_timeout: CONNECT_TIMEOUT_COURTESY,
            ..self
        }
    }

    /// Layers fetched at the same time.
    pub(super) fn downloads_max(&self) -> usize {
        self.registries.config.downloads_max.max(1)
    }

    pub(super) fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.reference.path())
    }

    /// Fetches a manifest by tag or digest, and checks a digest.
    pub(crate) async fn manifest(&self, which: &str) -> Result<Fetched> {
        let mut headers = HeaderMap::new();
        for accepted in ACCEPTED {
            headers.append(ACCEPT, HeaderValue::from_static(accepted));
        }
        let path = self.path(&format!("manifests/{which}"));
        let answer = self.request(Method::GET, &path, headers, None).await?;
        if !answer.response.status().is_success() {
            return Err(self.refused(answer, &format!(":{which}")).await);
        }
        let media_type = answer
            .response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let bytes = collect(answer.response, DOCUMENT_BYTES_MAX).await?;
        let digest = Digest::of(&bytes);
        if let Ok(expected) = which.parse::<Digest>()
            && expected != digest
        {
            return Err(EngineError::invalid(format!(
                "manifest verification failed for digest {expected}"
            )));
        }
        Ok(Fetched {
            bytes,
            media_type,
            digest,
        })
    }

    /// Begins to fetch a blob at an offset. Says whether the offset was heeded.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<(bool, Response<Incoming>)> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let path = self.path(&format!("blobs/{digest}"));
        let answer = self.request(Method::GET, &path, headers, None).await?;
        match answer.response.status() {
            StatusCode::PARTIAL_CONTENT => Ok((true, answer.response)),
            StatusCode::OK => Ok((offset == 0, answer.response)),
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => {
                // What we have is as long as the blob or longer: begin anew.
                Box::pin(self.blob(digest, 0))
                    .await
                    .map(|(_, response)| (false, response))
            }
            _ => Err(self.refused(answer, "").await),
        }
    }

    /// Sends a request to the first endpoint that can be reached, gets the
    /// credentials it wants, and follows its redirects.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Answer> {
        let domain = self.reference.domain();
        let endpoints = self.registries.endpoints(domain);
        let mut unreachable = None;
        for (number, endpoint) in endpoints.iter().enumerate() {
            let last = number + 1 == endpoints.len();
            let url = format!("{}{path}", endpoint.base);
            let tried = self
                .request_at(endpoint, method.clone(), &url, &headers, body.clone())
                .await;
            match tried {
                // A mirror that does not have it is not the last word.
                Ok(response) if endpoint.mirror && !response.status().is_success() && !last => {}
                Ok(response) => {
                    self.registries.works(domain, endpoint);
                    return Ok(Answer {
                        endpoint: endpoint.clone(),
                        response,
                    });
                }
                Err(error) if error.kind() == Kind::Unavailable => {
                    unreachable = Some(unreached(error, endpoint));
                }
                Err(error) if method == Method::GET && error.to_string() == NO_CREDENTIALS => {
                    // dockerd asks for a tag's digest first.
                    let is_tag = path.contains("/manifests/") && !path.contains(':');
                    let verb = if is_tag { "Head" } else { "Get" };
                    return Err(error.context(format!("{verb} \"{url}\"")));
                }
                Err(error) => return Err(error),
            }
        }
        Err(unreachable.unwrap_or_else(|| EngineError::unavailable("no endpoint to ask")))
    }

    /// The same at one URL of one endpoint.
    pub(super) async fn request_at(
        &self,
        endpoint: &Endpoint,
        method: Method,
        url: &str,
        headers: &HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Response<Incoming>> {
        let authorization = self.token(endpoint);
        let full = |authorization: Option<String>| {
            let body = body.clone().map(full_body);
            self.follow(endpoint, method.clone(), url, headers, authorization, body)
        };
        let response = full(authorization).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(authorization) = self.authorize(endpoint, &response).await? else {
            return Ok(response);
        };
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(endpoint.base.clone(), authorization.clone());
        full(Some(authorization)).await
    }

    pub(super) fn token(&self, endpoint: &Endpoint) -> Option<String> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(&endpoint.base).cloned()
    }

    /// Sends a request, following redirects of a read. Credentials do not travel
    /// to another host.
    pub(super) async fn follow(
        &self,
        endpoint: &Endpoint,
        method: Method,
        url: &str,
        headers: &HeaderMap,
        authorization: Option<String>,
        body: Option<Body>,
    ) -> Result<Response<Incoming>> {
        let mut url = url.to_owned();
        let mut at = endpoint.clone();
        let mut body = body;
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::builder().method(method.clone()).uri(&url);
            let own = at.host == endpoint.host;
            if let Some(all) = request.headers_mut() {
                all.extend(headers.clone());
                if let Ok(agent) =
                    HeaderValue::from_str(&format!("skep/{}", self.registries.version))
                {
                    all.insert(USER_AGENT, agent);
                }
                if own
                    && let Some(value) = &authorization
                    && let Ok(mut value) = HeaderValue::from_str(value)
                {
                    value.set_sensitive(true);
                    all.insert(AUTHORIZATION, value);
                }
            }
            let request = request
                .body(body.take().unwrap_or_else(empty_body))
                .map_err(|error| EngineError::invalid("invalid registry address").because(error))?;
            let response = self
                .registries
                .transport
                .send(&at, self.connect_timeout, request)
                .await?;
            let read = method == Method::GET || method == Method::HEAD;
            if !read || !response.status().is_redirection() {
                return Ok(response);
            }
            let target = response
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok())
                .ok_or_else(|| EngineError::unavailable("registry redirects to nowhere"))?;
            url = resolve(&url, target);
            let host = url
                .split_once("://")
                .and_then(|(_, rest)| rest.split('/').next())
                .unwrap_or_default()
                .to_owned();
            if host != at.host {
                at = Endpoint {
                    base: String::new(),
                    verify: url.starts_with("https://") && endpoint.verify,
                    host,
                    mirror: false,
                };
            }
        }
        Err(EngineError::unavailable("registry redirects too often"))
    }

    /// dockerd's text for what a registry does not give.
    pub(super) async fn refused(&self, answer: Answer, suffix: &str) -> EngineError {
        let status = answer.response.status();
        let body = collect(answer.response, SMALL_BODY_MAX)
            .await
            .unwrap_or_default();
        let body: ErrorBody = serde_json::from_slice(&body).unwrap_or_default();
        let name = self.reference.familiar_name();
        let (code, said) = body.errors.first().map_or_else(
            || (String::new(), status.to_string()),
            |first| {
                let code = first.code.to_lowercase().replace('_', " ");
                let said = match first.message.as_str() {
                    "" => code.clone(),
                    message => format!("{code}: {message}"),
                };
                (first.code.clone(), said)
            },
        );
        match (status, code.as_str()) {
            (_, "MANIFEST_UNKNOWN" | "NOT_FOUND") | (StatusCode::NOT_FOUND, "")
                if !suffix.is_empty() =>
            {
                let separator = if suffix.starts_with(":sha256:") {
                    "@"
                } else {
                    ":"
                };
                let which = suffix.trim_start_matches(':');
                EngineError::not_found(format!(
                    "manifest for {name}{separator}{which} not found: {said}"
                ))
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)
            | (_, "DENIED" | "NAME_UNKNOWN") => EngineError::not_found(format!(
                "pull access denied for {name}, repository does not exist or may require 'docker login': {said}"
            )),
            (StatusCode::TOO_MANY_REQUESTS, _) => {
                EngineError::unavailable(format!("toomanyrequests: {said}"))
            }
            (StatusCode::NOT_FOUND, _) => EngineError::not_found(said),
            (status, _) if status.is_server_error() => {
                EngineError::unavailable(format!("received unexpected HTTP status: {status}"))
            }
            (status, _) => EngineError::internal(format!(
                "registry {} answers {status}: {said}",
                answer.endpoint.host
            )),
        }
    }
}

/// A registry that cannot be connected to, as dockerd tells of it: it asks first whether one is there.
fn unreached(error: EngineError, endpoint: &Endpoint) -> EngineError {
    let text = error.to_string();
    match text.find("\": dial tcp") {
        Some(at) if text.contains(&endpoint.base) => {
            EngineError::unavailable(format!("Get \"{}/v2/{}", endpoint.base, &text[at..]))
        }
        _ => error,
    }
}

fn empty_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub(super) fn full_body(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

/// An absolute or relative redirect target.
pub(super) fn resolve(url: &str, target: &str) -> String {
    if target.contains("://") {
        return target.to_owned();
    }
    let authority_end = url
        .find("://")
        .and_then(|at| url[at + 3..].find('/').map(|slash| at + 3 + slash))
        .unwrap_or(url.len());
    if target.starts_with('/') {
        return format!("{}{target}", &url[..authority_end]);
    }
    let directory = url.rfind('/').map_or(url, |slash| &url[..slash]);
    format!("{directory}/{target}")
}

/// The whole body of an answer.
pub(super) async fn collect(response: Response<Incoming>, bytes_max: u64) -> Result<Vec<u8>> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(chunk) = next_chunk(&mut body).await? {
        if (bytes.len() + chunk.len()) as u64 > bytes_max {
            return Err(EngineError::invalid(format!(
                "registry answers with more than {bytes_max} bytes"
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The next piece of a body; `None` at the end.
pub(super) async fn next_chunk(body: &mut Incoming) -> Result<Option<Bytes>> {
    loop {
        let broken = |error: &dyn std::fmt::Display| {
            EngineError::unavailable(format!("registry connection broke: {error}"))
        };
        match tokio::time::timeout(IDLE_TIMEOUT, body.frame()).await {
            Err(_) => {
                return Err(broken(&io::Error::from(io::ErrorKind::TimedOut)));
            }
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(broken(&error)),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
