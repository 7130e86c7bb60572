//! `login`, `logout`, `search`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::flags::Args;
use crate::human;
use crate::session::Session;
use crate::table::{self, Listing, Row};
use crate::tty;

/// Where credentials are kept when no registry is named.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// A password is shorter than this.
const PASSWORD_BYTES_MAX: usize = 64 << 10;

const RESULTS: Listing = Listing {
    kind: "*registry.searchContext",
    columns: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
    ],
    table: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
    quiet: "{{.Name}}",
    raw: &[],
};

/// Characters of a description that a cut table shows.
const DESCRIPTION_LEN_MAX: usize = 45;

pub async fn search(session: &Session, args: &Args) -> Outcome {
    let call = Call::get("/images/search")
        .query("term", args.positional(0))
        .query_text(
            "limit",
            &args
                .int("limit")
                .map(|limit| limit.to_string())
                .unwrap_or_default(),
        )
        .query_text("filters", &Filters::of(args)?.to_query());
    let found = session.client.json(call).await?;
    let cut = !args.flag("no-trunc");
    let format = args.text("format");
    // As JSON it is no mark but a word.
    let is_json = format == "json" || format.contains("{{json .}}");
    let mark = |yes: bool| match (is_json, yes) {
        (true, true) => "true",
        (true, false) => "false",
        (false, true) => "[OK]",
        (false, false) => "",
    };
    let mut results: Vec<_> = found.list("").iter().collect();
    results.sort_by_key(|result| std::cmp::Reverse(result.int("star_count")));
    let rows = results
        .into_iter()
        .map(|result| {
            let description = result.str("description").replace(['\n', '\r'], " ");
            Row::new([
                ("Name", result.str("name").into()),
                (
                    "Description",
                    if cut {
                        human::ellipsis(&description, DESCRIPTION_LEN_MAX)
                    } else {
                        description
                    }
                    .into(),
                ),
                ("StarCount", result.int("star_count").to_string().into()),
                ("IsOfficial", mark(result.bool("is_official")).into()),
            ])
        })
        .collect();
    session.print(&table::render(&RESULTS, format, false, rows)?)
}

fn server_of(args: &Args) -> String {
    match args.positional(0) {
        "" | "docker.io" | "index.docker.io" | "https://index.docker.io/v1/" => {
            DOCKER_HUB.to_owned()
        }
        server => {
            let server = server
                .trim_start_matches("https://")
                .trim_start_matches("http://");
            server.split('/').next().unwrap_or(server).to_owned()
        }
    }
}

pub async fn login(session: &Session, args: &Args) -> Outcome {
    let server = server_of(args);
    let (username, password) = ask(session, args)?;
    let body = json!({"username": username, "password": password, "serveraddress": server});
    let answer = session.client.json(Call::post("/auth").json(&body)).await?;
    let token = answer.str("IdentityToken").to_owned();
    let entry = if token.is_empty() {
        json!({"auth": STANDARD.encode(format!("{username}:{password}"))})
    } else {
        json!({"auth": STANDARD.encode(format!("{username}:")), "identitytoken": token})
    };
    session
        .config
        .store_auth(&server, Some(entry))
        .map_err(Failure::Message)?;
    if token.is_empty() {
        session.warn(format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/\n",
            session.config.directory.join("config.json").display()
        ));
    }
    session.say(match answer.str("Status") {
        "" => "Login Succeeded",
        status => status,
    })
}

/// A user name and a password, from flags or whoever sits there.
pub fn ask(session: &Session, args: &Args) -> Outcome<(String, String)> {
    let mut username = args.text("username").to_owned();
    let password = if args.flag("password-stdin") {
        if args.given("password") {
            return Err(Failure::message(
                "conflicting options: cannot specify both --password and --password-stdin",
            ));
        }
        if username.is_empty() {
            return Err(Failure::message(
                "the --password-stdin option requires --username to be set",
            ));
        }
        let bytes = session.read_input(PASSWORD_BYTES_MAX)?;
        String::from_utf8_lossy(&bytes)
            .trim_end_matches(['\r', '\n'])
            .to_owned()
    } else if args.given("password") {
        session.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        args.text("password").to_owned()
    } else {
        if !session.streams.in_is_terminal {
            return Err(Failure::message(
                "Error: Cannot perform an interactive login from a non TTY device",
            ));
        }
        if username.is_empty() {
            session.print("Username: ")?;
            username = session.read_line()?.trim().to_owned();
        }
        session.print("Password: ")?;
        let silent = tty::no_echo()?;
        let password = session.read_line();
        drop(silent);
        session.say("")?;
        password?
    };
    if username.is_empty() {
        return Err(Failure::message("Error: Non-null Username Required"));
    }
    if password.is_empty() {
        return Err(Failure::message("Error: Password Required"));
    }
    Ok((username, password))
}

pub async fn logout(session: &Session, args: &Args) -> Outcome {
    let server = server_of(args);
    session.say(format!("Removing login credentials for {server}"))?;
    session
        .config
        .store_auth(&server, None)
        .map_err(Failure::Message)
}
