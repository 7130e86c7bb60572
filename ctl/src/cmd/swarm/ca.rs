//! `swarm ca`: the root certificate, and its rotation.

use std::time::Duration;

use serde_json::json;

use super::{Rotate, fetch, merge_spec, store};
use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::flags::Args;
use crate::json::Json;
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
    let root = wait(session, args.flag("quiet")).await?;
    show(session, &root)
}

fn show(session: &Session, root: &str) -> Outcome {
    match root.trim() {
        "" => Err(Failure::message("No CA information available")),
        root => session.say(root),
    }
}

fn pem(args: &Args, flag: &str) -> Outcome<String> {
    let Some(path) = args.maybe(flag) else {
        return Ok(String::new());
    };
    let bytes = files::read(path, PEM_BYTES_MAX).map_err(|why| args.invalid(flag, path, &why))?;
    String::from_utf8(bytes)
        .map_err(|_| args.invalid(flag, path, "file contents must be in PEM format"))
}

/// Waits until every node has a certificate of the new root, saying how far it is; the new root.
async fn wait(session: &Session, quiet: bool) -> Outcome<String> {
    let mut said = String::new();
    loop {
        let swarm = session.client.json(Call::get("/swarm")).await?;
        if !swarm.bool("RootRotationInProgress") {
            return Ok(swarm.str("TLSInfo.TrustRoot").to_owned());
        }
        let nodes = session.client.json(Call::get("/nodes")).await?;
        let nodes = nodes.list("");
        let wanted = swarm.at("TLSInfo");
        let count = |field: &str| {
            nodes
                .iter()
                .filter(|node| {
                    let info = node.at("Description.TLSInfo");
                    *info != Json::Null && info.str(field) == wanted.str(field)
                })
                .count()
        };
        let line = format!(
            "rotated TLS certificates: {}/{total} nodes, rotated CA certificates: {}/{total} nodes",
            count("CertIssuerPublicKey"),
            count("TrustRoot"),
            total = nodes.len()
        );
        if !quiet && line != said {
            session.warn(&line);
            said = line;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_PERIOD) => {}
            _ = tokio::signal::ctrl_c() => {
                return Err(Failure::message("Operation continuing in background.\nUse `skep swarm ca` to check progress."));
            }
        }
    }
}
