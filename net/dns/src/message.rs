//! The DNS wire format, as far as a stub resolver needs it (RFC 1035, RFC 6891).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const TYPE_A: u16 = 1;
pub(crate) const TYPE_PTR: u16 = 12;
pub(crate) const TYPE_AAAA: u16 = 28;
pub(crate) const TYPE_OPT: u16 = 41;
pub(crate) const TYPE_ANY: u16 = 255;
pub(crate) const CLASS_IN: u16 = 1;
pub(crate) const CLASS_ANY: u16 = 255;

pub(crate) const NOERROR: u8 = 0;
pub(crate) const FORMERR: u8 = 1;
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const NXDOMAIN: u8 = 3;
pub(crate) const NOTIMP: u8 = 4;

const HEADER: usize = 12;
/// UDP answers without EDNS (RFC 1035 §4.2.1).
const UDP_PLAIN_MAX: usize = 512;
/// The most we send over UDP however much the client offers; loopback carries it.
const UDP_EDNS_MAX: usize = 4096;

/// A parsed question, with what an answer must echo.
pub(crate) struct Query<'a> {
    pub id: u16,
    pub recursion_desired: bool,
    /// The question section, verbatim (the case of the name is kept).
    pub question: &'a [u8],
    /// Lower-case, without trailing dot; `None` when a label holds a byte that
    /// no name of ours has (a dot or something that is not ASCII).
    pub name: Option<String>,
    pub kind: u16,
    pub class: u16,
    /// The UDP payload the client takes, when it speaks EDNS.
    pub edns: Option<u16>,
}

/// Why a query was not understood.
pub(crate) enum Refusal {
    /// Not worth an answer: too short, or itself an answer.
    Silent,
    /// Answer with this code.
    Code(u8),
}

pub(crate) fn parse(message: &[u8]) -> Result<Query<'_>, Refusal> {
    if message.len() < HEADER || message[2] & 0x80 != 0 {
        return Err(Refusal::Silent);
    }
    if message[2] & 0x78 != 0 {
        return Err(Refusal::Code(NOTIMP));
    }
    if word(message, 4) != Some(1) {
        return Err(Refusal::Code(FORMERR));
    }
    let malformed = || Refusal::Code(FORMERR);
    let (name, end) = question_name(message).ok_or_else(malformed)?;
    let kind = word(message, end).ok_or_else(malformed)?;
    let class = word(message, end + 2).ok_or_else(malformed)?;
    Ok(Query {
        id: word(message, 0).ok_or_else(malformed)?,
        recursion_desired: message[2] & 1 != 0,
        question: &message[HEADER..end + 4],
        name,
        kind,
        class,
        edns: edns_payload(message, end + 4),
    })
}

/// The name at the start of the question section and where it ends. Compression
/// has nothing to point at there, so a pointer is an error.
fn question_name(message: &[u8]) -> Option<(Option<String>, usize)> {
    let mut name = Some(String::new());
    let mut at = HEADER;
    loop {
        let length = *message.get(at)? as usize;
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 || at + length - HEADER > 254 {
            return None;
        }
        let label = message.get(at..at + length)?;
        at += length;
        let plain = label
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b'.');
        name = name.filter(|_| plain).map(|mut name| {
            if !name.is_empty() {
                name.push('.');
            }
            name.extend(label.iter().map(|byte| byte.to_ascii_lowercase() as char));
            name
        });
    }
    Some((name, at))
}

/// The payload size of the OPT record after the question, if there is one. What
/// cannot be followed is taken as "no EDNS".
fn edns_payload(message: &[u8], mut at: usize) -> Option<u16> {
    let records = [6, 8, 10]
        .iter()
        .map(|offset| word(message, *offset).unwrap_or(0) as usize)
        .sum();
    // Each record takes 11 bytes at least, so this loop ends with the message.
    for _ in 0..records {
        at = skip_name(message, at)?;
        let kind = word(message, at)?;
        if kind == TYPE_OPT {
            return word(message, at + 2);
        }
        at += 10 + word(message, at + 8)? as usize;
    }
    None
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length if length & 0xc0 == 0 => at += 1 + length as usize,
            _ => return None,
        }
    }
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([
        *message.get(at)?,
        *message.get(at + 1)?,
    ]))
}

/// What one answer record holds.
pub(crate) enum Record {
    Address(IpAddr),
    Pointer(String),
}

