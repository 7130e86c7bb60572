//! `secret update|rotate|rollback|ps` and the same of configs: what is under a name becomes
//! something else, and its users with it.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_model::payload::PayloadHistory;

use super::config_object::{driver_options, payload};
use super::expiry;
use super::task::now;
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table::{self, Listing, Row};

/// How often users are looked at.
const POLL_PERIOD: Duration = Duration::from_millis(300);
/// How long a rotation waits for all users, unless told otherwise.
const WITHIN: Duration = Duration::from_secs(10 * 60);

const USERS: Listing = Listing {
    kind: "*payload.userContext",
    columns: &[
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Node", "NODE"),
        ("Version", "VERSION"),
        ("Wanted", "WANTED"),
        ("State", "CURRENT STATE"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Node}}\t{{.Version}}\t{{.Wanted}}\t{{.State}}",
    quiet: "{{.ID}}",
    raw: &[],
};

const VERSIONS: Listing = Listing {
    kind: "*payload.versionContext",
    columns: &[
        ("Version", "VERSION"),
        ("Since", "SINCE"),
        ("Size", "SIZE"),
        ("Reason", "REASON"),
        ("Users", "TASKS"),
    ],
    table: "{{.Version}}\t{{.Since}}\t{{.Size}}\t{{.Reason}}\t{{.Users}}",
    quiet: "{{.Version}}",
    raw: &[],
};

/// `secret` or `config`, as the command is called.
fn kind(args: &Args) -> &'static str {
    match args.path().starts_with("config") {
        true => "config",
        false => "secret",
    }
}

fn path(args: &Args, rest: &str) -> String {
    let name = segment(args.positional(0));
    format!("/skep/v1/{}s/{name}/{rest}", kind(args))
}

async fn history(session: &Session, args: &Args) -> Outcome<PayloadHistory> {
    typed(
        session
            .client
            .typed(Call::get(path(args, "versions")))
            .await,
        args,
    )
}

/// A daemon that knows of no versions has no such page.
fn typed<T>(answer: Outcome<T>, args: &Args) -> Outcome<T> {
    match answer {
        Err(Failure::Daemon { message, .. }) if message == "page not found" => {
            Err(Failure::message(format!(
                "this daemon keeps no versions of {}s: create another one, and have the services use it",
                kind(args)
            )))
        }
        answer => answer,
    }
}

/// Stores a version and says what becomes of whom. Gives back its number.
async fn change(session: &Session, args: &Args, rest: &str, body: Value) -> Outcome<i64> {
    let call = Call::post(path(args, rest)).json(&body);
    let answer: Json = typed(session.client.json(call).await, args)?;
    for line in answer
        .texts("Actions")
        .into_iter()
        .chain(answer.texts("Warnings"))
    {
        session.warn(line);
    }
    Ok(answer.int("Version"))
}

pub async fn update(session: &Session, args: &Args) -> Outcome {
    let wish = match kind(args) {
        "secret" => expiry::wish(args)?,
        _ => None,
    };
    let file = args.positional(1);
    let asks_anew = kind(args) == "secret" && args.given("driver-opt");
    if let (Some(wish), "", false) = (&wish, file, asks_anew) {
        return expiry::set(session, args, wish.clone()).await;
    }
    let mut body = json!({"Users": args.text("users")});
    match (asks_anew, file) {
        (true, "") => body["DriverOptions"] = json!(driver_options(args)?),
        (true, _) => {
            return Err(Failure::message(
                "--driver-opt is of a secret whose bytes are in another store: give no file",
            ));
        }
        (false, "") => {
            return Err(Failure::message(
                "the new bytes are missing: give a file or -, --driver-opt to fetch them from its store anew, or --expires to change only when it expires",
            ));
        }
        (false, file) => body["Data"] = json!(STANDARD.encode(payload(session, file)?)),
    }
    if let Some(wish) = wish {
        body["Expiry"] = json!(wish);
    }
    let number = change(session, args, "versions", body).await?;
    if args.flag("forget-old") {
        return see_through(session, args, number, WITHIN).await;
    }
    session.say(number.to_string())
}

