//! The corpus as stacks, compared with what they were.

use std::path::Path;

use skep_compose::{Loaded, Options, Source, load};

use super::support::{corpus, corpus_dir, env, options, shown, sources};

/// Loads files as if they stood in `/stack`, so that results are the same everywhere.
fn load_at_stack(sources: &[Source], directory: &Path) -> Loaded {
    let options = Options {
        working_dir: "/stack".to_owned(),
        ..options()
    };
    let mut read = |path: &str| {
        let path = path
            .strip_prefix("/stack/")
            .ok_or(std::io::ErrorKind::NotFound)?;
        std::fs::read(directory.join(path))
    };
    load(sources, &env, &mut read, &options).unwrap_or_else(|found| panic!("{}", shown(&found)))
}

/// Compares with a file of `tests/golden`; with UPDATE_GOLDEN set, writes it.
fn check_golden(name: &str, loaded: &Loaded, differences: &mut Vec<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
    let made = serde_json::to_string_pretty(&loaded.stack).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    if golden != made {
        let first = golden.lines().zip(made.lines()).find(|(a, b)| a != b);
        differences.push(format!("{name}: first difference {first:?}"));
    }
}

#[test]
fn files_become_the_golden_stacks() {
    let mut differences = Vec::new();
    for (name, paths) in corpus() {
        let loaded = load_at_stack(&sources(&paths), &corpus_dir());
        check_golden(&name, &loaded, &mut differences);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_example_is_a_golden_stack_without_warnings() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let loaded = load_at_stack(&sources(&[directory.join("hello.yml")]), &directory);
    assert!(loaded.warnings.is_empty(), "{}", shown(&loaded.warnings));
    let mut differences = Vec::new();
    check_golden("hello", &loaded, &mut differences);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_document_reads_back_as_the_same_stack() {
    for (name, paths) in corpus() {
        let first = load_at_stack(&sources(&paths), &corpus_dir());
        // Dollar signs that were escaped would be variables now; environment files were read.
        let options = Options {
            interpolate: false,
            working_dir: "/stack".to_owned(),
            ..options()
        };
        let again = [Source {
            name: name.clone(),
            text: first.document.clone(),
        }];
        let mut read = |path: &str| {
            let path = path
                .strip_prefix("/stack/")
                .ok_or(std::io::ErrorKind::NotFound)?;
            std::fs::read(corpus_dir().join(path))
        };
        let second = load(&again, &env, &mut read, &options)
            .unwrap_or_else(|found| panic!("{name}: {}\n{}", shown(&found), first.document));
        assert_eq!(first.stack, second.stack, "{name}\n{}", first.document);
    }
}
