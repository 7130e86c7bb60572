//! Containers from one state to another: `stop`, `kill`, `rm`, `wait`, …

use serde_json::json;

use super::{each, path};
use crate::client::Call;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::session::Session;

async fn halt(session: &Session, args: &Args, how: &str) -> Outcome {
    let signal = args.text("signal");
    let seconds = args
        .int("timeout")
        .map(|seconds| seconds.to_string())
        .unwrap_or_default();
    each(session, args.positionals(), |name| {
        session.client.done(
            Call::post(path(name, how))
                .query_text("signal", signal)
                .query_text("t", &seconds),
        )
    })
    .await
}

pub async fn stop(session: &Session, args: &Args) -> Outcome {
    halt(session, args, "/stop").await
}

pub async fn restart(session: &Session, args: &Args) -> Outcome {
    halt(session, args, "/restart").await
}

pub async fn kill(session: &Session, args: &Args) -> Outcome {
    let signal = args.text("signal");
    each(session, args.positionals(), |name| {
        session
            .client
            .done(Call::post(path(name, "/kill")).query_text("signal", signal))
    })
    .await
}

pub async fn pause(session: &Session, args: &Args) -> Outcome {
    each(session, args.positionals(), |name| {
        session.client.done(Call::post(path(name, "/pause")))
    })
    .await
}

pub async fn unpause(session: &Session, args: &Args) -> Outcome {
    each(session, args.positionals(), |name| {
        session.client.done(Call::post(path(name, "/unpause")))
    })
    .await
}

pub async fn rename(session: &Session, args: &Args) -> Outcome {
    let (old, new) = (args.positional(0).trim(), args.positional(1).trim());
    if old.is_empty() || new.is_empty() {
        return Err(Failure::message(
            "Error: Neither old nor new names may be empty",
        ));
    }
    session
        .client
        .done(Call::post(path(old, "/rename")).query("name", new))
        .await
}

pub async fn remove(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    for given in args.positionals() {
        let name = given.trim_matches('/');
        if name.is_empty() {
            failures.push(Failure::message("container name cannot be empty"));
            continue;
        }
        let call = Call::delete(path(name, ""))
            .query_if("force", args.flag("force"))
            .query_if("link", args.flag("link"))
            .query_if("v", args.flag("volumes"));
        match session.client.done(call).await {
            Ok(()) => session.say(given)?,
            Err(failure) if args.flag("force") && failure.is_not_found() => {
                session.warn(failure.to_string())
            }
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}

pub async fn wait(session: &Session, args: &Args) -> Outcome {
    let mut failures = Vec::new();
    for name in args.positionals() {
        match session.client.json(Call::post(path(name, "/wait"))).await {
            Ok(answer) => session.say(answer.int("StatusCode").to_string())?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}

pub async fn update(session: &Session, args: &Args) -> Outcome {
    let flags = &args.def().flags;
    if !flags.iter().any(|flag| args.given(&flag.long)) {
        return Err(Failure::message(
            "you must provide one or more flags when using this command",
        ));
    }
    let mut body = json!({
        "BlkioWeight": args.uint("blkio-weight").unwrap_or(0),
        "CpusetCpus": args.text("cpuset-cpus"),
        "CpusetMems": args.text("cpuset-mems"),
        "CpuShares": args.int("cpu-shares").unwrap_or(0),
        "CpuPeriod": args.int("cpu-period").unwrap_or(0),
        "CpuQuota": args.int("cpu-quota").unwrap_or(0),
        "CpuRealtimePeriod": args.int("cpu-rt-period").unwrap_or(0),
        "CpuRealtimeRuntime": args.int("cpu-rt-runtime").unwrap_or(0),
        "NanoCpus": args.nano_cpus("cpus").unwrap_or(0),
        "Memory": args.bytes("memory").unwrap_or(0),
        "MemoryReservation": args.bytes("memory-reservation").unwrap_or(0),
        "MemorySwap": args.bytes("memory-swap").unwrap_or(0),
    });
    if let Some(limit) = args.int("pids-limit") {
        body["PidsLimit"] = json!(limit);
    }
    if let Some(policy) = args.maybe("restart") {
        body["RestartPolicy"] = super::config::restart_policy(policy).map_err(Failure::Message)?;
    }
    let mut failures = Vec::new();
    for name in args.positionals() {
        match session
            .client
            .json(Call::post(path(name, "/update")).json(&body))
            .await
        {
            Ok(answer) => {
                session.say(name)?;
                for warning in answer.texts("Warnings") {
                    session.warn(warning);
                }
            }
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}
