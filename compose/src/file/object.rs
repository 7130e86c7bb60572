//! Secrets and configs: at the top level, and as a service uses them.

use std::collections::BTreeMap;

use skep_model::Timestamp;
use skep_model::expiry::Expiry;
use skep_model::job::length;

use crate::context::Context;
use crate::field::Field;
use crate::fields::Fields;
use crate::file::volume::print_map;
use crate::file::{merge_maps, override_with, unique_by};
use crate::out::{MapOut, Out};
use crate::report::{At, Placed};
use crate::tree::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    Secret,
    Config,
}

impl ObjectKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }
}

/// A secret or config of the top level.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FileObject {
    pub name: Option<String>,
    /// Absolute path.
    pub file: Option<Placed<String>>,
    pub content: Option<String>,
    /// Variable that holds the payload.
    pub environment: Option<Placed<String>>,
    pub external: Option<bool>,
    pub labels: Option<BTreeMap<String, String>>,
    pub driver: Option<String>,
    pub driver_opts: Option<BTreeMap<String, String>>,
    pub template_driver: Option<String>,
    /// `x-skep-expires` and `x-skep-remind` of a secret.
    pub expiry: Option<Expiry>,
    pub extras: BTreeMap<String, Out>,
}

pub(crate) fn read(
    kind: ObjectKind,
    name: &str,
    field: &Field<'_>,
    cx: &mut Context<'_>,
) -> Option<FileObject> {
    let what = kind.as_str();
    let mut fields = field.fields(cx)?;
    let mut object = FileObject {
        name: fields.string("name", cx),
        labels: fields.map("labels", cx),
        template_driver: fields.string("template_driver", cx),
        environment: fields
            .take("environment")
            .and_then(|field| field.placed_string(cx)),
        ..FileObject::default()
    };
    object.file = fields.take("file").and_then(|field| {
        let file = field.placed_string(cx)?;
        let value = cx.absolute(&file.value, file.at);
        Some(Placed { at: file.at, value })
    });
    match kind {
        ObjectKind::Config => object.content = fields.string("content", cx),
        ObjectKind::Secret => {
            object.driver = fields.string("driver", cx);
            object.driver_opts = fields.map("driver_opts", cx);
            object.expiry = read_expiry(&mut fields, cx);
        }
    }
    object.external = super::declared::read_external(what, name, &mut object.name, &mut fields, cx)
        .map(|external| external.value);
    object.extras.extend(fields.extras());
    fields.finish(cx);
    if object.driver.is_some()
        && let Some(file) = &object.file
    {
        cx.error(
            file.at,
            format!(
                "{what} {name}: {what}.driver and {what}.file conflict; only use {what}.driver"
            ),
        );
    }
    let payloads = [
        object.file.is_some(),
        object.content.is_some(),
        object.environment.is_some(),
    ];
    if payloads.iter().filter(|given| **given).count() > 1 {
        cx.error(
            field.key,
            format!("{what} {name}: only one of file, content and environment may be given"),
        );
    }
    Some(object)
}

