//! Verbs of images, with docker's client and with ours, and a registry on a node's loopback.

use std::fs;

use serde_json::json;
use skep_e2e::pair::names;
use skep_e2e::registry::Registry;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const NODE: &str = "n2";
const PORT: u16 = 5000;

#[test]
fn images_are_dockers_with_either_client() {
    let (Some(_), Some(busybox)) = (needs::docker(), needs::busybox()) else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let layer = image::root_file_system(&busybox);
    let mut checks = Checks::new();
    checks.check(
        "load takes an archive from a file and from its input, and tells the names",
        || {
            fs::write(c.root.join("one.tar"), image::archive("busy:1", &layer)).unwrap();
            let [loaded, _] = c.each(NODE, "load -i one.tar").words();
            assert_eq!(loaded, "Loaded image: busy:1");
            c.each(NODE, "load -q -i one.tar");
            c.each_given(NODE, "image load", &image::archive("other:2", &layer));
            c.each_ends_with(1, NODE, "load -i nosuch.tar");
            assert_eq!(
                c.skep(NODE, "run --rm other:2 echo it runs").word(),
                "it runs"
            );
        },
    );
    checks.check("ls and inspect tell of every image the same", || {
        for line in [
            "images",
            "image ls -q",
            "images --no-trunc",
            "images --digests",
            "images busy",
            "images --filter reference='bu*' --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}'",
            "images --filter dangling=true",
            "image ls --format json",
            "image inspect busy:1 skep/hello:latest",
            "image inspect --format '{{json .Config.Env}} {{.Os}} {{len .RootFS.Layers}}' busy:1",
            "inspect --type image busy:1",
            "history busy:1",
            "history --no-trunc -q busy:1",
            "system df",
        ] {
            c.same(NODE, line);
        }
        c.both_fail(NODE, "image inspect nosuch", "No such image: nosuch");
    });
    checks.check(
        "tag gives an image another name, and rm takes it away",
        || {
            c.each(NODE, "tag busy:1 @name:tagged");
            c.alike(NODE, "/images/@name:tagged/json", "/Id");
            let images = c.same(NODE, "images --format '{{.Repository}}:{{.Tag}}'");
            assert!(
                names("@name:tagged")
                    .iter()
                    .all(|name| images.contains(name)),
                "{images}"
            );
            assert_eq!(
                c.each(NODE, "rmi @name:tagged").words()[1],
                "Untagged: of-s-name:tagged"
            );
            c.each_ends_with(1, NODE, "image rm @name:tagged");
            c.each_ends_with(1, NODE, "tag @nosuch x:1");
            c.each_ends_with(1, NODE, "tag busy:1 NOT:good");
        },
    );
    checks.check(
        "import makes an image of a file system, from a file and from its input",
        || {
            fs::write(c.root.join("root.tar"), &layer).unwrap();
            c.each(
                NODE,
                "import -m said -c 'CMD [\"echo\",\"imported\"]' -c 'ENV A=b' root.tar @imported:1",
            );
            c.alike(NODE, "/images/@imported:1/json", "/Config");
            c.alike(NODE, "/images/@imported:1/json", "/RootFS");
            assert_eq!(c.each(NODE, "run --rm @imported:1").words()[1], "imported");
            c.each_given(NODE, "import - @imported:2", &layer);
            assert_eq!(
                c.each(NODE, "run --rm @imported:2 /bin/echo x").words()[1],
                "x"
            );
            c.each(NODE, "rmi @imported:1 @imported:2");
        },
    );
    checks.check("save writes what load reads", || {
        c.each(NODE, "tag other:2 @saved:1");
        c.each(NODE, "save -o @saved.tar @saved:1");
        c.each(NODE, "rmi @saved:1");
        c.each(NODE, "load -i @saved.tar");
        c.alike(NODE, "/images/@saved:1/json", "/RootFS");
        c.each(NODE, "rmi @saved:1");
    });
    checks.check("an image in use is not removed but by force", || {
        // Another image than the others: the last name of one goes only with the image.
        c.each_given(
            NODE,
            "import -c 'CMD [\"true\"]' -c 'LABEL of=@' - @used:1",
            &layer,
        );
        c.each(NODE, "create --name @user @used:1");
        c.each_ends_with(1, NODE, "rmi @used:1");
        c.each_ends_with(1, NODE, "rmi @nosuch:1 @nosuch:2");
        c.each(NODE, "rmi -f @used:1");
        c.each(NODE, "rm @user");
    });
    checks.check(
        "push and pull go to a registry and back, and tell how it went",
        || registry(c, &layer),
    );
    checks.check("prune removes what no name and no container needs", || {
        c.skep_given(NODE, "import - ", &layer).ok();
        c.same(NODE, "images -f dangling=true -q");
        let pruned = c.docker(NODE, "image prune -f").ok();
        assert!(pruned.contains("deleted: sha256:"), "{pruned}");
        assert_eq!(c.same(NODE, "images -f dangling=true -q"), "");
        assert_eq!(
            c.same(NODE, "image prune -f").trim(),
            "Total reclaimed space: 0B"
        );
    });
    checks.end();
}

