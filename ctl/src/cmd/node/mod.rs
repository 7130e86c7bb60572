//! `skep node`: the machines of the cluster.

mod drain;
pub mod inspect;
pub mod ls;

use std::time::Duration;

use serde_json::{Value, json};

use super::task;
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::flags::Args;
use crate::session::Session;

/// The id behind `self`; other names stay as they are.
pub async fn resolve_self(session: &Session, name: &str) -> Outcome<String> {
    if name != "self" {
        return Ok(name.to_owned());
    }
    let info = session.client.json(Call::get("/info")).await?;
    match info.str("Swarm.NodeID") {
        // A node outside of any swarm gets the daemon's own explanation.
        "" => {
            session.client.json(Call::get("/nodes")).await?;
            Err(Failure::message("node ID not found in /info"))
        }
        id => Ok(id.to_owned()),
    }
}

async fn fetch(session: &Session, name: &str) -> Outcome<Value> {
    session
        .client
        .typed(Call::get(format!("/nodes/{}", segment(name))))
        .await
}

async fn store(session: &Session, node: &Value) -> Outcome {
    let id = node["ID"].as_str().unwrap_or("");
    let version = node["Version"]["Index"].as_u64().unwrap_or(0);
    session
        .client
        .done(
            Call::post(format!("/nodes/{}/update", segment(id)))
                .query("version", version)
                .json(&node["Spec"]),
        )
        .await
}

pub async fn promote(session: &Session, args: &Args) -> Outcome {
    set_role(session, args, "manager", |name| {
        format!("Node {name} promoted to a manager in the swarm.")
    })
    .await
}

pub async fn demote(session: &Session, args: &Args) -> Outcome {
    set_role(session, args, "worker", |name| {
        format!("Manager {name} demoted in the swarm.")
    })
    .await
}

async fn set_role(
    session: &Session,
    args: &Args,
    role: &str,
    done: impl Fn(&str) -> String,
) -> Outcome {
    for name in args.positionals() {
        let mut node = fetch(session, name).await?;
        if node["Spec"]["Role"] == json!(role) {
            let id = node["ID"].as_str().unwrap_or(name);
            session.say(format!("Node {id} is already a {role}."))?;
            continue;
        }
        node["Spec"]["Role"] = json!(role);
        store(session, &node).await?;
        session.say(done(name))?;
    }
    Ok(())
}

pub async fn update(session: &Session, args: &Args) -> Outcome {
    let name = args.positional(0);
    let wait = args.flag("wait");
    drain::check(wait, args.given("timeout"), args.maybe("availability"))?;
    let mut node = fetch(session, name).await?;
    let id = node["ID"].as_str().unwrap_or(name).to_owned();
    let work = match wait {
        true => Some(drain::look(session, &id).await?),
        false => None,
    };
    change(&mut node["Spec"], args)?;
    store(session, &node).await?;
    session.say(name)?;
    let Some(work) = work else { return Ok(()) };
    let timeout = args.duration("timeout");
    let timeout = timeout.map(|nanos| Duration::from_nanos(nanos.max(0).unsigned_abs()));
    drain::wait(session, name, &id, &work, timeout).await
}

fn change(spec: &mut Value, args: &Args) -> Outcome {
    for (flag, field) in [("role", "Role"), ("availability", "Availability")] {
        if let Some(value) = args.maybe(flag) {
            spec[field] = json!(value.to_lowercase());
        }
    }
    if spec["Labels"].is_null() {
        spec["Labels"] = json!({});
    }
    for label in args.list("label-add") {
        let (key, value) = label.split_once('=').unwrap_or((&label, ""));
        spec["Labels"][key] = json!(value);
    }
    for key in args.list("label-rm") {
        let labels = spec["Labels"].as_object_mut();
        if labels.and_then(|labels| labels.remove(&key)).is_none() {
            return Err(Failure::message(format!(
                "key {key} doesn't exist in node's labels"
            )));
        }
    }
    Ok(())
}

pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    for name in args.positionals() {
        let call =
            Call::delete(format!("/nodes/{}", segment(name))).query_if("force", args.flag("force"));
        match session.client.json(call).await {
            Ok(answer) => {
                session.say(name)?;
                for warning in answer.texts("Warnings") {
                    session.warn(warning);
                }
            }
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}

pub async fn ps(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    let mut tasks = Vec::new();
    let filters = Filters::of(args)?;
    let this = ["self".to_owned()];
    let names = if args.positionals().is_empty() {
        &this[..]
    } else {
        args.positionals()
    };
    for name in names {
        match tasks_of(session, name, &filters).await {
            Ok(found) => tasks.extend(found),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() || !tasks.is_empty() {
        let whole = args.flag("no-trunc") || args.flag("quiet");
        task::print(session, args, tasks, whole).await?;
    }
    Failure::join(failures)
}

async fn tasks_of(
    session: &Session,
    name: &str,
    filters: &Filters,
) -> Outcome<Vec<crate::json::Json>> {
    let name = resolve_self(session, name).await?;
    let node = session
        .client
        .json(Call::get(format!("/nodes/{}", segment(&name))))
        .await?;
    let filters = filters.clone().with("node", node.str("ID"));
    task::list(session, &filters).await
}
