//! A small resolver on the container's own `/etc/hosts` and `/etc/resolv.conf`.
//!
//! The C library's would load libraries that an image of one file does not have.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::http::invalid;

/// How long one name server may take.
const TIMEOUT: Duration = Duration::from_secs(2);
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const NXDOMAIN: u8 = 3;
/// Links of names followed while reading one name.
const POINTERS_MAX: usize = 32;

/// All addresses of a name, or the address it is itself.
pub fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let known = in_hosts(&hosts, name);
    if !known.is_empty() {
        return Ok(known);
    }
    let settings = Settings::parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{name}: no such name"));
    for candidate in settings.candidates(name) {
        match ask_all(&settings, &candidate) {
            Ok(found) if !found.is_empty() => return Ok(found),
            Ok(_) => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    hosts
        .lines()
        .filter_map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words
                .any(|word| word.eq_ignore_ascii_case(name))
                .then_some(address)
        })
        .collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Settings {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    /// Names with fewer dots are first looked for in the search list.
    dots: usize,
}

impl Settings {
    fn parse(text: &str) -> Self {
        let mut settings = Self {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    settings
                        .servers
                        .extend(address.map(|address| SocketAddr::new(address, 53)));
                }
                Some("search" | "domain") => settings.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let dots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    settings.dots = dots.unwrap_or(settings.dots);
                }
                _ => {}
            }
        }
        settings
    }

    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let plain = [name.to_owned()].into_iter();
        if name.matches('.').count() >= self.dots {
            plain.chain(searched).collect()
        } else {
            searched.chain(plain).collect()
        }
    }
}

fn ask_all(settings: &Settings, name: &str) -> io::Result<Vec<IpAddr>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no name server");
    for &server in &settings.servers {
        let both = ask(server, name, TYPE_A).and_then(|mut found| {
            found.extend(ask(server, name, TYPE_AAAA)?);
            Ok(found)
        });
        match both {
            Ok(found) => return Ok(found),
            Err(error) => last = io::Error::new(error.kind(), format!("{server}: {error}")),
        }
    }
    Err(last)
}

fn ask(server: SocketAddr, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
    let id = crate::sys::random_u64() as u16;
    let query = question(id, name, kind)?;
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(server)?;
    socket.send(&query)?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    let mut reply = buffer[..length].to_vec();
    if reply.get(2).is_some_and(|byte| byte & 2 != 0) {
        reply = ask_over_tcp(server, &query)?;
    }
    parse_reply(&reply, id)
}

fn ask_over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(query)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

fn question(id: u16, name: &str, kind: u16) -> io::Result<Vec<u8>> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).unwrap_or(u8::MAX);
        if !(1..=63).contains(&length) {
            return Err(invalid("not a name"));
        }
        query.push(length);
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    Ok(query)
}

/// The addresses in a reply; a name that does not exist has none.
fn parse_reply(reply: &[u8], id: u16) -> io::Result<Vec<IpAddr>> {
    let short = || invalid("the answer is cut short");
    let number = |at: usize| {
        let bytes = reply.get(at..at + 2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    if number(0) != Some(id) {
        return Err(invalid("an answer to another question"));
    }
    match reply.get(3).ok_or_else(short)? & 0x0f {
        0 => {}
        NXDOMAIN => return Ok(Vec::new()),
        code => {
            return Err(io::Error::other(format!(
                "the name server says error {code}"
            )));
        }
    }
    let questions = number(4).ok_or_else(short)?;
    let answers = number(6).ok_or_else(short)?;
    let mut at = 12;
    for _ in 0..questions {
        at = skip_name(reply, at).ok_or_else(short)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        at = skip_name(reply, at).ok_or_else(short)?;
        let kind = number(at).ok_or_else(short)?;
        let length = usize::from(number(at + 8).ok_or_else(short)?);
        let data = reply.get(at + 10..at + 10 + length).ok_or_else(short)?;
        match (kind, data.len()) {
            (TYPE_A, 4) => found.push(IpAddr::from(<[u8; 4]>::try_from(data).expect("four bytes"))),
            (TYPE_AAAA, 16) => {
                found.push(IpAddr::from(
                    <[u8; 16]>::try_from(data).expect("sixteen bytes"),
                ));
            }
            _ => {}
        }
        at += 10 + length;
    }
    Ok(found)
}

/// Where what follows a name begins.
fn skip_name(reply: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..POINTERS_MAX * 4 {
        match reply.get(at)? {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            length => at += 1 + usize::from(*length),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read() {
        let mut reply = question(7, "web.example", TYPE_A).unwrap();
        reply[2] = 0x81;
        reply[3] = 0x80;
        reply[7] = 2;
        // An alias first, then the address.
        reply.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 2, 0xc0, 12]);
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, 1]);
        assert_eq!(
            parse_reply(&reply, 7).unwrap(),
            [IpAddr::from([192, 0, 2, 1])]
        );
        assert!(parse_reply(&reply, 8).is_err());
        for length in 0..reply.len() {
            assert!(parse_reply(&reply[..length], 7).is_err(), "{length}");
        }
        reply[3] = 0x83;
        assert!(parse_reply(&reply, 7).unwrap().is_empty());
    }

    #[test]
    fn names_are_searched_for_in_order() {
        let settings =
            Settings::parse("nameserver 127.0.0.11\nsearch a.x b.x\noptions ndots:1 edns0\n");
        assert_eq!(settings.candidates("web"), ["web.a.x", "web.b.x", "web"]);
        assert_eq!(
            settings.candidates("web.net"),
            ["web.net", "web.net.a.x", "web.net.b.x"]
        );
        let settings = Settings::parse("search a.x\noptions ndots:0\n");
        assert_eq!(settings.candidates("web"), ["web", "web.a.x"]);
    }

    #[test]
    fn hosts_come_first() {
        let hosts = "127.0.0.1 localhost # me\n192.0.2.1 Web web.example\n2001:db8::1 web\n";
        assert_eq!(in_hosts(hosts, "web").len(), 2);
        assert!(in_hosts(hosts, "me").is_empty());
    }
}
