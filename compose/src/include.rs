//! `include`: other compose files that this one builds upon.

use crate::context::Context;
use crate::field::Field;
use crate::fields::Fields;
use crate::file::extends::open;
use crate::report::At;
use crate::tree::{Node, Value};

/// Files included by one load, directly or not.
const INCLUDED_MAX: usize = 100;

/// The trees with the ones they include in front of them; later ones are put over earlier ones.
pub(crate) fn expand(roots: Vec<Node>, cx: &mut Context<'_>) -> Vec<Node> {
    let mut all = Vec::new();
    for root in roots {
        let mut way = Vec::new();
        add(root, &mut way, &mut all, cx);
    }
    all
}

fn add(root: Node, way: &mut Vec<String>, all: &mut Vec<Node>, cx: &mut Context<'_>) {
    let include = Fields::root(&root).and_then(|mut fields| fields.take("include"));
    for (path, at) in include.map(|field| paths(&field, cx)).unwrap_or_default() {
        let path = cx.absolute(&path, at);
        if way.contains(&path) {
            cx.error(at, format!("include: {path} includes itself"));
            continue;
        }
        if all.len() >= INCLUDED_MAX || way.len() >= INCLUDED_MAX {
            cx.error(at, format!("include: more than {INCLUDED_MAX} files"));
            return;
        }
        if let Some(included) = open(&path, at, cx) {
            way.push(path);
            add(included, way, all, cx);
            way.pop();
        }
    }
    all.push(root);
}

/// `include` as a list of paths, or of mappings with `path`.
fn paths(field: &Field<'_>, cx: &mut Context<'_>) -> Vec<(String, At)> {
    let mut paths = Vec::new();
    for item in field.items(cx) {
        let Value::Map(_) = &item.node.value else {
            paths.extend(item.string(cx).map(|path| (path, item.at())));
            continue;
        };
        let Some(mut fields) = item.fields(cx) else {
            continue;
        };
        match fields.take("path") {
            Some(path) => {
                let listed = path.string_or_list(cx);
                paths.extend(listed.into_iter().map(|path| (path.value, path.at)));
            }
            None => cx.error(item.at(), format!("{} path is required", item.path)),
        }
        fields.no_effect(
            "project_directory",
            "paths start from the directory of the included file",
            cx,
        );
        fields.no_effect("env_file", "variables come from the environment", cx);
        fields.finish(cx);
    }
    paths
}
