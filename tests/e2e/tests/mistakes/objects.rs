//! Secrets, configs, networks and compose files that cannot be.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use skep_e2e::Cluster;

use crate::MANAGER;
use crate::kept::{all_fail, assert_message};

/// Secrets and configs are refused for the same reasons.
pub fn payloads(c: &Cluster, kind: &str, known: &str, kib: usize) {
    let create = |name: &str, data: &[u8], text: &str| {
        c.both_fail_given(MANAGER, &format!("{kind} create {name} -"), data, text);
    };
    let made = |name: &str, data: &[u8]| {
        let body = json!({"Name": name, "Data": STANDARD.encode(data)});
        c.api(MANAGER, "POST", &format!("/{kind}s/create"), Some(&body))
    };
    let bound = kib * 1024;
    let size = format!("{kind} data must be larger than 0 and less than {bound} bytes");
    create("large", &vec![b'x'; bound], &size);
    create("empty", b"", "data is empty");
    assert_message(&made("large", &vec![b'x'; bound]), 400, &size);
    assert_message(&made("empty", b""), 400, &size);
    let name = "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]";
    for wrong in ["_x", "x.", "'a b'", "a/b", &"x".repeat(65)] {
        create(wrong, b"x", name);
    }
    create(
        known,
        b"other",
        &format!("rpc error: code = AlreadyExists desc = {kind} {known} already exists"),
    );
    let missing = format!("{kind} create file /nosuch/file");
    c.both_fail(MANAGER, &missing, "no such file or directory");
    let used = format!(
        "rpc error: code = InvalidArgument desc = {kind} '{known}' is in use by the following service: web"
    );
    c.both_fail(MANAGER, &format!("{kind} rm {known}"), &used);
    // One byte less than the bound is fine.
    let largest = made("largest", &vec![b'x'; bound - 1]);
    assert_eq!(largest.status, 201, "{}", largest.body);
    c.docker(MANAGER, &format!("{kind} rm largest")).ok();
    // A payload never changes.
    let found = c.get(MANAGER, &format!("/{kind}s/{known}"));
    let mut spec = found["Spec"].clone();
    spec["Data"] = json!(STANDARD.encode("changed"));
    let path = format!(
        "/{kind}s/{known}/update?version={}",
        found["Version"]["Index"]
    );
    assert_message(
        &c.api(MANAGER, "POST", &path, Some(&spec)),
        400,
        "only updates to Labels are allowed",
    );
}

pub fn networks(c: &Cluster) {
    let id = |path: &str, key: &str| c.get(MANAGER, path)[key].as_str().unwrap().to_owned();
    let (net, web) = (id("/networks/net", "Id"), id("/services/web", "ID"));
    let in_use = format!(
        "rpc error: code = FailedPrecondition desc = network {net} is in use by service {web}"
    );
    all_fail(
        c,
        MANAGER,
        &[
            ("network rm net", &in_use),
            (
                "network create -d overlay net",
                "network with name net already exists",
            ),
            (
                "network create -d overlay bridge",
                "operation is not permitted on predefined bridge network",
            ),
            (
                "network create -d overlay --subnet 300.0.0.0/24 odd",
                "invalid subnet 300.0.0.0/24: invalid CIDR block notation",
            ),
            (
                "network create -d overlay --subnet 10.0.0.0 odd",
                "invalid subnet 10.0.0.0: invalid CIDR block notation",
            ),
            (
                "network create -d overlay --subnet 10.78.0.5/24 odd",
                "invalid subnet 10.78.0.5/24: it should be 10.78.0.0/24",
            ),
            (
                "network create -d overlay --subnet 10.78.0.0/24 --gateway 10.79.0.1 odd",
                "no matching subnet for gateway 10.79.0.1",
            ),
            (
                "network create -d overlay --subnet 10.78.0.0/24 --ip-range 10.79.0.0/25 odd",
                "no matching subnet for range 10.79.0.0/25",
            ),
            (
                "network create -d overlay --gateway 10.79.0.1 odd",
                "every ip-range or gateway must have a corresponding subnet",
            ),
            (
                "network create -d overlay --subnet 10.78.0.0/24 --subnet 10.78.0.128/25 odd",
                "multiple overlapping subnet configuration is not supported",
            ),
            (
                "network create -d overlay --subnet 10.77.0.128/25 odd",
                "invalid pool request: Pool overlaps with other one on this address space",
            ),
            ("network create -d nosuch odd", "nosuch"),
            (
                "network create -d overlay --ipv4=false odd",
                "IPv4 cannot be disabled in a Swarm scoped network",
            ),
            (
                "network create -d overlay --ingress second",
                "is already present",
            ),
            (
                "network create -d overlay -- -odd-",
                "name must be valid as a DNS name component",
            ),
            (
                "network connect net nosuch",
                "network net not manually attachable",
            ),
        ],
    );
    for subnet in ["300.0.0.0/24", "10.78.0.0", "10.78.0.0/33"] {
        let body =
            json!({"Name": "odd", "Driver": "overlay", "IPAM": {"Config": [{"Subnet": subnet}]}});
        let answer = c.api(MANAGER, "POST", "/networks/create", Some(&body));
        assert_message(
            &answer,
            400,
            &format!("invalid subnet {subnet}: invalid CIDR block notation"),
        );
    }
    let body = json!({"Name": "odd", "Driver": "overlay", "IPAM": {"Config": [{"Subnet": "10.78.0.5/24"}]}});
    let answer = c.api(MANAGER, "POST", "/networks/create", Some(&body));
    assert_message(
        &answer,
        400,
        "invalid subnet 10.78.0.5/24: it should be 10.78.0.0/24",
    );
}

