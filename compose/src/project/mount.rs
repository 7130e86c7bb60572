//! Mounts of a service's containers, and the files put into them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{ProjectFile, ProjectVolume, undefined};
use crate::context::Context;
use crate::file::File;
use crate::file::object::{FileObject, ObjectKind, Used};
use crate::file::service::Service;
use crate::file::volume::ServiceVolume;

/// The mounts, as the API wants them.
pub(super) fn mounts(
    name: &str,
    service: &Service,
    volumes: &BTreeMap<String, ProjectVolume>,
    cx: &mut Context<'_>,
) -> Vec<Value> {
    service
        .volumes
        .iter()
        .filter_map(|volume| mount(name, volume, volumes, cx))
        .collect()
}

fn mount(
    service: &str,
    volume: &ServiceVolume,
    volumes: &BTreeMap<String, ProjectVolume>,
    cx: &mut Context<'_>,
) -> Option<Value> {
    if !volume.target.starts_with('/') {
        let target = &volume.target;
        cx.error(
            volume.at,
            format!(
                "service {service}: invalid mount path: '{target}' mount path must be absolute"
            ),
        );
        return None;
    }
    let mut mount = json!({
        "Type": volume.kind,
        "Target": volume.target,
        "ReadOnly": volume.read_only,
    });
    match volume.kind.as_str() {
        "bind" => {
            let bind = volume.bind.clone().unwrap_or_default();
            mount["Source"] = json!(volume.source);
            mount["BindOptions"] = json!({
                "Propagation": bind.propagation.unwrap_or_default(),
                "CreateMountpoint": bind.create_host_path.unwrap_or(true),
                "NonRecursive": bind.recursive.as_deref() == Some("disabled"),
                "ReadOnlyNonRecursive": bind.recursive.as_deref() == Some("writable"),
                "ReadOnlyForceRecursive": bind.recursive.as_deref() == Some("readonly"),
            });
        }
        "volume" => {
            if !volume.source.is_empty() {
                let Some(known) = volumes.get(&volume.source) else {
                    undefined(service, "volume", &volume.source, volume.at, cx);
                    return None;
                };
                mount["Source"] = json!(known.name);
            }
            if let Some(options) = &volume.volume {
                mount["VolumeOptions"] = json!({
                    "NoCopy": options.no_copy,
                    "Subpath": options.subpath.clone().unwrap_or_default(),
                    "Labels": options.labels,
                });
            }
        }
        "tmpfs" => {
            let options = volume.tmpfs.clone().unwrap_or_default();
            mount["TmpfsOptions"] = json!({
                "SizeBytes": options.size.unwrap_or(0),
                "Mode": options.mode.unwrap_or(0),
            });
        }
        "image" => {
            mount["Source"] = json!(volume.source);
            let subpath = volume
                .image
                .as_ref()
                .and_then(|image| image.subpath.clone());
            mount["ImageOptions"] = json!({"Subpath": subpath.unwrap_or_default()});
        }
        other => {
            cx.error(
                volume.at,
                format!("service {service}: mounts of type {other} cannot be honoured here"),
            );
            return None;
        }
    }
    Some(mount)
}

/// `tmpfs` of the short syntax: options by path.
pub(super) fn tmpfs(service: &Service) -> Map<String, Value> {
    service
        .tmpfs
        .iter()
        .map(|text| {
            let (path, options) = text.value.split_once(':').unwrap_or((&text.value, ""));
            (path.to_owned(), json!(options))
        })
        .collect()
}

/// Secrets and configs. A plain file is mounted; what has no file of its own, or asks for an owner
/// or permissions, is put into the container.
pub(super) fn objects(
    name: &str,
    service: &Service,
    file: &File,
    mounts: &mut Vec<Value>,
    files: &mut Vec<ProjectFile>,
    cx: &mut Context<'_>,
) {
    for (kind, used, known) in [
        (ObjectKind::Secret, &service.secrets, &file.secrets),
        (ObjectKind::Config, &service.configs, &file.configs),
    ] {
        for used in used {
            let Some(object) = known.get(&used.source) else {
                undefined(name, kind.as_str(), &used.source, used.at, cx);
                continue;
            };
            object_of(kind, used, &object.value, mounts, files, cx);
        }
    }
}

/// Whether a target is a variable, which only tasks of a cluster can have.
fn is_variable(target: &str) -> bool {
    target.starts_with(skep_model::variable::TARGET_PREFIX)
}

fn object_of(
    kind: ObjectKind,
    used: &Used,
    object: &FileObject,
    mounts: &mut Vec<Value>,
    files: &mut Vec<ProjectFile>,
    cx: &mut Context<'_>,
) {
    let what = kind.as_str();
    if object.is_external() || object.driver.is_some() {
        cx.error_with_hint(
            used.at,
            format!("unsupported external {what} {}", used.source),
            "a cluster keeps those: deploy the file as a stack, or give a file",
        );
        return;
    }
    if used.target.as_deref().is_some_and(is_variable) {
        cx.error_with_hint(
            used.at,
            format!("{what} {} cannot be a variable on one host", used.source),
            "a cluster hides those from inspect: deploy the file as a stack, or set it by environment",
        );
        return;
    }
    let place = |path: &str| match kind {
        _ if path.starts_with('/') => path.to_owned(),
        ObjectKind::Secret => format!("/run/secrets/{path}"),
        ObjectKind::Config => format!("/{path}"),
    };
    let target = place(used.target.as_deref().unwrap_or(&used.source));
    let asks_owner = used.uid.is_some() || used.gid.is_some() || used.mode.is_some();
    let content = match (&object.content, &object.environment, &object.file) {
        (Some(content), _, _) => content.clone().into_bytes(),
        (_, Some(variable), _) => match (cx.env)(&variable.value) {
            Some(value) => value.into_bytes(),
            None => {
                cx.error(
                    variable.at,
                    format!(
                        "environment variable {:?} required by {what} {:?} is not set",
                        variable.value, used.source
                    ),
                );
                return;
            }
        },
        (_, _, Some(file)) if asks_owner => match cx.content(&file.value, file.at) {
            Some(content) => content,
            None => return,
        },
        (_, _, Some(file)) => {
            mounts.push(json!({
                "Type": "bind",
                "Source": file.value,
                "Target": target,
                "ReadOnly": true,
                "BindOptions": {},
            }));
            return;
        }
        (None, None, None) => {
            cx.error(
                used.at,
                format!(
                    "{what} {:?} has neither file, content nor environment",
                    used.source
                ),
            );
            return;
        }
    };
    let mut number = |text: &Option<String>| match text.as_deref().map(str::parse::<u32>) {
        None => 0,
        Some(Ok(number)) => number,
        Some(Err(_)) => {
            cx.error(
                used.at,
                format!("uid and gid of {what} {:?} must be numbers", used.source),
            );
            0
        }
    };
    let (uid, gid) = (number(&used.uid), number(&used.gid));
    files.push(ProjectFile {
        target,
        content,
        mode: used.mode.unwrap_or(0o444),
        uid,
        gid,
    });
}
