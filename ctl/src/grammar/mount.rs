//! `--mount` of services and containers.

use skep_model::mount::{
    BindOptions, Driver, ImageOptions, Mount, MountType, TmpfsOptions, VolumeOptions,
};

use super::csv;
use crate::human;

/// One mount. `absolute` turns a source that begins with a dot into an absolute path.
pub fn parse(value: &str, absolute: &dyn Fn(&str) -> String) -> Result<Mount, String> {
    let (mut mount, kind) = parse_any(value, absolute)?;
    mount.kind = match kind.as_str() {
        "bind" => MountType::Bind,
        "volume" => MountType::Volume,
        "tmpfs" => MountType::Tmpfs,
        "npipe" => MountType::Npipe,
        "cluster" => MountType::Cluster,
        "image" => MountType::Image,
        other => return Err(format!("invalid mount type {}", human::quote(other))),
    };
    Ok(mount)
}

/// The same with a type that may be any word: whether there is one of that name, the daemon says. The
/// type in the mount itself is not set.
pub fn parse_any(
    value: &str,
    absolute: &dyn Fn(&str) -> String,
) -> Result<(Mount, String), String> {
    let mut mount = Mount::default();
    let mut kind = "volume".to_owned();
    for field in csv::fields(value)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let Some(value) = value else {
            match key.as_str() {
                "readonly" | "ro" => mount.read_only = true,
                "volume-nocopy" => volume(&mut mount).no_copy = true,
                "bind-nonrecursive" => bind(&mut mount).non_recursive = true,
                "bind-create-src" => bind(&mut mount).create_mountpoint = true,
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            }
            continue;
        };
        let wrong = || format!("invalid value for {key}: {value}");
        let yes = || match value.to_lowercase().as_str() {
            "1" | "t" | "true" => Ok(true),
            "0" | "f" | "false" => Ok(false),
            _ => Err(wrong()),
        };
        match key.as_str() {
            "type" => kind = value.to_lowercase(),
            "source" | "src" if value.starts_with('.') => mount.source = absolute(value),
            "source" | "src" => mount.source = value.to_owned(),
            "target" | "dst" | "destination" => mount.target = value.to_owned(),
            "readonly" | "ro" => mount.read_only = yes()?,
            "consistency" => mount.consistency = value.to_lowercase(),
            "bind-propagation" => bind(&mut mount).propagation = value.to_lowercase(),
            "bind-nonrecursive" => bind(&mut mount).non_recursive = yes()?,
            "bind-create-src" => bind(&mut mount).create_mountpoint = yes()?,
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => bind(&mut mount).non_recursive = true,
                "writable" => bind(&mut mount).read_only_non_recursive = true,
                "readonly" => bind(&mut mount).read_only_force_recursive = true,
                _ => {
                    return Err(format!(
                        "{} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")",
                        wrong()
                    ));
                }
            },
            "volume-subpath" => volume(&mut mount).subpath = value.to_owned(),
            "volume-nocopy" => volume(&mut mount).no_copy = yes()?,
            "volume-label" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                volume(&mut mount)
                    .labels
                    .insert(name.to_owned(), value.to_owned());
            }
            "volume-driver" => driver(&mut mount).name = value.to_owned(),
            "volume-opt" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                driver(&mut mount)
                    .options
                    .insert(name.to_owned(), value.to_owned());
            }
            "image-subpath" => {
                mount
                    .image_options
                    .get_or_insert_with(ImageOptions::default)
                    .subpath = value.to_owned();
            }
            "tmpfs-size" => {
                tmpfs(&mut mount).size_bytes = human::parse_bytes(value).map_err(|_| wrong())?
            }
            "tmpfs-mode" => {
                tmpfs(&mut mount).mode = u32::from_str_radix(value, 8).map_err(|_| wrong())?
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    let mixed = |options: &str| {
        Err(format!(
            "cannot mix '{options}-*' options with mount type '{kind}'"
        ))
    };
    if mount.volume_options.is_some() && kind != "volume" && kind != "cluster" {
        return mixed("volume");
    }
    if mount.bind_options.is_some() && kind != "bind" {
        return mixed("bind");
    }
    if mount.tmpfs_options.is_some() && kind != "tmpfs" {
        return mixed("tmpfs");
    }
    if mount.image_options.is_some() && kind != "image" {
        return mixed("image");
    }
    if let Some(bind) = &mount.bind_options {
        let requires = |value: &str, what: &str| {
            Err(format!(
                "option 'bind-recursive={value}' requires '{what}' to be specified in conjunction"
            ))
        };
        if bind.read_only_non_recursive && !mount.read_only {
            return requires("writable", "readonly");
        }
        if bind.read_only_force_recursive && !mount.read_only {
            return requires("readonly", "readonly");
        }
        if bind.read_only_force_recursive && bind.propagation != "rprivate" {
            return requires("readonly", "bind-propagation=rprivate");
        }
    }
    Ok((mount, kind))
}