fn registry(c: &Cluster, layer: &[u8]) {
    let Some(_registry) = Registry::start(c, NODE, PORT) else {
        return;
    };
    let place = format!("127.0.0.1:{PORT}");
    c.skep_given(NODE, "load", &image::archive("busy:1", layer))
        .ok();
    c.each(NODE, &format!("tag busy:1 {place}/team/@busy:1"));
    let pushed = c.each(NODE, &format!("push {place}/team/@busy:1")).words()[1].clone();
    assert!(pushed.contains(": Pushed\n1: digest: sha256:"), "{pushed}");
    let pushed = c.each(NODE, &format!("push {place}/team/@busy:1")).words()[1].clone();
    assert!(pushed.contains("Layer already exists"), "{pushed}");
    // The layer must go from the node too, or there is nothing to pull.
    let mine = c
        .skep(NODE, "images --format '{{.Repository}}:{{.Tag}}'")
        .ok();
    let others: Vec<&str> = mine
        .lines()
        .filter(|name| !name.starts_with("skep/"))
        .collect();
    c.skep(NODE, &format!("rmi {}", others.join(" "))).ok();
    let [docker, skep] = names(&format!("{place}/team/@busy:1"));
    let first = c.docker(NODE, &format!("pull {docker}")).ok();
    c.skep(NODE, &format!("rmi {docker}")).ok();
    let second = c.skep(NODE, &format!("pull {skep}")).ok();
    assert_eq!(
        first
            .replace(&docker, &skep)
            .replace("team/of-d-", "team/of-s-"),
        second
    );
    assert!(second.contains(": Pull complete\n"), "{second}");
    assert!(
        second.contains("Status: Downloaded newer image for 127.0.0.1"),
        "{second}"
    );
    let again = c.same(NODE, &format!("pull {skep}"));
    assert!(again.contains("Status: Image is up to date for"), "{again}");
    assert_eq!(c.same(NODE, &format!("pull -q {skep}")).trim(), skep);
    let digest = c.get(NODE, &format!("/images/{skep}/json"))["RepoDigests"][0]
        .as_str()
        .unwrap()
        .to_owned();
    c.same(NODE, &format!("pull {digest}"));
    c.same(NODE, "images --digests");
    assert_eq!(
        c.skep(NODE, &format!("run --rm {digest} echo by digest"))
            .word(),
        "by digest"
    );
    // `run` pulls what is not here.
    c.skep(NODE, &format!("rmi -f {skep}")).ok();
    let ran = c.each(
        NODE,
        &format!("run --rm --pull always -q {place}/team/@busy:1 echo pulled"),
    );
    assert_eq!(ran.words(), ["pulled", "pulled"]);
    c.each_ends_with(1, NODE, &format!("pull {place}/team/nosuch:1"));
    c.each_ends_with(1, NODE, "pull 127.0.0.1:1/x:1");
    services_run_one_digest(c, &skep, &digest);
}

/// Either client asks the registry, and the daemon does for those that do not.
fn services_run_one_digest(c: &Cluster, image: &str, digest: &str) {
    // Only this node's loopback leads to the registry.
    c.skep("n1", &format!("node promote {NODE}")).ok();
    eventually("it is a manager", secs(20), || {
        c.try_api(NODE, "GET", "/services", None)
    });
    let create = "service create --detach --replicas 0 --name";
    c.each(NODE, &format!("{create} @pinned {image}"));
    c.each(NODE, &format!("{create} @bare --no-resolve-image {image}"));
    let spec = json!({"Name": "raw", "TaskTemplate": {"ContainerSpec": {"Image": image}},
                      "Mode": {"Replicated": {"Replicas": 0}}});
    let made = c.api(NODE, "POST", "/services/create", Some(&spec));
    assert_eq!(made.status, 201, "{}", made.body);
    let (_, digest) = digest.split_once('@').expect("it is a digest");
    let pinned = format!("{image}@{digest}");
    let template = |name: &str| {
        let service = c.get(NODE, &format!("/services/{name}"));
        service["Spec"]["TaskTemplate"].clone()
    };
    for name in names("@pinned").iter().map(String::as_str).chain(["raw"]) {
        let template = template(name);
        assert_eq!(template["ContainerSpec"]["Image"], pinned, "{name}");
        let platforms = template["Placement"]["Platforms"].as_array();
        assert!(platforms.is_some_and(|all| all.len() == 1), "{template}");
    }
    for name in names("@bare") {
        assert_eq!(template(&name)["ContainerSpec"]["Image"], image, "{name}");
    }
    // A name without its digest is asked for anew; one that stays as it is stored is not.
    let gone = "127.0.0.1:1/team/gone:1";
    let update = |body: &serde_json::Value| {
        let version = c.get(NODE, "/services/raw")["Version"]["Index"].clone();
        let path = format!("/services/raw/update?version={version}");
        let answer = c.api(NODE, "POST", &path, Some(body));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["Warnings"].to_string()
    };
    let mut spec = spec;
    assert_eq!(update(&spec), "[]");
    assert_eq!(template("raw")["ContainerSpec"]["Image"], pinned);
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = json!(gone);
    let warned = update(&spec);
    assert!(
        warned.contains("unable to pin image 127.0.0.1:1/team/gone:1 to digest"),
        "{warned}"
    );
    assert_eq!(template("raw")["ContainerSpec"]["Image"], gone);
    assert_eq!(update(&spec), "[]");
    assert_eq!(template("raw")["ContainerSpec"]["Image"], gone);
    for name in [
        "of-d-pinned",
        "of-s-pinned",
        "of-d-bare",
        "of-s-bare",
        "raw",
    ] {
        c.remove_service(NODE, name);
    }
}
