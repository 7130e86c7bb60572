//! `skep compose` on one host: a project from `up` to `down`, as plain containers.

use std::fs;
use std::process::Stdio;

use serde_json::Value;
use skep_e2e::run::Ran;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const NODE: &str = "n1";

const APP: &str = r#"
services:
  web:
    image: busy:1
    command: ["sh", "-c", "echo web is up as $$WHO; busybox httpd -f -p 80 -h /data"]
    environment:
      WHO: ${WHO:-nobody}
    ports: ["18200:80"]
    volumes: ["data:/data", "/scratch"]
    networks:
      front: {aliases: [site]}
      back: {ipv4_address: 10.61.7.9}
    depends_on:
      db: {condition: service_healthy, restart: true}
      setup: {condition: service_completed_successfully}
    labels: {of: web}
    stop_grace_period: 1s
    mem_limit: 64m
    secrets: [word, {source: inline, mode: 0400}]
    configs: [{source: plain, target: /etc/plain}]
  setup:
    image: busy:1
    command: ["sh", "-c", "echo the page > /data/index.html"]
    volumes: ["data:/data"]
    networks: [back]
  db:
    image: busy:1
    command: ["sh", "-c", "echo db is up; touch /tmp/ok; exec sleep 1000"]
    networks: [back]
    stop_signal: KILL
    healthcheck: {test: ["CMD", "stat", "/tmp/ok"], interval: 100ms, retries: 30}
    ulimits: {nofile: {soft: 100, hard: 200}}
    extra_hosts: ["other:192.0.2.5"]
    cap_add: [NET_ADMIN]
    tmpfs: /run/quick
  side:
    image: busy:1
    command: ["sleep", "1000"]
    stop_signal: KILL
    network_mode: service:db
    pid: service:db
    profiles: [extra]
networks:
  front: {}
  back:
    ipam: {config: [{subnet: 10.61.7.0/24}]}
volumes:
  data: {labels: {of: app}}
secrets:
  word: {file: ./word.txt}
  inline: {environment: WORD}
configs:
  plain: {content: "who: ${WHO:-nobody}\n"}
"#;

struct Project<'a> {
    c: &'a Cluster,
    directory: String,
}

impl Project<'_> {
    fn write(&self, name: &str, text: &str) {
        let path = self.c.root.join(&self.directory).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// `skep compose` in the project's directory.
    fn compose(&self, line: &str) -> Ran {
        self.c.skep(
            NODE,
            &format!("compose --project-directory {} {line}", self.directory),
        )
    }

    fn inspect(&self, name: &str) -> Value {
        self.c.get(NODE, &format!("/containers/{name}/json"))
    }
}

#[test]
fn a_project_goes_up_and_down() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(1, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    c.skep_given(NODE, "load", &archive).ok();
    let project = |name: &str| Project {
        c,
        directory: name.to_owned(),
    };
    let mut checks = Checks::new();
    let app = project("app");
    app.write("compose.yaml", APP);
    app.write("word.txt", "a secret word");
    app.write(".env", "WORD='from the file'\n");
    checks.check("up makes all of it, in order", || up(&app));
    checks.check("what is there can be asked for", || questions(&app));
    checks.check("up again changes only what differs", || again(&app));
    checks.check("verbs reach all containers of services", || verbs(&app));
    checks.check("run makes one container for one command", || one_off(&app));
    checks.check("down takes it all away", || {
        let said = app.compose("--profile extra down -v -t 0");
        let said = said.err.clone() + &said.ok();
        for gone in [
            "app-web-1  Removed",
            "app-db-1  Removed",
            "app_data  Removed",
            "app_back  Removed",
        ] {
            assert!(said.contains(gone), "{gone}: {said}");
        }
        let order = |name: &str| said.find(&format!("{name}  Stopped")).unwrap();
        assert!(order("app-web-1") < order("app-db-1"), "{said}");
        for list in ["ps -aq", "volume ls -q"] {
            assert_eq!(c.skep(NODE, list).ok(), "", "{list}");
        }
        assert!(
            !c.skep(NODE, "network ls --format {{.Name}}")
                .ok()
                .contains("app_")
        );
    });
    checks.check("a dependency that fails is told", || {
        failures(&project("bad"))
    });
    checks.check("a foreground up ends as its containers do", || {
        foreground(&project("fore"));
    });
    checks.check("images are built from what the file says", || {
        builds(&project("made"))
    });
    checks.check("older files and several files are understood", || {
        older(&project("old"));
    });
    checks.check("down leaves what is not of the files", || {
        leaves(&project("left"));
    });
    checks.end();
}

