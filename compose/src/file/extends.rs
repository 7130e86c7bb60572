//! `extends`: a service built upon another one, of the same file or of another.

use crate::context::Context;
use crate::field::Field;
use crate::fields::Fields;
use crate::file::service::{self, Service};
use crate::interpolate::interpolate;
use crate::report::At;
use crate::text::encoding;
use crate::tree::{Node, Value, shown};
use crate::{Source, yaml};

/// Longest way from service to service.
const CHAIN_MAX: usize = 16;

/// The services passed on the way, by file and name, so that nobody goes round in circles.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    passed: Vec<(u32, String)>,
}

/// The service that `name` extends, itself complete.
pub(crate) fn read(
    name: &str,
    field: &Field<'_>,
    root: &Node,
    chain: &mut Chain,
    cx: &mut Context<'_>,
) -> Option<Service> {
    let (target, file) = match &field.node.value {
        Value::Map(_) => {
            let mut fields = field.fields(cx)?;
            let target = fields.take("service");
            if target.is_none() {
                cx.error(field.at(), format!("{} service is required", field.path));
            }
            let file = fields.take("file").and_then(|file| file.placed_string(cx));
            fields.finish(cx);
            (target?.string(cx)?, file)
        }
        _ => (field.string(cx)?, None),
    };
    chain.passed.push((field.at().source, name.to_owned()));
    if chain.passed.len() > CHAIN_MAX {
        field.wrong(format!("goes over more than {CHAIN_MAX} services"), cx);
        return None;
    }
    match file {
        None => read_from(&target, field.at(), root, chain, cx),
        Some(file) => {
            let path = cx.absolute(&file.value, file.at);
            let root = open(&path, file.at, cx)?;
            read_from(&target, field.at(), &root, chain, cx)
        }
    }
}

fn read_from(
    target: &str,
    at: At,
    root: &Node,
    chain: &mut Chain,
    cx: &mut Context<'_>,
) -> Option<Service> {
    if chain
        .passed
        .iter()
        .any(|(file, name)| *file == root.at.source && name == target)
    {
        cx.error(at, format!("service {target:?} extends itself"));
        return None;
    }
    let services = Fields::root(root).and_then(|mut fields| fields.take("services"));
    let entries = match &services {
        Some(services) => services.entries(cx),
        None => Vec::new(),
    };
    let Some((_, field)) = entries.iter().find(|(key, _)| key.text == target) else {
        cx.error(
            at,
            format!(
                "cannot extend service \"{}\": it is not in that file",
                shown(target)
            ),
        );
        return None;
    };
    service::read(target, field, root, chain, cx)
}

/// Reads another compose file as a tree, variables replaced.
pub(crate) fn open(path: &str, at: At, cx: &mut Context<'_>) -> Option<Node> {
    let content = cx.content(path, at)?;
    let text = match encoding::decode(&content) {
        Ok(text) => text,
        Err(wrong) => {
            let number = source_number(path, &wrong.text, cx);
            cx.report.not_text(number, wrong);
            return None;
        }
    };
    let number = source_number(path, &text, cx);
    match yaml::parse(&text, number) {
        Ok(parsed) => {
            let Some(mut root) = parsed.root else {
                cx.error(at, format!("{path} is empty"));
                return None;
            };
            if cx.options.interpolate {
                interpolate(&mut root, cx.env, &mut cx.report);
            }
            Some(root)
        }
        Err(error) => {
            cx.report.error(error.at, error.message, error.hint);
            None
        }
    }
}

/// A file's number among the sources. Many services may extend from one file; it is kept once for
/// messages.
fn source_number(path: &str, text: &str, cx: &mut Context<'_>) -> u32 {
    let known = cx
        .report
        .sources()
        .iter()
        .position(|source| source.name == path && source.text == text);
    if let Some(number) = known {
        return u32::try_from(number).unwrap_or(u32::MAX);
    }
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    cx.directories
        .push(if directory.is_empty() && path.starts_with('/') {
            "/".to_owned()
        } else {
            directory.to_owned()
        });
    cx.report.add_source(Source {
        name: path.to_owned(),
        text: text.to_owned(),
    })
}
