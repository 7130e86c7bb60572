//! Files as a whole, variables, and files that name others.

use super::{check, service};

#[test]
fn documents_and_names() {
    check(&[
        ("".to_owned(), &["0:0 top-level object must be a mapping"]),
        (
            "- a\n".to_owned(),
            &["1:1 top-level object must be a mapping"],
        ),
        (
            "a:\n  image: x\n".to_owned(),
            &["1:1 (root) Additional property a is not allowed"],
        ),
        (
            "version: \"1\"\nservices:\n  a: {image: x}\n".to_owned(),
            &["1:10 unsupported Compose file version: 1"],
        ),
        (
            "version: '2.1'\nservices:\n  a: {image: x, mem_limit: 5}\n".to_owned(),
            &["1:10 unsupported Compose file version: 2.1"],
        ),
        (
            "version: 3.14\nservices:\n  a: {image: x}\n".to_owned(),
            &["1:10 unsupported Compose file version: 3.14"],
        ),
        (
            "version: 3.8\nservices:\n  a: {image: x}\n".to_owned(),
            &["warning 1:10 version must be a string, found the number `3.8`"],
        ),
        (
            "name: other\nservices:\n  a: {image: x}\n".to_owned(),
            &["warning 1:1 name has no effect: the stack's name is given when it is deployed"],
        ),
        (
            "services:\n".to_owned(),
            &["1:1 services must be a mapping, found nothing"],
        ),
        (
            "services: [a]\n".to_owned(),
            &["1:11 services must be a mapping, found a list"],
        ),
        (
            "services:\n  a:\n".to_owned(),
            &["2:3 services.a must be a mapping, found nothing"],
        ),
        (
            "services:\n  b!: {image: x}\n".to_owned(),
            &["2:3 services Additional property b! is not allowed"],
        ),
        (
            service("image: y"),
            &["4:5 mapping key \"image\" already defined at line 3"],
        ),
        (
            "services:\n  a:\n   image: q\n  - z\n".to_owned(),
            &["4:5 yaml: while parsing a block mapping, did not find expected key"],
        ),
        (
            "services:\n  a: *nobody\n".to_owned(),
            &["2:6 yaml: while parsing node, found unknown anchor"],
        ),
        (
            "services:\n  a: {image: x}\n---\nservices: {}\n".to_owned(),
            &["warning 3:1 only the first document of a file is read"],
        ),
    ]);
}

#[test]
fn variables_and_other_files() {
    check(&[
        (
            service("hostname: $NOBODY"),
            &["warning 4:15 The \"NOBODY\" variable is not set. Defaulting to a blank string."],
        ),
        (
            service("hostname: '${NOBODY:?set it}'"),
            &[
                "4:16 invalid interpolation format for services.a.hostname: \"required variable NOBODY is missing a value: set it\"; you may need to escape any $ with another $",
            ],
        ),
        (
            service("command: |\n      one\n      two ${"),
            &[
                "6:11 invalid interpolation format for services.a.command: \"one\\ntwo ${\\n\"; you may need to escape any $ with another $",
            ],
        ),
        (
            service("deploy: {replicas: '${NOBODY:-x}'}"),
            &["4:24 services.a.deploy.replicas must be a integer, found the string \"x\""],
        ),
        (
            service("extends: nobody"),
            &["4:14 cannot extend service \"nobody\": it is not in that file"],
        ),
        (
            service("extends: a"),
            &["4:14 service \"a\" extends itself"],
        ),
        (
            service("extends: {service: base, file: gone.yml}"),
            &["4:36 open /project/gone.yml: no such file or directory"],
        ),
        (
            service("tmpfs: /run:mode=9"),
            &["4:12 service a: tmpfs mode: want octal permission bits, found \"9\""],
        ),
        (
            "services:\n  a: {command: x}\n".to_owned(),
            &["2:3 invalid image reference for service a: no image specified"],
        ),
    ]);
}
