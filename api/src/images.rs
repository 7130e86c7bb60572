//! Images on this host, and what registries say of theirs.

use skep_engine::types::DeleteItem;
use skep_engine::{ImageRemoveOptions, RegistryAuth};

use crate::platform;
use crate::reply;
use crate::state::{Call, credentials};
use crate::status::{ApiError, Outcome};

/// `GET /images/json`
pub(crate) async fn list(call: Call) -> Outcome {
    let mut filters = call.filters()?;
    // The way API 1.24 filtered by name.
    let name = call.query.text("filter");
    if !name.is_empty() {
        filters = filters.with("reference", name);
    }
    let images = call
        .engine()
        .image_list(call.query.flag("all"), &filters)
        .await?;
    reply::json(&images)
}

/// `GET /images/{name}/json`
pub(crate) async fn inspect(call: Call, name: String) -> Outcome {
    let image = call.engine().image_inspect(&name).await?;
    if let Some(wanted) = platform::parse(call.query.text("platform"))? {
        platform::check(&name, &wanted, &image)?;
    }
    reply::json(&image)
}

/// `GET /images/{name}/history`
pub(crate) async fn history(call: Call, name: String) -> Outcome {
    reply::json(&call.engine().image_history(&name).await?)
}

/// `POST /images/{name}/tag`
pub(crate) async fn tag(call: Call, name: String) -> Outcome {
    let target = reference(call.query.text("repo"), call.query.text("tag"))?;
    call.engine().image_tag(&name, &target).await?;
    Ok(reply::empty(http::StatusCode::CREATED))
}

/// `repo` and `tag` parameters as one reference; a tag may be a digest.
pub(crate) fn reference(repo: &str, tag: &str) -> Outcome<String> {
    match (repo, tag) {
        ("", _) => Err(ApiError::invalid("invalid reference format")),
        (repo, "") => Ok(repo.to_owned()),
        (repo, digest) if digest.contains(':') => Ok(format!("{repo}@{digest}")),
        (repo, tag) => Ok(format!("{repo}:{tag}")),
    }
}

/// `DELETE /images/{name}`
pub(crate) async fn remove(call: Call, name: String) -> Outcome {
    let options = ImageRemoveOptions {
        force: call.query.flag("force"),
        no_prune: call.query.flag("noprune"),
    };
    reply::json(&call.engine().image_remove(&name, options).await?)
}

#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImagesPruned {
    images_deleted: Vec<DeleteItem>,
    space_reclaimed: i64,
}

/// `POST /images/prune`
pub(crate) async fn prune(call: Call) -> Outcome {
    let (images_deleted, space_reclaimed) = call.engine().image_prune(&call.filters()?).await?;
    reply::json(&ImagesPruned {
        images_deleted,
        space_reclaimed,
    })
}

/// `GET /images/search`
pub(crate) async fn search(call: Call) -> Outcome {
    if call.query.text("term").is_empty() {
        return Err(ApiError::invalid("term must be provided"));
    }
    Err(ApiError::not_implemented(
        "searching registries is not supported: this daemon has no registry index",
    ))
}

/// `GET /distribution/{name}/json`. The CLI asks here before it creates a service; any error
/// makes it warn and go on without a digest.
pub(crate) async fn distribution(call: Call, name: String) -> Outcome {
    let auth = call.registry_auth()?;
    reply::json(&call.engine().distribution_inspect(&name, auth).await?)
}

/// `POST /auth`
pub(crate) async fn login(mut call: Call) -> Outcome {
    let given: serde_json::Value = call.json().await?;
    let auth: RegistryAuth = credentials(given.to_string().as_bytes())
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))?;
    let status = call.engine().registry_login(auth).await?;
    reply::json(&serde_json::json!({ "Status": status, "IdentityToken": "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repo_and_tag_make_a_reference() {
        assert_eq!(reference("a/b", "1").unwrap(), "a/b:1");
        assert_eq!(reference("a/b", "").unwrap(), "a/b");
        assert_eq!(reference("a/b", "sha256:00").unwrap(), "a/b@sha256:00");
        assert!(reference("", "1").is_err());
    }
}
