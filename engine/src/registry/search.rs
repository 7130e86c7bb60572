//! Searching an index, `docker search`: the first version of the registry protocol, which Docker Hub
//! still answers for this one purpose.

use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::auth::percent;
use super::client::{Registries, SMALL_BODY_MAX, collect};
use super::endpoint::Endpoint;
use crate::error::{EngineError, Result};
use crate::image::reference::Reference;
use crate::options::RegistryAuth;

/// Where Docker Hub is searched.
const HUB: &str = "index.docker.io";

/// One repository that an index knows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    pub star_count: i64,
    pub is_official: bool,
    pub name: String,
    pub is_automated: bool,
    pub description: String,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    results: Vec<SearchResult>,
}

impl Registries {
    /// Repositories whose names or descriptions have `term` in them. A term that begins with a
    /// registry's name is looked for there.
    pub(crate) async fn search(
        &self,
        term: &str,
        limit: u32,
        auth: &RegistryAuth,
    ) -> Result<Vec<SearchResult>> {
        if term.contains("://") {
            return Err(EngineError::invalid(format!(
                "invalid repository name: repository name ({term}) should not have a scheme"
            )));
        }
        let (domain, wanted) = match term.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest)
            }
            _ => (HUB, term.strip_prefix("library/").unwrap_or(term)),
        };
        let reference: Reference = format!("{domain}/search/search").parse()?;
        let mut repository = self.repository(&reference, auth, false);
        repository.scope = String::new();
        let path = format!("/v1/search?q={}&n={limit}", percent(wanted));
        let hub = Endpoint {
            base: format!("https://{HUB}"),
            host: HUB.into(),
            verify: true,
            mirror: false,
        };
        let response = if domain == HUB {
            let url = format!("{}{path}", hub.base);
            repository
                .request_at(&hub, Method::GET, &url, &HeaderMap::new(), None)
                .await?
        } else {
            repository
                .request(Method::GET, &path, HeaderMap::new(), None)
                .await?
                .response
        };
        let status = response.status();
        if status != StatusCode::OK {
            return Err(EngineError::unavailable(format!(
                "Unexpected status code {}",
                status.as_u16()
            )));
        }
        let bytes = collect(response, SMALL_BODY_MAX).await?;
        let page: Page = serde_json::from_slice(&bytes).map_err(|error| {
            EngineError::unavailable(format!("index {domain} answers nonsense")).because(error)
        })?;
        Ok(page.results)
    }
}
