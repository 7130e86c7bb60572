//! What `up` has to do: the project that is wanted beside the containers that are there.
//!
//! Decides only; `make` does it.

use std::collections::{BTreeMap, BTreeSet};

use super::names::Names;
use super::observed::Container;

/// A service as its containers should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub service: String,
    /// Containers of it.
    pub scale: u64,
    /// Of everything a container is made of.
    pub hash: String,
    /// Id of its image; empty: not known.
    pub image: String,
    /// The only name a container may have; empty: names by number.
    pub container_name: String,
    pub recreate: Recreate,
    /// Services whose containers are made anew together with this one's: it lives in their
    /// namespaces.
    pub lives_in: BTreeSet<String>,
    /// Services after whose renewal this one is started again.
    pub restarts_with: BTreeSet<String>,
}

/// When a container that is there gives way to a new one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Recreate {
    /// When it is not as it should be.
    #[default]
    Diverged,
    Always,
    Never,
}

/// One thing to do with a service's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Create {
        number: u64,
        name: String,
    },
    /// Makes a new one in place of this.
    Recreate {
        id: String,
        number: u64,
        name: String,
    },
    /// It is as it should be; it may have to be started.
    Keep {
        id: String,
        name: String,
        running: bool,
    },
    /// As it should be, and started again because of what it depends on.
    Restart {
        id: String,
    },
    Remove {
        id: String,
    },
}

/// What to do, service by service in the order of `wanted`, which is that of dependencies.
pub fn plan(
    names: Names<'_>,
    wanted: &[Wanted],
    seen: &[Container],
) -> BTreeMap<String, Vec<Action>> {
    let mut renewed: BTreeSet<&str> = BTreeSet::new();
    // Neighbours of containers that are gone, or are going, find nobody to live with.
    let mut staying: BTreeSet<String> = seen.iter().map(|one| one.id.clone()).collect();
    let mut plan = BTreeMap::new();
    for service in wanted {
        let own: Vec<&Container> = seen
            .iter()
            .filter(|one| one.service == service.service && !one.oneoff)
            .collect();
        let must = service
            .lives_in
            .iter()
            .any(|name| renewed.contains(name.as_str()));
        let again = service
            .restarts_with
            .iter()
            .any(|name| renewed.contains(name.as_str()));
        let must = |one: &Container| must || one.lives_in.iter().any(|id| !staying.contains(id));
        let actions = of_service(names, service, own, &must, again);
        if actions
            .iter()
            .any(|action| matches!(action, Action::Recreate { .. }))
        {
            renewed.insert(&service.service);
        }
        for action in &actions {
            if let Action::Recreate { id, .. } | Action::Remove { id } = action {
                staying.remove(id);
            }
        }
        plan.insert(service.service.clone(), actions);
    }
    plan
}

