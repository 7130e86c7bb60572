//! `build` of a service, for projects of one host.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::field::Field;
use crate::file::{merge_maps, override_with};
use crate::out::{MapOut, Out};
use crate::report::Placed;
use crate::tree::Value;

/// How an image is built.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Build {
    /// An absolute path, or the address of a repository.
    pub context: Option<String>,
    pub dockerfile: Option<String>,
    pub dockerfile_inline: Option<String>,
    /// Nothing where the caller's value counts.
    pub args: BTreeMap<String, Option<String>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub target: Option<String>,
    pub network: Option<String>,
    pub extra_hosts: Vec<String>,
    pub tags: Vec<String>,
    pub flags: BTreeMap<&'static str, bool>,
    /// Bytes.
    pub shm_size: Option<i64>,
}

/// What a build of this daemon does without, and why.
const NO_EFFECT: [(&str, &str); 7] = [
    ("cache_from", "steps are cached by the daemon itself"),
    ("cache_to", "steps are cached by the daemon itself"),
    ("isolation", "there is one kind"),
    (
        "platforms",
        "images are built for this platform; see platform",
    ),
    ("provenance", "builds are not attested"),
    ("sbom", "builds are not attested"),
    ("ulimits", "steps have those of the daemon"),
];
/// What cannot be left out without another image coming of it.
const REFUSED: [&str; 4] = ["additional_contexts", "entitlements", "secrets", "ssh"];

/// Whether a context is an address that the daemon fetches.
fn is_remote(context: &str) -> bool {
    context.contains("://") || context.starts_with("git@") || context.starts_with("github.com/")
}

pub(crate) fn read(field: &Field<'_>, cx: &mut Context<'_>) -> Option<Placed<Build>> {
    let at = field.at();
    let resolve = |path: String, cx: &Context<'_>| {
        if is_remote(&path) {
            path
        } else {
            cx.absolute(&path, at)
        }
    };
    if let Value::Scalar(_) = &field.node.value {
        let context = field.string(cx)?;
        let context = Some(resolve(context, cx));
        let value = Build {
            context,
            ..Build::default()
        };
        return Some(Placed { at, value });
    }
    let mut fields = field.fields(cx)?;
    let context = fields
        .string("context", cx)
        .unwrap_or_else(|| ".".to_owned());
    let mut build = Build {
        context: Some(resolve(context, cx)),
        dockerfile: fields.string("dockerfile", cx),
        dockerfile_inline: fields.string("dockerfile_inline", cx),
        labels: fields.map("labels", cx),
        target: fields.string("target", cx),
        network: fields.string("network", cx),
        ..Build::default()
    };
    if build.dockerfile.is_some() && build.dockerfile_inline.is_some() {
        field.wrong("may have one of dockerfile and dockerfile_inline", cx);
    }
    if let Some(field) = fields.take("args") {
        for pair in field.pairs('=', cx) {
            let value = pair.value.or_else(|| (cx.env)(&pair.name));
            build.args.insert(pair.name, value);
        }
    }
    build.extra_hosts = super::service::extra_hosts(&mut fields, cx);
    if let Some(field) = fields.take("tags") {
        let tags = field.strings(cx);
        build.tags = tags.into_iter().map(|tag| tag.value).collect();
    }
    for name in ["no_cache", "pull", "privileged"] {
        let flag = fields.boolean(name, cx);
        build.flags.extend(flag.map(|flag| (name, flag)));
    }
    build.shm_size = fields
        .take("shm_size")
        .and_then(|field| super::volume::size(&field, cx));
    for name in REFUSED {
        if let Some(field) = fields.take(name) {
            field.wrong(
                "cannot be honoured: copy what a build needs into its context",
                cx,
            );
        }
    }
    for (name, why) in NO_EFFECT {
        fields.no_effect(name, why, cx);
    }
    fields.finish(cx);
    Some(Placed { at, value: build })
}

impl Build {
    pub fn merge(&mut self, later: Self) {
        override_with!(self, later: context, dockerfile, dockerfile_inline, target, network, shm_size);
        self.args.extend(later.args);
        merge_maps(&mut self.labels, later.labels);
        self.extra_hosts.extend(later.extra_hosts);
        self.tags.extend(later.tags);
        self.flags.extend(later.flags);
    }

    pub fn print(&self) -> Out {
        let mut out = MapOut::default();
        out.put_text("context", self.context.as_deref());
        let dockerfile = match &self.dockerfile_inline {
            Some(_) => None,
            None => Some(self.dockerfile.as_deref().unwrap_or("Dockerfile")),
        };
        out.put_text("dockerfile", dockerfile);
        out.put_text("dockerfile_inline", self.dockerfile_inline.as_deref());
        let args = self
            .args
            .iter()
            .map(|(name, value)| (name.clone(), value.as_ref().map_or(Out::Null, Out::text)));
        out.put("args", Out::Map(args.collect()));
        let labels = self
            .labels
            .as_ref()
            .map_or(Out::Null, super::volume::print_map);
        out.put("labels", labels);
        out.put_text("network", self.network.as_deref());
        out.put_text("target", self.target.as_deref());
        out.put("tags", Out::list(&self.tags));
        for (name, flag) in &self.flags {
            out.put(name, Out::Bool(*flag));
        }
        out.done()
    }
}
