//! Everything a build has on disk while it runs: `builds/<id>/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::image::store::Activity;
use crate::names;
use crate::options::RemoveOptions;
use crate::record;
use crate::streams::blocking;

/// The name of the container that runs at the moment, so that it is found after a
/// crash.
const CONTAINER: &str = "container";

/// The directory of one build. Dropped without [`Workspace::finish`], it goes in
/// the background, and the container of its step with it.
pub(crate) struct Workspace {
    engine: Arc<Engine>,
    directory: PathBuf,
    /// What still works in the directory, cancelled or not.
    busy: TaskTracker,
    finished: AtomicBool,
    counter: AtomicUsize,
    /// Images of steps are nobody's until the next step has them as parent.
    activity: std::sync::Mutex<Option<Activity>>,
}

impl Workspace {
    pub(crate) async fn create(engine: &Arc<Engine>) -> Result<Self> {
        let id = names::new_id(&mut rand::rng())[..12].to_owned();
        let directory = engine.config.data_root.join("builds").join(id);
        let made = directory.clone();
        blocking(move || record::make_directory(&made, 0o700)).await?;
        Ok(Self {
            engine: Arc::clone(engine),
            directory,
            busy: TaskTracker::new(),
            finished: AtomicBool::new(false),
            counter: AtomicUsize::new(0),
            activity: std::sync::Mutex::new(Some(engine.images.activity())),
        })
    }

    /// Runs blocking code that may use the directory; it is not removed before
    /// that has ended, even when nobody waits any more.
    pub(crate) async fn blocking<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let token = self.busy.token();
        blocking(move || {
            let _token = token;
            work()
        })
        .await
    }

    /// Runs async code to its end, even when nobody waits any more.
    pub(crate) async fn to_end<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match self.busy.spawn(work).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(EngineError::unavailable("the engine is shutting down")),
        }
    }

    /// A new empty directory. Blocking.
    pub(crate) fn directory(&self, what: &str) -> Result<PathBuf> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{what}-{number}"));
        record::make_directory(&path, 0o755)?;
        Ok(path)
    }

    /// Reserves the name of the next container. Blocking.
    pub(crate) fn container_name(&self) -> Result<String> {
        let name = format!("build-{}", &names::new_id(&mut rand::rng())[..16]);
        record::replace(&self.directory.join(CONTAINER), name.as_bytes(), 0o600)?;
        Ok(name)
    }

    /// Says that the latest container is not to be removed with the build, or is
    /// gone. Blocking.
    pub(crate) fn forget_container(&self) -> Result<()> {
        record::remove_file(&self.directory.join(CONTAINER))
    }

    /// Removes the directory, and blobs of steps that did not get to an image.
    pub(crate) async fn finish(&self) {
        self.finished.store(true, Ordering::Relaxed);
        let activity = self
            .activity
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        clear(
            &self.engine,
            self.directory.clone(),
            self.busy.clone(),
            activity,
        )
        .await;
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if self.finished.load(Ordering::Relaxed) {
            return;
        }
        let engine = Arc::clone(&self.engine);
        let (directory, busy) = (self.directory.clone(), self.busy.clone());
        let activity = self
            .activity
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        // Outside of a runtime nothing can be waited for; the next `open` clears.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let owner = Arc::clone(&engine);
        // When the engine closes first, the next one clears what is left.
        owner.spawn(async move { clear(&engine, directory, busy, activity).await });
    }
}

async fn clear(
    engine: &Arc<Engine>,
    directory: PathBuf,
    busy: TaskTracker,
    activity: Option<Activity>,
) {
    busy.close();
    busy.wait().await;
    if let Err(error) = remove(engine, &directory).await {
        tracing::warn!(%error, "part of a build was left");
    }
    drop(activity);
    if let Err(error) = engine.sweep_images().await {
        tracing::warn!(%error, "layers of a build were left");
    }
}

async fn remove(engine: &Arc<Engine>, directory: &Path) -> Result<()> {
    let marker = directory.join(CONTAINER);
    let name = blocking(move || match fs::read_to_string(&marker) {
        Ok(name) => Ok(name),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).during(|| format!("cannot read `{}`", marker.display())),
    })
    .await?;
    if !name.is_empty() {
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        match engine.container_remove(&name, options).await {
            Err(error) if error.is_not_found() => {}
            removed => removed?,
        }
    }
    let directory = directory.to_owned();
    blocking(move || record::remove_tree(&directory)).await
}

impl Engine {
    /// Removes what builds left that a crash cut off.
    pub(crate) async fn clear_builds(&self) -> Result<()> {
        let engine = self.shared();
        let root = self.config.data_root.join("builds");
        let place = root.clone();
        let left = blocking(move || {
            record::make_directory(&place, 0o700)?;
            let what = || format!("cannot read `{}`", place.display());
            let mut left = Vec::new();
            for entry in fs::read_dir(&place).during(what)? {
                left.push(entry.during(what)?.path());
            }
            Ok(left)
        })
        .await?;
        for directory in left {
            // One that cannot be removed now must not keep the engine from opening.
            if let Err(error) = remove(&engine, &directory).await {
                tracing::warn!(%error, "part of a build was left");
            }
        }
        Ok(())
    }
}
