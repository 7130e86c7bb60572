//! `compose ps`, `images`, `ls`, `top`, `port` and `events`.

use std::collections::{BTreeMap, BTreeSet};

use skep_model::Timestamp;

use super::observed::{self, Container};
use super::{labels, project, up};
use crate::client::{Call, JsonLines};
use crate::cmd::container::ls as containers;
use crate::cmd::container::path;
use crate::cmd::container::stats::{self, Which};
use crate::cmd::task::now;
use crate::cmd::{ports, volume};
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::reference;
use crate::session::Session;
use crate::table::{self, Listing, Row};

/// Characters of a command that a cut table shows.
const COMMAND_LEN_MAX: usize = 20;

const CONTAINERS: Listing = Listing {
    kind: "*formatter.ContainerContext",
    columns: &[
        ("Name", "NAME"),
        ("Names", "NAMES"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("Service", "SERVICE"),
        ("RunningFor", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Status", "STATUS"),
        ("Ports", "PORTS"),
        ("ID", "CONTAINER ID"),
        ("State", "STATE"),
        ("Health", "HEALTH"),
        ("ExitCode", "EXIT CODE"),
        ("Project", "PROJECT"),
        ("Labels", "LABELS"),
    ],
    table: "{{.Name}}\t{{.Image}}\t{{.Command}}\t{{.Service}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}",
    quiet: "{{.ID}}",
    raw: &[],
};

pub async fn ps(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let (project, loaded) = project::target(session, named)?;
    let mut statuses = args.list("status");
    for filter in args.list("filter") {
        match filter.split_once('=') {
            Some(("status", status)) => statuses.push(status.to_owned()),
            Some(("source", _)) => {}
            _ => return Err(args.invalid("filter", &filter, "want status=STATUS")),
        }
    }
    let seen = observed::containers(session, &project).await?;
    let orphans: Vec<String> = match &loaded {
        Some(loaded) if !args.flag_or("orphans", true) => {
            let orphans = up::orphans_of(&loaded.project, &seen);
            orphans.into_iter().map(|one| one.id).collect()
        }
        _ => Vec::new(),
    };
    let mut all = observed::of_services(seen, named, args.flag("all"));
    all.retain(|one| {
        let wanted = match statuses.is_empty() {
            true => args.flag("all") || one.is_running(),
            false => statuses.contains(&one.state),
        };
        wanted && !orphans.contains(&one.id)
    });
    all.sort_by(|a, b| a.name.cmp(&b.name));
    if args.flag("services") {
        let mut services: Vec<&str> = all.iter().map(|one| one.service.as_str()).collect();
        services.sort_unstable();
        services.dedup();
        let lines: String = services.iter().map(|name| format!("{name}\n")).collect();
        return session.print(&lines);
    }
    let quiet = args.flag("quiet");
    let cut = !args.flag("no-trunc");
    let rows = all
        .iter()
        .map(|one| row(one, &project, cut, quiet))
        .collect();
    session.print(&table::render(
        &CONTAINERS,
        args.text("format"),
        quiet,
        rows,
    )?)
}

fn row(container: &Container, project: &str, cut: bool, whole_id: bool) -> Row {
    let listed = &container.listed;
    let command = listed.str("Command");
    let command = if cut {
        human::ellipsis(command, COMMAND_LEN_MAX)
    } else {
        command.to_owned()
    };
    let status = listed.str("Status");
    let health = ["healthy", "unhealthy", "health: starting"]
        .into_iter()
        .find(|health| status.contains(&format!("({health})")))
        .map_or("", |health| health.trim_start_matches("health: "));
    let code = status
        .split_once("Exited (")
        .and_then(|(_, rest)| rest.split(')').next()?.parse::<i64>().ok())
        .unwrap_or(0);
    let id = if whole_id || !cut {
        container.id.as_str()
    } else {
        human::short_id(&container.id)
    };
    Row::new([
        ("ID", id.into()),
        ("Name", container.name.as_str().into()),
        ("Names", container.name.as_str().into()),
        ("Image", containers::image(listed, cut).into()),
        ("Command", human::quote(&command).into()),
        ("Service", container.service.as_str().into()),
        ("Project", project.into()),
        (
            "RunningFor",
            human::ago(Timestamp::from_secs(container.created), now()).into(),
        ),
        ("CreatedAt", human::local_time(container.created).into()),
        ("Status", status.into()),
        ("State", container.state.as_str().into()),
        ("Health", health.into()),
        ("ExitCode", code.into()),
        ("Ports", ports::show(listed.list("Ports")).into()),
    ])
    .with_labels(listed.text_map("Labels"))
}

const IMAGES: Listing = Listing {
    kind: "*formatter.ImageContext",
    columns: &[
        ("ContainerName", "CONTAINER"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("Size", "SIZE"),
    ],
    table: "{{.ContainerName}}\t{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.Size}}",
    quiet: "{{.ID}}",
    raw: &[],
};

pub async fn images(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let (project, _) = project::target(session, named)?;
    let all = observed::of_services(observed::containers(session, &project).await?, named, false);
    if args.flag("quiet") {
        let mut ids: Vec<&str> = all
            .iter()
            .map(|one| {
                let id = one.listed.str("ImageID");
                id.strip_prefix("sha256:").unwrap_or(id)
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let lines: String = ids.iter().map(|id| format!("{id}\n")).collect();
        return session.print(&lines);
    }
    let mut rows = Vec::new();
    for one in &all {
        let id = one.listed.str("ImageID");
        let image = observed::maybe(session, "images", id, "/json").await?;
        let size = image.map_or(0, |image| image.int("Size"));
        let name = one.listed.str("Image");
        let (repository, tag) = reference::repository_and_tag(name)
            .unwrap_or_else(|_| ("<none>".to_owned(), "<none>".to_owned()));
        let tag = if tag.is_empty() {
            "latest".to_owned()
        } else {
            tag
        };
        rows.push(Row::new([
            ("ContainerName", one.name.as_str().into()),
            ("Repository", repository.into()),
            ("Tag", tag.into()),
            ("ID", human::short_id(id).into()),
            ("Size", human::size(size as f64).into()),
        ]));
    }
    session.print(&table::render(&IMAGES, args.text("format"), false, rows)?)
}

pub async fn stats(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let (project, _) = project::target(session, named)?;
    let mut filters = Filters::default().with("label", &format!("{}={project}", labels::PROJECT));
    if let Some(service) = named.first() {
        filters.add("label", &format!("{}={service}", labels::SERVICE));
    }
    stats::show(session, args, &Which::Listed(filters)).await
}

/// The project's volumes; those that services mount, where some are named.
pub async fn volumes(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let (project, _) = project::target(session, named)?;
    let filters = Filters::default().with("label", &format!("{}={project}", labels::PROJECT));
    let call = Call::get("/volumes").query("filters", filters.to_query());
    let answer = session.client.json(call).await?;
    let all = observed::of_services(observed::containers(session, &project).await?, named, true);
    let mounted: BTreeSet<&str> = all
        .iter()
        .flat_map(|one| one.listed.list("Mounts"))
        .map(|mount| mount.str("Name"))
        .collect();
    let mut volumes: Vec<&Json> = answer.list("Volumes").iter().collect();
    volumes.retain(|one| named.is_empty() || mounted.contains(one.str("Name")));
    volume::show(session, args, volumes)
}

const PROJECTS: Listing = Listing {
    kind: "*formatter.StackContext",
    columns: &[
        ("Name", "NAME"),
        ("Status", "STATUS"),
        ("ConfigFiles", "CONFIG FILES"),
    ],
    table: "{{.Name}}\t{{.Status}}\t{{.ConfigFiles}}",
    quiet: "{{.Name}}",
    raw: &[],
};

pub async fn ls(session: &Session, args: &Args) -> Outcome {
    let filters = Filters::default().with("label", labels::PROJECT);
    let call = Call::get("/containers/json")
        .query("all", "1")
        .query("filters", filters.to_query());
    let listed = session.client.json(call).await?;
    // States and files by project.
    let mut projects: BTreeMap<String, (BTreeMap<String, u64>, Vec<String>)> = BTreeMap::new();
    for container in listed.list("") {
        let labels = container.text_map("Labels");
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        if label(labels::ONEOFF).eq_ignore_ascii_case("true") {
            continue;
        }
        let (states, files) = projects.entry(label(labels::PROJECT)).or_default();
        *states.entry(container.str("State").to_owned()).or_default() += 1;
        for file in label(labels::CONFIG_FILES).split(',') {
            if !file.is_empty() && !files.iter().any(|known| known == file) {
                files.push(file.to_owned());
            }
        }
    }
    let names: Vec<String> = args
        .list("filter")
        .iter()
        .map(|filter| match filter.split_once('=') {
            Some(("name", name)) => Ok(name.to_owned()),
            _ => Err(args.invalid("filter", filter, "want name=NAME")),
        })
        .collect::<Outcome<_>>()?;
    let rows = projects
        .into_iter()
        .filter(|(name, (states, _))| {
            let wanted = names.is_empty() || names.iter().any(|part| name.contains(part.as_str()));
            wanted && (args.flag("all") || states.contains_key("running"))
        })
        .map(|(name, (states, files))| {
            let status: Vec<String> = states
                .iter()
                .map(|(state, count)| format!("{state}({count})"))
                .collect();
            Row::new([
                ("Name", name.into()),
                ("Status", status.join(", ").into()),
                ("ConfigFiles", files.join(",").into()),
            ])
        })
        .collect();
    let text = table::render(&PROJECTS, args.text("format"), args.flag("quiet"), rows)?;
    session.print(&text)
}

pub async fn top(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let (project, _) = project::target(session, named)?;
    let all = observed::of_services(observed::containers(session, &project).await?, named, false);
    for one in all.iter().filter(|one| one.is_running()) {
        let processes = session
            .client
            .json(Call::get(path(&one.id, "/top")))
            .await?;
        let mut text = processes.texts("Titles").join("\t") + "\n";
        for process in processes.list("Processes") {
            text.push_str(&process.texts("").join("\t"));
            text.push('\n');
        }
        session.print(&format!("{}\n{}\n", one.name, table::align(&text)))?;
    }
    Ok(())
}

pub async fn port(session: &Session, args: &Args) -> Outcome {
    let (service, port) = (args.positional(0), args.positional(1));
    let protocol = args.maybe("protocol").unwrap_or("tcp").to_lowercase();
    let (port, protocol) = match port.split_once('/') {
        Some((port, protocol)) => (port, protocol.to_owned()),
        None => (port, protocol),
    };
    if port.parse::<u16>().is_err() {
        return Err(Failure::message(format!(
            "invalid port {port:?}: want a number"
        )));
    }
    let (project, _) = project::target(session, &[])?;
    let index = args.uint("index").unwrap_or(0);
    let found = observed::one(session, &project, service, index).await?;
    let container = observed::inspect(session, &found.id).await?;
    let bindings = container
        .at("NetworkSettings.Ports")
        .get(&format!("{port}/{protocol}"))
        .map(|bindings| bindings.list("").to_vec())
        .unwrap_or_default();
    let Some(binding) = bindings.first() else {
        return Err(Failure::message(format!(
            "no port {port}/{protocol} for container {}",
            found.name
        )));
    };
    let ip = binding.str("HostIp");
    let ip = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    session.say(format!("{ip}:{}", binding.str("HostPort")))
}

pub async fn events(session: &Session, args: &Args) -> Outcome {
    let named = args.positionals();
    let (project, _) = project::target(session, named)?;
    let filters = Filters::default()
        .with("type", "container")
        .with("label", &format!("{}={project}", labels::PROJECT));
    let moment = |flag: &str| match args.text(flag) {
        "" => Ok(String::new()),
        text => {
            crate::grammar::moment::parse(text, now()).map_err(|why| args.invalid(flag, text, &why))
        }
    };
    let call = Call::get("/events")
        .query("filters", filters.to_query())
        .query_text("since", &moment("since")?)
        .query_text("until", &moment("until")?);
    let mut stream = JsonLines::of(session.client.send(call).await?);
    while let Some(event) = stream.next().await? {
        let labels = event.text_map("Actor.Attributes");
        let service = labels.get(labels::SERVICE).cloned().unwrap_or_default();
        let oneoff = labels
            .get(labels::ONEOFF)
            .is_some_and(|value| value == "True");
        if oneoff || (!named.is_empty() && !named.contains(&service)) {
            continue;
        }
        let attributes: BTreeMap<&String, &String> = labels
            .iter()
            .filter(|(name, _)| !name.starts_with("com.docker.compose."))
            .collect();
        let at = Timestamp(event.int("timeNano"));
        let (action, id) = (event.str("Action"), event.str("Actor.ID"));
        if args.flag("json") {
            let line = serde_json::json!({
                "time": human::go_time(at),
                "type": "container",
                "action": action,
                "id": id,
                "service": service,
                "attributes": attributes,
            });
            session.say(line.to_string())?;
        } else {
            let shown: Vec<String> = attributes
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            session.say(format!(
                "{} container {action} {id} ({})",
                human::go_time(at),
                shown.join(", ")
            ))?;
        }
    }
    Ok(())
}
