//! `registry`: credentials that the cluster keeps for all of its services.

use serde_json::json;
use skep_model::{RegistryLogin, Timestamp};

use super::registry::ask;
use crate::client::{Call, segment};
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const PATH: &str = "/skep/v1/registries";

const LOGINS: Listing = Listing {
    kind: "*registry.loginContext",
    columns: &[
        ("Host", "HOST"),
        ("Username", "USERNAME"),
        ("Created", "CREATED"),
        ("Refreshed", "REFRESHED"),
    ],
    table: "{{.Host}}\t{{.Username}}\t{{.Created}}\t{{.Refreshed}}",
    quiet: "{{.Host}}",
    raw: &[],
};

fn not_there(failure: Failure) -> Failure {
    match failure {
        Failure::Daemon { message, .. } if message == "page not found" => {
            Failure::message("this daemon keeps no credentials for registries")
        }
        other => other,
    }
}

/// `registry login`
pub async fn keep(session: &Session, args: &Args) -> Outcome {
    let host = args.positional(0);
    let given = ["username", "password", "password-stdin"];
    let (username, password) = match given.iter().any(|flag| args.given(flag)) {
        true => ask(session, args)?,
        false => match own(session, host) {
            Some(own) => own,
            None => ask(session, args)?,
        },
    };
    let body = json!({
        "Host": host,
        "Username": username,
        "Password": password,
        "Untried": args.flag("no-check"),
    });
    let kept = session.client.json(Call::post(PATH).json(&body)).await;
    let kept = kept.map_err(not_there)?;
    session.say(format!(
        "All nodes pull from {} as {username} now",
        kept.str("Host")
    ))
}

/// What a login on this machine has left for a registry.
fn own(session: &Session, host: &str) -> Option<(String, String)> {
    let found = session.config.credentials(host)?;
    let is_whole = !found.username.is_empty() && !found.password.is_empty();
    is_whole.then_some((found.username, found.password))
}

/// `registry ls`
pub async fn list(session: &Session, args: &Args) -> Outcome {
    let logins: Vec<RegistryLogin> = session
        .client
        .typed(Call::get(PATH))
        .await
        .map_err(not_there)?;
    let at = now();
    let mut rows: Vec<(String, Row)> = logins.iter().map(|login| row(login, at)).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    let rows = rows.into_iter().map(|(_, row)| row).collect();
    let format = super::format_of(session, args, "");
    session.print(&table::render(&LOGINS, &format, args.flag("quiet"), rows)?)
}

fn row(login: &RegistryLogin, now: Timestamp) -> (String, Row) {
    let host = login.spec.host.clone();
    let row = Row::new([
        ("Host", host.as_str().into()),
        ("Username", login.spec.username.as_str().into()),
        ("Created", human::ago(login.created_at, now).into()),
        ("Refreshed", human::ago(login.kept_at, now).into()),
    ]);
    (host, row)
}

/// `registry rm`
pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    for host in args.positionals() {
        let call = Call::delete(format!("{PATH}/{}", segment(host)));
        match session.client.done(call).await.map_err(not_there) {
            Ok(()) => session.say(host)?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}
