//! Images built with docker's client (the classic builder) and with ours from the same context.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::Value;
use skep_e2e::{Checks, Cluster, image, needs};

const NODE: &str = "n1";

/// A context with something of everything.
fn context(root: &Path) {
    for directory in ["context/d/sub", "context/skipped/kept"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for (path, text) in [
        (
            "context/Dockerfile",
            "ARG BASE=busy:1\n\
             FROM $BASE AS first\n\
             ARG WHO=nobody\n\
             RUN echo \"hello $WHO\" > /greeting\n\
             FROM busy:1\n\
             ENV A=1 B=\"two words\"\n\
             WORKDIR /srv\n\
             COPY --from=first /greeting .\n\
             COPY . /all/\n\
             COPY --chown=nobody:7 d/*.txt link /picked/\n\
             ADD files.tar /unpacked/\n\
             COPY [\"d\", \"/with space/\"]\n\
             EXPOSE 80 53/udp\n\
             VOLUME /data\n\
             LABEL made=here\n\
             HEALTHCHECK --interval=5s CMD cat /srv/greeting\n\
             STOPSIGNAL SIGINT\n\
             USER nobody\n\
             ENTRYPOINT [\"cat\"]\n\
             CMD [\"greeting\"]\n",
        ),
        ("context/.dockerignore", "**/*.o\nskipped\n!skipped/kept\n"),
        ("context/a.txt", "A"),
        ("context/a.o", "O"),
        ("context/d/c.txt", "C"),
        ("context/d/sub/e", "E"),
        ("context/d/sub/e.o", "O"),
        ("context/skipped/x", "X"),
        ("context/skipped/kept/y", "Y"),
        ("elsewhere", "FROM busy:1\nCOPY a.txt /x\nRUN exit 3\n"),
        ("typo", "FROM busy:1\n\nRUM x\n"),
        ("Dockerfile.other", "FROM busy:1\nCOPY a.txt /other\n"),
    ] {
        fs::write(root.join(path), text).unwrap();
    }
    fs::set_permissions(
        root.join("context/d/sub/e"),
        fs::Permissions::from_mode(0o750),
    )
    .unwrap();
    symlink("a.txt", root.join("context/link")).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_uid(5);
    header.set_size(1);
    archive
        .append_data(&mut header, "in/side", &b"S"[..])
        .unwrap();
    fs::write(
        root.join("context/files.tar"),
        archive.into_inner().unwrap(),
    )
    .unwrap();
}

/// Every file of an image with its looks, as one line each. Not with its time: what steps make has
/// the time of the build.
fn tree(cluster: &Cluster, name: &str) -> Vec<String> {
    let c = cluster;
    c.skep(NODE, &format!("create --name tree {name} x")).ok();
    c.skep(NODE, "export -o tree.tar tree").ok();
    c.skep(NODE, "rm -v tree").ok();
    let file = fs::File::open(c.root.join("tree.tar")).unwrap();
    let mut lines: Vec<String> = tar::Archive::new(file)
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            let path = entry.path().unwrap().display().to_string();
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut contents).unwrap();
            format!(
                "{path} {:?} {:o} {}:{} {:?} {}",
                header.entry_type(),
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.link_name().unwrap(),
                String::from_utf8_lossy(&contents[..contents.len().min(64)]),
            )
        })
        .collect();
    lines.sort();
    lines
}

fn inspected(cluster: &Cluster, name: &str) -> Value {
    cluster.get(NODE, &format!("/images/{name}/json"))
}

