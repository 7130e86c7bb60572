//! What a build tells its client.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{EngineError, Result};
use crate::streams::Progress;
use crate::types::ProgressEvent;

/// Lines kept of a quiet build, in case it fails.
const KEPT_MAX: usize = 4096;

/// Lines to the client, or for later.
#[derive(Debug, Clone)]
pub(super) struct Output {
    progress: Progress,
    /// Of a quiet build: what it would have said.
    kept: Option<Arc<Mutex<VecDeque<ProgressEvent>>>>,
}

impl Output {
    pub(super) fn new(progress: Progress, quiet: bool) -> Self {
        Self {
            progress,
            kept: quiet.then(Arc::default),
        }
    }

    /// A piece of text.
    pub(super) async fn say(&self, text: impl Into<String>) -> Result<()> {
        self.send(ProgressEvent::stream(text)).await
    }

    pub(super) async fn send(&self, event: ProgressEvent) -> Result<()> {
        let Some(kept) = &self.kept else {
            return self.deliver(event).await;
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(event);
        Ok(())
    }

    async fn deliver(&self, event: ProgressEvent) -> Result<()> {
        match self.progress.deliver(event).await {
            true => Ok(()),
            false => Err(EngineError::unavailable("the client of the build is gone")),
        }
    }

    /// Where others may tell how far they are.
    pub(super) fn progress(&self) -> Progress {
        match self.kept {
            Some(_) => Progress::none(),
            None => self.progress.clone(),
        }
    }

    /// The id of a stage's result.
    pub(super) async fn aux(&self, id: &str) -> Result<()> {
        self.send(ProgressEvent {
            aux: Some(serde_json::json!({ "ID": id })),
            ..ProgressEvent::default()
        })
        .await
    }

    /// The end of a quiet build.
    pub(super) async fn result(&self, id: &str) -> Result<()> {
        match self.kept {
            Some(_) => {
                self.deliver(ProgressEvent {
                    aux: Some(serde_json::json!({ "ID": id })),
                    ..ProgressEvent::default()
                })
                .await?;
                self.deliver(ProgressEvent::stream(format!("{id}\n"))).await
            }
            None => Ok(()),
        }
    }

    /// Says after a failure what was kept.
    pub(super) async fn reveal(&self) {
        let Some(kept) = &self.kept else { return };
        let kept = std::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
        for event in kept {
            if !self.progress.deliver(event).await {
                return;
            }
        }
    }
}
