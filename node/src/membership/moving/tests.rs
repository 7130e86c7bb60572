use super::*;
use crate::membership::files::Origins;

/// A host with these addresses, and links that have none.
fn host(addresses: &[(&str, &str)], bare: &[&str]) -> Seen {
    let read = |(name, net): &(&str, &str)| ((*name).to_owned(), net.parse().unwrap());
    let links = addresses.iter().map(|(name, _)| name).chain(bare);
    Seen {
        own: addresses.iter().map(read).collect(),
        links: links.map(|name| (*name).to_owned()).collect(),
    }
}

fn own(addresses: &[(&str, &str)]) -> Seen {
    host(addresses, &[])
}

/// A node known by 192.0.2.1 and this wish, after it has looked at its first addresses.
fn saved(advertise: Option<&str>, first: &Seen) -> Saved {
    let saved = Saved {
        listen: "0.0.0.0:2377".into(),
        advertise: "192.0.2.1:2377".into(),
        data_path: "192.0.2.1".into(),
        origins: Origins {
            listen: Origin::asked(""),
            advertise: Origin {
                asked: advertise.map(str::to_owned),
                ..Origin::default()
            },
            data_path: Origin::asked(""),
        },
        ..Saved::default()
    };
    Moving::default().look(&saved, first).0
}

const FIRST: (&str, &str) = ("eth0", "192.0.2.1/24");
const OTHER: (&str, &str) = ("eth0", "192.0.2.9/24");
const ELSEWHERE: (&str, &str) = ("eth1", "198.51.100.1/24");

fn next_of(wish: Option<&str>, addresses: &[(&str, &str)]) -> Next {
    next_at(wish, &own(addresses))
}

fn next_at(wish: Option<&str>, seen: &Seen) -> Next {
    let saved = saved(wish, &own(&[FIRST]));
    let origin = &saved.origins.advertise;
    let now = "192.0.2.1".parse().unwrap();
    next(&Wish::of(origin, now), now, origin, seen)
}

#[test]
fn what_comes_in_place_of_an_address_is_chosen_as_it_was() {
    let moves = Next::Move("192.0.2.9".parse().unwrap());
    for wish in [None, Some(""), Some("eth0:2377"), Some("192.0.2.1")] {
        assert_eq!(next_of(wish, &[FIRST, OTHER]), Next::Stay, "{wish:?}");
        assert_eq!(next_of(wish, &[OTHER, ELSEWHERE]), moves, "{wish:?}");
        let other_family = next_of(wish, &[("eth0", "fd00::1/64")]);
        assert!(matches!(other_family, Next::Lost(_)), "{wish:?}");
    }
    // An interface was named: its first, as at first. Else somebody must choose.
    let third = ("eth0", "192.0.2.8/24");
    let first_of_it = Next::Move("192.0.2.8".parse().unwrap());
    assert_eq!(next_of(Some("eth0"), &[third, OTHER]), first_of_it);
    for wish in [None, Some(""), Some("192.0.2.1")] {
        assert!(
            matches!(next_of(wish, &[third, OTHER]), Next::Lost(_)),
            "{wish:?}"
        );
    }
    // Of the whole host only where nothing was asked for, and the interface itself is gone.
    let moved = Next::Move("198.51.100.1".parse().unwrap());
    assert_eq!(next_of(Some(""), &[ELSEWHERE]), moved);
    let several = [ELSEWHERE, ("eth2", "203.0.113.1/24")];
    assert!(matches!(next_of(Some(""), &several), Next::Lost(_)));
    let bare = host(&[ELSEWHERE], &["eth0"]);
    assert!(matches!(next_at(Some(""), &bare), Next::Lost(_)));
    for wish in [None, Some("eth0"), Some("192.0.2.1")] {
        assert!(
            matches!(next_of(wish, &[ELSEWHERE]), Next::Lost(_)),
            "{wish:?}"
        );
    }
    // What was asked for an interface and is another one's now.
    let swapped = [("eth1", "192.0.2.1/24"), OTHER];
    assert_eq!(next_of(Some("eth0"), &swapped), moves);
    assert_eq!(next_of(Some(""), &swapped), Next::Stay);
}

#[test]
fn an_address_that_never_was_of_this_host_stays() {
    let saved = saved(Some("192.0.2.1"), &own(&[ELSEWHERE]));
    let mut moving = Moving::default();
    for _ in 0..10 {
        let (now, notices) = moving.look(&saved, &own(&[ELSEWHERE]));
        assert_eq!((now, notices), (saved.clone(), vec![]));
    }
}

/// What is advertised after each look, and what was told.
fn looks(saved: &mut Saved, seen: &Seen, count: usize) -> (Vec<String>, Vec<Notice>) {
    let mut moving = Moving::default();
    let mut told = Vec::new();
    let seen = (0..count).map(|_| {
        let (now, notices) = moving.look(saved, seen);
        *saved = now;
        told.extend(notices);
        saved.advertise.clone()
    });
    (seen.collect(), told)
}