pub async fn roll_back(session: &Session, args: &Args) -> Outcome {
    let to = match args.uint("to") {
        Some(0) => return Err(Failure::message("--to: versions count from 1")),
        to => to.unwrap_or(0),
    };
    let body = json!({"Users": args.text("users")});
    let number = change(session, args, &format!("rollback?to={to}"), body).await?;
    session.say(number.to_string())
}

pub async fn rotate(session: &Session, args: &Args) -> Outcome {
    let mut body = json!({"Users": args.text("users")});
    match (args.maybe("generate"), args.positional(1)) {
        (Some(_), given) if !given.is_empty() => {
            return Err(Failure::message(
                "--generate makes the new bytes: give no file",
            ));
        }
        (Some(wanted), _) => {
            let made = generated(wanted).map_err(|why| args.invalid("generate", wanted, &why))?;
            body["Data"] = json!(STANDARD.encode(made));
        }
        (None, "") if is_elsewhere(session, args).await? => body["DriverOptions"] = json!({}),
        (None, "") => {
            return Err(Failure::message(format!(
                "the new bytes are missing: give a file, - or --generate LENGTH, as in \"skep {} rotate {} --generate 32\"",
                kind(args),
                args.positional(0)
            )));
        }
        (None, given) => body["Data"] = json!(STANDARD.encode(payload(session, given)?)),
    }
    let within = match args.duration("timeout") {
        None => WITHIN,
        Some(nanos) if nanos > 0 => Duration::from_nanos(nanos.unsigned_abs()),
        Some(_) => return Err(Failure::message("--timeout: it must be longer than zero")),
    };
    if kind(args) == "secret"
        && let Some(wish) = expiry::wish(args)?
    {
        body["Expiry"] = json!(wish);
    }
    let number = change(session, args, "versions", body).await?;
    see_through(session, args, number, within).await
}

/// Whether its bytes are in a store outside of the cluster, which is asked for them anew.
async fn is_elsewhere(session: &Session, args: &Args) -> Outcome<bool> {
    if kind(args) != "secret" {
        return Ok(false);
    }
    let call = Call::get(format!("/secrets/{}", segment(args.positional(0))));
    let secret = session.client.json(call).await?;
    Ok(!secret.str("Spec.Driver.Name").is_empty())
}

/// Waits until every task sees the version, then has the earlier ones forgotten.
async fn see_through(session: &Session, args: &Args, number: i64, within: Duration) -> Outcome {
    let number = number.unsigned_abs();
    let began = Instant::now();
    let mut told = String::new();
    loop {
        let history = history(session, args).await?;
        let present = history.versions.first().map_or(0, |one| one.number);
        if present != number {
            return Err(Failure::message(format!(
                "{} {} was changed meanwhile: version {present} is the present one",
                kind(args),
                history.name
            )));
        }
        let behind = behind(&history, number);
        let Some(first) = behind.first() else { break };
        let line = format!(
            "{} of {} tasks see version {number}",
            history.users.len() - behind.len(),
            history.users.len()
        );
        if line != told {
            session.warn(&line);
            told.clone_from(&line);
        }
        refuse_stopped_updates(session, &history, number).await?;
        if began.elapsed() >= within {
            return Err(Failure::message(format!(
                "{line} after {}: {first} does not, and earlier versions are kept",
                human::age(within)
            )));
        }
        tokio::time::sleep(POLL_PERIOD).await;
    }
    let call = Call::post(path(args, "forget"));
    session.client.done(call).await?;
    session.say(number.to_string())
}

/// Names of the tasks that do not see the version yet. One that has not begun to run is none's user.
fn behind(history: &PayloadHistory, number: u64) -> Vec<String> {
    let users = history.users.iter();
    users
        .filter(|user| user.sees != number || user.service_wants != number)
        .map(|user| user.name.clone())
        .collect()
}

/// A service whose update has stopped, or went back, never gets there.
async fn refuse_stopped_updates(
    session: &Session,
    history: &PayloadHistory,
    number: u64,
) -> Outcome {
    let services: std::collections::BTreeSet<&str> = history
        .users
        .iter()
        .filter(|user| user.sees != number || user.service_wants != number)
        .map(|user| user.service.as_str())
        .collect();
    for name in services {
        let call = Call::get(format!("/services/{}", segment(name)));
        let service = session.client.json(call).await?;
        let state = service.str("UpdateStatus.State");
        if state == "paused" || state.starts_with("rollback") {
            return Err(Failure::message(format!(
                "service {name} does not follow: its update is {}: {}; earlier versions are kept",
                state.replace('_', " "),
                service.str("UpdateStatus.Message")
            )));
        }
    }
    Ok(())
}

