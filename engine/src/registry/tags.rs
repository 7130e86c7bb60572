//! The tags that a repository has at its registry.

use http::header::LINK;
use http::{HeaderMap, Method};

use super::client::{Registries, SMALL_BODY_MAX, collect};
use crate::error::{EngineError, Result};
use crate::image::reference::Reference;
use crate::options::RegistryAuth;

/// Tags of one repository pulled at once.
const TAGS_MAX: usize = 10_000;

/// Every tag of a repository, as its registry lists them.
pub(crate) async fn tags(
    registries: &Registries,
    reference: &Reference,
    auth: &RegistryAuth,
) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Page {
        #[serde(default)]
        tags: Option<Vec<String>>,
    }
    let repository = registries.repository(reference, auth, false);
    let mut tags = Vec::new();
    let mut next = Some(repository.path("tags/list"));
    while let Some(path) = next.take() {
        let answer = repository
            .request(Method::GET, &path, HeaderMap::new(), None)
            .await?;
        if !answer.response.status().is_success() {
            return Err(repository.refused(answer, "").await);
        }
        next = answer
            .response
            .headers()
            .get(LINK)
            .and_then(|value| next_page(value.to_str().ok()?));
        let page: Page = serde_json::from_slice(&collect(answer.response, SMALL_BODY_MAX).await?)
            .map_err(|error| {
            EngineError::unavailable("the registry's list of tags is not one").because(error)
        })?;
        tags.extend(page.tags.unwrap_or_default());
        if tags.len() > TAGS_MAX {
            return Err(EngineError::invalid(format!(
                "{} has more than {TAGS_MAX} tags",
                reference.familiar_name()
            )));
        }
    }
    Ok(tags)
}

/// The path in `</v2/…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    let path = match target.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/')?..],
        None => target,
    };
    rest.contains("next").then(|| path.to_owned())
}
