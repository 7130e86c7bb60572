//! Images by digest: a service runs the same image on every node, whatever its tag means later.

use skep_model::ServiceSpec;
use skep_model::placement::Platform;

use crate::client::{Call, segment};
use crate::json::Json;
use crate::reference::Reference;
use crate::session::Session;

/// Adds `:latest` where a spec's image says nothing else.
pub fn tag(spec: &mut ServiceSpec) {
    if let Some(container) = &mut spec.task_template.container_spec
        && let Some(reference) = Reference::parse(&container.image)
    {
        container.image = reference.with_default_tag().to_string();
    }
}

/// Asks the registry for the digest and platforms of the spec's image. When it does not answer,
/// the image stays as it is; the answer is then what the user is to know once the daemon has taken
/// the spec.
#[must_use]
pub async fn resolve(
    session: &Session,
    spec: &mut ServiceSpec,
    auth: Option<&String>,
) -> Option<String> {
    let container = spec.task_template.container_spec.as_mut()?;
    let image = container.image.clone();
    let call = Call::get(format!("/distribution/{}/json", segment(&image)))
        .header_maybe("X-Registry-Auth", auth.cloned());
    let Ok(answer) = session.client.json(call).await else {
        return Some(warning(&image));
    };
    let mut unresolved = None;
    if let Some(mut reference) = Reference::parse(&image)
        && reference.digest.is_none()
    {
        match answer.str("Descriptor.digest") {
            "" => unresolved = Some(warning(&image)),
            digest => {
                reference = reference.with_default_tag();
                reference.digest = Some(digest.to_owned());
                container.image = reference.to_string();
            }
        }
    }
    let platforms: Vec<Platform> = answer.list("Platforms").iter().map(platform).collect();
    if !platforms.is_empty() {
        spec.task_template
            .placement
            .get_or_insert_default()
            .platforms = platforms;
    }
    unresolved
}

/// Nodes name the variants of arm in ways that images do not: any arm is taken.
fn platform(json: &Json) -> Platform {
    let architecture = match json.str("architecture") {
        arm if arm.eq_ignore_ascii_case("arm") => "",
        other => other,
    };
    Platform {
        architecture: architecture.to_owned(),
        os: json.str("os").to_owned(),
    }
}

fn warning(image: &str) -> String {
    format!(
        "image {image} could not be accessed on a registry to record\nits digest. Each node will access {image} independently,\npossibly leading to different nodes running different\nversions of the image.\n"
    )
}
