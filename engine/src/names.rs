//! Ids and names of things: random ids, docker-like container names, and what a
//! name may look like.

use rand::Rng;

/// An id as those of containers are: 64 hexadecimal digits.
pub fn random_id() -> String {
    new_id(&mut rand::rng())
}

/// A fresh 64-digit id that is not all decimal in its short form, since such a
/// short id would be read as a number by some tools.
pub(crate) fn new_id(random: &mut impl Rng) -> String {
    loop {
        let bytes: [u8; 32] = random.random();
        let id = hex::encode(bytes);
        if id[..12].bytes().any(|digit| digit.is_ascii_alphabetic()) {
            return id;
        }
    }
}

/// The twelve digits people see.
pub(crate) fn short_id(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

/// Whether docker takes this as a container or volume name:
/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn is_valid_name(name: &str) -> bool {
    name.len() >= 2
        && name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// The pattern in docker's message about names.
pub(crate) const NAME_PATTERN: &str = "[a-zA-Z0-9][a-zA-Z0-9_.-]";

/// A name for something that was given none, as containers get it: `brave_curie`, and with
/// `retry` > 0 `brave_curie7`.
pub fn random_name(retry: usize) -> String {
    generated_name(&mut rand::rng(), retry)
}

/// A name like `brave_curie`; with `retry` > 0 a digit follows.
pub(crate) fn generated_name(random: &mut impl Rng, retry: usize) -> String {
    let adjective = ADJECTIVES[random.random_range(0..ADJECTIVES.len())];
    let surname = SURNAMES[random.random_range(0..SURNAMES.len())];
    if retry == 0 {
        format!("{adjective}_{surname}")
    } else {
        format!("{adjective}_{surname}{}", random.random_range(0..10))
    }
}

const ADJECTIVES: [&str; 64] = [
    "amber", "ample", "apt", "awake", "bold", "brave", "breezy", "bright", "brisk", "calm",
    "candid", "clever", "cosy", "crisp", "curious", "deft", "eager", "earnest", "easy", "fair",
    "fancy", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy",
    "honest", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow", "merry",
    "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "polite", "prompt", "proud",
    "quick", "quiet", "rapid", "ready", "serene", "sharp", "steady", "sunny", "swift", "tender",
    "trusty", "vivid", "warm", "witty",
];

const SURNAMES: [&str; 72] = [
    "abel",
    "ada",
    "archimedes",
    "babbage",
    "banach",
    "bell",
    "bernoulli",
    "bohr",
    "boole",
    "bose",
    "cantor",
    "carson",
    "cauchy",
    "cerf",
    "church",
    "curie",
    "dantzig",
    "darwin",
    "dijkstra",
    "dirac",
    "einstein",
    "elion",
    "erdos",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "fourier",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "goodall",
    "haber",
    "hamilton",
    "hawking",
    "hertz",
    "hilbert",
    "hodgkin",
    "hooke",
    "hopper",
    "hypatia",
    "jackson",
    "jacobi",
    "kepler",
    "knuth",
    "kowalevski",
    "lamarr",
    "lamport",
    "laplace",
    "leibniz",
    "liskov",
    "lovelace",
    "maxwell",
    "meitner",
    "mendel",
    "mirzakhani",
    "napier",
    "newton",
    "noether",
    "pascal",
    "pasteur",
    "perlman",
    "ramanujan",
    "ritchie",
    "rubin",
    "shannon",
    "tesla",
    "turing",
];

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn generated_names_are_valid_and_retries_carry_a_digit() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for retry in 0..200 {
            let name = generated_name(&mut random, retry);
            assert!(is_valid_name(&name), "{name}");
            assert_eq!(
                name.bytes().last().unwrap().is_ascii_digit(),
                retry > 0,
                "{name}"
            );
        }
    }

    #[test]
    fn names_follow_dockers_rule() {
        for (name, valid) in [
            ("web", true),
            ("w.e-b_1", true),
            ("1a", true),
            ("a", false),
            ("", false),
            ("-a", false),
            ("a/b", false),
            ("a b", false),
            ("é1", false),
        ] {
            assert_eq!(is_valid_name(name), valid, "{name}");
        }
    }

    #[test]
    fn ids_have_a_letter_in_their_short_form() {
        let mut random = rand::rngs::StdRng::seed_from_u64(1);
        let id = new_id(&mut random);
        assert_eq!(id.len(), 64);
        assert!(short_id(&id).bytes().any(|b| b.is_ascii_alphabetic()));
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
