//! `container run`.

use super::create::{create, with_help};
use super::exit::{self, Exit};
use super::streams::{self, Ended, Streams};
use super::{config, path, signals};
use crate::client::Call;
use crate::failure::{Failure, Outcome, status};
use crate::flags::Args;
use crate::session::Session;
use crate::tty;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let failed = |failure: Failure, status: u8| with_help(failure, "run", status);
    let detach = args.flag("detach");
    let body = config::build(session, args).map_err(|failure| failed(failure, status::USAGE))?;
    check(session, args)?;
    let id = create(session, args, &body)
        .await
        .map_err(|failure| failed(failure, status::USAGE))?;
    if detach {
        // Whether it starts or not, it is there.
        let started = start(session, &id).await;
        session.say(&id)?;
        return started;
    }
    let attached = config::attached(args);
    let streams = Streams {
        tty: args.flag("tty"),
        input: attached.input,
        output: attached.out || attached.err,
        detach_keys: streams::detach_keys(args.text("detach-keys")).map_err(Failure::Message)?,
    };
    let call = Call::post(path(&id, "/attach"))
        .query("stream", "1")
        .query_if("stdin", attached.input)
        .query_if("stdout", attached.out)
        .query_if("stderr", attached.err)
        .query_text("detachKeys", args.text("detach-keys"));
    let stream = session.client.hijack(call).await?;
    let condition = if args.flag("rm") {
        "removed"
    } else {
        "next-exit"
    };
    let exit = Exit::begin(session, &id, condition).await?;
    start(session, &id).await?;
    let code = with_terminal(
        session,
        &id,
        &streams,
        args.flag_or("sig-proxy", true),
        async {
            match streams::relay(session, stream, &streams).await? {
                Ended::Detached => Ok(0),
                Ended::Closed => exit.status().await,
            }
        },
    )
    .await?;
    exit::pass_on(code)
}

/// Flags that cannot go together.
fn check(session: &Session, args: &Args) -> Outcome {
    if args.flag("detach") && args.given("attach") {
        return Err(Failure::message(
            "conflicting options: cannot specify both --attach and --detach",
        ));
    }
    if args.flag("rm") && !matches!(args.text("restart"), "" | "no") {
        let why = "conflicting options: cannot specify both --restart and --rm";
        return Err(with_help(Failure::message(why), "run", status::USAGE));
    }
    if args.flag("tty")
        && !args.flag("detach")
        && config::attached(args).input
        && !session.streams.in_is_terminal
    {
        return Err(Failure::message("the input device is not a TTY"));
    }
    Ok(())
}

/// Starts a container; a failure carries the status that a shell would have.
async fn start(session: &Session, id: &str) -> Outcome {
    match session.client.done(Call::post(path(id, "/start"))).await {
        Ok(()) => Ok(()),
        Err(failure) => {
            let status = exit::start_status(&failure.to_string());
            Err(with_help(failure, "run", status))
        }
    }
}

/// Does `work` with the terminal in raw mode and its size followed, or with signals passed on.
pub async fn with_terminal<T>(
    session: &Session,
    id: &str,
    streams: &Streams,
    proxies: bool,
    work: impl Future<Output = Outcome<T>>,
) -> Outcome<T> {
    let raw = if streams.tty && streams.input && session.streams.in_is_terminal {
        Some(tty::raw_mode()?)
    } else {
        None
    };
    let resize = path(id, "/resize");
    let sizes = async {
        if streams.tty && session.streams.out_is_terminal {
            signals::follow_size(session, &resize).await;
        }
        std::future::pending::<()>().await;
    };
    let forwards = async {
        if proxies && !streams.tty {
            signals::forward(session, id).await
        } else {
            std::future::pending().await
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = sizes => std::future::pending().await,
        insisted = forwards => match insisted {
            Ok(()) => std::future::pending().await,
            Err(failure) => Err(failure),
        },
    };
    drop(raw);
    done
}
