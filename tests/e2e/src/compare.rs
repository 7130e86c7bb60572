//! Our client and docker's must say the same.

use std::time::{Duration, Instant};

use crate::Cluster;
use crate::run::Ran;
use crate::wait::patient;

/// Ages tick between one client and the other; a few more looks find both at the same age.
const WITHIN: Duration = Duration::from_secs(10);

impl Cluster {
    /// Runs the same line with both clients until they print the same, to the letter, and returns it.
    /// Both must succeed and say nothing on stderr that the other does not.
    #[track_caller]
    pub fn same(&self, node: &str, line: &str) -> String {
        self.same_after(node, line, |text| text.to_owned())
    }

    /// The same for what `view` leaves of the texts.
    #[track_caller]
    pub fn same_after(&self, node: &str, line: &str, view: impl Fn(&str) -> String) -> String {
        let began = Instant::now();
        loop {
            let docker = self.docker(node, line);
            let skep = self.skep(node, line);
            assert!(docker.status == 0, "{docker}");
            assert!(skep.status == 0, "{skep}");
            if view(&docker.out) == view(&skep.out) && docker.err == ours(&skep.err) {
                return docker.out;
            }
            if began.elapsed() > patient(WITHIN) {
                panic!("{}", difference(&docker, &skep, &view));
            }
        }
    }

    /// Runs a line that must fail with both clients, in the same words and with the same status.
    #[track_caller]
    pub fn both_fail(&self, node: &str, line: &str, text: &str) {
        self.both_fail_given(node, line, b"", text);
    }

    /// The same with something on standard input.
    #[track_caller]
    pub fn both_fail_given(&self, node: &str, line: &str, input: &[u8], text: &str) {
        let docker = self.docker_given(node, line, input).fails(text);
        let skep = self.skep_given(node, line, input).fails(&theirs(text));
        let agree = docker.status == skep.status && docker.err.trim() == ours(skep.err.trim());
        assert!(agree, "{}", difference(&docker, &skep, &str::to_owned));
    }
}

/// A text of our client, in docker's words. The daemon's own texts name docker already.
pub fn ours(text: &str) -> String {
    let mut text = text.to_owned();
    for (skep, docker) in [
        ("Usage:  skep ", "Usage:  docker "),
        ("'skep ", "'docker "),
        (": skep ", ": docker "),
        ("\"skep ", "\"docker "),
        ("skep: ", "docker: "),
    ] {
        text = text.replace(skep, docker);
    }
    text
}

/// The other way round.
fn theirs(text: &str) -> String {
    text.replace("Run 'docker ", "Run 'skep ")
        .replace("Usage:  docker ", "Usage:  skep ")
        .replace("docker: ", "skep: ")
}

fn difference(docker: &Ran, skep: &Ran, view: &dyn Fn(&str) -> String) -> String {
    format!(
        "the clients differ\n=== docker, status {}\n{}\n--- stderr\n{}\n=== skep, status {}\n{}\n--- stderr\n{}\n===\nof `{}`",
        docker.status,
        view(&docker.out),
        docker.err,
        skep.status,
        view(&skep.out),
        skep.err,
        skep.line
    )
}

/// The words of each line: a table without its padding.
pub fn rows(table: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let cells = line
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty());
        cells.map(str::to_owned).collect()
    };
    table.lines().map(cells).collect()
}

/// The headings of a table, each after at least two spaces, in one line.
#[track_caller]
pub fn assert_headings(table: &str, headings: &str) {
    let first = table.lines().next().unwrap_or_default();
    let found: Vec<&str> = first
        .split("   ")
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect();
    assert_eq!(found.join("|"), headings, "{table}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_words_become_dockers() {
        assert_eq!(
            ours("skep: x\n\nRun 'skep run --help' for more information"),
            "docker: x\n\nRun 'docker run --help' for more information"
        );
    }

    #[test]
    fn tables_have_headings() {
        assert_headings(
            "NAME      MANAGER STATUS   PORTS\nx   y   z\n",
            "NAME|MANAGER STATUS|PORTS",
        );
    }
}
