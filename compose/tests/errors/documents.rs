//! Files as a whole, variables, and files that name others.

use skep_compose::{Source, load};

use super::support::{env, text_options, text_sources};
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
        (
            "# ours\n%YAML 1.2\n---\nservices:\n  a: {image: x}\n".to_owned(),
            &["2:1 yaml: found incompatible YAML document"],
        ),
        (
            "%TAG !y! tag:yaml.org,2002:\n%LANG en\n---\nservices:\n  a: {image: x}\n".to_owned(),
            &["2:1 yaml: found unknown directive name `%LANG`"],
        ),
        (
            "\u{feff}%YAML 1.1\n---\nservices:\n  a: {image: !!str x}\n".to_owned(),
            &[],
        ),
        (
            "x-far: [0, -.Inf]\nservices:\n  a: {image: x}\n".to_owned(),
            &["1:12 unsupported value: -.Inf"],
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

#[test]
fn bytes_that_are_no_text_are_told_with_their_place() {
    let error = Source::decode("web.yml", b"services:\n  caf\xe9: {image: x}\n").unwrap_err();
    assert_eq!(
        error[0].to_string(),
        "error: web.yml:2:6: the byte 0xe9 is no UTF-8 text\n  |\n2 |   caf\u{fffd}: {image: x}\n  |      ^\nhint: save the file as UTF-8"
    );
    let files = [(
        "/project/base.yml",
        "base: caf\u{e9}\n".chars().map(|c| c as u8).collect(),
    )];
    let sources = text_sources(&[&service("extends: {service: base, file: base.yml}")]);
    let mut read = |path: &str| {
        let found: Option<&(&str, Vec<u8>)> = files.iter().find(|(known, _)| *known == path);
        let found = found.map(|(_, bytes)| bytes.clone());
        found.ok_or(std::io::ErrorKind::NotFound.into())
    };
    let error = load(&sources, &env, &mut read, &text_options()).unwrap_err();
    let (file, place) = (error[0].file.as_str(), (error[0].line, error[0].column));
    assert_eq!((file, place), ("/project/base.yml", (1, 10)));
}
