//! `skep secret` and `skep config`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_model::expiry::Expiry;

use super::task::now;
use super::{expiry, inspect};
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::filter::Filters;
use crate::flags::Args;
use crate::grammar::environment;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table::{self, Listing, Row};

/// More than the daemon takes of either; it says how much it takes.
const PAYLOAD_BYTES_MAX: usize = 2 << 20;

const SECRETS: Listing = Listing {
    kind: "*secret.secretContext",
    columns: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("CreatedAt", "CREATED"),
        ("UpdatedAt", "UPDATED"),
        ("Version", "VERSION"),
        ("Expires", "EXPIRES"),
        ("Labels", "LABELS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
    quiet: "{{.ID}}",
    raw: &[],
};

const CONFIGS: Listing = Listing {
    kind: "*config.configContext",
    columns: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("CreatedAt", "CREATED"),
        ("UpdatedAt", "UPDATED"),
        ("Version", "VERSION"),
        ("Labels", "LABELS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.CreatedAt}}\t{{.UpdatedAt}}",
    quiet: "{{.ID}}",
    raw: &[],
};

/// The bytes of a file, or of the input for `-`.
pub(super) fn payload(session: &Session, path: &str) -> Outcome<Vec<u8>> {
    if path != "-" {
        return files::read(path, PAYLOAD_BYTES_MAX as u64)
            .map_err(|why| Failure::message(format!("error reading from {path}: {why}")));
    }
    let data = session
        .read_input(PAYLOAD_BYTES_MAX)
        .map_err(|why| Failure::message(format!("error reading from STDIN: {why}")))?;
    if data.is_empty() {
        return Err(Failure::message("error reading from STDIN: data is empty"));
    }
    Ok(data)
}

/// What `--driver-opt` says.
pub(super) fn driver_options(args: &Args) -> Outcome<BTreeMap<String, String>> {
    let pairs = args.each("driver-opt", |given| match given.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("want KEY=VALUE, not {given:?}")),
    })?;
    Ok(pairs.into_iter().collect())
}

async fn store(
    session: &Session,
    kind: &str,
    args: &Args,
    data: &[u8],
    driver: Option<Value>,
    expiry: Option<Expiry>,
) -> Outcome {
    let mut spec = json!({
        "Name": args.positional(0),
        "Labels": environment::pairs(args.each("label", environment::label)?),
    });
    if !data.is_empty() {
        spec["Data"] = json!(STANDARD.encode(data));
    }
    if let Some(driver) = driver {
        spec["Driver"] = driver;
    }
    let templating = args.text("template-driver");
    if !templating.is_empty() {
        spec["Templating"] = json!({"Name": templating});
    }
    if let Some(expiry) = expiry {
        spec["Expiry"] = json!(expiry);
    }
    let answer = session
        .client
        .json(Call::post(format!("/{kind}s/create")).json(&spec))
        .await?;
    for line in answer.texts("Warnings") {
        session.warn(line);
    }
    session.say(answer.str("ID"))
}

pub async fn create_secret(session: &Session, args: &Args) -> Outcome {
    let driver = args.text("driver");
    let path = args.positional(1);
    if !driver.is_empty() && !path.is_empty() {
        return Err(Failure::message(
            "When using secret driver secret data must be empty",
        ));
    }
    let options = driver_options(args)?;
    if driver.is_empty() && !options.is_empty() {
        return Err(Failure::message(
            "--driver-opt needs --driver, the secret store that has the bytes",
        ));
    }
    let data = match (driver, path) {
        ("", "") => return Err(Failure::message("secret file is required")),
        (_, "") => Vec::new(),
        (_, path) => payload(session, path)?,
    };
    let driver = match (driver, options.is_empty()) {
        ("", _) => None,
        (name, true) => Some(json!({"Name": name})),
        (name, false) => Some(json!({"Name": name, "Options": options})),
    };
    let wish = expiry::wish(args)?;
    store(session, "secret", args, &data, driver, wish).await
}

pub async fn create_config(session: &Session, args: &Args) -> Outcome {
    let path = args.positional(1);
    let data = payload(session, path).map_err(|why| {
        Failure::message(format!(
            "Error reading content from {}: {why}",
            human::quote(path)
        ))
    })?;
    store(session, "config", args, &data, None, None).await
}

pub async fn list_secrets(session: &Session, args: &Args) -> Outcome {
    list(session, args, "secrets", &SECRETS, "secretFormat").await
}

pub async fn list_configs(session: &Session, args: &Args) -> Outcome {
    list(session, args, "configs", &CONFIGS, "configFormat").await
}

