//! What a stage stands on, and where `--from` copies from.

use std::sync::Arc;

use skep_dockerfile::{Expander, Stage};

use super::Build;
use super::state::State;
use crate::error::{EngineError, Result};
use crate::image::manifest::platform_fits;
use crate::image::{Image, Reference, parse_platform};
use crate::options::PullOptions;
use crate::types::Platform;

/// The name of no image.
const SCRATCH: &str = "scratch";

impl Build {
    /// The state at the beginning of a stage.
    pub(super) async fn begin(&mut self, number: usize, stage: &Stage) -> Result<State> {
        let escape = self.file.escape;
        let base = self.expand_global(&stage.base)?;
        if base.is_empty() {
            return Err(EngineError::invalid(format!(
                "base name ({}) should not be blank",
                stage.base
            )));
        }
        let platform = match &stage.platform {
            Some(platform) => match self.expand_global(platform)?.as_str() {
                "" => {
                    return Err(EngineError::invalid(format!(
                        "failed to parse platform : \"\" is an invalid component of \"{platform}\""
                    )));
                }
                platform => Some(parse_platform(platform)?),
            },
            None => self.options.platform.clone(),
        };
        let before = self.file.stages[..number].iter().position(|other| {
            other
                .name
                .as_deref()
                .is_some_and(|name| name.eq_ignore_ascii_case(&base))
        });
        if let Some(before) = before {
            let image = self.finished[before].clone();
            return Ok(State::on(image, platform, escape));
        }
        if base == SCRATCH {
            return Ok(State::on(None, platform, escape));
        }
        let image = self
            .image(&base, platform.as_ref(), self.options.pull)
            .await?;
        Ok(State::on(Some(image), platform, escape))
    }

    /// A word outside of stages: only arguments before the first one count.
    pub(super) fn expand_global(&self, word: &str) -> Result<String> {
        let lookup = |name: &str| self.args.global(name);
        Expander::new(self.file.escape, &lookup)
            .word(word)
            .map_err(|error| EngineError::invalid(error.to_string()))
    }

    /// The result of a stage, by name or number, or an image by name.
    pub(super) async fn source(&mut self, given: &str) -> Result<Arc<Image>> {
        let wrong = |why: &str| {
            Err(EngineError::invalid(format!(
                "invalid from flag value {given}: {why}"
            )))
        };
        if let Some(number) = self.file.stage(given) {
            return match self.finished.get(number) {
                Some(Some(image)) => Ok(Arc::clone(image)),
                Some(None) => wrong("the stage is empty"),
                None if number == self.finished.len() => wrong("refers to current build stage"),
                None => wrong("refers to a stage that comes later"),
            };
        }
        if given.parse::<usize>().is_ok() {
            return wrong("index out of bounds");
        }
        if let Some(known) = self.images.get(given) {
            return Ok(Arc::clone(known));
        }
        let platform = self.options.platform.clone();
        let image = self
            .image(given, platform.as_ref(), false)
            .await
            .map_err(|error| error.context(format!("invalid from flag value {given}")))?;
        self.images.insert(given.to_owned(), Arc::clone(&image));
        Ok(image)
    }

    /// An image by name, pulled when it is not here.
    async fn image(
        &self,
        name: &str,
        platform: Option<&Platform>,
        always: bool,
    ) -> Result<Arc<Image>> {
        let here = self.engine.images.find(name).ok().filter(|image| {
            platform.is_none_or(|platform| platform_fits(&image.config.platform(), platform))
        });
        let Ok(reference) = name.parse::<Reference>() else {
            return here.ok_or_else(|| EngineError::invalid("invalid reference format".to_owned()));
        };
        // What was named by id is not at a registry.
        let by_id = here.as_ref().is_some_and(|image| {
            image
                .id()
                .hex()
                .starts_with(name.trim_start_matches("sha256:"))
        });
        if let Some(image) = here
            && (!always || by_id)
        {
            return Ok(image);
        }
        let reference = reference.or_latest();
        let options = PullOptions {
            platform: platform.cloned(),
            auth: self.options.auth(reference.domain()),
            other_auth: None,
            source: None,
        };
        let id = self
            .engine
            .image_pull(&reference.to_string(), options, self.output.progress())
            .await?;
        self.engine.images.find(&id)
    }
}
