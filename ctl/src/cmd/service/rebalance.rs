//! `service rebalance`.

use serde::Deserialize;
use skep_model::preview::ServicePreview;

use super::{fetch, preview};
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::progress::service::{Rollback, wait};
use crate::session::Session;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Moved {
    moves: Vec<String>,
}

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    for name in args.positionals() {
        if let Err(failure) = one(session, args, name).await {
            failures.push(format!("{name}: {failure}"));
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Failure::message(failures.join("\n"))),
    }
}

async fn one(session: &Session, args: &Args, name: &str) -> Outcome {
    let service = fetch(session, name).await?;
    let path = format!(
        "/skep/v1/services/{}/rebalance",
        segment(service.id.as_str())
    );
    let call = |path: String| match args.uint("max") {
        Some(most) => Call::post(path).query("most", most),
        None => Call::post(path),
    };
    let not_there = |failure| match failure {
        Failure::Daemon { message, .. } if message == "page not found" => {
            Failure::message("this daemon does not move tasks")
        }
        other => other,
    };
    let name = &service.spec.name;
    if args.flag("dry-run") {
        let answer = session.client.typed(call(format!("{path}/preview"))).await;
        let told: ServicePreview = answer.map_err(not_there)?;
        return preview::print(session, name, &told).await;
    }
    let moved: Moved = session.client.typed(call(path)).await.map_err(not_there)?;
    if moved.moves.is_empty() {
        return session.say(format!("{name}: nothing would be gained by a move"));
    }
    for line in &moved.moves {
        session.say(line)?;
    }
    if args.flag("detach") {
        return Ok(());
    }
    wait(session, name, args.flag("quiet"), Rollback::Failure).await
}
