//! `--dry-run`: what an update would do.

use serde::Serialize;
use skep_model::Service;
use skep_model::preview::{Fate, ServicePreview};
use skep_model::service::UpdateOrder;

use super::{UpdateOptions, with_options};
use crate::client::{Call, segment};
use crate::cmd::task::Names;
use crate::failure::{Failure, Outcome};
use crate::session::Session;
use crate::table;

/// Asks what an update would do, and prints it.
pub async fn show(
    session: &Session,
    service: &Service,
    spec: &impl Serialize,
    options: UpdateOptions,
) -> Outcome {
    let path = format!("/skep/v1/services/{}/preview", segment(service.id.as_str()));
    let call = with_options(Call::post(path), service, spec, options);
    let preview: ServicePreview = match session.client.typed(call).await {
        Err(Failure::Daemon { message, .. }) if message == "page not found" => {
            return Err(Failure::message(
                "--dry-run: this daemon cannot tell what an update would do",
            ));
        }
        answer => answer?,
    };
    print(session, &service.spec.name, &preview).await
}

/// Prints what an update would do.
pub async fn print(session: &Session, service: &str, preview: &ServicePreview) -> Outcome {
    let mut names = Names::new(false);
    let mut nodes = Vec::new();
    for task in &preview.tasks {
        nodes.push(names.node(session, task.node_id.as_str()).await?);
    }
    for warning in &preview.warnings {
        session.warn(warning);
    }
    session.print(&text(service, preview, &nodes))
}

/// `nodes` are the names of the tasks' nodes.
fn text(service: &str, preview: &ServicePreview, nodes: &[String]) -> String {
    let mut text = match preview.changes.as_slice() {
        [] => format!("The spec of {service} would stay as it is.\n"),
        changes => {
            let lines: String = changes
                .iter()
                .map(|change| format!("  {change}\n"))
                .collect();
            format!("The spec of {service} would change:\n{lines}")
        }
    };
    if !preview.tasks.is_empty() {
        let mut rows = "TASK\tNODE\tACTION\tWHY\n".to_owned();
        for (task, node) in preview.tasks.iter().zip(nodes) {
            let (fate, why) = (task.fate.as_str(), task.reasons.join("; "));
            rows.push_str(&format!("{}\t{node}\t{fate}\t{why}\n", task.name));
        }
        text.push_str(&table::align(&rows));
    }
    let count = |fate: Fate| {
        preview
            .tasks
            .iter()
            .filter(|task| task.fate == fate)
            .count()
    };
    let order = match preview.order {
        UpdateOrder::StopFirst => "stop-first",
        UpdateOrder::StartFirst => "start-first",
    };
    let how = match (count(Fate::Replace), preview.parallelism) {
        (0, _) => "Nothing would be restarted.".to_owned(),
        (replaced, 0) => format!("{replaced} would be replaced, all at once, {order}."),
        (replaced, at_once) => {
            format!("{replaced} would be replaced, {at_once} at a time, {order}.")
        }
    };
    text.push_str(&how);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::preview::TaskPreview;

    #[test]
    fn what_would_happen_is_a_table_with_reasons() {
        let task = |name: &str, fate, reason: &str| TaskPreview {
            name: name.to_owned(),
            fate,
            reasons: vec![reason.to_owned()],
            ..TaskPreview::default()
        };
        let preview = ServicePreview {
            changes: vec!["Image: a -> b".to_owned()],
            tasks: vec![
                task("web.1", Fate::Replace, "Image: a -> b"),
                task("web.2", Fate::Start, ""),
            ],
            parallelism: 1,
            ..ServicePreview::default()
        };
        assert_eq!(
            text("web", &preview, &["n1".to_owned(), String::new()]),
            "The spec of web would change:\n  Image: a -> b\n\
             TASK      NODE      ACTION    WHY\n\
             web.1     n1        replace   Image: a -> b\n\
             web.2               start     \n\
             1 would be replaced, 1 at a time, stop-first.\n"
        );
        assert_eq!(
            text("web", &ServicePreview::default(), &[]),
            "The spec of web would stay as it is.\nNothing would be restarted.\n"
        );
    }
}
