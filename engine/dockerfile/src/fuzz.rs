//! What fuzzers feed, and what must hold whatever they feed. The suite feeds the
//! inputs in `fuzz/corpus`.

use crate::{Dockerfile, Expander, Ignore, glob, parse_trigger};

/// A Dockerfile, which is also tried as an ignore list, a trigger, a word to expand
/// and a pattern.
pub fn dockerfile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let lines = text.lines().count();
    match Dockerfile::parse(text) {
        Ok(file) => {
            let steps = file.stages.iter().flat_map(|stage| &stage.steps);
            for step in steps {
                assert!((1..=lines).contains(&step.line), "line {}", step.line);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = parse_trigger(text);
    let first = text.lines().next().unwrap_or_default();
    if let Ok(list) = Ignore::parse(text) {
        let hidden = list.matches("a/b");
        assert!(!list.is_empty() || !hidden);
    }
    let lookup = |name: &str| (name.len() < 4).then(|| name.to_uppercase());
    let expander = Expander::new('\\', &lookup);
    let _ = (expander.word(first), expander.words(first));
    let _ = glob(first, "some/path");
}

#[cfg(test)]
mod tests {
    #[test]
    fn dockerfiles_of_the_corpus_are_read_or_refused() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/dockerfiles");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            super::dockerfile(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 5, "there are only {count} inputs");
    }
}
