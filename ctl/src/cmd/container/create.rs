//! `container create`, and the part of `run` that makes the container.

use serde_json::Value;

use super::config;
use crate::client::Call;
use crate::cmd::image::transfer;
use crate::failure::{Failure, Outcome, status};
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::progress::lines::Sink;
use crate::reference::Reference;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let body = config::build(session, args)
        .map_err(|failure| with_help(failure, "create", status::USAGE))?;
    let id = create(session, args, &body)
        .await
        .map_err(|failure| with_help(failure, "create", status::FAILED))?;
    session.say(id)
}

/// A failure before the container's process exists.
pub fn with_help(failure: Failure, command: &str, status: u8) -> Failure {
    match failure {
        Failure::Usage { .. } | Failure::Exit { .. } | Failure::Pipe => failure,
        other => Failure::Exit {
            status,
            message: format!("skep: {other}\n\nRun 'skep {command} --help' for more information"),
        },
    }
}

/// Makes the container, pulling its image if that is missing or must be new; its id.
pub async fn create(session: &Session, args: &Args, body: &Value) -> Outcome<String> {
    let image = args.positional(0);
    let reference = Reference::parse(image).map(Reference::with_default_tag);
    let pull = args.maybe("pull").unwrap_or("missing");
    if !matches!(pull, "always" | "missing" | "never") {
        return Err(Failure::message(format!(
            "invalid pull option: '{pull}': must be one of \"always\", \"missing\" or \"never\""
        )));
    }
    let sink = (!args.flag("quiet")).then_some(Sink::Err);
    if pull == "always"
        && let Some(reference) = &reference
    {
        transfer::fetch(session, reference, args.text("platform"), sink).await?;
    }
    let cidfile = Cidfile::claim(args.text("cidfile"))?;
    let answer = match send(session, args, body).await {
        Err(failure)
            if failure.is_not_found() && pull == "missing" && is_missing_image(&failure) =>
        {
            let Some(reference) = &reference else {
                return Err(failure);
            };
            if sink.is_some() {
                session.warn(format!("Unable to find image '{reference}' locally"));
            }
            transfer::fetch(session, reference, args.text("platform"), sink).await?;
            send(session, args, body).await?
        }
        other => other?,
    };
    for warning in answer.texts("Warnings") {
        session.warn(format!("WARNING: {warning}"));
    }
    let id = answer.str("Id").to_owned();
    cidfile.write(&id)?;
    Ok(id)
}

fn is_missing_image(failure: &Failure) -> bool {
    failure.to_string().to_lowercase().contains("no such image")
}

async fn send(session: &Session, args: &Args, body: &Value) -> Outcome<Json> {
    let call = Call::post("/containers/create")
        .query_text("name", args.text("name"))
        .query_text("platform", args.text("platform"))
        .json(body);
    session.client.json(call).await
}

/// The file that gets the container's id.
struct Cidfile<'a>(&'a str);

impl<'a> Cidfile<'a> {
    fn claim(path: &'a str) -> Outcome<Self> {
        if !path.is_empty() && std::path::Path::new(path).exists() {
            return Err(Failure::message(format!(
                "container ID file found, make sure the other container isn't running or delete {path}"
            )));
        }
        Ok(Self(path))
    }

    fn write(&self, id: &str) -> Outcome {
        if self.0.is_empty() {
            return Ok(());
        }
        std::fs::write(self.0, id).map_err(|error| {
            Failure::message(format!(
                "failed to write the container ID to the file {}: {}",
                human::quote(self.0),
                crate::files::reason(&error)
            ))
        })
    }
}
