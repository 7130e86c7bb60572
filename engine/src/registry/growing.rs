//! Blobs while they are downloaded: others read what is there of them, and follow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::image::digest::Digest;

/// How long each is. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Growing {
    lengths: Arc<Mutex<HashMap<Digest, watch::Receiver<u64>>>>,
}

/// One that grows, until it is dropped.
#[derive(Debug)]
pub(crate) struct Growth {
    growing: Growing,
    digest: Digest,
    length: watch::Sender<u64>,
}

impl Growing {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, watch::Receiver<u64>>> {
        self.lengths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob of which so much is there begins to grow. One at a time per digest.
    pub(crate) fn begin(&self, digest: &Digest, length: u64) -> Growth {
        let (sender, receiver) = watch::channel(length);
        self.lock().insert(digest.clone(), receiver);
        Growth {
            growing: self.clone(),
            digest: digest.clone(),
            length: sender,
        }
    }

    /// The length of one that grows, now and later. Its end is that of the download.
    pub(crate) fn follow(&self, digest: &Digest) -> Option<watch::Receiver<u64>> {
        self.lock().get(digest).cloned()
    }

    /// The length of one that grows now.
    pub(crate) fn length(&self, digest: &Digest) -> Option<u64> {
        self.follow(digest).map(|length| *length.borrow())
    }
}

impl Growth {
    /// So much is there.
    pub(crate) fn reached(&self, length: u64) {
        self.length.send_replace(length);
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.growing.lock().remove(&self.digest);
    }
}
