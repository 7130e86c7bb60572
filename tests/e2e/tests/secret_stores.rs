//! Secrets whose bytes are in stores outside of the cluster: a command, and a server in Vault's form.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use skep_e2e::tasks::Task;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

#[test]
fn secrets_are_in_stores_outside_of_the_cluster() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    // Two managers, of which one has the stores, and a worker.
    let Some(cluster) = Cluster::up(3, 2) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in NODES {
        c.skep_given(node, "load", &archive).ok();
    }
    let place = Place::new();
    let vault = Vault::start(c.gateway());
    let stores = json!({"secret-stores": {
        "pass": format!("exec:{}", place.path("pass").display()),
        "vault": format!(
            "vault:http://{},token-file={},insecure=true",
            vault.address, place.path("token").display()
        ),
    }});
    place.write("said", "");
    place.command("printf '%s' none");
    place.write("token", "bad");
    fs::write(c.root.join("n1/daemon.json"), stores.to_string()).unwrap();
    c.kill("n1");
    c.start("n1");
    for node in NODES {
        c.wait_ready("n2", node, secs(60));
    }
    let mut checks = Checks::new();
    checks.check("a command is asked once for all tasks of a service", || {
        command(c, &place);
    });
    checks.check("what a vault refuses is told until it gives it", || {
        refused(c, &place, &vault);
    });
    checks.check(
        "a store that hangs is ended, and a task that waits can go",
        || {
            hangs(c, &place);
        },
    );
    checks.check("a lease is kept while a store hangs", || leased(c, &place));
    checks.check("a rotation fetches anew, also in place", || {
        rotation(c, &place, &vault);
    });
    checks.check("mistakes are told", || mistakes(c));
    checks.end();
}

