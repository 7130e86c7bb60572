//! Watching: every change in order, through a bounded queue that async code can wait on.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::store::Event;

/// The watcher left more unread than its queue holds, or the state was replaced by a dump.
/// It has missed changes: take a new snapshot and watch anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the watcher was too slow and has missed changes")]
pub struct TooSlow;

/// One subscriber's end. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Watch {
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    capacity: usize,
    lost: bool,
    waiting: Option<Waker>,
}

impl Watch {
    /// Takes the next event if there is one. After `TooSlow` it says nothing else any more.
    pub fn try_next(&mut self) -> Result<Option<Event>, TooSlow> {
        let mut queue = lock(&self.queue);
        match queue.lost {
            true => Err(TooSlow),
            false => Ok(queue.events.pop_front()),
        }
    }

    /// The poll form of [`Watch::recv`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, TooSlow>> {
        let mut queue = lock(&self.queue);
        if queue.lost {
            return Poll::Ready(Err(TooSlow));
        }
        match queue.events.pop_front() {
            Some(event) => Poll::Ready(Ok(event)),
            None => {
                queue.waiting = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Waits for the next event. May be dropped at any time without losing one.
    pub fn recv(&mut self) -> impl Future<Output = Result<Event, TooSlow>> + '_ {
        poll_fn(|context| self.poll_next(context))
    }
}

/// The sending end: all subscribers.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    queues: Vec<Arc<Mutex<Queue>>>,
}

impl Hub {
    pub(crate) fn subscribe(&mut self, capacity: usize) -> Watch {
        let queue = Arc::new(Mutex::new(Queue {
            capacity: capacity.max(1),
            ..Queue::default()
        }));
        self.queues.push(queue.clone());
        Watch { queue }
    }

    /// Puts an event into every queue that has room.
    pub(crate) fn send(&mut self, event: &Event) {
        for queue in &self.queues {
            let mut queue = lock(queue);
            if queue.lost {
                continue;
            }
            if queue.events.len() >= queue.capacity {
                queue.lost = true;
                queue.events.clear();
            } else {
                queue.events.push_back(event.clone());
            }
        }
    }

    /// Tells all watchers that they have missed changes.
    pub(crate) fn cut(&mut self) {
        for queue in &self.queues {
            let mut queue = lock(queue);
            queue.lost = true;
            queue.events.clear();
        }
        self.wake();
    }

    /// Wakes those who wait, and forgets those who left.
    pub(crate) fn wake(&mut self) {
        // A queue that only the hub holds has lost its watcher.
        self.queues.retain(|queue| Arc::strong_count(queue) > 1);
        for queue in &self.queues {
            let mut queue = lock(queue);
            if (queue.lost || !queue.events.is_empty())
                && let Some(waker) = queue.waiting.take()
            {
                waker.wake();
            }
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
