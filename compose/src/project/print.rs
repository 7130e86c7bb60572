//! The merged files as `compose config` prints them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{ProjectNetwork, ProjectOptions};
use crate::document::print_service;
use crate::emit::emit;
use crate::file::File;
use crate::file::dependency;
use crate::file::service::Service;
use crate::out::{MapOut, Out};
use crate::report::Placed;

pub(super) fn document(
    file: &File,
    networks: &BTreeMap<String, ProjectNetwork>,
    options: &ProjectOptions,
) -> Out {
    let services = file
        .services
        .iter()
        .map(|(name, service)| (name.clone(), service_out(service)));
    let mut root = vec![
        ("name".to_owned(), Out::text(&options.name)),
        ("services".to_owned(), Out::Map(services.collect())),
    ];
    let mut section = |name: &str, entries: Vec<(String, Out)>| {
        if !entries.is_empty() {
            root.push((name.to_owned(), Out::Map(entries)));
        }
    };
    let printed: Vec<(String, Out)> = networks
        .iter()
        .map(|(key, network)| {
            let out = file.networks.get(key).map(|known| known.value.print());
            (key.clone(), named(&network.name, out))
        })
        .collect();
    section("networks", printed);
    fn each<T>(
        entries: &BTreeMap<String, Placed<T>>,
        options: &ProjectOptions,
        print: impl Fn(&T) -> (Option<String>, Out),
    ) -> Vec<(String, Out)> {
        entries
            .iter()
            .map(|(key, entry)| {
                let (own, out) = print(&entry.value);
                let name = super::name_of(own.as_ref(), key, options);
                (key.clone(), named(&name, Some(out)))
            })
            .collect()
    }
    section(
        "volumes",
        each(&file.volumes, options, |one| {
            (one.name.clone(), one.print())
        }),
    );
    section(
        "secrets",
        each(&file.secrets, options, |one| {
            (one.name.clone(), one.print())
        }),
    );
    section(
        "configs",
        each(&file.configs, options, |one| {
            (one.name.clone(), one.print())
        }),
    );
    root.extend(file.extras.clone());
    Out::Map(root)
}

/// An object with its name first.
fn named(name: &str, out: Option<Out>) -> Out {
    let mut entries = vec![("name".to_owned(), Out::text(name))];
    if let Some(Out::Map(rest)) = out {
        entries.extend(rest.into_iter().filter(|(key, _)| key != "name"));
    }
    Out::Map(entries)
}

/// A service with its keys by name.
fn service_out(service: &Service) -> Out {
    let Out::Map(mut entries) = print_service(service) else {
        return Out::Null;
    };
    if let Some(host) = &service.host {
        entries.extend(host.print());
    }
    if !service.depends_on.is_empty() {
        let depends_on = dependency::print(&service.depends_on);
        entries.push(("depends_on".to_owned(), depends_on));
    }
    for key in ["command", "entrypoint"] {
        if !entries.iter().any(|(known, _)| known == key) {
            entries.push((key.to_owned(), Out::Null));
        }
    }
    let shares = service
        .host
        .as_ref()
        .is_some_and(|host| host.text("network_mode").is_some());
    if service.networks.is_empty() && !shares {
        let default = vec![("default".to_owned(), Out::Null)];
        entries.push(("networks".to_owned(), Out::Map(default)));
    }
    // Values of variables from files are with the others.
    entries.retain(|(key, _)| key != "env_file");
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Out::Map(entries)
}

/// A file that says nothing but the images of services, as YAML and as JSON: what
/// `config --lock-image-digests` prints, to be put over the others.
pub fn images_only(images: &BTreeMap<String, Option<String>>) -> (String, Value) {
    let services = images.iter().map(|(name, image)| {
        let mut out = MapOut::default();
        out.put_text("image", image.as_deref());
        (name.clone(), out.done())
    });
    let out = Out::Map(vec![(
        "services".to_owned(),
        Out::sorted(services.collect()),
    )]);
    (emit(&out), json(&out))
}

/// The same as JSON.
pub(super) fn json(out: &Out) -> Value {
    match out {
        Out::Null => Value::Null,
        Out::Bool(value) => json!(value),
        Out::Int(value) => json!(value),
        Out::Uint(value) => json!(value),
        Out::Float(value) => json!(value),
        Out::Text(text) => json!(text),
        Out::List(items) => items.iter().map(json).collect(),
        Out::Map(entries) => {
            let map: Map<String, Value> = entries
                .iter()
                .map(|(key, value)| (key.clone(), json(value)))
                .collect();
            Value::Object(map)
        }
    }
}
