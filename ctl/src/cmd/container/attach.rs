//! `container attach`.

use super::exit::{self, Exit};
use super::path;
use super::run::with_terminal;
use super::streams::{self, Ended, Streams};
use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    to(session, args, args.positional(0)).await
}

/// Attaches to a container, as the flags `detach-keys`, `no-stdin` and `sig-proxy` say.
pub async fn to(session: &Session, args: &Args, name: &str) -> Outcome {
    let container = session.client.json(Call::get(path(name, "/json"))).await?;
    let wrong = |text: &str| Err(Failure::message(text));
    if !container.bool("State.Running") {
        return wrong("cannot attach to a stopped container, start it first");
    }
    if container.bool("State.Paused") {
        return wrong("cannot attach to a paused container, unpause it first");
    }
    if container.bool("State.Restarting") {
        return wrong("cannot attach to a restarting container, wait until it is running");
    }
    let id = container.str("Id");
    let streams = Streams {
        tty: container.bool("Config.Tty"),
        input: !args.flag("no-stdin") && container.bool("Config.OpenStdin"),
        output: true,
        detach_keys: streams::detach_keys(args.text("detach-keys")).map_err(Failure::Message)?,
    };
    if streams.tty && streams.input && !session.streams.in_is_terminal {
        return wrong("the input device is not a TTY");
    }
    let exit = Exit::begin(session, id, "not-running").await?;
    let call = Call::post(path(id, "/attach"))
        .query("stream", "1")
        .query_if("stdin", streams.input)
        .query("stdout", "1")
        .query("stderr", "1")
        .query_text("detachKeys", args.text("detach-keys"));
    let stream = session.client.hijack(call).await?;
    let code = with_terminal(
        session,
        id,
        &streams,
        args.flag_or("sig-proxy", true),
        async {
            match streams::relay(session, stream, &streams).await? {
                Ended::Detached => Err(Failure::message("read escape sequence")),
                Ended::Closed => exit.status().await,
            }
        },
    )
    .await?;
    exit::pass_on(code)
}
