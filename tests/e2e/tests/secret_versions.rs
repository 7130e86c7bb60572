//! Secrets that are replaced under their name: their users follow without losing a request, or are
//! given the new one in place, and what was is nowhere afterwards.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use skep_e2e::cluster::field;
use skep_e2e::load::Load;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const PORT: u16 = 8080;
const REPLICAS: usize = 4;

#[test]
fn secrets_are_replaced_under_their_name() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 3) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    checks.check(
        "a rotation under load replaces every task, loses no request, and leaves nothing of the old",
        || rotation(c),
    );
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in NODES {
        c.skep_given(node, "load", &archive).ok();
    }
    checks.check(
        "a signal tells running tasks of what they were given in place",
        || in_place(c),
    );
    checks.check("what was before comes back when it is asked for", || {
        back(c);
    });
    checks.end();
}

/// Words that are on the disk for no other reason.
fn canary(number: u8) -> String {
    let seed = format!(
        "{number}-{}-{:?}",
        std::process::id(),
        std::time::SystemTime::now()
    );
    format!("canary-{}", hex::encode(Sha256::digest(seed.as_bytes())))
}

fn rotation(c: &Cluster) {
    let (old, new) = (canary(1), canary(2));
    c.skep_given("n1", "secret create key -", old.as_bytes())
        .ok();
    let id = c.get("n1", "/secrets/key")["ID"].clone();
    let line = "service create -d --no-resolve-image --name web --replicas 4 --publish 8080:8080 --secret key \
                --update-parallelism 2 --update-monitor 1s --update-order start-first skep/hello:latest";
    c.skep("n1", line).ok();
    c.wait_running("n1", "web", REPLICAS, secs(30));
    let digest = |word: &str| hex::encode(Sha256::digest(word.as_bytes()));
    let shown = |node: &str| {
        let page = c.page(node, PORT, "/secret/key?sha256=1")?;
        Ok::<_, String>(field(&page, "sha256"))
    };
    for node in NODES {
        let first = eventually("the port answers", secs(5), || shown(node));
        assert_eq!(first, digest(&old));
    }
    let addresses: Vec<_> = NODES.iter().map(|node| c.address(node)).collect();
    let load = Load::start(&addresses, PORT);
    eventually("requests are answered", secs(10), || {
        holds(load.so_far().answered > 10, "too few")
    });
    let number = c.skep_given("n2", "secret rotate --timeout 80s key -", new.as_bytes());
    assert_eq!(number.word(), "2");
    load.end_without_loss();
    for node in NODES {
        for _ in 0..REPLICAS * 2 {
            assert_eq!(shown(node).unwrap(), digest(&new));
        }
    }
    let users = c.skep("n3", "secret ps --format {{.Version}} key").ok();
    assert_eq!(users.lines().collect::<Vec<_>>(), ["2"; REPLICAS]);
    assert_eq!(c.skep("n1", "secret history -q key").word(), "2");
    let told = c.get("n1", "/secrets/key");
    assert_eq!(told["ID"], id, "the same secret");
    for word in [&old, &new] {
        assert!(!told.to_string().contains(&STANDARD.encode(word)));
    }
    assert_nowhere(c, &[&old, &new]);
}

/// No file of any node, nor what a daemon has in its exec root, holds one of the words.
fn assert_nowhere(c: &Cluster, words: &[&String]) {
    let mut needles = Vec::new();
    for word in words {
        needles.push(word.as_bytes().to_vec());
        // In base64 a text begins at one of three offsets; its middle is then the same everywhere.
        for shift in 0..3 {
            let text = STANDARD.encode(format!("{}{word}", "x".repeat(shift)));
            needles.push(text.as_bytes()[8..text.len() - 8].to_vec());
        }
    }
    let files = c.files();
    assert!(files.len() > 20, "too few files: {files:?}");
    for path in files {
        // A file may go while we look.
        let Ok(bytes) = fs::read(&path) else { continue };
        for needle in &needles {
            let found = contains(&bytes, needle);
            assert!(!found, "the secret is in {}", path.display());
        }
    }
}

