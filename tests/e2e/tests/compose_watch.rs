//! `skep compose watch`, and the verbs that reach single containers, on one host.

use std::fs;
use std::process::{Child, Stdio};

use skep_e2e::run::Ran;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const NODE: &str = "n1";

const APP: &str = r#"
services:
  web:
    image: watched:1
    build: .
    command: ["sh", "-c", "echo web is up; exec sleep 1000"]
    stop_signal: KILL
    scale: 2
    volumes: ["kept:/kept"]
    develop:
      watch:
        - {path: ./pages, action: sync, target: /pages, ignore: ["*.tmp"], initial_sync: true}
        - {path: ./etc, action: sync+restart, target: /etc/app}
        - {path: ./marks, action: sync+exec, target: /marks, exec: {command: ["cp", "/marks/a", "/marks/done"]}}
        - {path: ./base, action: rebuild}
        - {path: ./poke, action: restart}
  once:
    image: busy:1
    command: ["sh", "-c", "sleep 8; exit 5"]
volumes: {kept: {}}
"#;

struct Project<'a>(&'a Cluster);

impl Project<'_> {
    fn write(&self, name: &str, text: &str) {
        let path = self.0.root.join("watched").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn compose(&self, line: &str) -> Ran {
        self.0
            .skep(NODE, &format!("compose --project-directory watched {line}"))
    }

    /// What a file in a container of `web` holds.
    fn file(&self, number: u64, path: &str) -> String {
        let command = format!("exec watched-web-{number} cat {path}");
        self.0.skep(NODE, &command).out
    }

    fn spawn(&self, words: &[&str]) -> Child {
        let mut command = std::process::Command::new(skep_e2e::cluster::skep_binary());
        command
            .args(["compose", "--project-directory", "watched"])
            .args(words)
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.0.socket(NODE).display()),
            )
            .current_dir(&self.0.root)
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.0.root.join("said")).unwrap())
            .stderr(fs::File::create(self.0.root.join("told")).unwrap());
        command.spawn().unwrap()
    }
}

fn interrupt(child: &mut Child) -> Option<i32> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    child.wait().unwrap().code()
}

#[test]
fn containers_follow_files() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(1, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    c.skep_given(NODE, "load", &archive).ok();
    let app = Project(c);
    app.write("compose.yaml", APP);
    app.write("Dockerfile", "FROM busy:1\nRUN busybox ln -sf busybox /bin/rm; busybox ln -sf busybox /bin/cp\nCOPY base /base\n");
    app.write("base/version", "one");
    app.write("pages/index", "first");
    app.write("etc/conf", "a=1");
    app.write("marks/a", "0");
    app.write("poke/a", "0");
    let mut checks = Checks::new();
    checks.check("wait ends as the container did", || {
        app.compose("up -d").ok();
        let waited = app.compose("wait once");
        assert_eq!(waited.status, 5, "{waited}");
        assert!(waited.out.contains("exited with status code 5"), "{waited}");
    });
    checks.check("containers are exported and committed by service", || {
        let kept = app.compose("volumes -q").ok();
        assert_eq!(kept, "watched_kept\n");
        let shown = app.compose("stats --no-stream --format {{.Name}} web").ok();
        let mut names: Vec<&str> = shown.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["watched-web-1", "watched-web-2"]);
        app.compose("export -o one.tar web").ok();
        assert!(c.root.join("one.tar").metadata().unwrap().len() > 1000);
        app.compose("commit --index 2 web frozen:1").ok();
        assert_eq!(c.skep(NODE, "images -q frozen:1").ok().lines().count(), 1);
    });
    checks.check("a watch copies, removes, restarts and builds", || {
        watch(&app)
    });
    checks.check("up --watch follows files and shows what is said", || {
        up_watch(&app)
    });
    checks.end();
}

fn watch(app: &Project<'_>) {
    let mut child = app.spawn(&["watch", "--quiet", "web"]);
    let holds_file = |what: &str, path: &str, text: &str| {
        eventually(what, secs(30), || {
            let found = [app.file(1, path), app.file(2, path)];
            holds(found.iter().all(|one| one == text), found.join("|"))
        });
    };
    holds_file("the first copy is there", "/pages/index", "first");
    app.write("pages/index", "second");
    app.write("pages/deep/er", "more");
    app.write("pages/x.tmp", "no");
    holds_file("a change is copied", "/pages/index", "second");
    // What comes while nobody is there to be given it is not forgotten.
    app.compose("stop -t 0 web").ok();
    app.write("pages/late", "kept");
    std::thread::sleep(secs(3));
    app.compose("start web").ok();
    holds_file(
        "a change that failed is copied later",
        "/pages/late",
        "kept",
    );
    holds_file("new directories are", "/pages/deep/er", "more");
    assert_eq!(app.file(1, "/pages/x.tmp"), "");
    fs::remove_file(app.0.root.join("watched/pages/index")).unwrap();
    holds_file("what goes here goes there", "/pages/index", "");
    app.write("marks/a", "1");
    holds_file("a command follows a copy", "/marks/done", "1");
    let started = |number: u64| {
        let path = format!("/containers/watched-web-{number}/json");
        let state = app.0.get(NODE, &path)["State"].clone();
        state["StartedAt"].as_str().unwrap_or_default().to_owned()
    };
    let before = started(1);
    app.write("etc/conf", "a=2");
    eventually("it is started again", secs(30), || {
        let now = started(1);
        holds(now != before && app.file(1, "/etc/app/conf") == "a=2", now)
    });
    app.write("base/version", "two");
    holds_file("the image is built again", "/base/version", "two");
    assert_eq!(interrupt(&mut child), Some(0));
    app.compose("down -v -t 0").ok();
}

fn up_watch(app: &Project<'_>) {
    let mut child = app.spawn(&["up", "--watch", "--scale", "web=1", "web"]);
    let read = |name: &str| fs::read_to_string(app.0.root.join(name)).unwrap();
    let soon = |what: &str, name: &str, text: &str, times: usize| {
        eventually(what, secs(60), || {
            let found = read(name);
            holds(found.matches(text).count() >= times, found)
        });
    };
    soon("it says that it watches", "told", "Watch enabled", 1);
    soon(
        "what containers say is shown",
        "said",
        "web-1  | web is up",
        1,
    );
    app.write("pages/new", "page");
    eventually("a change is copied", secs(60), || {
        let found = app.file(1, "/pages/new");
        holds(found == "page", found)
    });
    app.write("poke/a", "1");
    soon(
        "it is started again, and heard again",
        "said",
        "web-1  | web is up",
        2,
    );
    app.write("etc/conf", "a=3");
    soon("so it is after a copy", "said", "web-1  | web is up", 3);
    assert_eq!(app.file(1, "/etc/app/conf"), "a=3");
    app.write("marks/a", "2");
    eventually("a command follows a copy", secs(60), || {
        let found = app.file(1, "/marks/done");
        holds(found == "2", found)
    });
    app.write("base/version", "three");
    eventually("the image is built again", secs(60), || {
        let found = app.file(1, "/base/version");
        holds(found == "three", found)
    });
    soon(
        "and the new container is heard",
        "said",
        "web-1  | web is up",
        4,
    );
    assert_eq!(interrupt(&mut child), Some(130), "{}", read("told"));
    let left = app.0.skep(NODE, "ps -q").ok();
    assert_eq!(left, "", "an interrupt stops what runs");
    app.compose("down -v -t 0").ok();
}
