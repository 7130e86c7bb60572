//! A tiny web server, so that a cluster can be tried with no registry in reach: the
//! whole content of the `skep/hello` image.
//!
//! It says who it is and who asks, looks at its secrets, resolves and fetches by
//! name from where it runs, fails when told to, and stops without losing a request.
//! Unlike the shim it uses threads.

mod fetch;
mod http;
mod pages;
mod resolve;
mod server;

use std::time::Duration;

/// Longest delay before it listens.
const DELAY_MS_MAX: u64 = 600_000;
/// Where it listens without `PORT`.
const DEFAULT_PORT: u16 = 8080;

/// Runs the server, or the check of one; returns the exit code.
pub fn main(args: impl Iterator<Item = std::ffi::OsString>) -> i32 {
    let args: Vec<String> = args
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let port = match port() {
        Ok(port) => port,
        Err(given) => {
            eprintln!("hello: `{given}` is no port");
            return 2;
        }
    };
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["check"] => check(&format!("http://127.0.0.1:{port}/healthz")),
        ["check", url] => check(url),
        [] => serve(port, false),
        ["udp"] => serve(port, true),
        _ => {
            eprintln!("usage: hello [udp | check [URL]]");
            2
        }
    }
}

fn port() -> Result<u16, String> {
    match std::env::var("PORT") {
        Ok(given) => given.parse().map_err(|_| given),
        Err(_) => Ok(DEFAULT_PORT),
    }
}

/// Whether a server answers well: the health check of an image without a shell.
fn check(url: &str) -> i32 {
    match fetch::get(url) {
        Ok(answer) if answer.status == 200 => 0,
        Ok(answer) => {
            println!("status {}", answer.status);
            1
        }
        Err(error) => {
            println!("{error}");
            1
        }
    }
}

fn serve(port: u16, udp: bool) -> i32 {
    if std::env::var("HELLO_FAIL").is_ok_and(|value| value == "1") {
        eprintln!("hello: told to fail by HELLO_FAIL");
        return 1;
    }
    let delay = std::env::var("HELLO_DELAY_MS")
        .ok()
        .and_then(|given| given.parse().ok())
        .unwrap_or(0)
        .min(DELAY_MS_MAX);
    match server::run(port, udp, Duration::from_millis(delay)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("hello: {error}");
            1
        }
    }
}
