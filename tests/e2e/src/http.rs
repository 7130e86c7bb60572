//! HTTP as plain as the checks need it: one request per connection, every wait bounded.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Longest wait for one read or write at the API.
const API_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait of a visitor of a page.
pub const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer longer than this is none of ours.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// Its body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }

    /// The daemon's message, of an error.
    pub fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// A request to the API on a unix socket.
pub fn api(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
    api_within(API_TIMEOUT, socket, method, path, body)
}

/// The same of somebody who waits for an answer for so long.
pub fn api_within(
    timeout: Duration,
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let path = if path.starts_with("/skep/") {
        path.to_owned()
    } else {
        format!("/v1.50{path}")
    };
    exchange(
        stream,
        method,
        "skep",
        &path,
        body.map(Value::to_string).as_deref(),
    )
}

/// Sends bytes as they are, and reads what is said to them. A server that has heard enough need not
/// read them all.
pub fn send(socket: &Path, bytes: &[u8]) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(API_TIMEOUT))?;
    stream.set_write_timeout(Some(API_TIMEOUT))?;
    let sent = stream.write_all(bytes);
    let mut heard = Vec::new();
    let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut heard);
    parse(&heard).map_or_else(
        || {
            Err(sent
                .and(read.map(|_| ()))
                .err()
                .unwrap_or(io::ErrorKind::UnexpectedEof.into()))
        },
        Ok,
    )
}

/// Gets a page over a connection of its own.
pub fn get(address: SocketAddrV4, path: &str, timeout: Duration) -> io::Result<Answer> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(address), timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    exchange(stream, "GET", &address.to_string(), path, None)
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    host: &str,
    path: &str,
    body: Option<&str>,
) -> io::Result<Answer> {
    let body = body.unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("not a whole answer: `{start}`"),
        )
    })
}

/// `None` when it is not HTTP, or was cut off.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..split]).to_ascii_lowercase();
    let rest = &bytes[split + 4..];
    let status = head
        .strip_prefix("http/1.")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let body = if header("transfer-encoding:") == Some("chunked") {
        dechunk(rest)?
    } else if let Some(length) = header("content-length:") {
        let length: usize = length.parse().ok()?;
        rest.get(..length)?.to_vec()
    } else {
        rest.to_vec()
    };
    Some(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(plain);
        }
        plain.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

/// Text as a part of a query.
pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_answers_are_read() {
        let read = |text: &str| parse(text.as_bytes()).map(|answer| (answer.status, answer.body));
        assert_eq!(
            read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay"),
            Some((200, "ok".into()))
        );
        assert_eq!(
            read(
                "HTTP/1.1 404 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
            ),
            Some((404, "abc".into()))
        );
    }

    #[test]
    fn an_answer_cut_off_is_none() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nokay",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
