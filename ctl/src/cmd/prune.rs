//! `prune`: what nothing uses goes away, after a question.

use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;

/// One kind of object that can be pruned.
struct Kind {
    path: &'static str,
    heading: &'static str,
    /// Field of the answer that lists what went.
    deleted: &'static str,
}

const CONTAINERS: Kind = Kind {
    path: "/containers/prune",
    heading: "Deleted Containers:",
    deleted: "ContainersDeleted",
};
const IMAGES: Kind = Kind {
    path: "/images/prune",
    heading: "Deleted Images:",
    deleted: "ImagesDeleted",
};
const NETWORKS: Kind = Kind {
    path: "/networks/prune",
    heading: "Deleted Networks:",
    deleted: "NetworksDeleted",
};
const VOLUMES: Kind = Kind {
    path: "/volumes/prune",
    heading: "Deleted Volumes:",
    deleted: "VolumesDeleted",
};

/// Prunes one kind, says what went; the bytes that came free.
async fn prune(session: &Session, kind: &Kind, filters: &Filters) -> Outcome<f64> {
    let call = Call::post(kind.path).query_text("filters", &filters.to_query());
    let answer = session.client.json(call).await?;
    let lines: String = answer
        .list(kind.deleted)
        .iter()
        .map(
            |object| match (object.str("Untagged"), object.str("Deleted")) {
                ("", "") => format!("{}\n", object.str("")),
                ("", deleted) => format!("deleted: {deleted}\n"),
                (untagged, _) => format!("untagged: {untagged}\n"),
            },
        )
        .collect();
    if !lines.is_empty() {
        session.say(format!("{}\n{lines}", kind.heading))?;
    }
    Ok(answer.float("SpaceReclaimed"))
}

fn say_space(session: &Session, bytes: f64) -> Outcome {
    session.say(format!("Total reclaimed space: {}", human::size(bytes)))
}

/// Asks, unless `--force` is given.
fn agree(session: &Session, args: &Args, warning: &str, what: &str) -> Outcome {
    if args.flag("force")
        || session.confirm(&format!("{warning}\nAre you sure you want to continue?"))?
    {
        Ok(())
    } else {
        Err(Failure::message(format!("{what} prune has been cancelled")))
    }
}

/// The command's filters with those of the configuration file.
fn filters(session: &Session, args: &Args) -> Outcome<Filters> {
    let mut filters = Filters::of(args)?;
    for given in session.config.prune_filters() {
        if let Some((key, value)) = given.split_once('=')
            && !filters.get(key).contains(&value)
        {
            filters.add(key, value);
        }
    }
    Ok(filters)
}

pub async fn containers(session: &Session, args: &Args) -> Outcome {
    let filters = filters(session, args)?;
    agree(
        session,
        args,
        "WARNING! This will remove all stopped containers.",
        "container",
    )?;
    let bytes = prune(session, &CONTAINERS, &filters).await?;
    say_space(session, bytes)
}

pub async fn images(session: &Session, args: &Args) -> Outcome {
    let all = args.flag("all");
    let filters = filters(session, args)?.with("dangling", if all { "false" } else { "true" });
    let warning = if all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    agree(session, args, warning, "image")?;
    let bytes = prune(session, &IMAGES, &filters).await?;
    say_space(session, bytes)
}

pub async fn builder(session: &Session, args: &Args) -> Outcome {
    let filters = filters(session, args)?;
    agree(
        session,
        args,
        "WARNING! This will remove all build cache that no build uses.",
        "builder",
    )?;
    let keep = args.bytes("keep-storage").unwrap_or(0);
    let bytes = build_cache(session, &filters, args.flag("all"), keep).await?;
    say_space(session, bytes)
}

pub async fn networks(session: &Session, args: &Args) -> Outcome {
    let filters = filters(session, args)?;
    agree(
        session,
        args,
        "WARNING! This will remove all custom networks not used by at least one container.",
        "network",
    )?;
    prune(session, &NETWORKS, &filters).await.map(drop)
}

pub async fn volumes(session: &Session, args: &Args) -> Outcome {
    let all = args.flag("all");
    let mut filters = filters(session, args)?;
    let warning = if all {
        if filters.contains("all") {
            return Err(Failure::message(
                "conflicting options: cannot specify both --all and --filter all=1",
            ));
        }
        filters.add("all", "true");
        "WARNING! This will remove all local volumes not used by at least one container."
    } else {
        "WARNING! This will remove anonymous local volumes not used by at least one container."
    };
    agree(session, args, warning, "volume")?;
    let bytes = prune(session, &VOLUMES, &filters).await?;
    say_space(session, bytes)
}

pub async fn system(session: &Session, args: &Args) -> Outcome {
    let (all, volumes) = (args.flag("all"), args.flag("volumes"));
    let filters = filters(session, args)?;
    if volumes && filters.contains("until") {
        return Err(Failure::message(
            "ERROR: The \"until\" filter is not supported with \"--volumes\"",
        ));
    }
    let mut warning = "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n".to_owned();
    if volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(if all {
        "  - all images without at least one container associated to them\n  - all build cache\n"
    } else {
        "  - all dangling images\n  - unused build cache\n"
    });
    let given = args.list("filter");
    if !given.is_empty() {
        warning.push_str("\n  Items to be pruned will be filtered with:\n");
        for filter in &given {
            warning.push_str(&format!("  - {filter}\n"));
        }
    }
    agree(session, args, &warning, "system")?;
    let mut bytes = prune(session, &CONTAINERS, &filters).await?;
    prune(session, &NETWORKS, &filters).await?;
    if volumes {
        bytes += prune(session, &VOLUMES, &filters).await?;
    }
    let images = filters
        .clone()
        .with("dangling", if all { "false" } else { "true" });
    bytes += prune(session, &IMAGES, &images).await?;
    bytes += build_cache(session, &filters, all, 0).await?;
    say_space(session, bytes)
}

/// A daemon without a build cache has nothing to free there.
async fn build_cache(session: &Session, filters: &Filters, all: bool, keep: i64) -> Outcome<f64> {
    let call = Call::post("/build/prune")
        .query("keep-storage", keep)
        .query_if("all", all)
        .query_text("filters", &filters.to_query());
    let answer = match session.client.json(call).await {
        Ok(answer) => answer,
        Err(Failure::Daemon {
            code: 400 | 404 | 501,
            ..
        }) => return Ok(0.0),
        Err(failure) => return Err(failure),
    };
    let deleted: String = answer
        .list("CachesDeleted")
        .iter()
        .map(|id: &Json| format!("{}\n", id.str("")))
        .collect();
    if !deleted.is_empty() {
        session.say(format!("Deleted build cache objects:\n{deleted}"))?;
    }
    Ok(answer.float("SpaceReclaimed"))
}
