//! `swarm ca`: the root certificate, and its rotation.

use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Rotate, fetch, merge_spec, store};
use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::flags::Args;
use crate::json::Json;
use crate::progress::lines::{Amount, Line, Lines, Sink};
use crate::session::Session;

/// How often a rotation is looked at.
const POLL_PERIOD: Duration = Duration::from_millis(200);
/// A certificate or key file is smaller than this.
const PEM_BYTES_MAX: u64 = 1 << 20;

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let cert = pem(args, "ca-cert")?;
    let key = pem(args, "ca-key")?;
    let mut swarm = fetch(session).await?;
    if !args.flag("rotate") {
        for flag in ["ca-cert", "ca-key", "cert-expiry", "external-ca"] {
            if args.given(flag) {
                return Err(Failure::message(format!(
                    "`--{flag}` flag requires the `--rotate` flag to update the CA"
                )));
            }
        }
        return show(
            session,
            swarm["TLSInfo"]["TrustRoot"].as_str().unwrap_or(""),
        );
    }
    let external = !args.list("external-ca").is_empty();
    if external && !args.given("ca-cert") {
        return Err(Failure::message(
            "rotating to an external CA requires the `--ca-cert` flag to specify the external CA's cert - to add an external CA with the current root CA certificate, use the `update` command instead",
        ));
    }
    if args.given("ca-cert") && !external && !args.given("ca-key") {
        return Err(Failure::message(
            "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well",
        ));
    }
    let spec = &mut swarm["Spec"];
    merge_spec(spec, args, &cert)?;
    if cert.is_empty() && key.is_empty() {
        let count = spec["CAConfig"]["ForceRotate"].as_u64().unwrap_or(0) + 1;
        spec["CAConfig"]["ForceRotate"] = json!(count);
    }
    spec["CAConfig"]["SigningCACert"] = json!(cert);
    spec["CAConfig"]["SigningCAKey"] = json!(key);
    store(session, &swarm, Rotate::default()).await?;
    if args.flag("detach") {
        return Ok(());
    }
    let quiet = args.flag("quiet");
    wait(session, quiet).await?;
    if quiet {
        return Ok(());
    }
    let swarm = session.client.json(Call::get("/swarm")).await?;
    show(session, swarm.str("TLSInfo.TrustRoot"))
}

fn show(session: &Session, root: &str) -> Outcome {
    match root.trim() {
        "" => Err(Failure::message("No CA information available")),
        root => session.say(root),
    }
}

pub fn pem(args: &Args, flag: &str) -> Outcome<String> {
    let Some(path) = args.maybe(flag) else {
        return Ok(String::new());
    };
    let bytes = files::read(path, PEM_BYTES_MAX).map_err(|why| args.invalid(flag, path, &why))?;
    String::from_utf8(bytes)
        .map_err(|_| args.invalid(flag, path, "file contents must be in PEM format"))
}

/// The ids of the lines of progress, aligned as docker's are.
const DIGEST: &str = "desired root digest";
const CERTIFICATES: &str = "  rotated TLS certificates";
const ROOTS: &str = "  rotated CA certificates";

/// Waits until every node has a certificate of the new root and trusts it alone, saying how far it is.
async fn wait(session: &Session, quiet: bool) -> Outcome {
    let mut lines = Lines::new(session, Sink::Out);
    let mut say = |id: &str, text: String, progress: Option<Amount>| {
        let line = Line {
            id: id.to_owned(),
            text,
            progress: Some(progress.unwrap_or_default()),
            replaces: true,
        };
        if quiet { Ok(()) } else { lines.write(&line) }
    };
    say(DIGEST, String::new(), None)?;
    say(CERTIFICATES, String::new(), None)?;
    say(ROOTS, " ".to_owned(), None)?;
    loop {
        let swarm = session.client.json(Call::get("/swarm")).await?;
        let nodes = session.client.json(Call::get("/nodes")).await?;
        let view = Convergence::of(&swarm, &nodes);
        say(DIGEST, view.digest.clone(), None)?;
        say(
            CERTIFICATES,
            String::new(),
            Some(view.amount(view.certificates)),
        )?;
        say(ROOTS, " ".to_owned(), Some(view.amount(view.roots)))?;
        if view.is_done() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_PERIOD) => {}
            _ = tokio::signal::ctrl_c() => {
                if !quiet {
                    session.say("Operation continuing in background.")?;
                    session.say("Use `skep info` to check progress.")?;
                }
                return Ok(());
            }
        }
    }
}

/// How far a rotation of the root is.
#[derive(Debug, PartialEq, Eq)]
struct Convergence {
    digest: String,
    nodes: usize,
    /// Nodes with certificates of the issuer that is wanted.
    certificates: usize,
    /// Nodes that trust the root alone; none before all have certificates of it.
    roots: usize,
    in_progress: bool,
}

impl Convergence {
    fn of(swarm: &Json, nodes: &Json) -> Self {
        let (nodes, wanted) = (nodes.list(""), swarm.at("TLSInfo"));
        let count = |fields: &[&str]| {
            let agrees = |node: &&Json| {
                let info = node.at("Description.TLSInfo");
                fields
                    .iter()
                    .all(|field| info.str(field) == wanted.str(field))
            };
            nodes.iter().filter(agrees).count()
        };
        let in_progress = swarm.bool("RootRotationInProgress");
        let certificates = count(&["CertIssuerPublicKey", "CertIssuerSubject"]);
        Self {
            digest: format!(
                "sha256:{}",
                hex::encode(Sha256::digest(wanted.str("TrustRoot")))
            ),
            nodes: nodes.len(),
            certificates,
            roots: match certificates == nodes.len() && !in_progress {
                true => count(&["TrustRoot"]),
                false => 0,
            },
            in_progress,
        }
    }

    fn amount(&self, current: usize) -> Amount {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        Amount {
            current: number(current),
            total: number(self.nodes),
            hides_counts: false,
            unit: "nodes".to_owned(),
        }
    }

    fn is_done(&self) -> bool {
        !self.in_progress && self.certificates == self.nodes && self.roots == self.nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_is_done_when_all_nodes_have_the_certificate_and_the_root() {
        let info = |root: &str, key: &str| json!({"TrustRoot": root, "CertIssuerPublicKey": key, "CertIssuerSubject": "s"});
        let nodes = |infos: &[(&str, &str)]| {
            let nodes: Vec<_> = infos
                .iter()
                .map(|(root, key)| json!({"Description": {"TLSInfo": info(root, key)}}))
                .collect();
            Json::parse(json!(nodes).to_string().as_bytes()).unwrap()
        };
        let view = |in_progress: bool, root: &str, infos: &[(&str, &str)]| {
            let swarm = json!({"TLSInfo": info(root, "B"), "RootRotationInProgress": in_progress});
            let swarm = Json::parse(swarm.to_string().as_bytes()).unwrap();
            let view = Convergence::of(&swarm, &nodes(infos));
            (view.certificates, view.roots, view.is_done())
        };
        assert_eq!(view(true, "a", &[("a", "A"), ("a", "B")]), (1, 0, false));
        assert_eq!(view(true, "a", &[("a", "B"), ("a", "B")]), (2, 0, false));
        assert_eq!(view(false, "b", &[("a", "B"), ("b", "B")]), (2, 1, false));
        assert_eq!(view(false, "b", &[("b", "B"), ("b", "B")]), (2, 2, true));
    }
}
