//! Mutexes that are taken in one order, so that no two threads ever wait for each other.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a mutex guards. A thread that holds one takes only those that come later here; a debug build
/// panics where it does not, with the first caller that could have met another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// The ranges of private user namespaces, from the choice to the record.
    PrivateIds,
    /// Links, ports and zones.
    NetworkWork,
    /// Images and their names. Held while it is asked which layers containers stand on.
    Images,
    /// The order in which a container's record is written.
    Saving,
    /// The index of containers.
    Containers,
    /// One container. Two at once are never held.
    Container,
    /// Records of networks, and addresses that are taken.
    Networks,
    /// How often volumes with devices are mounted.
    Mounted,
    /// Records of volumes.
    Volumes,
    Execs,
    Events,
}

/// A mutex with its place in the order. What a panic left in it is used as it is.
#[derive(Debug)]
pub(crate) struct Ordered<T> {
    rank: Rank,
    inner: Mutex<T>,
}

impl<T> Ordered<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            inner: Mutex::new(value),
        }
    }

    pub(crate) fn lock(&self) -> Held<'_, T> {
        // First, so that what is wrong panics instead of waiting for ever.
        let place = Place::taken(self.rank);
        Held {
            guard: self.inner.lock().unwrap_or_else(PoisonError::into_inner),
            _place: place,
        }
    }
}

/// A mutex that is held; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held<'a, T> {
    guard: MutexGuard<'a, T>,
    _place: Place,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// What this thread holds, noted in debug builds alone.
#[derive(Debug)]
struct Place {
    #[cfg(debug_assertions)]
    rank: Rank,
}

#[cfg(debug_assertions)]
thread_local! {
    static HELD: std::cell::RefCell<Vec<Rank>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[cfg(debug_assertions)]
impl Place {
    fn taken(rank: Rank) -> Self {
        let later = HELD.with_borrow(|held| held.iter().copied().find(|other| *other >= rank));
        assert!(
            later.is_none(),
            "the lock of {rank:?} is taken while that of {later:?} is held: another thread may hold them the other way round"
        );
        HELD.with_borrow_mut(|held| held.push(rank));
        Self { rank }
    }
}

#[cfg(debug_assertions)]
impl Drop for Place {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|held| held.retain(|other| *other != self.rank));
    }
}

#[cfg(not(debug_assertions))]
impl Place {
    fn taken(_: Rank) -> Self {
        Self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (Ordered<u8>, Ordered<u8>) {
        (
            Ordered::new(Rank::Images, 1),
            Ordered::new(Rank::Container, 2),
        )
    }

    #[test]
    fn locks_are_taken_in_their_order_and_given_back() {
        let (images, container) = two();
        for _ in 0..2 {
            let outer = images.lock();
            *container.lock() += *outer;
        }
        assert_eq!(*container.lock(), 4);
        // One after the other is no order.
        assert_eq!(*images.lock(), 1);
    }

    #[test]
    #[should_panic(expected = "the lock of Images is taken while that of Some(Container) is held")]
    fn the_other_way_round_is_found_without_another_thread() {
        let (images, container) = two();
        let _inner = container.lock();
        let _outer = images.lock();
    }

    #[test]
    #[should_panic(expected = "the lock of Container is taken")]
    fn two_of_a_kind_are_never_held() {
        let (_, first) = two();
        let (_, second) = two();
        let _first = first.lock();
        let _second = second.lock();
    }
}
