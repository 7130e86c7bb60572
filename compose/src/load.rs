//! The whole way from text to stack.

use std::collections::BTreeSet;

use skep_model::StackSpec;

use crate::context::Context;
use crate::file::File;
use crate::interpolate::{Variable, interpolate, replace, variables};
use crate::project::{self, Project, ProjectOptions};
use crate::report::{At, Report};
use crate::tree::{Node, Value, shown};
use crate::{
    Diagnostic, Env, Loaded, Options, Read, Source, document, include, reset, stack, yaml,
};

/// See [`crate::load`].
pub(crate) fn load(
    sources: &[Source],
    env: Env<'_>,
    read: Read<'_>,
    options: &Options,
) -> Result<Loaded, Vec<Diagnostic>> {
    let mut cx = context(sources, env, read, options);
    cx.deploying = true;
    check_stack_name(&mut cx);
    let file = merged(sources, &mut cx);
    let mut document = String::new();
    let mut stack = StackSpec::default();
    if !cx.report.has_errors() {
        document = document::print(&file);
        stack = stack::convert(file, &mut cx);
    }
    let warnings = cx.report.finish(options.strict)?;
    Ok(Loaded {
        stack,
        warnings,
        document,
    })
}

/// See [`crate::project`].
pub(crate) fn project(
    sources: &[Source],
    env: Env<'_>,
    read: Read<'_>,
    options: &ProjectOptions,
) -> Result<Project, Vec<Diagnostic>> {
    let own = options.options();
    let mut cx = context(sources, env, read, &own);
    cx.deploying = true;
    cx.host = true;
    let file = merged(sources, &mut cx);
    let mut project = Project::default();
    if !cx.report.has_errors() {
        project = project::convert(file, options, &mut cx);
    }
    project.warnings = cx.report.finish(false)?;
    Ok(project)
}

/// See [`crate::project_name`].
pub(crate) fn project_name(sources: &[Source], env: Env<'_>) -> Option<String> {
    sources.iter().rev().find_map(|source| {
        let root = yaml::parse(&source.text, 0).ok()?.root?;
        match &root.get("name")?.value {
            Value::Scalar(scalar) => replace(&scalar.text, env).text.ok(),
            Value::List(_) | Value::Map(_) => None,
        }
    })
}

/// See [`crate::variables_of`].
pub(crate) fn variables_of(sources: &[Source]) -> Vec<Variable> {
    let mut found = BTreeSet::new();
    for source in sources {
        let parsed = yaml::parse(&source.text, 0).ok();
        if let Some(root) = parsed.and_then(|parsed| parsed.root) {
            variables(&root, &mut found);
        }
    }
    found.into_iter().collect()
}

/// See [`crate::config`].
pub(crate) fn config(
    sources: &[Source],
    env: Env<'_>,
    read: Read<'_>,
    options: &Options,
) -> Result<(String, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut cx = context(sources, env, read, options);
    let file = merged(sources, &mut cx);
    let document = document::print(&file);
    let warnings = cx.report.finish(options.strict)?;
    Ok((document, warnings))
}

fn context<'a>(
    sources: &[Source],
    env: Env<'a>,
    read: Read<'a>,
    options: &'a Options,
) -> Context<'a> {
    Context {
        env,
        read,
        options,
        report: Report::new(sources.to_vec()),
        deploying: false,
        host: false,
        directories: vec![options.working_dir.clone(); sources.len()],
    }
}

/// Nobody's line is to blame.
const NOWHERE: At = At {
    source: u32::MAX,
    line: 0,
    column: 0,
};

fn check_stack_name(cx: &mut Context<'_>) {
    let stack = &cx.options.stack;
    if stack
        .trim_matches(['\'', '"', ' ', '\t', '\r', '\n'])
        .is_empty()
    {
        cx.error(NOWHERE, format!("invalid stack name: {stack:?}"));
    }
}

/// Text → trees → variables replaced → typed files → one file.
fn merged(sources: &[Source], cx: &mut Context<'_>) -> File {
    if sources.is_empty() {
        cx.error(NOWHERE, "no files specified");
    }
    let mut roots = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let Some(mut root) = tree(source, number, cx) else {
            continue;
        };
        if cx.options.interpolate {
            interpolate(&mut root, cx.env, &mut cx.report);
        }
        roots.push(root);
    }
    let mut roots = include::expand(roots, cx);
    reset::apply(&mut roots);
    let mut files = roots.iter().map(|root| File::read(root, cx));
    let mut file = files.next().unwrap_or_default();
    for later in files {
        file.merge(later);
    }
    file
}

fn tree(source: &Source, number: u32, cx: &mut Context<'_>) -> Option<Node> {
    let whole = At {
        source: number,
        line: 0,
        column: 0,
    };
    match yaml::parse(&source.text, number) {
        Ok(parsed) => {
            if let Some(at) = parsed.second_document {
                cx.warn(at, "only the first document of a file is read");
            }
            for (at, tag) in parsed.unknown_tags {
                cx.warn_with_hint(
                    at,
                    format!("the tag `{}` has no effect: it is not known", shown(&tag)),
                    "tags known here: !reset, !override and those of YAML, as !!str and !!int",
                );
            }
            if parsed.root.is_none() {
                cx.error(whole, "top-level object must be a mapping");
            }
            parsed.root
        }
        Err(error) => {
            cx.report.error(error.at, error.message, error.hint);
            None
        }
    }
}
