//! Secrets as variables, which nobody is shown and no disk has, and secrets that expire.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use skep_e2e::tasks::Task;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const NODES: [&str; 2] = ["n1", "n2"];

#[test]
fn secrets_are_variables_and_expire() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(2, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in NODES {
        c.skep_given(node, "load", &archive).ok();
        c.wait_ready("n1", node, secs(10));
    }
    let mut checks = Checks::new();
    checks.check(
        "a variable is in every process of a task, and in no inspect and on no disk",
        || variable(c),
    );
    checks.check(
        "what cannot be a variable is refused with the reason",
        || {
            refused(c);
        },
    );
    checks.check("a secret that expires soon is told of once", || expires(c));
    checks.end();
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

/// What a shell in the task's container prints.
fn inside(c: &Cluster, task: &Task, script: &str) -> String {
    let line = format!("exec {} sh -c '{script}'", task.container);
    c.skep(&task.node, &line).word()
}

/// That no answer of the API about a task's container and service has the word.
fn assert_not_shown(c: &Cluster, task: &Task, service: &str, word: &str) {
    let encoded = STANDARD.encode(word);
    let mut shown = vec![
        c.get(&task.node, &format!("/containers/{}/json", task.container)),
        c.get("n1", &format!("/services/{service}")),
        c.get("n1", &format!("/tasks/{}", task.id)),
        c.get("n1", "/secrets"),
    ]
    .into_iter()
    .map(|answer| answer.to_string())
    .collect::<Vec<_>>();
    for line in [
        format!("service inspect {service}"),
        format!("service inspect --pretty {service}"),
        format!("service ps --no-trunc {service}"),
    ] {
        shown.push(c.skep("n1", &line).ok());
    }
    shown.push(
        c.skep(&task.node, &format!("container inspect {}", task.container))
            .ok(),
    );
    for text in shown {
        assert!(!text.contains(word) && !text.contains(&encoded), "{text}");
    }
}

/// That no file of any node, nor of a daemon's exec root, has the word.
fn assert_on_no_disk(c: &Cluster, word: &str) {
    let files = c.files();
    assert!(files.len() > 20, "too few files: {files:?}");
    for path in files {
        // A file may go while we look.
        let Ok(bytes) = fs::read(&path) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(word), "the secret is in {}", path.display());
    }
}

fn variable(c: &Cluster) {
    let (old, new) = (canary(1), canary(2));
    c.skep_given("n1", "secret create key -", old.as_bytes())
        .ok();
    let script = "test -n \"$DB_KEY\" && touch /tmp/has-it; exec sleep 1000";
    let body = json!({
        "Name": "env",
        "TaskTemplate": {"ContainerSpec": {
            "Image": "busy:1", "Command": ["sh", "-c", script], "StopSignal": "KILL",
        }},
        "Mode": {"Replicated": {"Replicas": 2}},
    });
    let made = c.api("n1", "POST", "/services/create", Some(&body));
    assert_eq!(made.status, 201, "{}", made.body);
    c.wait_running("n1", "env", 2, secs(30));
    c.skep(
        "n1",
        "service update --detach=false --quiet --secret-add source=key,env=DB_KEY env",
    )
    .ok();
    let tasks = c.wait_running("n1", "env", 2, secs(30));
    for task in &tasks {
        eventually("the program has it", secs(5), || {
            let has = inside(c, task, "ls /tmp");
            holds(has.contains("has-it"), has)
        });
        assert_eq!(inside(c, task, "echo $DB_KEY"), old);
        assert_eq!(inside(c, task, "test -e /run/secrets || echo none"), "none");
        assert_not_shown(c, task, "env", &old);
    }
    assert_on_no_disk(c, &old);
    // A client that knows of no variables sends everything back.
    let mut service = c.get("n1", "/services/env");
    let spec = service["Spec"].take();
    let spec = docker_spec(spec);
    let path = format!(
        "/services/env/update?version={}",
        service["Version"]["Index"]
    );
    let answer = c.api("n1", "POST", &path, Some(&spec));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let same = c.running("n1", "env");
    assert_eq!(ids(&same), ids(&tasks), "nothing has changed");
    // The daemon's end and its new life change nothing.
    let task = &tasks[0];
    c.kill(&task.node);
    c.start(&task.node);
    eventually("the daemon is back", secs(30), || {
        let line = format!("exec {} sh -c 'echo $DB_KEY'", task.container);
        let ran = c.skep(&task.node, &line);
        holds(ran.out.trim() == old, ran.to_string())
    });
    c.wait_ready("n1", &task.node, secs(30));
    let number = c.skep_given("n1", "secret rotate --timeout 60s key -", new.as_bytes());
    assert_eq!(number.word(), "2");
    for task in c.wait_running("n1", "env", 2, secs(30)) {
        assert_eq!(inside(c, &task, "echo $DB_KEY"), new);
        assert_not_shown(c, &task, "env", &new);
    }
    for word in [&old, &new] {
        assert_on_no_disk(c, word);
    }
}

