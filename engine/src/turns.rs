//! One at a time, per key: who asks for a key that is taken waits for its turn.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Turns by key. Keys nobody holds or waits for take no room.
#[derive(Debug)]
pub(crate) struct Turns<K: Eq + Hash> {
    keys: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
}

impl<K: Eq + Hash> Default for Turns<K> {
    fn default() -> Self {
        Self {
            keys: Arc::default(),
        }
    }
}

/// A turn; over when dropped.
#[derive(Debug)]
pub(crate) struct Turn<K: Eq + Hash> {
    keys: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
    key: K,
    permit: Option<OwnedSemaphorePermit>,
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Waits for the turn of this key. First come, first served.
    pub(crate) async fn take(&self, key: &K) -> Turn<K> {
        let semaphore = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(
                keys.entry(key.clone())
                    .or_insert_with(|| Arc::new(Semaphore::new(1))),
            )
        };
        // Made first, so that giving up while waiting tidies up as well.
        let mut turn = Turn {
            keys: Arc::clone(&self.keys),
            key: key.clone(),
            permit: None,
        };
        turn.permit = Some(
            semaphore
                .acquire_owned()
                .await
                .expect("these semaphores are never closed"),
        );
        turn
    }
}

impl<K: Eq + Hash> Drop for Turn<K> {
    fn drop(&mut self) {
        self.permit = None;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's own is the only one left: nobody holds or waits.
        if keys
            .get(&self.key)
            .is_some_and(|semaphore| Arc::strong_count(semaphore) == 1)
        {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_held_by_one_and_forgotten_after() {
        let turns = Turns::<u32>::default();
        let first = turns.take(&1).await;
        let other = turns.take(&2).await;
        let mut second = Box::pin(turns.take(&1));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        let second = second.await;
        drop((second, other));
        assert!(turns.keys.lock().unwrap().is_empty());
    }
}
