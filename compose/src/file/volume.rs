//! `volumes` of a service, short and long; those of the top level are in `definition`.

mod definition;

use std::collections::BTreeMap;

use crate::context::Context;
use crate::field::Field;
use crate::file::unique_by;
use crate::out::{MapOut, Out};
use crate::report::At;
use crate::tree::Value;

pub(crate) use definition::{Volume, read_definition};

/// One mount of a service, as the file says it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceVolume {
    pub at: At,
    pub kind: String,
    /// Absolute for bind mounts.
    pub source: String,
    pub target: String,
    pub read_only: bool,
    pub consistency: Option<String>,
    pub bind: Option<BindOptions>,
    pub volume: Option<VolumeOptions>,
    pub image: Option<ImageOptions>,
    pub tmpfs: Option<TmpfsOptions>,
    pub cluster: Option<()>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct BindOptions {
    pub propagation: Option<String>,
    pub create_host_path: Option<bool>,
    pub recursive: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct VolumeOptions {
    pub no_copy: bool,
    pub subpath: Option<String>,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ImageOptions {
    pub subpath: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TmpfsOptions {
    pub size: Option<i64>,
    pub mode: Option<u32>,
}

const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

pub(crate) fn read(field: &Field<'_>, cx: &mut Context<'_>) -> Vec<ServiceVolume> {
    let mut volumes = Vec::new();
    for item in field.items(cx) {
        let volume = match &item.node.value {
            Value::Map(_) => read_long(&item, cx),
            _ => item
                .string(cx)
                .and_then(|text| match parse_short(&text, item.at()) {
                    Ok((volume, unknown)) => {
                        for option in unknown {
                            cx.warn(
                                item.at(),
                                format!("{} option `{option}` has no effect", item.path),
                            );
                        }
                        Some(volume)
                    }
                    Err(wrong) => {
                        item.wrong(wrong, cx);
                        None
                    }
                }),
        };
        volumes.extend(volume.and_then(|volume| resolve(volume, &item, cx)));
    }
    match cx.host {
        true => unique_by(volumes, |volume| volume.target.clone()),
        false => volumes,
    }
}

/// Makes the path of a bind mount absolute.
fn resolve(
    mut volume: ServiceVolume,
    item: &Field<'_>,
    cx: &mut Context<'_>,
) -> Option<ServiceVolume> {
    if volume.kind != "bind" {
        return Some(volume);
    }
    if volume.source.is_empty() {
        cx.error(
            item.at(),
            "invalid mount config for type \"bind\": field Source must not be empty",
        );
        return None;
    }
    if let Some(below) = volume.source.strip_prefix('~') {
        match (cx.env)("HOME") {
            Some(home) => volume.source = format!("{home}{below}"),
            None => cx.warn(
                item.at(),
                "cannot expand '~', because the environment lacks HOME",
            ),
        }
    }
    if !volume.source.starts_with('/') && !is_absolute_on_windows(&volume.source) {
        volume.source = cx.absolute(&volume.source, item.at());
    }
    Some(volume)
}

fn empty(at: At, kind: &str) -> ServiceVolume {
    ServiceVolume {
        at,
        kind: kind.to_owned(),
        source: String::new(),
        target: String::new(),
        read_only: false,
        consistency: None,
        bind: None,
        volume: None,
        image: None,
        tmpfs: None,
        cluster: None,
    }
}

/// Whether a path begins with a Windows drive, as `C:`.
fn has_drive(path: &str) -> bool {
    let mut chars = path.chars();
    chars.next().is_some_and(char::is_alphabetic) && chars.next() == Some(':')
}

/// Whether a path is absolute on Windows: `C:\x`, `C:/x` or `\\host\share\x`.
fn is_absolute_on_windows(path: &str) -> bool {
    let slash = |c: Option<char>| matches!(c, Some('/' | '\\'));
    // A share alone is no path on it, as docker's client sees it.
    let on_share = path.strip_prefix("\\\\").is_some_and(|rest| {
        let parts: Vec<&str> = rest.split(['/', '\\']).collect();
        matches!(parts[..], [server, share, _, ..]
            if !share.is_empty() && server.starts_with(|c| c != '.'))
    });
    on_share
        || path.starts_with(|c: char| c.is_ascii_alphabetic())
            && has_drive(path)
            && slash(path.chars().nth(2))
}

/// What stands between the colons; those of Windows drives do not count.
fn sections(text: &str) -> Vec<&str> {
    let mut sections = Vec::new();
    let mut start = 0;
    for (colon, _) in text.match_indices(':') {
        let section = &text[start..colon];
        let is_drive = text.len() > 2
            && section.chars().count() == 1
            && section.chars().all(char::is_alphabetic);
        if !is_drive {
            sections.push(section);
            start = colon + 1;
        }
    }
    sections.push(&text[start..]);
    sections
}

/// `[source:]target[:options]`; the options that mean nothing come along.
fn parse_short(text: &str, at: At) -> Result<(ServiceVolume, Vec<String>), String> {
    if text.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    let parts = sections(text);
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!(
            "invalid spec: {text}: empty section between colons"
        ));
    }
    let mut volume = empty(at, "volume");
    let mut unknown = Vec::new();
    let options = match parts[..] {
        [target] => {
            volume.target = target.to_owned();
            ""
        }
        [source, target] => {
            volume.source = source.to_owned();
            volume.target = target.to_owned();
            ""
        }
        [source, target, options] => {
            volume.source = source.to_owned();
            volume.target = target.to_owned();
            options
        }
        _ => return Err(format!("invalid spec: {text}: too many colons")),
    };
    if volume.source.starts_with(['.', '/', '~'])
        || volume.source.starts_with("\\\\")
        || has_drive(&volume.source)
    {
        volume.kind = "bind".to_owned();
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => volume.read_only = true,
            "rw" => volume.read_only = false,
            "nocopy" => {
                volume.volume = Some(VolumeOptions {
                    no_copy: true,
                    ..VolumeOptions::default()
                });
            }
            option if PROPAGATIONS.contains(&option) => {
                volume.bind = Some(BindOptions {
                    propagation: Some(option.to_owned()),
                    ..BindOptions::default()
                });
            }
            option => unknown.push(option.to_owned()),
        }
    }
    Ok((volume, unknown))
}

