//! Satisfying a registry that asks who we are.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;

use super::auth::{self, Challenge, TokenAnswer};
use super::client::{Repository, SMALL_BODY_MAX, collect, full_body};
use super::endpoint::Endpoint;
use crate::error::{EngineError, Result};
use crate::options::RegistryAuth;

/// What is said where a registry wants a name and password, and none are known.
pub(super) const NO_CREDENTIALS: &str = "no basic auth credentials";

impl Repository<'_> {
    /// The `Authorization` that answers a challenge; `None` if we have nothing
    /// that would satisfy it.
    pub(super) async fn authorize(
        &self,
        endpoint: &Endpoint,
        refused: &Response<Incoming>,
    ) -> Result<Option<String>> {
        // A mirror is not the registry the credentials are for.
        let nobody = RegistryAuth::default();
        let auth = if endpoint.mirror { &nobody } else { self.auth };
        if !auth.registrytoken.is_empty() {
            return Ok(Some(format!("Bearer {}", auth.registrytoken)));
        }
        let challenge = refused
            .headers()
            .get_all(http::header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .max_by_key(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match auth::basic(auth) {
                None if !endpoint.mirror => Err(EngineError::unauthorized(NO_CREDENTIALS)),
                given => Ok(given),
            },
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let scope = match (&self.scope[..], scope) {
                    ("", scope) => scope.unwrap_or_default(),
                    (own, _) => own.to_owned(),
                };
                let token = self
                    .fetch_token(endpoint, auth, &realm, &service, &scope)
                    .await?;
                Ok(Some(format!("Bearer {token}")))
            }
        }
    }

    async fn fetch_token(
        &self,
        endpoint: &Endpoint,
        auth: &RegistryAuth,
        realm: &str,
        service: &str,
        scope: &str,
    ) -> Result<String> {
        let host = realm
            .split_once("://")
            .and_then(|(_, rest)| rest.split(['/', '?']).next())
            .unwrap_or_default();
        let at = Endpoint {
            base: String::new(),
            host: host.to_owned(),
            verify: endpoint.verify,
            mirror: false,
        };
        if realm.starts_with("http://") && endpoint.base.starts_with("https://") && endpoint.verify
        {
            return Err(EngineError::unavailable(format!(
                "registry {} wants credentials sent in the clear",
                endpoint.host
            )));
        }
        let response = if auth.identitytoken.is_empty() {
            let url = auth::token_url(realm, service, scope, &auth.username);
            let authorization = auth::basic(auth);
            self.follow(
                &at,
                Method::GET,
                &url,
                &HeaderMap::new(),
                authorization,
                None,
            )
            .await?
        } else {
            let form = format!(
                "grant_type=refresh_token&client_id=skep&service={}&scope={}&refresh_token={}",
                auth::percent(service),
                auth::percent(scope),
                auth::percent(&auth.identitytoken)
            );
            let mut headers = HeaderMap::new();
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
            self.follow(
                &at,
                Method::POST,
                realm,
                &headers,
                None,
                Some(full_body(form.into())),
            )
            .await?
        };
        let status = response.status();
        let bytes = collect(response, SMALL_BODY_MAX).await?;
        if status.is_success() {
            let answer: TokenAnswer = serde_json::from_slice(&bytes).map_err(|error| {
                EngineError::unavailable(format!("token server {host} answers nonsense"))
                    .because(error)
            })?;
            return answer.into_token().ok_or_else(|| {
                EngineError::unavailable(format!("token server {host} gives no token"))
            });
        }
        // What OAuth says of credentials that are no longer good.
        let is_stale = status == StatusCode::BAD_REQUEST
            && String::from_utf8_lossy(&bytes).contains("invalid_grant");
        if is_stale || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let why = match (auth.username.is_empty(), is_stale) {
                (_, true) => "the credentials are no longer good",
                (true, false) => "authentication required",
                (false, false) => "incorrect username or password",
            };
            return Err(EngineError::unauthorized(format!(
                "Get \"{realm}\": unauthorized: {why}"
            )));
        }
        Err(EngineError::unavailable(format!(
            "token server {host} answers {status}"
        )))
    }
}
