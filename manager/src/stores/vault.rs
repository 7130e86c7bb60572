//! Stores that are Vaults: the key-value engine, version 2, over HTTP.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Map, Value};
use skep_model::limits::SECRET_BYTES_MAX;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use super::http;
use super::option::VaultSource;
use super::question::{Field, VaultQuestion};
use super::words::first_line;

/// Bytes of the longest token.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// Asks a vault.
///
/// # Errors
/// Why there is no answer. Nothing of the secret is in it.
pub async fn ask(
    source: &VaultSource,
    question: &VaultQuestion,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut headers = vec![
        ("x-vault-token", token(source).await?),
        ("x-vault-request", HeaderValue::from_static("true")),
    ];
    if let Some(namespace) = &source.namespace {
        let value = HeaderValue::from_str(namespace).map_err(|error| error.to_string())?;
        headers.push(("x-vault-namespace", value));
    }
    let uri = uri(&source.address, question)?;
    let (status, body) = http::get(&uri, &headers, source.ca_file.as_deref()).await?;
    read(status, &body, question)
}

async fn token(source: &VaultSource) -> Result<HeaderValue, String> {
    let shown = source.token_file.display();
    let wrong = |why: String| format!("token-file {shown}: {why}");
    let file = tokio::fs::File::open(&source.token_file).await;
    let file = file.map_err(|error| wrong(error.to_string()))?;
    let mut text = Zeroizing::new(String::new());
    let read = file.take(TOKEN_BYTES_MAX).read_to_string(&mut text).await;
    read.map_err(|error| wrong(error.to_string()))?;
    let token = text.trim();
    let mut value = HeaderValue::from_str(token)
        .ok()
        .filter(|_| !token.is_empty())
        .ok_or_else(|| wrong("there is no token in it".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `{address}/v1/{mount}/data/{path}?version=N`
fn uri(address: &Uri, question: &VaultQuestion) -> Result<Uri, String> {
    let scheme = address.scheme_str().unwrap_or("https");
    let host = address.authority().map_or("", |it| it.as_str());
    let base = address.path().trim_end_matches('/');
    let mut text = format!(
        "{scheme}://{host}{base}/v1/{}/data/{}",
        encoded(&question.mount),
        encoded(&question.path)
    );
    if let Some(version) = question.version {
        text.push_str(&format!("?version={version}"));
    }
    text.parse()
        .map_err(|error: hyper::http::uri::InvalidUri| error.to_string())
}

/// A path whose parts may have any characters.
fn encoded(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                text.push(char::from(byte));
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    data: Option<Kept>,
    errors: Option<Vec<String>>,
}

/// A version, which has no data once it was deleted.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Kept {
    data: Option<Map<String, Value>>,
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    version: u64,
    destroyed: bool,
    deletion_time: String,
}

/// What of an answer was asked for.
fn read(status: u16, body: &[u8], question: &VaultQuestion) -> Result<Zeroizing<Vec<u8>>, String> {
    let place = format!("{}/{}", question.mount, question.path);
    let answer = serde_json::from_slice::<Answer>(body);
    if status != 200 {
        return Err(refusal(status, answer.unwrap_or_default(), &place));
    }
    let kept = answer.ok().and_then(|answer| answer.data);
    let data = kept.and_then(|kept| kept.data).ok_or_else(|| {
        format!("{place}: the answer is not that of a key-value engine of version 2")
    })?;
    let bytes = wanted(data, question, &place)?;
    match bytes.len() {
        0 => Err(format!("{place}: what is there is empty")),
        count if count >= SECRET_BYTES_MAX => Err(format!(
            "{place}: what is there has {count} bytes: secrets have less than {SECRET_BYTES_MAX}"
        )),
        _ => Ok(bytes),
    }
}

fn wanted(
    mut data: Map<String, Value>,
    question: &VaultQuestion,
    place: &str,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let name = match &question.field {
        Field::All => {
            let whole = serde_json::to_vec(&data);
            return whole.map(Zeroizing::new).map_err(|error| error.to_string());
        }
        Field::One(name) => name,
    };
    let bytes = match data.remove(name) {
        None | Some(Value::Null) => return Err(format!("{place} has no field {name:?}")),
        Some(Value::String(text)) => text.into_bytes(),
        Some(other) => other.to_string().into_bytes(),
    };
    let bytes = Zeroizing::new(bytes);
    if !question.is_base64 {
        return Ok(bytes);
    }
    let packed = bytes.iter().copied().filter(|it| !it.is_ascii_whitespace());
    let packed: Zeroizing<Vec<u8>> = Zeroizing::new(packed.collect());
    STANDARD
        .decode(&*packed)
        .map(Zeroizing::new)
        .map_err(|_| format!("field {name:?} of {place} is no base64"))
}

fn refusal(status: u16, answer: Answer, place: &str) -> String {
    let errors = answer.errors.unwrap_or_default().join(", ");
    let errors: Vec<&str> = errors.split_whitespace().collect();
    let words = match first_line(errors.join(" ").as_bytes()) {
        words if words.is_empty() => String::new(),
        words => format!(": {words}"),
    };
    match (status, answer.data) {
        (404, Some(kept)) if kept.metadata.destroyed => {
            format!("version {} of {place} was destroyed", kept.metadata.version)
        }
        (404, Some(kept)) if !kept.metadata.deletion_time.is_empty() => {
            format!("version {} of {place} was deleted", kept.metadata.version)
        }
        (404, _) => format!("there is nothing at {place} (404{words})"),
        (403, _) => format!("the token may not read {place} (403{words})"),
        (503, _) => format!("it is sealed or under maintenance (503{words})"),
        (429 | 472 | 473, _) => format!("it is a standby, or asked too often ({status}{words})"),
        (300..=399, _) => format!("it leads elsewhere ({status}): name the address itself"),
        _ => format!("it answered {status}{words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> VaultQuestion {
        VaultQuestion {
            mount: "kv".into(),
            path: "prod/db".into(),
            field: Field::One("value".into()),
            version: None,
            is_base64: false,
        }
    }

    fn answer(status: u16, body: &str, question: &VaultQuestion) -> Result<String, String> {
        let bytes = read(status, body.as_bytes(), question)?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    const BODY: &str = r#"{"request_id":"r","data":{"data":{"value":"hunter2","port":5432,
        "packed":"aHVu\ndGVyMg==","none":null,"empty":""},"metadata":{"version":3}}}"#;

    fn field(name: &str) -> VaultQuestion {
        VaultQuestion {
            field: Field::One(name.into()),
            ..question()
        }
    }

    #[test]
    fn what_was_asked_for_is_read_out_of_the_answer() {
        assert_eq!(answer(200, BODY, &question()).unwrap(), "hunter2");
        assert_eq!(answer(200, BODY, &field("port")).unwrap(), "5432");
        let packed = VaultQuestion {
            is_base64: true,
            ..field("packed")
        };
        assert_eq!(answer(200, BODY, &packed).unwrap(), "hunter2");
        let all = VaultQuestion {
            field: Field::All,
            ..question()
        };
        let whole: Value = serde_json::from_str(&answer(200, BODY, &all).unwrap()).unwrap();
        assert_eq!(whole["value"], "hunter2");
        assert_eq!(whole["port"], 5432);
    }

    #[test]
    fn what_is_no_answer_says_why_and_nothing_of_the_secret() {
        let large = format!(
            r#"{{"data":{{"data":{{"value":"{}"}}}}}}"#,
            "x".repeat(SECRET_BYTES_MAX)
        );
        let deleted = r#"{"data":{"data":null,"metadata":{"version":2,"deletion_time":"2026-01-01T00:00:00Z"}}}"#;
        let destroyed = r#"{"data":{"data":null,"metadata":{"version":2,"destroyed":true}}}"#;
        let denied = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
        let undecodable = VaultQuestion {
            is_base64: true,
            ..question()
        };
        for (status, body, question, why) in [
            (200, BODY, field("pin"), "kv/prod/db has no field \"pin\""),
            (200, BODY, field("none"), "has no field \"none\""),
            (200, BODY, field("empty"), "what is there is empty"),
            (200, BODY, undecodable, "is no base64"),
            (200, large.as_str(), question(), "secrets have less than"),
            (
                200,
                "<html>hunter2",
                question(),
                "not that of a key-value engine",
            ),
            (
                200,
                r#"{"data":{"value":"hunter2"}}"#,
                question(),
                "of version 2",
            ),
            (
                403,
                denied,
                question(),
                "the token may not read kv/prod/db (403: 1 error occurred: * permission denied)",
            ),
            (
                404,
                r#"{"errors":[]}"#,
                question(),
                "there is nothing at kv/prod/db (404)",
            ),
            (
                404,
                deleted,
                question(),
                "version 2 of kv/prod/db was deleted",
            ),
            (404, destroyed, question(), "was destroyed"),
            (
                503,
                r#"{"errors":["Vault is sealed"]}"#,
                question(),
                "(503: Vault is sealed)",
            ),
            (473, "", question(), "it is a standby"),
            (307, "", question(), "it leads elsewhere (307)"),
            (500, "hunter2", question(), "it answered 500"),
        ] {
            let told = answer(status, body, &question).unwrap_err();
            assert!(told.contains(why), "{status}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn the_place_is_asked_for_by_its_url() {
        let uri = |address: &str, question: &VaultQuestion| {
            uri(&address.parse().unwrap(), question)
                .unwrap()
                .to_string()
        };
        assert_eq!(
            uri("https://v:8200", &question()),
            "https://v:8200/v1/kv/data/prod/db"
        );
        let odd = VaultQuestion {
            path: "a b/ä?#%".into(),
            version: Some(4),
            ..question()
        };
        assert_eq!(
            uri("https://v/vault/", &odd),
            "https://v/vault/v1/kv/data/a%20b/%C3%A4%3F%23%25?version=4"
        );
    }
}
