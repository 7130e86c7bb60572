//! The leader's looks at services that are scaled by themselves, and its questions to Prometheus.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use skep_model::ServiceId;
use skep_model::autoscale::{Target, authority};
use skep_reconcile::autoscale::Scaling;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::clock;
use crate::manager::Core;
use crate::submit::{self, CommitError};

/// Servers are asked this often.
const ASKED_EVERY: Duration = Duration::from_secs(5);
/// A server may take so long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// Bytes of an answer: it has one value.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Questions that are open at once. Of more services the first are asked.
const QUESTIONS_MAX: usize = 64;

/// One look at all of them.
pub async fn look(core: &Arc<Core>, scaling: &mut Scaling) {
    let snapshot = core.machine.store().snapshot();
    let now = clock::now();
    let usages = {
        let mut usages = core.usages.lock().unwrap_or_else(PoisonError::into_inner);
        usages.present(&snapshot, now)
    };
    let Some(commit) = skep_reconcile::autoscale::autoscale(&snapshot, &usages, scaling, now)
    else {
        return;
    };
    match submit::propose(core, &commit).await {
        Ok(()) => {
            let after = core.machine.store().snapshot();
            for service in after.services() {
                let status = service.autoscale.as_ref();
                if let Some(status) = status.filter(|status| status.changed_at == Some(now)) {
                    info!(
                        service = service.spec.name,
                        from = status.from,
                        to = status.to,
                        because = status.because,
                        "scaled"
                    );
                }
            }
        }
        // A service has changed meanwhile: looked at again in a moment.
        Err(CommitError::Conflict { .. }) => (),
        Err(CommitError::Propose(error)) => debug!(%error, "replicas could not be committed"),
    }
}

/// Asks servers for the values of expressions while this manager leads, for as long as it runs.
pub async fn run_questions(core: Arc<Core>) {
    let mut tick = tokio::time::interval(ASKED_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if core.consensus.leadership().borrow().is_me {
            ask_all(&core).await;
        }
    }
}

async fn ask_all(core: &Arc<Core>) {
    let snapshot = core.machine.store().snapshot();
    let mut asked: JoinSet<(ServiceId, Result<f64, String>)> = JoinSet::new();
    let scaled = snapshot.services().filter(|one| one.spec.is_autoscaled());
    for service in scaled {
        let Ok(Some(wanted)) = service.spec.autoscale() else {
            continue;
        };
        for target in wanted.targets {
            let Target::Query { url, query, .. } = target else {
                continue;
            };
            if asked.len() >= QUESTIONS_MAX {
                break;
            }
            let id = service.id.clone();
            asked.spawn(async move {
                let answer = tokio::time::timeout(ANSWER_WITHIN, ask(&url, &query)).await;
                let late = || format!("{url} did not answer within {ANSWER_WITHIN:?}");
                (id, answer.unwrap_or_else(|_| Err(late())))
            });
        }
    }
    while let Some(Ok((service, answer))) = asked.join_next().await {
        match answer {
            Ok(value) => {
                let mut usages = core.usages.lock().unwrap_or_else(PoisonError::into_inner);
                usages.value(&service, value, clock::now());
            }
            // Without a value nothing is scaled down, and nothing up by it.
            Err(error) => warn!(%service, error, "the value to scale by is not known"),
        }
    }
}

/// An instant query.
async fn ask(url: &str, query: &str) -> Result<f64, String> {
    let (authority, path) = authority(url).ok_or("the address is none")?;
    let stream = TcpStream::connect(authority)
        .await
        .map_err(|error| format!("{authority}: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("{authority}: {error}"))?;
    let driver = tokio::spawn(connection);
    let request = Request::get(format!("{path}/api/v1/query?query={}", escaped(query)))
        .header("Host", authority)
        .header("Accept", "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| format!("{authority}: {error}"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        value(status.as_u16(), &body.to_bytes())
    };
    let answer = answer.await;
    driver.abort();
    answer
}

/// Every byte that might mean something in a query string is escaped.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// The one value of an answer: a scalar, or a vector of one.
fn value(status: u16, body: &[u8]) -> Result<f64, String> {
    let answer: Value =
        serde_json::from_slice(body).map_err(|_| format!("status {status}, and no JSON"))?;
    if answer["status"] != "success" {
        let error = answer["error"].as_str().unwrap_or("no reason is given");
        return Err(format!("status {status}: {error}"));
    }
    let (kind, result) = (&answer["data"]["resultType"], &answer["data"]["result"]);
    let sample = match kind.as_str() {
        Some("scalar") => result,
        Some("vector") => match result.as_array().map(Vec::as_slice) {
            Some([one]) => &one["value"],
            Some(many) => return Err(format!("it gives {} values instead of one", many.len())),
            None => return Err("it gives no vector".to_owned()),
        },
        _ => return Err(format!("it gives a {kind} instead of one value")),
    };
    let number = sample[1].as_str().and_then(|text| text.parse::<f64>().ok());
    match number {
        Some(number) if number.is_finite() && number >= 0.0 => Ok(number),
        _ => Err(format!("{} is not a number from 0", sample[1])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_one_value() {
        let read = |body: &str| value(200, body.as_bytes());
        let vector = |values: &str| {
            read(&format!(
                r#"{{"status":"success","data":{{"resultType":"vector","result":[{values}]}}}}"#
            ))
        };
        assert_eq!(vector(r#"{"metric":{},"value":[1.5,"42.5"]}"#), Ok(42.5));
        let scalar = r#"{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}"#;
        assert_eq!(read(scalar), Ok(7.0));
        assert!(vector("").unwrap_err().contains("0 values"));
        assert!(vector(r#"{"value":[1,"1"]},{"value":[1,"2"]}"#).is_err());
        for wrong in ["NaN", "+Inf", "-1", "x"] {
            let one = format!(r#"{{"value":[1,"{wrong}"]}}"#);
            assert!(
                vector(&one).unwrap_err().contains("not a number"),
                "{wrong}"
            );
        }
        let error = value(400, br#"{"status":"error","error":"parse error"}"#);
        assert_eq!(error, Err("status 400: parse error".to_owned()));
        assert!(value(502, b"<html>").unwrap_err().contains("no JSON"));
        let matrix = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        assert!(read(matrix).unwrap_err().contains("matrix"));
    }

    #[test]
    fn expressions_are_escaped() {
        assert_eq!(
            escaped("sum(a{b=\"c\"})&x=1 +2"),
            "sum%28a%7Bb%3D%22c%22%7D%29%26x%3D1%20%2B2"
        );
    }

    #[tokio::test]
    async fn a_server_is_asked_and_one_that_says_nonsense_is_not_believed() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            for body in [
                r#"{"status":"success","data":{"resultType":"scalar","result":[1,"3"]}}"#
                    .to_owned(),
                "x".repeat(ANSWER_BYTES_MAX + 1),
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                assert!(
                    head.starts_with("GET /p/api/v1/query?query=up%7B%7D HTTP/1.1"),
                    "{head}"
                );
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                // It may hang up before it has read too much.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let url = format!("http://{address}/p/");
        assert_eq!(ask(&url, "up{}").await, Ok(3.0));
        assert!(ask(&url, "up{}").await.is_err());
        server.await.unwrap();
        assert!(ask(&url, "up{}").await.is_err(), "nobody is there any more");
    }
}
