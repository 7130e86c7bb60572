//! `service exec`: a command in a task's container, on whichever node it runs.

use crate::client::segment;
use crate::cmd::container::exec;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let (name, command) = exec::target(args);
    in_task(session, args, name, command).await
}

/// Runs `command` in a task that runs, named by service, slot or id.
pub async fn in_task(session: &Session, args: &Args, name: &str, command: &[String]) -> Outcome {
    let path = format!("/skep/v1/tasks/{}/exec", segment(name));
    match exec::within(session, args, path, command).await {
        Err(Failure::Daemon { message, .. }) if message == "page not found" => Err(
            Failure::message("this daemon does not run commands in tasks of other nodes"),
        ),
        outcome => outcome,
    }
}
