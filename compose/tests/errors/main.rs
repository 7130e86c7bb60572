//! Every class of mistake is reported with its place and what to do.

#[path = "../support/mod.rs"]
mod support;

mod documents;
mod objects;
mod services;

use skep_compose::{Options, Severity, Source, config};
use support::{load_texts, text_options};

/// Everything reported about `text`, one line each: `line:column message`.
fn found(text: &str) -> Vec<String> {
    let loaded = load_texts(&[text], &text_options());
    let diagnostics = match loaded {
        Ok(loaded) => loaded.warnings,
        Err(diagnostics) => diagnostics,
    };
    diagnostics
        .iter()
        .map(|d| {
            let kind = match d.severity {
                Severity::Warning => "warning ",
                Severity::Error => "",
            };
            format!("{kind}{}:{} {}", d.line, d.column, d.message)
        })
        .collect()
}

fn service(body: &str) -> String {
    format!("services:\n  a:\n    image: x\n    {body}\n")
}

fn check(cases: &[(String, &[&str])]) {
    let mut wrong = Vec::new();
    for (text, wanted) in cases {
        let found = found(text);
        if found != *wanted {
            wrong.push(format!("{text}wanted {wanted:#?}\nfound {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_message_shows_the_line_and_what_to_do() {
    let text = "services:\n  web:\n\timage: x\n";
    let error = load_texts(&[text], &text_options()).unwrap_err();
    assert!(
        error[0].to_string().starts_with("error: 1.yml:3:"),
        "{}",
        error[0]
    );

    let text = service("enviroment: {A: 1}");
    let error = load_texts(&[&text], &text_options()).unwrap_err();
    let shown = error[0].to_string();
    let (message, hint) = shown.split_once("\nhint: ").unwrap();
    assert_eq!(
        message,
        "error: 1.yml:4:5: services.a Additional property enviroment is not allowed\n  \
         |\n4 |     enviroment: {A: 1}\n  |     ^"
    );
    assert!(
        hint.starts_with("did you mean `environment`? allowed here: annotations, "),
        "{hint}"
    );
    assert!(
        hint.contains(", image, ") && hint.ends_with(", working_dir, x-skep-drain"),
        "{hint}"
    );
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_files() {
    let first = "services:\n  a: {image: x, tty: maybe, colour: red}\n  b: {image: 5}\n";
    let second = "services:\n  a: {tty: no, dns: [1]}\n";
    let error = load_texts(&[first, second], &text_options()).unwrap_err();
    let places: Vec<_> = error
        .iter()
        .map(|d| (d.file.as_str(), d.line, d.column))
        .collect();
    assert_eq!(
        places,
        [
            ("1.yml", 2, 22),
            ("1.yml", 2, 29),
            ("1.yml", 3, 14),
            ("2.yml", 2, 22)
        ]
    );
}

#[test]
fn a_version_1_file_is_told_apart() {
    let error = load_texts(&["web:\n  image: x\n"], &text_options()).unwrap_err();
    assert!(
        error[0].hint.as_ref().unwrap().contains("version 1"),
        "{}",
        error[0]
    );
}

#[test]
fn strict_makes_warnings_errors() {
    let text = service("container_name: c");
    let loaded = load_texts(&[&text], &text_options()).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    let strict = Options {
        strict: true,
        ..text_options()
    };
    let error = load_texts(&[&text], &strict).unwrap_err();
    assert_eq!((error.len(), error[0].severity), (1, Severity::Error));
    assert!(load_texts(&[&service("tty: true")], &strict).is_ok());
}

#[test]
fn a_stack_has_a_name() {
    for stack in ["", " ", "''"] {
        let options = Options {
            stack: stack.to_owned(),
            ..text_options()
        };
        let error = load_texts(&[&service("tty: true")], &options).unwrap_err();
        assert!(
            error[0].message.starts_with("invalid stack name: "),
            "{}",
            error[0]
        );
        assert_eq!(error[0].file, "");
    }
    assert_eq!(
        load_texts(&[], &text_options()).unwrap_err()[0].message,
        "no files specified"
    );
}

#[test]
fn the_number_of_messages_is_bounded() {
    let mut text = String::from("services:\n  a:\n    image: x\n");
    for number in 0..1000 {
        text += &format!("    wrong{number}: x\n");
    }
    let error = load_texts(&[&text], &text_options()).unwrap_err();
    assert_eq!(error.len(), 201);
    assert_eq!(error[200].message, "800 more messages are not shown");
}

#[test]
fn what_only_a_cluster_refuses_is_printed_with_a_warning() {
    for (body, printed, message) in [
        (
            "deploy: {placement: {constraints: ['node.hostname == ${NOBODY}']}}",
            "'node.hostname == '",
            "is no constraint: value '' is invalid",
        ),
        (
            "deploy: {restart_policy: {condition: always}}",
            "condition: always",
            "must be one of the following: \"none\", \"on-failure\", \"any\", found \"always\"",
        ),
        (
            "deploy: {resources: {limits: {cpus: '0.0001', memory: 1k}}}",
            "cpus: \"0.0001\"",
            "invalid cpu value 0.0001: Must be at least 0.001",
        ),
        (
            "healthcheck: {test: [curl, x]}",
            "- curl",
            "must begin with NONE, CMD or CMD-SHELL, found \"curl\"",
        ),
    ] {
        let sources = [Source {
            name: "1.yml".to_owned(),
            text: service(body),
        }];
        let mut read = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let (document, warnings) =
            config(&sources, &support::env, &mut read, &text_options()).unwrap();
        assert!(document.contains(printed), "{body}: {document}");
        assert!(support::shown(&warnings).contains(message), "{body}");
        let errors = load_texts(&[&service(body)], &text_options()).unwrap_err();
        assert!(
            errors
                .iter()
                .any(|e| e.severity == Severity::Error && e.message.contains(message)),
            "{body}: {}",
            support::shown(&errors)
        );
    }
}
