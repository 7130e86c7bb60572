//! Images that no registry has: the nodes give them to one another.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use skep_e2e::random::{Random, given};
use skep_e2e::registry::Registry;
use skep_e2e::tasks::shown;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const PORT: u16 = 5000;
/// Nobody listens there, so that a registry is given up at once.
const NOWHERE: &str = "127.0.0.1:1";
/// Bytes of the image that takes a while.
const LARGE: usize = 96 << 20;

#[test]
fn nodes_give_images_to_one_another() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(4, 1) else {
        return;
    };
    let c = &cluster;
    let root = image::root_file_system(&busybox);
    let load = |node: &str, name: &str, layers: &[Vec<u8>]| {
        let archive = image::archive(name, &layers.concat());
        c.skep_given(node, "load", &archive).ok();
    };
    let mut checks = Checks::new();
    checks.check("an image of one worker gets to every node", || {
        load("n2", "app:1", std::slice::from_ref(&root));
        on_all_nodes(c);
    });
    checks.check(
        "content that is damaged is refused, and had from another",
        || {
            let name = format!("{NOWHERE}/damaged:1");
            // Other layers than any node has.
            let other = with_file(&root, 4096);
            load("n2", &name, std::slice::from_ref(&other));
            damaged(c, &name, || load("n3", &name, std::slice::from_ref(&other)));
        },
    );
    checks.check("whoever dies while giving is followed by another", || {
        let name = format!("{NOWHERE}/large:1");
        let large = with_file(&root, LARGE);
        load("n2", &name, std::slice::from_ref(&large));
        load("n3", &name, std::slice::from_ref(&large));
        holder_dies(c, &name);
    });
    checks.check("an image is pushed without what some node has", || {
        pushed(c, &with_file(&root, 16384));
    });
    checks.check("a service may say that registries alone are asked", || {
        let line = create(
            "strict",
            "--label skep.image-source=registry-only",
            &format!("{NOWHERE}/strict:1"),
        );
        load(
            "n3",
            &format!("{NOWHERE}/strict:1"),
            &[with_file(&root, 8192)],
        );
        c.skep("n1", &line).ok();
        rejected(c, "strict", "connection refused", "no node of the cluster");
        c.remove_service("n1", "strict");
        let line = create("odd", "--label skep.image-source=mirror", "app:1");
        c.skep("n1", &line)
            .fails("label skep.image-source: `mirror` is not registry-first");
    });
    checks.end();
}

#[test]
fn a_registry_gives_each_layer_once() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let nodes = given("SKEP_E2E_NODES", 5) as usize;
    let Some(cluster) = Cluster::up(nodes, 1) else {
        return;
    };
    let c = &cluster;
    // One registry: each node has a way to it on its own loopback.
    let ways: Vec<_> = (c.nodes.iter())
        .map_while(|node| Registry::start(c, &node.name, PORT))
        .collect();
    if ways.len() < nodes {
        return;
    }
    let name = format!("127.0.0.1:{PORT}/own:1");
    let layer = with_file(&image::root_file_system(&busybox), 24 << 20);
    c.skep_given("n1", "load", &image::archive(&name, &layer))
        .ok();
    c.skep("n1", &format!("push {name}")).ok();
    let line = format!(
        "service create --detach --name own --mode global --stop-signal KILL \
         --constraint node.role==worker {name} sleep 1000"
    );
    c.skep("n1", &line.split_whitespace().collect::<Vec<_>>().join(" "))
        .ok();
    c.wait_running("n1", "own", nodes - 1, secs(60));
    let gave = || {
        c.nodes
            .iter()
            .flat_map(|node| Registry::given(c, &node.name, PORT))
    };
    let bytes: u64 = gave().map(|(_, bytes)| bytes).sum();
    let all: Vec<_> = gave().collect();
    assert!(bytes > 24 << 20, "the registry gave nothing: {all:?}");
    assert!(
        bytes * 10 <= layer.len() as u64 * 11,
        "{bytes} of {}: {all:?}",
        layer.len()
    );
    // Whoever pins the image reads its configuration too.
    let layers = || gave().filter(|(_, bytes)| *bytes > 1024);
    let digests: BTreeSet<String> = layers().map(|(digest, _)| digest).collect();
    assert_eq!(digests.len(), layers().count(), "more than once: {all:?}");
    c.remove_service("n1", "own");
    drop(ways);
}

