//! `container exec`.

use serde_json::json;

use super::exit;
use super::path;
use super::signals;
use super::streams::{self, Ended, Streams};
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::grammar::environment;
use crate::session::Session;
use crate::tty;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let (name, command) = target(args);
    within(session, args, path(name, "/exec"), command).await
}

/// What the command is run in, and the command.
pub fn target(args: &Args) -> (&str, &[String]) {
    let both = args.positionals().split_first();
    let (name, command) = both.expect("the arity wants a name");
    (name, command)
}

/// Which streams a command has.
pub struct How {
    pub detach: bool,
    pub interactive: bool,
    pub tty: bool,
}

/// As [`within_as`], with the streams that flags ask for.
pub async fn within(
    session: &Session,
    args: &Args,
    made_at: String,
    command: &[String],
) -> Outcome {
    let how = How {
        detach: args.flag("detach"),
        interactive: args.flag("interactive"),
        tty: args.flag("tty"),
    };
    within_as(session, args, made_at, command, &how).await
}

/// Runs a command in whatever makes an exec at this path of the API.
pub async fn within_as(
    session: &Session,
    args: &Args,
    made_at: String,
    command: &[String],
    how: &How,
) -> Outcome {
    let (detach, interactive, wants_tty) = (how.detach, how.interactive, how.tty);
    let streams = Streams {
        tty: wants_tty,
        input: interactive && !detach,
        output: !detach,
        detach_keys: streams::detach_keys(args.text("detach-keys")).map_err(Failure::Message)?,
    };
    if streams.tty && streams.input && !session.streams.in_is_terminal {
        return Err(Failure::message("the input device is not a TTY"));
    }
    let mut variables = Vec::new();
    for file in args.list("env-file") {
        variables.extend(environment::file(&file, Some(&session.env)).map_err(Failure::Message)?);
    }
    variables.extend(args.each("env", |value| environment::variable(value, &session.env))?);
    let mut body = json!({
        "User": args.text("user"),
        "Privileged": args.flag("privileged"),
        "Tty": wants_tty,
        "AttachStdin": streams.input,
        "AttachStdout": streams.output,
        "AttachStderr": streams.output,
        "DetachKeys": args.text("detach-keys"),
        "Env": variables,
        "WorkingDir": args.text("workdir"),
        "Cmd": command,
    });
    let size = (wants_tty && session.streams.out_is_terminal)
        .then(tty::size)
        .flatten();
    if let Some((rows, columns)) = size {
        body["ConsoleSize"] = json!([rows, columns]);
    }
    let answer = session.client.json(Call::post(made_at).json(&body)).await?;
    let id = segment(answer.str("Id"));
    if id.is_empty() {
        return Err(Failure::message("exec ID empty"));
    }
    let mut start = json!({"Detach": detach, "Tty": wants_tty});
    if let Some((rows, columns)) = size {
        start["ConsoleSize"] = json!([rows, columns]);
    }
    let call = Call::post(format!("/exec/{id}/start")).json(&start);
    if detach {
        return session.client.done(call).await;
    }
    let stream = session.client.hijack(call).await?;
    let raw = if streams.tty && streams.input {
        Some(tty::raw_mode()?)
    } else {
        None
    };
    let resize = format!("/exec/{id}/resize");
    let sizes = async {
        if streams.tty && session.streams.out_is_terminal {
            signals::follow_size(session, &resize).await;
        }
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = streams::relay(session, stream, &streams) => ended,
        () = sizes => std::future::pending().await,
    };
    drop(raw);
    if ended? == Ended::Detached {
        return Ok(());
    }
    let state = session
        .client
        .json(Call::get(format!("/exec/{id}/json")))
        .await?;
    exit::pass_on(state.int("ExitCode"))
}
