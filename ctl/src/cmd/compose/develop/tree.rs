//! The files of one rule: which of them count, and which have changed since the last look.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use skep_compose::ProjectWatch;
use skep_dockerfile::Ignore;

use crate::failure::{Failure, Outcome};
use crate::files;

/// Files of one rule. More take longer to look at than somebody who works on them waits.
const FILES_MAX: usize = 100_000;
const IGNORE_BYTES_MAX: u64 = 8 << 20;

/// What editors and version control write beside the files that are meant.
const PASSING: [&str; 6] = [
    "**/.git",
    "**/*~",
    "**/.*.sw?",
    "**/.#*",
    "**/4913",
    "**/.DS_Store",
];

/// What of a file says that it has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    modified: (i64, i64),
    size: u64,
    inode: u64,
    mode: u32,
}

/// Files and links by their path from the rule's; that of the rule itself is empty.
pub type Tree = BTreeMap<String, Mark>;

/// What two looks have different.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New, or not as before.
    pub written: Vec<String>,
    pub gone: Vec<String>,
}

impl Changes {
    pub fn between(before: &Tree, after: &Tree) -> Self {
        let written = after
            .iter()
            .filter(|(path, mark)| before.get(*path) != Some(mark));
        let gone = before.keys().filter(|path| !after.contains_key(*path));
        Self {
            written: written.map(|(path, _)| path.clone()).collect(),
            gone: gone.cloned().collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.written.is_empty() && self.gone.is_empty()
    }
}

/// Has every file that is different now be different in each look to come, since nobody knows whether
/// the containers have it: also should it be as it was again, or gone.
pub fn doubt(seen: &mut Tree, now: &Tree) {
    for path in Changes::between(seen, now).written {
        // No file is like that.
        seen.insert(path, Mark::default());
    }
}

/// The files of a rule that count.
#[derive(Debug)]
pub struct Watched {
    root: PathBuf,
    ignore: Ignore,
    include: Ignore,
    /// The directory an image is built from, and what is left out of it.
    context: Option<(PathBuf, Ignore)>,
}

impl Watched {
    /// `context`: where the service's image is built from.
    pub fn of(rule: &ProjectWatch, context: Option<&str>) -> Outcome<Self> {
        let patterns = |patterns: Vec<String>| {
            Ignore::of(&patterns)
                .map_err(|wrong| Failure::message(format!("develop.watch {}: {wrong}", rule.path)))
        };
        let passing = PASSING.iter().map(|pattern| (*pattern).to_owned());
        Ok(Self {
            root: PathBuf::from(&rule.path),
            ignore: patterns(passing.chain(rule.ignore.clone()).collect())?,
            include: patterns(rule.include.clone())?,
            context: match context.map(PathBuf::from).filter(|path| path.is_dir()) {
                None => None,
                Some(path) => {
                    let ignore = left_out(&path)?;
                    Some((path, ignore))
                }
            },
        })
    }

    /// Looks at the files as they are now.
    ///
    /// # Errors
    /// There are too many.
    pub fn look(&self) -> Outcome<Tree> {
        let mut tree = Tree::new();
        let mut next = vec![self.root.clone()];
        while let Some(path) = next.pop() {
            // What goes meanwhile is seen as gone the next time.
            let Ok(meta) = fs::symlink_metadata(&path) else {
                continue;
            };
            let below = path.strip_prefix(&self.root).unwrap_or(&path);
            let name = below.to_string_lossy().into_owned();
            // A link that is watched itself stands for where it leads.
            let is_directory = meta.is_dir() || (name.is_empty() && path.is_dir());
            if is_directory {
                if name.is_empty() || !self.skips(&path, &name) {
                    let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                    next.extend(entries.map(|entry| entry.path()));
                }
            } else if (meta.is_file() || meta.is_symlink()) && self.counts(&path, &name) {
                tree.insert(name, mark(&meta));
            }
            if tree.len() + next.len() > FILES_MAX {
                return Err(Failure::message(format!(
                    "there are more than {FILES_MAX} files below {}\nhint: leave out what need not be watched with `ignore`",
                    self.root.display()
                )));
            }
        }
        Ok(tree)
    }

    /// Whether nothing below a directory counts.
    fn skips(&self, path: &Path, name: &str) -> bool {
        let whole = |ignore: &Ignore, name: &str| ignore.matches(name) && ignore.may_skip(name);
        whole(&self.ignore, name) || self.of_context(path, whole)
    }

