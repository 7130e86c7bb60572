//! Join tokens that end by themselves: `swarm join-token --expires --uses`, `ls`, `rm`.

use serde_json::{Value, json};
use skep_model::token::TokenEnd;
use skep_model::{IssuedToken, NodeRole, Timestamp};

use super::token::{manager_address, say_join_command};
use crate::client::{Call, segment};
use crate::cmd::task::now;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const PATH: &str = "/skep/v1/swarm/tokens";

const TOKENS: Listing = Listing {
    kind: "*swarm.tokenContext",
    columns: &[
        ("ID", "ID"),
        ("Role", "ROLE"),
        ("Created", "CREATED"),
        ("Expires", "EXPIRES"),
        ("Uses", "USES"),
        ("Status", "STATUS"),
    ],
    table: "{{.ID}}\t{{.Role}}\t{{.Created}}\t{{.Expires}}\t{{.Uses}}\t{{.Status}}",
    quiet: "{{.ID}}",
    raw: &[],
};

/// A daemon that knows no such tokens says so in a way that tells nobody anything.
fn named(failure: Failure) -> Failure {
    match failure {
        Failure::Daemon { message, .. } if message == "page not found" => {
            Failure::message("this daemon has no join tokens that end by themselves")
        }
        other => other,
    }
}

/// Makes one for `role`, and says how to use it.
pub async fn create(session: &Session, args: &Args, role: &str) -> Outcome {
    if args.flag("rotate") {
        return Err(Failure::message(
            "`--rotate` replaces the ordinary join token: it cannot be given with `--expires` or `--uses`",
        ));
    }
    let uses = args.uint("uses").unwrap_or(0);
    let expires = args.duration("expires").unwrap_or(0);
    if args.given("uses") && uses == 0 {
        return Err(args.invalid("uses", "0", "want at least one node"));
    }
    let wanted = json!({"Role": role, "ExpiresAfter": expires, "Uses": uses});
    let made = session.client.json(Call::post(PATH).json(&wanted)).await;
    let made = made.map_err(named)?;
    if args.flag("quiet") {
        return session.say(made.str("Token"));
    }
    let info = session.client.json(Call::get("/info")).await?;
    if let Some(address) = manager_address(session, info.str("Swarm.NodeID")).await? {
        say_join_command(session, role, made.str("Token"), &address)?;
    }
    session.say(format!(
        "This token is shown only now. To remove it, run 'skep swarm join-token rm {}'.",
        made.str("ID")
    ))
}

/// `swarm join-token ls`
pub async fn list(session: &Session, args: &Args) -> Outcome {
    let tokens: Vec<IssuedToken> = session.client.typed(Call::get(PATH)).await.map_err(named)?;
    let at = now();
    let rows = tokens.iter().map(|token| row(token, at)).collect();
    let format = crate::cmd::format_of(session, args, "");
    session.print(&table::render(&TOKENS, &format, args.flag("quiet"), rows)?)
}

fn row(token: &IssuedToken, now: Timestamp) -> Row {
    let role = match token.role {
        NodeRole::Worker => "worker",
        NodeRole::Manager => "manager",
    };
    let expires = match token.expires_at {
        at if at.is_zero() => "never".to_owned(),
        at if at <= now => human::ago(at, now),
        at => format!("in {}", human::age(at.since(now)).to_lowercase()),
    };
    let uses = match token.uses_max {
        0 => token.uses.to_string(),
        most => format!("{}/{most}", token.uses),
    };
    let status = match token.end(now) {
        None => "good",
        Some(TokenEnd::Expired(_)) => "expired",
        Some(TokenEnd::UsedUp(_)) => "used up",
    };
    Row::new([
        ("ID", token.id.as_str().into()),
        ("Role", role.into()),
        ("Created", human::ago(token.created_at, now).into()),
        ("Expires", expires.into()),
        ("Uses", uses.into()),
        ("Status", status.into()),
    ])
}

/// `swarm join-token rm`
pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    for id in args.positionals() {
        let call = Call::delete(format!("{PATH}/{}", segment(id)));
        match session.client.typed::<Value>(call).await.map_err(named) {
            Ok(removed) => session.say(removed["ID"].as_str().unwrap_or(id))?,
            Err(failure) => failures.push(failure.to_string()),
        }
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Failure::message(failures.join("\n"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_long_and_how_often() {
        let secs = Timestamp::from_secs;
        let show = |token: IssuedToken| {
            let row = row(&token, secs(1000));
            table::render(
                &TOKENS,
                "{{.Expires}}|{{.Uses}}|{{.Status}}",
                false,
                vec![row],
            )
            .unwrap()
        };
        let token = IssuedToken {
            id: "abc".into(),
            expires_at: secs(1000 + 7200),
            ..IssuedToken::default()
        };
        assert_eq!(show(token.clone()), "in 2 hours|0|good\n");
        let counted = IssuedToken {
            expires_at: Timestamp::ZERO,
            uses_max: 2,
            uses: 2,
            ..token.clone()
        };
        assert_eq!(show(counted), "never|2/2|used up\n");
        let over = IssuedToken {
            expires_at: secs(940),
            ..token
        };
        assert_eq!(show(over), "About a minute ago|0|expired\n");
    }
}