/// Builds the answer; records that do not fit are left out and the truncation
/// bit tells the client to ask again over TCP.
pub(crate) fn reply(
    query: &Query<'_>,
    code: u8,
    records: &[Record],
    ttl_s: u32,
    over_tcp: bool,
) -> Vec<u8> {
    let limit = match (over_tcp, query.edns) {
        (true, _) => usize::from(u16::MAX),
        (false, Some(offered)) => usize::from(offered).clamp(UDP_PLAIN_MAX, UDP_EDNS_MAX),
        (false, None) => UDP_PLAIN_MAX,
    };
    let opt_bytes = if query.edns.is_some() { 11 } else { 0 };
    let mut message = header(query.id, query.recursion_desired, code);
    message[5] = 1;
    message.extend_from_slice(query.question);
    let mut count = 0u16;
    for record in records {
        let start = message.len();
        push_record(&mut message, record, ttl_s);
        if message.len() + opt_bytes > limit || count == u16::MAX {
            message.truncate(start);
            message[2] |= 0x02;
            break;
        }
        count += 1;
    }
    message[6..8].copy_from_slice(&count.to_be_bytes());
    if query.edns.is_some() {
        message[11] = 1;
        message.push(0);
        message.extend_from_slice(&TYPE_OPT.to_be_bytes());
        message.extend_from_slice(&(UDP_EDNS_MAX as u16).to_be_bytes());
        message.extend_from_slice(&[0; 6]);
    }
    message
}

/// An answer for a query whose question could not be read: the code alone.
pub(crate) fn bare_reply(query: &[u8], code: u8) -> Vec<u8> {
    let id = word(query, 0).unwrap_or(0);
    let desired = query.get(2).is_some_and(|byte| byte & 1 != 0);
    header(id, desired, code)
}

fn header(id: u16, recursion_desired: bool, code: u8) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message[0..2].copy_from_slice(&id.to_be_bytes());
    message[2] = 0x80 | u8::from(recursion_desired);
    message[3] = 0x80 | code;
    message
}

fn push_record(message: &mut Vec<u8>, record: &Record, ttl_s: u32) {
    let (kind, data) = match record {
        Record::Address(IpAddr::V4(ip)) => (TYPE_A, ip.octets().to_vec()),
        Record::Address(IpAddr::V6(ip)) => (TYPE_AAAA, ip.octets().to_vec()),
        Record::Pointer(name) => (TYPE_PTR, encode_name(name)),
    };
    message.extend_from_slice(&[0xc0, HEADER as u8]);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    message.extend_from_slice(&ttl_s.to_be_bytes());
    message.extend_from_slice(&(data.len() as u16).to_be_bytes());
    message.extend_from_slice(&data);
}

/// Labels longer than the format allows are cut, empty ones skipped.
fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        if bytes.len() + label.len() + 2 > 255 {
            break;
        }
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes
}

/// The address a reverse-lookup name stands for.
pub(crate) fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut labels = digits.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = labels.next()?.parse().ok()?;
        }
        return labels
            .next()
            .is_none()
            .then(|| Ipv4Addr::from(octets).into());
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let mut value = 0u128;
    let mut count = 0u32;
    for label in nibbles.split('.') {
        if label.len() != 1 || count == 32 {
            return None;
        }
        value |= u128::from(u8::from_str_radix(label, 16).ok()?) << (4 * count);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(value).into())
}

/// An answer that says the resolver failed; for when no upstream answered.
/// `None` when the query deserves no answer.
pub fn servfail(query: &[u8]) -> Option<Vec<u8>> {
    match parse(query) {
        Ok(query) => Some(reply(&query, SERVFAIL, &[], 0, false)),
        Err(Refusal::Code(code)) => Some(bare_reply(query, code)),
        Err(Refusal::Silent) => None,
    }
}

/// Whether `reply` is an answer to exactly this query: same id, same question,
/// letter for letter (so a client's or our own mixed case is checked too).
pub fn answers(query: &[u8], reply: &[u8]) -> bool {
    let Ok(asked) = parse(query) else {
        return false;
    };
    reply.len() >= HEADER + asked.question.len()
        && reply[2] & 0x80 != 0
        && reply[0..2] == query[0..2]
        && reply[4..6] == [0, 1]
        && reply[HEADER..HEADER + asked.question.len()] == *asked.question
}

/// Whether an answer says it was cut and must be asked for again over TCP.
pub fn is_truncated(reply: &[u8]) -> bool {
    reply.get(2).is_some_and(|byte| byte & 0x02 != 0)
}

/// The same message under another transaction id, so that the id a container
/// chose is not the one an outside resolver sees.
pub fn with_id(message: &[u8], id: u16) -> Vec<u8> {
    let mut message = message.to_vec();
    if let Some(place) = message.get_mut(0..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
    message
}
