//! The whole state of a cluster in a file, and a cluster out of it on another machine.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use skep_e2e::tasks::shown;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, http, secs};

const STACK: &str = r#"
services:
  page:
    image: skep/hello:latest
    ports: ["8088:8080"]
    networks: [inside]
    secrets: [word]
    configs:
      - source: text
        target: /etc/text
    deploy:
      replicas: 3
networks:
  inside: {driver: overlay}
secrets:
  word: {file: ./word.txt}
configs:
  text: {file: ./text.txt}
"#;

/// Everything a cluster holds that a user has made, by name.
fn names(c: &Cluster, node: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (kind, pointer) in [
        ("services", "/Spec/Name"),
        ("networks", "/Name"),
        ("secrets", "/Spec/Name"),
        ("configs", "/Spec/Name"),
        ("skep/v1/stacks", "/Name"),
    ] {
        let all = c.get(node, &format!("/{kind}"));
        for one in all.as_array().into_iter().flatten() {
            let name = one.pointer(pointer).and_then(Value::as_str);
            found.insert(format!("{kind}/{}", name.unwrap_or_default()));
        }
    }
    found
}

/// Creates configs one after the other until told to stop; notes which were acknowledged.
fn write_on(socket: &Path, stop: &AtomicBool, acknowledged: &Mutex<Vec<String>>) {
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let name = format!("written-{number}");
        let body = json!({"Name": name, "Data": "eA=="});
        let answer = http::api(socket, "POST", "/configs/create", Some(&body));
        if answer.is_ok_and(|answer| answer.status == 201) {
            acknowledged.lock().unwrap().push(name);
        }
    }
}

fn passphrase(c: &Cluster, name: &str, text: &str) -> PathBuf {
    let path = c.root.join(name);
    fs::write(&path, format!("{text}\n")).unwrap();
    path
}