/// Whether the needle is in the hay; quick enough for unoptimised builds.
fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let mut hay = hay;
    while let Some(at) = hay.iter().position(|byte| *byte == needle[0]) {
        hay = &hay[at..];
        if hay.starts_with(needle) {
            return true;
        }
        hay = &hay[1..];
    }
    false
}

fn in_place(c: &Cluster) {
    c.skep_given(
        "n1",
        "secret create -l skep.secret.on-update=signal=USR1 word -",
        b"one",
    )
    .ok();
    let script = "trap 'cat /run/secrets/word >> /tmp/got' USR1; while :; do sleep 0.1; done";
    let body = serde_json::json!({
        "Name": "daemon",
        "TaskTemplate": {"ContainerSpec": {
            "Image": "busy:1", "Command": ["sh", "-c", script], "StopSignal": "KILL",
            "Secrets": [{"SecretName": "word", "File": {"Name": "word", "UID": "0", "GID": "0", "Mode": 0o440}}],
        }},
        "Mode": {"Replicated": {"Replicas": 3}},
    });
    let made = c.api("n1", "POST", "/services/create", Some(&body));
    assert_eq!(made.status, 201, "{}", made.body);
    let before = c.wait_running("n1", "daemon", 3, secs(30));
    let inside = |task: &skep_e2e::tasks::Task, path: &str| {
        let line = format!("exec {} cat {path}", task.container);
        c.skep(&task.node, &line).word()
    };
    for (word, number) in [("two", "2"), ("three", "3")] {
        let told = c.skep_given("n2", "secret update word -", word.as_bytes());
        assert_eq!(told.word(), number);
        eventually("every task sees it", secs(15), || {
            let seen = c.skep("n1", "secret ps --format {{.Version}} word").ok();
            holds(seen.lines().all(|seen| seen == number), seen)
        });
        for task in &before {
            assert_eq!(inside(task, "/run/secrets/word"), word);
        }
    }
    for task in &before {
        eventually("the program was told", secs(5), || {
            let got = inside(task, "/tmp/got");
            holds(got == "twothree", got)
        });
        let line = format!("exec {} stat -c %a /run/secrets/word", task.container);
        assert_eq!(c.skep(&task.node, &line).word(), "440");
        let line = format!("exec {} cat /proc/mounts", task.container);
        let mounts = c.skep(&task.node, &line).ok();
        let ours = mounts
            .lines()
            .filter(|line| line.contains("/run/secrets/word"));
        let ours: Vec<&str> = ours.collect();
        assert!(ours.len() == 1 && ours[0].contains(" tmpfs ro"), "{ours:?}");
    }
    let after = c.running("n1", "daemon");
    let id = |tasks: &[skep_e2e::tasks::Task]| -> Vec<String> {
        let mut ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(id(&after), id(&before), "no task was restarted");
}

fn back(c: &Cluster) {
    assert_eq!(
        c.skep("n1", "secret rollback --to 1 --users none word")
            .word(),
        "4"
    );
    let history = c.skep("n1", "secret history word").ok();
    assert!(history.contains("rolled back to 1"), "{history}");
    let sees = c.skep("n1", "secret ps --format {{.Version}} word").ok();
    assert_eq!(
        sees.lines().collect::<Vec<_>>(),
        ["3"; 3],
        "only new tasks get it"
    );
    c.skep(
        "n1",
        "secret rotate --users none --timeout 1s --generate 24:hex word",
    )
    .fails("does not, and earlier versions are kept");
    c.skep("n1", "secret update --users restart word /etc/hostname")
        .fails("is none of roll, signal, signal=SIGNAL and none");
    c.skep("n1", "secret rollback --to 17 word")
        .fails("has no version 17");
}
