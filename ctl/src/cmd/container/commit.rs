//! `container commit`.

use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::reference;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    of(session, args, args.positional(0)).await
}

/// Makes an image of a container; the second argument is its name.
pub async fn of(session: &Session, args: &Args, container: &str) -> Outcome {
    let (repository, tag) =
        reference::repository_and_tag(args.positional(1)).map_err(Failure::Message)?;
    let mut call = Call::post("/commit")
        .query("container", container)
        .query_text("repo", &repository)
        .query_text("tag", &tag)
        .query_text("author", args.text("author"))
        .query_text("comment", args.text("message"))
        .query_text("pause", if args.flag_or("pause", true) { "" } else { "0" });
    for change in args.list("change") {
        call = call.query("changes", change);
    }
    let answer = session.client.json(call).await?;
    session.say(answer.str("Id"))
}
