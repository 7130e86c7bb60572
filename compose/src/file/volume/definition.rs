//! `volumes` of the top level.

use std::collections::BTreeMap;

use super::print_map;
use crate::context::Context;
use crate::field::Field;
use crate::file::{declared, merge_maps, override_with};
use crate::out::{MapOut, Out};

/// A volume of the top level.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Volume {
    pub name: Option<String>,
    pub driver: Option<String>,
    pub driver_opts: Option<BTreeMap<String, String>>,
    pub external: Option<bool>,
    pub labels: Option<BTreeMap<String, String>>,
    pub extras: BTreeMap<String, Out>,
}

pub(crate) fn read_definition(
    name: &str,
    field: &Field<'_>,
    cx: &mut Context<'_>,
) -> Option<Volume> {
    if field.node.is_null() {
        return Some(Volume::default());
    }
    let mut fields = field.fields(cx)?;
    let declared = declared::read("volume", name, &mut fields, cx);
    let mut volume = Volume {
        name: declared.name,
        driver: declared.driver,
        driver_opts: declared.driver_opts,
        labels: declared.labels,
        external: declared.external.map(|external| external.value),
        ..Volume::default()
    };
    if let Some(external) = declared.external.filter(|external| external.value) {
        let conflicts = [
            ("driver", volume.driver.is_some()),
            (
                "driver_opts",
                volume.driver_opts.as_ref().is_some_and(|o| !o.is_empty()),
            ),
            (
                "labels",
                volume.labels.as_ref().is_some_and(|l| !l.is_empty()),
            ),
        ];
        if let Some((key, _)) = conflicts.iter().find(|(_, given)| *given) {
            cx.error(
                external.at,
                format!(
                    "conflicting parameters \"external\" and {key:?} specified for volume {name:?}"
                ),
            );
        }
    }
    if let Some(spec) = fields.take("x-cluster-spec") {
        cx.warn(
            spec.key,
            format!("{} has no effect: there are no cluster volumes", spec.path),
        );
    }
    volume.extras.extend(fields.extras());
    if let Some(spec) = volume.extras.get_mut("x-cluster-spec") {
        print_sizes(spec);
    }
    fields.finish(cx);
    Some(volume)
}

/// Sizes of a cluster volume are printed in bytes, as docker does.
fn print_sizes(spec: &mut Out) {
    let Out::Map(entries) = spec else { return };
    let range = entries.iter_mut().find(|(key, _)| key == "capacity_range");
    let Some((_, Out::Map(sizes))) = range else {
        return;
    };
    for (_, size) in sizes {
        let bytes = match size {
            Out::Text(text) => crate::text::size::parse(text).ok(),
            Out::Int(bytes) => Some(*bytes),
            _ => None,
        };
        if let Some(bytes) = bytes {
            *size = Out::text(bytes.to_string());
        }
    }
}

impl Volume {
    pub fn is_external(&self) -> bool {
        self.external.unwrap_or(false)
    }

    pub fn merge(&mut self, later: Self) {
        if later.is_external() {
            *self = later;
            return;
        }
        override_with!(self, later: name, driver, external);
        merge_maps(&mut self.driver_opts, later.driver_opts);
        merge_maps(&mut self.labels, later.labels);
        self.extras.extend(later.extras);
    }

    pub fn print(&self) -> Out {
        let mut out = MapOut::default();
        out.put_text("name", self.name.as_deref());
        out.put_text("driver", self.driver.as_deref());
        out.put(
            "driver_opts",
            self.driver_opts.as_ref().map_or(Out::Null, print_map),
        );
        out.put("external", Out::Bool(self.is_external()));
        out.put("labels", self.labels.as_ref().map_or(Out::Null, print_map));
        out.extend(self.extras.clone());
        out.done()
    }
}
