//! Attach over a websocket, as browsers can: output as binary messages without framing, input as
//! messages of either kind.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use skep_engine::{Attachment, EngineError};
use tokio::io::AsyncWriteExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::debug;

use crate::reply;
use crate::state::Call;
use crate::status::{ApiError, Outcome};

/// The version of the protocol (RFC 6455).
const VERSION: &str = "13";
/// Largest message of a client.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A request for a websocket that may have one.
pub(crate) struct Handshake {
    /// The answer to the client's key.
    accept: HeaderValue,
    permit: OwnedSemaphorePermit,
}

impl Handshake {
    /// Checks the request before anything is attached.
    ///
    /// # Errors
    /// The request is none for a websocket, or too many clients are attached.
    pub fn of(call: &Call) -> Outcome<Self> {
        let is_websocket = call
            .header(header::UPGRADE.as_str())
            .eq_ignore_ascii_case("websocket");
        let key = call.header(header::SEC_WEBSOCKET_KEY.as_str());
        if !is_websocket || key.is_empty() || call.upgrade.is_none() {
            return Err(ApiError::invalid(
                "not websocket protocol: send the headers 'Connection: Upgrade', 'Upgrade: websocket', 'Sec-WebSocket-Version: 13' and 'Sec-WebSocket-Key'",
            ));
        }
        let version = call.header(header::SEC_WEBSOCKET_VERSION.as_str());
        if version != VERSION {
            return Err(ApiError::invalid(format!(
                "unsupported websocket version '{version}': only {VERSION} is spoken"
            )));
        }
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
            .expect("base64 is made of header characters");
        Ok(Self {
            accept,
            permit: call.tasks.hijack()?,
        })
    }

    /// Makes the connection a websocket of `attachment`.
    pub fn attached(self, mut call: Call, attachment: Attachment) -> Outcome {
        let Self { accept, permit } = self;
        let upgrade = call.upgrade.take();
        call.tasks.spawn(async move {
            let Some(upgrade) = upgrade else { return };
            match upgrade.await {
                Ok(stream) => {
                    let limits = WebSocketConfig::default()
                        .max_message_size(Some(MESSAGE_BYTES_MAX))
                        .max_frame_size(Some(MESSAGE_BYTES_MAX));
                    let socket = WebSocketStream::from_raw_socket(
                        TokioIo::new(stream),
                        Role::Server,
                        Some(limits),
                    )
                    .await;
                    if let Err(error) = pump(socket, attachment).await {
                        debug!(%error, "websocket broke off");
                    }
                }
                Err(error) => debug!(%error, "client went before the upgrade"),
            }
            drop(permit);
        });
        let mut reply = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
        let headers = reply.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        Ok(reply)
    }
}

/// Carries output until the process closes it or the client goes, and input until either ends.
async fn pump<S>(socket: WebSocketStream<S>, attachment: Attachment) -> Result<(), Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let Attachment {
        mut output, input, ..
    } = attachment;
    let (mut to_client, mut from_client) = socket.split();
    let send = async {
        loop {
            let data = match output.next().await {
                Some(Ok(frame)) => frame.data,
                Some(Err(error)) => last_words(&error),
                None => break,
            };
            to_client.send(Message::Binary(data)).await?;
        }
        to_client.close().await
    };
    let receive = async {
        let mut input = input;
        while let Some(message) = from_client.next().await {
            let data = match message? {
                Message::Binary(data) => data,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => break,
                // The library answers these itself.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            if let Some(writer) = &mut input
                && (writer.write_all(&data).await.is_err() || writer.flush().await.is_err())
            {
                // Nobody reads it; the client may still want the output.
                input = None;
            }
        }
        Ok(())
    };
    tokio::select! {
        sent = send => sent,
        received = receive => received,
    }
}

fn last_words(error: &EngineError) -> Bytes {
    Bytes::from(format!("{error}\r\n"))
}
