//! Level-triggered: nothing to do when all is well, repair when it is not, nothing
//! left when all is taken away.

use std::process::Command;
use std::time::Instant;

use skep_net::{BridgeState, Host, HostConfig, HostState, Netns, Report};

use crate::lab::{Lab, Task, at, can_run, lone_host, overlay, vip};
use crate::talk;

fn cluster() -> Lab {
    let mut lab = Lab::new();
    lab.mesh = true;
    lab.networks
        .push(overlay("red", 5001, &["10.0.1.0/24", "fd01::/64"]));
    lab.networks.push(overlay("blue", 5002, &["10.0.2.0/24"]));
    let mut caller = Task::new("a1", 0)
        .on("red", &["10.0.1.11", "fd01::11"])
        .on("blue", &["10.0.2.11"]);
    caller.services = vec![vip("10.0.1.2", &["10.0.1.21"]), vip("10.0.1.3", &[])];
    caller.has_gateway = true;
    lab.tasks = vec![
        caller,
        Task::new("b1", 1)
            .on("red", &["10.0.1.21", "fd01::21"])
            .published(5, 80),
        Task::new("c1", 2)
            .on("red", &["10.0.1.31"])
            .on("blue", &["10.0.2.31"])
            .published(6, 80),
    ];
    lab.publish(8080, &["b1", "c1"], 80);
    lab.publish(8081, &[], 80);
    lab
}

fn works(lab: &Lab) {
    let from = lab.inside("a1");
    assert_eq!(talk::tcp(&from, at("10.0.1.2", 80)).unwrap().name, "b1");
    assert_eq!(talk::tcp(&from, at("10.0.2.31", 80)).unwrap().name, "c1");
    let client = lab.station("cl1");
    for _ in 0..2 {
        for entry in ["10.77.0.1", "10.77.0.2", "10.77.0.3", "fd77::1"] {
            talk::tcp(&client, at(entry, 8080)).unwrap();
        }
    }
}

fn changes(reports: &[Report]) -> Vec<String> {
    reports
        .iter()
        .flat_map(|report| report.changes.clone())
        .collect()
}

