//! Commands that are run in a container at some point of its life.

use crate::context::Context;
use crate::field::Field;
use crate::fields::Fields;

/// A command run in a container after its start or before its stop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hook {
    pub command: Vec<String>,
    pub user: Option<String>,
    pub privileged: bool,
    pub working_dir: Option<String>,
    pub environment: Vec<String>,
}

/// A list of hooks.
pub(crate) fn read(field: &Field<'_>, cx: &mut Context<'_>) -> Vec<Hook> {
    let mut hooks = Vec::new();
    for item in field.items(cx) {
        hooks.extend(read_one(&item, cx));
    }
    hooks
}

/// One hook.
pub(crate) fn read_one(item: &Field<'_>, cx: &mut Context<'_>) -> Option<Hook> {
    let mut fields: Fields<'_> = item.fields(cx)?;
    let command = super::service::command(&mut fields, "command", cx);
    let environment = fields.take("environment").map(|field| field.pairs('=', cx));
    let hook = Hook {
        command: command.unwrap_or_default(),
        user: fields.string("user", cx),
        privileged: fields.boolean("privileged", cx).unwrap_or(false),
        working_dir: fields.string("working_dir", cx),
        environment: environment
            .into_iter()
            .flatten()
            .map(|pair| match pair.value {
                Some(value) => format!("{}={value}", pair.name),
                None => pair.name,
            })
            .collect(),
    };
    fields.finish(cx);
    if hook.command.is_empty() {
        cx.error(item.at(), format!("{} command is required", item.path));
        return None;
    }
    Some(hook)
}
