//! `stack plan`: what a deploy would do.

use std::collections::BTreeMap;

use skep_model::preview::Fate;
use skep_model::stack::{ObjectAction, ObjectChange, StackPlan};

use super::{check_name, wanted};
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

/// The exit status that says that something would change.
const CHANGES: u8 = 2;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let name = check_name(args.positional(0))?;
    let (stack, unresolved) = wanted(session, args, name).await?;
    let call = Call::post(format!("/skep/v1/stacks/{}/plan", segment(name)))
        .query("prune", args.flag("prune"))
        .json(&stack);
    let plan = ask(session, call).await?;
    for warning in plan.warnings.iter().chain(&unresolved) {
        session.warn(warning);
    }
    if !args.flag("quiet") {
        session.print(&text(&plan))?;
        if !plan.changes.is_empty() {
            session.say(format!(
                "Exactly this is deployed with: --basis {}",
                plan.basis
            ))?;
        }
    }
    match plan.changes.is_empty() {
        true => Ok(()),
        false => Err(Failure::exit(CHANGES)),
    }
}

/// Asks for a plan.
pub async fn ask(session: &Session, call: Call) -> Outcome<StackPlan> {
    match session.client.typed(call).await {
        Err(Failure::Daemon { message, .. }) if message == "page not found" => Err(
            Failure::message("this daemon cannot tell what a deploy would do"),
        ),
        answer => answer,
    }
}

/// A plan as people read it.
pub fn text(plan: &StackPlan) -> String {
    if plan.changes.is_empty() {
        return format!(
            "Stack {} is as it should be: nothing would change.\n",
            plan.name
        );
    }
    let mut text = String::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for change in &plan.changes {
        *counts.entry(change.action.as_str()).or_default() += 1;
        text.push_str(&of_object(change));
    }
    let count = |action: ObjectAction| counts.get(action.as_str()).copied().unwrap_or(0);
    text.push_str(&format!(
        "{} to create, {} to update, {} to remove.\n",
        count(ObjectAction::Create),
        count(ObjectAction::Update),
        count(ObjectAction::Remove)
    ));
    text
}

fn of_object(change: &ObjectChange) -> String {
    let sign = match change.action {
        ObjectAction::Create => '+',
        ObjectAction::Update => '~',
        ObjectAction::Remove => '-',
    };
    let mut text = format!("{sign} {} {}", change.kind, change.name);
    let tasks = change.preview.iter().flat_map(|preview| &preview.tasks);
    let mut fates: BTreeMap<Fate, usize> = BTreeMap::new();
    for task in tasks {
        *fates.entry(task.fate).or_default() += 1;
    }
    let told: Vec<String> = fates
        .iter()
        .filter(|(fate, _)| change.action != ObjectAction::Create || **fate != Fate::Keep)
        .map(|(fate, count)| format!("{count} {}", done(*fate)))
        .collect();
    if !told.is_empty() {
        text.push_str(&format!(": tasks {}", told.join(", ")));
    }
    text.push('\n');
    for line in &change.changes {
        text.push_str(&format!("    {line}\n"));
    }
    text
}

const fn done(fate: Fate) -> &'static str {
    match fate {
        Fate::Keep => "kept",
        Fate::Replace => "replaced",
        Fate::Stop => "stopped",
        Fate::Start => "started",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::preview::{ServicePreview, TaskPreview};

    #[test]
    fn a_plan_tells_each_object_and_what_becomes_of_tasks() {
        let tasks = |fates: &[Fate]| {
            let task = |fate: &Fate| TaskPreview {
                fate: *fate,
                ..TaskPreview::default()
            };
            Some(Box::new(ServicePreview {
                tasks: fates.iter().map(task).collect(),
                ..ServicePreview::default()
            }))
        };
        let change = |kind: &str, name: &str, action| ObjectChange {
            kind: kind.to_owned(),
            name: name.to_owned(),
            action,
            ..ObjectChange::default()
        };
        let plan = StackPlan {
            name: "app".to_owned(),
            changes: vec![
                change("network", "app_default", ObjectAction::Create),
                change("service", "app_old", ObjectAction::Remove),
                ObjectChange {
                    changes: vec!["Image: a -> b".to_owned()],
                    preview: tasks(&[Fate::Replace, Fate::Replace, Fate::Start]),
                    ..change("service", "app_web", ObjectAction::Update)
                },
            ],
            ..StackPlan::default()
        };
        assert_eq!(
            text(&plan),
            "+ network app_default\n- service app_old\n\
             ~ service app_web: tasks 2 replaced, 1 started\n    Image: a -> b\n\
             1 to create, 1 to update, 1 to remove.\n"
        );
        let nothing = StackPlan {
            name: "app".to_owned(),
            ..StackPlan::default()
        };
        assert!(text(&nothing).contains("nothing would change"));
    }
}