#[test]
fn builds_are_dockers_with_either_client() {
    let (Some(_), Some(busybox)) = (needs::docker(), needs::busybox()) else {
        return;
    };
    let Some(cluster) = Cluster::up(1, 1) else {
        return;
    };
    let c = &cluster;
    let layer = image::root_file_system(&busybox);
    fs::write(c.root.join("base.tar"), image::archive("busy:1", &layer)).unwrap();
    c.skep(NODE, "load -q -i base.tar").ok();
    context(&c.root);
    let mut checks = Checks::new();
    checks.check("both clients make the same image of a context", || {
        let line = "build --no-cache --network none --build-arg WHO=me --label l=1 -t";
        let docker = c.docker(NODE, &format!("{line} dockers:1 context")).ok();
        let skep = c
            .skep(
                NODE,
                &format!("{line} ours:1 -t ours:2 --iidfile id context"),
            )
            .ok();
        for (said, tagged) in [(&docker, "dockers:1"), (&skep, "ours:1")] {
            for expected in [
                "Step 2/21 : FROM $BASE AS first\n ---> ",
                "Step 4/21 : RUN echo \"hello $WHO\" > /greeting\n ---> Running in ",
                " ---> Removed intermediate container ",
                "Successfully built ",
                &format!("Successfully tagged {tagged}\n"),
            ] {
                assert!(said.contains(expected), "{expected} is not in\n{said}");
            }
        }
        let (dockers, ours) = (inspected(c, "dockers:1"), inspected(c, "ours:2"));
        assert_eq!(dockers["Config"], ours["Config"]);
        assert_eq!(fs::read_to_string(c.root.join("id")).unwrap(), ours["Id"]);
        let history = |name: &str| {
            let format = "--format '{{.CreatedBy}} {{.Size}}'";
            c.skep(NODE, &format!("history --no-trunc {format} {name}"))
                .ok()
        };
        assert_eq!(history("dockers:1"), history("ours:1"));
        let (docker_tree, our_tree) = (tree(c, "dockers:1"), tree(c, "ours:1"));
        assert_eq!(docker_tree, our_tree);
        let has = |path: &str| our_tree.iter().any(|line| line.starts_with(path));
        assert!(has("all/skipped/kept/y") && !has("all/skipped/x") && !has("all/a.o"));
        assert_eq!(
            c.docker(NODE, "run --rm --network none ours:1").ok(),
            "hello me\n"
        );
    });
    checks.check(
        "the second build finds everything, also for the other client",
        || {
            let line = "build --network none --build-arg WHO=me --label l=1 context";
            for said in [c.docker(NODE, line).ok(), c.skep(NODE, line).ok()] {
                assert_eq!(said.matches(" ---> Using cache\n").count(), 18, "{said}");
            }
            let [docker, skep] = [
                c.docker(NODE, "build -q context"),
                c.skep(NODE, "build -q context"),
            ];
            assert_eq!(docker.ok(), skep.ok());
        },
    );
    checks.check("Dockerfiles and contexts come from elsewhere, too", || {
        c.docker(NODE, "build -f Dockerfile.other -t o:d context")
            .ok();
        c.skep(NODE, "build -f Dockerfile.other -t o:s context")
            .ok();
        assert_eq!(
            inspected(c, "o:d")["RootFS"]["Layers"],
            inspected(c, "o:s")["RootFS"]["Layers"]
        );
        let dockerfile = b"FROM busy:1\nENV FROM=stdin\n";
        for line in ["build -q -", "build -q -f - context"] {
            let docker = c.docker_given(NODE, line, dockerfile).ok();
            assert_eq!(docker, c.skep_given(NODE, line, dockerfile).ok());
        }
    });
    checks.check("what fails says so in the same words", || {
        for (line, status, text) in [
            (
                "build -f elsewhere context",
                3,
                "The command '/bin/sh -c exit 3' returned a non-zero code: 3",
            ),
            (
                "build -f typo context",
                1,
                "dockerfile parse error on line 3: unknown instruction: RUM",
            ),
            (
                "build --target none context",
                1,
                "failed to reach build target none in Dockerfile",
            ),
            (
                "build nowhere",
                1,
                "unable to prepare context: path \"nowhere\" not found",
            ),
            ("build -t BAD context", 1, "must be lowercase"),
        ] {
            for ran in [c.docker(NODE, line), c.skep(NODE, line)] {
                assert!(ran.err.contains(text), "{line}: {ran}");
                if text.starts_with("The command") {
                    assert_eq!(ran.status, status, "{ran}");
                }
            }
        }
        c.skep(NODE, "build --secret id=x context")
            .fails("--secret is not supported");
    });
    checks.check("caches of builds are shown and pruned", || {
        let dockerfile = b"FROM busy:1\nRUN --mount=type=cache,target=/c echo x > /c/x\n";
        for prune in ["docker", "skep"] {
            c.skep_given(NODE, "build -q --no-cache --network none -", dockerfile)
                .ok();
            let usage = c.same(
                NODE,
                "system df --format '{{.Type}} {{.TotalCount}} {{.Size}}'",
            );
            assert!(usage.contains("Build Cache 1 2B"), "{usage}");
            let said = match prune {
                "docker" => c.docker(NODE, "builder prune -f").ok(),
                _ => c.skep(NODE, "builder prune -f").ok(),
            };
            assert!(said.contains("Total reclaimed space: 2B"), "{said}");
        }
    });
    checks.end();
}
