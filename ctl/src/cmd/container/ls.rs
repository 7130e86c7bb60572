//! `container ls`.

use skep_model::Timestamp;

use crate::client::Call;
use crate::cmd::ports;
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::reference;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

const CONTAINERS: Listing = Listing {
    kind: "*formatter.ContainerContext",
    columns: COLUMNS,
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    quiet: "{{.ID}}",
    raw: &[
        ("container_id", "ID"),
        ("image", "Image"),
        ("command", "Command"),
        ("created_at", "CreatedAt"),
        ("state", "State"),
        ("status", "Status"),
        ("names", "Names"),
        ("labels", "Labels"),
        ("ports", "Ports"),
    ],
};

const CONTAINERS_WITH_SIZE: Listing = Listing {
    kind: "*formatter.ContainerContext",
    columns: COLUMNS,
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
    quiet: "{{.ID}}",
    raw: &[
        ("container_id", "ID"),
        ("image", "Image"),
        ("command", "Command"),
        ("created_at", "CreatedAt"),
        ("state", "State"),
        ("status", "Status"),
        ("names", "Names"),
        ("labels", "Labels"),
        ("ports", "Ports"),
    ],
};

/// Characters of a command and of a mount that a cut table shows.
const COMMAND_LEN_MAX: usize = 20;
const MOUNT_LEN_MAX: usize = 15;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let last = if args.flag("latest") {
        1
    } else {
        args.int("last").unwrap_or(-1)
    };
    let quiet = args.flag("quiet");
    let mut format = crate::cmd::format_of(session, args, "psFormat");
    if quiet && !format.is_empty() {
        session.warn("WARNING: Ignoring custom format, because both --format and --quiet are set.");
        format.clear();
    }
    let sized = args.flag("size") || format.contains(".Size");
    let call = Call::get("/containers/json")
        .query_if("all", args.flag("all"))
        .query_text(
            "limit",
            &if last > 0 {
                last.to_string()
            } else {
                String::new()
            },
        )
        .query_if("size", sized)
        .query_text("filters", &Filters::of(args)?.to_query());
    let containers = session.client.json(call).await?;
    let cut = !args.flag("no-trunc");
    let rows = containers
        .list("")
        .iter()
        .map(|container| row(container, cut))
        .collect();
    let listing = if args.flag("size") {
        &CONTAINERS_WITH_SIZE
    } else {
        &CONTAINERS
    };
    let text = table::render(listing, &format, quiet, rows).map_err(|failure| {
        let text = failure.to_string();
        if text.contains(": executing ") {
            Failure::Message(text.replacen(
                "template parsing error",
                "failed to execute template",
                1,
            ))
        } else {
            failure
        }
    })?;
    session.print(&text)
}

fn row(container: &Json, cut: bool) -> Row {
    let id = container.str("Id");
    let command = container.str("Command");
    let command = if cut {
        human::ellipsis(command, COMMAND_LEN_MAX)
    } else {
        command.to_owned()
    };
    let created = container.int("Created");
    let mut networks: Vec<&str> = container
        .fields("NetworkSettings.Networks")
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    networks.sort_unstable();
    let mounts = container.list("Mounts");
    let local = mounts
        .iter()
        .filter(|mount| mount.str("Driver") == "local")
        .count();
    let shown: Vec<String> = mounts
        .iter()
        .map(|mount| match mount.str("Name") {
            "" => mount.str("Source"),
            name => name,
        })
        .map(|name| {
            if cut {
                human::ellipsis(name, MOUNT_LEN_MAX)
            } else {
                name.to_owned()
            }
        })
        .collect();
    let rw = human::size3(container.float("SizeRw"));
    let size = match container.float("SizeRootFs") {
        root if root > 0.0 => format!("{rw} (virtual {})", human::size3(root)),
        _ => rw,
    };
    Row::new([
        ("ID", if cut { human::short_id(id) } else { id }.into()),
        ("Names", names(container, cut).into()),
        ("Image", image(container, cut).into()),
        ("Command", human::quote(&command).into()),
        ("CreatedAt", human::local_time(created).into()),
        (
            "RunningFor",
            human::ago(Timestamp::from_secs(created), now()).into(),
        ),
        ("Ports", ports::show(container.list("Ports")).into()),
        ("State", container.str("State").into()),
        ("Status", container.str("Status").into()),
        ("Size", size.into()),
        ("Mounts", shown.join(",").into()),
        ("LocalVolumes", local.to_string().into()),
        ("Networks", networks.join(",").into()),
        (
            "Platform",
            container.at("ImageManifestDescriptor.platform").clone(),
        ),
    ])
    .with_labels(container.text_map("Labels"))
}

/// Names without their slash; links (names with a slash inside) only when nothing is cut.
pub fn names(container: &Json, cut: bool) -> String {
    let names: Vec<&str> = container
        .texts("Names")
        .into_iter()
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        .collect();
    match names.iter().find(|name| !name.contains('/')) {
        Some(own) if cut => (*own).to_owned(),
        _ => names.join(","),
    }
}

pub fn image(container: &Json, cut: bool) -> String {
    let image = container.str("Image");
    if image.is_empty() {
        return "<no image>".to_owned();
    }
    if !cut {
        return image.to_owned();
    }
    let id = human::short_id(container.str("ImageID"));
    if !id.is_empty() && id == human::short_id(image) {
        return id.to_owned();
    }
    reference::without_digest(image)
}
