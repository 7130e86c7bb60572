//! `skep volume`.

use serde_json::{Value, json};

use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::flags::Args;
use crate::grammar::environment;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const COLUMNS: &[(&str, &str)] = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Group", "GROUP"),
    ("Availability", "AVAILABILITY"),
    ("Status", "STATUS"),
];

const VOLUMES: Listing = Listing {
    kind: "*formatter.volumeContext",
    columns: COLUMNS,
    table: "{{.Driver}}\t{{.Name}}",
    quiet: "{{.Name}}",
    raw: &[("name", "Name"), ("driver", "Driver")],
};

const CLUSTER_VOLUMES: Listing = Listing {
    kind: "*formatter.volumeContext",
    columns: COLUMNS,
    table: "{{.Name}}\t{{.Group}}\t{{.Driver}}\t{{.Availability}}\t{{.Status}}",
    quiet: "{{.Name}}",
    raw: &[("name", "Name"), ("driver", "Driver")],
};

/// Flags that only volumes of the cluster have.
const CLUSTER_FLAGS: [&str; 10] = [
    "group",
    "scope",
    "sharing",
    "type",
    "availability",
    "required-bytes",
    "limit-bytes",
    "topology-required",
    "topology-preferred",
    "secret",
];

pub async fn create(session: &Session, args: &Args) -> Outcome {
    let mut body = json!({
        "Name": args.positional(0),
        "Driver": args.maybe("driver").unwrap_or("local"),
        "DriverOpts": environment::pairs(args.list("opt")),
        "Labels": environment::pairs(args.each("label", environment::label)?),
    });
    if CLUSTER_FLAGS.iter().any(|flag| args.given(flag)) {
        body["ClusterVolumeSpec"] = cluster_spec(args)?;
    }
    let answer = session
        .client
        .json(Call::post("/volumes/create").json(&body))
        .await?;
    session.say(answer.str("Name"))
}

fn cluster_spec(args: &Args) -> Outcome<Value> {
    let topologies = |flag: &str| -> Vec<Value> {
        args.list(flag)
            .iter()
            .map(|value| json!({"Segments": environment::pairs(value.split(','))}))
            .collect()
    };
    let secrets: Vec<Value> = environment::pairs(args.list("secret"))
        .into_iter()
        .map(|(key, secret)| json!({"Key": key, "Secret": secret}))
        .collect();
    let mut mode = json!({
        "Scope": args.maybe("scope").unwrap_or("single"),
        "Sharing": args.maybe("sharing").unwrap_or("none"),
    });
    match args.maybe("type").unwrap_or("block") {
        "block" => mode["BlockVolume"] = json!({}),
        "mount" => mode["MountVolume"] = json!({}),
        other => return Err(Failure::message(format!("unknown volume type {other}"))),
    }
    Ok(json!({
        "Group": args.text("group"),
        "AccessMode": mode,
        "AccessibilityRequirements": {
            "Requisite": topologies("topology-required"),
            "Preferred": topologies("topology-preferred"),
        },
        "CapacityRange": {
            "RequiredBytes": args.bytes("required-bytes").unwrap_or(0),
            "LimitBytes": args.bytes("limit-bytes").unwrap_or(0),
        },
        "Secrets": secrets,
        "Availability": args.maybe("availability").unwrap_or("active"),
    }))
}

pub async fn list(session: &Session, args: &Args) -> Outcome {
    let call = Call::get("/volumes").query_text("filters", &Filters::of(args)?.to_query());
    let answer = session.client.json(call).await?;
    show(session, args, answer.list("Volumes").iter().collect())
}

/// Lists volumes, as the flags `cluster`, `format` and `quiet` say.
pub fn show(session: &Session, args: &Args, mut volumes: Vec<&Json>) -> Outcome {
    let cluster = args.flag("cluster");
    volumes.retain(|volume| !cluster || *volume.at("ClusterVolume") != Json::Null);
    volumes.sort_by(|a, b| human::natural(a.str("Name"), b.str("Name")));
    let rows = volumes.into_iter().map(row).collect();
    let format = super::format_of(session, args, "volumesFormat");
    let listing = if cluster { &CLUSTER_VOLUMES } else { &VOLUMES };
    session.print(&table::render(listing, &format, args.flag("quiet"), rows)?)
}

fn row(volume: &Json) -> Row {
    let or_none = |text: String| {
        if text.is_empty() {
            "N/A".to_owned()
        } else {
            text
        }
    };
    let cluster = volume.at("ClusterVolume");
    let usage = volume.at("UsageData");
    let (links, size) = match usage {
        Json::Null => ("N/A".to_owned(), "N/A".to_owned()),
        usage => (
            usage.int("RefCount").to_string(),
            human::size(usage.float("Size")),
        ),
    };
    let status = if *cluster == Json::Null {
        String::new()
    } else if cluster.str("Info.VolumeID").is_empty() {
        "pending creation".to_owned()
    } else {
        match cluster.list("PublishStatus").len() {
            0 => "created".to_owned(),
            count => format!("in use ({count} node{})", if count == 1 { "" } else { "s" }),
        }
    };
    Row::new([
        ("Driver", volume.str("Driver").into()),
        ("Name", volume.str("Name").into()),
        ("Scope", volume.str("Scope").into()),
        ("Mountpoint", volume.str("Mountpoint").into()),
        ("Links", links.into()),
        ("Size", size.into()),
        (
            "Group",
            or_none(cluster.str("Spec.Group").to_owned()).into(),
        ),
        (
            "Availability",
            or_none(cluster.str("Spec.Availability").to_owned()).into(),
        ),
        ("Status", or_none(status).into()),
    ])
    .with_labels(volume.text_map("Labels"))
}

pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    for name in args.positionals() {
        let call = Call::delete(format!("/volumes/{}", segment(name)))
            .query_if("force", args.flag("force"));
        match session.client.done(call).await {
            Ok(()) => session.say(name)?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}

pub async fn update(session: &Session, args: &Args) -> Outcome {
    let path = format!("/volumes/{}", segment(args.positional(0)));
    let volume: Value = session.client.typed(Call::get(&path)).await?;
    let cluster = &volume["ClusterVolume"];
    if cluster.is_null() {
        return Err(Failure::message("can only update cluster volumes"));
    }
    let mut spec = cluster["Spec"].clone();
    if let Some(availability) = args.maybe("availability") {
        spec["Availability"] = json!(availability);
    }
    let version = cluster["Version"]["Index"].as_u64().unwrap_or(0);
    session
        .client
        .done(
            Call::put(&path)
                .query("version", version)
                .json(&json!({"Spec": spec})),
        )
        .await
}