/// The secret and the config as a task of the stack finds them.
fn read_inside(c: &Cluster, node: &str) -> (String, String) {
    let pids = c.pids(node, "app_page");
    let pid = *pids.values().next().expect("a task runs");
    let read = |path: &str| {
        let path = format!("/proc/{pid}/root{path}");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    (read("/run/secrets/word"), read("/etc/text"))
}

#[test]
fn a_lost_cluster_comes_back_from_its_backup() {
    let Some(cluster) = Cluster::up(5, 3) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    // Machines that are in no cluster.
    for node in ["n4", "n5"] {
        c.skep(node, "swarm leave").ok();
        eventually("it is forgotten", secs(20), || {
            let removed = c.skep("n1", &format!("node rm {node}"));
            holds(removed.status == 0, removed)
        });
    }
    for (name, text) in [
        ("app.yml", STACK),
        ("word.txt", "a word\n"),
        ("text.txt", "a text\n"),
    ] {
        fs::write(c.root.join(name), text).unwrap();
    }
    c.skep("n1", "stack deploy -d --resolve-image never -c app.yml app")
        .ok();
    c.skep("n1", "network create -d overlay --attachable plain")
        .ok();
    c.skep_given("n1", "secret create alone -", b"alone").ok();
    c.wait_running("n1", "app_page", 3, secs(30));
    let token = c.skep("n1", "swarm join-token -q worker").word();
    let cluster_id = c.get("n1", "/swarm")["ID"].clone();
    let key = passphrase(c, "key", "correct horse battery");
    let wrong = passphrase(c, "wrong", "battery staple horse");
    let file = c.root.join("state.skep");
    let backup = format!(
        "swarm backup -o {} --passphrase-file {}",
        file.display(),
        key.display()
    );
    let restore = |options: &str, file: &Path, key: &Path| {
        format!(
            "swarm restore {options} --advertise-addr {} --passphrase-file {} {}",
            c.address("n4"),
            key.display(),
            file.display()
        )
    };
    let mut before = BTreeSet::new();
    checks.check("a backup is taken while the cluster is written to", || {
        let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let socket = c.socket("n3");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| write_on(&socket, &stop, &acknowledged));
            for node in ["n1", "n2", "n3"] {
                eventually("something was written", secs(10), || {
                    holds(!acknowledged.lock().unwrap().is_empty(), "nothing")
                });
                let until_now = acknowledged.lock().unwrap().clone();
                let said = c.skep(node, &backup).ok();
                assert!(said.starts_with("Backup of swarm "), "{said}");
                let inside = format!(
                    "swarm backup --inspect {} --passphrase-file {}",
                    file.display(),
                    key.display()
                );
                let shown = c.skep(node, &inside).ok();
                let configs = shown.lines().find(|line| line.starts_with("Configs ("));
                let configs = configs.unwrap_or_default().replace(',', "");
                let configs: BTreeSet<&str> = configs.split(' ').collect();
                for name in &until_now {
                    assert!(configs.contains(name.as_str()), "{name} of {configs:?}");
                }
            }
            stop.store(true, Ordering::SeqCst);
            writer.join().unwrap();
        });
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let bytes = fs::read(&file).unwrap();
        for clear in ["app_page", "alone", "PRIVATE KEY", "SWMTKN"] {
            let clear = clear.as_bytes();
            assert!(!bytes.windows(clear.len()).any(|part| part == clear));
        }
        // What is to come back: nothing is written any more.
        c.skep("n2", &backup).ok();
        before = names(c, "n1");
        assert!(before.len() > 10, "{before:?}");
        let left = fs::read_dir(&c.root).unwrap().flatten();
        let left = left.filter(|entry| entry.file_name().to_string_lossy().contains("partial"));
        assert_eq!(left.count(), 0);
    });
    checks.check("what is no backup, or not of this passphrase, is refused", || {
        let weak = passphrase(c, "weak", "short");
        let line = format!("swarm backup -o x.skep --passphrase-file {}", weak.display());
        c.skep("n1", &line).fails("the passphrase is too short");
        assert!(!c.root.join("x.skep").exists());
        c.skep("n4", &backup).fails("This node is not a swarm manager");
        c.skep("n4", &restore("", &file, &wrong))
            .fails("the passphrase is not the one of this backup");
        let whole = fs::read(&file).unwrap();
        let damaged = c.root.join("damaged.skep");
        for at in (0..whole.len()).step_by(whole.len() / 12) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&damaged, &bytes).unwrap();
            let ran = c.skep("n4", &restore("", &damaged, &key));
            assert!(ran.status > 0, "byte {at}: {ran}");
        }
        // The daemon looks for itself: its clients are not all ours.
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let head = format!(
            "POST /skep/v1/swarm/restore HTTP/1.1\r\nHost: skep\r\nConnection: close\r\nX-Skep-Passphrase: Y29ycmVjdCBob3JzZSBiYXR0ZXJ5\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        let request = [head.as_bytes(), &bytes].concat();
        let refused = http::send(&c.socket("n4"), &request).unwrap();
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(refused.message().contains("the backup is damaged"), "{refused:?}");
        fs::write(&damaged, &whole[..whole.len() - 1]).unwrap();
        c.skep("n4", &restore("", &damaged, &key)).fails("it ends too early");
        c.skep("n4", &restore("", &c.root.join("app.yml"), &key))
            .fails("this is no backup of a swarm");
        c.skep("n1", &restore("", &file, &key))
            .fails("This node is already part of a swarm");
        let shown = c.skep("n4", &restore("--dry-run", &file, &key)).ok();
        assert!(shown.contains("Stacks (1): app\n"), "{shown}");
        assert_eq!(c.get("n4", "/info")["Swarm"]["LocalNodeState"], "inactive");
    });
    checks.check("a fresh node becomes the cluster that was lost", || {
        c.kill("n1");
        for node in ["n2", "n3"] {
            c.skep(node, "swarm leave --force").ok();
        }
        let said = c.skep("n4", &restore("", &file, &key)).ok();
        assert!(said.contains("is now its only manager"), "{said}");
        assert_eq!(c.get("n4", "/swarm")["ID"], cluster_id);
        assert_eq!(names(c, "n4"), before);
        assert_eq!(c.skep("n4", "swarm join-token -q worker").word(), token);
        // Those of before are shown until their nodes count as down.
        eventually("all tasks are here", secs(40), || {
            let mut tasks = c.try_tasks("n4", "app_page")?;
            tasks.retain(skep_e2e::tasks::Task::is_running);
            let here = tasks.iter().filter(|task| task.node == "n4").count();
            holds((here, tasks.len()) == (3, 3), shown(&tasks))
        });
        let read = read_inside(c, "n4");
        assert_eq!(read, ("a word\n".to_owned(), "a text\n".to_owned()));
        eventually("the page is there", secs(20), || c.page("n4", 8088, "/"));
    });
    checks.check("a new worker joins it with the token of before", || {
        let join = format!("swarm join --token {token} {}:2377", c.address("n4"));
        c.skep("n5", &join).ok();
        c.wait_ready("n4", "n5", secs(20));
        c.skep("n4", "service scale -d app_page=6").ok();
        let tasks = c.wait_running("n4", "app_page", 6, secs(40));
        assert!(tasks.iter().any(|task| task.node == "n5"), "{tasks:?}");
        eventually("the page is there", secs(20), || c.page("n5", 8088, "/"));
    });
    checks.check(
        "a manager of before that comes back has no say in it",
        || {
            c.start("n1");
            eventually("it is down, and a worker", secs(20), || {
                let line = "node ls --format '{{.Hostname}} {{.Status}}.{{.ManagerStatus}}'";
                let listed = c.skep("n4", line).ok();
                holds(listed.contains("n1 Down.\n"), listed)
            });
            let old = c.skep("n1", "secret ls");
            assert!(old.status > 0, "it decides nothing alone: {old}");
            c.skep_given("n4", "secret create later -", b"x").ok();
            assert_eq!(c.leader("n4").unwrap(), "n4");
            assert_eq!(c.get("n4", "/info")["Swarm"]["Managers"], 1);
            c.skep("n1", "swarm leave --force").ok();
        },
    );
    checks.check("it is a cluster like any other", || {
        let pids = c.pids("n4", "app_page");
        c.kill("n4");
        c.start("n4");
        eventually("it takes requests", secs(20), || {
            c.try_api("n4", "GET", "/secrets/later", None)
        });
        eventually("the same processes", secs(20), || {
            let now = c.pids("n4", "app_page");
            holds(now == pids, format!("{now:?} instead of {pids:?}"))
        });
        for node in ["n1", "n2", "n3"] {
            let id = c.try_node_names("n4").unwrap();
            let id = id.iter().find(|(_, name)| *name == node).unwrap().0.clone();
            c.skep("n4", &format!("node rm {id}")).ok();
        }
        let token = c.skep("n4", "swarm join-token -q manager").word();
        let join = format!("swarm join --token {token} {}:2377", c.address("n4"));
        c.skep("n2", &join).ok();
        eventually("it manages", secs(20), || {
            c.try_api("n2", "GET", "/secrets/later", None)
        });
    });
    checks.end();
}

