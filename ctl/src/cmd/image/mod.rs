//! `skep image`.

pub mod archive;
pub mod build;
pub mod context;
pub mod history;
pub mod ls;
pub mod push_cluster;
pub mod transfer;

use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::reference;
use crate::session::Session;

pub async fn tag(session: &Session, args: &Args) -> Outcome {
    let target = args.positional(1);
    let wrong = |why: &str| {
        Failure::message(format!(
            "Error parsing reference: {} is not a valid repository/tag: {why}",
            crate::human::quote(target)
        ))
    };
    let (repository, tag) = reference::repository_and_tag(target).map_err(|why| wrong(&why))?;
    if repository.is_empty() || target.contains('@') {
        return Err(wrong("invalid reference format"));
    }
    let call = Call::post(format!("/images/{}/tag", segment(args.positional(0))))
        .query("repo", repository)
        .query("tag", tag);
    session.client.done(call).await
}

pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    for name in args.positionals() {
        let call = Call::delete(format!("/images/{}", segment(name)))
            .query_if("force", args.flag("force"))
            .query_if("noprune", args.flag("no-prune"));
        match session.client.json(call).await {
            Ok(removed) => {
                for entry in removed.list("") {
                    match entry.str("Deleted") {
                        "" => session.say(format!("Untagged: {}", entry.str("Untagged")))?,
                        deleted => session.say(format!("Deleted: {deleted}"))?,
                    }
                }
            }
            Err(failure) if failure.is_not_found() && args.flag("force") => {
                session.warn(failure.to_string())
            }
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}

/// `os/arch[/variant]` as the API takes it: JSON. Empty for no platform.
pub fn platform_query(platform: &str) -> Outcome<String> {
    if platform.is_empty() {
        return Ok(String::new());
    }
    let mut parts = platform.split('/');
    let (os, architecture) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    if os.is_empty() || architecture.is_empty() {
        return Err(Failure::message(format!(
            "invalid platform: {platform}: want os/arch[/variant]"
        )));
    }
    let mut json = serde_json::json!({"architecture": architecture, "os": os});
    if let Some(variant) = parts.next() {
        json["variant"] = variant.into();
    }
    Ok(json.to_string())
}
