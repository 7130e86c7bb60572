//! The body of a request, and what its handler has left of it.
//!
//! A client that is still sending when the connection ends sees a broken pipe, and not the answer
//! that says what was wrong. So a body that a handler has not read is read before the answer goes
//! out, up to a bound.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;

/// Bytes of a body read for nothing; who sends more is cut off.
const DRAINED_BYTES_MAX: usize = 256 << 10;
/// How long a client may take to send them.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A body that goes back to the server when its reader is done with it.
pub(crate) struct RequestBody {
    incoming: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

/// The server's end.
pub(crate) struct Unread(oneshot::Receiver<Incoming>);

impl RequestBody {
    pub fn new(incoming: Incoming) -> (Self, Unread) {
        let (back, unread) = oneshot::channel();
        let body = Self {
            incoming: Some(incoming),
            back: Some(back),
        };
        (body, Unread(unread))
    }
}

impl Unread {
    /// Reads what is left of a body that nobody holds any more.
    pub async fn drain(mut self) {
        let Ok(mut body) = self.0.try_recv() else {
            return;
        };
        let read = async {
            let mut bytes = 0;
            while let Some(Ok(frame)) = body.frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > DRAINED_BYTES_MAX {
                    break;
                }
            }
        };
        // The answer goes out in either case.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, read).await;
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let (Some(incoming), Some(back)) = (self.incoming.take(), self.back.take())
            && !incoming.is_end_stream()
        {
            let _ = back.send(incoming);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.incoming {
            Some(incoming) => incoming.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
