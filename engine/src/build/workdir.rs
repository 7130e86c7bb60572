//! `WORKDIR`: also makes the directory.

use std::path::Path;
use std::sync::Arc;

use super::Build;
use super::commit::{Made, pack_layer};
use super::copy::Target;
use super::copy::place::Directories;
use super::state::State;
use crate::container::mounts::clean;
use crate::error::{EngineError, IoContext as _, Result};
use crate::tree::confined;

impl Build {
    pub(super) async fn workdir_step(&mut self, state: &mut State, given: &str) -> Result<()> {
        let given = state.expand(&self.args, given)?;
        if given.is_empty() {
            return Err(EngineError::invalid("cannot normalize nothing"));
        }
        state.config.working_dir = match given.starts_with('/') {
            true => given,
            false => clean(&format!("/{}/{given}", state.config.working_dir)),
        };
        let path = state.config.working_dir.clone();
        let made = Made::files(state, &format!("WORKDIR {path}"), &())?;
        if self.cached(state, &made).await? {
            return Ok(());
        }
        self.say_container().await?;
        let target = Target::make(self, state).await?;
        let engine = Arc::clone(&self.engine);
        let layer = self
            .workspace
            .blocking(move || {
                confined(target.root(), move || {
                    let what = || format!("cannot make directory `{path}`");
                    let mut directories = Directories::new((0, 0), None);
                    directories.make(Path::new(&clean(&path))).during(what)?;
                    directories.finish().during(what)
                })?;
                pack_layer(&engine, &target.upper)
            })
            .await?;
        self.commit(state, made, layer).await
    }
}
