//! Ports, secrets and configs of services.

use std::collections::BTreeMap;

use skep_e2e::tasks::Task;
use skep_e2e::wait::holds;
use skep_e2e::{Cluster, eventually, secs};

use super::{CREATE, QUICKLY, UPDATE, wait_update};

pub fn ports(c: &Cluster) {
    let port = |name: &str| {
        let found = c.get("n1", &format!("/services/{name}"));
        found["Endpoint"]["Ports"][0]["PublishedPort"]
            .as_u64()
            .unwrap_or(0)
    };
    c.skep(
        "n1",
        &format!("{CREATE} --name a --publish 80 --replicas 0 skep/hello"),
    )
    .ok();
    let given = eventually("a port is given", secs(10), || {
        let given = port("a");
        holds(given != 0, given).map(|()| given)
    });
    assert!((30000..=32767).contains(&given), "{given}");
    c.skep("n1", &format!("{UPDATE} --env-add A=b a")).ok();
    assert_eq!(port("a"), given, "it stays over updates");
    let taken = c.skep(
        "n1",
        &format!("{CREATE} --name b --publish {given}:80 skep/hello"),
    );
    taken.fails("is already in use by service 'a'");
    let other = c.skep(
        "n1",
        &format!("{CREATE} --name b --replicas 0 --publish {given}:80/udp skep/hello"),
    );
    other.ok();
    // A mapping in another mode takes the place of the one there is.
    let ports = |name: &str| {
        c.get("n1", &format!("/services/{name}"))["Spec"]["EndpointSpec"]["Ports"].clone()
    };
    c.skep(
        "n1",
        &format!("{CREATE} --name m --replicas 0 --publish 9300:80 skep/hello"),
    )
    .ok();
    c.skep(
        "n1",
        &format!("{UPDATE} --publish-add mode=host,published=9300,target=80 m"),
    )
    .ok();
    let spec = ports("m");
    assert_eq!(spec.as_array().map(Vec::len), Some(1), "{spec}");
    assert_eq!(spec[0]["PublishMode"], "host");
    c.remove_service("n1", "m");
    // Without tasks it refuses, and does not hang.
    eventually("a port without tasks refuses", secs(10), || {
        let refused = c.page("n2", given.try_into().unwrap(), "/").unwrap_err();
        holds(refused.to_lowercase().contains("refused"), refused)
    });
    // In host mode the node picks what is free there.
    c.skep(
        "n1",
        &format!("{CREATE} --name h --publish mode=host,target=8080 skep/hello"),
    )
    .ok();
    let task = c.wait_running("n1", "h", 1, secs(30)).remove(0);
    let told = c.get("n1", &format!("/tasks/{}", task.id));
    let port = told["Status"]["PortStatus"]["Ports"][0]["PublishedPort"].as_u64();
    let port = port.and_then(|port| port.try_into().ok()).unwrap_or(0);
    assert_ne!(port, 0, "{told}");
    eventually("it answers there", secs(10), || {
        c.page(&task.node, port, "/")
    });
    c.remove_service("n1", "h");
    c.remove_service("n1", "a");
    c.remove_service("n1", "b");
    c.skep(
        "n1",
        &format!("{CREATE} --name a --replicas 0 --publish {given}:80 skep/hello"),
    )
    .ok();
    c.remove_service("n1", "a");
}

pub fn payloads(c: &Cluster) {
    let given = |line: &str, payload: &str| c.skep_given("n1", line, payload.as_bytes()).ok();
    given("secret create word-1 -", "one");
    given("secret create word-2 -", "two");
    given(
        "config create --template-driver golang plan -",
        "{{.Task.Slot}} of {{.Service.Name}}",
    );
    let files = "--secret source=word-1,target=word --config source=plan,target=/plan";
    c.skep("n1", &format!("{CREATE} {QUICKLY} --name f --replicas 2 --env SLOT={{{{.Task.Slot}}}} --mount type=volume,source=kept-{{{{.Task.Slot}}}},target=/kept {files} busy:1 sleep 1000")).ok();
    let read = |path: &str| -> BTreeMap<u64, String> {
        let tasks = c.wait_running("n1", "f", 2, secs(30));
        let inside = |task: &Task| {
            c.skep(&task.node, &format!("exec {} cat {path}", task.container))
                .word()
        };
        tasks.iter().map(|task| (task.slot, inside(task))).collect()
    };
    assert_eq!(
        read("/plan"),
        BTreeMap::from([(1, "1 of f".into()), (2, "2 of f".into())])
    );
    assert_eq!(read("/run/secrets/word")[&1], "one");
    let task = &c.running("n1", "f")[0];
    let volumes = c.skep(&task.node, "volume ls -q").ok();
    assert!(
        volumes.contains(&format!("kept-{}\n", task.slot)),
        "{volumes}"
    );
    let mounts = c
        .skep(
            &task.node,
            &format!("exec {} cat /proc/mounts", task.container),
        )
        .ok();
    let secret = mounts
        .lines()
        .find(|line| line.contains("/run/secrets/word"))
        .unwrap_or_default();
    assert!(secret.contains(" tmpfs ro"), "{mounts}");
    c.skep("n1", "secret rm word-1")
        .fails("is in use by the following service");
    c.skep(
        "n1",
        &format!("{UPDATE} --secret-rm word-1 --secret-add source=word-2,target=word f"),
    )
    .ok();
    wait_update(c, "f", "completed");
    assert_eq!(read("/run/secrets/word")[&1], "two");
    c.skep("n1", "secret rm word-1").ok();
    c.remove_service("n1", "f");
    c.skep("n1", "secret rm word-2").ok();
    c.skep("n1", "config rm plan").ok();
}
