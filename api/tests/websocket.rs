//! Attaching over a websocket, as browsers do.

mod common;

use common::cluster::FakeCluster;
use common::docker::{can_run, import};
use common::{DEADLINE, Server, with_server};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

async fn connect(server: &Server, path: &str) -> Result<WebSocketStream<UnixStream>, Error> {
    let stream = UnixStream::connect(&server.socket).await.unwrap();
    let (socket, _) = client_async(format!("ws://docker{path}"), stream).await?;
    Ok(socket)
}

async fn next(socket: &mut WebSocketStream<UnixStream>) -> Message {
    let message = tokio::time::timeout(DEADLINE, socket.next()).await;
    message
        .expect("a message comes in time")
        .expect("the socket is open")
        .unwrap()
}

async fn text(socket: &mut WebSocketStream<UnixStream>, length: usize) -> String {
    let mut all = Vec::new();
    while all.len() < length {
        match next(socket).await {
            Message::Binary(data) => all.extend_from_slice(&data),
            other => panic!("no output: {other:?}"),
        }
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn a_websocket_carries_input_and_output_until_the_end() {
    if !can_run() {
        return;
    }
    with_server(FakeCluster::inactive(), |server| async move {
        import(&server).await;
        let config =
            json!({ "Image": "bb:1", "Cmd": ["cat"], "OpenStdin": true, "StdinOnce": true });
        server
            .post("/containers/create?name=echo", config)
            .await
            .expect(201);
        let path = "/v1.50/containers/echo/attach/ws?stream=1&stdin=1&stdout=1&stderr=1";
        let mut socket = connect(&server, path).await.unwrap();
        server
            .post("/containers/echo/start", json!({}))
            .await
            .expect(204);
        for message in [Message::text("one\n"), Message::binary(b"two\n".to_vec())] {
            socket.send(message).await.unwrap();
        }
        // Not framed: both ends are the process's own streams.
        assert_eq!(text(&mut socket, 8).await, "one\ntwo\n");
        server
            .post("/containers/echo/kill", json!({}))
            .await
            .expect(204);
        assert!(matches!(next(&mut socket).await, Message::Close(_)));
    });
}

#[test]
fn a_client_that_closes_leaves_the_container_alone() {
    if !can_run() {
        return;
    }
    with_server(FakeCluster::inactive(), |server| async move {
        import(&server).await;
        let config = json!({ "Image": "bb:1", "Cmd": ["sh", "-c", "echo up; exec sleep 1000"] });
        server
            .post("/containers/create?name=on", config)
            .await
            .expect(201);
        // Before 1.42 every stream was attached, whatever was asked for.
        let mut socket = connect(&server, "/v1.41/containers/on/attach/ws?stream=1")
            .await
            .unwrap();
        server
            .post("/containers/on/start", json!({}))
            .await
            .expect(204);
        assert_eq!(text(&mut socket, 3).await, "up\n");
        socket.close(None).await.unwrap();
        let state = server.get("/containers/on/json").await.expect(200).json();
        assert_eq!(state["State"]["Running"], true);
        // What it said is in the log, which a websocket can begin with.
        let path = "/containers/on/attach/ws?logs=1&stdout=1";
        let mut socket = connect(&server, path).await.unwrap();
        assert_eq!(text(&mut socket, 3).await, "up\n");
        assert!(matches!(next(&mut socket).await, Message::Close(_)));
    });
}

#[test]
fn what_is_no_websocket_or_no_container_is_refused() {
    with_server(FakeCluster::inactive(), |server| async move {
        let status = |error: Error| match error {
            Error::Http(answer) => answer.status().as_u16(),
            other => panic!("{other}"),
        };
        let path = "/containers/nosuch/attach/ws?stream=1&stdout=1";
        assert_eq!(status(connect(&server, path).await.unwrap_err()), 404);
        let plain = server.get(path).await.expect(400);
        assert!(plain.message().starts_with("not websocket protocol"));
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
            ("sec-websocket-version", "8"),
        ];
        let old = server.request("GET", path, &headers, "").await.expect(400);
        assert!(old.message().contains("version '8'"), "{}", old.message());
    });
}
