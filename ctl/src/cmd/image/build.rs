//! `image build`.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::context::{self, Source};
use crate::client::{Call, JsonLines};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::grammar::{address, environment, ulimit};
use crate::human;
use crate::progress::lines::{Sink, show_stream};
use crate::reference::Reference;
use crate::session::Session;

/// What only BuildKit does.
const UNSUPPORTED: [(&str, &str); 4] = [
    ("output", "build an image, and export or save that"),
    ("secret", "copy what is needed in a stage that is not kept"),
    ("ssh", "clone repositories into the context"),
    (
        "squash",
        "join steps, or copy the result into another stage",
    ),
];

pub async fn run(session: &Session, args: &Args) -> Outcome {
    for (flag, instead) in UNSUPPORTED {
        if args.given(flag) && args.text(flag) != "false" {
            return Err(Failure::message(format!(
                "--{flag} is not supported: {instead}"
            )));
        }
    }
    let quiet = args.flag("quiet");
    for tag in args.list("tag") {
        Reference::required(&tag).map_err(|why| args.invalid("tag", &tag, &why))?;
    }
    let call = call(session, args)?;
    let context = context::prepare(session, args.positional(0), args.text("file"))?;
    let mut call = call.query_text("dockerfile", &context.dockerfile);
    let is_sent = matches!(context.source, Source::Body(_));
    call = match context.source {
        Source::Body(body) => call.body("application/x-tar", body),
        Source::Remote(url) => call.query("remote", url),
    };
    if let Some(file) = args.maybe("iidfile") {
        // One of an earlier build would be taken for this one's.
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::message(format!("removing image ID file: {error}")));
            }
            _ => {}
        }
    }
    let problem = context.problem.clone();
    let answer = session.client.send(call).await.map_err(|failure| {
        let problem = problem.lock().ok().and_then(|mut problem| problem.take());
        match problem {
            Some(why) => Failure::message(format!("unable to prepare context: {why}")),
            None => failure,
        }
    });
    // Also what the daemon does not build has been sent.
    let is_taken = matches!(answer, Ok(_) | Err(Failure::Daemon { .. }));
    if is_sent && is_taken && !quiet {
        let sent = human::size(context.sent.load(Ordering::Relaxed) as f64);
        session.say(format!("Sending build context to Docker daemon {sent:>8}"))?;
    }
    let answer = answer?;
    let mut id = String::new();
    show_stream(session, Sink::Out, JsonLines::of(answer), |aux| {
        if !aux.str("ID").is_empty() {
            aux.str("ID").clone_into(&mut id);
        }
    })
    .await?;
    match args.maybe("iidfile") {
        Some(file) => std::fs::write(file, &id).map_err(|error| {
            Failure::message(format!("failed to write image ID to {file}: {error}"))
        }),
        None => Ok(()),
    }
}

/// The request without its context.
fn call(session: &Session, args: &Args) -> Outcome<Call> {
    let list = |values: Vec<String>| Value::from(values);
    let mut call = Call::post("/build")
        .query("version", "1")
        .query_if("nocache", args.flag("no-cache"))
        .query_if("pull", args.flag("pull"))
        // The id is asked for separately, since a quiet build says nothing else.
        .query_if("q", args.flag("quiet"))
        .query("rm", if args.flag_or("rm", true) { "1" } else { "0" })
        .query_if("forcerm", args.flag("force-rm"))
        .query_text("target", args.text("target"))
        .query_text("platform", args.text("platform"))
        .query_text("networkmode", args.text("network"))
        .query_text("cgroupparent", args.text("cgroup-parent"))
        .query_text("cpusetcpus", args.text("cpuset-cpus"))
        .query_text("cpusetmems", args.text("cpuset-mems"))
        .query_text("isolation", args.text("isolation"))
        .query("buildargs", Value::from_iter(build_args(session, args)?))
        .query("labels", json!(labels(args)?))
        .query("cachefrom", list(args.list("cache-from")))
        .header("X-Registry-Config", session.config.all_auths_header());
    for (flag, name) in [
        ("cpu-period", "cpuperiod"),
        ("cpu-quota", "cpuquota"),
        ("cpu-shares", "cpushares"),
    ] {
        call = call.query(name, args.int(flag).unwrap_or(0));
    }
    for (flag, name) in [
        ("memory", "memory"),
        ("memory-swap", "memswap"),
        ("shm-size", "shmsize"),
    ] {
        call = call.query(name, args.bytes(flag).unwrap_or(0));
    }
    let ulimits = args.each("ulimit", ulimit::parse)?;
    if !ulimits.is_empty() {
        let ulimits: Vec<Value> = ulimits
            .iter()
            .map(|limit| json!({"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard}))
            .collect();
        call = call.query("ulimits", Value::from(ulimits));
    }
    for host in args.each("add-host", address::extra_host)? {
        call = call.query("extrahosts", host);
    }
    for option in args.list("security-opt") {
        call = call.query("securityopt", option);
    }
    for tag in args.list("tag") {
        call = call.query("t", tag);
    }
    Ok(call)
}

/// Names with their values; those without take the client's own, if there is one.
fn build_args(session: &Session, args: &Args) -> Outcome<BTreeMap<String, Value>> {
    let given = args.each("build-arg", |value| {
        environment::variable(value, &session.env)
    })?;
    Ok(given
        .into_iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => (name.to_owned(), Value::from(value)),
            None => (pair, Value::Null),
        })
        .collect())
}

fn labels(args: &Args) -> Outcome<BTreeMap<String, String>> {
    Ok(environment::pairs(args.each("label", environment::label)?))
}
