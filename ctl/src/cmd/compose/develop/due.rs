//! What changes of a service's files lead to. Decides only.

use skep_compose::{ProjectHook, ProjectWatch, WatchAction};

use super::tree::Changes;

/// What is to be done for one service, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Built again and made anew; the new containers have all the rest in them.
    pub rebuild: bool,
    pub copies: Vec<Copied>,
    /// Paths in the container.
    pub removes: Vec<String>,
    pub execs: Vec<ProjectHook>,
    pub restart: bool,
}

/// A file and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub from: String,
    /// Absolute, in the container.
    pub to: String,
}

impl Due {
    /// What follows; `changed` are the rules with what has changed of their files.
    pub fn of(changed: &[(&ProjectWatch, Changes)]) -> Self {
        let mut due = Self::default();
        for (rule, changes) in changed.iter().filter(|(_, changes)| !changes.is_empty()) {
            match rule.action {
                WatchAction::Rebuild => {
                    return Self {
                        rebuild: true,
                        ..Self::default()
                    };
                }
                WatchAction::Restart | WatchAction::SyncRestart => due.restart = true,
                WatchAction::Sync | WatchAction::SyncExec => {}
            }
            if rule.action.copies() {
                let written = changes.written.iter();
                due.copies.extend(written.map(|path| copied(rule, path)));
                let gone = changes.gone.iter();
                due.removes.extend(gone.map(|path| copied(rule, path).to));
                due.execs.extend(rule.exec.clone());
            }
        }
        due
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Where a file of a rule goes. A rule for one file names that file in the container, or the
/// directory it goes to.
fn copied(rule: &ProjectWatch, path: &str) -> Copied {
    let target = rule.target.trim_end_matches('/');
    if !path.is_empty() {
        return Copied {
            from: format!("{}/{path}", rule.path.trim_end_matches('/')),
            to: format!("{target}/{path}"),
        };
    }
    let name = rule.path.rsplit('/').next().unwrap_or_default();
    Copied {
        from: rule.path.clone(),
        to: match rule.target.ends_with('/') {
            true => format!("{target}/{name}"),
            false => rule.target.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: WatchAction, path: &str, target: &str) -> ProjectWatch {
        ProjectWatch {
            path: path.to_owned(),
            action,
            target: target.to_owned(),
            ignore: Vec::new(),
            include: Vec::new(),
            initial_sync: false,
            exec: None,
        }
    }

    fn changes(written: &[&str], gone: &[&str]) -> Changes {
        let owned = |list: &[&str]| list.iter().map(|one| (*one).to_owned()).collect();
        Changes {
            written: owned(written),
            gone: owned(gone),
        }
    }

    #[test]
    fn files_are_copied_to_where_they_belong() {
        let sync = rule(WatchAction::Sync, "/src/web", "/app/");
        let due = Due::of(&[(&sync, changes(&["a", "b/c"], &["d"]))]);
        let shown: Vec<String> = due
            .copies
            .iter()
            .map(|one| format!("{}>{}", one.from, one.to))
            .collect();
        assert_eq!(shown, ["/src/web/a>/app/a", "/src/web/b/c>/app/b/c"]);
        assert_eq!(due.removes, ["/app/d"]);
        assert!(!due.restart && !due.rebuild);
        for (target, to) in [("/etc/x.conf", "/etc/x.conf"), ("/etc/", "/etc/x.conf")] {
            let one = rule(WatchAction::SyncRestart, "/src/x.conf", target);
            let due = Due::of(&[(&one, changes(&[""], &[]))]);
            assert_eq!(due.copies[0].to, to);
            assert!(due.restart);
        }
    }

    #[test]
    fn a_rebuild_leaves_nothing_else_to_do() {
        let sync = rule(WatchAction::SyncRestart, "/src", "/app");
        let rebuild = rule(WatchAction::Rebuild, "/src/package.json", "");
        let both = [
            (&sync, changes(&["package.json"], &[])),
            (&rebuild, changes(&[""], &[])),
        ];
        let due = Due::of(&both);
        assert!(due.rebuild && due.copies.is_empty() && !due.restart);
        assert!(Due::of(&[(&sync, Changes::default()), (&rebuild, Changes::default())]).is_empty());
    }
}
