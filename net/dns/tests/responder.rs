//! The responder at its door: query bytes in, answer bytes out.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use skep_dns::{DnsConfig, Outcome, Responder, Zone};
use tempfile::TempDir;

const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;

fn query(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut message = vec![
        0xab,
        0xcd,
        1,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        u8::from(edns.is_some()),
    ];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        message.extend_from_slice(&[0, 0, 41]);
        message.extend_from_slice(&size.to_be_bytes());
        message.extend_from_slice(&[0; 6]);
    }
    message
}

/// An answer as the tests look at it.
#[derive(Debug, PartialEq)]
struct Answer {
    code: u8,
    truncated: bool,
    addresses: Vec<String>,
}

fn parse(reply: &[u8], asked: &[u8]) -> Answer {
    let question_end = 12 + asked[12..].windows(5).position(|w| w[0] == 0).unwrap() + 5;
    assert_eq!(reply[..2], asked[..2]);
    assert_eq!(reply[12..question_end], asked[12..question_end]);
    let count = u16::from_be_bytes([reply[6], reply[7]]);
    let mut at = question_end;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let kind = u16::from_be_bytes([reply[at + 2], reply[at + 3]]);
        let length = u16::from_be_bytes([reply[at + 10], reply[at + 11]]) as usize;
        let data = &reply[at + 12..at + 12 + length];
        addresses.push(match kind {
            A => IpAddr::from(<[u8; 4]>::try_from(data).unwrap()).to_string(),
            AAAA => IpAddr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
            _ => name_text(data),
        });
        at += 12 + length;
    }
    Answer {
        code: reply[3] & 15,
        truncated: reply[2] & 2 != 0,
        addresses,
    }
}

fn name_text(mut data: &[u8]) -> String {
    let mut labels = Vec::new();
    while data[0] != 0 {
        let (label, rest) = data[1..].split_at(data[0] as usize);
        labels.push(String::from_utf8(label.to_vec()).unwrap());
        data = rest;
    }
    labels.join(".")
}

struct Scene {
    dir: TempDir,
    responder: Responder,
}

impl Scene {
    fn new(zones: &[Zone], upstream: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let paths: Vec<PathBuf> = zones
            .iter()
            .enumerate()
            .map(|(index, zone)| {
                let path = dir.path().join(format!("{index}.zone"));
                zone.write(&path).unwrap();
                path
            })
            .collect();
        let upstreams = if upstream {
            vec!["192.0.2.1:53".parse().unwrap()]
        } else {
            vec![]
        };
        let config = DnsConfig {
            zones: paths,
            upstreams,
            ..DnsConfig::default()
        };
        Self {
            dir,
            responder: Responder::new(config),
        }
    }

    fn ask(&mut self, name: &str, kind: u16) -> Answer {
        let asked = query(name, kind, None);
        match self.responder.answer(&asked, false, 7) {
            Outcome::Reply(reply) => parse(&reply, &asked),
            other => panic!("{name}: {other:?}"),
        }
    }
}

fn zone(network: &str, names: &[(&str, &[&str])]) -> Zone {
    let mut zone = Zone::new(network);
    for (name, addresses) in names {
        zone.names.entry((*name).into()).or_default();
        for address in *addresses {
            let address = address.parse().unwrap();
            zone.add(name, address);
            zone.point(address, name);
        }
    }
    zone
}

fn known(addresses: &[&str]) -> Answer {
    let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
    Answer {
        code: 0,
        truncated: false,
        addresses,
    }
}

#[test]
fn names_are_found_whatever_their_case_and_by_network() {
    let mut scene = Scene::new(
        &[
            zone(
                "front",
                &[("web", &["10.0.1.2"]), ("tasks.web", &["10.0.1.3"])],
            ),
            zone(
                "Back_1",
                &[("web", &["10.0.2.2"]), ("db", &["10.0.2.9", "fd00::9"])],
            ),
        ],
        true,
    );
    assert_eq!(scene.ask("web", A), known(&["10.0.1.2"]));
    assert_eq!(scene.ask("WeB", A), known(&["10.0.1.2"]));
    assert_eq!(scene.ask("tasks.web", A), known(&["10.0.1.3"]));
    assert_eq!(scene.ask("web.back_1", A), known(&["10.0.2.2"]));
    assert_eq!(scene.ask("tasks.web.front", A), known(&["10.0.1.3"]));
    assert_eq!(scene.ask("db", AAAA), known(&["fd00::9"]));
    assert_eq!(
        scene.ask("web", AAAA),
        known(&[]),
        "known name, no such address"
    );
    assert_eq!(scene.ask("web", TXT), known(&[]));
}

