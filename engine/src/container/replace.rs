//! Other bytes in the files that a running container was given in memory.

use std::fs::File;
use std::os::fd::AsFd as _;

use skep_shim::replace;

use super::Container;
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::extras::InjectedFile;
use crate::streams::blocking;

impl Engine {
    /// Replaces files that were given at the start ([`crate::StartExtras`]), each in one step:
    /// whoever opens it gets the old one or the new one, whole. What is open already stays the old
    /// one. The container goes on.
    ///
    /// # Errors
    /// It does not run, or has no such file in memory.
    pub async fn container_replace_files(
        &self,
        name: &str,
        files: Vec<InjectedFile>,
    ) -> Result<()> {
        let container = self.containers.find(name)?;
        let engine = self.shared();
        blocking(move || engine.replace_files(&container, files)).await
    }

    fn replace_files(&self, container: &Container, files: Vec<InjectedFile>) -> Result<()> {
        let running = || {
            let inner = container.lock();
            let state = &inner.record.state;
            state.status.is_live().then_some(state.pid)
        };
        let not_running = || EngineError::not_running(&container.id);
        let pid = running().ok_or_else(not_running)?;
        let namespace = File::open(format!("/proc/{pid}/ns/mnt"))
            .during(|| "cannot reach the container's files".into())?;
        // The number was still its own when the namespace was opened.
        if running() != Some(pid) {
            return Err(not_running());
        }
        let (record, directory) = {
            let inner = container.lock();
            (inner.record.clone(), container.directory.clone())
        };
        let scratch = self.root_paths(&directory, &record).merged;
        let files: Vec<replace::File> = files
            .into_iter()
            .map(|file| replace::File {
                target: file.target.to_string_lossy().into_owned(),
                uid: file.uid,
                gid: file.gid,
                mode: file.mode,
                bytes: file.data.as_slice().into(),
            })
            .collect();
        let work =
            move || replace::replace(namespace.as_fd(), &scratch, files, record.run_ids.as_ref());
        let thread = std::thread::Builder::new()
            .name("replace".into())
            .spawn(work);
        let thread = thread.during(|| "cannot start a thread".into())?;
        match thread.join() {
            Ok(replaced) => replaced.during(|| "cannot replace the container's files".into()),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
