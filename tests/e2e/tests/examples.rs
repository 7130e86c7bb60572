//! The examples of `deploy/examples`, with small programs in place of their images.

use std::fs;
use std::path::{Path, PathBuf};

use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, Ran, eventually, image, needs, secs};

const NODES: [&str; 2] = ["n1", "n2"];

/// Copies a directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

struct Example<'a> {
    c: &'a Cluster,
    name: String,
}

impl Example<'_> {
    fn files(&self) -> String {
        format!("-c {0}/compose.yml -c {0}/stand-ins.yml", self.name)
    }

    fn stack(&self, verb: &str, flags: &str) -> Ran {
        let Self { c, name } = self;
        c.skep(
            "n1",
            &format!("stack {verb} --resolve-image never {flags} {name}"),
        )
    }

    fn deploy(&self, files: &str) -> Ran {
        self.stack("deploy", &format!("--detach=true -q {files}"))
    }

    /// Waits until each service has all its tasks.
    #[track_caller]
    fn runs(&self) {
        let Self { c, name } = self;
        eventually(&format!("all of {name} runs"), secs(30), || {
            let told = c.skep(
                "n1",
                &format!("stack services --format {{{{.Replicas}}}} {name}"),
            );
            let whole = |line: &str| {
                let count = line.split(' ').next().unwrap_or_default();
                count
                    .split_once('/')
                    .is_some_and(|(now, wanted)| now == wanted)
            };
            holds(!told.out.is_empty() && told.out.lines().all(whole), told)
        });
    }

    /// Ids of its tasks.
    fn tasks(&self) -> Vec<String> {
        let Self { c, name } = self;
        let told = c.skep("n1", &format!("stack ps -q --no-trunc {name}")).ok();
        let mut ids: Vec<String> = told.lines().map(str::to_owned).collect();
        ids.sort();
        ids
    }

    /// The page of a script, from a node.
    fn page(&self, node: &str, port: u16, script: &str) -> Result<String, String> {
        self.c.page(node, port, &format!("/cgi-bin/{script}"))
    }

    #[track_caller]
    fn shows(&self, node: &str, port: u16, script: &str, wanted: &str) {
        let what = format!("{script} of {} tells {wanted}", self.name);
        eventually(&what, secs(20), || {
            let page = self.page(node, port, script)?;
            holds(page.contains(wanted), page)
        });
    }
}

/// The same document with each mapping written from its last key to its first.
fn turned(document: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(document).unwrap();
    fn print(value: &serde_json::Value) -> String {
        match value {
            serde_json::Value::Object(map) => {
                let entries: Vec<String> = map
                    .iter()
                    .rev()
                    .map(|(key, value)| {
                        format!(
                            "{}: {}",
                            serde_json::Value::from(key.as_str()),
                            print(value)
                        )
                    })
                    .collect();
                format!("{{{}}}", entries.join(", "))
            }
            serde_json::Value::Array(items) => {
                let items: Vec<String> = items.iter().map(print).collect();
                format!("[{}]", items.join(", "))
            }
            other => other.to_string(),
        }
    }
    print(&value)
}

#[test]
fn the_examples_do_what_they_say() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(2, 1) else {
        return;
    };
    let c = &cluster;
    let examples = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/examples"
    ));
    copy(&examples, &c.root);
    let base = image::archive("busybox:1.36", &image::root_file_system(&busybox));
    for node in NODES {
        c.skep_given(node, "load", &base).ok();
        let built = c.skep(
            node,
            "compose -f voting/compose.yml -f voting/stand-ins.yml build vote",
        );
        assert_eq!(built.status, 0, "{built}");
    }
    let mut checks = Checks::new();
    let mut walked = Vec::new();
    let mut check = |name: &'static str, use_it: &dyn Fn(&Example<'_>)| {
        walked.push(name.to_owned());
        checks.check(
            &format!("{name} runs, and an unchanged file changes nothing"),
            || {
                let example = Example {
                    c,
                    name: name.to_owned(),
                };
                let files = example.files();
                let deployed = example.deploy(&files);
                assert_eq!(deployed.status, 0, "{deployed}");
                example.runs();
                use_it(&example);
                let tasks = example.tasks();
                for files in [files, in_another_order(&example)] {
                    let plan = example.stack("plan", &files);
                    assert_eq!(plan.status, 0, "{plan}");
                    let again = example.deploy(&files);
                    assert_eq!(
                        (again.status, example.tasks()),
                        (0, tasks.clone()),
                        "{again}"
                    );
                }
                c.skep("n1", &format!("stack rm {name}")).ok();
                eventually("nothing of it is left", secs(30), || {
                    let left = c.skep(
                        "n1",
                        &format!("ps -q --filter label=com.docker.stack.namespace={name}"),
                    );
                    let networks = c.skep(
                        "n1",
                        &format!("network ls -q --filter label=com.docker.stack.namespace={name}"),
                    );
                    holds(
                        left.out.is_empty() && networks.out.is_empty(),
                        format!("{left} {networks}"),
                    )
                });
            },
        );
    };
    check("voting", &|example| {
        for (node, word) in [("n1", "cats"), ("n2", "dogs"), ("n2", "cats")] {
            example.shows(
                node,
                5000,
                &format!("vote?{word}"),
                &format!("voted {word}: OK"),
            );
        }
        example.shows("n2", 5001, "result", "cats 2");
        example.shows("n1", 5001, "result", "dogs 1");
    });
    check("wordpress", &|example| {
        example.shows("n2", 8000, "blog?hello", "OK");
        example.shows("n1", 8000, "blog", "hello");
    });
    check("monitoring", &|example| {
        let loads = |page: &str| page.matches("node_load1").count();
        eventually("each node tells of itself", secs(20), || {
            let page = example.page("n2", 9090, "prometheus")?;
            holds(loads(&page) == 2, page)
        });
        example.shows("n1", 3000, "grafana", "dashboard of http://prometheus:9090");
        let page = example.page("n1", 3000, "grafana").unwrap();
        assert_eq!(loads(&page), 2, "{page}");
    });
    checks.check(
        "no example is left out, and all of them can be read",
        || {
            for entry in fs::read_dir(&examples).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let file = c.root.join(&name).join("compose.yml");
                if file.exists() {
                    assert!(walked.contains(&name), "nobody tries {name}");
                    let told = c.skep("n1", &format!("stack config -c {}", file.display()));
                    assert_eq!(told.status, 0, "{told}");
                    let told = c.skep("n1", &format!("compose -f {} config -q", file.display()));
                    assert_eq!((told.status, told.err.as_str()), (0, ""), "{told}");
                } else if Path::new(&name).extension().is_some_and(|end| end == "yml") {
                    // `hello.yml` is `demo.rs`'s.
                    assert_eq!(name, "hello.yml");
                }
            }
        },
    );
    checks.end();
}

/// Writes the example's files as one, everything turned around; the flags that name it.
fn in_another_order(example: &Example<'_>) -> String {
    let Example { c, name } = example;
    let line = format!(
        "compose -p {name} -f {name}/compose.yml -f {name}/stand-ins.yml config --format json"
    );
    let whole = c.skep("n1", &line).ok();
    fs::write(c.root.join(format!("{name}/turned.yml")), turned(&whole)).unwrap();
    format!("-c {name}/turned.yml")
}
