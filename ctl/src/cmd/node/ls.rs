//! `node ls`.

use crate::client::Call;
use crate::failure::Outcome;
use crate::filter::Filters;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const NODES: Listing = Listing {
    kind: "*node.nodeContext",
    columns: &[
        ("ID", "ID"),
        ("Self", ""),
        ("Hostname", "HOSTNAME"),
        ("Status", "STATUS"),
        ("Availability", "AVAILABILITY"),
        ("ManagerStatus", "MANAGER STATUS"),
        ("EngineVersion", "ENGINE VERSION"),
        ("TLSStatus", "TLS STATUS"),
    ],
    table: "{{.ID}} {{if .Self}}*{{else}} {{ end }}\t{{.Hostname}}\t{{.Status}}\t{{.Availability}}\t{{.ManagerStatus}}\t{{.EngineVersion}}",
    quiet: "{{.ID}}",
    raw: &[
        ("node_id", "ID"),
        ("hostname", "Hostname"),
        ("status", "Status"),
        ("availability", "Availability"),
        ("manager_status", "ManagerStatus"),
    ],
};

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let call = Call::get("/nodes").query_text("filters", &Filters::of(args)?.to_query());
    let nodes = session.client.json(call).await?;
    let mut nodes = nodes.list("").to_vec();
    let info = if nodes.is_empty() {
        Json::Null
    } else {
        session.client.json(Call::get("/info")).await?
    };
    nodes.sort_by(|a, b| {
        human::natural(a.str("Description.Hostname"), b.str("Description.Hostname"))
    });
    let rows = nodes.iter().map(|node| row(node, &info)).collect();
    let format = super::super::format_of(session, args, "nodesFormat");
    session.print(&table::render(&NODES, &format, args.flag("quiet"), rows)?)
}

fn row(node: &Json, info: &Json) -> Row {
    let manager = match (
        node.bool("ManagerStatus.Leader"),
        node.str("ManagerStatus.Reachability"),
    ) {
        (true, _) => "Leader".to_owned(),
        (false, reachability) => title(reachability),
    };
    let (cluster, own) = (
        info.at("Swarm.Cluster.TLSInfo"),
        node.at("Description.TLSInfo"),
    );
    let tls = if is_empty(cluster) || is_empty(own) {
        "Unknown"
    } else if cluster == own {
        "Ready"
    } else {
        "Needs Rotation"
    };
    Row::new([
        ("ID", node.str("ID").into()),
        ("Self", (node.str("ID") == info.str("Swarm.NodeID")).into()),
        ("Hostname", node.str("Description.Hostname").into()),
        ("Status", title(node.str("Status.State")).into()),
        ("Availability", title(node.str("Spec.Availability")).into()),
        ("ManagerStatus", manager.into()),
        (
            "EngineVersion",
            node.str("Description.Engine.EngineVersion").into(),
        ),
        ("TLSStatus", tls.into()),
    ])
}

fn is_empty(info: &Json) -> bool {
    info.fields("")
        .iter()
        .all(|(_, value)| value.str("").is_empty())
}

/// A state with its first letter in upper case.
pub fn title(state: &str) -> String {
    let mut chars = state.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
