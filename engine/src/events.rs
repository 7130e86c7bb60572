//! The event bus: a bounded memory of the past and a bounded feed of the present.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use skep_model::Timestamp;
use tokio::sync::mpsc;

use crate::clock;
use crate::error::Result;
use crate::filters::Filters;
use crate::locks::{Ordered, Rank};
use crate::options::EventQuery;
use crate::types::{EventActor, EventMessage};

/// Events remembered for `since`; docker remembers 256.
const REMEMBERED_MAX: usize = 1024;
/// Events waiting for one slow listener, who is cut off when there are more:
/// an event lost in silence would be worse than a stream that ends.
const WAITING_MAX: usize = 4096;

/// Keys a client may filter on.
const KEYS: [&str; 13] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
];

/// All events of this host, and those others put here.
#[derive(Debug)]
pub(crate) struct EventBus {
    inner: Ordered<Inner>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self {
            inner: Ordered::new(Rank::Events, Inner::default()),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    remembered: VecDeque<EventMessage>,
    listeners: Vec<Listener>,
}

#[derive(Debug)]
struct Listener {
    sender: mpsc::Sender<EventMessage>,
    filters: Filters,
}

/// Events, remembered ones first. Ends at the query's `until`, when the engine
/// closes, or when the reader is too slow.
#[derive(Debug)]
pub struct EventStream {
    past: VecDeque<EventMessage>,
    receiver: mpsc::Receiver<EventMessage>,
    end: Option<Pin<Box<tokio::time::Sleep>>>,
    until: Option<Timestamp>,
}

impl EventBus {
    /// Tells everybody. An event without a time happened now.
    pub(crate) fn publish(&self, mut event: EventMessage) {
        if event.time_nano == 0 {
            event.time_nano = clock::now().0;
        }
        event.time = event.time_nano / 1_000_000_000;
        if event.scope.is_empty() {
            event.scope = "local".into();
        }
        let mut inner = self.inner.lock();
        inner.listeners.retain(|listener| {
            !matches(&listener.filters, &event) && !listener.sender.is_closed()
                || listener.sender.try_send(event.clone()).is_ok()
        });
        if inner.remembered.len() == REMEMBERED_MAX {
            inner.remembered.pop_front();
        }
        inner.remembered.push_back(event);
    }

    /// What was since `since`, and what will be until `until`.
    pub(crate) fn subscribe(&self, query: EventQuery) -> Result<EventStream> {
        let accepted: Vec<&str> = KEYS.iter().copied().chain(["volume"]).collect();
        query.filters.accept(&accepted)?;
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let now = clock::now();
        let mut inner = self.inner.lock();
        let past = match query.since {
            None => VecDeque::new(),
            Some(since) => inner
                .remembered
                .iter()
                .filter(|event| {
                    event.time_nano >= since.0
                        && query.until.is_none_or(|until| event.time_nano <= until.0)
                        && matches(&query.filters, event)
                })
                .cloned()
                .collect(),
        };
        let over = query.until.is_some_and(|until| until <= now);
        if !over {
            inner.listeners.push(Listener {
                sender,
                filters: query.filters,
            });
        }
        let end = query.until.filter(|_| !over).map(|until| {
            let left = Duration::from_nanos(u64::try_from(until.0 - now.0).unwrap_or(0));
            Box::pin(tokio::time::sleep(left))
        });
        Ok(EventStream {
            past,
            receiver,
            end,
            until: query.until,
        })
    }

    /// Ends all streams.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.listeners.clear();
    }

    /// How many listen.
    pub(crate) fn listeners(&self) -> usize {
        let mut inner = self.inner.lock();
        inner
            .listeners
            .retain(|listener| !listener.sender.is_closed());
        inner.listeners.len()
    }
}

