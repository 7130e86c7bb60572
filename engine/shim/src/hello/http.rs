//! As much of HTTP/1.1 as the server and its client need.

use std::io::{self, BufRead, Read, Write};

/// Most bytes of a request line and headers.
const HEAD_BYTES_MAX: u64 = 16 * 1024;
/// Most bytes of a body that is read away.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// A request, its body read away.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names and values, decoded.
    pub query: Vec<(String, String)>,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
}

impl Request {
    /// The first value of a name in the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// An answer of plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

impl Response {
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            body: body.into(),
        }
    }

    /// Writes the answer in one piece.
    pub fn write(&self, mut to: impl Write, keep_alive: bool, with_body: bool) -> io::Result<()> {
        let mut text = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n",
            self.status,
            reason(self.status),
            self.body.len(),
            if keep_alive { "keep-alive" } else { "close" }
        );
        if with_body {
            text.push_str(&self.body);
        }
        to.write_all(text.as_bytes())
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Unknown",
    }
}

/// Reads the next request; `None` at the end of the connection. What is wrong with
/// a request is an `InvalidData`.
pub fn read_request(mut from: impl BufRead) -> io::Result<Option<Request>> {
    let Some(head) = read_head(&mut from)? else {
        return Ok(None);
    };
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(invalid("not a request line"));
    };
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") || !target.starts_with('/') {
        return Err(invalid("not HTTP/1.1"));
    }
    let mut keep_alive = version == "HTTP/1.1";
    let mut length = 0;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Err(invalid("a header without a colon"));
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "connection" if value.eq_ignore_ascii_case("close") => keep_alive = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => keep_alive = true,
            "content-length" => length = value.parse().map_err(|_| invalid("content length"))?,
            "transfer-encoding" => return Err(invalid("transfer encodings are not understood")),
            _ => {}
        }
    }
    if length > BODY_BYTES_MAX {
        return Err(invalid("body too large"));
    }
    io::copy(&mut from.take(length), &mut io::sink())?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Some(Request {
        method: method.to_owned(),
        path: decoded(path, false),
        query: query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decoded(name, true), decoded(value, true))
            })
            .collect(),
        keep_alive,
    }))
}

/// Lines up to the empty one.
fn read_head(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    let mut limited = from.take(HEAD_BYTES_MAX);
    loop {
        let before = head.len();
        if limited.read_line(&mut head)? == 0 {
            return match (head.is_empty(), limited.limit()) {
                (true, 1..) => Ok(None),
                (_, 0) => Err(invalid("request too large")),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        match head[before..].trim_end() {
            "" if before == 0 => head.clear(),
            "" => {
                head.truncate(before);
                return Ok(Some(head));
            }
            _ => {}
        }
    }
}

fn decoded(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
                continue;
            }
            (b'+', _) if plus_is_space => bytes.push(b' '),
            _ => bytes.push(first),
        }
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Option<Request>> {
        read_request(text.as_bytes())
    }

    #[test]
    fn a_request_is_understood() {
        let request = read("GET /a%20b?url=http%3A%2F%2Fx:80/&n=1+2 HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(request.path, "/a b");
        assert_eq!(request.parameter("url"), Some("http://x:80/"));
        assert_eq!(request.parameter("n"), Some("1 2"));
        assert!(request.keep_alive);
        let request = read("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n");
        assert!(!request.unwrap().unwrap().keep_alive);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(read("").unwrap(), None);
        for wrong in [
            "GET\r\n\r\n",
            "GET / HTTP/2\r\n\r\n",
            "GET / HTTP/1.1\r\nodd\r\n\r\n",
            "GET / HTTP/1.1\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
        assert!(read(&long).is_err());
    }

    #[test]
    fn the_next_request_follows_a_body() {
        let text = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\n\r\n";
        let mut bytes = text.as_bytes();
        read_request(&mut bytes).unwrap().unwrap();
        assert_eq!(read_request(&mut bytes).unwrap().unwrap().path, "/next");
    }
}
