//! Tasks as `service ps`, `node ps` and `stack ps` list them.

use std::collections::HashMap;

use skep_model::Timestamp;

use super::node::ls::title;
use crate::client::{Call, segment};
use crate::failure::Outcome;
use crate::filter::Filters;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::reference;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const TASKS: Listing = Listing {
    kind: "*task.taskContext",
    columns: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Image", "IMAGE"),
        ("Node", "NODE"),
        ("DesiredState", "DESIRED STATE"),
        ("CurrentState", "CURRENT STATE"),
        ("Error", "ERROR"),
        ("Ports", "PORTS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Image}}\t{{.Node}}\t{{.DesiredState}}\t{{.CurrentState}}\t{{.Error}}\t{{.Ports}}",
    quiet: "{{.ID}}",
    raw: &[
        ("id", "ID"),
        ("name", "Name"),
        ("image", "Image"),
        ("node", "Node"),
        ("desired_state", "DesiredState"),
        ("current_state", "CurrentState"),
        ("error", "Error"),
        ("ports", "Ports"),
    ],
};

/// Longest error text in a table, in characters.
const ERROR_LEN_MAX: usize = 30;

pub async fn list(session: &Session, filters: &Filters) -> Outcome<Vec<Json>> {
    let call = Call::get("/tasks").query_text("filters", &filters.to_query());
    Ok(session.client.json(call).await?.list("").to_vec())
}

/// Names of services and nodes by id, asked for once each.
#[derive(Default)]
pub struct Names {
    keep_ids: bool,
    known: HashMap<String, String>,
}

impl Names {
    pub fn new(keep_ids: bool) -> Self {
        Self {
            keep_ids,
            known: HashMap::new(),
        }
    }

    pub async fn service(&mut self, session: &Session, id: &str) -> Outcome<String> {
        self.resolve(session, "services", "Spec.Name", id).await
    }

    pub async fn node(&mut self, session: &Session, id: &str) -> Outcome<String> {
        let name = self.resolve(session, "nodes", "Spec.Name", id).await?;
        if self.keep_ids || name != id || id.is_empty() {
            return Ok(name);
        }
        self.known.remove(id);
        self.resolve(session, "nodes", "Description.Hostname", id)
            .await
    }

    /// What an object is called; its id when it is gone or has no name.
    async fn resolve(
        &mut self,
        session: &Session,
        kind: &str,
        field: &str,
        id: &str,
    ) -> Outcome<String> {
        if self.keep_ids || id.is_empty() {
            return Ok(id.to_owned());
        }
        if let Some(name) = self.known.get(id) {
            return Ok(name.clone());
        }
        let name = match session
            .client
            .json(Call::get(format!("/{kind}/{}", segment(id))))
            .await
        {
            Ok(object) if !object.str(field).is_empty() => object.str(field).to_owned(),
            Ok(_) => id.to_owned(),
            Err(failure) if failure.is_not_found() => id.to_owned(),
            Err(failure) => return Err(failure),
        };
        self.known.insert(id.to_owned(), name.clone());
        Ok(name)
    }
}

/// `web.3`, or `web.NODE` for tasks without a slot.
pub async fn name_of(session: &Session, names: &mut Names, task: &Json) -> Outcome<String> {
    let service = names.service(session, task.str("ServiceID")).await?;
    Ok(match task.int("Slot") {
        0 => format!("{service}.{}", task.str("NodeID")),
        slot => format!("{service}.{slot}"),
    })
}

/// Prints tasks, those of one slot together, the newest first. `whole`: ids and texts are not cut.
pub async fn print(session: &Session, args: &Args, tasks: Vec<Json>, whole: bool) -> Outcome {
    let quiet = args.flag("quiet");
    let format = super::format_of(session, args, "tasksFormat");
    let is_table = format.is_empty() || format == "table" || format.starts_with("table ");
    let mut names = Names::new(args.flag("no-resolve"));
    let mut named = Vec::with_capacity(tasks.len());
    for task in tasks {
        named.push((name_of(session, &mut names, &task).await?, task));
    }
    named.sort_by(|(a_name, a), (b_name, b)| {
        human::natural(a_name, b_name).then_with(|| created(b).cmp(&created(a)))
    });
    let now = now();
    let mut rows = Vec::with_capacity(named.len());
    let mut previous = String::new();
    for (name, task) in named {
        let shown = if is_table && name == previous {
            format!(" \\_ {name}")
        } else {
            name.clone()
        };
        previous = name;
        let node = names.node(session, task.str("NodeID")).await?;
        rows.push(row(&task, shown, node, !whole, now));
    }
    session.print(&table::render(&TASKS, &format, quiet, rows)?)
}

fn created(task: &Json) -> Timestamp {
    Timestamp::parse(task.str("CreatedAt")).unwrap_or_default()
}

/// The wall clock.
pub fn now() -> Timestamp {
    Timestamp(i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX))
}

fn row(task: &Json, name: String, node: String, cut: bool, now: Timestamp) -> Row {
    let image = task.str("Spec.ContainerSpec.Image");
    let since = Timestamp::parse(task.str("Status.Timestamp")).unwrap_or_default();
    let state = title(task.str("Status.State"));
    let ports: Vec<String> = task
        .list("Status.PortStatus.Ports")
        .iter()
        .map(|port| {
            format!(
                "{}:{}->{}/{}",
                super::service::ls::host(port),
                port.int("PublishedPort"),
                port.int("TargetPort"),
                port.str("Protocol")
            )
        })
        .collect();
    Row::new([
        (
            "ID",
            if cut {
                human::short_id(task.str("ID"))
            } else {
                task.str("ID")
            }
            .into(),
        ),
        ("Name", name.into()),
        (
            "Image",
            if cut {
                reference::without_digest(image)
            } else {
                image.to_owned()
            }
            .into(),
        ),
        ("Node", node.into()),
        ("DesiredState", title(task.str("DesiredState")).into()),
        (
            "CurrentState",
            format!(
                "{state} {} ago",
                human::age(now.since(since)).to_lowercase()
            )
            .into(),
        ),
        ("Error", error(task.str("Status.Err"), cut).into()),
        ("Ports", ports.join(",").into()),
    ])
}

/// In quotes, cut if it is long; nothing for no error.
fn error(text: &str, cut: bool) -> String {
    if text.is_empty() {
        return String::new();
    }
    if cut && text.chars().count() > ERROR_LEN_MAX {
        return format!("\"{}\"", human::ellipsis(text, ERROR_LEN_MAX));
    }
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_quoted_and_cut() {
        assert_eq!(error("", true), "");
        assert_eq!(
            error("task: non-zero exit (1)", true),
            "\"task: non-zero exit (1)\""
        );
        assert_eq!(
            error("starting container failed: no such file", true),
            "\"starting container failed: no…\""
        );
        assert_eq!(
            error("starting container failed: no such file", false).len(),
            41
        );
    }
}
