//! What is in and around a container: `diff`, `export`, `port`, `top`.

use super::path;
use crate::client::{Call, Chunks};
use crate::cmd::image::archive::write_out;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table;

pub async fn diff(session: &Session, args: &Args) -> Outcome {
    let changes = session
        .client
        .json(Call::get(path(args.positional(0), "/changes")))
        .await?;
    for change in changes.list("") {
        let kind = match change.int("Kind") {
            0 => 'C',
            1 => 'A',
            _ => 'D',
        };
        session.say(format!("{kind} {}", change.str("Path")))?;
    }
    Ok(())
}

pub async fn export(session: &Session, args: &Args) -> Outcome {
    export_of(session, args, args.positional(0)).await
}

/// Writes the files of a container to where `--output` says.
pub async fn export_of(session: &Session, args: &Args, name: &str) -> Outcome {
    let output = args.text("output");
    if output.is_empty() && session.streams.out_is_terminal {
        return Err(Failure::message(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let answer = session
        .client
        .send(Call::get(path(name, "/export")))
        .await?;
    write_out(session, Chunks::of(answer), output).await
}

pub async fn port(session: &Session, args: &Args) -> Outcome {
    let name = args.positional(0);
    let container = session.client.json(Call::get(path(name, "/json"))).await?;
    // Port names have slashes, not points, so that a path leads to them.
    let ports = container.at("NetworkSettings.Ports");
    let mut lines: Vec<String> = Vec::new();
    if let Some(wanted) = args.positionals().get(1) {
        let key = if wanted.contains('/') {
            wanted.clone()
        } else {
            format!("{wanted}/tcp")
        };
        let number = key.split('/').next().unwrap_or("");
        if number.parse::<u16>().is_err() {
            return Err(Failure::message(format!(
                "invalid port format '{wanted}': invalid port '{number}'"
            )));
        }
        lines = ports
            .get(&key)
            .map(|bindings| bindings.list("").iter().map(address).collect())
            .unwrap_or_default();
        if lines.is_empty() {
            return Err(Failure::message(format!(
                "Error: No public port '{wanted}' published for {name}"
            )));
        }
    } else {
        for (port, bindings) in ports.fields("") {
            lines.extend(
                bindings
                    .list("")
                    .iter()
                    .map(|binding| format!("{port} -> {}", address(binding))),
            );
        }
        lines.sort_by(|a, b| human::natural(a, b));
    }
    if lines.is_empty() {
        return Ok(());
    }
    session.say(lines.join("\n"))
}

fn address(binding: &Json) -> String {
    let (ip, port) = (binding.str("HostIp"), binding.str("HostPort"));
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

pub async fn top(session: &Session, args: &Args) -> Outcome {
    let (name, options) = args
        .positionals()
        .split_first()
        .expect("the arity wants a container");
    let call = Call::get(path(name, "/top")).query_text("ps_args", &options.join(" "));
    let processes = session.client.json(call).await?;
    let mut text = processes.texts("Titles").join("\t") + "\n";
    for process in processes.list("Processes") {
        text.push_str(&process.texts("").join("\t"));
        text.push('\n');
    }
    session.print(&table::align_wide(&text))
}
