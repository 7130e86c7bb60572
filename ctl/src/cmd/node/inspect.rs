//! `node inspect`.

use super::ls::title;
use super::resolve_self;
use crate::client::{Call, segment};
use crate::cmd::{inspect, zero};
use crate::failure::Outcome;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let pretty = args.flag("pretty");
    let fetch = |name: String| async move {
        let name = resolve_self(session, &name).await?;
        session
            .client
            .text(Call::get(format!("/nodes/{}", segment(&name))))
            .await
    };
    if pretty {
        inspect::pretty(session, args.positionals(), fetch, pretty_text).await
    } else {
        inspect::each_filled(
            session,
            args.text("format"),
            args.positionals(),
            fetch,
            zero::NODE,
        )
        .await
    }
}

fn pretty_text(node: &Json) -> String {
    let mut text = format!("ID:\t\t\t{}\n", node.str("ID"));
    let line =
        |text: &mut String, label: &str, value: &str| text.push_str(&format!("{label}{value}\n"));
    if !node.str("Spec.Name").is_empty() {
        line(&mut text, "Name:\t\t\t", node.str("Spec.Name"));
    }
    labels(&mut text, "Labels:\n", node, "Spec.Labels");
    line(
        &mut text,
        "Hostname:              \t",
        node.str("Description.Hostname"),
    );
    line(
        &mut text,
        "Joined at:             \t",
        &inspect::time(node.str("CreatedAt")),
    );
    text.push_str("Status:\n");
    line(&mut text, " State:\t\t\t", &title(node.str("Status.State")));
    if !node.str("Status.Message").is_empty() {
        line(
            &mut text,
            " Message:              \t",
            &title(node.str("Status.Message")),
        );
    }
    line(
        &mut text,
        " Availability:         \t",
        &title(node.str("Spec.Availability")),
    );
    if !node.str("Status.Addr").is_empty() {
        line(&mut text, " Address:\t\t", node.str("Status.Addr"));
    }
    let problems = node.list("Description.NetworkProblems");
    if !problems.is_empty() {
        text.push_str("Network Problems:\n");
        for problem in problems {
            let whereabouts = [problem.str("Network"), problem.str("Peer")];
            let whereabouts: Vec<&str> = whereabouts
                .into_iter()
                .filter(|word| !word.is_empty())
                .collect();
            let place = whereabouts.join(" to ");
            let separator = if place.is_empty() { "" } else { ": " };
            line(
                &mut text,
                " ",
                &format!("{place}{separator}{}", problem.str("Message")),
            );
        }
    }
    if node
        .get("ManagerStatus")
        .is_some_and(|status| *status != Json::Null)
    {
        text.push_str("Manager Status:\n");
        line(&mut text, " Address:\t\t", node.str("ManagerStatus.Addr"));
        line(
            &mut text,
            " Raft Status:\t\t",
            &title(node.str("ManagerStatus.Reachability")),
        );
        let leader = if node.bool("ManagerStatus.Leader") {
            "Yes"
        } else {
            "No"
        };
        line(&mut text, " Leader:\t\t", leader);
    }
    text.push_str("Platform:\n");
    line(
        &mut text,
        " Operating System:\t",
        node.str("Description.Platform.OS"),
    );
    line(
        &mut text,
        " Architecture:\t\t",
        node.str("Description.Platform.Architecture"),
    );
    text.push_str("Resources:\n");
    let cpus = node.int("Description.Resources.NanoCPUs") / 1_000_000_000;
    line(&mut text, " CPUs:\t\t\t", &cpus.to_string());
    let memory = human::size_binary(node.float("Description.Resources.MemoryBytes"));
    line(&mut text, " Memory:\t\t", &memory);
    plugins(&mut text, node);
    line(
        &mut text,
        "Engine Version:\t\t",
        node.str("Description.Engine.EngineVersion"),
    );
    labels(
        &mut text,
        "Engine Labels:\n",
        node,
        "Description.Engine.Labels",
    );
    let tls = node.at("Description.TLSInfo");
    if !tls.str("TrustRoot").is_empty() {
        text.push_str(&format!(
            "TLS Info:\n TrustRoot:\n{}\n",
            tls.str("TrustRoot")
        ));
        line(
            &mut text,
            " Issuer Subject:\t",
            tls.str("CertIssuerSubject"),
        );
        line(
            &mut text,
            " Issuer Public Key:\t",
            tls.str("CertIssuerPublicKey"),
        );
    }
    // The printer ends the last line.
    text.trim_end_matches('\n').to_owned()
}

fn labels(text: &mut String, heading: &str, node: &Json, path: &str) {
    let labels = node.text_map(path);
    if labels.is_empty() {
        return;
    }
    text.push_str(heading);
    for (key, value) in labels {
        let equals = if value.is_empty() { "" } else { "=" };
        text.push_str(&format!(" - {key}{equals}{value}\n"));
    }
}

fn plugins(text: &mut String, node: &Json) {
    let mut kinds: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for plugin in node.list("Description.Engine.Plugins") {
        kinds
            .entry(plugin.str("Type"))
            .or_default()
            .push(plugin.str("Name"));
    }
    if kinds.is_empty() {
        return;
    }
    text.push_str("Plugins:\n");
    for (kind, names) in kinds {
        text.push_str(&format!(" {kind}:\t\t{}\n", names.join(", ")));
    }
}
