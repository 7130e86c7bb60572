//! Firewalls of others: they win, so our links are let through in them.

use crate::lab::{Lab, Task, at, can_run};
use crate::repair::run;
use crate::talk;

/// What a firewall of somebody else does to forwarded packets.
fn closed_firewall(lab: &Lab) {
    for node in ["A", "C"] {
        let netns = lab.station(node);
        let script = "table inet theirs { chain fw { type filter hook forward priority 0; policy drop; \
            ct state established counter accept; }; }\n\
            table ip6 end { chain fw { type filter hook forward priority 10; policy accept; \
            iifname \"nobody\" accept; counter reject; }; }";
        run(&netns, "nft", &[script]).expect("nft is there");
    }
}

#[test]
fn our_links_pass_the_firewalls_of_others() {
    if !can_run() {
        return;
    }
    let mut lab = Lab::new();
    if run(&lab.station("A"), "nft", &["list", "tables"]).is_none() {
        eprintln!("skipped: needs nft");
        return;
    }
    lab.mesh = true;
    let mut inside = Task::new("inside", 0);
    inside.has_gateway = true;
    lab.tasks = vec![Task::new("web", 2).published(5, 80), inside];
    lab.publish(8080, &["web"], 80);
    lab.apply();
    talk::serve(&lab.inside("web"), "web", 80);
    talk::serve(&lab.station("cl1"), "outside", 7000);
    let client = lab.station("cl1");
    let works = |lab: &Lab| {
        ["10.77.0.1", "fd77::1", "10.77.0.3"]
            .iter()
            .all(|entry| talk::tcp(&client, at(entry, 8080)).is_ok())
            && ["10.77.0.101", "fd77::101"]
                .iter()
                .all(|to| talk::tcp(&lab.inside("inside"), at(to, 7000)).is_ok())
    };
    assert!(works(&lab));
    closed_firewall(&lab);
    assert!(!works(&lab), "the firewalls do close");
    let told = |report: &skep_net::Report| {
        let changes = report.changes.iter();
        let firewalls = changes.filter(|change| change.contains("our links through"));
        firewalls.count()
    };
    assert_eq!(told(&lab.apply()[0]), 2);
    assert!(works(&lab), "let through");
    assert!(lab.apply()[0].is_noop(), "once");
    assert_eq!(
        lab.hosts[0].capabilities().foreign_forward_drops,
        [] as [&str; 0]
    );

    // Somebody loads his rules anew.
    run(
        &lab.station("A"),
        "nft",
        &["flush", "chain", "inet", "theirs", "fw"],
    );
    assert!(!works(&lab));
    assert_eq!(told(&lab.apply()[0]), 1);
    assert!(works(&lab));

    // Their rules are as they were, and ours go when the cluster is left.
    let listed = |lab: &Lab| run(&lab.station("C"), "nft", &["list", "ruleset"]).unwrap();
    assert!(listed(&lab).contains("iifname \"gw-*\" counter packets"));
    assert!(lab.hosts[2].remove_everything().is_complete());
    let left = listed(&lab);
    assert!(
        left.contains("ct state established") && left.contains("reject"),
        "{left}"
    );
    assert!(!left.contains("gw-") && !left.contains("sk-ing"), "{left}");
}
