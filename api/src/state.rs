//! What the server serves from, and what a handler gets of one request.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::OnUpgrade;
use serde::de::DeserializeOwned;
use skep_engine::{Engine, Filters, RegistryAuth};
use skep_model::image_source::ImageSource;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::cluster::Cluster;
use crate::loose::Loose;
use crate::pin::Asked;
use crate::query::Query;
use crate::request_body::RequestBody;
use crate::server::Tasks;
use crate::status::{ApiError, Outcome};
use crate::task_exec::TaskExecs;
use crate::version::ApiVersion;

/// Longest JSON body in bytes: a stack with many configs of 1000 KiB each still fits.
const JSON_BODY_BYTES_MAX: usize = 32 << 20;

/// What the daemon says of itself. Empty texts are left out of answers or shown empty.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Version of skep, without `v`.
    pub version: String,
    pub git_commit: String,
    /// RFC 3339.
    pub build_time: String,
    /// Stays the same over restarts of the daemon.
    pub daemon_id: String,
    /// What the node is called instead of by its host's name; empty when by that.
    pub node_name: String,
    /// Whether the daemon logs debug events.
    pub debug: bool,
    /// What everybody who asks for `info` is to know of how the API is served.
    pub warnings: Vec<String>,
    pub http_proxy: String,
    pub https_proxy: String,
    pub no_proxy: String,
    /// Where images of services come from that do not say.
    pub image_source: ImageSource,
}

/// Everything the server needs, shared by all connections.
pub struct ApiState {
    pub engine: Arc<Engine>,
    pub cluster: Arc<dyn Cluster>,
    pub about: About,
    /// What clients have asked registries, for images of services.
    pub asked: Asked,
    /// Execs in tasks on any node.
    pub task_execs: TaskExecs,
}

/// One request, its method and path aside.
pub(crate) struct Call {
    pub state: Arc<ApiState>,
    pub version: ApiVersion,
    pub query: Query,
    pub headers: HeaderMap,
    pub(crate) body: Option<RequestBody>,
    pub(crate) upgrade: Option<OnUpgrade>,
    pub tasks: Tasks,
}

impl Call {
    pub fn engine(&self) -> &Arc<Engine> {
        &self.state.engine
    }

    pub fn cluster(&self) -> &Arc<dyn Cluster> {
        &self.state.cluster
    }

    /// The cluster's state; linearizable unless the client said `?stale=1`.
    pub async fn snapshot(&self) -> Outcome<skep_store::Snapshot> {
        Ok(self.cluster().snapshot(self.query.flag("stale")).await?)
    }

    /// The `filters` parameter.
    pub fn filters(&self) -> Outcome<Filters> {
        Ok(Filters::parse(self.query.text("filters"))?)
    }

    /// The `filters` parameter, with these keys only.
    pub fn filters_of(&self, keys: &[&str]) -> Outcome<Filters> {
        let filters = self.filters()?;
        filters.accept(keys)?;
        Ok(filters)
    }

    /// The JSON body.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Outcome<T> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Err(ApiError::invalid(
                "invalid JSON: got EOF while reading request body",
            ));
        }
        self.decode(&bytes)
    }

    /// The JSON body; the default when there is none, or `null`.
    pub async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Outcome<T> {
        let bytes = self.bytes().await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(T::default());
        }
        Ok(self.decode::<Option<T>>(&bytes)?.unwrap_or_default())
    }

    async fn bytes(&mut self) -> Outcome<Bytes> {
        let Some(body) = self.body.take() else {
            return Ok(Bytes::new());
        };
        let whole = Limited::new(body, JSON_BODY_BYTES_MAX).collect().await;
        whole.map(|body| body.to_bytes()).map_err(|error| {
            match error.downcast_ref::<http_body_util::LengthLimitError>() {
                Some(_) => ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("request body is larger than {JSON_BODY_BYTES_MAX} bytes"),
                ),
                None => ApiError::invalid(format!("cannot read request body: {error}")),
            }
        })
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Outcome<T> {
        let kind = self.header(header::CONTENT_TYPE.as_str());
        let media = kind.split(';').next().unwrap_or_default().trim();
        if !media.is_empty() && !media.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::invalid(format!(
                "unsupported Content-Type header ({kind}): must be 'application/json'"
            )));
        }
        from_json(bytes)
    }

    /// The body as it comes.
    pub fn reader(&mut self) -> Box<dyn AsyncRead + Send + Unpin> {
        match self.body.take() {
            Some(body) => Box::new(StreamReader::new(
                body.into_data_stream().map_err(std::io::Error::other),
            )),
            None => Box::new(tokio::io::empty()),
        }
    }

    /// A header's text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// `X-Registry-Auth` as it came.
    pub fn encoded_auth(&self) -> &str {
        self.header("x-registry-auth")
    }

    /// `X-Registry-Auth` decoded; no credentials when it is not there.
    pub fn registry_auth(&self) -> Outcome<RegistryAuth> {
        decode_auth(self.encoded_auth())
    }
}