#[test]
fn an_address_is_followed_once_it_has_settled_and_the_data_path_goes_along() {
    let mut node = saved(Some("eth0"), &own(&[FIRST]));
    let (seen, told) = looks(&mut node, &own(&[OTHER]), 4);
    let (old, new) = ("192.0.2.1:2377", "192.0.2.9:2377");
    assert_eq!(seen, [old, new, new, new]);
    assert_eq!(told.len(), 1);
    assert_eq!(
        (node.data_path.as_str(), node.listen.as_str()),
        ("192.0.2.9", "0.0.0.0:2377")
    );
    let (seen, told) = looks(&mut node, &own(&[]), 4);
    assert_eq!(seen, [new; 4]);
    assert!(matches!(told.as_slice(), [Notice::Lost { .. }]), "{told:?}");
}

#[test]
fn a_lease_that_lapses_is_waited_for() {
    const BRIDGE: (&str, &str) = ("virbr0", "192.168.122.1/24");
    let mut node = saved(Some(""), &own(&[FIRST, BRIDGE]));
    let before = node.clone();
    let (_, told) = looks(&mut node, &host(&[BRIDGE], &["eth0"]), 6);
    assert!(matches!(told.as_slice(), [Notice::Lost { .. }]), "{told:?}");
    assert_eq!(node, before);
    let started = Moving::at_start(&before, &host(&[BRIDGE], &["eth0"])).0;
    assert_eq!(started, before);
    let (seen, _) = looks(&mut node, &own(&[OTHER, BRIDGE]), 3);
    assert_eq!(seen.last().unwrap(), "192.0.2.9:2377");
}

#[test]
fn an_interface_that_was_gone_is_gone_back_to() {
    let mut node = saved(Some(""), &own(&[FIRST, ELSEWHERE]));
    let (seen, _) = looks(&mut node, &own(&[ELSEWHERE]), 3);
    assert_eq!(seen.last().unwrap(), "198.51.100.1:2377");
    assert_eq!(node.data_path, "198.51.100.1");
    // Without an address it is no way to go.
    let (seen, told) = looks(&mut node, &host(&[ELSEWHERE], &["eth0"]), 3);
    assert_eq!(seen.last().unwrap(), "198.51.100.1:2377");
    assert!(told.is_empty(), "{told:?}");
    for address in [FIRST, OTHER] {
        let mut node = node.clone();
        let (seen, _) = looks(&mut node, &own(&[address, ELSEWHERE]), 3);
        let (ip, _) = address.1.split_once('/').unwrap();
        assert_eq!(seen.last(), Some(&format!("{ip}:2377")));
        let origin = &node.origins.advertise;
        assert_eq!(
            (origin.interface.as_str(), origin.home.as_str()),
            ("eth0", "")
        );
    }
    // An address that goes over to a bridge takes its interface along.
    let mut node = saved(Some(""), &own(&[FIRST]));
    looks(&mut node, &host(&[("br0", "192.0.2.1/24")], &["eth0"]), 3);
    let origin = &node.origins.advertise;
    assert_eq!(
        (origin.interface.as_str(), origin.home.as_str()),
        ("br0", "")
    );
}

#[test]
fn an_address_that_was_given_is_taken_again() {
    let mut node = saved(Some("192.0.2.1"), &own(&[FIRST]));
    let (old, new) = ("192.0.2.1:2377", "192.0.2.9:2377");
    let (seen, told) = looks(&mut node, &own(&[OTHER]), 6);
    assert_eq!(seen, [old, new, new, new, new, new]);
    let given: IpAddr = "192.0.2.1".parse().unwrap();
    assert!(matches!(&told[..], [Notice::Moved { given: Some(ip), .. }] if *ip == given));
    let (seen, _) = looks(&mut node, &own(&[OTHER, FIRST]), 6);
    assert_eq!(seen.last().map(String::as_str), Some(old));
}

#[test]
fn a_data_path_of_its_own_is_followed_on_its_own() {
    let first = own(&[FIRST, ELSEWHERE]);
    let mut node = saved(Some("eth0"), &first);
    node.data_path = "198.51.100.1".into();
    node.origins.data_path = Origin::asked("eth1");
    node.listen = "192.0.2.1:2377".into();
    node.origins.listen = Origin::asked("eth0");
    node.origins.advertise = Origin::asked("");
    let (_, told) = looks(&mut node, &own(&[OTHER, ("eth1", "198.51.100.2/24")]), 3);
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(node.data_path, "198.51.100.2");
    assert_eq!(
        (node.advertise.as_str(), node.listen.as_str()),
        ("192.0.2.9:2377", "192.0.2.9:2377")
    );
}

#[test]
fn a_node_that_starts_does_not_wait() {
    let before = saved(Some("eth0"), &own(&[FIRST]));
    assert_eq!(
        Moving::at_start(&before, &own(&[OTHER])).0.advertise,
        "192.0.2.9:2377"
    );
    assert_eq!(Moving::at_start(&before, &own(&[FIRST, OTHER])).0, before);
}
