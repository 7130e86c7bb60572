//! A line done once by each client, each on an object of its own: for verbs that change something.

use crate::Cluster;
use crate::compare::ours;
use crate::run::Ran;

/// Stands in a line for the client: `@web` is a service of docker's, and another of ours.
const MARK: &str = "@";
/// What the mark becomes, and no other name begins with.
const DOCKERS: &str = "of-d-";
const OURS: &str = "of-s-";

/// Both clients, done with the same line.
#[derive(Debug, Clone)]
pub struct Pair {
    pub docker: Ran,
    pub skep: Ran,
}

impl Pair {
    /// What each printed, without the last line break.
    pub fn words(&self) -> [String; 2] {
        [&self.docker, &self.skep].map(|ran| ran.out.trim().to_owned())
    }
}

impl Cluster {
    /// Does a line with each client. Both must succeed and print the same, but for ids and for the
    /// names of their objects.
    #[track_caller]
    pub fn each(&self, node: &str, line: &str) -> Pair {
        self.each_given(node, line, b"")
    }

    /// The same with something on standard input.
    #[track_caller]
    pub fn each_given(&self, node: &str, line: &str, input: &[u8]) -> Pair {
        let pair = self.each_ends(node, line, input, 0);
        assert_same(&pair, &plain);
        pair
    }

    /// The same for lines that wait long, so both at once, and for what `view` leaves of the texts, ids
    /// and names being gone already.
    #[track_caller]
    pub fn each_after(&self, node: &str, line: &str, view: impl Fn(&str) -> String) -> Pair {
        let pair = std::thread::scope(|scope| {
            let docker = scope.spawn(|| self.docker(node, &line.replace(MARK, DOCKERS)));
            let skep = self.skep(node, &line.replace(MARK, OURS));
            Pair {
                docker: docker.join().expect("the client is there"),
                skep,
            }
        });
        assert!(pair.docker.status == 0, "{}", pair.docker);
        assert!(pair.skep.status == 0, "{}", pair.skep);
        assert_same(&pair, &|text| view(&plain(text)));
        pair
    }

    /// Does a line with each client, which must end with this status and print the same.
    #[track_caller]
    pub fn each_ends_with(&self, status: i32, node: &str, line: &str) -> Pair {
        let pair = self.each_ends(node, line, b"", status);
        assert_same(&pair, &plain);
        pair
    }

    /// Does a line with each client, which must end with this status, whatever they print.
    #[track_caller]
    pub fn each_ends(&self, node: &str, line: &str, input: &[u8], status: i32) -> Pair {
        let docker = self.docker_given(node, &line.replace(MARK, DOCKERS), input);
        let skep = self.skep_given(node, &line.replace(MARK, OURS), input);
        assert!(docker.status == status, "want {status}: {docker}");
        assert!(skep.status == status, "want {status}: {skep}");
        Pair { docker, skep }
    }

    /// Checks that what the API tells of docker's object and of ours is the same, and returns ours. The
    /// pointer says which part of it, as in RFC 6901.
    #[track_caller]
    pub fn alike(&self, node: &str, path: &str, pointer: &str) -> serde_json::Value {
        let part = |prefix: &str| {
            let whole = self.get(node, &path.replace(MARK, prefix));
            whole
                .pointer(pointer)
                .unwrap_or_else(|| panic!("no {pointer} in {whole}"))
                .clone()
        };
        let (dockers, ours) = (part(DOCKERS), part(OURS));
        let [docker, skep] = [&dockers, &ours].map(|part| plain(&format!("{part:#}")));
        assert!(
            docker == skep,
            "{path} {pointer} differs\n{}",
            differing(&docker, &skep)
        );
        ours
    }
}

#[track_caller]
fn assert_same(pair: &Pair, view: &dyn Fn(&str) -> String) {
    let Pair { docker, skep } = pair;
    let agree =
        view(&docker.out) == view(&skep.out) && plain(&docker.err) == ours(&plain(&skep.err));
    assert!(
        agree,
        "the clients differ\n=== docker\n{docker}\n=== skep\n{skep}"
    );
}

/// The lines of each of two texts that the other one lacks; none when the order alone differs.
fn differing(docker: &str, skep: &str) -> String {
    let lacking = |has: &str, lacks: &str, whose: &str| {
        let lines = has
            .lines()
            .filter(|line| !lacks.lines().any(|other| other == *line));
        lines
            .map(|line| format!("{whose}: {line}\n"))
            .collect::<String>()
    };
    lacking(docker, skep, "docker's") + &lacking(skep, docker, "ours")
}

/// The names of docker's objects and of ours.
pub fn names(name: &str) -> [String; 2] {
    [DOCKERS, OURS].map(|prefix| name.replace(MARK, prefix))
}

/// A text without ids, and with the mark for the client.
fn plain(text: &str) -> String {
    let text = text.replace(DOCKERS, MARK).replace(OURS, MARK);
    let mut out = String::new();
    let mut word = String::new();
    for letter in text.chars().chain([' ']) {
        if letter.is_ascii_alphanumeric() {
            word.push(letter);
            continue;
        }
        out.push_str(if is_id(&word) { "<id>" } else { &word });
        word.clear();
        out.push(letter);
    }
    out.pop();
    out
}

/// Ids are 64 or 12 digits of base 16, or 25 of base 36.
fn is_id(word: &str) -> bool {
    let hex = word
        .chars()
        .all(|letter| matches!(letter, '0'..='9' | 'a'..='f'));
    let base36 = word
        .chars()
        .all(|letter| matches!(letter, '0'..='9' | 'a'..='z'));
    let has_digit = word.contains(|letter: char| letter.is_ascii_digit());
    (hex && matches!(word.len(), 12 | 64)) || (base36 && has_digit && word.len() == 25)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_taken_out() {
        assert_eq!(plain("of-d-web: 0123456789ab\n"), "@web: <id>\n");
        assert_eq!(plain("of-s-web: ba9876543210\n"), "@web: <id>\n");
        assert_eq!(plain("x.1.ppddbe1k8k0n0xn2d6xrcj0bv@n2"), "x.1.<id>@n2");
        assert_eq!(plain("deadbeef 128"), "deadbeef 128");
    }
}
