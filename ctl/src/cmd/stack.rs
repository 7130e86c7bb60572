//! `skep stack`. With a skep daemon a stack is deployed and removed as one; a plain dockerd's
//! stacks are the services with a stack's label, and can be listed and removed.

pub mod exec;
pub mod logs;
pub mod plan;
pub mod revisions;
mod wait;

use std::collections::BTreeMap;
use std::time::Duration;

use skep_compose::{Options, Source};
use skep_model::StackSpec;
use skep_model::stack::{IMAGE_LABEL, STACK_LABEL};

use super::service::{digest, ls};
use super::{service, task};
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::filter::Filters;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::progress;
use crate::session::Session;
use crate::table::{self, Listing, Row};

/// A compose file, or one that it names, is smaller than this.
const FILE_BYTES_MAX: usize = 16 << 20;

const STACKS: Listing = Listing {
    kind: "*formatter.stackContext",
    columns: &[("Name", "NAME"), ("Services", "SERVICES")],
    table: "{{.Name}}\t{{.Services}}",
    quiet: "{{.Name}}",
    raw: &[],
};

/// Refuses a name that is nothing but quotes and spaces.
fn check_name(name: &str) -> Outcome<&str> {
    if name
        .trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '\'')
        .is_empty()
    {
        return Err(Failure::message(format!(
            "invalid stack name: {}",
            human::quote(name)
        )));
    }
    Ok(name)
}

/// The full name of a stack's service by its short one, or by itself; `names` are those there are.
fn full_name(stack: &str, given: &str, names: &[String]) -> Outcome<String> {
    let scoped = format!("{stack}_{given}");
    let found = names.iter().find(|name| **name == scoped);
    let found = found.or_else(|| names.iter().find(|name| *name == given));
    found
        .cloned()
        .ok_or_else(|| Failure::message(format!("stack {stack} has no service {given}")))
}

/// The files that `--compose-file` names, read, and where their relative paths start.
fn sources(session: &Session, args: &Args) -> Outcome<(Vec<Source>, String)> {
    let paths = args.list("compose-file");
    let Some(first) = paths.first() else {
        return Err(Failure::message(
            "Specify a Compose file (with --compose-file)",
        ));
    };
    let working_dir = if first == "-" {
        files::absolute(".")
    } else {
        let file = files::absolute(first);
        std::path::Path::new(&file)
            .parent()
            .map_or_else(|| "/".to_owned(), |parent| parent.display().to_string())
    };
    if first == "-" && paths.len() > 1 {
        return Err(Failure::message(
            "cannot read a Compose file from stdin together with other files",
        ));
    }
    let mut sources = Vec::new();
    for path in &paths {
        sources.push(source(session, path)?);
    }
    Ok((sources, working_dir))
}

/// One compose file, read; `-` is stdin.
pub fn source(session: &Session, path: &str) -> Outcome<Source> {
    let bytes = if path == "-" {
        session.read_input(FILE_BYTES_MAX)?
    } else {
        files::read(path, FILE_BYTES_MAX as u64).map_err(Failure::Message)?
    };
    let name = if path == "-" { "<stdin>" } else { path };
    Source::decode(name, &bytes).map_err(|diagnostics| wrong(&diagnostics))
}

/// Several diagnostics as one failure.
pub fn wrong(diagnostics: &[skep_compose::Diagnostic]) -> Failure {
    let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    Failure::message(lines.join("\n"))
}

pub fn read_named(path: &str) -> std::io::Result<Vec<u8>> {
    let meta = std::fs::metadata(path)?;
    if meta.len() > FILE_BYTES_MAX as u64 {
        return Err(std::io::Error::other("file is too large"));
    }
    std::fs::read(path)
}

pub async fn config(session: &Session, args: &Args) -> Outcome {
    let (sources, working_dir) = sources(session, args)?;
    let options = Options {
        stack: String::new(),
        interpolate: !args.flag("skip-interpolation"),
        strict: false,
        working_dir,
    };
    let env = |name: &str| session.env.get(name).cloned();
    let (document, warnings) = skep_compose::config(&sources, &env, &mut read_named, &options)
        .map_err(|diagnostics| wrong(&diagnostics))?;
    for warning in warnings {
        session.warn(warning.to_string());
    }
    session.print(&document)
}