pub async fn ps(session: &Session, args: &Args) -> Outcome {
    let history = history(session, args).await?;
    let rows = history.users.iter().map(|user| {
        let id = match args.flag("no-trunc") {
            true => user.task.as_str(),
            false => human::short_id(&user.task),
        };
        Row::new([
            ("ID", id.into()),
            ("Name", user.name.as_str().into()),
            ("Node", user.node.as_str().into()),
            ("Version", user.sees.to_string().as_str().into()),
            ("Wanted", user.service_wants.to_string().as_str().into()),
            ("State", user.state.as_str().into()),
        ])
    });
    let format = super::format_of(session, args, "");
    let rows = rows.collect();
    session.print(&table::render(&USERS, &format, args.flag("quiet"), rows)?)
}

pub async fn list(session: &Session, args: &Args) -> Outcome {
    let history = history(session, args).await?;
    let rows = history.versions.iter().map(|version| {
        let users = history.users.iter();
        let users = users.filter(|user| user.sees == version.number).count();
        let because = match version.because.as_str() {
            "" => "created",
            because => because,
        };
        Row::new([
            ("Version", version.number.to_string().as_str().into()),
            ("Since", human::ago(version.since, now()).into()),
            ("Size", human::size(version.bytes as f64).into()),
            ("Reason", because.into()),
            ("Users", users.to_string().as_str().into()),
        ])
    });
    let format = super::format_of(session, args, "");
    let rows = rows.collect();
    session.print(&table::render(
        &VERSIONS,
        &format,
        args.flag("quiet"),
        rows,
    )?)
}

/// Longest secret that is made up, in characters.
const GENERATED_LEN_MAX: usize = 4096;
const ALPHANUMERIC: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// `LENGTH[:CHARACTERS]`: so many characters, each of them any of those.
fn generated(wanted: &str) -> Result<Vec<u8>, String> {
    let (length, characters) = wanted.split_once(':').unwrap_or((wanted, "alnum"));
    let length: usize = length
        .parse()
        .map_err(|_| format!("{length:?} is no number of characters"))?;
    if !(1..=GENERATED_LEN_MAX).contains(&length) {
        return Err(format!("1 to {GENERATED_LEN_MAX} characters can be made"));
    }
    let set: Vec<u8> = match characters {
        "alnum" => ALPHANUMERIC.into(),
        "hex" => "0123456789abcdef".into(),
        "digits" => "0123456789".into(),
        "ascii" => (b'!'..=b'~').collect(),
        own => {
            let mut set = own.as_bytes().to_vec();
            set.sort_unstable();
            set.dedup();
            set
        }
    };
    if set.len() < 2 || !set.is_ascii() {
        return Err(
            "characters are alnum, hex, digits, ascii, or some of your own: two at least, ASCII"
                .to_owned(),
        );
    }
    // Bytes that would make some characters likelier than others are left out.
    let bound = 256 - 256 % set.len();
    let mut made = Vec::with_capacity(length);
    while made.len() < length {
        for byte in skep_pki::random_bytes::<64>() {
            if usize::from(byte) < bound && made.len() < length {
                made.push(set[usize::from(byte) % set.len()]);
            }
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_up_of_what_is_asked_for() {
        for (wanted, allowed, length) in [
            ("32", ALPHANUMERIC, 32),
            ("64:hex", "0123456789abcdef", 64),
            ("5:digits", "0123456789", 5),
            ("100:ab", "ab", 100),
        ] {
            let made = String::from_utf8(generated(wanted).unwrap()).unwrap();
            assert_eq!(made.len(), length, "{wanted}");
            assert!(
                made.chars().all(|c| allowed.contains(c)),
                "{wanted}: {made}"
            );
        }
        assert_ne!(generated("32").unwrap(), generated("32").unwrap());
        for wrong in ["", "0", "x", "9999999", "8:", "8:aaa", "8:äö"] {
            assert!(generated(wrong).is_err(), "{wrong}");
        }
    }
}