#[test]
fn a_locked_cluster_is_restored_under_the_same_key() {
    let Some(cluster) = Cluster::up(2, 1) else {
        return;
    };
    let c = &cluster;
    let mut checks = Checks::new();
    c.skep("n2", "swarm leave").ok();
    c.skep("n1", "swarm update --autolock=true").ok();
    let unlock = c.skep("n1", "swarm unlock-key -q").word();
    let key = passphrase(c, "key", "correct horse battery");
    checks.check(
        "the restored manager is locked with the key of before",
        || {
            let line = format!("swarm backup --passphrase-file {} -o b.skep", key.display());
            c.skep("n1", &line).ok();
            c.skep("n1", "swarm leave --force").ok();
            let line = format!("swarm restore --passphrase-file {} b.skep", key.display());
            c.skep("n2", &line).ok();
            assert_eq!(c.skep("n2", "swarm unlock-key -q").word(), unlock);
            c.kill("n2");
            c.start("n2");
            assert_eq!(c.get("n2", "/info")["Swarm"]["LocalNodeState"], "locked");
            c.skep_given("n2", "swarm unlock", format!("{unlock}\n").as_bytes())
                .ok();
            eventually("it takes requests", secs(20), || {
                c.try_api("n2", "GET", "/services", None)
            });
        },
    );
    checks.end();
}
