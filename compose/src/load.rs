//! The whole way from text to stack.

use skep_model::StackSpec;

use crate::context::Context;
use crate::file::File;
use crate::interpolate::interpolate;
use crate::report::{At, Report};
use crate::tree::Node;
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
