//! `system df`.

use crate::client::Call;
use crate::cmd::container::ls;
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const USAGE: Listing = Listing {
    kind: "*formatter.diskUsageContext",
    columns: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    quiet: "{{.Type}}",
    raw: &[
        ("type", "Type"),
        ("total", "TotalCount"),
        ("active", "Active"),
        ("size", "Size"),
        ("reclaimable", "Reclaimable"),
    ],
};

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let usage = session.client.json(Call::get("/system/df")).await?;
    if args.flag("verbose") {
        if args.given("format") {
            return Err(Failure::message(
                "the verbose and the format options conflict",
            ));
        }
        return verbose(session, &usage);
    }
    let rows = vec![
        images(&usage),
        containers(&usage),
        volumes(&usage),
        build_cache(&usage),
    ];
    session.print(&table::render(&USAGE, args.text("format"), false, rows)?)
}

fn row(
    kind: &str,
    total: usize,
    active: usize,
    size: f64,
    reclaimable: f64,
    percents: bool,
) -> Row {
    let mut shown = human::size(reclaimable);
    if percents && size > 0.0 {
        shown.push_str(&format!(" ({}%)", (reclaimable * 100.0 / size) as i64));
    }
    Row::new([
        ("Type", kind.into()),
        ("TotalCount", total.to_string().into()),
        ("Active", active.to_string().into()),
        ("Size", human::size(size).into()),
        ("Reclaimable", shown.into()),
    ])
}

fn images(usage: &Json) -> Row {
    let images = usage.list("Images");
    let size = usage.float("LayersSize");
    let active: Vec<&Json> = images
        .iter()
        .filter(|image| image.int("Containers") > 0)
        .collect();
    let used: f64 = images
        .iter()
        .filter(|image| {
            image.int("Containers") != 0 && image.int("Size") != -1 && image.int("SharedSize") != -1
        })
        .map(|image| image.float("Size") - image.float("SharedSize"))
        .sum();
    row(
        "Images",
        images.len(),
        active.len(),
        size,
        size - used,
        true,
    )
}

fn is_active(container: &&Json) -> bool {
    matches!(container.str("State"), "running" | "paused" | "restarting")
}

fn containers(usage: &Json) -> Row {
    let containers = usage.list("Containers");
    let size: f64 = containers
        .iter()
        .map(|container| container.float("SizeRw"))
        .sum();
    let active = containers.iter().filter(is_active).count();
    let idle: f64 = containers
        .iter()
        .filter(|c| !is_active(c))
        .map(|c| c.float("SizeRw"))
        .sum();
    row("Containers", containers.len(), active, size, idle, true)
}

fn volumes(usage: &Json) -> Row {
    let volumes = usage.list("Volumes");
    let sized = |volume: &&Json| volume.int("UsageData.Size") != -1;
    let size: f64 = volumes
        .iter()
        .filter(sized)
        .map(|volume| volume.float("UsageData.Size"))
        .sum();
    let active = volumes
        .iter()
        .filter(|volume| volume.int("UsageData.RefCount") > 0)
        .count();
    let idle: f64 = volumes
        .iter()
        .filter(sized)
        .filter(|volume| volume.int("UsageData.RefCount") == 0)
        .map(|volume| volume.float("UsageData.Size"))
        .sum();
    row("Local Volumes", volumes.len(), active, size, idle, true)
}

fn build_cache(usage: &Json) -> Row {
    let cache = usage.list("BuildCache");
    let own: Vec<&Json> = cache.iter().filter(|entry| !entry.bool("Shared")).collect();
    let size: f64 = own.iter().map(|entry| entry.float("Size")).sum();
    let active = cache.iter().filter(|entry| entry.bool("InUse")).count();
    let idle: f64 = own
        .iter()
        .filter(|entry| !entry.bool("InUse"))
        .map(|entry| entry.float("Size"))
        .sum();
    row("Build Cache", cache.len(), active, size, idle, false)
}

fn verbose(session: &Session, usage: &Json) -> Outcome {
    let since = |seconds: i64| human::ago(skep_model::Timestamp::from_secs(seconds), now());
    let mut text =
        "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS\n"
            .to_owned();
    for image in usage.list("Images") {
        let tags = image.texts("RepoTags");
        let (repository, tag) = tags
            .first()
            .and_then(|name| name.rsplit_once(':'))
            .unwrap_or(("<none>", "<none>"));
        let (size, shared) = (image.float("Size"), image.float("SharedSize"));
        text.push_str(&format!(
            "{repository}\t{tag}\t{}\t{}\t{}\t{}\t{}\t{}\n",
            human::short_id(image.str("Id")),
            since(image.int("Created")),
            human::size3(size),
            human::size(shared.max(0.0)),
            human::size(size - shared.max(0.0)),
            image.int("Containers")
        ));
    }
    session.print(&format!("Images space usage:\n\n{}", table::align(&text)))?;
    let mut text =
        "CONTAINER ID\tIMAGE\tCOMMAND\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES\n".to_owned();
    for container in usage.list("Containers") {
        let volumes = container
            .list("Mounts")
            .iter()
            .filter(|mount| mount.str("Driver") == "local")
            .count();
        text.push_str(&format!(
            "{}\t{}\t{}\t{volumes}\t{}\t{}\t{}\t{}\n",
            human::short_id(container.str("Id")),
            ls::image(container, true),
            human::quote(&human::ellipsis(container.str("Command"), 20)),
            human::size3(container.float("SizeRw")),
            since(container.int("Created")),
            container.str("Status"),
            ls::names(container, true)
        ));
    }
    session.print(&format!(
        "\nContainers space usage:\n\n{}",
        table::align(&text)
    ))?;
    let mut text = "VOLUME NAME\tLINKS\tSIZE\n".to_owned();
    for volume in usage.list("Volumes") {
        text.push_str(&format!(
            "{}\t{}\t{}\n",
            volume.str("Name"),
            volume.int("UsageData.RefCount"),
            human::size(volume.float("UsageData.Size"))
        ));
    }
    session.print(&format!(
        "\nLocal Volumes space usage:\n\n{}",
        table::align(&text)
    ))?;
    let cache: f64 = usage
        .list("BuildCache")
        .iter()
        .map(|entry| entry.float("Size"))
        .sum();
    session.print(&format!("\nBuild cache usage: {}\n\n", human::size(cache)))?;
    let mut text = "CACHE ID\tCACHE TYPE\tSIZE\tCREATED\tLAST USED\tUSAGE\tSHARED\n".to_owned();
    for entry in usage.list("BuildCache") {
        text.push_str(&format!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
            human::short_id(entry.str("ID")),
            entry.str("Type"),
            human::size(entry.float("Size")),
            entry.str("CreatedAt"),
            entry.str("LastUsedAt"),
            entry.int("UsageCount"),
            entry.bool("Shared")
        ));
    }
    session.print(&table::align(&text))
}
