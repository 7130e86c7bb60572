//! Takes in a snapshot that the leader streams here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::file::{Content, Counter};
use super::{Piece, Shelf, SnapshotFile, SnapshotSource};
use crate::Chunks;

/// A stream that brings nothing for this long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Pieces between the network and the disk.
const PIECES_WAITING: usize = 4;

/// Writes a stream into a temporary file and verifies that it is whole. `heard` is called with
/// each piece.
pub(crate) async fn receive(
    shelf: Arc<Shelf>,
    source: SnapshotSource,
    expected: Content,
    mut chunks: Chunks,
    heard: impl Fn() + Send,
) -> Result<SnapshotFile, String> {
    let (pieces, mut waiting) = mpsc::channel::<Option<Piece>>(PIECES_WAITING);
    let mut writing = tokio::task::spawn_blocking(move || -> std::io::Result<Option<_>> {
        let mut writer = shelf.begin_received(source)?;
        // `None` says that all of it has come; a channel that just closes does not.
        while let Some(piece) = waiting.blocking_recv() {
            match piece {
                Some(piece) => writer.piece(&piece)?,
                None => return writer.finish().map(Some),
            }
        }
        Ok(None)
    });

    let mut counter = Counter::default();
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(SILENCE_MAX, chunks.next()) => next,
            ended = &mut writing => {
                return Err(match ended {
                    Ok(Err(error)) => error.to_string(),
                    _ => "the snapshot's writer ended early".to_owned(),
                });
            }
        };
        let Ok(next) = next else {
            return Err("the stream fell silent".to_owned());
        };
        let Some(encoded) = next else { break };
        heard();
        counter.count(&encoded);
        let piece = Piece::decode(&encoded).ok_or("a piece is malformed")?;
        if counter.bytes() > expected.bytes {
            return Err("there is more than was announced".to_owned());
        }
        if pieces.send(Some(piece)).await.is_err() {
            break;
        }
    }
    if counter.content() != expected {
        return Err("the snapshot did not arrive whole".to_owned());
    }
    // When the writer has failed, its own error follows.
    let _ = pieces.send(None).await;
    match writing.await {
        Ok(Ok(Some(file))) => Ok(file),
        Ok(Ok(None)) => Err("the snapshot did not arrive whole".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