pub fn compose_files(c: &Cluster) {
    /// A file, where our client says it is wrong, and what both clients say of it.
    const FILES: [(&str, &str, &str, &str); 8] = [
        (
            "tab.yml",
            "services:\n\tweb: {image: skep/hello}\n",
            "tab.yml:2:",
            "",
        ),
        (
            "dedent.yml",
            "services:\n  web:\n    image: skep/hello\n   command: x\n",
            "dedent.yml:4:",
            "",
        ),
        (
            "list.yml",
            "- services\n",
            "list.yml:1:1: ",
            "op-level object must be a mapping",
        ),
        (
            "key.yml",
            "services:\n  web:\n    image: skep/hello\n    imagee: x\n",
            "key.yml:4:5: ",
            "Additional property imagee is not allowed",
        ),
        (
            "top.yml",
            "service:\n  web: {image: x}\n",
            "top.yml:1:1: ",
            "Additional property service is not allowed",
        ),
        (
            "type.yml",
            "services:\n  web:\n    image: skep/hello\n    deploy: {replicas: many}\n",
            "type.yml:4:24: ",
            "replicas",
        ),
        (
            "unset.yml",
            "services:\n  web:\n    image: skep/hello\n    hostname: ${NOSUCH:?say which}\n",
            "unset.yml:4:15: ",
            "required variable NOSUCH is missing a value: say which",
        ),
        (
            "missing.yml",
            "services:\n  web:\n    image: skep/hello\n    networks: [nosuch]\n",
            "missing.yml:4:16: ",
            "undefined network \"nosuch\"",
        ),
    ];
    for (name, text, place, said) in FILES {
        fs::write(c.root.join(name), text).unwrap();
        let line = format!("stack deploy -d --resolve-image never -c {name} odd");
        let ran = c.skep(MANAGER, &line).fails(place).fails(said);
        assert_eq!(ran.status, 1);
        // Docker's client makes the networks of a stack before it looks at its services.
        if name != "missing.yml" {
            c.docker(MANAGER, &line).fails(said);
        }
    }
    c.both_fail(
        MANAGER,
        "stack deploy -d -c nosuch.yml odd",
        "open nosuch.yml: no such file or directory",
    );
    let external = "services: {web: {image: skep/hello, networks: [far]}}\nnetworks: {far: {external: true}}\n";
    fs::write(c.root.join("external.yml"), external).unwrap();
    let line = "stack deploy -d --resolve-image never -c external.yml odd";
    let text = "network \"far\" is declared as external, but could not be found. You need to create a swarm-scoped network before the stack is deployed";
    c.docker(MANAGER, line).fails(text);
    c.skep(MANAGER, line).fails(text);
}
