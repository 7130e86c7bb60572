//! `ports`, short (`8080:80/udp`, ranges) and long.

use std::net::IpAddr;

use skep_model::port::Protocol;
use skep_model::publish::{PortBalance, PortSource};
use skep_model::{PortConfig, PublishMode};

use crate::context::Context;
use crate::field::Field;
use crate::fields::Fields;
use crate::file::unique_by;
use crate::out::{MapOut, Out};
use crate::report::At;
use crate::tree::{Value, shown};

/// Published ports of one service, ranges counted out. Media servers have some ten thousand.
const PORTS_MAX: usize = 16_384;

/// One published port; no ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub at: At,
    pub name: Option<String>,
    /// As written, also where that is no port.
    pub target: u32,
    /// 0 asks for a free one.
    pub published: u32,
    pub protocol: Option<Word<Protocol>>,
    pub mode: Option<Word<PublishMode>>,
    pub extra: Extra,
}

/// What was written, and what it means; a word that means nothing stands for what is usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word<T> {
    pub text: String,
    pub value: T,
}

/// What a port can be asked beyond Swarm's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    pub host_ip: String,
    pub interface: String,
    pub source: PortSource,
    pub balance: PortBalance,
}

pub(crate) fn read(field: &Field<'_>, cx: &mut Context<'_>) -> Vec<Port> {
    let mut ports = Vec::new();
    for item in field.unique_items(cx) {
        match &item.node.value {
            Value::Map(_) => ports.extend(read_long(&item, cx)),
            Value::Scalar(_) => {
                let Some(text) = item.string_or_number(cx) else {
                    continue;
                };
                match parse_short(&text) {
                    Ok(short) => {
                        if text.matches('/').count() > 1 {
                            item.unfit("has more than one protocol: the first counts", cx);
                        }
                        if short.targets.0 == 0 {
                            item.unfit("has no port of the container: 0 is none", cx);
                        }
                        let new = short.ports(item.at());
                        // All of a range are at one address.
                        if let Some(first) = new.first() {
                            check_host(first, &item, cx);
                        }
                        ports.extend(new);
                    }
                    Err(wrong) => item.wrong(
                        format!(
                            "Does not match format 'ports', found \"{}\": {wrong}",
                            shown(&text)
                        ),
                        cx,
                    ),
                }
            }
            Value::List(_) => item.wrong_type("number, string or mapping", cx),
        }
        if ports.len() > PORTS_MAX {
            field.wrong(
                format!("must be at most {PORTS_MAX} ports, ranges counted out"),
                cx,
            );
            ports.clear();
            break;
        }
    }
    match cx.host {
        // None is published twice, however it is written.
        true => unique_by(ports, |port| {
            let (published, _, protocol, address, interface) = port.identity();
            let ends = (port.target, published, protocol.as_str());
            (ends, address.to_owned(), interface.to_owned())
        }),
        false => ports,
    }
}

/// The short syntax, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Short {
    targets: (u16, u16),
    published: Option<(u16, u16)>,
    protocol: Protocol,
    /// Empty: any.
    address: String,
}

/// `[[address:][published]:]target[/protocol]`, where published and target may be ranges.
fn parse_short(text: &str) -> Result<Short, String> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocols)) => match protocols.split('/').next() {
            None | Some("") => (ports, Protocol::Tcp),
            Some(protocol) => (ports, protocol.parse().map_err(|e| format!("{e}"))?),
        },
        None => (text, Protocol::Tcp),
    };
    let (rest, target) = match ports.rsplit_once(':') {
        Some((rest, target)) => (Some(rest), target),
        None => (None, ports),
    };
    let (address, published) = match rest.map(|rest| rest.rsplit_once(':')) {
        Some(Some((address, published))) => (address, Some(published)),
        Some(None) => ("", rest),
        None => ("", None),
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    // All of IPv4 is written by habit, and means any.
    let address = if address == "0.0.0.0" { "" } else { address };
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    if target.is_empty() {
        return Err("no port specified".to_owned());
    }
    let targets = range(target).ok_or_else(|| format!("invalid containerPort: {target}"))?;
    if targets.0 == 0 && targets.1 != 0 {
        return Err(format!("invalid containerPort: {target}"));
    }
    let published = match published {
        None | Some("") => None,
        Some(published) => {
            Some(range(published).ok_or_else(|| format!("invalid hostPort: {published}"))?)
        }
    };
    if let Some((first, last)) = published
        && last - first != targets.1 - targets.0
        && targets.0 != targets.1
    {
        return Err("invalid ranges specified for container and host Ports".to_owned());
    }
    Ok(Short {
        targets,
        published,
        protocol,
        address: address.to_owned(),
    })
}

/// `80` or `80-90`.
fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        text.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
        text.parse::<u16>().ok()
    };
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((first, last)) => Some((port(first)?, port(last)?)).filter(|(a, b)| a <= b),
    }
}