/// A directory of this test's own, outside of the cluster's.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("sk-stores-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Makes the command one that notes that it was asked and does this.
    fn command(&self, text: &str) {
        let draft = self.path("draft");
        let said = self.path("said");
        let text = format!("#!/bin/sh\necho asked >>{}\n{text}\n", said.display());
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o700)).unwrap();
        fs::rename(draft, self.path("pass")).unwrap();
    }

    /// How often the command was asked.
    fn asked(&self) -> usize {
        let said = fs::read_to_string(self.path("said")).unwrap();
        said.lines().filter(|line| *line == "asked").count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server in the form of Vault's key-value engine, version 2, that has one secret: `kv/prod/db`.
struct Vault {
    address: SocketAddrV4,
    value: Arc<Mutex<String>>,
    stops: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Vault {
    fn start(on: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((on, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let value = Arc::new(Mutex::new(String::new()));
        let stops = Arc::new(AtomicBool::new(false));
        let (shared, stopping) = (Arc::clone(&value), Arc::clone(&stops));
        let serving = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let value = shared.lock().unwrap().clone();
                let _ = answer(&stream, &value);
            }
        });
        Self {
            address: SocketAddrV4::new(on, port),
            value,
            stops,
            serving: Some(serving),
        }
    }

    fn has(&self, value: &str) {
        *self.value.lock().unwrap() = value.to_owned();
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

fn answer(mut stream: &TcpStream, value: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut is_known = false;
    for line in lines {
        let line = line?;
        is_known |= line.eq_ignore_ascii_case("x-vault-token: good");
        if line.is_empty() {
            break;
        }
    }
    let (status, body) = match (is_known, first.as_str()) {
        (false, _) => (403, json!({"errors": ["permission denied"]})),
        (true, "GET /v1/kv/data/prod/db HTTP/1.1") => (
            200,
            json!({"data": {"data": {"password": value}, "metadata": {"version": 1}}}),
        ),
        (true, _) => (404, json!({"errors": []})),
    };
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A word that is on the disk for no other reason.
fn canary(number: u8) -> String {
    let seed = format!(
        "{number}-{}-{:?}",
        std::process::id(),
        std::time::SystemTime::now()
    );
    format!("canary-{}", hex::encode(Sha256::digest(seed.as_bytes())))
}

fn inside(c: &Cluster, task: &Task, script: &str) -> String {
    let line = format!("exec {} sh -c '{script}'", task.container);
    c.skep(&task.node, &line).word()
}

/// That no file of any node, and no answer of the API about a service and a task of it, has the word.
fn assert_nowhere(c: &Cluster, task: &Task, service: &str, word: &str) {
    let encoded = STANDARD.encode(word);
    let answers = [
        ("n1", "/secrets".to_owned()),
        ("n1", format!("/services/{service}")),
        ("n1", format!("/tasks/{}", task.id)),
        (&task.node, format!("/containers/{}/json", task.container)),
    ];
    for (node, path) in answers {
        let shown = c.get(node, &path).to_string();
        assert!(
            !shown.contains(word) && !shown.contains(&encoded),
            "{path}: {shown}"
        );
    }
    let files = c.files();
    assert!(files.len() > 20, "too few files: {files:?}");
    for path in files {
        // A file may go while we look.
        let Ok(bytes) = fs::read(&path) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !text.contains(word) && !text.contains(&encoded),
            "the secret is in {}",
            path.display()
        );
    }
}

fn create_service(c: &Cluster, name: &str, mode: serde_json::Value, container: serde_json::Value) {
    let mut spec = json!({"Image": "busy:1", "Command": ["sleep", "1000"], "StopSignal": "KILL"});
    let fields = spec.as_object_mut().unwrap();
    fields.extend(container.as_object().unwrap().clone());
    let body = json!({"Name": name, "TaskTemplate": {"ContainerSpec": spec}, "Mode": mode});
    let made = c.api("n2", "POST", "/services/create", Some(&body));
    assert_eq!(made.status, 201, "{}", made.body);
}

fn command(c: &Cluster, place: &Place) {
    let word = canary(1);
    place.write("word", &word);
    // Long enough that all tasks of the service ask meanwhile.
    place.command(&format!("sleep 1; cat {}", place.path("word").display()));
    c.skep("n1", "secret create --driver pass key").ok();
    let listed = c
        .skep("n1", "secret ls --format '{{.Name}} {{.Driver}}'")
        .ok();
    assert_eq!(listed.trim(), "key pass");
    let made = c.skep_given(
        "n1",
        "config create --template-driver golang plan -",
        b"it is {{secret \"key\"}}",
    );
    made.ok();
    create_service(
        c,
        "web",
        json!({"Global": {}}),
        json!({
            "Secrets": [
                {"SecretName": "key", "File": {"Name": "key", "UID": "0", "GID": "0", "Mode": 0o400}},
                {"SecretName": "key", "File": {"Name": "env:KEY"}},
            ],
            "Configs": [{"ConfigName": "plan", "File": {"Name": "/plan"}}],
        }),
    );
    let tasks = c.wait_running("n1", "web", 3, secs(60));
    for task in &tasks {
        assert_eq!(inside(c, task, "cat /run/secrets/key"), word);
        assert_eq!(inside(c, task, "echo $KEY"), word);
        assert_eq!(inside(c, task, "cat /plan"), format!("it is {word}"));
        assert_nowhere(c, task, "web", &word);
    }
    assert_eq!(place.asked(), 1, "one question for all of them");
    // The store is gone, and so is the daemon for a while: whoever runs needs neither.
    place.command("exit 1");
    let here = tasks.iter().find(|task| task.node == "n3").unwrap();
    c.kill("n3");
    c.start("n3");
    c.wait_ready("n1", "n3", secs(60));
    let after = c.wait_running("n1", "web", 3, secs(30));
    let same = after.iter().find(|task| task.node == "n3").unwrap();
    assert_eq!((&same.id, same.pid), (&here.id, here.pid));
    assert_eq!(inside(c, same, "cat /run/secrets/key"), word);
    assert_eq!(place.asked(), 1, "nobody has asked again");
    c.remove_service("n1", "web");
}

/// What `service ps` and `why` say of the only task of a service.
fn wait_told(c: &Cluster, service: &str, part: &str) {
    eventually("service ps says why", secs(60), || {
        let shown = c
            .skep("n2", &format!("service ps --no-trunc {service}"))
            .ok();
        holds(shown.contains(part) && shown.contains("Preparing"), shown)
    });
    let why = c.skep("n1", &format!("why {service}"));
    let text = format!("{}{}", why.out, why.err);
    assert!(text.contains(part), "{text}");
    assert!(text.contains("asked again by itself"), "{text}");
    let json = c.get("n1", &format!("/skep/v1/why?object={service}"));
    assert_eq!(json["Causes"][0]["Trouble"], "secret-store", "{json}");
}

fn refused(c: &Cluster, place: &Place, vault: &Vault) {
    let word = canary(2);
    vault.has(&word);
    // As docker's client does it: it has labels only.
    let create = "secret create --driver vault -l skep.driver.mount=kv -l skep.driver.path=prod/db \
                  --driver-opt field=password db";
    c.skep("n1", create).ok();
    let secrets = json!({"Secrets": [{"SecretName": "db", "File": {"Name": "db"}}]});
    create_service(c, "db", json!({"Replicated": {"Replicas": 1}}), secrets);
    let denied = "secret store vault: the token may not read kv/prod/db (403: permission denied) (asked by manager n1)";
    wait_told(c, "db", denied);
    let waiting = c.try_tasks("n1", "db").unwrap();
    assert_eq!(
        waiting.len(),
        1,
        "it waits, and no other is made: {waiting:?}"
    );
    place.write("token", "good");
    let tasks = c.wait_running("n1", "db", 1, secs(90));
    assert_eq!(tasks[0].id, waiting[0].id, "the same task");
    assert_eq!(tasks[0].error, "");
    assert_eq!(inside(c, &tasks[0], "cat /run/secrets/db"), word);
    assert_nowhere(c, &tasks[0], "db", &word);
}

/// Processes with this in their command line.
fn running(mark: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let has = |line: &Vec<u8>| String::from_utf8_lossy(line).contains(mark);
    lines.filter(has).count()
}

fn hangs(c: &Cluster, place: &Place) {
    let mark = format!("1000{}", std::process::id());
    place.command(&format!("sleep {mark} & sleep {mark}"));
    let secrets = json!({"Secrets": [{"SecretName": "key", "File": {"Name": "key"}}]});
    create_service(c, "slow", json!({"Replicated": {"Replicas": 1}}), secrets);
    wait_told(
        c,
        "slow",
        "secret store pass: it has not answered after 10 s",
    );
    c.skep("n1", "service rm slow").ok();
    eventually("the task goes", secs(30), || {
        let left = c.try_tasks("n1", "slow").unwrap_or_default();
        holds(left.is_empty(), format!("{left:?}"))
    });
    eventually("nothing of the command goes on", secs(30), || {
        holds(running(&mark) == 0, running(&mark))
    });
}

/// What may run only while managers are heard goes on while it is asked for its next secret.
fn leased(c: &Cluster, place: &Place) {
    place.command("printf one");
    let label = "--label skep.on-disconnect.stop-after=5s";
    let create = format!(
        "service create --detach --name leased {label} --secret key --stop-signal KILL busy:1 sleep 1000"
    );
    c.skep("n1", &create).ok();
    let before = c.wait_running("n1", "leased", 1, secs(30));
    place.command("sleep 1000");
    let update = "secret update --users signal=WINCH --driver-opt round=2 key";
    c.skep("n1", update).ok();
    eventually("why says what it waits for", secs(60), || {
        let why = c.skep("n1", "why leased");
        let is_told = why.out.contains("it has not answered after 10 s");
        holds(is_told, why.to_string())
    });
    let now = c.wait_running("n1", "leased", 1, secs(5));
    assert_eq!(now[0].id, before[0].id);
    place.command("printf two");
    eventually("it is given in place", secs(60), || {
        let word = inside(c, &now[0], "cat /run/secrets/key");
        holds(word == "two", word)
    });
    c.remove_service("n1", "leased");
}

fn rotation(c: &Cluster, place: &Place, vault: &Vault) {
    let (new, newer) = (canary(3), canary(4));
    let before = c.wait_running("n1", "db", 1, secs(30));
    vault.has(&new);
    c.skep_given("n1", "secret update db -", b"x")
        .fails("has its bytes from secret store vault");
    let number = c.skep("n1", "secret rotate --timeout 60s db");
    assert_eq!(number.word(), "2");
    let rolled = c.wait_running("n1", "db", 1, secs(60));
    assert_ne!(rolled[0].id, before[0].id);
    assert_eq!(inside(c, &rolled[0], "cat /run/secrets/db"), new);
    // In place, which a store that is away only puts off.
    place.write("token", "bad");
    vault.has(&newer);
    let update = "secret update --users signal=WINCH --driver-opt mount=kv db";
    assert_eq!(c.skep("n1", update).word(), "3");
    eventually("why says what it waits for", secs(60), || {
        let why = c.skep("n1", "why db");
        holds(
            why.out.contains("the token may not read kv/prod/db"),
            why.to_string(),
        )
    });
    let still = c.wait_running("n1", "db", 1, secs(5));
    assert_eq!(still[0].id, rolled[0].id);
    assert_eq!(inside(c, &still[0], "cat /run/secrets/db"), new);
    place.write("token", "good");
    eventually("it is given in place", secs(60), || {
        let word = inside(c, &still[0], "cat /run/secrets/db");
        holds(word == newer, word)
    });
    eventually("nothing is amiss any more", secs(30), || {
        let tasks = c.try_tasks("n1", "db")?;
        let here = tasks.iter().find(|task| task.id == still[0].id);
        let here = here.ok_or("it is gone")?;
        holds(here.error.is_empty(), &here.error)
    });
    for word in [&new, &newer] {
        assert_nowhere(c, &still[0], "db", word);
    }
}

fn mistakes(c: &Cluster) {
    c.skep(
        "n1",
        "secret create --driver vault --driver-opt pth=x wrong",
    )
    .fails("secret wrong: secret store vault: a vault takes no option \"pth\"");
    c.skep(
        "n1",
        "secret create --driver-opt path=x wrong /etc/hostname",
    )
    .fails("--driver-opt needs --driver");
    let warned = c.skep("n2", "secret create --driver nowhere lost");
    assert!(
        warned.err.contains("has no secret store \"nowhere\""),
        "{warned}"
    );
    let secrets = json!({"Secrets": [{"SecretName": "lost", "File": {"Name": "lost"}}]});
    create_service(c, "lost", json!({"Replicated": {"Replicas": 1}}), secrets);
    wait_told(c, "lost", "secret store nowhere: no manager has it: not n");
    c.remove_service("n1", "lost");
    let wrong = std::process::Command::new(skep_e2e::cluster::skep_binary())
        .args(["daemon", "--config-file", "/dev/null"])
        .args([
            "--secret-store",
            "v=vault:http://10.0.0.1:8200,token-file=/t",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(
        !wrong.status.success()
            && said.contains("--secret-store")
            && said.contains("insecure=true"),
        "{said}"
    );
}
