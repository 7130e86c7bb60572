//! What the server answers.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest as _, Sha256};

use super::http::{Request, Response};
use super::{fetch, resolve};

/// Largest secret that is looked at; docker's bound is half of it.
const SECRET_BYTES_MAX: u64 = 1 << 20;

/// Set by `/fail`: from then on the server says it is not well.
static FAILING: AtomicBool = AtomicBool::new(false);

/// Answers a request of this client.
pub fn answer(request: &Request, client: SocketAddr) -> Response {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Response::new(405, "only GET and HEAD are understood\n");
    }
    match request.path.as_str() {
        "/" => Response::new(200, who(client)),
        "/healthz" if FAILING.load(Ordering::Relaxed) => Response::new(503, "failing\n"),
        "/healthz" => Response::new(200, "ok\n"),
        "/fail" => {
            FAILING.store(true, Ordering::Relaxed);
            Response::new(200, "from now on /healthz says 503\n")
        }
        "/env" => Response::new(200, environment()),
        "/resolve" => resolve_page(request),
        "/fetch" => fetch_page(request),
        path => match path.strip_prefix("/secret/") {
            Some(name) => secret(name, request.parameter("sha256") == Some("1")),
            None => Response::new(404, "no such page\n"),
        },
    }
}

fn who(client: SocketAddr) -> String {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    // A client over IPv4 is shown as such although the socket speaks both.
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    format!(
        "hostname: {}\ntask: {}\nnode: {}\nversion: {}\nclient: {client}\nuid: {}\n",
        hostname(),
        variable("SKEP_TASK"),
        variable("SKEP_NODE"),
        version(),
        nix::unistd::getuid()
    )
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// What the server calls its version.
pub fn version() -> String {
    std::env::var("HELLO_VERSION").unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned())
}

fn environment() -> String {
    let mut lines: Vec<String> = std::env::vars_os()
        .map(|(name, value)| format!("{}={}\n", name.to_string_lossy(), value.to_string_lossy()))
        .collect();
    lines.sort();
    lines.concat()
}

/// Mode and length of a secret, and its digest, but never its bytes.
fn secret(name: &str, with_digest: bool) -> Response {
    if name.is_empty() || name.contains('/') || name == ".." {
        return Response::new(400, "not the name of a secret\n");
    }
    let path = Path::new("/run/secrets").join(name);
    let missing = |error: std::io::Error| Response::new(404, format!("{error}\n"));
    let status = match fs::metadata(&path) {
        Ok(status) => status,
        Err(error) => return missing(error),
    };
    let mut text = format!(
        "mode: {:04o}\nlength: {}\n",
        status.permissions().mode() & 0o7777,
        status.len()
    );
    if with_digest {
        if status.len() > SECRET_BYTES_MAX {
            return Response::new(400, "too large for a secret\n");
        }
        match fs::read(&path) {
            Ok(bytes) => {
                text.push_str("sha256: ");
                for byte in Sha256::digest(&bytes) {
                    text.push_str(&format!("{byte:02x}"));
                }
                text.push('\n');
            }
            Err(error) => return missing(error),
        }
    }
    Response::new(200, text)
}

fn resolve_page(request: &Request) -> Response {
    let Some(name) = request.parameter("name") else {
        return Response::new(400, "usage: /resolve?name=NAME\n");
    };
    match resolve::addresses(name) {
        Ok(addresses) => Response::new(
            200,
            addresses
                .iter()
                .map(|address| format!("{address}\n"))
                .collect::<String>(),
        ),
        Err(error) => Response::new(502, format!("{error}\n")),
    }
}

fn fetch_page(request: &Request) -> Response {
    let Some(url) = request.parameter("url") else {
        return Response::new(400, "usage: /fetch?url=http://NAME[:PORT]/PATH\n");
    };
    match fetch::get(url) {
        Ok(answer) => Response::new(
            200,
            format!(
                "status: {}\nfrom: {}\n\n{}",
                answer.status, answer.from, answer.body
            ),
        ),
        Err(error) => Response::new(502, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Response {
        let text = format!("GET {path} HTTP/1.1\r\n\r\n");
        let request = super::super::http::read_request(text.as_bytes())
            .unwrap()
            .unwrap();
        answer(&request, "[::ffff:192.0.2.7]:1234".parse().unwrap())
    }

    #[test]
    fn it_says_who_it_is_and_who_asks() {
        let page = get("/");
        assert_eq!(page.status, 200);
        assert!(page.body.contains("\nclient: 192.0.2.7:1234\n"), "{page:?}");
        assert!(page.body.starts_with("hostname: "), "{page:?}");
    }

    #[test]
    fn other_files_than_secrets_are_not_looked_at() {
        assert_eq!(get("/secret/..").status, 400);
        assert_eq!(get("/secret/..%2f..%2fetc%2fpasswd").status, 400);
        assert_eq!(get("/secret/none").status, 404);
        assert_eq!(get("/nothing").status, 404);
    }

    #[test]
    fn it_fails_when_told_to() {
        assert_eq!(get("/healthz").status, 200);
        get("/fail");
        assert_eq!(get("/healthz").status, 503);
        FAILING.store(false, Ordering::Relaxed);
    }
}
