//! What fuzzers feed, and what must hold whatever they feed. The suite feeds the inputs in
//! `fuzz/corpus`.

use std::io;

use crate::{Options, ProjectOptions, Source, config, load, project, project_name, variables};

/// A compose file (or two, with a line of `===` between), read in every way there is; also as a
/// file of variables. Files that it names hold itself.
pub fn compose(bytes: &[u8]) {
    let env = |name: &str| (name.len() < 4).then(|| name.to_lowercase());
    if let Ok(read) = variables(bytes, &env) {
        assert!(read.iter().all(|(name, _)| !name.is_empty()));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let sources: Vec<Source> = text
        .splitn(2, "\n===\n")
        .enumerate()
        .map(|(index, text)| Source {
            name: format!("{index}.yml"),
            text: text.to_owned(),
        })
        .collect();
    // Only so many: what files name may grow by each other.
    let mut left = 8;
    let mut read = |_: &str| {
        left -= 1;
        match left {
            0.. => Ok(sources[0].text.clone().into_bytes()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    };
    let options = Options {
        stack: "app".to_owned(),
        interpolate: true,
        strict: false,
        working_dir: "/srv".to_owned(),
    };
    let told = |found: Vec<crate::Diagnostic>| {
        for one in &found {
            assert!(!one.to_string().is_empty());
        }
        found
    };
    match load(&sources, &env, &mut read, &options) {
        Ok(loaded) => drop(told(loaded.warnings)),
        Err(found) => assert!(!told(found).is_empty()),
    }
    if let Ok((document, _)) = config(&sources, &env, &mut read, &options) {
        // What is printed is read again, and printed the same.
        let again = Source {
            name: "printed.yml".to_owned(),
            text: document.clone(),
        };
        let plain = Options {
            interpolate: false,
            ..options
        };
        if let Ok((printed, _)) = config(&[again], &env, &mut read, &plain) {
            assert_eq!(printed, document);
        }
    }
    let _ = project_name(&sources, &env);
    let options = ProjectOptions {
        name: "app".to_owned(),
        interpolate: true,
        working_dir: "/srv".to_owned(),
        profiles: vec!["*".to_owned()],
        services: Vec::new(),
    };
    match project(&sources, &env, &mut read, &options) {
        Ok(project) => drop(told(project.warnings)),
        Err(found) => assert!(!told(found).is_empty()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn files_of_the_corpus_are_read_or_refused() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/compose");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            super::compose(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 10, "there are only {count} inputs");
    }
}