/// Whether the daemon knows stacks as objects.
pub async fn is_skep(session: &Session) -> Outcome<bool> {
    match session.client.done(Call::get("/skep/v1/version")).await {
        Ok(()) => Ok(true),
        Err(Failure::Daemon {
            code: 400 | 404, ..
        }) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// A stack as its files describe it, with images by digest, and what is to be said of those.
async fn wanted(session: &Session, args: &Args, name: &str) -> Outcome<(StackSpec, Vec<String>)> {
    let resolve = args.maybe("resolve-image").unwrap_or("always");
    if !matches!(resolve, "always" | "changed" | "never") {
        return Err(Failure::message(format!(
            "Invalid option {resolve} for flag --resolve-image"
        )));
    }
    let (sources, working_dir) = sources(session, args)?;
    let options = Options {
        stack: name.to_owned(),
        interpolate: true,
        strict: args.flag("strict"),
        working_dir,
    };
    let env = |name: &str| session.env.get(name).cloned();
    let loaded = skep_compose::load(&sources, &env, &mut read_named, &options)
        .map_err(|diagnostics| wrong(&diagnostics))?;
    let says = args.given("detach") || args.flag("wait") || args.flag("quiet");
    if args.knows("detach") && !says {
        session.warn("Since --detach=false was not specified, tasks will be created in the background.\nIn a future release, --detach=false will become the default.");
    }
    for warning in &loaded.warnings {
        session.warn(warning.to_string());
    }
    if !is_skep(session).await? {
        return Err(Failure::message(format!(
            "stack {name} was not deployed\n  cause: the daemon at {} is not a skep daemon: it has no stacks\nhint: use `docker stack deploy` with this daemon, or choose another one with `-H`",
            session.client.host()
        )));
    }
    // Docker's own words, before images are looked up in vain.
    let info = session.client.json(Call::get("/info")).await?;
    if !info.bool("Swarm.ControlAvailable") {
        return Err(Failure::message(
            "this node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again",
        ));
    }
    let mut stack = loaded.stack;
    let unresolved = resolve_images(session, args, name, resolve, &mut stack).await?;
    Ok((stack, unresolved))
}

pub async fn deploy(session: &Session, args: &Args) -> Outcome {
    let name = check_name(args.positional(0))?;
    let (stack, unresolved) = wanted(session, args, name).await?;
    let mut call = Call::post(format!("/skep/v1/stacks/{}", segment(name)))
        .query("prune", args.flag("prune"))
        .query_text("failure-action", args.text("failure-action"))
        .json(&stack);
    let timeout = args.duration("timeout").unwrap_or(0);
    let timeout = u64::try_from(timeout).map_err(|_| {
        Failure::message("invalid argument for \"--timeout\": it must not be negative")
    })?;
    let timeout = (timeout > 0).then(|| Duration::from_nanos(timeout));
    if let Some(timeout) = timeout {
        let seconds = timeout.as_nanos().div_ceil(1_000_000_000);
        call = call.query("timeout", seconds.to_string());
    }
    if let Some(basis) = args.maybe("basis") {
        call = call.query("basis", basis);
    }
    let answer = session.client.json(call).await?;
    let unresolved = unresolved.iter().map(String::as_str);
    for warning in answer.texts("Warnings").into_iter().chain(unresolved) {
        session.warn(warning);
    }
    if !args.flag("quiet") {
        for action in answer.texts("Actions") {
            session.say(action)?;
        }
    }
    if args.flag("wait") {
        return wait::wait(session, name, args.flag("quiet"), timeout).await;
    }
    if args.flag_or("detach", true) {
        return Ok(());
    }
    let names = stack.services.iter().map(|spec| spec.name.as_str());
    wait_for(session, names, args.flag("quiet")).await
}

/// Waits for services to converge, and tells of all that do not.
async fn wait_for<'a>(
    session: &Session,
    services: impl Iterator<Item = &'a str>,
    quiet: bool,
) -> Outcome {
    let mut failures = Vec::new();
    for name in services {
        let rollback = progress::service::Rollback::Failure;
        if let Err(failure) = progress::service::wait(session, name, quiet, rollback).await {
            failures.push(Failure::message(format!("{name}: {failure}")));
        }
    }
    Failure::join(failures)
}

/// Images by digest, and the credentials to pull them with. The answer is what to say of those
/// that could not be resolved.
async fn resolve_images(
    session: &Session,
    args: &Args,
    name: &str,
    resolve: &str,
    stack: &mut StackSpec,
) -> Outcome<Vec<String>> {
    // What each service runs now, and under which image the user wrote.
    let mut running: BTreeMap<String, (String, String)> = BTreeMap::new();
    if resolve == "changed" {
        for service in services_of(session, name).await? {
            let labels = service.text_map("Spec.Labels");
            let written = labels.get(IMAGE_LABEL).cloned().unwrap_or_default();
            let image = service
                .str("Spec.TaskTemplate.ContainerSpec.Image")
                .to_owned();
            running.insert(service.str("Spec.Name").to_owned(), (written, image));
        }
    }
    let mut unresolved = Vec::new();
    for spec in &mut stack.services {
        let written = spec.labels.get(IMAGE_LABEL).cloned().unwrap_or_default();
        let auth = if args.flag("with-registry-auth") {
            session.config.registry_auth(spec.task_template.image())
        } else {
            None
        };
        digest::tag(spec);
        match (resolve, running.get(&spec.name)) {
            ("never", _) => {}
            ("changed", Some((before, image))) if *before == written => {
                if let Some(container) = &mut spec.task_template.container_spec {
                    container.image.clone_from(image);
                }
            }
            _ => unresolved.extend(digest::resolve(session, spec, auth.as_ref()).await),
        }
        if let Some(auth) = auth {
            spec.task_template.pull_credentials = auth;
        }
    }
    Ok(unresolved)
}

fn label_filter(name: &str) -> Filters {
    Filters::default().with("label", &format!("{STACK_LABEL}={name}"))
}

async fn services_of(session: &Session, name: &str) -> Outcome<Vec<Json>> {
    ls::list(session, &label_filter(name)).await
}

pub async fn list(session: &Session, args: &Args) -> Outcome {
    let mut stacks: Vec<(String, i64)> = if is_skep(session).await? {
        let stacks = session.client.json(Call::get("/skep/v1/stacks")).await?;
        stacks
            .list("")
            .iter()
            .map(|stack| (stack.str("Name").to_owned(), stack.int("Services")))
            .collect()
    } else {
        let filters = Filters::default().with("label", STACK_LABEL);
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for service in ls::list(session, &filters).await? {
            if let Some(name) = service.text_map("Spec.Labels").remove(STACK_LABEL) {
                *counts.entry(name).or_default() += 1;
            }
        }
        counts.into_iter().collect()
    };
    stacks.sort_by(|a, b| human::natural(&a.0, &b.0));
    let rows = stacks
        .into_iter()
        .map(|(name, services)| {
            Row::new([
                ("Name", name.into()),
                ("Services", services.to_string().into()),
            ])
        })
        .collect();
    session.print(&table::render(&STACKS, args.text("format"), false, rows)?)
}

/// The command's filters, within a stack.
fn filters(args: &Args, name: &str) -> Outcome<Filters> {
    Ok(Filters::of(args)?.with("label", &format!("{STACK_LABEL}={name}")))
}

pub async fn ps(session: &Session, args: &Args) -> Outcome {
    let name = check_name(args.positional(0))?;
    let mut filters = filters(args, name)?;
    service::ps::resolve_node_filter(session, &mut filters).await?;
    let tasks = task::list(session, &filters).await?;
    if tasks.is_empty() {
        return Err(Failure::message(format!("nothing found in stack: {name}")));
    }
    // Unlike the other two lists of tasks, docker's cuts ids with `--quiet` too.
    task::print(session, args, tasks, args.flag("no-trunc")).await
}

pub async fn services(session: &Session, args: &Args) -> Outcome {
    let name = check_name(args.positional(0))?;
    let services = ls::list(session, &filters(args, name)?).await?;
    if services.is_empty() {
        session.warn(format!("Nothing found in stack: {name}"));
        return Ok(());
    }
    ls::print(session, args, services)
}

pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let skep = is_skep(session).await?;
    let mut failures = Vec::new();
    for name in args.positionals() {
        let name = check_name(name)?;
        let removed = if skep {
            remove_whole(session, name).await
        } else {
            remove_by_label(session, name).await
        };
        match removed {
            Ok(true) if !args.flag_or("detach", true) => {
                if let Err(failure) = wait_gone(session, name).await {
                    failures.push(failure);
                }
            }
            Ok(true) => {}
            Ok(false) => session.warn(format!("Nothing found in stack: {name}")),
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}

/// Removes a stack in one step. `false` when there is none.
async fn remove_whole(session: &Session, name: &str) -> Outcome<bool> {
    let call = Call::delete(format!("/skep/v1/stacks/{}", segment(name)));
    match session.client.json(call).await {
        Ok(answer) => {
            for warning in answer.texts("Warnings") {
                session.warn(warning);
            }
            for action in answer.texts("Actions") {
                session.say(action)?;
            }
            Ok(true)
        }
        Err(failure) if failure.is_not_found() => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Removes everything with the stack's label. `false` when there is nothing.
async fn remove_by_label(session: &Session, name: &str) -> Outcome<bool> {
    let mut found = false;
    let mut failed = false;
    for (kind, id, label) in [
        ("service", "ID", "Spec.Name"),
        ("secret", "ID", "Spec.Name"),
        ("config", "ID", "Spec.Name"),
        ("network", "Id", "Name"),
    ] {
        let call = Call::get(format!("/{kind}s")).query("filters", label_filter(name).to_query());
        let objects = session.client.json(call).await?;
        let mut objects: Vec<&Json> = objects.list("").iter().collect();
        objects.sort_by(|a, b| a.str(label).cmp(b.str(label)));
        for object in objects {
            found = true;
            session.say(format!("Removing {kind} {}", object.str(label)))?;
            let call = Call::delete(format!("/{kind}s/{}", segment(object.str(id))));
            if let Err(failure) = session.client.done(call).await {
                session.warn(format!(
                    "Failed to remove {kind} {}: {failure}",
                    object.str(id)
                ));
                failed = true;
            }
        }
    }
    if failed {
        return Err(Failure::message(format!(
            "failed to remove some resources from stack: {name}"
        )));
    }
    Ok(found)
}

/// Waits until no task of the stack is left running.
async fn wait_gone(session: &Session, name: &str) -> Outcome {
    loop {
        let tasks = task::list(session, &label_filter(name)).await?;
        let left = tasks
            .iter()
            .filter(|task| {
                matches!(
                    task.str("Status.State"),
                    "new"
                        | "allocated"
                        | "pending"
                        | "assigned"
                        | "accepted"
                        | "preparing"
                        | "ready"
                        | "starting"
                        | "running"
                )
            })
            .count();
        if left == 0 {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}