/// When a secret expires: `90d` from each version on, or a moment of the present one.
fn read_expiry(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Option<Expiry> {
    let expires = fields.take("x-skep-expires");
    let remind = fields.take("x-skep-remind");
    let mut expiry = Expiry::default();
    if let Some(field) = expires {
        let given = field.placed_string(cx)?;
        let length = length(&given.value);
        match (length, Timestamp::parse(&given.value)) {
            (Some(length), _) => expiry.after = length.into(),
            (None, Ok(at)) if !at.is_zero() => expiry.at = at,
            _ => {
                let message = format!(
                    "x-skep-expires {:?} is neither a length of time such as 90d nor a moment such as 2027-01-31T00:00:00Z",
                    given.value
                );
                cx.error(given.at, message);
                return None;
            }
        }
    }
    if let Some(field) = remind {
        let given = field.placed_string(cx)?;
        match length(&given.value) {
            Some(length) => expiry.remind = Some(length.into()),
            None => {
                let message = format!(
                    "x-skep-remind {:?} is no length of time such as 14d",
                    given.value
                );
                cx.error(given.at, message);
                return None;
            }
        }
    }
    (expiry != Expiry::default()).then_some(expiry)
}

impl FileObject {
    pub fn is_external(&self) -> bool {
        self.external.unwrap_or(false)
    }

    pub fn merge(&mut self, later: Self) {
        if later.is_external() {
            *self = later;
            return;
        }
        if later.file.is_some() || later.content.is_some() || later.environment.is_some() {
            if self.is_external() {
                *self = later;
                return;
            }
            self.file = later.file;
            self.content = later.content;
            self.environment = later.environment;
        }
        override_with!(self, later: name, external, driver, template_driver, expiry);
        merge_maps(&mut self.labels, later.labels);
        merge_maps(&mut self.driver_opts, later.driver_opts);
        self.extras.extend(later.extras);
    }

    pub fn print(&self) -> Out {
        let mut out = MapOut::default();
        out.put_text("name", self.name.as_deref());
        out.put_text("file", self.file.as_ref().map(|file| file.value.as_str()));
        out.put_text("content", self.content.as_deref());
        out.put_text(
            "environment",
            self.environment.as_ref().map(|name| name.value.as_str()),
        );
        out.put("external", Out::Bool(self.is_external()));
        out.put("labels", self.labels.as_ref().map_or(Out::Null, print_map));
        out.put_text("driver", self.driver.as_deref());
        out.put(
            "driver_opts",
            self.driver_opts.as_ref().map_or(Out::Null, print_map),
        );
        out.put_text("template_driver", self.template_driver.as_deref());
        out.extend(self.extras.clone());
        out.done()
    }
}

/// How a service uses a secret or config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    pub at: At,
    pub source: String,
    pub target: Option<String>,
    pub uid: Option<String>,
    pub gid: Option<String>,
    pub mode: Option<u32>,
}

pub(crate) fn read_used(field: &Field<'_>, cx: &mut Context<'_>) -> Vec<Used> {
    let items = field.items(cx);
    let used = items
        .iter()
        .filter_map(|item| read_one_used(item, cx))
        .collect();
    match cx.host {
        true => unique_by(used, |one: &Used| {
            one.target.clone().unwrap_or_else(|| one.source.clone())
        }),
        false => used,
    }
}

fn read_one_used(item: &Field<'_>, cx: &mut Context<'_>) -> Option<Used> {
    let at = item.at();
    match &item.node.value {
        Value::Map(_) => {
            let mut fields = item.fields(cx)?;
            let source = fields.take("source");
            if source.is_none() {
                cx.error(at, format!("{} source is required", item.path));
            }
            let used = Used {
                at,
                source: source
                    .and_then(|source| source.string(cx))
                    .unwrap_or_default(),
                target: fields.string("target", cx),
                uid: fields
                    .take("uid")
                    .and_then(|field| field.string_or_number(cx)),
                gid: fields
                    .take("gid")
                    .and_then(|field| field.string_or_number(cx)),
                mode: fields.take("mode").and_then(|field| field.mode(cx)),
            };
            fields.finish_leniently(cx);
            Some(used).filter(|used| !used.source.is_empty())
        }
        Value::Scalar(_) => item.string(cx).map(|source| Used {
            at,
            source,
            target: None,
            uid: None,
            gid: None,
            mode: None,
        }),
        Value::List(_) => {
            item.wrong_type("string or mapping", cx);
            None
        }
    }
}

impl Used {
    pub fn print(&self) -> Out {
        let mut out = MapOut::default();
        out.put_text("source", Some(&self.source));
        out.put_text("target", self.target.as_deref());
        out.put_text("uid", self.uid.as_deref());
        out.put_text("gid", self.gid.as_deref());
        out.put_some("mode", self.mode.map(|mode| Out::Int(mode.into())));
        out.done()
    }
}

/// Puts later uses over earlier ones of the same source; the result is ordered by source.
pub(crate) fn merge_used_into(base: &mut Vec<Used>, later: Vec<Used>) {
    if later.is_empty() || base.is_empty() {
        base.extend(later);
        return;
    }
    base.retain(|used| !later.iter().any(|new| new.source == used.source));
    base.extend(later);
    base.sort_by(|a, b| a.source.cmp(&b.source));
}