fn of_service(
    names: Names<'_>,
    wanted: &Wanted,
    mut own: Vec<&Container>,
    must: &dyn Fn(&Container) -> bool,
    again: bool,
) -> Vec<Action> {
    let diverged = |one: &Container| {
        let image = !wanted.image.is_empty() && one.image != wanted.image;
        one.hash != wanted.hash || image || one.state == "dead"
    };
    // The ones that go when there are too many: those that are not as they should be, then the
    // newest.
    own.sort_by_key(|one| (diverged(one), one.number));
    let scale = usize::try_from(wanted.scale).unwrap_or(usize::MAX);
    let surplus = own.split_off(scale.min(own.len()));
    own.sort_by_key(|one| one.number);
    let mut actions: Vec<Action> = surplus
        .iter()
        .map(|one| Action::Remove { id: one.id.clone() })
        .collect();
    for one in &own {
        let anew = match wanted.recreate {
            Recreate::Always => true,
            Recreate::Never => false,
            Recreate::Diverged => must(one) || diverged(one),
        };
        let (id, name) = (one.id.clone(), one.name.clone());
        actions.push(if anew {
            let number = one.number;
            let name = match wanted.container_name.as_str() {
                "" => names.container(&wanted.service, number),
                name => name.to_owned(),
            };
            Action::Recreate { id, number, name }
        } else if again && one.is_running() {
            Action::Restart { id }
        } else {
            Action::Keep {
                id,
                name,
                running: one.is_running(),
            }
        });
    }
    let taken: BTreeSet<u64> = own.iter().map(|one| one.number).collect();
    let free = (1..).filter(|number| !taken.contains(number));
    for number in free.take(scale.saturating_sub(own.len())) {
        let name = match wanted.container_name.as_str() {
            "" => names.container(&wanted.service, number),
            name => name.to_owned(),
        };
        actions.push(Action::Create { number, name });
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'static> = Names {
        project: "app",
        separator: '-',
    };

    fn seen(service: &str, number: u64, hash: &str) -> Container {
        Container {
            id: format!("app-{service}-{number}"),
            name: format!("app-{service}-{number}"),
            service: service.to_owned(),
            number,
            hash: hash.to_owned(),
            image: "i".to_owned(),
            state: "running".to_owned(),
            ..Container::default()
        }
    }

    fn wanted(service: &str, scale: u64) -> Wanted {
        Wanted {
            service: service.to_owned(),
            scale,
            hash: "h".to_owned(),
            image: "i".to_owned(),
            ..Wanted::default()
        }
    }

    fn shown(wanted: &[Wanted], seen: &[Container]) -> String {
        let mut shown = Vec::new();
        for (_, actions) in plan(NAMES, wanted, seen) {
            for action in actions {
                let (verb, name) = match &action {
                    Action::Create { name, .. } => ("create", name),
                    Action::Recreate { name, .. } => ("recreate", name),
                    Action::Keep {
                        name,
                        running: true,
                        ..
                    } => ("keep", name),
                    Action::Keep { name, .. } => ("start", name),
                    Action::Restart { id } => ("restart", id),
                    Action::Remove { id } => ("remove", id),
                };
                shown.push(format!("{verb} {name}"));
            }
        }
        shown.join(", ")
    }

    #[test]
    fn missing_containers_get_the_lowest_free_numbers() {
        assert_eq!(
            shown(&[wanted("web", 2)], &[]),
            "create app-web-1, create app-web-2"
        );
        assert_eq!(
            shown(&[wanted("web", 3)], &[seen("web", 2, "h")]),
            "keep app-web-2, create app-web-1, create app-web-3"
        );
        let named = Wanted {
            container_name: "mine".to_owned(),
            ..wanted("web", 1)
        };
        assert_eq!(shown(&[named], &[]), "create mine");
    }

    #[test]
    fn what_differs_is_made_anew_and_the_rest_stays() {
        let mut stopped = seen("web", 2, "h");
        stopped.state = "exited".to_owned();
        let all = [seen("web", 1, "old"), stopped, seen("web", 3, "h")];
        assert_eq!(
            shown(&[wanted("web", 3)], &all),
            "recreate app-web-1, start app-web-2, keep app-web-3"
        );
        let mut other = seen("web", 1, "h");
        other.image = "old".to_owned();
        assert_eq!(shown(&[wanted("web", 1)], &[other]), "recreate app-web-1");
        let force = Wanted {
            recreate: Recreate::Always,
            ..wanted("web", 1)
        };
        assert_eq!(
            shown(&[force], &[seen("web", 1, "h")]),
            "recreate app-web-1"
        );
        let never = Wanted {
            recreate: Recreate::Never,
            ..wanted("web", 1)
        };
        assert_eq!(shown(&[never], &[seen("web", 1, "old")]), "keep app-web-1");
    }

    #[test]
    fn surplus_containers_go_the_outdated_first() {
        let all = [
            seen("web", 1, "old"),
            seen("web", 2, "h"),
            seen("web", 3, "h"),
        ];
        assert_eq!(
            shown(&[wanted("web", 1)], &all),
            "remove app-web-3, remove app-web-1, keep app-web-2"
        );
        assert_eq!(shown(&[wanted("web", 0)], &all[1..2]), "remove app-web-2");
        let mut once = seen("web", 1, "old");
        once.oneoff = true;
        assert_eq!(shown(&[wanted("web", 0)], &[once]), "");
    }

    #[test]
    fn neighbours_follow_what_they_live_in_or_start_with() {
        let db = wanted("db", 1);
        let set = |name: &str| BTreeSet::from([name.to_owned()]);
        let inside = Wanted {
            lives_in: set("db"),
            ..wanted("inside", 1)
        };
        let after = Wanted {
            restarts_with: set("db"),
            ..wanted("later", 1)
        };
        let all = [
            seen("db", 1, "old"),
            seen("inside", 1, "h"),
            seen("later", 1, "h"),
        ];
        assert_eq!(
            shown(&[db.clone(), inside.clone(), after.clone()], &all),
            "recreate app-db-1, recreate app-inside-1, restart app-later-1"
        );
        let same = [
            seen("db", 1, "h"),
            seen("inside", 1, "h"),
            seen("later", 1, "h"),
        ];
        assert_eq!(
            shown(&[db, inside, after], &same),
            "keep app-db-1, keep app-inside-1, keep app-later-1"
        );
    }

    #[test]
    fn neighbours_of_a_container_that_is_gone_are_made_anew() {
        let set = |name: &str| BTreeSet::from([name.to_owned()]);
        let inside = Wanted {
            lives_in: set("db"),
            ..wanted("inside", 1)
        };
        let with = |id: &str| Container {
            lives_in: vec![id.to_owned()],
            ..seen("inside", 1, "h")
        };
        let one = [wanted("db", 1), inside.clone()];
        assert_eq!(
            shown(&one, &[with("app-db-1")]),
            "create app-db-1, recreate app-inside-1"
        );
        assert_eq!(
            shown(&one, &[seen("db", 1, "h"), with("another")]),
            "keep app-db-1, recreate app-inside-1"
        );
        let two = [wanted("db", 2), inside];
        assert_eq!(
            shown(&two, &[seen("db", 1, "h"), with("app-db-1")]),
            "keep app-db-1, create app-db-2, keep app-inside-1"
        );
        let surplus = [seen("db", 1, "h"), seen("db", 2, "h"), with("app-db-2")];
        assert_eq!(
            shown(&one, &surplus),
            "remove app-db-2, keep app-db-1, recreate app-inside-1"
        );
    }
}