impl EventStream {
    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<EventMessage> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for EventStream {
    type Item = EventMessage;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(event) = self.past.pop_front() {
            return Poll::Ready(Some(event));
        }
        match self.receiver.poll_recv(context) {
            Poll::Ready(Some(event)) => {
                let late = self.until.is_some_and(|until| event.time_nano > until.0);
                return Poll::Ready((!late).then_some(event));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {}
        }
        match &mut self.end {
            Some(end) => end.as_mut().poll(context).map(|()| None),
            None => Poll::Pending,
        }
    }
}

/// An event about one thing, in the shape docker gives it.
pub(crate) fn event(
    kind: &str,
    action: impl Into<String>,
    id: impl Into<String>,
    attributes: BTreeMap<String, String>,
) -> EventMessage {
    let (action, id) = (action.into(), id.into());
    let (status, old_id, from) = match kind {
        "container" => (
            action.clone(),
            id.clone(),
            attributes.get("image").cloned().unwrap_or_default(),
        ),
        "image" => (action.clone(), id.clone(), String::new()),
        _ => Default::default(),
    };
    EventMessage {
        status,
        id: old_id,
        from,
        kind: kind.into(),
        action,
        actor: EventActor { id, attributes },
        scope: "local".into(),
        ..EventMessage::default()
    }
}

/// Whether an event passes the filters.
fn matches(filters: &Filters, event: &EventMessage) -> bool {
    let name = event
        .actor
        .attributes
        .get("name")
        .map_or("", String::as_str);
    let of = |kind: &str| {
        !filters.has(kind)
            || (event.kind == kind
                && filters.any(kind, |wanted| {
                    !wanted.is_empty() && (event.actor.id.starts_with(wanted) || name == wanted)
                }))
    };
    filters.any("event", |wanted| {
        // `health_status` finds `health_status: healthy`, `exec_die` itself.
        event.action == wanted
            || event
                .action
                .strip_prefix(wanted)
                .is_some_and(|rest| rest.starts_with(':'))
    }) && filters.any("type", |wanted| event.kind == wanted)
        && filters.any("scope", |wanted| event.scope == wanted)
        && filters.labels(&event.actor.attributes)
        && of("container")
        && of("volume")
        && of("network")
        && of("daemon")
        && of("plugin")
        && of("service")
        && of("node")
        && of("secret")
        && of("config")
        && image_matches(filters, event)
}

/// `image=busybox` finds the image's events and those of containers made of it.
fn image_matches(filters: &Filters, event: &EventMessage) -> bool {
    filters.any("image", |wanted| {
        let attribute = match event.kind.as_str() {
            "image" => "name",
            _ => "image",
        };
        let image = event
            .actor
            .attributes
            .get(attribute)
            .map_or("", String::as_str);
        let untagged = image.rsplit_once(':').map_or(image, |(name, _)| name);
        image == wanted || untagged == wanted || (event.kind == "image" && event.actor.id == wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container_event(action: &str, id: &str, name: &str) -> EventMessage {
        event(
            "container",
            action,
            id,
            BTreeMap::from([
                ("name".into(), name.into()),
                ("image".into(), "busybox:1".into()),
                ("tier".into(), "front".into()),
            ]),
        )
    }

    #[test]
    fn filters_of_one_key_are_or_and_of_several_are_and() {
        let event = container_event("health_status: healthy", "abcdef", "web");
        let check = |filters: Filters, expected: bool| {
            assert_eq!(matches(&filters, &event), expected, "{filters:?}");
        };
        check(Filters::none(), true);
        check(Filters::none().with("event", "health_status"), true);
        check(Filters::none().with("event", "die"), false);
        check(Filters::none().with("container", "web"), true);
        check(Filters::none().with("container", "abc"), true);
        check(Filters::none().with("container", "we"), false);
        check(
            Filters::none()
                .with("container", "x")
                .with("container", "web"),
            true,
        );
        check(Filters::none().with("image", "busybox"), true);
        check(Filters::none().with("image", "busybox:1"), true);
        check(Filters::none().with("network", "web"), false);
        check(
            Filters::none()
                .with("label", "tier=front")
                .with("type", "image"),
            false,
        );
        check(Filters::none().with("label", "tier=front"), true);
    }

    #[tokio::test]
    async fn since_replays_and_until_ends() {
        let bus = EventBus::default();
        bus.publish(container_event("create", "a", "one"));
        bus.publish(container_event("start", "a", "one"));
        let mut all = bus
            .subscribe(EventQuery {
                since: Some(Timestamp(1)),
                until: Some(clock::now()),
                filters: Filters::none().with("event", "start"),
            })
            .unwrap();
        assert_eq!(all.next().await.unwrap().action, "start");
        assert!(all.next().await.is_none());

        let mut live = bus.subscribe(EventQuery::default()).unwrap();
        bus.publish(container_event("die", "a", "one"));
        assert_eq!(live.next().await.unwrap().action, "die");
        bus.close();
        assert!(live.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_that_never_reads_is_cut_off() {
        let bus = EventBus::default();
        let _slow = bus.subscribe(EventQuery::default()).unwrap();
        for _ in 0..=WAITING_MAX {
            bus.publish(container_event("create", "a", "one"));
        }
        assert_eq!(bus.listeners(), 0);
    }
}
