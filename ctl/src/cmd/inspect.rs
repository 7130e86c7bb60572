//! `inspect`: objects as the daemon knows them.

use std::future::Future;

use super::zero;
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome, status};
use crate::flags::Args;
use crate::human;
use crate::json::{self, Json};
use crate::session::Session;
use crate::template::{Dot, Template};

/// Fetches each object and prints them: as one JSON list, or each through `format`. Objects that
/// are there are shown even when others are not.
pub async fn each<F>(
    session: &Session,
    format: &str,
    names: &[String],
    fetch: impl Fn(String) -> F,
) -> Outcome
where
    F: Future<Output = Outcome<String>>,
{
    each_filled(session, format, names, fetch, "").await
}

/// The same, where a template finds `zeros` in place of what is left out.
pub async fn each_filled<F>(
    session: &Session,
    format: &str,
    names: &[String],
    fetch: impl Fn(String) -> F,
    zeros: &str,
) -> Outcome
where
    F: Future<Output = Outcome<String>>,
{
    let template = match format {
        "" | "json" => None,
        format => Some(Template::parse(format).map_err(|why| Failure::Exit {
            status: status::TEMPLATE,
            message: format!("template parsing error: {why}"),
        })?),
    };
    let mut found = Vec::new();
    let mut failures = Vec::new();
    let mut out = String::new();
    for name in names {
        match fetch(name.clone()).await {
            Err(failure) => failures.push(failure),
            Ok(text) => match &template {
                None => found.push(text.trim().to_owned()),
                Some(template) => {
                    let mut object = parse(&text)?;
                    // As JSON docker's client leaves out what is left out.
                    if !format.contains("json ") {
                        zero::fill(&mut object, zeros);
                    }
                    match template.run(&Dot::of(&object)) {
                        Ok(line) => out.push_str(&format!("{line}\n")),
                        Err(why) => {
                            failures.push(template_failure(why));
                            break;
                        }
                    }
                }
            },
        }
    }
    if template.is_none() {
        let list = format!("[{}]", found.join(","));
        let list = match format {
            "json" => parse(&list)?.compact(false),
            _ => json::indent(&list),
        };
        out = format!("{list}\n");
    }
    session.print(&out)?;
    Failure::join(failures)
}

/// Fetches each object and prints what `show` makes of it, an empty line between.
pub async fn pretty<F>(
    session: &Session,
    names: &[String],
    fetch: impl Fn(String) -> F,
    show: impl Fn(&Json) -> String,
) -> Outcome
where
    F: Future<Output = Outcome<String>>,
{
    let mut failures = Vec::new();
    for name in names {
        match fetch(name.clone()).await {
            Ok(text) => session.say(show(&parse(&text)?))?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}

fn parse(text: &str) -> Outcome<Json> {
    Json::parse(text.as_bytes())
        .map_err(|error| Failure::message(format!("the daemon's answer cannot be read: {error}")))
}

fn template_failure(why: String) -> Failure {
    Failure::message(format!("template parsing error: {why}"))
}

/// An API time as `--pretty` shows it.
pub fn time(text: &str) -> String {
    match skep_model::Timestamp::parse(text) {
        Ok(at) => {
            let shown = human::go_time(at);
            // `2025-11-23 10:00:00.5 +0000 UTC` becomes `2025-11-23 10:00:00.5 +0000 utc`.
            shown.to_lowercase()
        }
        Err(_) => text.to_owned(),
    }
}

/// The kinds `inspect` looks for, in the order it looks.
const KINDS: [&str; 11] = [
    "container",
    "image",
    "network",
    "volume",
    "service",
    "task",
    "node",
    "plugin",
    "secret",
    "config",
    "stack",
];

fn path(kind: &str, name: &str) -> String {
    let name = segment(name);
    match kind {
        "container" => format!("/containers/{name}/json"),
        "image" => format!("/images/{name}/json"),
        "volume" => format!("/volumes/{name}"),
        "plugin" => format!("/plugins/{name}/json"),
        "stack" => format!("/skep/v1/stacks/{name}"),
        kind => format!("/{kind}s/{name}"),
    }
}

async fn one(session: &Session, kind: &str, name: &str, size: bool) -> Outcome<String> {
    let call = Call::get(path(kind, name)).query_if("size", size && kind == "container");
    session.client.text(call).await
}

pub async fn any(session: &Session, args: &Args) -> Outcome {
    let kind = args.text("type");
    if !kind.is_empty() && (!KINDS.contains(&kind) || kind == "stack") {
        return Err(Failure::message(format!(
            "unknown type: {}: must be one of \"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\"",
            human::quote(kind)
        )));
    }
    if args.given("type") && kind.is_empty() {
        return Err(Failure::message(
            "type is empty: must be one of \"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\"",
        ));
    }
    let size = args.flag("size");
    each(
        session,
        args.text("format"),
        args.positionals(),
        |name| async move {
            if !kind.is_empty() {
                return one(session, kind, &name, size).await;
            }
            for kind in KINDS.into_iter().filter(|kind| *kind != "stack") {
                match one(session, kind, &name, size).await {
                    Ok(text) => return Ok(text),
                    Err(failure) if failure.is_not_found() => {}
                    // Not a manager, no plugins, not a name such objects have: look on.
                    Err(Failure::Daemon {
                        code: 400 | 404 | 406 | 501 | 503,
                        ..
                    }) => {}
                    Err(failure) => return Err(failure),
                }
            }
            Err(Failure::message(format!("Error: No such object: {name}")))
        },
    )
    .await
}

async fn by_kind(session: &Session, args: &Args, kind: &'static str) -> Outcome {
    let size = args.flag("size");
    each(
        session,
        args.text("format"),
        args.positionals(),
        |name| async move { one(session, kind, &name, size).await },
    )
    .await
}

pub async fn containers(session: &Session, args: &Args) -> Outcome {
    by_kind(session, args, "container").await
}

pub async fn images(session: &Session, args: &Args) -> Outcome {
    let platform = args.text("platform").to_owned();
    let platform = super::image::platform_query(&platform)?;
    each(session, args.text("format"), args.positionals(), |name| {
        let call = Call::get(path("image", &name)).query_text("platform", &platform);
        async move { session.client.text(call).await }
    })
    .await
}

pub async fn stacks(session: &Session, args: &Args) -> Outcome {
    by_kind(session, args, "stack").await
}

pub async fn volumes(session: &Session, args: &Args) -> Outcome {
    by_kind(session, args, "volume").await
}

pub async fn networks(session: &Session, args: &Args) -> Outcome {
    let verbose = args.flag("verbose");
    each(
        session,
        args.text("format"),
        args.positionals(),
        |name| async move {
            let call = Call::get(path("network", &name)).query_if("verbose", verbose);
            session.client.text(call).await
        },
    )
    .await
}
