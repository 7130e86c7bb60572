//! Verbs of secrets, configs and networks, with docker's client and with ours.

use std::fs;

use skep_e2e::pair::names;
use skep_e2e::{Checks, Cluster, Ran, image, needs, secs};

/// One of the two clients.
type Client = fn(&Cluster, &str, &str) -> Ran;

#[test]
fn what_services_use_is_dockers_with_either_client() {
    let (Some(_), Some(busybox)) = (needs::docker(), needs::busybox()) else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    for node in ["n1", "n2", "n3"] {
        c.skep_given(node, "load", &archive).ok();
        c.wait_ready("n1", node, secs(10));
    }
    let mut checks = Checks::new();
    checks.check(
        "secrets and configs are made of files and of the input",
        || payloads(c),
    );
    checks.check(
        "overlay networks have the range and the kind that was asked for",
        || networks(c),
    );
    checks.check("rm removes each once, and nothing that a service uses", || {
        let flags = "--secret @file --config @file --network @net --stop-signal KILL";
        c.each("n1", &format!("service create --detach --no-resolve-image {flags} --name @user busy:1 sleep 1000"));
        for kind in ["secret", "config"] {
            c.each_ends_with(1, "n1", &format!("{kind} rm @file"));
        }
        c.each_ends_with(1, "n1", "network rm @net");
        for name in names("@user") {
            c.remove_service("n1", &name);
        }
        c.each("n1", "secret rm @file @input");
        c.each_ends_with(1, "n1", "secret rm @file");
        c.each("n1", "config rm @file @input");
        c.each_ends_with(1, "n1", "config rm @file");
        c.each("n1", "network rm @net");
        c.each_ends_with(1, "n1", "network rm @net");
        assert_eq!(
            c.same("n1", "secret ls -q") + &c.same("n1", "config ls -q"),
            ""
        );
    });
    checks.end();
}

fn payloads(c: &Cluster) {
    fs::write(c.root.join("payload"), "of a file\n").unwrap();
    for kind in ["secret", "config"] {
        c.each(
            "n1",
            &format!("{kind} create --label a=b --label c @file payload"),
        );
        c.each_given("n1", &format!("{kind} create @input -"), b"of the input");
        for line in [
            format!("{kind} ls"),
            format!("{kind} ls -q --filter name=of-s"),
            format!("{kind} ls --filter label=a=b --format '{{{{.Name}}}} {{{{.Labels}}}}'"),
            format!("{kind} inspect of-d-file of-s-input"),
            format!("{kind} inspect --pretty of-d-file"),
            format!("{kind} inspect --format '{{{{.Spec.Name}}}}' of-s-input"),
        ] {
            c.same("n1", &line);
        }
        c.alike("n1", &format!("/{kind}s/@file"), "/Spec");
        c.each_ends_with(1, "n1", &format!("{kind} create @file payload"));
        c.each_ends_with(1, "n1", &format!("{kind} create @none nosuchfile"));
        c.each_ends_with(1, "n1", &format!("{kind} create 'bad name' payload"));
        c.each_ends_with(1, "n1", &format!("{kind} inspect @nosuch"));
        c.both_fail(
            "n2",
            &format!("{kind} ls"),
            "This node is not a swarm manager",
        );
    }
    // A config tells its bytes, a secret does not.
    assert_eq!(
        c.alike("n1", "/configs/@input", "/Spec/Data"),
        "b2YgdGhlIGlucHV0"
    );
    assert!(
        c.get("n1", "/secrets/of-s-input")
            .pointer("/Spec/Data")
            .is_none()
    );
}

fn networks(c: &Cluster) {
    c.each(
        "n1",
        "network create -d overlay --attachable --label a=b @net",
    );
    for (client, name, range) in [
        (Cluster::docker as Client, "of-d-range", 77),
        (Cluster::skep, "of-s-range", 78),
    ] {
        let flags = format!(
            "--subnet 10.{range}.1.0/24 --gateway 10.{range}.1.1 --ip-range 10.{range}.1.128/25"
        );
        client(
            c,
            "n1",
            &format!("network create -d overlay {flags} --internal -o a=b {name}"),
        )
        .ok();
        let ranges = c
            .get("n1", &format!("/networks/{name}"))
            .pointer("/IPAM/Config/0")
            .cloned()
            .unwrap_or_default();
        assert_eq!(ranges["Subnet"], format!("10.{range}.1.0/24"));
        c.same("n1", &format!("network inspect {name}"));
        // Tasks get addresses of the range.
        client(
            c,
            "n1",
            &format!(
                "service create --detach --no-resolve-image --name {name} --network {name} --stop-signal KILL busy:1 sleep 1000"
            ),
        )
        .ok();
        let task = &c.wait_running("n1", name, 1, secs(30))[0];
        let shown = c
            .skep(
                &task.node,
                &format!("exec {} busybox ip -o -4 address", task.container),
            )
            .ok();
        assert!(shown.contains(&format!(" 10.{range}.1.")), "{shown}");
        c.both_fail("n1", &format!("network rm {name}"), "");
        c.remove_service("n1", name);
        assert_eq!(
            client(c, "n1", &format!("network rm {name}")).ok(),
            format!("{name}\n")
        );
    }
    for line in [
        "network ls",
        "network ls -q --no-trunc",
        "network ls --filter driver=overlay --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}} {{.Labels}}'",
        "network ls --filter scope=swarm",
        "network inspect of-d-net of-s-net",
        "network inspect ingress",
        "network inspect --format '{{.Name}} {{.Attachable}} {{json .Labels}}' of-s-net",
    ] {
        c.same("n1", line);
    }
    for part in [
        "/Driver",
        "/Scope",
        "/Attachable",
        "/Internal",
        "/Labels",
        "/IPAM/Driver",
    ] {
        c.alike("n1", "/networks/@net", part);
    }
    c.each_ends_with(1, "n1", "network create -d overlay @net");
    c.each_ends_with(1, "n1", "network create -d overlay --subnet nonsense @bad");
    c.each_ends_with(1, "n1", "network inspect @nosuch");
}
