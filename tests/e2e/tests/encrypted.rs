//! Encrypted networks: made with the docker client, unreadable on the wire, going on without
//! daemons and through new keys, refused where they cannot be.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use skep_e2e::needs;
use skep_e2e::run::run;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, secs};

const PORT: u16 = 8080;
/// What is looked for on the wire.
const MARKER: &str = "marked-0123456789-marked";
/// How often it is sent, and how many of it each time.
const SENT: (usize, usize) = (20, 300);
/// What runs through a tunnel while keys are replaced or daemons are gone may wait so long at most:
/// less than TCP waits before it sends a first packet again that was lost.
const SLOWEST: Duration = Duration::from_millis(900);
const NODES: [&str; 3] = ["n1", "n2", "n3"];

#[test]
fn an_encrypted_network_is_one_all_the_time() {
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    if let Some(why) = cannot(c) {
        println!("skipped: {why}");
        return;
    }
    let mut checks = Checks::new();
    checks.check("the docker client makes one, and it answers across nodes", || {
        if needs::docker().is_some() {
            c.docker("n1", "network create -d overlay --opt encrypted secret").ok();
        } else {
            c.skep("n1", "network create -d overlay --opt encrypted secret").ok();
        }
        c.skep("n1", "network create -d overlay open").ok();
        for (name, network, node, flags) in [
            ("api", "secret", "n2", ""),
            ("web", "secret", "n1", "--publish 8080:8080"),
            ("plain-api", "open", "n2", ""),
            ("plain-web", "open", "n1", ""),
        ] {
            let line = format!(
                "service create -d --no-resolve-image --name {name} --network {network} --constraint node.hostname=={node} {flags} skep/hello:latest"
            );
            c.skep("n1", &line).ok();
        }
        for name in ["api", "web", "plain-api", "plain-web"] {
            c.wait_running("n1", name, 1, secs(30));
        }
        eventually("web fetches from api", secs(20), || fetch(c));
        let shown = c.get("n1", "/networks/secret");
        assert!(shown["Options"].get("encrypted").is_some(), "{shown}");
    });
    checks.check(
        "its task has the MTU that is left, and the host says what it costs",
        || {
            if let (Some(nsenter), Some(ip)) = (needs::program("nsenter"), needs::program("ip")) {
                let task = c.running("n1", "web").remove(0);
                let pid = c
                    .container_pid("n1", &task.container)
                    .expect("it runs")
                    .to_string();
                let mut look = Command::new(nsenter);
                look.args(["-t", &pid, "-n"])
                    .arg(ip)
                    .args(["link", "show", "eth0"]);
                let shown = run(&mut look, b"", secs(5)).ok();
                assert!(shown.contains("mtu 1370"), "{shown}");
            }
            if !processes(c).is_empty() {
                let warnings = c.get("n1", "/info")["Warnings"].to_string();
                assert!(
                    warnings.contains("The kernel has no WireGuard"),
                    "{warnings}"
                );
            }
        },
    );
    checks.check("nothing of it can be read on the wire", || {
        if needs::program("tcpdump").is_none() {
            println!("skipped: there is no tcpdump to look at the wire with");
            return;
        }
        let (clear, bytes) = on_the_wire(c, "plain-web", "plain-api");
        assert!(clear > 0, "a clear network is read in {bytes} bytes");
        let (secret, bytes) = on_the_wire(c, "web", "api");
        assert!(bytes > SENT.0 * SENT.1 * MARKER.len(), "only {bytes} bytes");
        assert_eq!(secret, 0);
    });
    checks.check("killed daemons leave it running, and adopt it", || {
        let before = processes(c);
        let (asked, slowest) = asking(c, || {
            for node in ["n1", "n2"] {
                c.kill(node);
            }
            std::thread::sleep(secs(1));
            for node in ["n1", "n2"] {
                c.start(node);
            }
        });
        assert!(asked > 20 && slowest < SLOWEST, "{asked}, {slowest:?}");
        assert_eq!(processes(c), before);
        assert_eq!(
            generations(c),
            Ok(vec![vec![0]; 3]),
            "no node forgot its key"
        );
        for node in NODES {
            c.wait_ready("n1", node, secs(30));
        }
    });
    checks.check("new keys replace the old without a loss", || {
        let (asked, slowest) = asking(c, || {
            for generation in [1, 2] {
                c.skep("n1", "swarm update --rotate-data-keys").ok();
                eventually("every node has the new key only", secs(30), || {
                    let now = generations(c)?;
                    holds(
                        now == [vec![generation], vec![generation], vec![generation]],
                        format!("{now:?}"),
                    )
                });
            }
        });
        assert!(asked > 10 && slowest < SLOWEST, "{asked}, {slowest:?}");
    });
    checks.check(
        "the cluster's default encrypts what does not say otherwise",
        || {
            c.skep("n1", "swarm update --encrypt-networks=true").ok();
            c.skep("n1", "network create -d overlay by-default").ok();
            c.skep(
                "n1",
                "network create -d overlay --opt encrypted=false opted-out",
            )
            .ok();
            let option = |name: &str| {
                c.get("n1", &format!("/networks/{name}"))["Options"]["encrypted"].clone()
            };
            assert_eq!(
                (option("by-default"), option("opted-out")),
                ("true".into(), "false".into())
            );
            c.skep(
                "n1",
                "network create -d overlay --opt encrypted=perhaps odd",
            )
            .fails("want true or false");
            c.skep("n1", "network rm by-default opted-out").ok();
        },
    );
    checks.check("its tunnels end with it", || {
        for name in ["api", "web"] {
            c.remove_service("n1", name);
        }
        c.skep("n1", "network rm secret").ok();
        eventually("no process and no key is left", secs(20), || {
            let left = processes(c);
            holds(left.is_empty(), format!("{left:?}"))?;
            let keys = generations(c)?;
            holds(keys.iter().all(Vec::is_empty), format!("{keys:?}"))
        });
    });
    checks.check("a node without its tunnel runs no task on it and says why, until it has", || {
        // A device of somebody else's has the tunnel's port.
        let ip = |line: &str| {
            let words: Vec<&str> = std::iter::once("ip").chain(line.split(' ')).collect();
            c.exec("n3", &words).ok();
        };
        ip("link add hold type vxlan id 9 dstport 4790");
        ip("link set hold up");
        c.skep("n1", "network create -d overlay --opt encrypted late")
            .ok();
        c.skep("n1", "service create -d --no-resolve-image --name late --network late --constraint node.hostname==n3 skep/hello:latest")
            .ok();
        eventually("the task is rejected with the reason", secs(20), || {
            let tasks = c.try_tasks("n1", "late")?;
            let says = |text: &str| tasks.iter().any(|task| task.error.contains(text));
            holds(says("sk-wg0") && says("in use"), format!("{tasks:?}"))
        });
        ip("link del hold");
        c.wait_running("n1", "late", 1, secs(30));
        c.remove_service("n1", "late");
        c.skep("n1", "network rm late").ok();
    });
    checks.end();
}

