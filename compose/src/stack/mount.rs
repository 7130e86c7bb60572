//! Mounts of a service.

use skep_model::mount::{
    BindOptions, Driver, ImageOptions, Mount, MountType, TmpfsOptions, VolumeOptions,
};

use super::{labelled, scoped, undefined};
use crate::context::Context;
use crate::file::File;
use crate::file::service::Service;
use crate::file::volume::ServiceVolume;
use crate::report::Placed;
use crate::text::size;

/// All mounts of a service, in the order of the file, `tmpfs` last.
pub(super) fn mounts(
    name: &str,
    service: &Service,
    file: &File,
    cx: &mut Context<'_>,
) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = service
        .volumes
        .iter()
        .filter_map(|volume| mount(name, volume, file, cx))
        .collect();
    mounts.extend(
        service
            .tmpfs
            .iter()
            .filter_map(|text| tmpfs(name, text, cx)),
    );
    mounts
}

fn mount(
    service: &str,
    volume: &ServiceVolume,
    file: &File,
    cx: &mut Context<'_>,
) -> Option<Mount> {
    let refuse = |what: String, cx: &mut Context<'_>| {
        cx.error(volume.at, format!("service {service}: {what}"));
        None
    };
    let kind = match volume.kind.as_str() {
        "bind" => MountType::Bind,
        "tmpfs" => MountType::Tmpfs,
        "npipe" => MountType::Npipe,
        "cluster" => MountType::Cluster,
        "image" => MountType::Image,
        _ => MountType::Volume,
    };
    let type_name = volume.kind.as_str();
    let options = [
        (
            "bind",
            volume.bind.is_some(),
            matches!(kind, MountType::Bind | MountType::Npipe),
        ),
        ("volume", volume.volume.is_some(), kind == MountType::Volume),
        ("image", volume.image.is_some(), kind == MountType::Image),
        ("tmpfs", volume.tmpfs.is_some(), kind == MountType::Tmpfs),
        (
            "cluster",
            volume.cluster.is_some(),
            kind == MountType::Cluster,
        ),
    ];
    if let Some((option, ..)) = options.iter().find(|(_, given, fits)| *given && !fits) {
        return refuse(
            format!("{option} options are incompatible with type {type_name}"),
            cx,
        );
    }
    match kind {
        MountType::Tmpfs if !volume.source.is_empty() => {
            return refuse("invalid tmpfs source, source must be empty".to_owned(), cx);
        }
        MountType::Image | MountType::Npipe | MountType::Cluster | MountType::Bind
            if volume.source.is_empty() =>
        {
            return refuse(
                format!("invalid {type_name} source, source cannot be empty"),
                cx,
            );
        }
        _ => {}
    }
    if !volume.target.starts_with('/') && kind != MountType::Npipe {
        return refuse(
            format!(
                "invalid mount config for type {type_name:?}: invalid mount path: '{}' \
                 mount path must be absolute",
                volume.target
            ),
            cx,
        );
    }
    let mut mount = Mount {
        kind,
        source: volume.source.clone(),
        target: volume.target.clone(),
        read_only: volume.read_only,
        consistency: volume.consistency.clone().unwrap_or_default(),
        ..Mount::default()
    };
    match kind {
        MountType::Volume => named_volume(service, volume, &mut mount, file, cx)?,
        MountType::Cluster => {
            if !volume.source.starts_with("group:") {
                mount.source = stack_volume_name(service, volume, file, cx)?;
            }
        }
        MountType::Bind | MountType::Npipe => {
            mount.bind_options = volume.bind.as_ref().map(|bind| BindOptions {
                propagation: bind.propagation.clone().unwrap_or_default(),
                create_mountpoint: bind.create_host_path.unwrap_or(false),
                non_recursive: bind.recursive.as_deref() == Some("disabled"),
                read_only_non_recursive: bind.recursive.as_deref() == Some("writable"),
                read_only_force_recursive: bind.recursive.as_deref() == Some("readonly"),
            });
        }
        MountType::Image => {
            mount.image_options = volume.image.as_ref().map(|image| ImageOptions {
                subpath: image.subpath.clone().unwrap_or_default(),
            });
        }
        MountType::Tmpfs => {
            mount.tmpfs_options = volume.tmpfs.as_ref().map(|tmpfs| TmpfsOptions {
                size_bytes: tmpfs.size.unwrap_or(0),
                mode: tmpfs.mode.unwrap_or(0),
            });
        }
    }
    Some(mount)
}

