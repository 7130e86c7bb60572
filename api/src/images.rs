//! Images on this host, and what registries say of theirs.

use serde_json::{Value, json};
use skep_engine::types::DeleteItem;
use skep_engine::types::DistributionInspect;
use skep_engine::{ImageRemoveOptions, RegistryAuth};

use crate::platform;
use crate::reply;
use crate::resolve;
use crate::state::{Call, credentials};
use crate::status::{ApiError, Outcome};
use crate::version::ApiVersion;

/// `GET /images/json`
pub(crate) async fn list(call: Call) -> Outcome {
    let mut filters = call.filters()?;
    // The way API 1.24 filtered by name.
    let name = call.query.text("filter");
    if !name.is_empty() {
        filters = filters.with("reference", name);
    }
    let mut images = call
        .engine()
        .image_list(call.query.flag("all"), &filters)
        .await?;
    if call.query.flag("shared-size") {
        for image in &mut images {
            image.shared_size = call.engine().shared_bytes(&image.id);
        }
    }
    let mut page = json!(images);
    for image in page.as_array_mut().into_iter().flatten() {
        let nothing = |image: &Value, key: &str| image[key].as_array().is_none_or(Vec::is_empty);
        if call.version < ApiVersion::new(1, 43)
            && nothing(image, "RepoTags")
            && nothing(image, "RepoDigests")
        {
            image["RepoTags"] = json!(["<none>:<none>"]);
            image["RepoDigests"] = json!(["<none>@<none>"]);
        }
        if call.version < ApiVersion::new(1, 44) {
            image["VirtualSize"] = image["Size"].clone();
        }
    }
    reply::json(&page)
}