fn up(app: &Project<'_>) {
    let said = app.compose("up -d");
    assert_eq!(said.status, 0, "{said}");
    for line in [
        " Network app_front  Created\n",
        " Volume app_data  Created\n",
        " Container app-db-1  Healthy\n",
        " Container app-setup-1  Exited\n",
        " Container app-web-1  Started\n",
    ] {
        assert!(said.err.contains(line), "{line}: {said}");
    }
    eventually("the page is served", secs(10), || {
        let page = app.c.page(NODE, 18200, "/index.html")?;
        holds(page.contains("the page"), page)
    });
    let web = app.inspect("app-web-1");
    let labels = &web["Config"]["Labels"];
    for (label, value) in [
        ("project", "app"),
        ("service", "web"),
        ("container-number", "1"),
        ("oneoff", "False"),
        (
            "depends_on",
            "db:service_healthy:true,setup:service_completed_successfully:false",
        ),
    ] {
        assert_eq!(
            labels[format!("com.docker.compose.{label}")],
            value,
            "{labels}"
        );
    }
    assert_eq!(labels["of"], "web");
    assert_eq!(web["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(
        web["NetworkSettings"]["Networks"]["app_back"]["IPAddress"],
        "10.61.7.9"
    );
    for (command, wanted) in [
        ("cat /run/secrets/word", "a secret word"),
        ("cat /run/secrets/inline", "from the file"),
        ("stat -c %a /run/secrets/inline", "400"),
        ("cat /etc/plain", "who: nobody"),
        ("busybox nslookup site", "Address"),
    ] {
        let ran = app.compose(&format!("exec -T web {command}"));
        assert!(ran.status == 0 && ran.out.contains(wanted), "{ran}");
    }
    let limits = app.compose("exec -T db sh -c 'ulimit -n; cat /etc/hosts'");
    assert!(
        limits.out.starts_with("100\n") && limits.out.contains("192.0.2.5"),
        "{limits}"
    );
    // Profiles: not asked for, not there; and in another's namespaces.
    assert!(
        app.c
            .skep(NODE, "ps -a --format {{.Names}}")
            .ok()
            .find("side")
            .is_none()
    );
    app.compose("--profile extra up -d").ok();
    let net = app.compose("exec -T side cat /proc/net/fib_trie").ok();
    assert!(net.contains("10.61.7."), "{net}");
    let peers = app.compose("exec -T side ps").ok();
    assert!(peers.matches("sleep 1000").count() == 2, "{peers}");
}

fn questions(app: &Project<'_>) {
    let table = app.compose("ps").ok();
    let head = table.lines().next().unwrap();
    let columns: Vec<&str> = head.split_whitespace().collect();
    assert_eq!(
        columns,
        [
            "NAME", "IMAGE", "COMMAND", "SERVICE", "CREATED", "STATUS", "PORTS"
        ]
    );
    assert!(
        table.contains("app-web-1") && !table.contains("app-setup-1"),
        "{table}"
    );
    assert!(app.compose("ps -a").ok().contains("app-setup-1"));
    assert_eq!(
        app.compose("ps --services --status exited -a").ok(),
        "setup\n"
    );
    assert_eq!(app.compose("ps -q db").ok().trim().len(), 64);
    assert!(app.compose("port web 80").word().ends_with(":18200"));
    let logs = app.compose("logs --tail 5");
    let all = logs.out.clone();
    assert!(
        all.contains("web-1  | web is up as nobody")
            || all.contains("web-1    | web is up as nobody"),
        "{logs}"
    );
    assert_eq!(app.compose("logs --no-log-prefix db").ok(), "db is up\n");
    assert!(app.compose("top db").ok().contains("sleep 1000"));
    let listed = app.compose("ls").ok();
    assert!(
        listed.contains("app") && listed.contains("exited(1), running("),
        "{listed}"
    );
    assert!(app.compose("images").ok().contains("busy"));
    for (flags, wanted) in [
        ("--services", "db\nsetup\nweb\n"),
        ("--volumes", "data\n"),
        ("--profiles", "extra\n"),
        ("-q", ""),
    ] {
        assert_eq!(
            app.compose(&format!("config {flags}")).ok(),
            wanted,
            "{flags}"
        );
    }
    let document = app.compose("config").ok();
    assert!(
        document.starts_with("name: app\nservices:\n") && document.contains("WHO: nobody"),
        "{document}"
    );
    let json: Value = serde_json::from_str(&app.compose("config --format json").ok()).unwrap();
    assert_eq!(json["networks"]["back"]["name"], "app_back");
    // By name alone, without the files.
    assert!(
        app.c
            .skep(NODE, "compose -p app ps -q")
            .ok()
            .lines()
            .count()
            >= 2
    );
    app.compose("exec -T nosuch true").fails("is not running");
    app.compose("logs nosuch").fails("no such service: nosuch");
    app.compose("up --bogus").fails("unknown flag: --bogus");
}

fn again(app: &Project<'_>) {
    let ids = || {
        let ids = app.c.skep(NODE, "ps -aq --no-trunc").ok();
        let mut ids: Vec<String> = ids.lines().map(str::to_owned).collect();
        ids.sort();
        ids
    };
    let before = ids();
    app.compose("--profile extra up -d").ok();
    // Only what had ended by itself is started again.
    assert_eq!(ids(), before);
    let volumes = |name: &str| {
        let mounts = app.inspect(name)["Mounts"].clone();
        let mounts = mounts.as_array().unwrap().clone();
        let scratch = mounts.iter().find(|one| one["Destination"] == "/scratch");
        scratch.unwrap()["Name"].as_str().unwrap().to_owned()
    };
    let (web, db, scratch) = (
        app.inspect("app-web-1")["Id"].clone(),
        app.inspect("app-db-1")["Id"].clone(),
        volumes("app-web-1"),
    );
    app.write(".env", "WORD='from the file'\nWHO=you\n");
    let said = app.compose("up -d");
    assert!(
        said.err.contains(" Container app-web-1  Recreated\n"),
        "{said}"
    );
    let now = app.inspect("app-web-1");
    assert!(now["Id"] != web && app.inspect("app-db-1")["Id"] == db);
    assert_eq!(volumes("app-web-1"), scratch, "volumes without a name stay");
    assert_eq!(app.compose("exec -T web cat /etc/plain").ok(), "who: you\n");
    let said = app.compose("up -d -V --force-recreate --no-deps web");
    assert!(
        said.status == 0 && volumes("app-web-1") != scratch,
        "{said}"
    );
    let said = app.compose("up -d --scale db=3 --no-recreate");
    assert_eq!(said.status, 0, "{said}");
    assert_eq!(app.compose("ps -q db").ok().lines().count(), 3);
    let ping = app.compose("exec -T web busybox ping -4 -c1 -W2 app-db-3");
    assert_eq!(ping.status, 0, "{ping}");
    app.compose("scale db=1").ok();
    assert_eq!(
        app.compose("ps -a --format {{.Name}} db").ok(),
        "app-db-1\n"
    );
    // A service that is no longer in the file.
    app.c.skep(NODE, "run -d --name app-gone-1 --label com.docker.compose.project=app --label com.docker.compose.service=gone busy:1 sleep 1000").ok();
    let said = app.compose("up -d");
    assert!(
        said.err.contains("found orphan containers ([app-gone-1])"),
        "{said}"
    );
    let said = app.compose("up -d --remove-orphans -t 0");
    assert!(
        said.err.contains(" Container app-gone-1  Removed\n"),
        "{said}"
    );
}

fn verbs(app: &Project<'_>) {
    let state = |wanted: &str| {
        eventually(wanted, secs(10), || {
            let now = app.inspect("app-db-1")["State"]["Status"].clone();
            holds(now == wanted, now)
        });
    };
    for (verb, after) in [
        ("pause db", "paused"),
        ("unpause db", "running"),
        ("stop -t 0 db", "exited"),
        ("start db", "running"),
        ("kill -s KILL db", "exited"),
        ("start", "running"),
        ("restart -t 0 db", "running"),
    ] {
        let ran = app.compose(verb);
        assert_eq!(ran.status, 0, "{ran}");
        state(after);
    }
    app.write("carried", "cargo");
    app.c
        .skep(
            NODE,
            "compose --project-directory app cp app/carried web:/tmp/carried",
        )
        .ok();
    assert_eq!(app.compose("exec -T web cat /tmp/carried").ok(), "cargo");
    let status = app.compose(
        "exec -T -e A=1 -w /tmp -u nobody web sh -c 'echo $A; busybox pwd; id -u; exit 7'",
    );
    assert_eq!(
        (status.status, status.out.as_str()),
        (7, "1\n/tmp\n65534\n"),
        "{status}"
    );
    let said = app.compose("rm -sf setup");
    assert!(
        said.err.contains(" Container app-setup-1  Removed\n"),
        "{said}"
    );
}

fn one_off(app: &Project<'_>) {
    let ran = app.compose("run --rm -T -e A=5 --no-deps web sh -c 'echo $A $WHO; exit 4'");
    assert_eq!((ran.status, ran.out.as_str()), (4, "5 you\n"), "{ran}");
    let given = app.c.skep_given(
        NODE,
        "compose --project-directory app run --rm -T --no-deps db cat",
        b"through",
    );
    assert_eq!(given.ok(), "through");
    let ran = app.compose(
        "run --rm -T --entrypoint 'echo in' -v data:/x -u nobody -w /tmp --no-deps web front",
    );
    assert_eq!(ran.ok(), "in front\n");
    let id = app
        .compose("run -d --no-deps --name single -p 18201:80 web")
        .ok();
    let one = app.inspect("single");
    assert_eq!(one["Id"], id.trim());
    assert_eq!(one["Config"]["Labels"]["com.docker.compose.oneoff"], "True");
    assert_eq!(
        one["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"],
        "18201"
    );
    assert!(!app.compose("ps").ok().contains("single"));
    assert!(app.compose("ps -a").ok().contains("single"));
}

fn failures(bad: &Project<'_>) {
    let base = "services:\n  app:\n    image: busy:1\n    command: sleep 1000\n    stop_signal: KILL\n    depends_on: {db: {condition: CONDITION}}\n  db:\n    image: busy:1\n    stop_signal: KILL\n";
    for (condition, rest, wanted) in [
        (
            "service_healthy",
            "    command: sleep 1000\n    healthcheck: {test: [CMD, 'false'], interval: 100ms, retries: 2}\n",
            "dependency failed to start: container bad-db-1 is unhealthy",
        ),
        (
            "service_healthy",
            "    command: sleep 1000\n",
            "dependency failed to start: container bad-db-1 has no healthcheck configured",
        ),
        (
            "service_completed_successfully",
            "    command: sh -c 'exit 3'\n",
            "service \"db\" didn't complete successfully: exit 3",
        ),
    ] {
        bad.write(
            "compose.yml",
            &(base.replace("CONDITION", condition) + rest),
        );
        let said = bad.compose("up -d");
        assert!(
            said.status == 1 && said.err.contains(wanted),
            "{wanted}: {said}"
        );
        assert_eq!(bad.inspect("bad-app-1")["State"]["Status"], "created");
        bad.compose("down -t 0").ok();
    }
    for (text, wanted) in [
        ("services: {a: {command: x}}", "compose.yml:1:12"),
        (
            "services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}",
            "dependency cycle detected",
        ),
        (
            "services: {a: {image: x, volumes: [\"vol:/v\"]}}",
            "undefined volume vol",
        ),
        (
            "services: {a: {image: x, privileged: 5}}",
            "services.a.privileged must be a boolean",
        ),
    ] {
        bad.write("compose.yml", text);
        bad.compose("up -d").fails(wanted);
    }
    fs::remove_file(bad.c.root.join("bad/compose.yml")).unwrap();
    bad.compose("up -d")
        .fails("no configuration file provided: not found");
}

fn foreground(fore: &Project<'_>) {
    fore.write(
        "compose.yml",
        "services:\n  once:\n    image: busy:1\n    command: sh -c 'echo out; echo err >&2; sleep 1; exit 3'\n  stays:\n    image: busy:1\n    command: sh -c 'echo here; exec sleep 1000'\n    stop_signal: KILL\n",
    );
    let ran = fore.compose("up --exit-code-from once -t 0");
    assert_eq!(ran.status, 3, "{ran}");
    for line in [
        "once-1   | out\n",
        "once-1 exited with code 3\n",
        "stays-1  | here\n",
    ] {
        assert!(ran.out.contains(line), "{line:?}: {ran}");
    }
    assert!(ran.err.contains("once-1   | err\n"), "{ran}");
    assert_eq!(fore.inspect("fore-stays-1")["State"]["Status"], "exited");
    // An interrupt stops what it started.
    let mut command = std::process::Command::new(skep_e2e::cluster::skep_binary());
    let mut child = command
        .args(["compose", "--project-directory", "fore", "up", "-t", "1"])
        .env(
            "DOCKER_HOST",
            format!("unix://{}", fore.c.socket(NODE).display()),
        )
        .current_dir(&fore.c.root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it runs", secs(20), || {
        let now = fore.inspect("fore-stays-1")["State"]["Status"].clone();
        holds(now == "running", now)
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ended = child.wait().unwrap();
    assert_eq!(ended.code(), Some(130));
    assert_eq!(fore.inspect("fore-stays-1")["State"]["Status"], "exited");
    fore.compose("down -t 0").ok();
}

fn builds(made: &Project<'_>) {
    made.write(
        "ctx/Dockerfile.own",
        "FROM busy:1\nARG WORD=none\nENV WORD=$WORD\nCOPY file /file\n",
    );
    made.write("ctx/file", "of the context");
    made.write(
        "compose.yml",
        "services:\n  own:\n    build: {context: ctx, dockerfile: Dockerfile.own, args: {WORD: given}, labels: {l: v}}\n    command: sleep 1000\n    stop_signal: KILL\n  inline:\n    image: made/inline:2\n    build: {context: ., dockerfile_inline: \"FROM busy:1\\nENV IN=line\\n\"}\n    command: sh -c 'echo $$IN'\n",
    );
    let said = made.compose("build");
    assert!(
        said.status == 0 && said.err.contains(" Service own  Built\n"),
        "{said}"
    );
    made.compose("up -d").ok();
    assert_eq!(
        made.compose("exec -T own sh -c 'cat /file; echo $WORD'")
            .ok(),
        "of the contextgiven\n"
    );
    assert_eq!(made.compose("run --rm -T inline").ok(), "line\n");
    made.write("ctx/file", "another context");
    let said = made.compose("up -d --build");
    assert!(
        said.err.contains(" Container made-own-1  Recreated\n"),
        "{said}"
    );
    made.compose("down --rmi all -t 0").ok();
    assert!(
        !made
            .c
            .skep(NODE, "images --format {{.Repository}}")
            .ok()
            .contains("made")
    );
    made.write("compose.yml", "services: {x: {image: 127.0.0.1:9/none:1}}");
    made.compose("up -d --pull never").fails("no such image");
    assert_eq!(made.compose("pull").status, 1);
    made.compose("pull --ignore-pull-failures").ok();
}

fn older(old: &Project<'_>) {
    old.write(
        "docker-compose.yml",
        "version: '2.1'\nservices:\n  one:\n    image: busy:1\n    command: sleep 1000\n    stop_signal: KILL\n    container_name: the-one\n    mem_limit: 32m\n    cpu_shares: 512\n    restart: no\n    env_file: vars.env\n  two:\n    image: busy:1\n    command: sleep 1000\n    stop_signal: KILL\n    links: [\"one:first\"]\n    volumes_from: [one]\n",
    );
    old.write(
        "docker-compose.override.yml",
        "version: '2.1'\nservices:\n  one:\n    volumes: [/shared]\n    environment: [MORE=1]\n",
    );
    old.write("vars.env", "# c\nA=\"with spaces\" # c\nB=${A}!\n");
    old.compose("up -d").ok();
    assert_eq!(
        old.compose("exec -T one sh -c 'echo $A $B $MORE'").ok(),
        "with spaces with spaces! 1\n"
    );
    old.compose("exec -T one sh -c 'echo x > /shared/x'").ok();
    assert_eq!(old.compose("exec -T two cat /shared/x").ok(), "x\n");
    assert_eq!(
        old.compose("exec -T two busybox ping -4 -c1 -W2 first")
            .status,
        0
    );
    let one = old.inspect("the-one");
    assert_eq!(one["HostConfig"]["CpuShares"], 512);
    old.compose("up -d --scale one=2")
        .fails("custom container name");
    old.compose("down -v -t 0").ok();
}

fn leaves(left: &Project<'_>) {
    let c = left.c;
    let service = "image: busy:1, command: sleep 1000, stop_signal: KILL";
    left.write(
        ".env",
        "COMPOSE_FILE=left/own.yml\nCOMPOSE_PROJECT_NAME=owned\n",
    );
    left.write(
        "own.yml",
        &format!(
            "services:\n  one: {{{service}, volumes: [\"data:/data\"]}}\n  inside: {{{service}, network_mode: \"service:one\"}}\n  more: {{{service}, profiles: [more], network_mode: none}}\nvolumes: {{data: {{}}}}\n"
        ),
    );
    left.compose("--profile more up -d").ok();
    let environment = left.compose("config --environment").ok();
    assert!(
        environment.contains("COMPOSE_PROJECT_NAME=owned\n"),
        "{environment}"
    );
    // Whoever lived with a container that is gone moves to the new one.
    c.skep(NODE, "rm -f owned-one-1").ok();
    let said = left.compose("up -d");
    assert!(
        said.status == 0 && said.err.contains(" Container owned-inside-1  Recreated\n"),
        "{said}"
    );
    c.skep(
        NODE,
        "volume create --label com.docker.compose.project=owned stray",
    )
    .ok();
    left.compose("down -v -t 0").ok();
    let volumes = c.skep(NODE, "volume ls -q").ok();
    assert!(
        volumes.contains("stray") && !volumes.contains("owned_data"),
        "{volumes}"
    );
    let containers = c.skep(NODE, "ps -a --format {{.Names}}").ok();
    assert!(
        containers.contains("owned-more-1") && !containers.contains("owned-one-1"),
        "{containers}"
    );
    // By name alone, all of it goes.
    fs::remove_file(left.c.root.join("left/.env")).unwrap();
    c.skep(
        NODE,
        "compose -p owned --project-directory left down -v -t 0",
    )
    .ok();
    let volumes = c.skep(NODE, "volume ls -q").ok();
    assert!(!volumes.contains("stray"), "{volumes}");
}
