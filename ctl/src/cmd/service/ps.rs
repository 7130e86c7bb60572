//! `service ps`.

use crate::client::Call;
use crate::cmd::{node, task};
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::flags::Args;
use crate::json::Json;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let mut filters = Filters::of(args)?;
    let mut missing = Vec::new();
    for (name, found) in find(session, args.positionals()).await? {
        match &found[..] {
            [] => missing.push(Failure::message(format!("no such service: {name}"))),
            ids => ids.iter().for_each(|id| filters.add("service", id)),
        }
    }
    if filters.contains("service") {
        resolve_node_filter(session, &mut filters).await?;
        let tasks = task::list(session, &filters).await?;
        let whole = args.flag("no-trunc") || args.flag("quiet");
        task::print(session, args, tasks, whole).await?;
    }
    Failure::join(missing)
}

/// Ids that each name stands for: the service with that id or name, else those that begin so.
async fn find(session: &Session, names: &[String]) -> Outcome<Vec<(String, Vec<String>)>> {
    let mut by_id = Filters::default();
    let mut by_name = Filters::default();
    for name in names {
        by_id.add("id", name);
        by_name.add("name", name);
    }
    let mut services: Vec<Json> = Vec::new();
    for filters in [by_id, by_name] {
        let call = Call::get("/services").query("filters", filters.to_query());
        services.extend(session.client.json(call).await?.list("").iter().cloned());
    }
    let ids = |wanted: &dyn Fn(&Json) -> bool| {
        let mut ids: Vec<String> = services
            .iter()
            .filter(|service| wanted(service))
            .map(|service| service.str("ID").to_owned())
            .collect();
        ids.sort();
        ids.dedup();
        ids
    };
    Ok(names
        .iter()
        .map(|name| {
            let exact =
                ids(&|service| service.str("ID") == name || service.str("Spec.Name") == name);
            let found = if exact.is_empty() {
                ids(&|service| {
                    service.str("ID").starts_with(name.as_str())
                        || service.str("Spec.Name").starts_with(name.as_str())
                })
            } else {
                exact
            };
            (name.clone(), found)
        })
        .collect())
}

/// `--filter node=self` means this node.
pub async fn resolve_node_filter(session: &Session, filters: &mut Filters) -> Outcome {
    let names: Vec<String> = filters.get("node").into_iter().map(str::to_owned).collect();
    if names.is_empty() {
        return Ok(());
    }
    filters.remove("node");
    for name in names {
        filters.add("node", &node::resolve_self(session, &name).await?);
    }
    Ok(())
}
