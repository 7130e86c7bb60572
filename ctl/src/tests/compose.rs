//! `skep compose` against a daemon that answers from a list.

use super::*;

const FILE: &str = "\
services:
  web:
    image: reg.example/web:1
    build: {context: ., tags: [reg.example/web:latest]}
    depends_on:
      db: {condition: service_started, restart: true}
    environment: {WHO: \"${WHO:-nobody}\", KEY: \"${KEY:?give one}\"}
  db:
    image: db:1
";

/// As `docker` lists it: one of two services.
fn listed(service: &str, number: u64, state: &str) -> String {
    format!(
        r#"{{"Id":"{service}{number}","Names":["/app-{service}-{number}"],"State":"{state}","Mounts":[{{"Type":"volume","Name":"app-{service}"}}],"Labels":{{"com.docker.compose.project":"app","com.docker.compose.service":"{service}","com.docker.compose.container-number":"{number}","com.docker.compose.oneoff":"False"}}}}"#
    )
}

fn all() -> Answer {
    json(&format!(
        "[{},{},{}]",
        listed("web", 1, "running"),
        listed("web", 2, "running"),
        listed("db", 1, "running")
    ))
}

/// A project's directory with its file in it, and what names both on a command line.
fn project(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::Builder::new()
        .prefix("compose")
        .rand_bytes(12)
        .tempdir()
        .unwrap();
    let root = directory.path();
    std::fs::write(root.join("compose.yml"), text).unwrap();
    std::fs::write(root.join(".env"), "KEY=k\n").unwrap();
    let line = format!("compose -p app --project-directory {}", root.display());
    (directory, line)
}

#[test]
fn one_container_of_a_service_is_exported_and_committed() {
    let daemon = Daemon::start(vec![
        ("GET /containers/json", all()),
        (
            "GET /containers/web2/export",
            Answer::Bytes(b"tar".to_vec()),
        ),
        ("POST /commit", json(r#"{"Id":"sha256:new"}"#)),
    ]);
    let (_directory, compose) = project(FILE);
    let ran = daemon.run(&format!("{compose} export --index 2 web"));
    assert_eq!(ran, said("tar"));
    let ran = daemon.run(&format!("{compose} commit -m why web mine:2"));
    assert_eq!(ran, said("sha256:new\n"));
    let line = &daemon.requests("POST /commit")[0].line;
    for part in ["container=web1", "repo=mine", "tag=2", "comment=why"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let ran = daemon.run(&format!("{compose} export --index 9 web"));
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("container #9"), "{ran:?}");
}

#[test]
fn wait_ends_as_the_last_container_did() {
    let daemon = Daemon::start(vec![
        ("GET /containers/json", all()),
        ("POST /containers/web1/wait", json(r#"{"StatusCode":0}"#)),
        ("POST /containers/web2/wait", json(r#"{"StatusCode":7}"#)),
        ("POST /containers/db1/wait", json(r#"{"StatusCode":3}"#)),
    ]);
    let (_directory, compose) = project(FILE);
    let ran = daemon.run(&format!("{compose} wait db"));
    assert_eq!(ran.status, 3, "{ran:?}");
    assert_eq!(ran.out, "container \"db1\" exited with status code 3\n");
    let ran = daemon.run(&format!("{compose} wait web"));
    assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
    let empty = Daemon::start(vec![("GET /containers/json", json("[]"))]);
    let ran = empty.run(&format!("{compose} wait web"));
    assert_eq!(
        (ran.status, ran.err.as_str()),
        (1, "no containers for project \"app\"\n")
    );
}

#[test]
fn volumes_are_those_of_the_project_or_of_services() {
    let volumes =
        r#"{"Volumes":[{"Name":"app-db","Driver":"local"},{"Name":"app-web","Driver":"local"}]}"#;
    let daemon = Daemon::start(vec![
        ("GET /containers/json", all()),
        ("GET /volumes", json(volumes)),
    ]);
    let (_directory, compose) = project(FILE);
    assert_eq!(
        daemon.run(&format!("{compose} volumes")),
        said("DRIVER    VOLUME NAME\nlocal     app-db\nlocal     app-web\n")
    );
    assert_eq!(
        daemon.run(&format!("{compose} volumes -q db")),
        said("app-db\n")
    );
    let line = &daemon.requests("GET /volumes")[0].line;
    assert!(line.contains("com.docker.compose.project%3Dapp"), "{line}");
}

#[test]
fn push_sends_what_is_built_here_under_all_its_names() {
    let daemon = Daemon::start(vec![(
        "POST /images/reg.example/web/push",
        json("{\"status\":\"done\"}\r\n"),
    )]);
    let (_directory, compose) = project(FILE);
    let ran = daemon.run(&format!("{compose} push"));
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(
        ran.err,
        " db Skipped\n web Pushing reg.example/web:1\n web Pushed reg.example/web:1\n web Pushing reg.example/web:latest\n web Pushed reg.example/web:latest\n"
    );
    let sent = daemon.requests("POST /images/reg.example/web/push");
    assert!(sent[0].line.ends_with("?tag=1") && sent[1].line.ends_with("?tag=latest"));
    let deaf = Daemon::start(vec![]);
    let ran = deaf.run(&format!("{compose} push -q web"));
    assert_eq!((ran.status, ran.out.as_str()), (1, ""), "{ran:?}");
    let ran = deaf.run(&format!("{compose} push --ignore-push-failures web"));
    assert_eq!(ran.status, 0, "{ran:?}");
}

#[test]
fn restart_takes_those_along_that_start_again_with_it() {
    let answers = || {
        vec![
            ("GET /containers/json", all()),
            ("POST /containers/web1/restart", json("")),
            ("POST /containers/web2/restart", json("")),
            ("POST /containers/db1/restart", json("")),
        ]
    };
    let (_directory, compose) = project(FILE);
    let daemon = Daemon::start(answers());
    assert_eq!(daemon.run(&format!("{compose} restart db")).status, 0);
    assert_eq!(daemon.requests("POST").len(), 3);
    let daemon = Daemon::start(answers());
    let ran = daemon.run(&format!("{compose} --progress quiet restart --no-deps db"));
    assert_eq!(ran, said(""));
    assert_eq!(daemon.requests("POST").len(), 1);
}

#[test]
fn config_lists_variables_and_what_is_not_offered_is_named() {
    let daemon = Daemon::start(vec![]);
    let (_directory, compose) = project(FILE);
    let ran = daemon.run(&format!("{compose} convert --variables"));
    assert_eq!(
        ran.out,
        "NAME      REQUIRED   DEFAULT VALUE   ALTERNATE VALUE\nKEY       true                       \nWHO       false      nobody          \n",
        "{ran:?}"
    );
    for (line, why) in [
        (
            "--dry-run exec web ls",
            "--dry-run is not supported by `compose exec`: ",
        ),
        (
            "--ansi blue up",
            "unsupported --ansi value \"blue\": want one of never, always, auto\n",
        ),
        (
            "config --models",
            "--models is not supported: models are not run\n",
        ),
        (
            "config --no-env-resolution",
            "--no-env-resolution is not supported: ",
        ),
        (
            "build --builder x",
            "--builder is not supported: the daemon builds\n",
        ),
        ("publish x", "compose publish is not supported: "),
        ("up -d --watch", "--detach cannot be combined with "),
        (
            "watch",
            "none of the selected services is configured for watch\nhint: ",
        ),
    ] {
        let ran = daemon.run(&format!("{compose} {line}"));
        assert_eq!(ran.status, 1, "{line}: {ran:?}");
        assert!(ran.err.starts_with(why), "{line}: {ran:?}");
    }
    assert!(daemon.requests("POST").is_empty());
}

#[test]
fn what_cannot_be_watched_is_told_before_anything_is_made() {
    let daemon = Daemon::start(vec![]);
    for (rule, why) in [
        (
            "{path: ., action: rebuild}",
            "can't watch service \"a\" with action rebuild without a build context\n",
        ),
        (
            "{path: ./no, action: sync, target: /x}",
            "which is not there\n",
        ),
        ("{path: ., action: sync}", "target is required"),
        (
            "{path: ., action: sync+exec, target: /x}",
            "exec is required",
        ),
        (
            "{path: ., action: copy}",
            "must be one of the following: \"sync\", ",
        ),
        (
            "{path: ., action: sync, target: x}",
            "must have an absolute target",
        ),
    ] {
        let text = format!("services:\n  a:\n    image: x\n    develop: {{watch: [{rule}]}}\n");
        let (_directory, compose) = project(&text);
        let ran = daemon.run(&format!("{compose} watch"));
        assert_eq!(ran.status, 1, "{rule}: {ran:?}");
        assert!(ran.err.contains(why), "{rule}: {ran:?}");
    }
    assert!(daemon.requests("POST").is_empty());
}

/// What a rehearsal of `up` and others asks for: nothing is there but one container of `web`.
fn present() -> Answers {
    vec![
        (
            "GET /containers/json",
            json(&format!("[{}]", listed("web", 1, "running"))),
        ),
        (
            "GET /containers/web1/json",
            json(r#"{"Name":"/app-web-1","State":{"Status":"running"},"Mounts":[]}"#),
        ),
        ("GET /images/db:1/json", json(r#"{"Id":"sha256:db"}"#)),
        (
            "GET /networks",
            json(r#"[{"Name":"app_default","Id":"n1"}]"#),
        ),
        (
            "GET /distribution/docker.io/library/db:1/json",
            json(r#"{"Descriptor":{"digest":"sha256:new"}}"#),
        ),
    ]
}

#[test]
fn a_rehearsal_tells_what_would_be_done_and_does_nothing() {
    let daemon = Daemon::start(present());
    let (_directory, compose) = project(FILE);
    let plain = |text: &str| text.replace("DRY ", " DRY-RUN MODE -  ");
    let ran = daemon.run(&format!("{compose} --dry-run up -d --wait"));
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(
        ran.err,
        plain(
            "DRY Service web  Building
DRY web ==> naming to reg.example/web:1
DRY web ==> naming to reg.example/web:latest
DRY Service web  Built
DRY Network app_default  Creating
DRY Network app_default  Created
DRY Container app-db-1  Creating
DRY Container app-db-1  Created
DRY Container app-web-1  Recreate
DRY Container app-web-1  Recreated
DRY Container app-db-1  Starting
DRY Container app-db-1  Started
DRY Container app-web-1  Starting
DRY Container app-web-1  Started
"
        )
    );
    let ran = daemon.run(&format!("{compose} up --dry-run db"));
    assert_eq!(
        ran.out, "end of 'compose up' output, interactive run is not supported in dry-run mode\n",
        "{ran:?}"
    );
    for (line, wanted) in [
        (
            "down --dry-run",
            "DRY Container app-web-1  Stopping
DRY Container app-web-1  Stopped
DRY Container app-web-1  Removing
DRY Container app-web-1  Removed
DRY Network app_default  Removing
DRY Network app_default  Removed
",
        ),
        (
            "stop --dry-run",
            "DRY Container app-web-1  Stopping\nDRY Container app-web-1  Stopped\n",
        ),
        ("--progress quiet rm --dry-run -fs", ""),
        (
            "--dry-run restart web",
            "DRY Container app-web-1  Restarting\nDRY Container app-web-1  Started\n",
        ),
        ("pull --dry-run db", "DRY db Pulling \nDRY db Pulled \n"),
        ("--progress quiet build --dry-run", ""),
        ("--progress quiet pull --dry-run db", ""),
        (
            "--progress json pull --dry-run db",
            "{\"dry-run\":true,\"id\":\"db\",\"text\":\"Pulling\"}\n{\"dry-run\":true,\"id\":\"db\",\"text\":\"Pulled\"}\n",
        ),
        (
            "--dry-run --progress json kill",
            "{\"dry-run\":true,\"id\":\"Container app-web-1\",\"text\":\"Killing\"}\n{\"dry-run\":true,\"id\":\"Container app-web-1\",\"text\":\"Killed\"}\n",
        ),
    ] {
        let ran = daemon.run(&format!("{compose} {line}"));
        assert_eq!((ran.status, ran.err), (0, plain(wanted)), "{line}");
    }
    for verb in ["POST", "DELETE", "PUT"] {
        let asked = daemon.requests(verb);
        assert!(asked.is_empty(), "{asked:?}");
    }
    // What would fail does.
    let ran = daemon.run(&format!("{compose} pull --dry-run web"));
    assert_eq!(
        ran.status, 0,
        "a service that is built may fail to be pulled: {ran:?}"
    );
    let (_directory, compose) = project("services:\n  a: {image: gone}\n");
    let ran = daemon.run(&format!("{compose} pull --dry-run"));
    assert_eq!(ran.status, 1, "{ran:?}");
}

#[test]
fn compatibility_puts_underscores_into_names() {
    let (directory, compose) = project("services:\n  a: {build: .}\n");
    let daemon = Daemon::start(vec![
        ("GET /containers/json", json("[]")),
        ("GET /images/app_a/json", json(r#"{"Id":"sha256:a"}"#)),
        (
            "GET /networks/app_default",
            json(r#"{"Name":"app_default","Labels":{"com.docker.compose.project":"app"}}"#),
        ),
        ("POST /containers/create", json(r#"{"Id":"a1"}"#)),
    ]);
    let ran = daemon.run(&format!("{compose} --compatibility create"));
    assert_eq!(ran.status, 0, "{ran:?}");
    let line = &daemon.requests("POST /containers/create")[0].line;
    assert!(line.contains("name=app_a_1"), "{line}");
    assert_eq!(daemon.body("POST /containers/create")["Image"], "app_a");
    std::fs::write(
        directory.path().join(".env"),
        "COMPOSE_COMPATIBILITY=true\n",
    )
    .unwrap();
    assert_eq!(
        daemon.run(&format!("{compose} config --images")),
        said("app_a\n")
    );
}

#[test]
fn images_are_locked_to_what_the_registry_has() {
    let daemon = Daemon::start(vec![
        (
            "GET /distribution/docker.io/library/db:1/json",
            json(r#"{"Descriptor":{"digest":"sha256:d"}}"#),
        ),
        (
            "GET /distribution/reg.example/web:1/json",
            json(r#"{"Descriptor":{"digest":"sha256:w"}}"#),
        ),
    ]);
    let (_directory, compose) = project(&format!("{FILE}  other: {{build: .}}\n"));
    assert_eq!(
        daemon.run(&format!("{compose} config --lock-image-digests")),
        said(
            "services:\n  db:\n    image: docker.io/library/db:1@sha256:d\n  other: {}\n  web:\n    image: reg.example/web:1@sha256:w\n"
        )
    );
    let ran = daemon.run(&format!(
        "{compose} config --lock-image-digests --format json"
    ));
    let locked: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        locked["services"]["db"]["image"],
        "docker.io/library/db:1@sha256:d"
    );
}

/// Two services of one image, which the first of them builds.
const SHARED: &str = "\
services:
  web: {image: \"app:1\", build: .}
  worker: {image: \"app:1\", depends_on: [web]}
";

#[test]
fn an_image_that_one_service_builds_is_the_others_too() {
    let (directory, compose) = project(SHARED);
    std::fs::write(directory.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    let none = || Answer::Json(404, r#"{"message":"no such image"}"#.to_owned());
    let old = || json(r#"{"Id":"sha256:old"}"#);
    for (before, line) in [
        (none as fn() -> Answer, "create"),
        (none, "create --pull never"),
        (old, "create --build"),
    ] {
        let daemon = Daemon::start(vec![
            ("GET /containers/json", json("[]")),
            ("GET /images/app:1/json", before()),
            ("GET /images/app:1/json", before()),
            ("GET /images/app:1/json", json(r#"{"Id":"sha256:new"}"#)),
            ("POST /build", json("{\"stream\":\"done\"}\r\n")),
            (
                "GET /networks/app_default",
                json(r#"{"Name":"app_default","Labels":{"com.docker.compose.project":"app"}}"#),
            ),
            ("POST /containers/create", json(r#"{"Id":"c"}"#)),
        ]);
        let ran = daemon.run(&format!("{compose} {line}"));
        assert_eq!(ran.status, 0, "{line}: {ran:?}");
        assert_eq!(daemon.requests("POST /build").len(), 1, "{line}");
        assert!(daemon.requests("POST /images").is_empty(), "{line}");
        let made = daemon.requests("POST /containers/create");
        assert_eq!(made.len(), 2, "{line}");
        for made in made {
            let body: serde_json::Value = serde_json::from_str(&made.body).unwrap();
            let id = &body["Labels"]["com.docker.compose.image"];
            assert_eq!(id, "sha256:new", "{line}");
        }
    }
    let daemon = Daemon::start(vec![("GET /containers/json", json("[]"))]);
    for line in ["up -d", "up -d --pull never"] {
        let ran = daemon.run(&format!("{compose} --dry-run {line}"));
        assert_eq!(ran.status, 0, "{line}: {ran:?}");
        assert!(ran.err.contains("Service web  Building"), "{line}: {ran:?}");
        assert!(!ran.err.contains("Pulling"), "{line}: {ran:?}");
    }
    // Where nobody may build it, it is missed.
    let ran = daemon.run(&format!("{compose} create --no-build --pull never"));
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.contains("no such image: app:1"), "{ran:?}");
}

#[test]
fn flags_before_the_verb_have_values_of_their_kinds() {
    let (_directory, compose) = project(FILE);
    let daemon = Daemon::start(vec![
        ("GET /containers/json", all()),
        ("POST /containers/web1/kill", json("")),
        ("POST /containers/web2/kill", json("")),
        ("POST /containers/db1/kill", json("")),
    ]);
    for value in ["1", "t", "T", "true", "True", "TRUE"] {
        let ran = daemon.run(&format!("{compose} --dry-run={value} kill"));
        assert_eq!(ran.status, 0, "{value}: {ran:?}");
        assert!(ran.err.contains("DRY-RUN MODE"), "{value}: {ran:?}");
        let ran = daemon.run(&format!(
            "{compose} --compatibility={value} config --images"
        ));
        assert_eq!(ran.status, 0, "{value}: {ran:?}");
    }
    for (flags, why) in [
        (
            "--dry-run=maybe",
            "invalid argument \"maybe\" for \"--dry-run\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax\n",
        ),
        (
            "--all-resources=2",
            "invalid argument \"2\" for \"--all-resources\" flag: strconv.ParseBool: ",
        ),
        (
            "--parallel many",
            "invalid argument \"many\" for \"--parallel\" flag: strconv.ParseInt: parsing \"many\": invalid syntax\n",
        ),
    ] {
        let ran = daemon.run(&format!("{compose} {flags} kill"));
        assert_eq!(ran.status, 125, "{flags}: {ran:?}");
        assert!(ran.err.starts_with(why), "{flags}: {ran:?}");
    }
    assert!(daemon.requests("POST").is_empty());
    // The last one counts.
    let ran = daemon.run(&format!("{compose} --dry-run=false kill --dry-run"));
    assert!(ran.err.contains("DRY-RUN MODE"), "{ran:?}");
    assert!(daemon.requests("POST").is_empty());
    daemon.run(&format!("{compose} --dry-run kill --dry-run=false"));
    assert_eq!(daemon.requests("POST").len(), 3);
}

#[test]
fn the_bound_of_what_goes_on_at_once_may_stand_in_a_file() {
    let (directory, compose) = project("services:\n  web: {image: web}\n");
    let stopped = |flags: &str| {
        let daemon = Daemon::start(vec![
            ("GET /containers/json", all()),
            ("POST /containers/web1/stop", json("")),
            ("POST /containers/web2/stop", json("")),
        ]);
        daemon.run(&format!("{compose} {flags} stop web"))
    };
    let one_by_one = " Container app-web-1  Stopping
 Container app-web-1  Stopped
 Container app-web-2  Stopping
 Container app-web-2  Stopped
";
    let write = |text| std::fs::write(directory.path().join(".env"), text).unwrap();
    assert_eq!(stopped("--parallel 1").err, one_by_one);
    assert_ne!(stopped("").err, one_by_one);
    write("COMPOSE_PARALLEL_LIMIT=1\n");
    assert_eq!(stopped("").err, one_by_one);
    assert_ne!(stopped("--parallel 2").err, one_by_one);
    write("COMPOSE_PARALLEL_LIMIT=few\n");
    assert_eq!(
        stopped("").err,
        "COMPOSE_PARALLEL_LIMIT must be an integer (found: \"few\")\n"
    );
}

#[test]
fn who_lives_in_a_container_that_got_another_name_lives_in_the_new_one() {
    let (_directory, compose) = project(
        "services:\n  web: {image: web}\n  inside: {image: web, network_mode: \"service:web\", volumes_from: [web]}\n",
    );
    let daemon = Daemon::start(vec![
        (
            "GET /containers/json",
            json(&format!("[{}]", listed("web", 1, "created"))),
        ),
        (
            "GET /containers/web1/json",
            json(r#"{"Name":"/app-web-1","State":{"Status":"created"},"Mounts":[]}"#),
        ),
        ("GET /images/web/json", json(r#"{"Id":"sha256:web"}"#)),
        (
            "GET /networks/app_default",
            json(r#"{"Name":"app_default","Labels":{"com.docker.compose.project":"app"}}"#),
        ),
        ("POST /containers/create", json(r#"{"Id":"new"}"#)),
        ("POST /containers/create", json(r#"{"Id":"inside"}"#)),
        ("DELETE /containers/web1", json("")),
        ("POST /containers/new/rename", json("")),
    ]);
    let ran = daemon.run(&format!("{compose} --compatibility create"));
    assert_eq!(ran.status, 0, "{ran:?}");
    let renamed = &daemon.requests("POST /containers/new/rename")[0].line;
    assert!(renamed.contains("name=app_web_1"), "{renamed}");
    let made = daemon.requests("POST /containers/create");
    let body: serde_json::Value = serde_json::from_str(&made[1].body).unwrap();
    let host = &body["HostConfig"];
    assert_eq!(host["NetworkMode"], "container:new");
    assert_eq!(host["VolumesFrom"], serde_json::json!(["new:rw"]));
}

#[test]
fn local_images_go_with_names_of_either_kind() {
    let (_directory, compose) = project(
        "services:\n  a: {build: .}\n  b: {image: \"b:1\", build: .}\n  c: {image: \"c:1\"}\n",
    );
    for (flags, line, wanted) in [
        ("", "--rmi local", &["app-a", "app_a"][..]),
        ("--compatibility", "--rmi local", &["app-a", "app_a"]),
        ("", "--rmi all", &["app-a", "app_a", "b:1", "c:1"]),
    ] {
        let daemon = Daemon::start(vec![
            ("GET /containers/json", json("[]")),
            ("GET /networks", json("[]")),
            ("DELETE /images/app_a", json("[]")),
        ]);
        let ran = daemon.run(&format!("{compose} {flags} down {line}"));
        assert_eq!(
            (ran.status, ran.err.as_str()),
            (0, " Image app_a  Removed\n"),
            "{flags} {line}"
        );
        let asked = daemon.requests("DELETE /images/").into_iter();
        let asked: Vec<String> = asked
            .filter_map(|request| Some(request.line.strip_prefix("DELETE /images/")?.to_owned()))
            .collect();
        assert_eq!(asked, wanted, "{flags} {line}");
    }
}
