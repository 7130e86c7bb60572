//! `container start`.

use super::exit::{self, Exit};
use super::path;
use super::run::with_terminal;
use super::streams::{self, Ended, Streams};
use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let attach = args.flag("attach") || args.flag("interactive");
    if !attach {
        return start_all(session, args.positionals()).await;
    }
    let [name] = args.positionals() else {
        return Err(Failure::message(
            "you cannot start and attach multiple containers at once",
        ));
    };
    let container = session.client.json(Call::get(path(name, "/json"))).await?;
    let id = container.str("Id");
    let streams = Streams {
        tty: container.bool("Config.Tty"),
        input: args.flag("interactive") && container.bool("Config.OpenStdin"),
        output: true,
        detach_keys: streams::detach_keys(args.text("detach-keys")).map_err(Failure::Message)?,
    };
    let call = Call::post(path(id, "/attach"))
        .query("stream", "1")
        .query_if("stdin", streams.input)
        .query("stdout", "1")
        .query("stderr", "1")
        .query_text("detachKeys", args.text("detach-keys"));
    let stream = session.client.hijack(call).await?;
    let condition = if container.bool("HostConfig.AutoRemove") {
        "removed"
    } else {
        "next-exit"
    };
    let exit = Exit::begin(session, id, condition).await?;
    session.client.done(Call::post(path(id, "/start"))).await?;
    let code = with_terminal(session, id, &streams, true, async {
        match streams::relay(session, stream, &streams).await? {
            Ended::Detached => Ok(0),
            Ended::Closed => exit.status().await,
        }
    })
    .await?;
    exit::pass_on(code)
}

async fn start_all(session: &Session, names: &[String]) -> Outcome {
    let mut failed = Vec::new();
    for name in names {
        match session.client.done(Call::post(path(name, "/start"))).await {
            Ok(()) => session.say(name)?,
            Err(failure) => {
                session.warn(failure.to_string());
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::message(format!(
            "Error: failed to start containers: {}",
            failed.join(", ")
        )))
    }
}
