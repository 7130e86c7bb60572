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

use crate::questions::Questions;
use crate::resolve;
use crate::state::Call;
use crate::status::Outcome;
use crate::version::ApiVersion;

/// Clients of this version and later ask the registry themselves, if they ever do.
const CLIENTS_ASK_SINCE: ApiVersion = ApiVersion::new(1, 30);
/// A client's own question counts for so long.
const ASKED_LIFE: Duration = Duration::from_secs(30);
/// Questions remembered; a deploy asks one for each service.
const ASKED_MAX: usize = 64;

/// What clients have asked the registry of late, through this daemon.
#[derive(Debug, Default)]
pub struct Asked {
    answers: Mutex<VecDeque<(Instant, String, DistributionInspect)>>,
    /// What this daemon asks for clients that do not.
    questions: Questions,
}

impl Asked {
    pub(crate) fn remember(&self, image: &str, answer: &DistributionInspect) {
        let mut asked = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|(at, name, _)| at.elapsed() < ASKED_LIFE && name != image);
        if asked.len() >= ASKED_MAX {
            asked.pop_front();
        }
        asked.push_back((Instant::now(), image.to_owned(), answer.clone()));
    }

    /// Each answer counts once: what is sent later without it was not asked for.
    fn take(&self, image: &str) -> Option<DistributionInspect> {
        let mut asked = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
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
    let known = present.map_or("", |service| service.spec.task_template.image());
    // What is refused anyway is no reason to bother a registry.
    if is_kept(spec, known)
        || asks_itself(call.version, call.header("user-agent"))
        || check_service(spec).is_err()
    {
        return Ok(None);
    }
    // Nor is a request to a node that is no manager.
    call.snapshot().await?;
    let auth = call.registry_auth()?;
    let of_cluster = resolve::login_of_cluster(call, &image).await;
    let question = {
        let (engine, image) = (call.engine().clone(), image.clone());
        async move { resolve::at_registry(&engine, &image, auth, of_cluster).await }
    };
    let questions = &call.state.asked.questions;
    if let Some(answer) = resolve::in_cluster_first(call, &image).await {
        apply(spec, &image, &answer);
        return Ok(None);
    }
    match questions.ask(&image, call.encoded_auth(), question).await {
        Ok(answer) => apply(spec, &image, &answer),
        Err(_) if keep(spec, &image, known) => (),
        Err(why) => match resolve::own_in_cluster(call, &image).await {
            Some(answer) => apply_own(spec, &image, &answer),
            None => {
                return Ok(Some(format!(
                    "unable to pin image {image} to digest: {why}"
                )));
            }
        },
    }
    Ok(None)
}

/// Whether the image stays as it is: it runs on then, whatever its tag has come to mean.
fn is_kept(spec: &ServiceSpec, known: &str) -> bool {
    spec.task_template.image() == known
}

/// The same name as before still means what it was found to mean then, as far as anybody knows.
fn keep(spec: &mut ServiceSpec, image: &str, known: &str) -> bool {
    match &mut spec.task_template.container_spec {
        Some(container) if without_digest(known) == image => {
            container.image = known.to_owned();
            true
        }
        _ => false,
    }
}

/// Whether a client resolves images itself, or was told not to.
fn asks_itself(version: ApiVersion, agent: &str) -> bool {
    let known = ["Docker-Client/", "skep/"];
    version >= CLIENTS_ASK_SINCE && known.iter().any(|name| agent.starts_with(name))
}

fn without_digest(image: &str) -> &str {
    image.split('@').next().unwrap_or(image)
}

/// Of an image that was made here a client may know better what it is for.
fn apply_own(spec: &mut ServiceSpec, image: &str, answer: &DistributionInspect) {
    let placement = spec.task_template.placement.as_ref();
    let given = placement.map_or(Vec::new(), |placement| placement.platforms.clone());
    apply(spec, image, answer);
    if !given.is_empty() {
        spec.task_template
            .placement
            .get_or_insert_default()
            .platforms = given;
    }
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

    fn spec(image: &str) -> ServiceSpec {
        let mut spec = ServiceSpec::default();
        let container = spec.task_template.container_spec.get_or_insert_default();
        container.image = image.to_owned();
        spec
    }

    #[test]
    fn an_image_that_stays_is_left_alone() {
        assert!(is_kept(&spec("web:1"), "web:1"));
        assert!(!is_kept(&spec("web:2"), "web:1"));
        assert!(!is_kept(&spec("web:1"), "web:1@sha256:1"));
        assert!(!is_kept(&spec("web:1"), ""), "a service that is made");
    }

    #[test]
    fn without_an_answer_the_same_name_keeps_its_digest() {
        for (known, image, kept) in [
            ("web:1@sha256:1", "web:1", "web:1@sha256:1"),
            ("web:1@sha256:1", "web:2", "web:2"),
            ("web:1@sha256:1", "web", "web"),
            ("", "web:1", "web:1"),
        ] {
            let mut spec = spec(image);
            assert_eq!(keep(&mut spec, image, known), kept != image, "{image}");
            assert_eq!(spec.task_template.image(), kept, "{known}");
        }
    }

    #[test]
    fn an_image_gets_its_tag_digest_and_platforms() {
        for (image, pinned) in [
            ("web", "web:latest@sha256:1"),
            ("web:1", "web:1@sha256:1"),
            ("localhost:5000/web", "localhost:5000/web:latest@sha256:1"),
        ] {
            let mut spec = spec(image);
            apply(&mut spec, image, &answer("sha256:1"));
            assert_eq!(spec.task_template.image(), pinned);
            let platforms = spec.task_template.placement.unwrap().platforms;
            assert_eq!(platforms[0].architecture, "amd64");
        }
    }
}