/// `GET /images/{name}/json`
pub(crate) async fn inspect(call: Call, name: String) -> Outcome {
    let is_new = call.version >= ApiVersion::new(1, 49);
    if is_new && call.query.flag("manifests") && !call.query.text("platform").is_empty() {
        return Err(ApiError::invalid(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    fits(&call, ApiVersion::new(1, 49), std::slice::from_ref(&name)).await?;
    let mut page = json!(call.engine().image_inspect(&name).await?);
    if call.version < ApiVersion::new(1, 44) {
        page["VirtualSize"] = page["Size"].clone();
    }
    if call.version < ApiVersion::new(1, 50)
        && let Some(config) = page["Config"].as_object_mut()
    {
        for (key, empty) in legacy_config() {
            config.entry(key).or_insert(empty);
        }
    }
    // Clients of old versions read what they need of the configuration there.
    if call.version < ApiVersion::new(1, 45) {
        page["Container"] = json!("");
        page["ContainerConfig"] = page["Config"].clone();
    }
    reply::json(&page)
}

/// What a container's configuration always has, and an image's has not where it is empty: clients of old
/// versions read the first from the second.
fn legacy_config() -> [(&'static str, Value); 17] {
    let (text, no, nothing) = (|| json!(""), || json!(false), || Value::Null);
    [
        ("Hostname", text()),
        ("Domainname", text()),
        ("User", text()),
        ("AttachStdin", no()),
        ("AttachStdout", no()),
        ("AttachStderr", no()),
        ("Tty", no()),
        ("OpenStdin", no()),
        ("StdinOnce", no()),
        ("Env", nothing()),
        ("Cmd", nothing()),
        ("Image", text()),
        ("Volumes", nothing()),
        ("WorkingDir", text()),
        ("Entrypoint", nothing()),
        ("OnBuild", nothing()),
        ("Labels", nothing()),
    ]
}

/// `GET /images/{name}/history`
pub(crate) async fn history(call: Call, name: String) -> Outcome {
    fits(&call, ApiVersion::new(1, 48), std::slice::from_ref(&name)).await?;
    reply::json(&call.engine().image_history(&name).await?)
}

/// Refuses names of images that are here for another platform than the `platform` parameter says. Older
/// versions than `since` have no such parameter, and clients of theirs may send it all the same.
pub(crate) async fn fits(call: &Call, since: ApiVersion, names: &[String]) -> Outcome<()> {
    if call.version < since {
        return Ok(());
    }
    if let Some(wanted) = platform::parse(call.query.text("platform"))? {
        for name in names {
            platform::check(name, &wanted, &call.engine().image_inspect(name).await?)?;
        }
    }
    Ok(())
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
    if call.version >= ApiVersion::new(1, 50) {
        let mut platforms = Vec::new();
        for given in call.query.all("platforms") {
            platforms.extend(platform::parse_several(&given)?);
        }
        match &platforms[..] {
            [] => (),
            [wanted] => platform::check(&name, wanted, &call.engine().image_inspect(&name).await?)?,
            _ => return Err(ApiError::invalid("multiple platforms are not supported")),
        }
    }
    let options = ImageRemoveOptions {
        force: call.query.flag("force"),
        no_prune: call.query.flag("noprune"),
    };
    reply::json(&call.engine().image_remove(&name, options).await?)
}

#[derive(serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImagesPruned {
    images_deleted: Option<Vec<DeleteItem>>,
    space_reclaimed: i64,
}

/// `POST /images/prune`
pub(crate) async fn prune(call: Call) -> Outcome {
    let (images_deleted, space_reclaimed) = call.engine().image_prune(&call.filters()?).await?;
    reply::json(&ImagesPruned {
        images_deleted: (!images_deleted.is_empty()).then_some(images_deleted),
        space_reclaimed,
    })
}

/// What a search finds when nothing else is said.
const SEARCH_LIMIT: u32 = 25;

/// `GET /images/search`
pub(crate) async fn search(call: Call) -> Outcome {
    let term = call.query.text("term");
    if term.is_empty() {
        return Err(ApiError::invalid("term must be provided"));
    }
    let limit = call.query.number("limit")?.unwrap_or(SEARCH_LIMIT);
    if !(1..=100).contains(&limit) {
        return Err(ApiError::invalid(format!(
            "limit {limit} is outside the range of [1, 100]"
        )));
    }
    let filters = call.filters_of(&["is-automated", "is-official", "stars"])?;
    let is = |key: &str| -> Outcome<Option<bool>> {
        match filters.values(key).next() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(ApiError::invalid(format!("invalid filter '{key}={other}'"))),
        }
    };
    let (is_official, is_automated) = (is("is-official")?, is("is-automated")?);
    let mut stars = 0;
    for given in filters.values("stars") {
        let least: i64 = given
            .parse()
            .map_err(|_| ApiError::invalid(format!("invalid filter 'stars={given}'")))?;
        stars = stars.max(least);
    }
    let auth = call.registry_auth()?;
    let mut found = call.engine().image_search(term, limit, &auth).await?;
    found.retain(|one| {
        is_official.is_none_or(|wanted| wanted == one.is_official)
            && is_automated.is_none_or(|wanted| wanted == one.is_automated)
            && one.star_count >= stars
    });
    reply::json(&found)
}

/// `GET /distribution/{name}/json`. The CLI asks here before it creates a service; any error
/// makes it warn and go on without a digest.
pub(crate) async fn distribution(call: Call, name: String) -> Outcome {
    let auth = call.registry_auth()?;
    let found = match resolve::in_cluster_first(&call, &name).await {
        Some(found) => found,
        None => match at_registry(&call, &name, auth).await {
            Ok(found) => found,
            Err(error) => {
                let own = resolve::own_in_cluster(&call, &name).await;
                own.ok_or(error)?
            }
        },
    };
    call.state.asked.remember(&name, &found);
    reply::json(&found)
}

async fn at_registry(
    call: &Call,
    name: &str,
    auth: RegistryAuth,
) -> skep_engine::Result<DistributionInspect> {
    let of_cluster = resolve::login_of_cluster(call, name).await;
    resolve::at_registry(call.engine(), name, auth, of_cluster).await
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