async fn list(session: &Session, args: &Args, kind: &str, listing: &Listing, key: &str) -> Outcome {
    let call = Call::get(format!("/{kind}")).query_text("filters", &Filters::of(args)?.to_query());
    let objects = session.client.json(call).await?;
    let mut objects: Vec<&Json> = objects.list("").iter().collect();
    objects.sort_by(|a, b| human::natural(a.str("Spec.Name"), b.str("Spec.Name")));
    let has_versions = objects.iter().any(|object| number(object) > 1);
    let expire = objects.iter().any(|object| expiry::expires(object));
    let ago = |text: &str| {
        let at = skep_model::Timestamp::parse(text).unwrap_or_default();
        Json::from(human::ago(at, now()))
    };
    let rows = objects
        .into_iter()
        .map(|object| {
            let fields = [
                ("ID", object.str("ID").into()),
                ("Name", object.str("Spec.Name").into()),
                ("CreatedAt", ago(object.str("CreatedAt"))),
                ("UpdatedAt", ago(object.str("UpdatedAt"))),
                ("Version", number(object).to_string().as_str().into()),
                ("Driver", object.str("Spec.Driver.Name").into()),
                ("Expires", expiry::shown(object, now()).into()),
            ];
            let labels = object.text_map("Spec.Labels");
            if kind == "secrets" {
                Row::new(fields).with_labels(labels)
            } else {
                let [id, name, created, updated, version, _, _] = fields;
                Row::new([id, name, created, updated, version]).with_labels(labels)
            }
        })
        .collect();
    let mut format = super::format_of(session, args, key);
    // As docker has it, until there is something to tell.
    if matches!(format.as_str(), "" | "table") && !args.flag("quiet") {
        let version = if has_versions { "\t{{.Version}}" } else { "" };
        let expires = if expire { "\t{{.Expires}}" } else { "" };
        format = format!("table {}{version}{expires}", listing.table);
    }
    session.print(&table::render(listing, &format, args.flag("quiet"), rows)?)
}

/// Number of an object's present version.
fn number(object: &Json) -> i64 {
    object.int("Versions.Number").max(1)
}

pub async fn inspect_secrets(session: &Session, args: &Args) -> Outcome {
    inspect_objects(session, args, "secrets").await
}

pub async fn inspect_configs(session: &Session, args: &Args) -> Outcome {
    inspect_objects(session, args, "configs").await
}

async fn inspect_objects(session: &Session, args: &Args, kind: &'static str) -> Outcome {
    let fetch = |name: String| async move {
        session
            .client
            .text(Call::get(format!("/{kind}/{}", segment(&name))))
            .await
    };
    if args.flag("pretty") {
        let show = if kind == "secrets" {
            pretty_secret
        } else {
            pretty_config
        };
        inspect::pretty(session, args.positionals(), fetch, show).await
    } else {
        inspect::each(session, args.text("format"), args.positionals(), fetch).await
    }
}

fn pretty_labels(object: &Json) -> String {
    let labels = object.text_map("Spec.Labels");
    if labels.is_empty() {
        return String::new();
    }
    let lines: String = labels
        .iter()
        .map(|(key, value)| {
            format!(
                " - {key}{}{value}\n",
                if value.is_empty() { "" } else { "=" }
            )
        })
        .collect();
    format!("Labels:\n{lines}")
}

/// The versions of an object that has more than one, the present one first.
fn pretty_versions(object: &Json) -> String {
    let present = object.int("Versions.Number");
    if present == 0 {
        return String::new();
    }
    let since = inspect::time(object.str("Versions.Since"));
    let mut lines = format!("Versions:\n - {present} (present) since {since}\n");
    for earlier in object.list("Versions.Earlier") {
        let since = inspect::time(earlier.str("Since"));
        lines.push_str(&format!(" - {} since {since}\n", earlier.int("Number")));
    }
    lines
}

/// What the store of a secret is asked for, if something is said of that.
fn pretty_options(secret: &Json) -> String {
    let options = secret.text_map("Spec.Driver.Options");
    let lines = options
        .iter()
        .map(|(key, value)| format!(" - {key}={value}\n"));
    match options.is_empty() {
        true => String::new(),
        false => format!("Driver options:\n{}", lines.collect::<String>()),
    }
}

fn pretty_secret(secret: &Json) -> String {
    format!(
        "ID:              {}\nName:              {}\n{}{}{}Driver:            {}\n{}Created at:        {}\nUpdated at:        {}",
        secret.str("ID"),
        secret.str("Spec.Name"),
        pretty_labels(secret),
        pretty_versions(secret),
        expiry::pretty(secret),
        secret.str("Spec.Driver.Name"),
        pretty_options(secret),
        inspect::time(secret.str("CreatedAt")),
        inspect::time(secret.str("UpdatedAt")),
    )
}

fn pretty_config(config: &Json) -> String {
    let data = STANDARD.decode(config.str("Spec.Data")).unwrap_or_default();
    format!(
        "ID:\t\t\t{}\nName:\t\t\t{}\n{}{}Created at:            \t{}\nUpdated at:            \t{}\nData:\n{}",
        config.str("ID"),
        config.str("Spec.Name"),
        pretty_labels(config),
        pretty_versions(config),
        inspect::time(config.str("CreatedAt")),
        inspect::time(config.str("UpdatedAt")),
        String::from_utf8_lossy(&data),
    )
}

pub async fn remove_secrets(session: &Session, args: &Args) -> Outcome {
    remove(session, args, "secrets").await
}

pub async fn remove_configs(session: &Session, args: &Args) -> Outcome {
    remove(session, args, "configs").await
}

async fn remove(session: &Session, args: &Args, kind: &str) -> Outcome {
    let mut failures = Vec::new();
    for name in args.positionals() {
        match session
            .client
            .done(Call::delete(format!("/{kind}/{}", segment(name))))
            .await
        {
            Ok(()) => session.say(name)?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}