fn read_long(item: &Field<'_>, cx: &mut Context<'_>) -> Option<ServiceVolume> {
    let mut fields = item.fields(cx)?;
    let kind = match fields.take("type") {
        Some(field) => field.cluster_word(
            &["bind", "volume", "tmpfs", "npipe", "cluster", "image"],
            cx,
        ),
        None => {
            cx.error(item.at(), format!("{} type is required", item.path));
            None
        }
    };
    let mut volume = empty(item.at(), "");
    volume.source = fields.string("source", cx).unwrap_or_default();
    volume.target = fields.string("target", cx).unwrap_or_default();
    volume.read_only = fields.boolean("read_only", cx).unwrap_or(false);
    volume.consistency = fields.string("consistency", cx);
    volume.bind = fields.take("bind").and_then(|field| {
        let mut fields = field.fields(cx)?;
        let options = BindOptions {
            propagation: fields
                .take("propagation")
                .and_then(|field| field.cluster_word(&PROPAGATIONS, cx)),
            create_host_path: fields.boolean("create_host_path", cx),
            recursive: fields
                .take("recursive")
                .and_then(|field| field.word(&["enabled", "disabled", "writable", "readonly"], cx)),
        };
        fields.no_effect("selinux", "mounts are not relabelled", cx);
        fields.finish_leniently(cx);
        Some(options)
    });
    volume.volume = fields.take("volume").and_then(|field| {
        let mut fields = field.fields(cx)?;
        let options = VolumeOptions {
            no_copy: fields.boolean("nocopy", cx).unwrap_or(false),
            subpath: fields.string("subpath", cx),
            labels: fields.map("labels", cx).unwrap_or_default(),
        };
        fields.finish_leniently(cx);
        Some(options)
    });
    volume.image = fields.take("image").and_then(|field| {
        let mut fields = field.fields(cx)?;
        let subpath = fields.string("subpath", cx);
        fields.finish_leniently(cx);
        Some(ImageOptions { subpath })
    });
    volume.tmpfs = fields.take("tmpfs").and_then(|field| {
        let mut fields = field.fields(cx)?;
        let options = TmpfsOptions {
            size: fields.take("size").and_then(|field| size(&field, cx)),
            mode: fields.take("mode").and_then(|field| field.mode(cx)),
        };
        fields.finish_leniently(cx);
        Some(options)
    });
    volume.cluster = fields.take("cluster").and_then(|field| {
        field.fields(cx)?.finish(cx);
        Some(())
    });
    fields.finish(cx);
    volume.kind = kind?;
    Some(volume)
}

/// A size in bytes: a number, or text with a unit.
pub(crate) fn size(field: &Field<'_>, cx: &mut Context<'_>) -> Option<i64> {
    let text = field.string_or_number(cx)?;
    match crate::text::size::parse(&text) {
        Ok(bytes) => Some(bytes),
        Err(wrong) => {
            cx.error_with_hint(
                field.at(),
                format!("{}: {wrong}", field.path),
                "sizes look like 512, 64M or 1.5G",
            );
            None
        }
    }
}

