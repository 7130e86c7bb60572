//! `container logs`.

use super::path;
use crate::client::{Call, Chunks};
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::grammar::moment;
use crate::session::Session;
use crate::stdcopy::{Channel, Demux};

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let container = session
        .client
        .json(Call::get(path(args.positional(0), "/json")))
        .await?;
    let moment = |flag: &str| match args.text(flag) {
        "" => Ok(String::new()),
        text => moment::parse(text, now())
            .map_err(|why| Failure::message(format!("invalid value for \"{flag}\": {why}"))),
    };
    let call = Call::get(path(container.str("Id"), "/logs"))
        .query("stdout", "1")
        .query("stderr", "1")
        .query_if("details", args.flag("details"))
        .query_if("follow", args.flag("follow"))
        .query_if("timestamps", args.flag("timestamps"))
        .query_text("since", &moment("since")?)
        .query_text("until", &moment("until")?)
        .query("tail", args.maybe("tail").unwrap_or("all"));
    let chunks = Chunks::of(session.client.send(call).await?);
    copy(session, chunks, container.bool("Config.Tty")).await
}

/// Writes a log stream out: as it is from a terminal, else each part where it belongs.
async fn copy(session: &Session, mut chunks: Chunks, tty: bool) -> Outcome {
    let mut demux = Demux::default();
    while let Some(chunk) = chunks.next().await? {
        if tty {
            session.print_bytes(&chunk)?;
        } else {
            write(session, &mut demux, &chunk)?;
        }
    }
    Ok(())
}

/// Writes a piece of a mixed stream to stdout and stderr.
pub fn write(session: &Session, demux: &mut Demux, chunk: &[u8]) -> Outcome {
    demux.feed::<Failure>(chunk, |channel, bytes| match channel {
        Channel::Out => session.print_bytes(bytes),
        Channel::Err => session.print_error_bytes(bytes),
    })
}
