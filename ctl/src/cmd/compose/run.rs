//! `compose run`: one container of a service, for one command.

use std::hash::{BuildHasher, Hasher, RandomState};

use serde_json::{Value, json};

use super::body::{Making, Peers};
use super::make::{self, Maker};
use super::project::{self, Loaded};
use super::up::{Goal, converge};
use super::{image, observed, rehearsal, tell_container};
use crate::client::Call;
use crate::cmd::container::exit::{self, Exit};
use crate::cmd::container::path;
use crate::cmd::container::run::with_terminal;
use crate::cmd::container::streams::{self, Ended, Streams};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::grammar::{environment, port_spec, words};
use crate::session::Session;

/// A part of a name that nothing else has: twelve digits.
pub fn slug() -> String {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())[..12].to_owned()
}

pub async fn run(session: &Session, args: &Args) -> Outcome {
    rehearsal::refuse(session, "run", "there is no command without a container")?;
    let (key, command) = args
        .positionals()
        .split_first()
        .expect("the arity wants a service");
    let loaded = project::load(session, std::slice::from_ref(key))?;
    let project = &loaded.project;
    let mut images = image::Policy {
        pull: args.text("pull").to_owned(),
        build: args.flag("build"),
        quiet_pull: args.flag("quiet-pull"),
        quiet_build: args.flag("quiet-build"),
        ..image::Policy::default()
    };
    if !args.flag("no-deps") {
        let goal = Goal {
            named: vec![key.clone()],
            deps_only: true,
            remove_orphans: args.flag("remove-orphans"),
            images: images.clone(),
            ..Goal::default()
        };
        converge(session, &loaded, &goal, None).await?;
        await_conditions(session, &loaded, key).await?;
    }
    let keys = [key.clone()];
    images.build = args.flag("build");
    let found = image::ensure(session, &loaded, &keys, &images).await?;
    make::networks(session, project, &keys).await?;
    make::volumes(session, project, &keys).await?;
    let mut peers = Peers::new();
    for one in observed::containers(session, &project.name).await? {
        if !one.oneoff {
            peers
                .entry(one.service)
                .or_default()
                .push((one.name, one.id));
        }
    }
    let name = match args.text("name") {
        "" => loaded.names().oneoff(key, &slug()),
        name => name.to_owned(),
    };
    let (image, id) = found[key].clone();
    let making = Making {
        service: key,
        name: &name,
        number: 1,
        image: (&image, &id),
        oneoff: true,
        has_service_alias: args.flag("use-aliases"),
    };
    let tty = !args.flag("no-tty")
        && args.flag_or("tty", true)
        && session.streams.in_is_terminal
        && session.streams.out_is_terminal;
    let how = How {
        detach: args.flag("detach"),
        tty: tty && !args.flag("detach"),
        input: args.flag_or("interactive", true) && !args.flag("detach"),
    };
    let change = change(session, args, command, &loaded, key, &how)?;
    let maker = Maker {
        session,
        loaded: &loaded,
        images: found,
        peers,
        renews_volumes: false,
        timeout: None,
    };
    let made = maker.create_as(&making, &name, change).await?;
    attach_and_start(session, &made.id, &how, args.flag("rm")).await
}

