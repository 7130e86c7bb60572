//! `system dial-stdio`: the far end of `ssh://`.

use tokio::io::AsyncWriteExt;

use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

pub async fn run(session: &Session, _: &Args) -> Outcome {
    let (mut from, mut to) = tokio::io::split(session.client.connect().await?);
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let sent = async {
        let copied = tokio::io::copy(&mut input, &mut to).await;
        // The daemon sees the end; what it still says is waited for.
        let _ = to.shutdown().await;
        match copied {
            Ok(_) => std::future::pending().await,
            Err(error) => Err(error),
        }
    };
    let ended = tokio::select! {
        ended = tokio::io::copy(&mut from, &mut output) => ended,
        ended = sent => ended,
    };
    let _ = output.flush().await;
    ended
        .map(drop)
        .map_err(|error| Failure::message(format!("connection to the daemon: {error}")))
}
