//! `develop`: which files are watched while a project runs on this machine, and what follows their
//! changes.

use crate::context::Context;
use crate::field::Field;
use crate::file::hook::{self, Hook};
use crate::out::{MapOut, Out};
use crate::report::At;

/// Files and what follows when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub at: At,
    /// Absolute.
    pub path: String,
    pub action: Action,
    /// Where in the container they belong; absolute.
    pub target: Option<String>,
    /// Patterns as those of `.dockerignore`, from `path`.
    pub ignore: Vec<String>,
    /// Where there are some, no other files count.
    pub include: Vec<String>,
    /// Whether all files are copied when watching begins.
    pub initial_sync: bool,
    /// What is run in the container after a copy.
    pub exec: Option<Hook>,
}

/// What follows a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The files are copied into the running containers.
    Sync,
    /// The image is built again, and the containers made anew.
    Rebuild,
    Restart,
    SyncRestart,
    SyncExec,
}

impl Action {
    const ALL: [Self; 5] = [
        Self::Sync,
        Self::Rebuild,
        Self::Restart,
        Self::SyncRestart,
        Self::SyncExec,
    ];

    /// As compose files have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Rebuild => "rebuild",
            Self::Restart => "restart",
            Self::SyncRestart => "sync+restart",
            Self::SyncExec => "sync+exec",
        }
    }

    /// Whether files are copied.
    pub const fn copies(self) -> bool {
        matches!(self, Self::Sync | Self::SyncRestart | Self::SyncExec)
    }
}

pub(crate) fn read(field: &Field<'_>, cx: &mut Context<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    let Some(mut fields) = field.fields(cx) else {
        return rules;
    };
    if let Some(watch) = fields.take("watch") {
        for item in watch.items(cx) {
            rules.extend(read_rule(&item, cx));
        }
    }
    fields.finish(cx);
    rules
}

fn read_rule(item: &Field<'_>, cx: &mut Context<'_>) -> Option<Rule> {
    let mut fields = item.fields(cx)?;
    let path = fields.string("path", cx);
    let words = Action::ALL.map(Action::as_str);
    let given = fields.take("action");
    for (name, there) in [("path", path.is_some()), ("action", given.is_some())] {
        if !there {
            cx.error(item.at(), format!("{} {name} is required", item.path));
        }
    }
    let word = given.and_then(|given| given.word(&words, cx));
    let action = Action::ALL
        .into_iter()
        .find(|action| word.as_deref() == Some(action.as_str()));
    let mut patterns = |name| {
        let field = fields.take(name)?;
        let patterns = field.string_or_list(cx);
        Some(patterns.into_iter().map(|one| one.value).collect())
    };
    let (ignore, include) = (patterns("ignore"), patterns("include"));
    let target = fields.string("target", cx);
    let exec = fields
        .take("exec")
        .and_then(|field| hook::read_one(&field, cx));
    let initial_sync = fields.boolean("initial_sync", cx).unwrap_or(false);
    fields.finish(cx);
    let action = action?;
    match &target {
        None if action.copies() => {
            cx.error(
                item.at(),
                format!(
                    "{} target is required: it says where in the container files are copied to",
                    item.path
                ),
            );
        }
        Some(target) if !target.starts_with('/') => {
            item.wrong(
                format!("must have an absolute target, found \"{target}\""),
                cx,
            );
        }
        _ => {}
    }
    if action == Action::SyncExec && exec.is_none() {
        cx.error(
            item.at(),
            format!("{} exec is required for action sync+exec", item.path),
        );
    }
    Some(Rule {
        at: item.at(),
        path: cx.absolute(&path?, item.at()),
        action,
        target,
        ignore: ignore.unwrap_or_default(),
        include: include.unwrap_or_default(),
        initial_sync,
        exec,
    })
}

/// The rules as `config` prints them.
pub(crate) fn print(rules: &[Rule]) -> Out {
    let rules = rules.iter().map(|rule| {
        let mut out = MapOut::default();
        out.put_text("path", Some(rule.path.as_str()));
        out.put_text("action", Some(rule.action.as_str()));
        out.put_text("target", rule.target.as_deref());
        out.put("ignore", Out::list(&rule.ignore));
        out.put("include", Out::list(&rule.include));
        if rule.initial_sync {
            out.put("initial_sync", Out::Bool(true));
        }
        if let Some(exec) = &rule.exec {
            let command = ("command".to_owned(), Out::list(&exec.command));
            out.put("exec", Out::Map(vec![command]));
        }
        out.done()
    });
    let watch = Out::List(rules.collect());
    Out::Map(vec![("watch".to_owned(), watch)])
}
