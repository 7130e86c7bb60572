//! Images of services by digest, for clients that leave that to the daemon: all nodes are to run the
//! same, whatever the tag means later.
//!
//! Docker's client and ours ask `/distribution` themselves and may have been told not to
//! (`--no-resolve-image`): they are believed. Yet what one of them has asked a moment ago counts
//! even when it does not come back with the spec: docker 29 asks before `service update --image`
//! and then sends the bare tag.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use skep_engine::types::DistributionInspect;
use skep_model::placement::Platform;
use skep_model::validate::check_service;
use skep_model::{Service, ServiceSpec};

use crate::state::Call;
use crate::status::Outcome;
use crate::version::ApiVersion;

/// Clients of this version and later ask the registry themselves, if they ever do.
const CLIENTS_ASK_SINCE: ApiVersion = ApiVersion::new(1, 30);
/// How long a registry may take to answer us before a service goes on without.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// A client's own question counts for so long.
const ASKED_LIFE: Duration = Duration::from_secs(30);
/// Questions remembered; a deploy asks one for each service.
const ASKED_MAX: usize = 64;

/// What clients have asked the registry of late, through this daemon.
#[derive(Debug, Default)]
pub struct Asked(Mutex<VecDeque<(Instant, String, DistributionInspect)>>);

impl Asked {
    pub(crate) fn remember(&self, image: &str, answer: &DistributionInspect) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|(at, name, _)| at.elapsed() < ASKED_LIFE && name != image);
        if asked.len() >= ASKED_MAX {
            asked.pop_front();
        }
        asked.push_back((Instant::now(), image.to_owned(), answer.clone()));
    }

    /// Each answer counts once: what is sent later without it was not asked for.
    fn take(&self, image: &str) -> Option<DistributionInspect> {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = asked.iter().position(|(_, name, _)| name == image)?;
        let (at, _, answer) = asked.remove(at)?;
        (at.elapsed() < ASKED_LIFE).then_some(answer)
    }
}

/// Gives a spec's image its digest if its client left that to us. The answer is what the user is to
/// know. `present` is the service that is updated.
pub(crate) async fn pin(
    call: &Call,
    spec: &mut ServiceSpec,
    present: Option<&Service>,
) -> Outcome<Option<String>> {
    let image = spec.task_template.image().to_owned();
    if image.is_empty() || image.contains('@') {
        // The client has asked, so that question is answered.
        call.state.asked.take(without_digest(&image));
        return Ok(None);
    }
    if let Some(answer) = call.state.asked.take(&image) {
        apply(spec, &image, &answer);
        return Ok(None);
    }
    // What is refused anyway is no reason to bother a registry.
    if asks_itself(call.version, call.header("user-agent")) || check_service(spec).is_err() {
        return Ok(None);
    }
    // Nor is a request to a node that is no manager.
    call.snapshot().await?;
    let auth = call.registry_auth()?;
    let question = call.engine().distribution_inspect(&image, auth);
    let why = match tokio::time::timeout(ASK_TIMEOUT, question).await {
        Ok(Ok(answer)) => {
            apply(spec, &image, &answer);
            return Ok(None);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the registry does not answer".to_owned(),
    };
    // The same name as before still means what it was found to mean then.
    let known = present.map(|service| service.spec.task_template.image());
    if let Some(known) = known.filter(|known| without_digest(known) == image)
        && let Some(container) = &mut spec.task_template.container_spec
    {
        container.image = known.to_owned();
        return Ok(None);
    }
    Ok(Some(format!(
        "unable to pin image {image} to digest: {why}"
    )))
}

/// Whether a client resolves images itself, or was told not to.
fn asks_itself(version: ApiVersion, agent: &str) -> bool {
    let known = ["Docker-Client/", "skep/"];
    version >= CLIENTS_ASK_SINCE && known.iter().any(|name| agent.starts_with(name))
}

fn without_digest(image: &str) -> &str {
    image.split('@').next().unwrap_or(image)
}

fn apply(spec: &mut ServiceSpec, image: &str, answer: &DistributionInspect) {
    if answer.descriptor.digest.is_empty() {
        return;
    }
    if let Some(container) = &mut spec.task_template.container_spec {
        let tagged = match image.rsplit('/').next().unwrap_or(image).contains(':') {
            true => image.to_owned(),
            false => format!("{image}:latest"),
        };
        container.image = format!("{tagged}@{}", answer.descriptor.digest);
    }
    let platforms = answer.platforms.iter().map(|platform| Platform {
        // Nodes name the variants of arm in ways that images do not: any arm is taken.
        architecture: match platform.architecture.as_str() {
            arm if arm.eq_ignore_ascii_case("arm") => String::new(),
            other => other.to_owned(),
        },
        os: platform.os.clone(),
    });
    let platforms: Vec<Platform> = platforms.collect();
    if !platforms.is_empty() {
        let placement = spec.task_template.placement.get_or_insert_default();
        placement.platforms = platforms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(digest: &str) -> DistributionInspect {
        let mut answer = DistributionInspect::default();
        answer.descriptor.digest = digest.to_owned();
        answer.platforms = vec![skep_engine::types::Platform {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            ..Default::default()
        }];
        answer
    }

    #[test]
    fn clients_that_ask_themselves_are_believed() {
        let old = ApiVersion::new(1, 29);
        assert!(asks_itself(ApiVersion::MAX, "Docker-Client/28.5.2 (linux)"));
        assert!(!asks_itself(old, "Docker-Client/17.05 (linux)"));
        assert!(!asks_itself(ApiVersion::MAX, "docker-sdk-python/7.1.0"));
        assert!(!asks_itself(ApiVersion::MAX, ""));
    }

    #[test]
    fn an_answer_counts_once_and_the_newest_counts() {
        let asked = Asked::default();
        for number in 0..ASKED_MAX + 1 {
            asked.remember(&format!("web:{number}"), &answer("old"));
        }
        assert_eq!(asked.take("web:0"), None, "there is a bound");
        asked.remember("web:5", &answer("new"));
        let found = asked.take("web:5").map(|answer| answer.descriptor.digest);
        assert_eq!(found.as_deref(), Some("new"));
        assert_eq!(asked.take("web:5"), None);
    }

    #[test]
    fn an_image_gets_its_tag_digest_and_platforms() {
        for (image, pinned) in [
            ("web", "web:latest@sha256:1"),
            ("web:1", "web:1@sha256:1"),
            ("localhost:5000/web", "localhost:5000/web:latest@sha256:1"),
        ] {
            let mut spec = ServiceSpec::default();
            let container = spec.task_template.container_spec.get_or_insert_default();
            container.image = image.to_owned();
            apply(&mut spec, image, &answer("sha256:1"));
            assert_eq!(spec.task_template.image(), pinned);
            let platforms = spec.task_template.placement.unwrap().platforms;
            assert_eq!(platforms[0].architecture, "amd64");
        }
    }
}
