//! Services of images that a registry gives to some people only, or for other platforms.

use std::fs;

use serde_json::json;
use skep_e2e::registry::{PASSWORD, Registry, USER};
use skep_e2e::tasks::shown;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const PORT: u16 = 5000;
const OWN: &str = "127.0.0.1:5000/own:1";

#[test]
fn registries_are_asked_as_those_who_may() {
    let Some(busybox) = needs::busybox() else {
        return;
    };
    let Some(cluster) = Cluster::up(2, 1) else {
        return;
    };
    let c = &cluster;
    // One registry: each node has a way to it on its own loopback.
    let (Some(_one), Some(_two)) = (
        Registry::closed(c, "n1", PORT),
        Registry::closed(c, "n2", PORT),
    ) else {
        return;
    };
    let archive = image::archive("own:1", &image::root_file_system(&busybox));
    c.skep_given("n1", "load", &archive).ok();
    let login = format!("login -u {USER} -p {PASSWORD} 127.0.0.1:{PORT}");
    c.skep("n1", &login).ok();
    c.skep("n1", &format!("tag own:1 {OWN}")).ok();
    c.skep("n1", &format!("push {OWN}")).ok();
    let mut checks = Checks::new();
    let mut check = |sentence: &str, check: fn(&Cluster)| checks.check(sentence, || check(c));
    check(
        "credentials go with a service, and stay with it until others come",
        credentials,
    );
    check(
        "the cluster's own credentials serve where a service brings none, and can be renewed",
        of_cluster,
    );
    check("nodes of another platform are left out", platforms);
    checks.end();
}

fn credentials(c: &Cluster) {
    let create = format!(
        "service create --detach --name own --constraint node.role==worker \
         --stop-signal KILL --restart-delay 100ms {OWN} sleep 1000"
    );
    let create = create.split_whitespace().collect::<Vec<_>>().join(" ");
    c.skep("n1", &create).ok();
    eventually("without them the node is refused", secs(20), || {
        let tasks = c.try_tasks("n1", "own")?;
        let refused = tasks.iter().any(|task| task.state == "rejected");
        holds(refused, shown(&tasks))
    });
    c.skep(
        "n1",
        "service update --detach --with-registry-auth --force own",
    )
    .ok();
    let before = c.wait_running("n1", "own", 1, secs(30));
    assert_eq!(before[0].node, "n2");
    // The next one has to be pulled again, and nobody says anything of credentials.
    c.skep("n1", "service scale --detach own=0").ok();
    forget_images(c);
    c.skep(
        "n1",
        "service update --detach --env-add A=b --replicas 1 own",
    )
    .ok();
    let after = c.wait_running("n1", "own", 1, secs(30));
    assert_eq!(after[0].env, ["A=b"], "{}", shown(&after));
    c.remove_service("n1", "own");
}

/// Has no image left on the worker.
fn forget_images(c: &Cluster) {
    eventually("the image can be removed", secs(30), || {
        let images = c.skep("n2", "images -q --no-trunc").ok();
        let ids: Vec<&str> = images.split_whitespace().collect();
        ids.iter()
            .for_each(|id| drop(c.skep("n2", &format!("rmi --force {id}"))));
        let left = c.skep("n2", "images -q").ok();
        holds(left.trim().is_empty(), left)
    });
}

