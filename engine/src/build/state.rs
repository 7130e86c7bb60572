//! Where a stage is: the image so far and the configuration of the next one.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_dockerfile::{BuildArgs, Expander};

use crate::error::{EngineError, Result};
use crate::image::manifest::{ConfigFile, host_platform};
use crate::image::{Digest, Image};
use crate::types::{ImageConfig, Platform};

/// `PATH` of images that have none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One stage while it is built.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// `None`: from scratch, and nothing made yet.
    pub(super) image: Option<Arc<Image>>,
    pub(super) config: ImageConfig,
    pub(super) author: String,
    pub(super) platform: Platform,
    /// A `CMD` of this stage, which an `ENTRYPOINT` does not take away.
    pub(super) has_command: bool,
    /// A step had to be done: those after it are not looked for.
    pub(super) is_new: bool,
    pub(super) escape: char,
}

impl State {
    /// A stage on an image, or on nothing.
    pub(super) fn on(image: Option<Arc<Image>>, platform: Option<Platform>, escape: char) -> Self {
        let base = image
            .as_ref()
            .map(|image| image.config.clone())
            .unwrap_or_default();
        let mut state = Self {
            platform: match &image {
                Some(_) => base.platform(),
                None => platform.unwrap_or_else(host_platform),
            },
            image,
            config: base.config,
            author: base.author,
            has_command: false,
            is_new: false,
            escape,
        };
        let has_path = |variable: &String| variable.starts_with("PATH=");
        if !state.config.env.iter().any(has_path) {
            state.config.env.push(DEFAULT_PATH.into());
        }
        state
    }

    pub(super) fn id(&self) -> Option<&Digest> {
        self.image.as_ref().map(|image| image.id())
    }

    /// As people are shown it; empty for scratch.
    pub(super) fn short(&self) -> &str {
        self.id().map_or("", Digest::short)
    }

    /// Layers from the top, as directories; none from scratch.
    pub(super) fn chain(&self) -> &[Digest] {
        self.image.as_ref().map_or(&[], |image| &image.chain)
    }

    /// The configuration file of the image so far.
    pub(super) fn file(&self) -> ConfigFile {
        match &self.image {
            Some(image) => image.config.clone(),
            None => ConfigFile {
                architecture: self.platform.architecture.clone(),
                variant: self.platform.variant.clone(),
                os: self.platform.os.clone(),
                rootfs: crate::image::manifest::RootFs {
                    kind: "layers".into(),
                    diff_ids: Vec::new(),
                },
                ..ConfigFile::default()
            },
        }
    }

    /// The shell of shell forms.
    pub(super) fn shell(&self) -> Vec<String> {
        self.config
            .shell
            .clone()
            .filter(|shell| !shell.is_empty())
            .unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()])
    }

    /// The variables words are expanded with: the environment, then arguments.
    pub(super) fn variables(&self, args: &BuildArgs) -> BTreeMap<String, String> {
        let mut variables = args.visible();
        for variable in &self.config.env {
            if let Some((name, value)) = variable.split_once('=') {
                variables.insert(name.to_owned(), value.to_owned());
            }
        }
        variables
    }

    /// Expands one word.
    pub(super) fn expand(&self, args: &BuildArgs, word: &str) -> Result<String> {
        let variables = self.variables(args);
        let lookup = |name: &str| variables.get(name).cloned();
        Expander::new(self.escape, &lookup)
            .word(word)
            .map_err(|error| EngineError::invalid(error.to_string()))
    }
}