/// Waits for what the service itself depends on.
async fn await_conditions(session: &Session, loaded: &Loaded, key: &str) -> Outcome {
    let all = observed::containers(session, &loaded.project.name).await?;
    for (name, dependency) in &loaded.project.services[key].depends_on {
        if dependency.condition == skep_compose::Condition::Started {
            continue;
        }
        let needed: Vec<_> = all
            .iter()
            .filter(|one| one.service == *name && !one.oneoff)
            .cloned()
            .collect();
        let came = super::wait::wait_for(session, &needed, dependency.condition, None).await;
        match came {
            Err(why) if dependency.required => {
                return Err(Failure::message(format!(
                    "dependency failed to start: {why}"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

struct How {
    detach: bool,
    tty: bool,
    input: bool,
}

/// What flags change of the service's container.
fn change(
    session: &Session,
    args: &Args,
    command: &[String],
    loaded: &Loaded,
    key: &str,
    how: &How,
) -> Outcome<impl FnOnce(&mut Value) + use<>> {
    let mut variables = Vec::new();
    for file in args.list("env-from-file") {
        variables.extend(environment::file(&file, Some(&session.env)).map_err(Failure::Message)?);
    }
    variables.extend(args.each("env", |value| environment::variable(value, &session.env))?);
    let labels = environment::pairs(args.each("label", environment::label)?);
    let mut bindings = serde_json::Map::new();
    for text in args.list("publish") {
        for mapping in port_spec::parse(&text).map_err(Failure::Message)? {
            let port = format!("{}/{}", mapping.port, mapping.protocol);
            let binding = json!({"HostIp": mapping.host_ip, "HostPort": mapping.host_port});
            match bindings.entry(port).or_insert_with(|| json!([])) {
                Value::Array(list) => list.push(binding),
                other => *other = json!([binding]),
            }
        }
    }
    let binds: Vec<String> = args
        .list("volume")
        .into_iter()
        .map(|volume| bind(&volume, loaded))
        .collect();
    let entrypoint = match args.maybe("entrypoint") {
        None => None,
        Some(text) => {
            Some(words::split(text).map_err(|why| args.invalid("entrypoint", text, &why))?)
        }
    };
    let texts = [("user", "User"), ("workdir", "WorkingDir")];
    let texts: Vec<(&str, String)> = texts
        .into_iter()
        .filter_map(|(flag, field)| Some((field, args.maybe(flag)?.to_owned())))
        .collect();
    let (caps_added, caps_dropped) = (args.list("cap-add"), args.list("cap-drop"));
    let keeps_ports = args.flag("service-ports");
    let removes = args.flag("rm") && how.detach;
    let (tty, input) = (how.tty, how.input);
    let command = command.to_vec();
    let _ = key;
    Ok(move |body: &mut Value| {
        let own: Vec<String> = body["Env"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect();
        body["Env"] = json!(environment::merge(own.into_iter().chain(variables)));
        for (label, value) in labels {
            body["Labels"][label] = json!(value);
        }
        if let Some(entrypoint) = entrypoint {
            body["Entrypoint"] = json!(entrypoint);
            // The service's command belongs to its own entry point.
            body["Cmd"] = json!([]);
        }
        if !command.is_empty() {
            body["Cmd"] = json!(command);
        }
        for (field, value) in texts {
            body[field] = json!(value);
        }
        body["Tty"] = json!(tty);
        body["OpenStdin"] = json!(input);
        body["StdinOnce"] = json!(input);
        let host = &mut body["HostConfig"];
        if !keeps_ports {
            host["PortBindings"] = json!({});
        }
        for (port, binding) in bindings {
            host["PortBindings"][port] = binding;
        }
        let extend = |list: &mut Value, more: Vec<String>| match list {
            Value::Array(list) => list.extend(more.into_iter().map(Value::from)),
            other if !more.is_empty() => *other = json!(more),
            _ => {}
        };
        extend(&mut host["Binds"], binds);
        extend(&mut host["CapAdd"], caps_added);
        extend(&mut host["CapDrop"], caps_dropped);
        host["RestartPolicy"] = json!({"Name": "no"});
        host["AutoRemove"] = json!(removes);
    })
}

/// A volume of the flag: paths from here, and the file's volumes by their full names.
fn bind(text: &str, loaded: &Loaded) -> String {
    match text.split_once(':') {
        Some((source, rest)) if source.starts_with('.') => {
            format!("{}:{rest}", crate::files::absolute(source))
        }
        Some((source, rest)) => match loaded.project.volumes.get(source) {
            Some(volume) => format!("{}:{rest}", volume.name),
            None => text.to_owned(),
        },
        None => text.to_owned(),
    }
}

async fn attach_and_start(session: &Session, id: &str, how: &How, removes: bool) -> Outcome {
    if how.detach {
        session.client.done(Call::post(path(id, "/start"))).await?;
        return session.say(id);
    }
    let streams = Streams {
        tty: how.tty,
        input: how.input,
        output: true,
        detach_keys: streams::detach_keys("").map_err(Failure::Message)?,
    };
    let call = Call::post(path(id, "/attach"))
        .query("stream", "1")
        .query_if("stdin", how.input)
        .query("stdout", "1")
        .query("stderr", "1");
    let stream = session.client.hijack(call).await?;
    let exit = Exit::begin(session, id, "next-exit").await?;
    let started = session.client.done(Call::post(path(id, "/start"))).await;
    let ended = match started {
        Err(failure) => Err(failure),
        Ok(()) => {
            let relayed = async {
                match streams::relay(session, stream, &streams).await? {
                    Ended::Detached => Ok(0),
                    Ended::Closed => exit.status().await,
                }
            };
            with_terminal(session, id, &streams, true, relayed).await
        }
    };
    if removes {
        let call = Call::delete(path(id, ""))
            .query("force", "1")
            .query("v", "1");
        match session.client.done(call).await {
            Err(failure) if !failure.is_not_found() => {
                tell_container(session, id, &format!("Error {failure}"));
            }
            _ => {}
        }
    }
    exit::pass_on(ended?)
}
