//! `compose config`: the files as they are understood; and `version`.

use std::collections::BTreeMap;

use serde_json::Value;
use skep_compose::Project;

use super::body;
use super::project::Asked;
use crate::client::Call;
use crate::cmd::image::transfer::full_name;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::reference::Reference;
use crate::session::Session;
use crate::table;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let always = "the files are always checked and normalised";
    for (flag, why) in [
        ("no-consistency", always),
        ("no-normalize", always),
        ("no-path-resolution", always),
        ("no-env-resolution", always),
        ("models", "models are not run"),
    ] {
        if args.flag(flag) {
            return Err(Failure::message(format!(
                "--{flag} is not supported: {why}"
            )));
        }
    }
    let asked = Asked::of(session)?;
    let loaded = asked.load_with(args.positionals(), !args.flag("no-interpolate"))?;
    let project = &loaded.project;
    let mut text = String::new();
    let mut line = |name: &str| {
        text.push_str(name);
        text.push('\n');
    };
    if args.flag("services") {
        project.services.keys().for_each(|key| line(key));
    } else if args.flag("volumes") {
        project.volumes.keys().for_each(|key| line(key));
    } else if args.flag("networks") {
        project.networks.keys().for_each(|key| line(key));
    } else if args.flag("profiles") {
        skep_compose::profiles(project)
            .iter()
            .for_each(|name| line(name));
    } else if args.flag("images") {
        for (key, service) in &project.services {
            line(&loaded.names().image(key, service));
        }
    } else if args.flag("environment") {
        for (name, value) in asked.env() {
            line(&format!("{name}={value}"));
        }
    } else if let Some(which) = args.maybe("hash") {
        for (key, service) in &project.services {
            if which == "*" || which.split(',').any(|name| name == key) {
                line(&format!("{key} {}", body::hash(project, service)));
            }
        }
    } else if args.flag("variables") {
        text = variables(&asked.variables()?);
    } else if args.flag("lock-image-digests") {
        text = locked(session, args, project).await?;
    } else if !args.flag("quiet") {
        text = whole(session, args, project).await?;
    }
    match args.text("output") {
        "" => session.print(&text),
        path => std::fs::write(path, text)
            .map_err(|error| Failure::message(format!("cannot write {path}: {error}"))),
    }
}

async fn whole(session: &Session, args: &Args, project: &Project) -> Outcome<String> {
    let mut digests = Vec::new();
    if args.flag("resolve-image-digests") {
        for service in project.services.values() {
            if let Some(image) = &service.image {
                digests.push((image, digest(session, image).await?));
            }
        }
    }
    let mut json = project.json.clone();
    if let Value::Object(services) = &mut json["services"] {
        for service in services.values_mut() {
            let known = digests
                .iter()
                .find(|(image, _)| service["image"] == **image);
            if let Some((_, digest)) = known {
                service["image"] = Value::from(digest.clone());
            }
        }
    }
    let yaml = || {
        digests
            .iter()
            .fold(project.document.clone(), |document, (image, digest)| {
                document.replace(
                    &format!("\n    image: {image}\n"),
                    &format!("\n    image: {digest}\n"),
                )
            })
    };
    printed(args, yaml, &json)
}

/// A file that holds the images' digests, to be put over the others.
async fn locked(session: &Session, args: &Args, project: &Project) -> Outcome<String> {
    let mut images = BTreeMap::new();
    for (key, service) in &project.services {
        let image = match &service.image {
            Some(image) => Some(digest(session, image).await?),
            None => None,
        };
        images.insert(key.clone(), image);
    }
    let (yaml, json) = skep_compose::images_only(&images);
    printed(args, || yaml, &json)
}

/// A document in the form that `--format` asks for.
fn printed(args: &Args, yaml: impl FnOnce() -> String, json: &Value) -> Outcome<String> {
    match args.maybe("format").unwrap_or("yaml") {
        "yaml" => Ok(yaml()),
        "json" => serde_json::to_string_pretty(json)
            .map(|text| text + "\n")
            .map_err(|error| Failure::message(error.to_string())),
        other => Err(args.invalid("format", other, "want yaml or json")),
    }
}

/// The variables that the files name, as a table.
fn variables(variables: &[skep_compose::Variable]) -> String {
    let mut text = "NAME\tREQUIRED\tDEFAULT VALUE\tALTERNATE VALUE\n".to_owned();
    for one in variables {
        let (default, alternate) = (&one.default, &one.alternate);
        text.push_str(&format!(
            "{}\t{}\t{default}\t{alternate}\n",
            one.name, one.required
        ));
    }
    table::align(&text)
}

/// An image with its digest, as the registry knows it now.
pub async fn digest(session: &Session, image: &str) -> Outcome<String> {
    let reference = Reference::required(image).map_err(Failure::Message)?;
    if reference.digest.is_some() {
        return Ok(image.to_owned());
    }
    let reference = full_name(&reference.with_default_tag());
    let path = format!("/distribution/{}/json", crate::client::segment(&reference));
    let call = Call::get(path).header("X-Registry-Auth", session.config.auth_header(image));
    let found = session.client.json(call).await?;
    Ok(format!("{reference}@{}", found.str("Descriptor.digest")))
}

pub async fn version(session: &Session, args: &Args) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    if args.flag("short") {
        return session.say(version);
    }
    match args.maybe("format").unwrap_or("pretty") {
        "pretty" => session.say(format!("skep compose version {version}")),
        "json" => session.say(format!("{{\"version\":\"{version}\"}}")),
        other => Err(args.invalid("format", other, "want pretty or json")),
    }
}