/// Gives a volume mount the volume's full name, labels and driver.
fn named_volume(
    service: &str,
    volume: &ServiceVolume,
    mount: &mut Mount,
    file: &File,
    cx: &mut Context<'_>,
) -> Option<()> {
    let given = volume.volume.clone().unwrap_or_default();
    if volume.source.is_empty() {
        if volume.volume.is_some() {
            mount.volume_options = Some(VolumeOptions {
                no_copy: given.no_copy,
                labels: given.labels,
                driver_config: None,
                subpath: given.subpath.unwrap_or_default(),
            });
        }
        return Some(());
    }
    mount.source = stack_volume_name(service, volume, file, cx)?;
    let mut options = VolumeOptions {
        no_copy: given.no_copy,
        subpath: given.subpath.unwrap_or_default(),
        ..VolumeOptions::default()
    };
    let definition = file.volumes.get(&volume.source).map(|found| &found.value);
    if definition.is_none_or(|definition| !definition.is_external()) {
        let labels = definition.and_then(|definition| definition.labels.as_ref());
        options.labels = labelled(labels, cx);
        options.labels.extend(given.labels);
        if let Some(definition) = definition
            && (definition.driver.is_some() || definition.driver_opts.is_some())
        {
            options.driver_config = Some(Driver {
                name: definition.driver.clone().unwrap_or_default(),
                options: definition.driver_opts.clone().unwrap_or_default(),
            });
        }
    }
    mount.volume_options = Some(options);
    Some(())
}

fn stack_volume_name(
    service: &str,
    volume: &ServiceVolume,
    file: &File,
    cx: &mut Context<'_>,
) -> Option<String> {
    let Some(definition) = file.volumes.get(&volume.source) else {
        // Each slot has one of its own: there is no one volume that the top level could define.
        if volume.kind == "volume" && is_template(&volume.source) {
            return Some(scoped(&volume.source, cx));
        }
        undefined(
            service,
            "volume",
            &volume.source,
            volume.at,
            &file.volumes,
            cx,
        );
        return None;
    };
    let name = definition.value.name.clone();
    Some(name.unwrap_or_else(|| scoped(&volume.source, cx)))
}

/// Whether the name is made for each task.
fn is_template(name: &str) -> bool {
    name.contains("{{") && name.contains("}}")
}

/// `tmpfs` of the short syntax: `/run` or `/run:size=64m,mode=1770`.
fn tmpfs(service: &str, text: &Placed<String>, cx: &mut Context<'_>) -> Option<Mount> {
    let (target, options) = text.value.split_once(':').unwrap_or((&text.value, ""));
    let refuse = |what: String, cx: &mut Context<'_>| {
        cx.error(text.at, format!("service {service}: tmpfs {what}"));
        None
    };
    if !target.starts_with('/') {
        return refuse(
            format!("mount path must be absolute, found \"{target}\""),
            cx,
        );
    }
    let mut tmpfs = TmpfsOptions::default();
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => match size::parse(value) {
                Ok(bytes) => tmpfs.size_bytes = bytes,
                Err(wrong) => return refuse(format!("size: {wrong}"), cx),
            },
            Some(("mode", value)) => match u32::from_str_radix(value, 8) {
                Ok(mode) if mode <= 0o7777 => tmpfs.mode = mode,
                _ => {
                    return refuse(
                        format!("mode: want octal permission bits, found \"{value}\""),
                        cx,
                    );
                }
            },
            _ if option == "ro" => read_only = true,
            _ if option == "rw" => read_only = false,
            // What every tmpfs of a task has anyway.
            _ if matches!(option, "nosuid" | "nodev" | "noexec") => {}
            _ => cx.warn(
                text.at,
                format!("service {service}: tmpfs option `{option}` has no effect"),
            ),
        }
    }
    Some(Mount {
        kind: MountType::Tmpfs,
        target: target.to_owned(),
        read_only,
        tmpfs_options: (tmpfs != TmpfsOptions::default()).then_some(tmpfs),
        ..Mount::default()
    })
}
