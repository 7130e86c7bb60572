//! The cluster's root is replaced while everything goes on.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use skep_e2e::load::Load;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, needs, secs};
use skep_pki::{Authority, generate_root, request_certificate};

const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const PORT: u16 = 8080;

fn swarm(c: &Cluster, at: &str) -> Result<Value, String> {
    c.try_api(at, "GET", "/swarm", None)
}

fn root(c: &Cluster, at: &str) -> String {
    let swarm = c.get(at, "/swarm");
    swarm["TLSInfo"]["TrustRoot"]
        .as_str()
        .expect("a root")
        .to_owned()
}

fn token(c: &Cluster, at: &str) -> String {
    let swarm = c.get(at, "/swarm");
    swarm["JoinTokens"]["Worker"]
        .as_str()
        .expect("a token")
        .to_owned()
}

fn certificates(c: &Cluster, node: &str) -> PathBuf {
    c.root.join(node).join("data/swarm/certificates")
}

/// The public key of the issuer that is wanted.
fn issuer(c: &Cluster, at: &str) -> Value {
    c.get(at, "/swarm")["TLSInfo"]["CertIssuerPublicKey"].clone()
}

/// How many nodes have certificates of the issuer that is wanted.
fn followed(c: &Cluster, at: &str) -> Result<usize, String> {
    let wanted = swarm(c, at)?["TLSInfo"]["CertIssuerPublicKey"].clone();
    let nodes = c.try_api(at, "GET", "/nodes", None)?;
    let has = |node: &&Value| node["Description"]["TLSInfo"]["CertIssuerPublicKey"] == wanted;
    Ok(nodes.as_array().into_iter().flatten().filter(has).count())
}

/// Waits until the rotation has ended and every node trusts the new root alone; the root.
fn wait_rotated(c: &Cluster, at: &str, before: &str) -> String {
    eventually("the root is rotated", secs(60), || {
        let swarm = swarm(c, at)?;
        holds(
            swarm["RootRotationInProgress"] == false,
            "it is in progress",
        )?;
        holds(swarm["TLSInfo"]["TrustRoot"] != before, "the old root")?;
        let nodes = c.try_api(at, "GET", "/nodes", None)?;
        let told = nodes.as_array().into_iter().flatten();
        let behind: Vec<_> = told
            .filter(|node| node["Description"]["TLSInfo"] != swarm["TLSInfo"])
            .map(|node| &node["Description"]["Hostname"])
            .collect();
        holds(behind.is_empty(), format!("{behind:?} are behind"))
    });
    let root = root(c, at);
    for node in NODES {
        let path = certificates(c, node).join("swarm-root-ca.crt");
        let trusted = fs::read_to_string(&path).expect("a root");
        assert!(trusted == root, "{node} trusts something else:\n{trusted}");
    }
    root
}

fn wait_all_ready(c: &Cluster, at: &str) {
    for node in NODES {
        c.wait_ready(at, node, secs(20));
    }
}