/// Reads JSON and says which field is wrong.
pub(crate) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Outcome<T> {
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| match error.to_string() {
            text if text.starts_with("trailing characters") => {
                ApiError::invalid("unexpected content after JSON")
            }
            text => ApiError::invalid(format!("invalid JSON: {text}")),
        })?;
    from_value(value)
}

/// The same for JSON that was read already.
pub(crate) fn from_value<T: DeserializeOwned>(value: serde_json::Value) -> Outcome<T> {
    serde_path_to_error::deserialize(Loose(value)).map_err(|error| {
        let path = error.path().to_string();
        match path.as_str() {
            "." | "?" => ApiError::invalid(format!("invalid JSON: {}", error.inner())),
            path => ApiError::invalid(format!("invalid JSON: {path}: {}", error.inner())),
        }
    })
}

/// base64url, padded or not: Go pads, others do not always.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn decode_auth(text: &str) -> Outcome<RegistryAuth> {
    let wrong = |why: &dyn std::fmt::Display| {
        ApiError::invalid(format!("invalid X-Registry-Auth header: {why}"))
    };
    if text.is_empty() {
        return Ok(RegistryAuth::default());
    }
    let bytes = decode_base64url(text).map_err(|error| wrong(&error))?;
    credentials(&bytes).map_err(|error| wrong(&error))
}

/// A header's bytes.
pub(crate) fn decode_base64url(text: &str) -> Result<Vec<u8>, String> {
    // Some clients use the other alphabet.
    let text = text.replace('+', "-").replace('/', "_");
    BASE64URL.decode(text).map_err(|error| error.to_string())
}

/// Credentials from an `AuthConfig` of the API.
pub(crate) fn credentials(json: &[u8]) -> Result<RegistryAuth, serde_json::Error> {
    let given: serde_json::Value = serde_json::from_slice(json)?;
    let text = |key: &str| {
        given
            .get(key)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut auth = RegistryAuth {
        username: text("username"),
        password: text("password"),
        serveraddress: text("serveraddress"),
        identitytoken: text("identitytoken"),
        registrytoken: text("registrytoken"),
    };
    if auth.username.is_empty() {
        let pair = base64::engine::general_purpose::STANDARD
            .decode(text("auth"))
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some((user, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
            auth.username = user.to_owned();
            auth.password = password.to_owned();
        }
    }
    Ok(auth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::ServiceSpec;

    #[test]
    fn wrong_json_names_the_field() {
        let error = from_json::<ServiceSpec>(br#"{"TaskTemplate":{"ContainerSpec":{"Image":5}}}"#)
            .unwrap_err();
        assert_eq!(error.status().as_u16(), 400);
        assert!(
            error
                .message()
                .starts_with("invalid JSON: TaskTemplate.ContainerSpec.Image: invalid type"),
            "{}",
            error.message()
        );
        let error = from_json::<ServiceSpec>(b"{} x").unwrap_err();
        assert_eq!(error.message(), "unexpected content after JSON");
        assert!(from_json::<ServiceSpec>(b"{").is_err());
    }

    #[test]
    fn credentials_come_in_two_spellings() {
        let encode = |json: &str| base64::engine::general_purpose::URL_SAFE.encode(json);
        let auth = decode_auth(&encode(r#"{"username":"u","password":"p?>"}"#)).unwrap();
        assert_eq!(
            (auth.username.as_str(), auth.password.as_str()),
            ("u", "p?>")
        );
        let auth = decode_auth(&encode(r#"{"auth":"dTpw"}"#)).unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "p"));
        assert_eq!(decode_auth("").unwrap(), RegistryAuth::default());
        assert!(decode_auth("***").is_err());
    }
}