fn bind(mount: &mut Mount) -> &mut BindOptions {
    mount.bind_options.get_or_insert_with(BindOptions::default)
}

fn volume(mount: &mut Mount) -> &mut VolumeOptions {
    mount
        .volume_options
        .get_or_insert_with(VolumeOptions::default)
}

fn driver(mount: &mut Mount) -> &mut Driver {
    volume(mount)
        .driver_config
        .get_or_insert_with(Driver::default)
}

fn tmpfs(mount: &mut Mount) -> &mut TmpfsOptions {
    mount
        .tmpfs_options
        .get_or_insert_with(TmpfsOptions::default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<String, String> {
        parse(value, &|path| format!("/here/{path}"))
            .map(|mount| serde_json::to_string(&mount).unwrap())
    }

    #[test]
    fn mounts() {
        for (value, json) in [
            (
                "source=data,target=/data",
                r#"{"Type":"volume","Source":"data","Target":"/data"}"#,
            ),
            (
                "type=bind,src=./x,dst=/x,ro",
                r#"{"Type":"bind","Source":"/here/./x","Target":"/x","ReadOnly":true}"#,
            ),
            (
                "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
                r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1016}}"#,
            ),
            (
                "src=v,dst=/v,volume-driver=local,\"volume-opt=o=addr=1,rw\",volume-label=a=b,volume-nocopy",
                r#"{"Type":"volume","Source":"v","Target":"/v","VolumeOptions":{"NoCopy":true,"Labels":{"a":"b"},"DriverConfig":{"Name":"local","Options":{"o":"addr=1,rw"}}}}"#,
            ),
            (
                "type=bind,source=/a,target=/a,readonly=true,bind-recursive=readonly,bind-propagation=rprivate",
                r#"{"Type":"bind","Source":"/a","Target":"/a","ReadOnly":true,"BindOptions":{"Propagation":"rprivate","ReadOnlyForceRecursive":true}}"#,
            ),
        ] {
            assert_eq!(read(value).as_deref(), Ok(json), "{value}");
        }
    }

    #[test]
    fn wrong_mounts() {
        for (value, error) in [
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("=x", "unexpected key '' in '=x'"),
            ("type=bind,src=a", "target is required"),
            (
                "type=tmpfs,target=/a,volume-nocopy=true",
                "cannot mix 'volume-*' options with mount type 'tmpfs'",
            ),
            (
                "type=bind,target=/a,source=/a,readonly=x",
                "invalid value for readonly: x",
            ),
            (
                "type=bind,target=/a,source=/a,foo=x",
                "unexpected key 'foo' in 'foo=x'",
            ),
            (
                "type=tmpfs,target=/a,tmpfs-mode=x",
                "invalid value for tmpfs-mode: x",
            ),
            (
                "type=bind,target=/a,source=/a,bind-recursive=writable",
                "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction",
            ),
            (
                "type=bind,target=/a,source=/a,bind-recursive=x",
                "invalid value for bind-recursive: x (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")",
            ),
        ] {
            assert_eq!(read(value).unwrap_err(), error, "{value}");
        }
    }
}
