//! `skep compose` with a registry beside it, and what it does without doing it.

use std::fs;

use skep_e2e::registry::Registry;
use skep_e2e::run::Ran;
use skep_e2e::{Checks, Cluster, image, needs};

const NODE: &str = "n1";
const PORT: u16 = 5005;
const IMAGE: &str = "127.0.0.1:5005/own/web";

const APP: &str = r#"
services:
  web:
    image: 127.0.0.1:5005/own/web:1
    build: {context: ., tags: ["127.0.0.1:5005/own/web:extra"]}
    command: ["sleep", "1000"]
    stop_signal: KILL
  same:
    image: 127.0.0.1:5005/own/web:1
    command: ["sleep", "1000"]
    stop_signal: KILL
  talk:
    image: 127.0.0.1:5005/own/talk:1
    build: .
    stdin_open: true
    command: ["sh", "-c", "read line; echo got $$line; exit 3"]
    stop_signal: KILL
networks: {spare: {}}
volumes: {unused: {}}
"#;

struct Project<'a>(&'a Cluster);

impl Project<'_> {
    fn write(&self, name: &str, text: &str) {
        let path = self.0.root.join("shop").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn compose(&self, line: &str) -> Ran {
        self.compose_given(line, "")
    }

    fn compose_given(&self, line: &str, input: &str) -> Ran {
        let line = format!("compose --project-directory shop {line}");
        self.0.skep_given(NODE, &line, input.as_bytes())
    }

    fn skep(&self, line: &str) -> Ran {
        self.0.skep(NODE, line)
    }
}

#[test]
fn images_go_to_a_registry_and_come_from_it() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(1, 1) else {
        return;
    };
    let c = &cluster;
    let Some(_registry) = Registry::start(c, NODE, PORT) else {
        return;
    };
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    c.skep_given(NODE, "load", &archive).ok();
    let app = Project(c);
    app.write("compose.yaml", APP);
    app.write("Dockerfile", "FROM busy:1\nCOPY page /page\n");
    app.write("page", "one\n");
    let mut checks = Checks::new();
    checks.check("nothing is done in a rehearsal", || rehearse(&app));
    checks.check("what is built is pushed and pulled", || push_and_pull(&app));
    checks.check("images are locked to their digests", || lock(&app));
    checks.check("all resources are made and go", || all_resources(&app));
    checks.check("attach speaks with a container and ends as it did", || {
        app.compose("up -d talk").ok();
        let said = app.compose_given("attach talk", "hello\n");
        assert_eq!(
            (said.status, said.out.as_str()),
            (3, "got hello\n"),
            "{said}"
        );
        app.compose("rm -f talk").ok();
    });
    checks.check("names of the first docker-compose can be had", || {
        app.compose("--compatibility up -d web").ok();
        let names = app.skep("ps --format {{.Names}}").ok();
        assert_eq!(names, "shop_web_1\n");
        app.compose("--compatibility down").ok();
    });
    checks.end();
}

fn rehearse(app: &Project<'_>) {
    let there = || {
        let lists = ["ps -aq", "images -q", "volume ls -q", "network ls -q"];
        lists.map(|list| app.skep(list).ok())
    };
    let before = there();
    let said = app.compose("--dry-run up -d web talk").err;
    for line in [
        " DRY-RUN MODE -  Service web  Building",
        " DRY-RUN MODE -  Network shop_default  Created",
        " DRY-RUN MODE -  Container shop-web-1  Created",
        " DRY-RUN MODE -  Container shop-talk-1  Started",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    app.compose("build --dry-run").ok();
    app.compose("create --dry-run web").ok();
    app.compose("down -v --rmi all --dry-run").ok();
    assert_eq!(there(), before);
    // The registry is asked: it has none of them yet.
    let pulled = app.compose("pull --dry-run same");
    assert_eq!(pulled.status, 1, "{pulled}");
}

fn push_and_pull(app: &Project<'_>) {
    let said = app.compose("build --push web").err;
    for line in [
        format!(" web Pushed {IMAGE}:1\n"),
        format!(" web Pushed {IMAGE}:extra\n"),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }
    app.compose("build talk").ok();
    let said = app.compose("push");
    assert!(said.err.contains(" same Skipped\n"), "{said}");
    said.ok();
    let names = [
        format!("{IMAGE}:1"),
        format!("{IMAGE}:extra"),
        IMAGE.replace("web", "talk:1"),
    ];
    let forget = || app.skep(&format!("rmi {}", names.join(" "))).ok();
    let is_there = || app.skep(&format!("image inspect {IMAGE}:1")).status == 0;
    for flags in ["pull", "pull --no-parallel", "--parallel 1 pull --quiet"] {
        forget();
        assert!(!is_there());
        let said = app.compose(flags);
        assert!(said.status == 0 && is_there(), "{said}");
        app.skep(&format!("pull -q {IMAGE}:extra")).ok();
    }
    let said = app.compose("pull --dry-run").err;
    assert!(said.contains(" DRY-RUN MODE -  talk Pulled"), "{said}");
    // What the registry does not have is told, and the others come all the same.
    app.write("gone.yaml", &format!("{APP}  gone: {{}}\n"));
    let gone = format!(
        "services:\n  gone: {{image: \"{IMAGE}:gone\"}}\n  web: {{image: \"{IMAGE}:1\"}}\n"
    );
    app.write("gone.yaml", &gone);
    let said = app.compose("-f shop/gone.yaml pull");
    assert_eq!(said.status, 1, "{said}");
    assert!(said.err.contains(" web Pulled"), "{said}");
    app.compose("-f shop/gone.yaml pull --ignore-pull-failures")
        .ok();
}

fn lock(app: &Project<'_>) {
    let image = app.0.get(NODE, &format!("/images/{IMAGE}:1/json"));
    let digest = image["RepoDigests"][0]
        .as_str()
        .unwrap()
        .split_once('@')
        .unwrap()
        .1;
    let locked = app.compose("config --lock-image-digests").ok();
    let line = format!("  web:\n    image: {IMAGE}:1@{digest}\n");
    assert!(
        locked.starts_with("services:\n") && locked.contains(&line),
        "{locked}"
    );
    app.compose("config --lock-image-digests -o shop/lock.yaml")
        .ok();
    assert_eq!(
        fs::read_to_string(app.0.root.join("shop/lock.yaml")).unwrap(),
        locked
    );
    // Put over the others it counts, whatever becomes of the tag.
    app.write("page", "two\n");
    app.compose("build --push web").ok();
    let both = "-f shop/compose.yaml -f shop/lock.yaml";
    let up = app.compose(&format!("{both} up -d --no-build same"));
    up.ok();
    let page = app.skep("exec shop-same-1 cat /page").ok();
    assert_eq!(page, "one\n");
    app.compose("down -t 0").ok();
    app.compose("up -d same").ok();
    assert_eq!(app.skep("exec shop-same-1 cat /page").ok(), "two\n");
    app.compose("down -t 0").ok();
}

fn all_resources(app: &Project<'_>) {
    let is_there = || {
        let networks = app.skep("network ls --format {{.Name}}").ok();
        let volumes = app.skep("volume ls -q").ok();
        [
            networks.contains("shop_spare"),
            volumes.contains("shop_unused"),
        ]
    };
    app.compose("up -d web").ok();
    assert_eq!(is_there(), [false, false]);
    app.compose("--all-resources up -d web").ok();
    assert_eq!(is_there(), [true, true]);
    // `down` takes the project's own along that way.
    app.compose("--all-resources down -v -t 0").ok();
    assert_eq!(is_there(), [false, false]);
}