impl Short {
    /// The ports one by one, in docker's order (by the target's text).
    fn ports(&self, at: At) -> Vec<Port> {
        let port = |target: u16, published: u16| Port {
            at,
            name: None,
            target: target.into(),
            published: published.into(),
            protocol: Some(Word {
                text: self.protocol.as_str().to_owned(),
                value: self.protocol,
            }),
            mode: Some(Word {
                text: "ingress".to_owned(),
                value: PublishMode::Ingress,
            }),
            extra: Extra {
                host_ip: self.address.clone(),
                ..Extra::default()
            },
        };
        let (first, last) = self.targets;
        let mut ports: Vec<Port> = match self.published {
            None => (first..=last).map(|target| port(target, 0)).collect(),
            Some((low, high)) if first == last => (low..=high)
                .map(|published| port(first, published))
                .collect(),
            Some((low, _)) => (first..=last)
                .map(|target| port(target, low + (target - first)))
                .collect(),
        };
        ports.sort_by_key(|port| port.target.to_string());
        ports
    }
}

/// Whether a node can answer on the address or interface of a port.
fn check_host(port: &Port, item: &Field<'_>, cx: &mut Context<'_>) {
    // One host knows its own addresses.
    if !cx.host
        && let Err(wrong) = port.config().host()
    {
        cx.unfit(item.at(), format!("{}: {wrong}", item.path), None);
    }
}

fn read_long(item: &Field<'_>, cx: &mut Context<'_>) -> Option<Port> {
    let mut fields = item.fields(cx)?;
    let target = match fields.take("target") {
        Some(target) => number(&target, 1, cx),
        None => {
            item.unfit("target is required", cx);
            Some(0)
        }
    };
    let published = match fields.take("published") {
        None => Some(0),
        Some(field) if field.scalar().is_some_and(|scalar| scalar.text.is_empty()) => Some(0),
        Some(field) => read_published(&field, cx),
    };
    let protocol = word(&mut fields, "protocol", &["tcp", "udp", "sctp"], cx);
    let mode = word(&mut fields, "mode", &["ingress", "host"], cx);
    let name = fields.string("name", cx);
    let extra = read_extra(&mut fields, cx);
    fields.no_effect(
        "app_protocol",
        "the protocol above TCP and UDP is not looked at",
        cx,
    );
    fields.finish(cx);
    let port = Port {
        at: item.at(),
        name,
        target: target?,
        published: published?,
        protocol: protocol.map(|text| Word {
            value: text.parse().unwrap_or_default(),
            text,
        }),
        mode: mode.map(|text| Word {
            value: match text.eq_ignore_ascii_case("host") {
                true => PublishMode::Host,
                false => PublishMode::Ingress,
            },
            text,
        }),
        extra,
    };
    check_host(&port, item, cx);
    Some(port)
}

fn read_published(field: &Field<'_>, cx: &mut Context<'_>) -> Option<u32> {
    let text = field.scalar().map_or("", |scalar| scalar.text.as_str());
    if range(text).is_some_and(|(first, last)| first != last) {
        cx.error_with_hint(
            field.at(),
            format!("{} must be a integer, found a range", field.path),
            "the short syntax publishes ranges: \"8000-8010:80\"",
        );
        return None;
    }
    number(field, 0, cx)
}

/// The number of a port. Docker's client prints any number.
fn number(field: &Field<'_>, least: u32, cx: &mut Context<'_>) -> Option<u32> {
    let given = field.integer_within(0, u32::MAX.into(), cx)?;
    let given = u32::try_from(given).ok()?;
    if given < least || u16::try_from(given).is_err() {
        field.unfit(format!("must be from {least} to 65535, found {given}"), cx);
    }
    Some(given)
}

/// One of some words, in any case. Docker's client prints any word.
fn word(
    fields: &mut Fields<'_>,
    name: &'static str,
    known: &[&str],
    cx: &mut Context<'_>,
) -> Option<String> {
    let field = fields.take(name)?;
    let text = field.string(cx)?;
    match known.iter().any(|known| known.eq_ignore_ascii_case(&text)) {
        true => Some(text),
        false => field.cluster_word(known, cx),
    }
}

fn read_extra(fields: &mut Fields<'_>, cx: &mut Context<'_>) -> Extra {
    Extra {
        host_ip: parsed::<IpAddr>(fields, "host_ip", cx)
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
        interface: fields.string("x-skep-interface", cx).unwrap_or_default(),
        source: parsed(fields, "x-skep-source", cx).unwrap_or_default(),
        balance: parsed(fields, "x-skep-balance", cx).unwrap_or_default(),
    }
}

/// A field whose text has a meaning of its own.
fn parsed<T>(fields: &mut Fields<'_>, name: &'static str, cx: &mut Context<'_>) -> Option<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let field = fields.take(name)?;
    let text = field.string(cx)?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(wrong) => {
            let path = &field.path;
            cx.error(
                field.at(),
                format!("{path}: {wrong}, found \"{}\"", shown(&text)),
            );
            None
        }
    }
}

impl Port {
    pub fn protocol(&self) -> Protocol {
        self.protocol
            .as_ref()
            .map_or_else(Protocol::default, |protocol| protocol.value)
    }