/// The line that runs a service of this image on n4, unless `flags` say otherwise.
fn create(name: &str, flags: &str, image: &str) -> String {
    let line = format!(
        "service create --detach --name {name} --constraint node.hostname==n4 --stop-signal KILL \
         --restart-delay 200ms {flags} {image} sleep 1000"
    );
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Waits until a task was rejected for a reason that has one text in it and not the other.
fn rejected(c: &Cluster, service: &str, reason: &str, never: &str) {
    eventually("a task is rejected with the reason", secs(30), || {
        let tasks = c.try_tasks("n1", service)?;
        let told = tasks.iter().any(|task| {
            task.state == "rejected" && task.error.contains(reason) && !task.error.contains(never)
        });
        holds(told, shown(&tasks))
    });
}

fn on_all_nodes(c: &Cluster) {
    let line =
        "service create --detach --name app --mode global --stop-signal KILL app:1 sleep 1000";
    let made = c.skep("n1", line);
    assert!(!made.err.contains("could not be accessed"), "{made}");
    made.ok();
    let tasks = c.wait_running("n1", "app", 4, secs(40));
    for task in &tasks {
        assert!(task.image.starts_with("app:1@sha256:"), "{}", shown(&tasks));
    }
    // It is there as any other, and content that nobody has is told of with both reasons.
    c.skep("n4", "image inspect app:1").fails("No such image");
    let digest = tasks[0].image.split('@').nth(1).expect("a digest");
    c.skep("n4", &format!("image inspect app@{digest}")).ok();
    c.remove_service("n1", "app");
    let missing = format!("{NOWHERE}/none:1@sha256:{}", "1".repeat(64));
    c.skep("n1", &create("none", "", &missing)).ok();
    rejected(c, "none", "no node of the cluster has it", "\u{0}");
    rejected(c, "none", "connection refused", "\u{0}");
    c.remove_service("n1", "none");
}

fn damaged(c: &Cluster, name: &str, load_elsewhere: impl FnOnce()) {
    let blobs = c.root.join("n2/data/images/blobs/sha256");
    let inspected = c.skep("n2", &format!("image inspect {name}")).ok();
    let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
    let layer = inspected[0]["RootFS"]["Layers"][0]
        .as_str()
        .expect("a layer");
    // It was loaded as it is, so the layer's digest is the blob's.
    let blob = blobs.join(layer.strip_prefix("sha256:").expect("a digest"));
    // The whole blob but for one byte: only its digest can tell.
    let mut bytes = fs::read(&blob).expect("the blob is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).expect("the blob can be written to");
    c.skep("n1", &create("damaged", "", name)).ok();
    rejected(
        c,
        "damaged",
        "no node of the cluster that has it gives",
        "\u{0}",
    );
    let log = fs::read_to_string(c.root.join("n4/daemon.log")).expect("a log");
    assert!(log.contains("it is damaged there"), "{log}");
    load_elsewhere();
    c.wait_running("n1", "damaged", 1, secs(30));
    c.remove_service("n1", "damaged");
}

fn holder_dies(c: &Cluster, name: &str) {
    c.skep("n1", &create("large", "", name)).ok();
    let giver = eventually("n4 is in the middle of reading", secs(40), || {
        let bytes = partial(c);
        let giver = giver(c).ok_or("nobody gives anything")?;
        holds(bytes > 1 << 20, bytes)?;
        Ok::<_, String>(giver)
    });
    c.kill(&giver);
    c.wait_running("n1", "large", 1, secs(60));
    let log = fs::read_to_string(c.root.join("n4/daemon.log")).expect("a log");
    assert!(
        log.contains("download is tried again"),
        "{giver} had given it all"
    );
    c.start(&giver);
    c.remove_service("n1", "large");
}

fn pushed(c: &Cluster, layer: &[u8]) {
    let archive = c.root.join("laptop.tar");
    fs::write(&archive, image::archive("laptop:1", layer)).expect("it can be written to");
    let push = |node: &str, flags: &str| {
        let line = format!("image push-cluster {flags} laptop:1");
        c.skep(node, &line)
    };
    let from_file = format!("--input {}", archive.display());
    let first = push("n1", &from_file).ok();
    assert!(first.contains(": Pushed\n"), "{first}");
    assert!(first.contains("\n1: digest: sha256:"), "{first}");
    // n2 gets it from n1.
    let second = push("n2", &from_file).ok();
    assert!(second.contains(": Layer already exists\n"), "{second}");
    assert!(!second.contains("Pushed"), "{second}");
    c.skep("n2", "image inspect laptop:1").ok();
    let from_daemon = format!("--from unix://{}", c.socket("n1").display());
    let third = push("n3", &from_daemon).ok();
    assert!(third.contains(": Layer already exists\n"), "{third}");
    push("n3", "--from tcp://127.0.0.1:1").fails("127.0.0.1:1");
    push("n3", "--input /nowhere.tar").fails("open /nowhere.tar: no such file or directory");
    c.skep("n1", &create("laptop", "", "laptop:1")).ok();
    c.wait_running("n1", "laptop", 1, secs(30));
    c.remove_service("n1", "laptop");
}

/// Bytes that n4 has of blobs that are not whole yet.
fn partial(c: &Cluster) -> u64 {
    let ingest = c.root.join("n4/data/images/ingest");
    let entries = fs::read_dir(ingest).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
    sizes.sum()
}

/// The node that n4 reads from, as its connections say.
fn giver(c: &Cluster) -> Option<String> {
    let table = c.exec("n4", &["cat", "/proc/net/tcp"]).ok();
    ["n2", "n3"].into_iter().find_map(|node| {
        let octets = c.address(node).octets();
        let remote = format!("{:08X}:{:04X} 01", u32::from_le_bytes(octets), 7946);
        table.contains(&remote).then(|| node.to_owned())
    })
}

/// A root file system with a file of noise in it.
fn with_file(root: &[u8], bytes: usize) -> Vec<u8> {
    let mut noise = Vec::with_capacity(bytes);
    let mut random = Random::new(bytes as u64);
    while noise.len() < bytes {
        noise.extend_from_slice(&random.below(u64::MAX).to_le_bytes());
    }
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(noise.len() as u64);
    archive
        .append_data(&mut header, PathBuf::from("noise"), noise.as_slice())
        .expect("memory can be written to");
    let noise = archive.into_inner().expect("memory can be written to");
    // The end of an archive is two blocks of zeros, and nothing behind them is read.
    [&noise[..noise.len() - 1024], root].concat()
}
