//! A small HTTP client: what the network looks like from inside a container.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::http::invalid;
use super::resolve;

/// How long connecting, and each read, may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Most bytes of an answer that are kept.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub from: SocketAddr,
    pub body: String,
}

/// Gets `http://host[:port]/path`, trying each address of the host in turn.
pub fn get(url: &str) -> io::Result<Answer> {
    let url = Url::parse(url).ok_or_else(|| invalid("not an http:// URL"))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in resolve::addresses(url.host)? {
        match get_from(SocketAddr::new(address, url.port), &url) {
            Ok(answer) => return Ok(answer),
            Err(error) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(last)
}

fn get_from(address: SocketAddr, url: &Url<'_>) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(
        format!(
            "GET {} HTTP/1.1\r\nHost: {}:{}\r\nConnection: close\r\n\r\n",
            url.path, url.host, url.port
        )
        .as_bytes(),
    )?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| invalid("not an HTTP answer"))?;
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| invalid("not an HTTP answer"))?;
    Ok(Answer {
        status,
        from: address,
        body: body.to_owned(),
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Url<'a> {
    host: &'a str,
    port: u16,
    path: &'a str,
}

impl<'a> Url<'a> {
    fn parse(url: &'a str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, port.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        // A line break would smuggle a header in.
        let clean = |text: &str| !text.chars().any(|letter| letter <= ' ');
        if host.is_empty() || !clean(host) || !clean(path) {
            return None;
        }
        Some(Self {
            host,
            port: port.map_or(Some(80), |port| port.parse().ok())?,
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let check = |url, host, port, path| {
            assert_eq!(Url::parse(url), Some(Url { host, port, path }));
        };
        check("http://web", "web", 80, "/");
        check("http://web:8080/a?b", "web", 8080, "/a?b");
        check("http://[::1]:81/", "::1", 81, "/");
        for wrong in ["https://x/", "http:///", "http://x:y/", "http://x/ y", "x"] {
            assert_eq!(Url::parse(wrong), None, "{wrong}");
        }
    }
}