#[test]
fn reverse_names() {
    let mut scene = Scene::new(
        &[zone("n", &[("web.1.abc", &["10.0.1.2", "fd00::a"])])],
        true,
    );
    assert_eq!(
        scene.ask("2.1.0.10.in-addr.arpa", PTR),
        known(&["web.1.abc.n"])
    );
    let v6 = format!("a.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(scene.ask(&v6, PTR), known(&["web.1.abc.n"]));
    let stranger = query("9.1.0.10.in-addr.arpa", PTR, None);
    assert_eq!(
        scene.responder.answer(&stranger, false, 0),
        Outcome::Forward
    );
}

#[test]
fn unknown_names_are_forwarded_or_refused() {
    let mut with = Scene::new(&[zone("n", &[("web", &["10.0.1.2"])])], true);
    assert_eq!(
        with.responder
            .answer(&query("example.com", A, None), false, 0),
        Outcome::Forward
    );
    assert_eq!(
        with.responder
            .answer(&query("web.other", A, None), false, 0),
        Outcome::Forward
    );
    let mut without = Scene::new(&[zone("n", &[("web", &["10.0.1.2"])])], false);
    assert_eq!(without.ask("example.com", A).code, 2);
    assert_eq!(without.ask("webb", A).code, 3);
}

#[test]
fn a_replaced_file_is_seen_by_the_next_query_and_a_damaged_one_is_not() {
    let mut scene = Scene::new(&[zone("n", &[("web", &["10.0.1.2"])])], false);
    assert_eq!(scene.ask("web", A), known(&["10.0.1.2"]));
    let path = scene.dir.path().join("0.zone");
    zone("n", &[("web", &["10.0.1.3"])]).write(&path).unwrap();
    assert_eq!(scene.ask("web", A), known(&["10.0.1.3"]));
    std::fs::write(&path, "{ half").unwrap();
    assert_eq!(scene.ask("web", A), known(&["10.0.1.3"]));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(scene.ask("web", A).code, 3);
    let again = zone("n", &[("web", &["10.0.1.4"])]);
    assert!(again.write_if_changed(&path).unwrap());
    assert!(!again.write_if_changed(&path).unwrap());
    assert_eq!(scene.ask("web", A), known(&["10.0.1.4"]));
}

#[test]
fn many_addresses_are_shuffled_and_cut_over_udp() {
    let addresses: Vec<String> = (0..100).map(|n| format!("10.0.1.{n}")).collect();
    let texts: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut scene = Scene::new(&[zone("n", &[("web", &texts)])], false);
    let cut = scene.ask("web", A);
    assert!(cut.truncated);
    assert!(
        (20..100).contains(&cut.addresses.len()),
        "{}",
        cut.addresses.len()
    );

    let mut firsts = BTreeSet::new();
    for random in 0..50 {
        let asked = query("web", A, Some(4096));
        let Outcome::Reply(reply) = scene.responder.answer(&asked, false, random) else {
            panic!()
        };
        let answer = parse(&reply, &asked);
        assert!(!answer.truncated);
        assert_eq!(answer.addresses.iter().collect::<BTreeSet<_>>().len(), 100);
        firsts.insert(answer.addresses[0].clone());
    }
    assert!(firsts.len() > 20, "{firsts:?}");

    let asked = query("web", A, None);
    let Outcome::Reply(reply) = scene.responder.answer(&asked, true, 1) else {
        panic!()
    };
    assert_eq!(parse(&reply, &asked).addresses.len(), 100);
}

#[test]
fn odd_messages_get_an_error_or_silence() {
    let mut scene = Scene::new(&[zone("n", &[("web", &["10.0.1.2"])])], false);
    let mut ask = |bytes: &[u8]| match scene.responder.answer(bytes, false, 0) {
        Outcome::Reply(reply) => Some(reply[3] & 15),
        Outcome::Drop => None,
        Outcome::Forward => panic!("forwarded"),
    };
    assert_eq!(ask(&[]), None);
    assert_eq!(ask(&[0; 11]), None);
    assert_eq!(
        ask(&[0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        None,
        "an answer is no query"
    );
    assert_eq!(ask(&[0; 12]), Some(1), "no question");
    assert_eq!(
        ask(&[0, 0, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        Some(4),
        "update"
    );
    assert_eq!(
        ask(&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1]),
        Some(1)
    );
}

#[test]
fn helpers_for_forwarding() {
    let asked = query("example.com", A, None);
    let failed = skep_dns::servfail(&asked).unwrap();
    assert_eq!(parse(&failed, &asked).code, 2);
    assert!(skep_dns::answers(&asked, &failed));
    assert!(!skep_dns::answers(&asked, &skep_dns::with_id(&failed, 1)));
    assert!(!skep_dns::answers(&query("example.org", A, None), &failed));
    assert!(!skep_dns::is_truncated(&failed));
}

proptest::proptest! {
    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80), tcp: bool) {
        let mut scene = Scene::new(&[zone("n", &[("web", &["10.0.1.2"])])], true);
        let _ = scene.responder.answer(&bytes, tcp, 3);
        let mut good = query("web.n", A, Some(1232));
        for (at, byte) in bytes.iter().enumerate() {
            let place = 4 + at % (good.len() - 4);
            good[place] ^= byte;
            let _ = scene.responder.answer(&good, tcp, 3);
            let _ = skep_dns::servfail(&good);
            let _ = skep_dns::answers(&good, &bytes);
        }
    }
}

#[test]
fn a_group_finds_its_own_name_before_that_of_others() {
    let mut shared = zone("front", &[("db", &["10.0.1.3", "10.0.1.4"])]);
    shared.add_for("shop", "db", "10.0.1.4".parse().unwrap());
    for (group, wanted) in [
        ("shop", vec!["10.0.1.4"]),
        ("blog", vec!["10.0.1.3", "10.0.1.4"]),
    ] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("0.zone");
        shared.write(&path).unwrap();
        let mut responder = Responder::new(DnsConfig {
            zones: vec![path],
            group: group.to_owned(),
            ..DnsConfig::default()
        });
        for name in ["db", "DB.front"] {
            let asked = query(name, A, None);
            let Outcome::Reply(reply) = responder.answer(&asked, false, 7) else {
                panic!("{name} is not answered");
            };
            let mut found = parse(&reply, &asked).addresses;
            found.sort();
            assert_eq!(found, wanted, "{name} in {group}");
        }
    }
}
