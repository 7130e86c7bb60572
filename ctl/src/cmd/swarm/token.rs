//! Join tokens and the unlock key.

use serde_json::json;

use super::{Rotate, fetch, store};
use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;
use crate::tty;

pub async fn join_token(session: &Session, args: &Args) -> Outcome {
    let role = args.positional(0);
    let (worker, manager) = (role == "worker", role == "manager");
    if !worker && !manager {
        return Err(Failure::message(format!("unknown role {role}")));
    }
    let quiet = args.flag("quiet");
    if args.given("expires") || args.given("uses") {
        return super::issued::create(session, args, role).await;
    }
    if args.flag("rotate") {
        let swarm = fetch(session).await?;
        let rotate = Rotate {
            worker_token: worker,
            manager_token: manager,
            ..Rotate::default()
        };
        store(session, &swarm, rotate).await?;
        if !quiet {
            session.say(format!("Successfully rotated {role} join token.\n"))?;
        }
    }
    if quiet {
        let swarm = session.client.json(Call::get("/swarm")).await?;
        return session.say(swarm.str(if worker {
            "JoinTokens.Worker"
        } else {
            "JoinTokens.Manager"
        }));
    }
    let info = session.client.json(Call::get("/info")).await?;
    print_join_command(session, info.str("Swarm.NodeID"), worker, manager).await
}

/// What to run on a node that is to join.
pub async fn print_join_command(
    session: &Session,
    node: &str,
    worker: bool,
    manager: bool,
) -> Outcome {
    let Some(address) = manager_address(session, node).await? else {
        return Ok(());
    };
    let swarm = session.client.json(Call::get("/swarm")).await?;
    for (wanted, role, token) in [
        (worker, "worker", swarm.str("JoinTokens.Worker")),
        (manager, "manager", swarm.str("JoinTokens.Manager")),
    ] {
        if wanted {
            say_join_command(session, role, token, &address)?;
        }
    }
    Ok(())
}

/// Where a node is joined through; `None` when it is no manager.
pub async fn manager_address(session: &Session, node: &str) -> Outcome<Option<String>> {
    let call = Call::get(format!("/nodes/{}", segment(node)));
    let node = session.client.json(call).await?;
    let manages = node.get("ManagerStatus").is_some();
    Ok(manages.then(|| node.str("ManagerStatus.Addr").to_owned()))
}

/// What to run on a node that is to join as `role`.
pub fn say_join_command(session: &Session, role: &str, token: &str, address: &str) -> Outcome {
    session.say(format!(
        "To add a {role} to this swarm, run the following command:\n\n    skep swarm join --token {token} {address}\n"
    ))
}

pub async fn unlock_key(session: &Session, args: &Args) -> Outcome {
    let quiet = args.flag("quiet");
    if args.flag("rotate") {
        let swarm = fetch(session).await?;
        if swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"] != json!(true) {
            return Err(Failure::message(
                "cannot rotate because autolock is not turned on",
            ));
        }
        store(
            session,
            &swarm,
            Rotate {
                unlock_key: true,
                ..Rotate::default()
            },
        )
        .await?;
        if !quiet {
            session.say("Successfully rotated manager unlock key.\n")?;
        }
    }
    let key = fetch_unlock_key(session).await?;
    if key.is_empty() {
        return Err(Failure::message("no unlock key is set"));
    }
    if quiet {
        session.say(key)
    } else {
        print_unlock_command(session, &key)
    }
}

pub async fn fetch_unlock_key(session: &Session) -> Outcome<String> {
    let answer = session.client.json(Call::get("/swarm/unlockkey")).await?;
    Ok(answer.str("UnlockKey").to_owned())
}

/// How a manager is unlocked, and with which key.
pub fn print_unlock_command(session: &Session, key: &str) -> Outcome {
    session.say(format!(
        "To unlock a swarm manager after it restarts, run the `skep swarm unlock`\ncommand and provide the following key:\n\n    {key}\n\nRemember to store this key in a password manager, since without it you\nwill not be able to restart the manager."
    ))
}

pub async fn unlock(session: &Session, _: &Args) -> Outcome {
    let info = session.client.json(Call::get("/info")).await?;
    match info.str("Swarm.LocalNodeState") {
        "locked" => {}
        "inactive" => return Err(Failure::message("Error: This node is not part of a swarm")),
        _ => return Err(Failure::message("Error: swarm is not locked")),
    }
    let key = if session.streams.in_is_terminal {
        session.print("Enter unlock key: ")?;
        let silent = tty::no_echo()?;
        let key = session.read_line();
        drop(silent);
        session.say("")?;
        key?
    } else {
        session.read_line()?
    };
    session
        .client
        .done(Call::post("/swarm/unlock").json(&json!({"UnlockKey": key.trim()})))
        .await
}
