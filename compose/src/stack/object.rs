//! Secrets and configs of a stack, and how its services use them.

use std::collections::{BTreeMap, BTreeSet};

use skep_model::container::{ConfigReference, FileTarget, SecretReference};
use skep_model::mount::Driver;
use skep_model::payload::Pin;
use skep_model::validate::{check_config, check_secret};
use skep_model::{ConfigId, ConfigSpec, SecretId, SecretSpec};

use super::{labelled, scoped, undefined};
use crate::context::Context;
use crate::file::File;
use crate::file::object::{FileObject, ObjectKind, Used};
use crate::file::service::Service;
use crate::report::Placed;

/// Permission bits of a file whose mode is not given.
const MODE_DEFAULT: u32 = 0o444;

/// The secrets to be made, and the names of those that must exist.
pub(super) fn secrets(file: &File, cx: &mut Context<'_>) -> (Vec<SecretSpec>, Vec<String>) {
    let mut external = BTreeSet::new();
    let mut made = BTreeMap::new();
    for (name, placed) in &file.secrets {
        let secret = &placed.value;
        let full_name = full_name(name, secret, cx);
        if secret.is_external() {
            external.insert(full_name);
            continue;
        }
        let driver = secret.driver.as_ref().map(|driver| Driver {
            name: driver.clone(),
            options: secret.driver_opts.clone().unwrap_or_default(),
        });
        let data = match driver {
            Some(_) => Some(Vec::new()),
            None => payload(ObjectKind::Secret, name, placed, cx),
        };
        let Some(data) = data else { continue };
        let spec = SecretSpec {
            name: full_name,
            labels: labelled(secret.labels.as_ref(), cx),
            data,
            driver,
            templating: templating(secret),
            expiry: secret.expiry.clone(),
        };
        if let Err(wrong) = check_secret(&spec) {
            cx.error(placed.at, format!("secret {name}: {}", wrong.message));
        }
        if let Some(other) = made.insert(spec.name.clone(), spec) {
            cx.error(
                placed.at,
                format!(
                    "secret {name}: another secret is called {:?} too",
                    other.name
                ),
            );
        }
    }
    (made.into_values().collect(), external.into_iter().collect())
}

/// The configs to be made, and the names of those that must exist.
pub(super) fn configs(file: &File, cx: &mut Context<'_>) -> (Vec<ConfigSpec>, Vec<String>) {
    let mut external = BTreeSet::new();
    let mut made = BTreeMap::new();
    for (name, placed) in &file.configs {
        let config = &placed.value;
        let full_name = full_name(name, config, cx);
        if config.is_external() {
            external.insert(full_name);
            continue;
        }
        let Some(data) = payload(ObjectKind::Config, name, placed, cx) else {
            continue;
        };
        let spec = ConfigSpec {
            name: full_name,
            labels: labelled(config.labels.as_ref(), cx),
            data,
            templating: templating(config),
        };
        if let Err(wrong) = check_config(&spec) {
            cx.error(placed.at, format!("config {name}: {}", wrong.message));
        }
        if let Some(other) = made.insert(spec.name.clone(), spec) {
            cx.error(
                placed.at,
                format!(
                    "config {name}: another config is called {:?} too",
                    other.name
                ),
            );
        }
    }
    (made.into_values().collect(), external.into_iter().collect())
}

pub(super) fn full_name(name: &str, object: &FileObject, cx: &Context<'_>) -> String {
    object.name.clone().unwrap_or_else(|| scoped(name, cx))
}

fn templating(object: &FileObject) -> Option<Driver> {
    let name = object.template_driver.clone()?;
    Some(Driver {
        name,
        options: BTreeMap::new(),
    })
}

fn payload(
    kind: ObjectKind,
    name: &str,
    placed: &Placed<FileObject>,
    cx: &mut Context<'_>,
) -> Option<Vec<u8>> {
    let object = &placed.value;
    if let Some(file) = &object.file {
        return cx.content(&file.value, file.at);
    }
    if let Some(content) = &object.content {
        return Some(content.clone().into_bytes());
    }
    if let Some(variable) = &object.environment {
        let value = (cx.env)(&variable.value);
        if value.is_none() {
            cx.error(
                variable.at,
                format!(
                    "{} {name}: the variable {:?} is not set",
                    kind.as_str(),
                    variable.value
                ),
            );
        }
        return value.map(String::into_bytes);
    }
    cx.error_with_hint(
        placed.at,
        format!("{} {name} has no payload", kind.as_str()),
        "give `file: path`, or `external: true` if it exists already",
    );
    None
}

/// Where a file goes; orders the uses of one object.
fn target(file: Option<&FileTarget>) -> String {
    file.map(|file| file.name.clone()).unwrap_or_default()
}

/// The secrets of one service, ordered by full name and target.
pub(super) fn used_secrets(
    name: &str,
    service: &Service,
    file: &File,
    cx: &mut Context<'_>,
) -> Vec<SecretReference> {
    let mut references: Vec<SecretReference> =
        used(name, "secret", &service.secrets, &file.secrets, cx)
            .into_iter()
            .map(|(secret_name, target)| SecretReference {
                file: Some(target),
                secret_id: SecretId::default(),
                secret_name,
                version: Pin::default(),
            })
            .collect();
    references.sort_by_key(|one| (one.secret_name.clone(), target(one.file.as_ref())));
    references
}

/// The configs of one service, ordered by full name and target.
pub(super) fn used_configs(
    name: &str,
    service: &Service,
    file: &File,
    cx: &mut Context<'_>,
) -> Vec<ConfigReference> {
    let mut references: Vec<ConfigReference> =
        used(name, "config", &service.configs, &file.configs, cx)
            .into_iter()
            .map(|(config_name, target)| ConfigReference {
                file: Some(target),
                runtime: None,
                config_id: ConfigId::default(),
                config_name,
                version: Pin::default(),
            })
            .collect();
    if let Some(spec) = &service.credential_spec
        && let Some(config) = &spec.value.config
    {
        match file.configs.get(config) {
            Some(object) => references.push(ConfigReference {
                file: None,
                runtime: Some(serde_json::Value::Object(serde_json::Map::new())),
                config_id: ConfigId::default(),
                config_name: full_name(config, &object.value, cx),
                version: Pin::default(),
            }),
            None => undefined(name, "config", config, spec.at, &file.configs, cx),
        }
    }
    references.sort_by_key(|one| (one.config_name.clone(), target(one.file.as_ref())));
    references
}

fn used(
    service: &str,
    what: &str,
    uses: &[Used],
    defined: &BTreeMap<String, Placed<FileObject>>,
    cx: &mut Context<'_>,
) -> Vec<(String, FileTarget)> {
    let mut references = Vec::new();
    for one in uses {
        let Some(object) = defined.get(&one.source) else {
            undefined(service, what, &one.source, one.at, defined, cx);
            continue;
        };
        let root = |id: &Option<String>| id.clone().unwrap_or_else(|| "0".to_owned());
        let target = FileTarget {
            name: one.target.clone().unwrap_or_else(|| one.source.clone()),
            uid: root(&one.uid),
            gid: root(&one.gid),
            mode: one.mode.unwrap_or(MODE_DEFAULT),
        };
        references.push((full_name(&one.source, &object.value, cx), target));
    }
    references
}
