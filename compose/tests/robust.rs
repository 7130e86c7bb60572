//! No input makes the reader panic or run away.

mod support;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use skep_compose::{Options, Source, load};
use support::{corpus, env, sources, text_options};

fn try_load(text: String) {
    let sources = [Source {
        name: "f.yml".to_owned(),
        text,
    }];
    let mut read = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    // Messages are made too: places and excerpts are where slips would show.
    match load(&sources, &env, &mut read, &text_options()) {
        Ok(loaded) => drop(
            loaded
                .warnings
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        ),
        Err(found) => {
            assert!(!found.is_empty());
            drop(found.iter().map(ToString::to_string).collect::<Vec<_>>());
        }
    }
}

/// All files of the corpus, as characters.
fn texts() -> Vec<Vec<char>> {
    corpus()
        .values()
        .flat_map(|paths| sources(paths))
        .map(|source| source.text.chars().collect())
        .collect()
}

/// What breaks YAML, templates and the small grammars.
const PIECES: &[&str] = &[
    "",
    "\n",
    "  ",
    "\t",
    ":",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "$",
    "${",
    "}}",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "!reset ",
    "|",
    ">",
    "#",
    "---\n",
    "\u{feff}",
    "\0",
    "é",
    "\u{10ffff}",
    "-",
    "0",
    "99999999999999999999",
    "1e999",
    ".nan",
    "~",
    "/",
    "\\",
    ",",
    "x-",
    "\r",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic(
        file in any::<prop::sample::Index>(),
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..12_usize, prop::sample::select(PIECES)), 1..6),
    ) {
        let texts = texts();
        let mut text = file.get(&texts).clone();
        for (at, removed, piece) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, piece.chars());
        }
        try_load(text.into_iter().collect());
    }

    #[test]
    fn values_of_any_text_never_panic(key in prop::sample::select(&[
        "image", "command", "ports", "volumes", "environment", "env_file", "tmpfs", "dns", "user",
        "stop_grace_period", "restart", "platform", "extra_hosts", "cpus", "mem_reservation",
        "extends", "hostname", "profiles",
    ][..]), text in "\\PC{0,40}") {
        let quoted = text.replace('\'', "''");
        try_load(format!("services:\n  a:\n    image: x\n    {key}: '{quoted}'\n"));
        try_load(format!("services:\n  a:\n    image: x\n    {key}: ['{quoted}']\n"));
        try_load(format!("services:\n  a:\n    image: x\n    {key}: {text}\n"));
    }
}

#[test]
fn large_files_are_read_in_bounded_time() {
    let mut text = String::from("services:\n");
    for number in 0..3000 {
        text += &format!(
            "  s{number}:\n    image: x\n    environment: {{A: \"${{TAG}}\", B: b}}\n    ports: ['{}:80']\n    deploy: {{replicas: 2}}\n",
            1000 + number
        );
    }
    let begin = Instant::now();
    let sources = [Source {
        name: "f.yml".to_owned(),
        text,
    }];
    let mut read = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    let loaded = load(&sources, &env, &mut read, &text_options()).unwrap();
    assert_eq!(loaded.stack.services.len(), 3000);
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn thousands_of_mistakes_take_bounded_time() {
    let text = format!(
        "x-all: [{}]\nservices: {{a: {{image: x}}}}\n",
        "$NOBODY, ".repeat(200_000)
    );
    let begin = Instant::now();
    try_load(text);
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn numbers_that_grow_are_refused() {
    for body in [
        "ports: ['1-65535', '1-65535/udp']",
        "hostname: '${A:-${A:-${A:-${A:-${A:-${A:-${A:-${A:-${A:-${A:-${A:-${A:-${A:-${A:-${A:-${A:-${A:-x}}}}}}}}}}}}}}}}}'",
    ] {
        let text = format!("services:\n  a:\n    image: x\n    {body}\n");
        let sources = [Source {
            name: "f.yml".to_owned(),
            text,
        }];
        let mut read = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let options = Options {
            strict: false,
            ..text_options()
        };
        assert!(load(&sources, &env, &mut read, &options).is_err(), "{body}");
    }
}
