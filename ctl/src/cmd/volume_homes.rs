//! `volume homes` and `volume release`: the nodes that tasks of a service return to.

use std::collections::BTreeMap;

use serde::Deserialize;
use skep_model::volume_home::VolumeHome;
use skep_model::{Node, NodeId, NodeState, Service, Timestamp};

use super::service::fetch;
use crate::client::{Call, segment};
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const HOMES: Listing = Listing {
    kind: "*volume.homeContext",
    columns: &[
        ("Slot", "SLOT"),
        ("Node", "NODE"),
        ("State", "NODE STATE"),
        ("Volumes", "VOLUMES"),
        ("Since", "SINCE"),
    ],
    table: "{{.Slot}}\t{{.Node}}\t{{.State}}\t{{.Volumes}}\t{{.Since}}",
    quiet: "{{.Slot}}",
    raw: &[],
};

/// `volume homes`
pub async fn list(session: &Session, args: &Args) -> Outcome {
    let mut services: Vec<Service> = match args.positionals() {
        [] => session.client.typed(Call::get("/services")).await?,
        names => {
            let mut found = Vec::new();
            for name in names {
                found.push(fetch(session, name).await?);
            }
            found
        }
    };
    services.sort_by(|a, b| human::natural(&a.spec.name, &b.spec.name));
    let nodes: Vec<Node> = session.client.typed(Call::get("/nodes")).await?;
    let nodes = nodes.into_iter().map(|node| (node.id.clone(), node));
    let nodes = &nodes.collect::<BTreeMap<NodeId, Node>>();
    let at = now();
    let rows = services
        .iter()
        .flat_map(|service| {
            let homes = service.volume_homes.iter();
            homes.map(move |(slot, home)| row(&service.spec.name, *slot, home, nodes, at))
        })
        .collect();
    let format = super::format_of(session, args, "");
    session.print(&table::render(&HOMES, &format, args.flag("quiet"), rows)?)
}

fn row(
    service: &str,
    slot: u64,
    home: &VolumeHome,
    nodes: &BTreeMap<NodeId, Node>,
    now: Timestamp,
) -> Row {
    let node = nodes.get(&home.node_id);
    let state = match node.map(|node| node.status.state) {
        None => "removed",
        Some(NodeState::Ready) => "ready",
        Some(NodeState::Down) => "down",
        Some(NodeState::Disconnected) => "disconnected",
        Some(NodeState::Unknown) => "unknown",
    };
    let name = match home.hostname.as_str() {
        "" => home.node_id.as_str(),
        name => name,
    };
    // Nobody has had one there yet.
    let volumes = match home.is_held {
        true => home.volumes.join(","),
        false => "-".to_owned(),
    };
    Row::new([
        ("Slot", format!("{service}.{slot}").into()),
        ("Node", name.into()),
        ("State", state.into()),
        ("Volumes", volumes.into()),
        ("Since", human::ago(home.since, now).into()),
    ])
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Released {
    released: Vec<String>,
}

/// `volume release`
pub async fn release(session: &Session, args: &Args) -> Outcome {
    let (service, slots) = match args.positionals() {
        [service, slots @ ..] if !slots.is_empty() => (service, slots),
        _ => return Err(Failure::message("want a service and its slots, or all")),
    };
    let service = fetch(session, service).await?;
    let path = format!(
        "/skep/v1/services/{}/volumes/release",
        segment(service.id.as_str())
    );
    let mut call = Call::post(path).query("slots", slots.join(","));
    if let Some(node) = args.maybe("to") {
        call = call.query("to", node);
    }
    let answer: Released = session.client.typed(call).await.map_err(not_there)?;
    if answer.released.is_empty() {
        return session.say(format!(
            "{}: no slot has volumes on any node",
            service.spec.name
        ));
    }
    for line in &answer.released {
        session.say(line)?;
    }
    Ok(())
}

fn not_there(failure: Failure) -> Failure {
    match failure {
        Failure::Daemon { message, .. } if message == "page not found" => {
            Failure::message("this daemon binds no tasks to volumes")
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_which_node_has_what() {
        let show = |home: &VolumeHome, nodes: &BTreeMap<NodeId, Node>| {
            let now = Timestamp::from_secs(1000);
            let row = row("db", 2, home, nodes, now);
            table::render(
                &HOMES,
                "{{.Slot}} {{.Node}} {{.State}} {{.Volumes}}",
                false,
                vec![row],
            )
            .unwrap()
        };
        let mut home = VolumeHome {
            node_id: "id".into(),
            volumes: vec!["a".to_owned(), "b".to_owned()],
            is_held: true,
            ..VolumeHome::default()
        };
        assert_eq!(show(&home, &BTreeMap::new()), "db.2 id removed a,b\n");
        home.hostname = "n1".to_owned();
        home.is_held = false;
        let mut node = Node::default();
        node.status.state = NodeState::Down;
        let nodes = BTreeMap::from([(NodeId::from("id"), node)]);
        assert_eq!(show(&home, &nodes), "db.2 n1 down -\n");
    }
}