fn of_cluster(c: &Cluster) {
    let host = format!("127.0.0.1:{PORT}");
    forget_images(c);
    c.skep("n1", &format!("registry login -u {USER} -p wrong {host}"))
        .fails("401");
    assert_eq!(c.skep("n1", "registry ls -q").ok().trim(), "");
    c.skep(
        "n1",
        &format!("registry login --no-check -u {USER} -p wrong {host}"),
    )
    .ok();
    // Whoever waits does so for what is refused now, not for a delay.
    c.skep(
        "n1",
        &format!(
            "service create --detach --no-resolve-image --name own --constraint node.role==worker \
             --stop-signal KILL --restart-delay 1h {OWN} sleep 1000"
        ),
    )
    .ok();
    eventually("wrong ones are refused, by name", secs(20), || {
        let tasks = c.try_tasks("n1", "own")?;
        let refused = tasks
            .iter()
            .any(|task| task.state == "rejected" && task.error.contains(&host));
        holds(refused, shown(&tasks))
    });
    let login = format!("registry login -u {USER} --password-stdin {host}");
    c.skep_given("n1", &login, PASSWORD.as_bytes()).ok();
    let ran = c.wait_running("n1", "own", 1, secs(20));
    assert_eq!(ran[0].node, "n2");
    let listed = c.skep("n1", "registry ls").ok();
    assert!(listed.contains(&host) && listed.contains(USER), "{listed}");
    let told = c.get("n1", "/skep/v1/registries").to_string();
    assert!(told.contains(&host) && !told.contains(PASSWORD), "{told}");
    c.remove_service("n1", "own");
    forget_images(c);
    // What the client knows has run out meanwhile.
    let config = c.root.join("home/.docker/config.json");
    let good = fs::read_to_string(&config).expect("a login has left it");
    let stale = json!({"auths": {&host: {"auth": "YWxpOndyb25n"}}});
    fs::write(&config, stale.to_string()).unwrap();
    c.skep(
        "n1",
        &format!(
            "service create --detach --no-resolve-image --with-registry-auth --name own \
             --constraint node.role==worker --stop-signal KILL {OWN} sleep 1000"
        ),
    )
    .ok();
    c.wait_running("n1", "own", 1, secs(20));
    fs::write(&config, good).unwrap();
    c.skep("n1", &format!("registry rm {host}")).ok();
    assert_eq!(c.skep("n1", "registry ls -q").ok().trim(), "");
    c.remove_service("n1", "own");
}

fn platforms(c: &Cluster) {
    // An index that has the same image, and says of it that it is for another processor.
    let index = |digest: &str, size: &str| {
        json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "digest": digest,
                "size": size.parse::<u64>().expect("it is a length"),
                "platform": {"os": "linux", "architecture": "s390x"},
            }],
        })
    };
    let ask = |method: &str, tag: &str, body: &str| {
        let script = r#"
import base64, sys, urllib.request
method, url, who, body = sys.argv[1:5]
kinds = {"PUT": {"Content-Type": "application/vnd.oci.image.index.v1+json"},
         "HEAD": {"Accept": "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"}}
headers = dict(kinds[method], Authorization="Basic " + base64.b64encode(who.encode()).decode())
request = urllib.request.Request(url, body.encode() or None, headers, method=method)
answer = urllib.request.urlopen(request, timeout=10)
print(answer.headers.get("Docker-Content-Digest"), answer.headers.get("Content-Length"), answer.headers.get("Content-Type"))
"#;
        let url = format!("http://127.0.0.1:{PORT}/v2/own/manifests/{tag}");
        let who = format!("{USER}:{PASSWORD}");
        let command = ["python3", "-c", script, method, &url, &who, body];
        c.exec("n1", &command).ok()
    };
    let found = ask("HEAD", "1", "");
    let words: Vec<&str> = found.split_whitespace().collect();
    let mut body = index(words[0], words[1]);
    body["manifests"][0]["mediaType"] = json!(words[2]);
    ask("PUT", "far", &body.to_string());
    c.skep(
        "n1",
        &format!("service create --detach --with-registry-auth --name far 127.0.0.1:{PORT}/own:far sleep 1000"),
    )
    .ok();
    eventually("it waits for a node of its platform", secs(20), || {
        let tasks = c.try_tasks("n1", "far")?;
        let waits = tasks.iter().any(|task| {
            task.state == "pending" && task.error.contains("unsupported platform on 2 nodes")
        });
        holds(waits, shown(&tasks))
    });
    c.remove_service("n1", "far");
}