    fn counts(&self, path: &Path, name: &str) -> bool {
        // The rule's own path was asked for by name.
        name.is_empty()
            || (!self.of_context(path, |ignore, name| ignore.matches(name))
                && !self.ignore.matches(name)
                && (self.include.is_empty() || self.include.matches(name)))
    }

    /// What a test says of a path as the directory the image is built from has it.
    fn of_context(&self, path: &Path, test: impl Fn(&Ignore, &str) -> bool) -> bool {
        self.context.as_ref().is_some_and(|(context, ignore)| {
            let below = path.strip_prefix(context);
            below.is_ok_and(|below| test(ignore, &below.to_string_lossy()))
        })
    }
}

fn mark(meta: &fs::Metadata) -> Mark {
    Mark {
        modified: (meta.mtime(), meta.mtime_nsec()),
        size: meta.size(),
        inode: meta.ino(),
        mode: meta.mode(),
    }
}

/// What a directory's list says is no part of a build.
fn left_out(context: &Path) -> Outcome<Ignore> {
    let path = context.join(".dockerignore");
    if !path.is_file() {
        return Ok(Ignore::default());
    }
    let path = path.display().to_string();
    let text = files::read(&path, IGNORE_BYTES_MAX).map_err(Failure::message)?;
    Ignore::parse(&String::from_utf8_lossy(&text))
        .map_err(|wrong| Failure::message(format!("{path}: {wrong}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_compose::WatchAction;

    fn rule(path: &Path, ignore: &[&str], include: &[&str]) -> ProjectWatch {
        let owned = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        ProjectWatch {
            path: path.display().to_string(),
            action: WatchAction::Sync,
            target: "/app".to_owned(),
            ignore: owned(ignore),
            include: owned(include),
            initial_sync: false,
            exec: None,
        }
    }

    fn names(rule: &ProjectWatch, context: Option<&str>) -> Vec<String> {
        let watched = Watched::of(rule, context).unwrap();
        watched.look().unwrap().into_keys().collect()
    }

    #[test]
    fn files_that_are_left_out_do_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("src");
        for name in [
            "a.js",
            "b.txt",
            "b.txt~",
            "node_modules/x/y.js",
            "deep/c.js",
            ".git/HEAD",
            "out/z",
        ] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        fs::write(directory.path().join(".dockerignore"), "src/out\n").unwrap();
        let context = directory.path().display().to_string();
        let all = rule(&root, &["node_modules/"], &[]);
        assert_eq!(names(&all, Some(&context)), ["a.js", "b.txt", "deep/c.js"]);
        assert_eq!(names(&all, None), ["a.js", "b.txt", "deep/c.js", "out/z"]);
        let some = rule(&root, &["**/node_modules"], &["**/*.js"]);
        assert_eq!(names(&some, None), ["a.js", "deep/c.js"]);
        let one = rule(&root.join("a.js"), &[], &[]);
        assert_eq!(names(&one, None), [""]);
        assert!(names(&rule(&root.join("nothing"), &[], &[]), None).is_empty());
    }

    #[test]
    fn changes_are_seen_by_a_second_look() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("stays", "1");
        write("grows", "1");
        write("goes", "1");
        let watched = Watched::of(&rule(directory.path(), &[], &[]), None).unwrap();
        let before = watched.look().unwrap();
        assert!(Changes::between(&before, &watched.look().unwrap()).is_empty());
        write("grows", "22");
        write("new", "1");
        fs::remove_file(directory.path().join("goes")).unwrap();
        let changes = Changes::between(&before, &watched.look().unwrap());
        assert_eq!(changes.written, ["grows", "new"]);
        assert_eq!(changes.gone, ["goes"]);
    }

    #[test]
    fn what_could_not_be_copied_stays_a_change() {
        let mark = |size| Mark {
            size,
            inode: 1,
            ..Mark::default()
        };
        let tree = |files: &[(&str, u64)]| -> Tree {
            let files = files.iter();
            files
                .map(|(path, size)| ((*path).to_owned(), mark(*size)))
                .collect()
        };
        let mut seen = tree(&[("stays", 1), ("grows", 1), ("goes", 1)]);
        doubt(&mut seen, &tree(&[("stays", 1), ("grows", 2), ("new", 1)]));
        // What had grown is as before, what was new is gone, what had gone still is.
        let changes = Changes::between(&seen, &tree(&[("stays", 1), ("grows", 1)]));
        assert_eq!(changes.written, ["grows"]);
        assert_eq!(changes.gone, ["goes", "new"]);
    }
}