#[test]
fn where_nothing_can_encrypt_it_is_refused() {
    let flags = ["--data-path-encryption", "none"];
    let Some(cluster) = Cluster::up_with(1, 1, &flags) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    checks.check("creation fails at once and says why", || {
        let refusal = "no node of the cluster is able to (n1: it is switched off (--data-path-encryption=none))";
        if needs::docker().is_some() {
            c.docker("n1", "network create -d overlay --opt encrypted secret").fails(refusal);
        }
        c.skep("n1", "network create -d overlay --opt encrypted secret").fails(refusal);
        c.skep("n1", "network inspect secret").fails("not found");
        c.skep("n1", "network create -d overlay --opt encrypted=false open").ok();
        c.skep("n1", "swarm update --rotate-data-keys").fails("no network is encrypted");
    });
    checks.end();
}

/// Why nodes cannot encrypt here.
fn cannot(c: &Cluster) -> Option<String> {
    let nodes = c.get("n1", "/nodes");
    let told = &nodes[0]["Description"]["Encryption"];
    (told["Method"] == "none").then(|| told["Reason"].to_string())
}

/// Asks web for what it fetches from api, over the encrypted network.
fn fetch(c: &Cluster) -> Result<String, String> {
    c.page("n1", PORT, "/fetch?url=http%3A%2F%2Fapi%3A8080%2Fhealthz")
}

/// Asks all the time while something is done. How often that was, and the slowest; none may fail.
fn asking(c: &Cluster, done: impl FnOnce()) -> (usize, Duration) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut asked, mut slowest) = (0, Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answer = fetch(c);
                answer.unwrap_or_else(|why| panic!("after {asked} answers: {why}"));
                slowest = slowest.max(began.elapsed());
                asked += 1;
            }
            (asked, slowest)
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(done));
        over.store(true, Ordering::Relaxed);
        let counted = client.join().expect("every question is answered");
        if let Err(why) = done {
            std::panic::resume_unwind(why);
        }
        counted
    })
}

/// How often the marker is seen on n1's wire while one service sends it to another, and how many
/// bytes were seen.
fn on_the_wire(c: &Cluster, from: &str, to: &str) -> (usize, usize) {
    let file = c.root.join(format!("{from}.pcap"));
    let path = file.display().to_string();
    let task = c.running("n1", from).remove(0);
    std::thread::scope(|scope| {
        let look = [
            "timeout", "4", "tcpdump", "-i", "eth0", "-U", "-s", "0", "-w", &path,
        ];
        let looking = scope.spawn(move || c.exec("n1", &look));
        eventually("the wire is looked at", secs(5), || {
            let length = std::fs::metadata(&file).map_or(0, |found| found.len());
            holds(length > 0, "nothing was written")
        });
        let url = format!("http://{to}:8080/healthz?{}", MARKER.repeat(SENT.1));
        for _ in 0..SENT.0 {
            let line = format!("exec {} /hello check {url}", task.container);
            c.skep("n1", &line).ok();
        }
        let _ = looking.join();
    });
    let seen = std::fs::read(&file).expect("what was captured");
    let marked = seen
        .windows(MARKER.len())
        .filter(|part| *part == MARKER.as_bytes());
    (marked.count(), seen.len())
}

/// The processes of the cluster's tunnels; none where the kernel has WireGuard.
fn processes(c: &Cluster) -> Vec<String> {
    let all = c.processes().into_iter();
    let mut ours: Vec<String> = all
        .filter(|line| line.contains(" skep wireguard "))
        .collect();
    ours.sort();
    ours
}

/// The generations of keys that each node has, as the cluster knows it.
fn generations(c: &Cluster) -> Result<Vec<Vec<u64>>, String> {
    let nodes = c.try_api("n1", "GET", "/nodes", None)?;
    let of = |node: &Value| {
        let keys = node["Description"]["Encryption"]["Keys"]
            .as_array()
            .cloned();
        let keys = keys.unwrap_or_default();
        keys.iter()
            .filter_map(|key| key["Generation"].as_u64())
            .collect()
    };
    Ok(nodes.as_array().into_iter().flatten().map(of).collect())
}
