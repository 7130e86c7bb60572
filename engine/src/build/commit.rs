//! The result of a step: found from an earlier build, or made.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::Build;
use super::state::State;
use crate::clock;
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::image::assemble::{Parts, assemble};
use crate::image::manifest::{History, LAYERS_MAX};
use crate::image::{Digest, Image, layer_descriptor};
use crate::names;
use crate::tree::pack::{self, pack};
use crate::types::Descriptor;

/// A layer whose blob is in the store.
#[derive(Debug, Clone)]
pub(super) struct NewLayer {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
}

/// What a step is: its place in the history, and what else it depends on.
pub(super) struct Made {
    pub(super) created_by: String,
    pub(super) key: Digest,
}

impl Made {
    /// `more` is all that the result depends on besides the text, the image so
    /// far and the configuration.
    pub(super) fn new(state: &State, created_by: String, more: &impl Serialize) -> Result<Self> {
        let all = (
            &created_by,
            more,
            &state.config,
            &state.author,
            &state.platform,
        );
        let text = serde_json::to_vec(&all).during(|| "cannot name a step".into())?;
        Ok(Self {
            key: Digest::of(&text),
            created_by,
        })
    }

    /// A step that only changes the configuration.
    pub(super) fn metadata(state: &State, comment: &str) -> Result<Self> {
        let shell = state.shell().join(" ");
        Self::new(state, format!("{shell} #(nop)  {comment}"), &())
    }

    /// A step that changes files, and is no `RUN`.
    pub(super) fn files(state: &State, comment: &str, more: &impl Serialize) -> Result<Self> {
        let shell = state.shell().join(" ");
        Self::new(state, format!("{shell} #(nop) {comment}"), more)
    }
}

impl Build {
    /// Goes on with what an earlier build made, if there is such a thing.
    pub(super) async fn cached(&mut self, state: &mut State, made: &Made) -> Result<bool> {
        if self.options.no_cache || state.is_new {
            return Ok(false);
        }
        let own = self.engine.images.built(state.id(), &made.key);
        let found = match own.filter(|image| self.may_use(image)) {
            Some(image) => Some(image),
            None => self.found_elsewhere(state, made).await?,
        };
        let Some(image) = found else {
            state.is_new = true;
            return Ok(false);
        };
        self.output.say(" ---> Using cache\n").await?;
        state.image = Some(image);
        Ok(true)
    }

    /// Makes the image of a step.
    pub(super) async fn commit(
        &self,
        state: &mut State,
        made: Made,
        layer: Option<NewLayer>,
    ) -> Result<()> {
        let (engine, before) = (Arc::clone(&self.engine), state.clone());
        let image = self
            .workspace
            .blocking(move || child(&engine, &before, &made, layer, None))
            .await?;
        state.image = Some(image);
        Ok(())
    }

    /// What clients know of a step that needs no command: that there is a container for it and, once the
    /// step is done, that it is gone. It exists in name only.
    pub(super) async fn say_container(&self) -> Result<()> {
        let id = names::new_id(&mut rand::rng());
        let short = names::short_id(&id);
        self.output
            .say(format!(" ---> Running in {short}\n"))
            .await?;
        if self.options.remove || self.options.force_remove {
            self.say_removed(short).await?;
        }
        Ok(())
    }

    pub(super) async fn say_removed(&self, short_id: &str) -> Result<()> {
        let text = format!(" ---> Removed intermediate container {short_id}\n");
        self.output.say(text).await
    }

    /// A step that changes no files.
    pub(super) async fn commit_metadata(&mut self, state: &mut State, comment: &str) -> Result<()> {
        let made = Made::metadata(state, comment)?;
        if self.cached(state, &made).await? {
            return Ok(());
        }
        self.say_container().await?;
        self.commit(state, made, None).await
    }
}

/// The image of a step. Blocking.
pub(super) fn child(
    engine: &Engine,
    state: &State,
    made: &Made,
    layer: Option<NewLayer>,
    history: Option<History>,
) -> Result<Arc<Image>> {
    let mut file = state.file();
    let mut layers = state
        .image
        .as_ref()
        .map(|image| image.record.layers.clone())
        .unwrap_or_default();
    file.created = history
        .as_ref()
        .map_or_else(clock::now, |step| step.created);
    file.author.clone_from(&state.author);
    file.comment = String::new();
    file.docker_version.clone_from(&engine.config.version);
    file.config = state.config.clone();
    let step = history.unwrap_or_else(|| History {
        created: file.created,
        created_by: made.created_by.clone(),
        author: state.author.clone(),
        comment: String::new(),
        empty_layer: layer.is_none(),
    });
    file.history.push(step);
    if let Some(layer) = layer {
        file.rootfs.diff_ids.push(layer.diff_id);
        layers.push(layer.blob);
    }
    if layers.len() > LAYERS_MAX {
        return Err(EngineError::invalid(format!(
            "the image would have more than {LAYERS_MAX} layers: join some of its steps"
        )));
    }
    let parts = Parts {
        config: serde_json::to_vec(&file).during(|| "cannot write the configuration".into())?,
        layers,
        manifest: None,
        parent: state.id().cloned(),
        step: Some(made.key.clone()),
    };
    assemble(&engine.images, parts, |_, _| {})
}

/// The changes in the upper side of an overlay as a layer; `None` when there are
/// none. Blocking.
pub(super) fn pack_layer(engine: &Engine, upper: &Path) -> Result<Option<NewLayer>> {
    let what = || format!("cannot read `{}`", upper.display());
    if std::fs::read_dir(upper).during(what)?.next().is_none() {
        return Ok(None);
    }
    let mut writer = engine.images.blobs.writer()?;
    let options = pack::Options {
        layer: true,
        ..pack::Options::default()
    };
    pack(upper, &mut writer, options).during(what)?;
    // Not compressed, so that the digest of the blob is that of the layer.
    let (digest, size) = writer.commit(None)?;
    Ok(Some(NewLayer {
        blob: layer_descriptor(&engine.images.blobs, &digest, size)?,
        diff_id: digest,
    }))
}
