//! Images made from a Dockerfile, the classic way: one image for each step, made
//! of the one before.
//!
//! What a step says is read by `skep-dockerfile` and decided here; what it does is
//! done by the rest of the engine: `RUN` is a container, `COPY` an archive that is
//! packed in one confined tree and unpacked in another, everything else only a
//! change of the configuration. All that a build needs while it runs is below one
//! directory, its [`workspace::Workspace`], which goes when it ends and which the
//! next `open` removes after a crash.

mod base;
mod cache_from;
pub(crate) mod caches;
mod commit;
mod context;
mod copy;
mod download;
pub(crate) mod metadata;
mod mounts;
mod options;
mod output;
mod run;
mod stage;
mod state;
mod workdir;
pub(crate) mod workspace;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use skep_dockerfile::{BuildArgs, Dockerfile, Platforms};
use tokio::io::AsyncRead;

pub use options::BuildOptions;

use self::output::Output;
use self::workspace::Workspace;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::image::manifest::host_platform;
use crate::image::{Image, Reference};
use crate::streams::Progress;
use crate::types::Platform;

/// One build that is going on.
struct Build {
    engine: Arc<Engine>,
    workspace: Arc<Workspace>,
    options: Arc<BuildOptions>,
    output: Output,
    file: Dockerfile,
    args: BuildArgs,
    /// Where `COPY` copies from.
    context: PathBuf,
    /// Results of the stages so far; `None` is one that made nothing.
    finished: Vec<Option<Arc<Image>>>,
    /// Images of `COPY --from` and the like by the name they were asked for by.
    images: BTreeMap<String, Arc<Image>>,
    /// Images of `--cache-from` that may still help.
    cache_from: Vec<Arc<Image>>,
    /// With `--cache-from`, the images that are here of those named: steps that only other images have
    /// are not taken.
    cache_among: Option<Vec<Arc<Image>>>,
}

impl Engine {
    /// Builds an image of a context (an archive, or a Dockerfile alone when
    /// `remote` says so); its id. What happens goes to `progress`, which is waited
    /// for. Dropping the future stops the build and takes away what it made.
    pub async fn image_build<R>(
        &self,
        context: R,
        options: BuildOptions,
        progress: Progress,
    ) -> Result<String>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let names = options
            .tags
            .iter()
            .map(|tag| {
                let name = tag.parse::<Reference>()?.or_latest();
                match name.digest {
                    Some(_) => Err(EngineError::invalid("build tag cannot contain a digest")),
                    None => Ok(name),
                }
            })
            .collect::<Result<Vec<Reference>>>()?;
        options.check()?;
        let engine = self.shared();
        let workspace = Arc::new(Workspace::create(&engine).await?);
        let output = Output::new(progress, options.quiet);
        let made = self
            .build_in(&workspace, context, options, output.clone())
            .await;
        let built = match made {
            Ok(image) => self
                .name_built(&image, &names, &output)
                .await
                .map(|()| image),
            Err(error) => Err(error),
        };
        if built.is_err() {
            output.reveal().await;
        }
        workspace.finish().await;
        Ok(built?.id().to_string())
    }

    async fn build_in<R>(
        &self,
        workspace: &Arc<Workspace>,
        context: R,
        options: BuildOptions,
        output: Output,
    ) -> Result<Arc<Image>>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let engine = self.shared();
        let (context, text) = context::receive(&engine, workspace, context, &options).await?;
        let mut file =
            Dockerfile::parse(&text).map_err(|error| EngineError::invalid(error.to_string()))?;
        if !options.target.is_empty() {
            let target = file.stage(&options.target).ok_or_else(|| {
                EngineError::invalid(format!(
                    "failed to reach build target {} in Dockerfile",
                    options.target
                ))
            })?;
            file.stages.truncate(target + 1);
        }
        for (key, value) in &options.labels {
            file.add_label(key, value);
        }
        let host = host_platform();
        let target = options.platform.clone().unwrap_or_else(|| host.clone());
        let parts = |platform: &Platform| {
            (
                platform.os.clone(),
                platform.architecture.clone(),
                platform.variant.clone(),
            )
        };
        let platforms = Platforms {
            build: parts(&host),
            target: parts(&target),
        };
        let cache_from: Vec<Arc<Image>> = options
            .cache_from
            .iter()
            .filter_map(|name| engine.images.find(name).ok())
            .collect();
        let cache_among = (!options.cache_from.is_empty()).then(|| cache_from.clone());
        let build = Build {
            args: BuildArgs::new(options.build_args.clone(), &platforms),
            workspace: Arc::clone(workspace),
            options: Arc::new(options),
            output,
            file,
            context,
            finished: Vec::new(),
            images: BTreeMap::new(),
            cache_from,
            cache_among,
            engine,
        };
        build.run().await
    }

    async fn name_built(&self, image: &Image, names: &[Reference], output: &Output) -> Result<()> {
        let short = image.id().short().to_owned();
        output.say(format!("Successfully built {short}\n")).await?;
        for name in names {
            self.image_tag(image.id().as_str(), &name.to_string())
                .await?;
            let familiar = name.familiar();
            output
                .say(format!("Successfully tagged {familiar}\n"))
                .await?;
        }
        output.result(image.id().as_str()).await
    }
}