impl ServiceVolume {
    pub fn print(&self) -> Out {
        let mut out = MapOut::default();
        out.put_text("type", Some(&self.kind));
        out.put_text("source", Some(&self.source));
        out.put_text("target", Some(&self.target));
        out.put("read_only", Out::Bool(self.read_only));
        out.put_text("consistency", self.consistency.as_deref());
        out.put_some(
            "bind",
            self.bind.as_ref().map(|bind| {
                let mut out = MapOut::default();
                out.put_text("propagation", bind.propagation.as_deref());
                out.put_some("create_host_path", bind.create_host_path.map(Out::Bool));
                out.put_text("recursive", bind.recursive.as_deref());
                out.done()
            }),
        );
        out.put_some(
            "volume",
            self.volume.as_ref().map(|volume| {
                let mut out = MapOut::default();
                out.put("nocopy", Out::Bool(volume.no_copy));
                out.put_text("subpath", volume.subpath.as_deref());
                out.put("labels", print_map(&volume.labels));
                out.done()
            }),
        );
        out.put_some(
            "image",
            self.image.as_ref().map(|image| {
                let mut out = MapOut::default();
                out.put_text("subpath", image.subpath.as_deref());
                out.done()
            }),
        );
        out.put_some(
            "tmpfs",
            self.tmpfs.as_ref().map(|tmpfs| {
                let mut out = MapOut::default();
                out.put("size", Out::Int(tmpfs.size.unwrap_or(0)));
                out.put("mode", Out::Int(tmpfs.mode.unwrap_or(0).into()));
                out.done()
            }),
        );
        out.put_some("cluster", self.cluster.map(|()| Out::Map(Vec::new())));
        out.done()
    }
}

/// Text by name, as a printed mapping.
pub(crate) fn print_map(map: &BTreeMap<String, String>) -> Out {
    let entries = map
        .iter()
        .map(|(name, value)| (name.clone(), Out::text(value)));
    Out::sorted(entries.collect())
}

/// Puts later mounts over earlier ones with the same target; the result is ordered by target.
pub(crate) fn merge_into(base: &mut Vec<ServiceVolume>, later: Vec<ServiceVolume>) {
    if later.is_empty() || base.is_empty() {
        base.extend(later);
        return;
    }
    base.retain(|volume| !later.iter().any(|new| new.target == volume.target));
    base.extend(later);
    base.sort_by(|a, b| a.target.cmp(&b.target));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let at = At {
            source: 0,
            line: 1,
            column: 1,
        };
        match parse_short(text, at) {
            Err(wrong) => wrong,
            Ok((v, unknown)) => format!(
                "{} {}:{} ro={} nocopy={} bind={} {}",
                v.kind,
                v.source,
                v.target,
                v.read_only,
                v.volume.is_some_and(|o| o.no_copy),
                v.bind.and_then(|b| b.propagation).unwrap_or_default(),
                unknown.join(" ")
            ),
        }
    }

    #[test]
    fn the_short_syntax() {
        for (text, wanted) in [
            ("/data", "volume :/data ro=false nocopy=false bind= "),
            (
                "data:/data",
                "volume data:/data ro=false nocopy=false bind= ",
            ),
            ("d:/data", "volume :d:/data ro=false nocopy=false bind= "),
            ("C:\\x:/y:ro", "bind C:\\x:/y ro=true nocopy=false bind= "),
            ("c:/x:d:/y", "bind c:/x:d:/y ro=false nocopy=false bind= "),
            (
                "data:C:\\x",
                "volume data:C:\\x ro=false nocopy=false bind= ",
            ),
            ("C:/", "volume :C:/ ro=false nocopy=false bind= "),
            (
                "\\\\.\\pipe\\d:\\\\.\\pipe\\d",
                "bind \\\\.\\pipe\\d:\\\\.\\pipe\\d ro=false nocopy=false bind= ",
            ),
            (
                "data:/data:ro,nocopy",
                "volume data:/data ro=true nocopy=true bind= ",
            ),
            ("./x:/y", "bind ./x:/y ro=false nocopy=false bind= "),
            (
                "/x:/y:rprivate,ro",
                "bind /x:/y ro=true nocopy=false bind=rprivate ",
            ),
            ("~/x:/y:rw", "bind ~/x:/y ro=false nocopy=false bind= "),
            ("/x:/y:z,Z", "bind /x:/y ro=false nocopy=false bind= z Z"),
            ("", "invalid empty volume spec"),
            (
                "aa::ro",
                "invalid spec: aa::ro: empty section between colons",
            ),
            ("aa:/b:ro:z", "invalid spec: aa:/b:ro:z: too many colons"),
        ] {
            assert_eq!(shown(text), wanted, "{text}");
        }
    }
}
