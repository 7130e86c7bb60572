//! Questions to a container's resolver, asked from its namespace, and a resolver outside of the
//! cluster for it to ask.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::station::Station;

/// Where containers ask.
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
/// A resolver asks others twice, two seconds each, before it says that it failed.
const PATIENCE: Duration = Duration::from_secs(6);
const ID: [u8; 2] = [0x5e, 0x2e];

pub const A: u16 = 1;
pub const PTR: u16 = 12;
pub const AAAA: u16 = 28;

pub const NOERROR: u8 = 0;
pub const SERVFAIL: u8 = 2;
pub const NXDOMAIN: u8 = 3;

/// What a resolver said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub code: u8,
    /// Addresses, or names without the last dot, in the order they came.
    pub found: Vec<String>,
    /// The longest that any of them may be kept.
    pub ttl: u32,
}

impl Answer {
    /// What was found, in order.
    pub fn sorted(mut self) -> Vec<String> {
        self.found.sort();
        self.found
    }
}

/// Asks over UDP.
#[track_caller]
pub fn ask(from: &Station, name: &str, kind: u16) -> Answer {
    try_ask(from, name, kind).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Asks over UDP, which need not be answered.
pub fn try_ask(from: &Station, name: &str, kind: u16) -> io::Result<Answer> {
    let socket = from.inside(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
    socket.connect(RESOLVER)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&question(name, kind))?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    read(&buffer[..length])
}

/// Asks over TCP.
pub fn try_ask_tcp(from: &Station, name: &str, kind: u16) -> io::Result<Answer> {
    let mut stream = from.inside(|| TcpStream::connect_timeout(&RESOLVER, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write_framed(&mut stream, &question(name, kind))?;
    read(&read_framed(&mut stream)?)
}

/// The addresses of a name, both families, sorted.
#[track_caller]
pub fn addresses(from: &Station, name: &str) -> Vec<String> {
    let mut found = ask(from, name, A).found;
    found.extend(ask(from, name, AAAA).found);
    found.sort();
    found
}

/// The name under which an address is asked for.
pub fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let digits = ip.octets().into_iter().rev();
            let labels = digits.map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4));
            labels.collect::<String>() + "ip6.arpa"
        }
    }
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = ID.to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("labels are short"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

fn read(bytes: &[u8]) -> io::Result<Answer> {
    parse(bytes).ok_or_else(|| io::Error::other(format!("no answer: {bytes:?}")))
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let number = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if bytes.get(..2)? != ID {
        return None;
    }
    let mut answer = Answer {
        code: bytes.get(3)? & 15,
        found: Vec::new(),
        ttl: 0,
    };
    let mut at = 12;
    for _ in 0..number(4)? {
        at = name_at(bytes, at)?.1 + 4;
    }
    for _ in 0..number(6)? {
        at = name_at(bytes, at)?.1;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let ttl = u32::from(number(at + 4)?) << 16 | u32::from(number(at + 6)?);
        let data = bytes.get(at + 10..at + 10 + length)?;
        let found = match kind {
            A => Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).to_string(),
            AAAA => Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).to_string(),
            PTR => name_at(bytes, at + 10)?.0,
            _ => String::new(),
        };
        answer.ttl = answer.ttl.max(ttl);
        answer.found.push(found);
        at += 10 + length;
    }
    Some(answer)
}

/// A name, and what is behind it.
fn name_at(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut end = None;
    for _ in 0..128 {
        let length = usize::from(*bytes.get(at)?);
        if length >= 0xc0 {
            end.get_or_insert(at + 2);
            at = (length & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
            continue;
        }
        at += 1;
        if length == 0 {
            return Some((name, end.unwrap_or(at)));
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(bytes.get(at..at + length)?));
        at += length;
    }
    None
}

fn write_framed(to: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_be_bytes()[..], message].concat())
}

fn read_framed(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    from.read_exact(&mut message)?;
    Ok(message)
}

/// A resolver that knows some names, until the process ends.
#[derive(Clone, Default)]
pub struct Upstream {
    /// The names it was asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// Serves UDP and TCP.
    #[track_caller]
    pub fn serve(station: &Station, at: SocketAddr, known: &[(&str, Ipv4Addr)]) -> Self {
        let upstream = Self::default();
        let known: BTreeMap<String, Ipv4Addr> = known
            .iter()
            .map(|(name, ip)| ((*name).to_owned(), *ip))
            .collect();
        let (udp, tcp) = station.inside(|| {
            let udp = UdpSocket::bind(at).expect("a free port");
            (udp, TcpListener::bind(at).expect("a free port"))
        });
        let (mine, names) = (upstream.clone(), known.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                if let Some(answer) = mine.answer(&buffer[..length], &names) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let mine = upstream.clone();
        thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                if let Ok(query) = read_framed(&mut stream)
                    && let Some(answer) = mine.answer(&query, &known)
                {
                    let _ = write_framed(&mut stream, &answer);
                }
            }
        });
        upstream
    }

    /// Whether it was asked for a name so far.
    pub fn was_asked(&self, name: &str) -> bool {
        let asked = self.asked.lock().expect("nobody panics");
        asked.iter().any(|other| other == name)
    }

    fn answer(&self, query: &[u8], known: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
        let (name, end) = name_at(query, 12)?;
        let name = name.to_ascii_lowercase();
        let kind = query.get(end..end + 2)?;
        let address = known.get(&name);
        let found = address.filter(|_| kind == A.to_be_bytes());
        let mut answer = query.get(..end + 4)?.to_vec();
        answer[2] = 0x81;
        answer[3] = 0x80 | if address.is_some() { NOERROR } else { NXDOMAIN };
        answer[6..12].copy_from_slice(&[0, u8::from(found.is_some()), 0, 0, 0, 0]);
        if let Some(ip) = found {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(ip.octets());
        }
        self.asked.lock().expect("nobody panics").push(name);
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let known = BTreeMap::from([("a.test".to_owned(), Ipv4Addr::new(192, 0, 2, 7))]);
        let upstream = Upstream::default();
        let answer = |name: &str, kind| {
            let bytes = upstream.answer(&question(name, kind), &known).unwrap();
            read(&bytes).unwrap()
        };
        let found = answer("A.test", A);
        assert_eq!((found.code, found.ttl), (NOERROR, 60));
        assert_eq!(found.found, ["192.0.2.7"]);
        assert_eq!(answer("a.test", AAAA).found.len(), 0);
        assert_eq!(answer("b.test", A).code, NXDOMAIN);
        assert!(upstream.was_asked("b.test") && !upstream.was_asked("c.test"));
        assert!(read(b"").is_err());
    }

    #[test]
    fn addresses_have_names() {
        let name = |text: &str| reverse(text.parse().unwrap());
        assert_eq!(name("192.0.2.7"), "7.2.0.192.in-addr.arpa");
        assert!(name("fd00::12").starts_with("2.1.0.0."));
        assert!(name("fd00::12").ends_with(".0.0.d.f.ip6.arpa"));
    }
}
