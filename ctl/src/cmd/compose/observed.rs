//! What of a project is there.

use super::labels;
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::json::Json;
use crate::session::Session;

/// A container of a project.
#[derive(Debug, Clone, Default)]
pub struct Container {
    pub id: String,
    /// Without the slash.
    pub name: String,
    pub service: String,
    pub number: u64,
    pub oneoff: bool,
    /// `running`, `exited`, …
    pub state: String,
    pub hash: String,
    /// Id of the image it was made of.
    pub image: String,
    /// Unix seconds.
    pub created: i64,
    /// Ids of the project's containers in whose namespaces it lives, as it was made; read only
    /// where it matters.
    pub lives_in: Vec<String>,
    /// As the daemon lists it.
    pub listed: Json,
}

impl Container {
    fn of(listed: &Json) -> Self {
        let labels = listed.text_map("Labels");
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        Self {
            id: listed.str("Id").to_owned(),
            name: crate::cmd::container::ls::names(listed, true),
            service: label(labels::SERVICE),
            number: label(labels::NUMBER).parse().unwrap_or(0),
            oneoff: label(labels::ONEOFF).eq_ignore_ascii_case("true"),
            state: listed.str("State").to_owned(),
            hash: label(labels::CONFIG_HASH),
            image: match label(labels::IMAGE) {
                label if label.is_empty() => listed.str("ImageID").to_owned(),
                label => label,
            },
            created: listed.int("Created"),
            lives_in: Vec::new(),
            listed: listed.clone(),
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused" | "restarting")
    }
}

fn of_project(project: &str) -> Filters {
    Filters::default().with("label", &format!("{}={project}", labels::PROJECT))
}

/// All containers of a project, by service and number.
pub async fn containers(session: &Session, project: &str) -> Outcome<Vec<Container>> {
    let call = Call::get("/containers/json")
        .query("all", "1")
        .query("filters", of_project(project).to_query());
    let listed = session.client.json(call).await?;
    let mut all: Vec<Container> = listed.list("").iter().map(Container::of).collect();
    all.sort_by(|a, b| {
        (&a.service, a.oneoff, a.number, &a.name).cmp(&(&b.service, b.oneoff, b.number, &b.name))
    });
    Ok(all)
}

/// Those of services, in the order they were named; all where none is named. A service without
/// any is a mistake where `must` says so.
pub fn of_services(
    containers: Vec<Container>,
    services: &[String],
    oneoff: bool,
) -> Vec<Container> {
    containers
        .into_iter()
        .filter(|container| oneoff || !container.oneoff)
        .filter(|container| services.is_empty() || services.contains(&container.service))
        .collect()
}

/// Names of the project's networks with their ids.
pub async fn networks(session: &Session, project: &str) -> Outcome<Vec<(String, String)>> {
    let call = Call::get("/networks").query("filters", of_project(project).to_query());
    let listed = session.client.json(call).await?;
    Ok(listed
        .list("")
        .iter()
        .map(|network| (network.str("Name").to_owned(), network.str("Id").to_owned()))
        .collect())
}

/// Names of the project's volumes.
pub async fn volumes(session: &Session, project: &str) -> Outcome<Vec<String>> {
    let call = Call::get("/volumes").query("filters", of_project(project).to_query());
    let listed = session.client.json(call).await?;
    Ok(listed
        .list("Volumes")
        .iter()
        .map(|volume| volume.str("Name").to_owned())
        .collect())
}

/// An object, or nothing where there is none of that name.
pub async fn maybe(session: &Session, path: &str, name: &str, rest: &str) -> Outcome<Option<Json>> {
    let call = Call::get(format!("/{path}/{}{rest}", segment(name)));
    match session.client.json(call).await {
        Ok(object) => Ok(Some(object)),
        Err(failure) if failure.is_not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// A container as `inspect` shows it.
pub async fn inspect(session: &Session, id: &str) -> Outcome<Json> {
    session
        .client
        .json(Call::get(crate::cmd::container::path(id, "/json")))
        .await
}

/// The container of a service with this number; the first one for 0.
pub async fn one(
    session: &Session,
    project: &str,
    service: &str,
    index: u64,
) -> Outcome<Container> {
    let all = of_services(
        containers(session, project).await?,
        &[service.to_owned()],
        false,
    );
    let found = match index {
        0 => all.iter().find(|one| one.is_running()),
        index => all.iter().find(|one| one.number == index),
    };
    match (found, index) {
        (Some(found), _) => Ok(found.clone()),
        (None, 0) => Err(Failure::message(format!(
            "service {service:?} is not running"
        ))),
        (None, index) => Err(Failure::message(format!(
            "service {service:?} is not running container #{index}"
        ))),
    }
}
