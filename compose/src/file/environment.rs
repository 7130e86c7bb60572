//! `environment` and `env_file`: one set of variables.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::field::{Field, Pair};
use crate::fields::Fields;
use crate::report::Placed;
use crate::text::{dotenv, env_file};
use crate::tree::Value;

/// Variables by name; nothing where the name stands alone and nobody has a value for it.
pub(crate) type Environment = BTreeMap<String, Option<String>>;

/// Reads `env_file` and `environment` of a service: later files win over earlier ones, the
/// `environment` over all. Where no value (or an empty one) is written, that of the caller's
/// environment is taken.
pub(crate) fn read(service: &mut Fields<'_>, cx: &mut Context<'_>) -> (Environment, Vec<String>) {
    let mut environment = Environment::new();
    let mut names = Vec::new();
    if let Some(field) = service.take("env_file") {
        let mut from_files = Environment::new();
        for file in files(&field, cx) {
            names.push(file.path.value.clone());
            read_file(&file, &mut from_files, cx);
        }
        for (name, value) in from_files {
            let value = or_callers(&name, value, cx);
            environment.insert(name, value);
        }
    }
    if let Some(field) = service.take("environment") {
        for Pair { at, name, value } in field.pairs('=', cx) {
            if name.is_empty() {
                cx.error(at, format!("{} has a variable without a name", field.path));
                continue;
            }
            let value = or_callers(&name, value, cx);
            environment.insert(name, value);
        }
    }
    (environment, names)
}

fn or_callers(name: &str, value: Option<String>, cx: &Context<'_>) -> Option<String> {
    match value {
        // Docker's stacks take an empty value for a missing one, its projects do not.
        Some(value) if !value.is_empty() || cx.host => Some(value),
        missing => (cx.env)(name).or(missing),
    }
}

struct NamedFile {
    path: Placed<String>,
    required: bool,
    /// Whether its values are taken as they stand; those of stacks always are.
    raw: bool,
}

/// `env_file` as one path, a list of paths, or a list of mappings with `path` and `required`.
fn files(field: &Field<'_>, cx: &mut Context<'_>) -> Vec<NamedFile> {
    let named = |path| NamedFile {
        path,
        required: true,
        raw: false,
    };
    let Value::List(_) = &field.node.value else {
        return field.placed_string(cx).map(named).into_iter().collect();
    };
    let mut files = Vec::new();
    for item in field.unique_items(cx) {
        let Value::Map(_) = &item.node.value else {
            files.extend(item.placed_string(cx).map(named));
            continue;
        };
        let Some(mut fields) = item.fields(cx) else {
            continue;
        };
        let required = fields.boolean("required", cx).unwrap_or(true);
        let format = fields.take("format");
        let raw = format.is_some_and(|format| format.word(&["raw"], cx).is_some());
        match fields.take("path") {
            Some(path) => files.extend(path.placed_string(cx).map(|path| NamedFile {
                path,
                required,
                raw,
            })),
            None => cx.error(item.at(), format!("{} path is required", item.path)),
        }
        fields.finish(cx);
    }
    files
}

fn read_file(file: &NamedFile, variables: &mut Environment, cx: &mut Context<'_>) {
    let path = cx.absolute(&file.path.value, file.path.at);
    let content = match (cx.read)(&path) {
        Err(error) if !file.required && error.kind() == std::io::ErrorKind::NotFound => {
            cx.warn(
                file.path.at,
                format!("the environment file {path} does not exist and is not required"),
            );
            return;
        }
        read => cx.unwrap_content(read, &path, file.path.at),
    };
    let Some(content) = content else { return };
    let parsed = match cx.host && !file.raw {
        true => dotenv::parse_with(&content, cx.env),
        false => env_file::parse(&content),
    };
    match parsed {
        Ok(read) => {
            for variable in read {
                match variable.value {
                    Some(value) => {
                        variables.insert(variable.name, Some(value));
                    }
                    // A name alone takes the caller's value, or does not count.
                    None => {
                        if let Some(value) = (cx.env)(&variable.name) {
                            variables.insert(variable.name, Some(value));
                        }
                    }
                }
            }
        }
        Err(wrong) => cx.error(file.path.at, format!("invalid env file ({path}): {wrong}")),
    }
}
