//! Sends a snapshot file piece by piece.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::SnapshotFile;
use super::file::Pieces;
use crate::vault::Vault;

/// The encoded pieces of a file. Reading happens aside of the async threads. Damage ends the
/// stream early and sets the flag: this member's own snapshot is then not what it wrote.
pub(crate) fn stream(
    snapshot: Arc<SnapshotFile>,
    vault: Vault,
    damaged: Arc<AtomicBool>,
) -> BoxStream<'static, Bytes> {
    enum State {
        Start(Arc<SnapshotFile>, Vault),
        Reading(Box<Pieces>),
    }
    stream::unfold(State::Start(snapshot, vault), move |state| {
        let damaged = Arc::clone(&damaged);
        async move {
            let read = tokio::task::spawn_blocking(move || {
                let mut pieces = match state {
                    State::Start(snapshot, vault) => Box::new(snapshot.pieces(&vault)?),
                    State::Reading(pieces) => pieces,
                };
                pieces
                    .next()
                    .transpose()
                    .map(|piece| piece.map(|piece| (piece, pieces)))
            });
            match read.await {
                Ok(Ok(Some((piece, pieces)))) => {
                    Some((Bytes::from(piece.encode()), State::Reading(pieces)))
                }
                Ok(Ok(None)) => None,
                Ok(Err(error)) => {
                    tracing::error!(%error, "a snapshot cannot be read");
                    damaged.store(true, Ordering::SeqCst);
                    None
                }
                // The runtime is shutting down.
                Err(_) => None,
            }
        }
    })
    .boxed()
}