/// Runs a program in a namespace; `None` when it is not installed.
pub fn run(netns: &Netns, program: &str, arguments: &[&str]) -> Option<String> {
    let output = netns
        .run(|| Command::new(program).args(arguments).output())
        .unwrap();
    match output {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{program} {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(_) => {
            eprintln!("skipped a part: `{program}` is not installed");
            None
        }
    }
}

#[test]
fn applying_twice_does_nothing_the_second_time() {
    if !can_run() {
        return;
    }
    let lab = cluster();
    assert!(!changes(&lab.apply()).is_empty());
    assert_eq!(changes(&lab.apply()), [] as [&str; 0]);
}

#[test]
fn a_restarted_daemon_finds_everything_as_it_left_it() {
    if !can_run() {
        return;
    }
    let mut lab = cluster();
    lab.apply();
    for name in ["b1", "c1"] {
        talk::serve(&lab.inside(name), name, 80);
    }
    works(&lab);
    for (index, name) in crate::lab::NODES.iter().enumerate() {
        let config = HostConfig::new(lab.run_dir(index));
        lab.hosts[index] = lab
            .station(name)
            .run(|| Host::open(config))
            .unwrap()
            .unwrap();
    }
    assert_eq!(changes(&lab.apply()), [] as [&str; 0]);
    works(&lab);
}

#[test]
fn whatever_is_broken_is_repaired() {
    if !can_run() {
        return;
    }
    let lab = cluster();
    lab.apply();
    for name in ["b1", "c1"] {
        talk::serve(&lab.inside(name), name, 80);
    }
    works(&lab);
    let root = lab.station("A");
    let sandbox = |network: &str| {
        let names = lab.hosts[0].namespaces().list().unwrap();
        let mut found = names
            .iter()
            .filter(|name| name.starts_with("n-"))
            .map(|name| lab.hosts[0].namespaces().open(name).unwrap());
        // Both are alike; which is which does not matter for breaking them.
        if network == "red" {
            found.next()
        } else {
            found.next_back()
        }
        .unwrap()
    };
    let task = lab.inside("a1");
    let breakages: [(&Netns, &str, &[&str]); 14] = [
        (&root, "ip", &["link", "delete", "sk-ing"]),
        (&root, "ip", &["link", "set", "sk-ing", "down"]),
        (&root, "ip", &["rule", "delete", "pref", "1000"]),
        (&root, "ip", &["route", "flush", "table", "20000"]),
        (
            &root,
            "ip",
            &["neigh", "flush", "dev", "sk-ing", "nud", "permanent"],
        ),
        (&root, "nft", &["delete", "table", "inet", "sk-mesh"]),
        (
            &root,
            "nft",
            &["flush", "chain", "inet", "sk-mesh", "post-nat"],
        ),
        (&root, "nft", &["flush", "map", "inet", "sk-mesh", "be4"]),
        (&root, "nft", &["delete", "table", "netdev", "sk-mesh"]),
        (&sandbox("red"), "ip", &["link", "delete", "vxlan0"]),
        (&sandbox("blue"), "ip", &["link", "delete", "br0"]),
        (
            &sandbox("red"),
            "ip",
            &["link", "set", "vxlan0", "mtu", "1400"],
        ),
        (&task, "ip", &["link", "delete", "eth0"]),
        (&task, "nft", &["delete", "table", "inet", "sk-svc"]),
    ];
    for (netns, program, arguments) in breakages {
        if run(netns, program, arguments).is_none() {
            continue;
        }
        let report = lab.hosts[0].apply(&lab.state(0));
        assert!(report.is_complete(), "{arguments:?}: {report:?}");
        assert!(!report.is_noop(), "{arguments:?} was not noticed");
        let again = lab.hosts[0].apply(&lab.state(0));
        assert!(again.is_noop(), "{arguments:?}: {again:?}");
        works(&lab);
    }
}

#[test]
fn datagrams_that_went_past_missing_tables_are_led_again() {
    if !can_run() {
        return;
    }
    let mut lab = cluster();
    lab.task("a1").dns_ports = Some((5301, 5301));
    lab.apply();
    let inside = lab.inside("a1");
    talk::serve(&lab.inside("b1"), "b1", 80);
    talk::serve_on(&inside, "resolver", at("127.0.0.11", 5301));
    let open = |to, from| talk::Datagrams::open(&inside, to, from).unwrap();
    let [service, resolver] = [
        open(at("10.0.1.2", 80), 4001),
        open(at("127.0.0.11", 53), 4002),
    ];
    for table in ["sk-svc", "sk-dns"] {
        let listed = run(&inside, "nft", &["list", "table", "inet", table]);
        let Some(listed) = listed else {
            eprintln!("skipped: nft is not installed");
            return;
        };
        assert!(listed.contains("chain nat-out"), "{listed}");
        run(&inside, "nft", &["delete", "table", "inet", table]);
    }
    assert!(service.ask().is_err());
    assert!(resolver.ask().is_err());
    let report = lab.hosts[0].apply(&lab.state(0));
    assert!(report.is_complete(), "{report:?}");
    // The same sockets: what the kernel remembers of them is the way past the tables.
    assert_eq!(service.ask().unwrap().name, "b1");
    assert_eq!(resolver.ask().unwrap().name, "resolver");
    assert!(lab.hosts[0].apply(&lab.state(0)).is_noop());
}

#[test]
fn nothing_is_left_when_all_is_taken_away() {
    if !can_run() {
        return;
    }
    let mut lab = cluster();
    let look = |lab: &Lab| {
        ["link", "route", "rule", "tables"].map(|what| match what {
            "link" => run(&lab.station("A"), "ip", &["-br", "link"]),
            // A host that forwards answers to subnets' anycast addresses, and
            // that it forwards is left to the host. The kernel's own addresses
            // come when they please.
            "route" => {
                run(&lab.station("A"), "ip", &["route", "show", "table", "all"]).map(|text| {
                    text.lines()
                        .filter(|line| !line.contains("anycast") && !line.contains("fe80:"))
                        .collect()
                })
            }
            "rule" => run(&lab.station("A"), "ip", &["rule"]),
            _ => run(&lab.station("A"), "nft", &["list", "tables"]),
        })
    };
    let before = look(&lab);
    lab.apply();
    assert_ne!(look(&lab), before);

    lab.tasks.clear();
    lab.published.clear();
    lab.apply();
    assert!(
        lab.hosts[0].namespaces().list().unwrap().is_empty(),
        "no sandboxes"
    );
    assert_eq!(changes(&lab.apply()), [] as [&str; 0]);
    let report = lab.hosts[0].remove_everything();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(look(&lab), before);
}

#[test]
fn what_is_not_ours_stays() {
    if !can_run() {
        return;
    }
    let (host, netns, _dir) = lone_host();
    if run(
        &netns,
        "ip",
        &["link", "add", "gw-theirs", "type", "bridge"],
    )
    .is_none()
    {
        return;
    }
    run(
        &netns,
        "ip",
        &["rule", "add", "pref", "1000", "fwmark", "7", "lookup", "77"],
    );
    run(&netns, "ip", &["route", "add", "blackhole", "192.0.2.0/24"]);
    run(&netns, "nft", &["add", "table", "inet", "theirs"]);
    let look = || {
        [
            run(&netns, "ip", &["-br", "link"]),
            run(&netns, "ip", &["rule"]),
            run(&netns, "ip", &["route"]),
            run(&netns, "nft", &["list", "tables"]),
        ]
    };
    let before = look();
    let state: HostState = {
        let node = skep_net::LocalNode {
            index: 1,
            vtep: "127.0.0.1".parse().unwrap(),
            data_port: 4789,
            ingress: None,
            ingress_vni: skep_net::names::INGRESS_VNI,
            ingress_mtu: 1450,
            addresses: Vec::new(),
        };
        HostState::empty(node)
    };
    assert!(host.apply(&state).is_complete());
    assert!(host.apply_bridges(&BridgeState::default()).is_complete());
    assert!(host.remove_everything().is_complete());
    assert_eq!(look(), before);
}

#[test]
fn the_firewall_reads_as_written() {
    if !can_run() {
        return;
    }
    let lab = cluster();
    lab.apply();
    let Some(mesh) = run(
        &lab.station("A"),
        "nft",
        &["list", "table", "inet", "sk-mesh"],
    ) else {
        return;
    };
    for line in [
        "udp dport 4789 ip saddr != @vtep4 drop",
        "udp dport 4789 notrack",
        "iifname \"sk-ing\" ct original zone set ether saddr map @zone",
        "iifname != \"lo\" ip daddr 127.0.0.0/8 drop",
        "iifgroup != 90 iifname != \"lo\" ip daddr 172.18.0.0/16 drop",
        "iifname \"sk-ing\" ct state new ct mark set ether saddr map @nodemark",
        "fib daddr type local meta l4proto . th dport vmap @pub",
        "oifname \"sk-ing\" tcp flags syn tcp option maxseg size set rt mtu",
        "ct state established,related accept",
        "iifname \"sk-ing\" oifgroup 90 ip daddr . meta l4proto . th dport @task_open4 accept",
        "oifname \"sk-ing\" ip saddr 127.0.0.0/8 snat ip to 10.255.0.1",
        "iifgroup 90 oifgroup 90 ct status dnat masquerade",
        "iifgroup 90 oifgroup != 90 ip saddr 172.18.0.0/16 masquerade",
    ] {
        assert!(mesh.contains(line), "no `{line}` in\n{mesh}");
    }
    let egress = run(
        &lab.station("A"),
        "nft",
        &["list", "table", "netdev", "sk-mesh"],
    )
    .unwrap();
    for line in [
        "egress device \"sk-ing\"",
        "set meta mark map @peer_mac",
        "0x5a000002 : 02:42:0a:ff:00:02",
    ] {
        assert!(egress.contains(line), "no `{line}` in\n{egress}");
    }
    let services = run(
        &lab.inside("a1"),
        "nft",
        &["list", "table", "inet", "sk-svc"],
    )
    .unwrap();
    for line in [
        "ip daddr vmap @vip4",
        "ip daddr @noep4 meta l4proto tcp reject with tcp reset",
        "ip daddr @noep4 reject",
        "10.0.1.2 : goto svc-0a000102",
    ] {
        assert!(services.contains(line), "no `{line}` in\n{services}");
    }
}

#[test]
fn a_sandbox_is_ready_in_milliseconds() {
    if !can_run() {
        return;
    }
    let mut lab = cluster();
    lab.apply();
    let task = Task::new("fresh", 0)
        .on("red", &["10.0.1.41"])
        .on("blue", &["10.0.2.41"])
        .published(9, 80);
    let mut best = u128::MAX;
    for _ in 0..10 {
        let begun = Instant::now();
        let path = lab.hosts[0]
            .prepare_sandbox(&task.sandbox(9), &lab.networks)
            .unwrap();
        best = best.min(begun.elapsed().as_micros());
        assert!(path.exists());
        let before = lab.hosts[0].apply(&HostState {
            sandboxes: [lab.state(0).sandboxes, vec![task.sandbox(9)]].concat(),
            ..lab.state(0)
        });
        assert!(before.is_complete(), "{before:?}");
        lab.hosts[0].remove_sandbox(&task.netns()).unwrap();
        assert!(!path.exists());
    }
    eprintln!("preparing a sandbox took {best} µs at best");
    assert!(best < 50_000, "{best} µs");

    // Ready means ready: it talks at once.
    lab.tasks.push(task.clone());
    lab.apply();
    talk::serve(&lab.inside("b1"), "b1", 80);
    assert_eq!(
        talk::tcp(&lab.inside("fresh"), at("10.0.1.21", 80))
            .unwrap()
            .name,
        "b1"
    );
}

#[test]
fn the_host_can_what_it_needs() {
    if !can_run() {
        return;
    }
    let (host, netns, _dir) = lone_host();
    let found = host.capabilities();
    assert!(
        found.nf_tables && found.vxlan && found.netdev_egress && found.conntrack_zones,
        "{found:?}"
    );
    assert_eq!(found.foreign_forward_drops, [] as [&str; 0]);
    run(&netns, "nft", &["add", "table", "ip", "theirs"]);
    let chain = "{ type filter hook forward priority 0; policy drop; }";
    if run(
        &netns,
        "nft",
        &["add", "chain", "ip", "theirs", "fw-in", chain],
    )
    .is_some()
    {
        let config = HostConfig::new(host.config().run_dir.clone());
        let again = netns.run(|| Host::open(config)).unwrap().unwrap();
        assert_eq!(
            again.capabilities().foreign_forward_drops,
            ["ip theirs fw-in"]
        );
    }
}

#[test]
fn ten_thousand_endpoints_and_many_services_take_moments() {
    if !can_run() {
        return;
    }
    let (host, _netns, _dir) = lone_host();
    let mut lab_overlay = overlay("red", 5001, &["10.0.0.0/16"]);
    lab_overlay.remote = (0..10_000u32)
        .map(|number| {
            let ip = std::net::IpAddr::from((0x0a00_4000 + number).to_be_bytes());
            let vtep = std::net::IpAddr::from([127, 0, 1, (number % 200) as u8]);
            skep_net::RemoteEndpoint {
                ips: vec![ip],
                mac: skep_net::Mac::of(ip),
                vtep,
                node: 0,
            }
        })
        .collect();
    let services: Vec<skep_net::Vip> = (1..=20)
        .map(|number| {
            vip(
                &format!("10.0.0.{number}"),
                &["10.0.64.1", "10.0.64.2", "10.0.64.3"],
            )
        })
        .collect();
    let node = skep_net::LocalNode {
        index: 1,
        vtep: "127.0.0.1".parse().unwrap(),
        data_port: 4789,
        ingress: None,
        ingress_vni: skep_net::names::INGRESS_VNI,
        ingress_mtu: 1450,
        addresses: Vec::new(),
    };
    let mut state = HostState::empty(node);
    state.sandboxes = (1..=30)
        .map(|number: u8| {
            let name: &'static str = Box::leak(format!("task-{number}").into_boxed_str());
            let address: &'static str = Box::leak(format!("10.0.1.{number}").into_boxed_str());
            let mut task = Task::new(name, 0).on("red", &[address]);
            task.services = services.clone();
            task.sandbox(0)
        })
        .collect();
    state.overlays = vec![lab_overlay];
    let timed = |what: &str, state: &HostState| {
        let begun = Instant::now();
        let report = host.apply(state);
        let took = begun.elapsed();
        assert!(report.is_complete(), "{:?}", report.failures);
        eprintln!("{what}: {} changes in {took:?}", report.changes.len());
        assert!(took.as_secs() < 20, "{what}: {took:?}");
        report
    };
    let _ = timed("everything", &state);
    assert!(timed("nothing new", &state).is_noop());
    state.overlays[0].remote.truncate(5_000);
    for sandbox in &mut state.sandboxes {
        sandbox.services[0].backends.pop();
    }
    let _ = timed("half of it gone", &state);
    assert!(timed("nothing new", &state).is_noop());
    assert!(host.remove_everything().is_complete());
}