/// The spec as a client has it that knows of no fields but docker's.
fn docker_spec(mut spec: serde_json::Value) -> serde_json::Value {
    let secrets = &mut spec["TaskTemplate"]["ContainerSpec"]["Secrets"];
    for secret in secrets.as_array_mut().unwrap() {
        let known = ["File", "SecretID", "SecretName"];
        secret
            .as_object_mut()
            .unwrap()
            .retain(|key, _| known.contains(&key.as_str()));
    }
    spec
}

fn ids(tasks: &[Task]) -> Vec<String> {
    let mut ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
    ids.sort();
    ids
}

fn refused(c: &Cluster) {
    c.skep_given("n1", "secret create zero -", b"a\0b").ok();
    let create = "service create -d --no-resolve-image --name none";
    for (flags, why) in [
        ("--secret source=zero,env=WORD", "its value has a zero byte"),
        (
            "--secret source=key,env=1WORD",
            "invalid variable name `1WORD`",
        ),
        (
            "--secret source=key,env=WORD --env WORD=1",
            "which the service sets itself",
        ),
        (
            "--secret source=key,env=WORD --secret source=zero,env=WORD",
            "duplicate secret target",
        ),
        (
            "--secret source=key,env=WORD,mode=0400",
            "mode is for files",
        ),
    ] {
        c.skep("n1", &format!("{create} {flags} busy:1 sleep 1000"))
            .fails(why);
    }
    // What a template makes of it is known on the node alone.
    let template = b"{{secret \"zero\"}}";
    c.skep_given(
        "n1",
        "secret create --template-driver golang made -",
        template,
    )
    .ok();
    let body = json!({
        "Name": "late",
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "busy:1", "Command": ["sleep", "1000"], "StopSignal": "KILL",
                "Secrets": [
                    {"SecretName": "zero", "File": {"Name": "zero"}},
                    {"SecretName": "made", "File": {"Name": "env:WORD"}},
                ],
            },
            "RestartPolicy": {"Condition": "none"},
        },
    });
    let made = c.api("n1", "POST", "/services/create", Some(&body));
    assert_eq!(made.status, 201, "{}", made.body);
    eventually("the task says why", secs(20), || {
        let shown = c.skep("n1", "service ps --no-trunc late").ok();
        let why = "secret `made` cannot be variable WORD: its value has a zero byte";
        holds(shown.contains(why), shown)
    });
    let why = c.skep("n1", "why late");
    let text = format!("{}{}", why.out, why.err);
    assert!(text.contains("cannot be variable WORD"), "{text}");
    c.remove_service("n1", "late");
}

fn expires(c: &Cluster) {
    let unix = || {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        since.as_secs()
    };
    let began = unix() - 1;
    let headings = c.skep("n1", "secret ls").ok();
    assert!(!headings.contains("EXPIRES"), "{headings}");
    c.skep_given(
        "n1",
        "secret create --expires 1h --remind 2h soon -",
        b"one",
    )
    .ok();
    c.skep_given("n1", "secret create --expires 90d later -", b"one")
        .ok();
    let told = |action: &str| {
        let until = unix() + 1;
        let line = format!(
            "events --since {began} --until {until} --filter type=secret --filter event={action}"
        );
        c.skep("n1", &line).ok()
    };
    eventually("it is told of", secs(10), || {
        let told = told("expiring");
        holds(told.contains("name=soon"), told)
    });
    let listed = c.skep("n1", "secret ls").ok();
    assert!(
        listed.contains("EXPIRES") && listed.contains("in 3 months"),
        "{listed}"
    );
    let only = "secret ls --filter expiring=true --format {{.Name}}";
    assert_eq!(c.skep("n1", only).word(), "soon");
    let pretty = c.skep("n1", "secret inspect --pretty soon").ok();
    assert!(
        pretty.contains("(soon), each version after about an hour"),
        "{pretty}"
    );
    let why = c.skep("n1", "why");
    assert!(why.out.contains("secret soon"), "{why}");
    let info = c.skep("n1", "info");
    assert!(
        info.err
            .contains("secrets expire soon or have expired: soon"),
        "{info}"
    );
    c.skep("n1", "secret update --expires never soon").ok();
    assert_eq!(c.skep("n1", only).word(), "");
    assert_eq!(told("expiring").lines().count(), 1, "once");
    assert_eq!(told("expired"), "");
    c.skep("n1", "secret create --expires soon other /etc/hostname")
        .fails("want a length of time such as 90d");
    c.skep("n1", "secret update --expires 2001-01-01T00:00:00Z later")
        .fails("is over: give a time to come");
}