#[test]
fn the_root_is_rotated() {
    let Some(cluster) = Cluster::up(4, 3) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    wait_all_ready(c, "n1");
    let line = format!(
        "service create -d --no-resolve-image --name web --replicas 8 --publish {PORT}:8080 skep/hello:latest"
    );
    c.skep("n1", &line).ok();
    c.wait_running("n1", "web", 8, secs(30));
    for node in NODES {
        eventually("the port answers", secs(10), || c.page(node, PORT, "/"));
    }
    let processes = c.pids("n1", "web");
    let first = root(c, "n1");
    let first_token = token(c, "n1");

    checks.check(
        "a rotation ends with all nodes on the new root, and no request or task notices",
        || {
            let addresses: Vec<_> = NODES.iter().map(|node| c.address(node)).collect();
            let load = Load::start(&addresses, PORT);
            let said = c.skep("n2", "swarm ca --rotate").ok();
            let next = wait_rotated(c, "n2", &first);
            assert!(said.contains("desired root digest: sha256:"), "{said}");
            assert!(said.ends_with(&next), "{said}");
            for node in ["n1", "n2", "n3"] {
                assert_eq!(c.skep(node, "swarm ca").ok(), next);
                let status = c.skep(node, "node ls --format '{{.TLSStatus}}'").ok();
                assert_eq!(status, "Ready\n".repeat(4));
            }
            c.skep("n1", "service update -d --replicas 9 web").ok();
            c.wait_running("n1", "web", 9, secs(30));
            load.end_without_loss();
            let now = c.pids("n1", "web");
            assert!(
                processes
                    .iter()
                    .all(|(task, pid)| now.get(task) == Some(pid))
            );
        },
    );
    checks.check(
        "docker's client rotates as well, and prints what it prints",
        || {
            let Some(_) = needs::docker() else { return };
            let before = root(c, "n1");
            let said = c.docker("n1", "swarm ca --rotate").ok();
            let next = wait_rotated(c, "n1", &before);
            assert!(said.contains("desired root digest: sha256:"), "{said}");
            assert!(said.ends_with(&next), "{said}");
            let before = next;
            assert_eq!(c.docker("n1", "swarm ca --rotate --quiet").ok(), "");
            wait_rotated(c, "n1", &before);
            c.docker("n1", "swarm ca --cert-expiry 2h")
                .fails("`--cert-expiry` flag requires the `--rotate` flag to update the CA");
        },
    );
    checks.check("the old token is refused, and the new one admits", || {
        let address = format!("{}:2377", c.address("n1"));
        c.skep("n4", "swarm leave").ok();
        eventually("n4 is removed", secs(20), || {
            let ran = c.skep("n1", "node rm n4");
            holds(ran.status == 0, ran)
        });
        c.skep("n4", &format!("swarm join --token {first_token} {address}"))
            .fails("remote CA does not match fingerprint. Expected: ");
        let new = token(c, "n1");
        c.skep("n4", &format!("swarm join --token {new} {address}"))
            .ok();
        wait_all_ready(c, "n1");
    });
    checks.check("it is done again and again", || {
        for at in ["n1", "n2", "n3"] {
            let before = root(c, at);
            c.skep(at, "swarm ca --rotate --quiet").ok();
            wait_rotated(c, at, &before);
        }
    });
    checks.check("of three that overtake one another the newest wins", || {
        let before = root(c, "n1");
        // None of them can end.
        c.kill("n4");
        let mut wanted = Vec::new();
        for _ in 0..3 {
            // A race with what the cluster itself notes is tried again.
            eventually("the rotation is begun", secs(10), || {
                let ran = c.skep("n1", "swarm ca --rotate --detach");
                holds(ran.status == 0, ran)
            });
            wanted.push(issuer(c, "n1"));
            eventually("the others have followed", secs(30), || {
                let count = followed(c, "n1")?;
                holds(count == 3, count)
            });
        }
        assert_eq!(c.get("n1", "/swarm")["RootRotationInProgress"], true);
        c.start("n4");
        wait_rotated(c, "n1", &before);
        assert_eq!(issuer(c, "n1"), wanted[2]);
        assert!(wanted[0] != wanted[1] && wanted[1] != wanted[2]);
    });
    checks.check("joins with the old token succeed while it lasts", || {
        let (before, old) = (root(c, "n1"), token(c, "n1"));
        c.kill("n3");
        c.skep("n1", "swarm ca --rotate -d").ok();
        c.skep("n4", "swarm leave").ok();
        eventually("n4 is removed", secs(20), || {
            let ran = c.skep("n1", "node rm n4");
            holds(ran.status == 0, ran)
        });
        let address = format!("{}:2377", c.address("n2"));
        c.skep("n4", &format!("swarm join --token {old} {address}"))
            .ok();
        c.wait_ready("n1", "n4", secs(20));
        assert_eq!(c.get("n1", "/swarm")["RootRotationInProgress"], true);
        eventually("all that are there have followed", secs(30), || {
            let count = followed(c, "n1")?;
            holds(count == 3, count)
        });
        c.start("n3");
        wait_rotated(c, "n1", &before);
        wait_all_ready(c, "n1");
    });
    checks.check(
        "a node that is off is waited for, its token is good meanwhile, and it completes the rotation",
        || {
            let (before, old) = (root(c, "n1"), token(c, "n1"));
            c.kill("n4");
            c.skep("n1", "swarm ca --rotate -d").ok();
            eventually("the others have followed", secs(30), || {
                let count = followed(c, "n1")?;
                holds(count == 3, count)
            });
            let swarm = c.get("n1", "/swarm");
            assert_eq!(swarm["RootRotationInProgress"], true);
            assert_eq!(swarm["TLSInfo"]["TrustRoot"].as_str(), Some(&*before));
            assert_eq!(token(c, "n1"), old);
            c.start("n4");
            wait_rotated(c, "n1", &before);
            assert_ne!(token(c, "n1"), old);
            c.wait_ready("n1", "n4", secs(20));
        },
    );
    checks.check(
        "a leader that dies in the middle changes nothing about it",
        || {
            let before = root(c, "n1");
            c.kill("n4");
            c.skep("n1", "swarm ca --rotate -d").ok();
            let leader = c.leader("n1").unwrap();
            c.kill(&leader);
            let other = if leader == "n1" { "n2" } else { "n1" };
            eventually("another one leads", secs(20), || {
                let leads = c.leader(other)?;
                holds(leads != leader, leads)
            });
            assert_eq!(c.get(other, "/swarm")["RootRotationInProgress"], true);
            c.start("n4");
            eventually("those that are there have followed", secs(30), || {
                let count = followed(c, other)?;
                holds(count == 3, count)
            });
            assert_eq!(c.get(other, "/swarm")["RootRotationInProgress"], true);
            c.start(&leader);
            wait_rotated(c, other, &before);
            wait_all_ready(c, other);
        },
    );
    checks.check("a root of one's own is taken, and a wrong one refused", || {
        let now = skep_model::Timestamp::from_secs(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs() as i64,
        );
        let (own, other) = (generate_root(now).unwrap(), generate_root(now).unwrap());
        for (name, text) in [
            ("own.crt", &own.cert_pem),
            ("own.key", &own.key_pem),
            ("other.key", &other.key_pem),
        ] {
            fs::write(c.root.join(name), text).unwrap();
        }
        let before = root(c, "n1");
        c.skep("n1", "swarm ca --rotate --ca-cert own.crt").fails(
            "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well",
        );
        c.skep("n1", "swarm ca --rotate --ca-cert own.crt --ca-key other.key")
            .fails("certificate key mismatch");
        c.skep("n1", "swarm ca --rotate --ca-cert own.key --ca-key own.key")
            .fails("invalid root certificates");
        assert_eq!(root(c, "n1"), before);
        c.skep("n1", "swarm ca --rotate --ca-cert own.crt --ca-key own.key --cert-expiry 48h")
            .ok();
        assert_eq!(wait_rotated(c, "n1", &before), own.cert_pem);
        let spec = &c.get("n1", "/swarm")["Spec"]["CAConfig"];
        assert_eq!(spec["NodeCertExpiry"], 48 * 3_600_000_000_000u64);
        assert!(!spec.to_string().contains("PRIVATE"), "{spec}");
        // The certificates that nodes have now live that long.
        for node in NODES {
            let read = |name: &str| fs::read_to_string(certificates(c, node).join(name)).unwrap();
            let (cert, key) = (read("swarm-node.crt"), read("swarm-node.key"));
            let identity = skep_pki::Identity::from_pem(&cert, &key, &own.cert_pem).unwrap();
            let left = identity.not_after.since(now).as_secs();
            assert!((47 * 3600..=49 * 3600).contains(&left), "{node}: {left} s");
        }
        // Its key is in no answer and, without a seal, in no file.
        for path in c.files() {
            let is_ours = path.starts_with(c.root.join("own.key"));
            let bytes = fs::read(&path).unwrap_or_default();
            let key = own.key_pem.lines().nth(1).unwrap().as_bytes();
            let found = bytes.windows(key.len()).any(|part| part == key);
            assert!(is_ours || !found, "{} holds the key", path.display());
        }
    });
    checks.check("a certificate of another root is not heard", || {
        let id = c.get("n4", "/info")["Swarm"]["NodeID"]
            .as_str()
            .unwrap()
            .to_owned();
        let cluster = c.get("n1", "/swarm")["ID"].as_str().unwrap().to_owned();
        c.kill("n4");
        let directory = certificates(c, "n4");
        let names = ["swarm-node.crt", "swarm-node.key"];
        let kept = names.map(|name| fs::read(directory.join(name)).unwrap());
        let now = skep_model::Timestamp::from_secs(1_700_000_000);
        let other = generate_root(now).unwrap();
        let key = request_certificate().unwrap();
        let role = skep_model::NodeRole::Worker;
        let life = secs(20 * 365 * 24 * 3600);
        let cert = Authority::from_pem(&other.cert_pem, &other.key_pem)
            .unwrap()
            .sign(
                &key.csr_pem,
                &id.as_str().into(),
                role,
                &cluster.as_str().into(),
                life,
                now,
            )
            .unwrap();
        for (name, text) in names.iter().zip([&cert, &key.key_pem]) {
            fs::write(directory.join(name), text).unwrap();
        }
        eventually("n4 is down", secs(20), || {
            let listed = c.skep("n1", "node ls --filter name=n4 --format '{{.Status}}'");
            holds(listed.out == "Down\n", listed)
        });
        c.start("n4");
        for _ in 0..40 {
            let listed = c.skep("n1", "node ls --filter name=n4 --format '{{.Status}}'");
            assert_eq!(listed.ok(), "Down\n");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        c.kill("n4");
        for (name, bytes) in names.iter().zip(kept) {
            fs::write(directory.join(name), bytes).unwrap();
        }
        c.start("n4");
        wait_all_ready(c, "n1");
    });
    checks.end();
}
