//! `compose build`.

use std::collections::BTreeMap;

use serde_json::json;

use super::project::{self, Loaded};
use super::{order, push, rehearsal, tell, tell_line};
use crate::client::{Call, JsonLines};
use crate::cmd::image::context::{self, Source};
use crate::cmd::image::transfer::drain;
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::grammar::environment;
use crate::progress::lines::{Sink, show_stream};
use crate::session::Session;

/// What flags say about builds, beside what the file says.
#[derive(Debug, Clone, Default)]
pub struct How {
    pub no_cache: bool,
    pub pull: bool,
    pub quiet: bool,
    pub args: BTreeMap<String, Option<String>>,
    /// Bytes.
    pub memory: i64,
}

pub async fn run(session: &Session, args: &Args) -> Outcome {
    for (flag, instead) in [
        ("ssh", "clone repositories into the context"),
        ("check", "build it"),
        ("print", "build it"),
        ("builder", "the daemon builds"),
        ("provenance", "builds are not attested"),
        ("sbom", "builds are not attested"),
    ] {
        if args.given(flag) && args.text(flag) != "false" {
            return Err(Failure::message(format!(
                "--{flag} is not supported: {instead}"
            )));
        }
    }
    let named = args.positionals();
    let loaded = project::load(session, named)?;
    let with = args.flag("with-dependencies");
    let wanted = order::wanted(&loaded.project, named, !with)?;
    let given = args.each("build-arg", |value| {
        environment::variable(value, &session.env)
    })?;
    let how = How {
        no_cache: args.flag("no-cache"),
        pull: args.flag("pull"),
        quiet: args.flag("quiet") || args.text("progress") == "quiet",
        args: given
            .into_iter()
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (pair, None),
            })
            .collect(),
        memory: args.bytes("memory").unwrap_or(0),
    };
    let mut built = 0;
    for key in order::sorted(&loaded.project, &wanted) {
        if loaded.project.services[&key].build.is_some() {
            one(session, &loaded, &key, &how).await?;
            built += 1;
            if args.flag("push") {
                let service = &loaded.project.services[&key];
                push::of_service(session, &key, service, how.quiet).await?;
            }
        }
    }
    if built == 0 {
        session.warn("No services to build");
    }
    Ok(())
}

/// Builds the image of a service that says how.
pub async fn one(session: &Session, loaded: &Loaded, key: &str, how: &How) -> Outcome {
    let project = &loaded.project;
    let service = &project.services[key];
    let Some(build) = &service.build else {
        return Ok(());
    };
    let image = loaded.names().image(key, service);
    tell(session, "Service", key, "Building");
    if rehearsal::is_on(session) {
        for name in [&image].into_iter().chain(&build.tags) {
            tell_line(session, key, &format!("==> naming to {name}"));
        }
        tell(session, "Service", key, "Built");
        return Ok(());
    }
    // The daemon gets a Dockerfile from the file itself under a name of its own.
    let inline = match &build.dockerfile_inline {
        None => None,
        Some(text) => Some(Inline::write(text)?),
    };
    let file = match (&inline, build.dockerfile.as_str()) {
        (Some(inline), _) => inline.path.clone(),
        (None, "") => String::new(),
        (None, path) if path.starts_with('/') || build.context.contains("://") => path.to_owned(),
        (None, path) => format!("{}/{path}", build.context.trim_end_matches('/')),
    };
    let context = context::prepare(session, &build.context, &file)?;
    let mut arguments = build.args.clone();
    arguments.extend(how.args.clone());
    let mut labels = build.labels.clone();
    for (label, value) in [
        (super::labels::PROJECT, project.name.as_str()),
        (super::labels::SERVICE, key),
        (super::labels::VERSION, env!("CARGO_PKG_VERSION")),
    ] {
        labels.insert(label.to_owned(), value.to_owned());
    }
    let mut call = Call::post("/build")
        .query("version", "1")
        .query("t", &image)
        .query("rm", "1")
        .query_if("nocache", how.no_cache || build.no_cache)
        .query_if("pull", how.pull || build.pull)
        .query_if("q", how.quiet)
        .query_text("target", &build.target)
        .query_text("networkmode", &build.network)
        .query_text("platform", &service.platform)
        .query("buildargs", json!(arguments))
        .query("labels", json!(labels))
        .query("memory", how.memory)
        .query("shmsize", build.shm_size)
        .query_text("dockerfile", &context.dockerfile)
        .header("X-Registry-Config", session.config.all_auths_header());
    for host in &build.extra_hosts {
        call = call.query("extrahosts", host);
    }
    for tag in &build.tags {
        call = call.query("t", tag);
    }
    call = match context.source {
        Source::Body(body) => call.body("application/x-tar", body),
        Source::Remote(url) => call.query("remote", url),
    };
    let problem = context.problem.clone();
    let answer = session.client.send(call).await.map_err(|failure| {
        let problem = problem.lock().ok().and_then(|mut problem| problem.take());
        match problem {
            Some(why) => Failure::message(format!("unable to prepare context: {why}")),
            None => failure,
        }
    })?;
    let stream = JsonLines::of(answer);
    if how.quiet {
        drain(stream).await?;
    } else {
        show_stream(session, Sink::Err, stream, |_| {}).await?;
    }
    tell(session, "Service", key, "Built");
    Ok(())
}

/// A Dockerfile out of a compose file, on disk for as long as it is wanted.
struct Inline {
    path: String,
}

impl Inline {
    fn write(text: &str) -> Outcome<Self> {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("compose-dockerfile-{}", super::run::slug()));
        std::fs::write(&path, text).map_err(|error| {
            Failure::message(format!("cannot write {}: {error}", path.display()))
        })?;
        Ok(Self {
            path: path.display().to_string(),
        })
    }
}

impl Drop for Inline {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
