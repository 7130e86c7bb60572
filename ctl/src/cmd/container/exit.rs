//! How a container ended, as the client's exit status.

use std::pin::Pin;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;

use super::path;
use crate::client::{Call, collect};
use crate::failure::{Failure, Outcome, status};
use crate::json::Json;
use crate::session::Session;

/// How long the daemon may take to say that it waits. A slower one is believed to.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(2);

type Answer<'a> = Pin<Box<dyn Future<Output = Outcome<Response<Incoming>>> + 'a>>;

/// A wait that began before the container was started, so that no exit is missed.
pub struct Exit<'a>(Waiting<'a>);

enum Waiting<'a> {
    Answered(Response<Incoming>),
    Asked(Answer<'a>),
}

impl<'a> Exit<'a> {
    /// Begins to wait. `condition` is `next-exit`, `removed` or `not-running`.
    pub async fn begin(session: &'a Session, container: &str, condition: &str) -> Outcome<Self> {
        let call = Call::post(path(container, "/wait")).query("condition", condition);
        let mut answer: Answer<'a> = Box::pin(session.client.send(call));
        match tokio::time::timeout(BEGIN_TIMEOUT, &mut answer).await {
            Ok(answer) => Ok(Self(Waiting::Answered(answer?))),
            Err(_) => Ok(Self(Waiting::Asked(answer))),
        }
    }

    /// The status the container ended with.
    pub async fn status(self) -> Outcome<i64> {
        let answer = match self.0 {
            Waiting::Answered(answer) => answer,
            Waiting::Asked(answer) => answer.await?,
        };
        let body = collect(answer.into_body()).await?;
        let answer = Json::parse(&body)
            .map_err(|error| Failure::message(format!("error waiting for container: {error}")))?;
        match answer.str("Error.Message") {
            "" => Ok(answer.int("StatusCode")),
            why => Err(Failure::Exit {
                status: status::USAGE,
                message: format!("error waiting for container: {why}"),
            }),
        }
    }
}

/// A container's exit status as ours.
pub fn pass_on(code: i64) -> Outcome {
    match u8::try_from(code & 0xff).unwrap_or(status::FAILED) {
        0 => Ok(()),
        code => Err(Failure::exit(code)),
    }
}

/// Why a container did not start, as shells say it with their status.
pub fn start_status(message: &str) -> u8 {
    let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    if says(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file specified",
    ]) {
        status::NOT_FOUND
    } else if says(&["permission denied", "is a directory", "exec format error"]) {
        status::NOT_EXECUTABLE
    } else {
        status::USAGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_a_shells() {
        assert_eq!(
            start_status("exec: \"x\": executable file not found in $PATH"),
            127
        );
        assert_eq!(start_status("exec: \"/\": is a directory"), 126);
        assert_eq!(start_status("port is already allocated"), 125);
        assert!(pass_on(0).is_ok());
        assert_eq!(pass_on(137).unwrap_err().status(), 137);
    }
}
