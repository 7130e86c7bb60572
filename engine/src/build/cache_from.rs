//! `--cache-from`: steps that another image's history has, with its layers.

use std::sync::Arc;

use super::Build;
use super::commit::{Made, NewLayer, child};
use super::state::State;
use crate::error::Result;
use crate::image::Image;

impl Build {
    /// The image of a step, made of the layers of an image whose history begins
    /// with the steps so far and goes on with this one.
    pub(super) async fn found_elsewhere(
        &mut self,
        state: &State,
        made: &Made,
    ) -> Result<Option<Arc<Image>>> {
        let Some(other) = self
            .cache_from
            .iter()
            .find(|other| continues(other, state, made))
            .cloned()
        else {
            return Ok(None);
        };
        // One history is followed, not a mixture.
        self.cache_from = vec![Arc::clone(&other)];
        let step = other.config.history[length(state)].clone();
        let layer = match step.empty_layer {
            true => None,
            false => {
                let number = state.chain().len();
                Some(NewLayer {
                    blob: other.record.layers[number].clone(),
                    diff_id: other.config.rootfs.diff_ids[number].clone(),
                })
            }
        };
        let (engine, before) = (Arc::clone(&self.engine), state.clone());
        let made = Made {
            created_by: made.created_by.clone(),
            key: made.key.clone(),
        };
        self.workspace
            .blocking(move || child(&engine, &before, &made, layer, Some(step)))
            .await
            .map(Some)
    }
}

impl Build {
    /// Whether an image made here earlier counts as cache: with `--cache-from` only what the images named
    /// there are made of.
    pub(super) fn may_use(&self, image: &Image) -> bool {
        let Some(among) = &self.cache_among else {
            return true;
        };
        among.iter().any(|source| {
            let parent = |image: &Arc<Image>| {
                let parent = image.record.parent.as_ref()?;
                self.engine.images.get(parent)
            };
            std::iter::successors(Some(Arc::clone(source)), parent)
                .any(|ancestor| ancestor.id() == image.id())
        })
    }
}

fn length(state: &State) -> usize {
    state
        .image
        .as_ref()
        .map_or(0, |image| image.config.history.len())
}

/// Whether `other` is the image so far, this step, and perhaps more.
fn continues(other: &Image, state: &State, made: &Made) -> bool {
    let steps = &other.config.history;
    let Some(step) = steps.get(length(state)) else {
        return false;
    };
    let layers = state.chain().len();
    let has_layer = step.empty_layer || other.chain.len() > layers;
    if step.created_by != made.created_by || !has_layer || other.record.layers.len() < layers {
        return false;
    }
    match &state.image {
        None => true,
        Some(image) => {
            other.chain.starts_with(&image.chain)
                && image
                    .config
                    .history
                    .iter()
                    .zip(steps)
                    .all(|(own, theirs)| own.created_by == theirs.created_by)
        }
    }
}
