//! `image pull` and `image push`.

use crate::client::{Call, JsonLines, segment};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::progress::lines::{Sink, show_stream};
use crate::reference::Reference;
use crate::session::Session;

pub async fn pull(session: &Session, args: &Args) -> Outcome {
    let reference = Reference::required(args.positional(0)).map_err(Failure::Message)?;
    let all = args.flag("all-tags");
    if all && (reference.tag.is_some() || reference.digest.is_some()) {
        return Err(Failure::message("tag can't be used with --all-tags/-a"));
    }
    let quiet = args.flag("quiet");
    let reference = if all {
        reference
    } else {
        let untagged = reference.tag.is_none() && reference.digest.is_none();
        if untagged && !quiet {
            session.say("Using default tag: latest")?;
        }
        reference.with_default_tag()
    };
    fetch(
        session,
        &reference,
        args.text("platform"),
        (!quiet).then_some(Sink::Out),
    )
    .await?;
    session.say(full_name(&reference))
}

/// Pulls an image; its progress goes to `sink`.
pub async fn fetch(
    session: &Session,
    reference: &Reference,
    platform: &str,
    sink: Option<Sink>,
) -> Outcome {
    let tag = reference
        .digest
        .as_deref()
        .or(reference.tag.as_deref())
        .unwrap_or("");
    let name = full_name(&Reference {
        tag: None,
        digest: None,
        ..reference.clone()
    });
    let call = Call::post("/images/create")
        .query("fromImage", &name)
        .query_text("tag", tag)
        .query_text("platform", platform)
        .header(
            "X-Registry-Auth",
            session.config.auth_header(&reference.to_string()),
        );
    let stream = JsonLines::of(session.client.send(call).await?);
    match sink {
        Some(sink) => show_stream(session, sink, stream, |_| {}).await,
        None => drain(stream).await,
    }
}

/// Waits for the end of a stream; the error that it reports, if it does.
pub async fn drain(mut stream: JsonLines) -> Outcome {
    while let Some(message) = stream.next().await? {
        if !message.str("error").is_empty() {
            return Err(Failure::message(message.str("error")));
        }
    }
    Ok(())
}

/// With the registry and path that short names leave out.
pub fn full_name(reference: &Reference) -> String {
    let has_host = reference
        .name
        .split_once('/')
        .is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost");
    if has_host {
        reference.to_string()
    } else if reference.name.contains('/') {
        format!("docker.io/{reference}")
    } else {
        format!("docker.io/library/{reference}")
    }
}

pub async fn push(session: &Session, args: &Args) -> Outcome {
    let reference = Reference::required(args.positional(0)).map_err(Failure::Message)?;
    let all = args.flag("all-tags");
    if all && reference.tag.is_some() {
        return Err(Failure::message("tag can't be used with --all-tags/-a"));
    }
    if reference.digest.is_some() {
        return Err(Failure::message("cannot push a digest reference"));
    }
    let quiet = args.flag("quiet");
    let reference = if all {
        reference
    } else {
        if reference.tag.is_none() && !quiet {
            session.say("Using default tag: latest")?;
        }
        reference.with_default_tag()
    };
    let auth = session.config.auth_header(&reference.to_string());
    let call = Call::post(format!("/images/{}/push", segment(&reference.name)))
        .query_text("tag", reference.tag.as_deref().unwrap_or(""))
        .query_text("platform", &super::platform_query(args.text("platform"))?)
        .header("X-Registry-Auth", auth);
    let stream = JsonLines::of(session.client.send(call).await?);
    if quiet {
        drain(stream).await?;
        return session.say(full_name(&reference));
    }
    show_stream(session, Sink::Out, stream, |_| {}).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_registry() {
        let of = |text: &str| full_name(&Reference::parse(text).unwrap().with_default_tag());
        assert_eq!(of("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(of("me/app:1"), "docker.io/me/app:1");
        assert_eq!(of("host:5000/app:1"), "host:5000/app:1");
    }
}
