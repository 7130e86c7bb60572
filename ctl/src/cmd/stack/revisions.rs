//! `stack history`, `stack diff`, `stack rollback`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use skep_model::StackSpec;
use skep_model::difference::differences;
use skep_model::stack::StackRevision;

use super::{check_name, plan, services_of, wait_for};
use crate::client::{Call, segment};
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const REVISIONS: Listing = Listing {
    kind: "*stack.revisionContext",
    columns: &[
        ("Revision", "REVISION"),
        ("Since", "SINCE"),
        ("Services", "SERVICES"),
        ("Reason", "REASON"),
        ("Changes", "CHANGES"),
    ],
    table: "{{.Revision}}\t{{.Since}}\t{{.Services}}\t{{.Reason}}\t{{.Changes}}",
    quiet: "{{.Revision}}",
    raw: &[],
};

/// Longest list of changes in a table, in characters.
const CHANGES_LEN_MAX: usize = 60;

/// What a stack has been, the newest first.
async fn revisions(session: &Session, name: &str) -> Outcome<Vec<StackRevision>> {
    let call = Call::get(format!("/skep/v1/stacks/{}/history", segment(name)));
    match session.client.typed(call).await {
        Err(Failure::Daemon { message, .. }) if message == "page not found" => {
            Err(Failure::message("this daemon keeps no revisions of stacks"))
        }
        answer => answer,
    }
}

pub async fn history(session: &Session, args: &Args) -> Outcome {
    let name = check_name(args.positional(0))?;
    let revisions = revisions(session, name).await?;
    let older = revisions.iter().skip(1).map(Some).chain([None]);
    let rows = revisions.iter().zip(older).map(|(revision, older)| {
        let changes = older.map_or(Vec::new(), |older| between(&older.spec, &revision.spec));
        let changes = changes.join("; ");
        let changes = match args.flag("no-trunc") {
            true => changes,
            false => human::ellipsis(&changes, CHANGES_LEN_MAX),
        };
        Row::new([
            ("Revision", revision.number.to_string().as_str().into()),
            ("Since", human::ago(revision.since, now()).into()),
            (
                "Services",
                revision.spec.services.len().to_string().as_str().into(),
            ),
            ("Reason", revision.because.as_str().into()),
            ("Changes", changes.into()),
        ])
    });
    let format = crate::cmd::format_of(session, args, "");
    let quiet = args.flag("quiet");
    session.print(&table::render(&REVISIONS, &format, quiet, rows.collect())?)
}

pub async fn diff(session: &Session, args: &Args) -> Outcome {
    let name = check_name(args.positional(0))?;
    let revisions = revisions(session, name).await?;
    let find = |text: &str| -> Outcome<&StackRevision> {
        let number: u64 = text
            .parse()
            .map_err(|_| Failure::message(format!("`{text}` is not the number of a revision")))?;
        let found = revisions.iter().find(|revision| revision.number == number);
        found.ok_or_else(|| Failure::message(format!("stack {name} has no revision {number}")))
    };
    let given = &args.positionals()[1..];
    let (from, to) = match given {
        [] => match revisions.as_slice() {
            [present, before, ..] => (before, present),
            _ => {
                return Err(Failure::message(format!(
                    "stack {name} has one revision only: there is nothing to compare"
                )));
            }
        },
        [from] => (find(from)?, &revisions[0]),
        [from, to, ..] => (find(from)?, find(to)?),
    };
    for line in between(&from.spec, &to.spec) {
        session.say(line)?;
    }
    Ok(())
}

/// How a stack differs from another, a line each.
fn between(had: &StackSpec, has: &StackSpec) -> Vec<String> {
    let mut lines = Vec::new();
    macro_rules! compare {
        ($kind:literal, $field:ident) => {
            lines.extend(objects(
                $kind,
                had.$field.iter().map(|one| (one.name.as_str(), one)),
                has.$field.iter().map(|one| (one.name.as_str(), one)),
            ));
        };
    }
    compare!("network", networks);
    compare!("secret", secrets);
    compare!("config", configs);
    compare!("service", services);
    lines
}

fn objects<'a, T: Serialize + 'a>(
    kind: &str,
    had: impl Iterator<Item = (&'a str, &'a T)>,
    has: impl Iterator<Item = (&'a str, &'a T)>,
) -> Vec<String> {
    let (had, has): (BTreeMap<&str, &T>, BTreeMap<&str, &T>) = (had.collect(), has.collect());
    let names: BTreeSet<&str> = had.keys().chain(has.keys()).copied().collect();
    let mut lines = Vec::new();
    for name in names {
        match (had.get(name), has.get(name)) {
            (None, Some(_)) => lines.push(format!("+ {kind} {name}")),
            (Some(_), None) => lines.push(format!("- {kind} {name}")),
            (Some(had), Some(has)) => {
                let changes = differences(had, has);
                lines.extend(
                    changes
                        .iter()
                        .map(|change| format!("~ {kind} {name}: {change}")),
                );
            }
            (None, None) => {}
        }
    }
    lines
}

pub async fn roll_back(session: &Session, args: &Args) -> Outcome {
    let name = check_name(args.positional(0))?;
    let to = args.uint("to");
    if to == Some(0) {
        return Err(Failure::message("--to: revisions count from 1"));
    }
    let call = |rest: &str| {
        let path = format!("/skep/v1/stacks/{}/rollback{rest}", segment(name));
        match to {
            Some(to) => Call::post(path).query("to", to),
            None => Call::post(path),
        }
    };
    if args.flag("dry-run") {
        let told = plan::ask(session, call("/plan")).await?;
        for warning in &told.warnings {
            session.warn(warning);
        }
        return session.print(&plan::text(&told));
    }
    let answer = match session.client.json(call("")).await {
        Err(Failure::Daemon { message, .. }) if message == "page not found" => {
            return Err(Failure::message("this daemon keeps no revisions of stacks"));
        }
        answer => answer?,
    };
    for warning in answer.texts("Warnings") {
        session.warn(warning);
    }
    if !args.flag("quiet") {
        for action in answer.texts("Actions") {
            session.say(action)?;
        }
    }
    if args.flag("detach") {
        return Ok(());
    }
    let services = services_of(session, name).await?;
    let names = services.iter().map(|service| service.str("Spec.Name"));
    wait_for(session, names, args.flag("quiet")).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::ServiceSpec;

    #[test]
    fn revisions_are_compared_object_by_object() {
        let service = |name: &str, image: &str| {
            let mut spec = ServiceSpec {
                name: name.to_owned(),
                ..ServiceSpec::default()
            };
            let container = spec.task_template.container_spec.get_or_insert_default();
            container.image = image.to_owned();
            spec
        };
        let stack = |services: Vec<ServiceSpec>| StackSpec {
            services,
            ..StackSpec::default()
        };
        let had = stack(vec![service("web", "a"), service("old", "x")]);
        // In another order, which says nothing.
        let has = stack(vec![service("new", "y"), service("web", "b")]);
        assert_eq!(
            between(&had, &has),
            [
                "+ service new",
                "- service old",
                "~ service web: Image: a -> b"
            ]
        );
    }
}