    pub fn mode(&self) -> PublishMode {
        self.mode
            .as_ref()
            .map_or(PublishMode::Ingress, |mode| mode.value)
    }

    /// The port as a cluster publishes it. What is no port was reported, and nothing comes of it.
    pub fn config(&self) -> PortConfig {
        let port = |number: u32| u16::try_from(number).unwrap_or(0);
        PortConfig {
            name: self.name.clone().unwrap_or_default(),
            protocol: self.protocol(),
            target_port: port(self.target),
            published_port: port(self.published),
            publish_mode: self.mode(),
            host_ip: self.extra.host_ip.clone(),
            interface: self.extra.interface.clone(),
            source: self.extra.source,
            balance: self.extra.balance,
        }
    }

    /// What makes two entries of several files the same port.
    fn identity(&self) -> (u32, u32, Protocol, &str, &str) {
        let protocol = self.protocol();
        let Extra {
            host_ip, interface, ..
        } = &self.extra;
        match self.published {
            0 => (0, self.target, protocol, host_ip, interface),
            published => (published, 0, protocol, host_ip, interface),
        }
    }

    pub fn print(&self) -> Out {
        let mut out = MapOut::default();
        out.put_text("name", self.name.as_deref());
        out.put_text("mode", self.mode.as_ref().map(|mode| mode.text.as_str()));
        out.put("target", Out::Int(self.target.into()));
        out.put("published", Out::Int(self.published.into()));
        let protocol = self.protocol.as_ref();
        out.put_text("protocol", protocol.map(|protocol| protocol.text.as_str()));
        let Extra {
            host_ip,
            interface,
            source,
            balance,
        } = &self.extra;
        let given = |text: &'static str, is_given: bool| is_given.then_some(text);
        out.put_text(
            "host_ip",
            Some(host_ip.as_str()).filter(|ip| !ip.is_empty()),
        );
        out.put_text(
            "x-skep-interface",
            Some(interface.as_str()).filter(|name| !name.is_empty()),
        );
        out.put_text(
            "x-skep-source",
            given(source.as_str(), *source != PortSource::default()),
        );
        out.put_text(
            "x-skep-balance",
            given(balance.as_str(), *balance != PortBalance::default()),
        );
        out.done()
    }
}

/// Puts later ports over earlier ones; the result is ordered by published port.
pub(crate) fn merge_into(base: &mut Vec<Port>, later: Vec<Port>) {
    if later.is_empty() || base.is_empty() {
        base.extend(later);
        return;
    }
    base.retain(|port| !later.iter().any(|new| new.identity() == port.identity()));
    base.extend(later);
    base.sort_by_key(|port| port.published);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let at = At {
            source: 0,
            line: 1,
            column: 1,
        };
        let short = match parse_short(text) {
            Ok(short) => short,
            Err(wrong) => return wrong,
        };
        let ports: Vec<String> = short
            .ports(at)
            .iter()
            .map(|p| format!("{}:{}/{}", p.published, p.target, p.protocol().as_str()))
            .collect();
        format!(
            "{}{}",
            ports.join(" "),
            match short.address.as_str() {
                "" => String::new(),
                address => format!(" at {address}"),
            }
        )
    }

    #[test]
    fn the_short_syntax() {
        for (text, wanted) in [
            ("80", "0:80/tcp"),
            ("8080:80", "8080:80/tcp"),
            ("53:53/udp", "53:53/udp"),
            ("81:81/SCTP", "81:81/sctp"),
            (":80", "0:80/tcp"),
            (
                "8000-8002:9000-9002",
                "8000:9000/tcp 8001:9001/tcp 8002:9002/tcp",
            ),
            ("9000-9001:80", "9000:80/tcp 9001:80/tcp"),
            ("99-100", "0:100/tcp 0:99/tcp"),
            ("127.0.0.1:80:80", "80:80/tcp at 127.0.0.1"),
            ("0.0.0.0:80:80", "80:80/tcp"),
            ("[::1]:82:82", "82:82/tcp at ::1"),
            ("127.0.0.1::83", "0:83/tcp at 127.0.0.1"),
            ("0:80", "0:80/tcp"),
            ("80:", "no port specified"),
            ("", "no port specified"),
            ("x:y", "invalid containerPort: y"),
            ("x:80", "invalid hostPort: x"),
            ("70000:80", "invalid hostPort: 70000"),
            ("80:0", "80:0/tcp"),
            ("80/udp/tcp", "0:80/udp"),
            ("0-3", "invalid containerPort: 0-3"),
            ("90-80", "invalid containerPort: 90-80"),
            (
                "80:80-82",
                "invalid ranges specified for container and host Ports",
            ),
            (
                "80-81:80-82",
                "invalid ranges specified for container and host Ports",
            ),
            ("nohost:80:80", "invalid IP address: nohost"),
            ("+80", "invalid containerPort: +80"),
            (
                "80:80/foo",
                "invalid protocol value 'foo'. Must be either tcp, udp or sctp",
            ),
        ] {
            assert_eq!(shown(text), wanted, "{text}");
        }
        assert_eq!(parse_short("1-65535").unwrap().targets, (1, 65_535));
    }
}
