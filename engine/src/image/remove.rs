//! Taking images away: what a removal would do is decided first, as a value.

use std::sync::Arc;

use super::digest::Digest;
use super::reference::Reference;
use super::store::Image;
use crate::clock;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::filters::Filters;
use crate::options::ImageRemoveOptions;
use crate::streams::blocking;
use crate::types::DeleteItem;

/// A container that stands on an image.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) running: bool,
}

/// What removing does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Removal {
    untag: Vec<Reference>,
    delete: bool,
    /// Parents without names that nobody else was made on go too.
    parents: bool,
}

/// Decides what `docker rmi given` does to an image with these names and users.
/// `by_id` tells whether it was named by id.
fn plan(
    id: &Digest,
    given: Option<&Reference>,
    names: &[Reference],
    users: &[User],
    has_children: bool,
    force: bool,
) -> Result<Removal> {
    let running = users.iter().find(|user| user.running);
    let stopped = users.iter().find(|user| !user.running);
    let conflict = |sort: &str, why: String| {
        Err(EngineError::conflict(format!(
            "conflict: unable to delete {} ({sort}) - {why}",
            id.short()
        )))
    };
    match given {
        Some(name) => {
            let single = is_single(names);
            if single
                && !force
                && let Some(user) = users.first()
            {
                return Err(EngineError::conflict(format!(
                    "conflict: unable to remove repository reference \"{}\" (must force) - container {} is using its referenced image {}",
                    name.familiar(),
                    crate::names::short_id(&user.id),
                    id.short()
                )));
            }
            let mut untag = vec![name.clone()];
            let mut left: Vec<&Reference> = names.iter().filter(|other| *other != name).collect();
            // The last tag of a repository takes its digests along.
            if name.digest.is_none()
                && !left
                    .iter()
                    .any(|other| other.tag.is_some() && other.repository() == name.repository())
            {
                left.retain(|other| {
                    let same = other.repository() == name.repository();
                    if same {
                        untag.push((*other).clone());
                    }
                    !same
                });
            }
            // With a running container the names go and the image stays.
            let delete = left.is_empty() && running.is_none() && !has_children;
            Ok(Removal {
                untag,
                delete,
                parents: true,
            })
        }
        None => {
            if has_children {
                return conflict(
                    "cannot be forced",
                    "image has dependent child images".into(),
                );
            }
            if let Some(user) = running {
                return conflict(
                    "cannot be forced",
                    format!(
                        "image is being used by running container {}",
                        crate::names::short_id(&user.id)
                    ),
                );
            }
            if !force && !is_single(names) {
                return conflict(
                    "must be forced",
                    "image is referenced in multiple repositories".into(),
                );
            }
            if !force && let Some(user) = stopped {
                return conflict(
                    "must be forced",
                    format!(
                        "image is being used by stopped container {}",
                        crate::names::short_id(&user.id)
                    ),
                );
            }
            Ok(Removal {
                untag: names.to_vec(),
                delete: true,
                parents: true,
            })
        }
    }
}

/// Whether all names are of one repository and at most one is a tag.
fn is_single(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.tag.is_some()).count();
    tags <= 1
        && names
            .windows(2)
            .all(|pair| pair[0].repository() == pair[1].repository())
}

impl Engine {
    /// Removes a name, and the image with its last name; or an image by id.
    pub async fn image_remove(
        &self,
        name: &str,
        options: ImageRemoveOptions,
    ) -> Result<Vec<DeleteItem>> {
        let image = self.images.find(name)?;
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        let by_id = image.id().hex().starts_with(digits);
        let given = match name.parse::<Reference>() {
            Ok(reference) if !by_id => Some(match &reference.digest {
                Some(digest) => reference.with_digest(digest.clone()),
                None => reference.or_latest(),
            }),
            _ => None,
        };
        self.remove_found(&image, given.as_ref(), options).await
    }

    async fn remove_found(
        &self,
        image: &Arc<Image>,
        given: Option<&Reference>,
        options: ImageRemoveOptions,
    ) -> Result<Vec<DeleteItem>> {
        let (tags, digests, _) = self.images.names_of(image.id());
        let names: Vec<Reference> = tags.into_iter().chain(digests).collect();
        let users = self.containers.users_of(image.id());
        let has_children = self.images.has_children(image.id());
        let mut removal = plan(
            image.id(),
            given,
            &names,
            &users,
            has_children,
            options.force,
        )?;
        removal.parents &= !options.no_prune;
        let engine = self.shared();
        let image = Arc::clone(image);
        blocking(move || engine.carry_out(&image, removal)).await
    }

    fn carry_out(&self, image: &Image, removal: Removal) -> Result<Vec<DeleteItem>> {
        let mut items = Vec::new();
        for name in self.images.unname(&removal.untag)? {
            self.image_event("untag", image.id().as_str(), image, image.id().as_str());
            items.push(DeleteItem {
                untagged: name.familiar(),
                ..DeleteItem::default()
            });
        }
        if !removal.delete || self.images.remove(image.id())?.is_none() {
            return Ok(items);
        }
        self.tell_deleted(image, &mut items);
        if removal.parents {
            self.remove_parents(image, &mut items)?;
        }
        self.images.sweep(|| self.containers.chains_in_use())?;
        Ok(items)
    }

    /// Tells of an image that is gone, and of the layers that go with it.
    fn tell_deleted(&self, image: &Image, items: &mut Vec<DeleteItem>) {
        self.image_event("delete", image.id().as_str(), image, image.id().as_str());
        let mut needed = self.containers.chains_in_use();
        for other in self.images.all() {
            needed.extend(other.chain.iter().cloned());
        }
        let layers = image
            .chain
            .iter()
            .rev()
            .filter(|chain| !needed.contains(chain));
        items.extend(
            std::iter::once(image.id())
                .chain(layers)
                .map(|digest| DeleteItem {
                    deleted: digest.to_string(),
                    ..DeleteItem::default()
                }),
        );
    }

    /// Removes what an image that is gone was made on, as far as nobody else
    /// needs or names it.
    fn remove_parents(&self, image: &Image, items: &mut Vec<DeleteItem>) -> Result<()> {
        let mut parent = image.record.parent.clone();
        while let Some(image) = parent.and_then(|id| self.images.get(&id)) {
            let (tags, digests, _) = self.images.names_of(image.id());
            let needed = !(tags.is_empty() && digests.is_empty())
                || self.images.has_children(image.id())
                || !self.containers.users_of(image.id()).is_empty();
            if needed || self.images.remove(image.id())?.is_none() {
                return Ok(());
            }
            self.tell_deleted(&image, items);
            parent = image.record.parent.clone();
        }
        Ok(())
    }

    /// Removes images without names (or, with `dangling=false`, all unused ones):
    /// what went, and the bytes that came free.
    pub async fn image_prune(&self, filters: &Filters) -> Result<(Vec<DeleteItem>, i64)> {
        filters.accept(&["dangling", "label", "label!", "until"])?;
        let dangling_only = filters.flag("dangling")?.unwrap_or(true);
        let mut until = None;
        for text in filters.values("until") {
            until = Some(clock::parse_moment(text, clock::now())?);
        }
        let before = self.layer_bytes()?;
        let mut items = Vec::new();
        for image in self.images.all() {
            let (tags, digests, _) = self.images.names_of(image.id());
            if (dangling_only && !(tags.is_empty() && digests.is_empty()))
                || until.is_some_and(|until| image.config.created > until)
                || !filters.labels(&image.config.config.labels)
                || !self.containers.users_of(image.id()).is_empty()
                || self.images.has_children(image.id())
            {
                continue;
            }
            let removal = Removal {
                untag: tags.into_iter().chain(digests).collect(),
                delete: true,
                parents: true,
            };
            let engine = self.shared();
            items.extend(blocking(move || engine.carry_out(&image, removal)).await?);
        }
        let freed = before.saturating_sub(self.layer_bytes()?);
        self.prune_event("image", freed);
        Ok((items, freed))
    }

    /// Bytes of all layers.
    pub(crate) fn layer_bytes(&self) -> Result<i64> {
        let layers = self.images.layers.all()?;
        Ok(layers.iter().map(|layer| layer.size as i64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Reference> {
        names
            .iter()
            .map(|name| name.parse::<Reference>().unwrap())
            .collect()
    }

    fn check(
        given: &str,
        all: &[&str],
        users: &[bool],
        force: bool,
        expected: Result<(&[&str], bool), &str>,
    ) {
        let users: Vec<User> = users
            .iter()
            .map(|running| User {
                id: "c0ffee".repeat(10),
                running: *running,
            })
            .collect();
        let reference = (!given.is_empty()).then(|| given.parse::<Reference>().unwrap());
        let planned = plan(
            &Digest::of(b"x"),
            reference.as_ref(),
            &names(all),
            &users,
            false,
            force,
        );
        match (planned, expected) {
            (Ok(removal), Ok((untag, delete))) => {
                assert_eq!(removal.untag, names(untag), "{given} of {all:?}");
                assert_eq!(removal.delete, delete, "{given} of {all:?}");
            }
            (Err(error), Err(text)) => {
                assert!(error.to_string().contains(text), "{error} has not {text}");
            }
            (planned, expected) => panic!("{planned:?} is not {expected:?}"),
        }
    }

    #[test]
    fn the_last_name_takes_the_image_along() {
        let digest = format!("a@{}", Digest::of(b"m"));
        let tagged = ["a:1", digest.as_str()];
        check("a:1", &["a:1", "a:2"], &[], false, Ok((&["a:1"], false)));
        check(
            "a:1",
            &["a:1", "b:1"],
            &[true],
            false,
            Ok((&["a:1"], false)),
        );
        check("a:1", &tagged, &[], false, Ok((&tagged, true)));
        check(
            "a:1",
            &["a:1"],
            &[false],
            false,
            Err("(must force) - container c0ffeec0ffee is using"),
        );
        check("a:1", &["a:1"], &[false], true, Ok((&["a:1"], true)));
        check("a:1", &["a:1"], &[true], true, Ok((&["a:1"], false)));
    }

    #[test]
    fn an_image_that_others_were_made_on_only_loses_its_name() {
        let (name, id) = (names(&["a:1"]), Digest::of(b"x"));
        let removal = plan(&id, Some(&name[0]), &name, &[], true, false).unwrap();
        assert_eq!((removal.untag, removal.delete), (name.clone(), false));
        let error = plan(&id, None, &name, &[], true, true).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("(cannot be forced) - image has dependent child images")
        );
    }

    #[test]
    fn an_id_removes_all_or_nothing() {
        check("", &["a:1"], &[], false, Ok((&["a:1"], true)));
        check("", &[], &[], false, Ok((&[], true)));
        check(
            "",
            &["a:1", "b:1"],
            &[],
            false,
            Err("image is referenced in multiple repositories"),
        );
        check("", &["a:1", "b:1"], &[], true, Ok((&["a:1", "b:1"], true)));
        check(
            "",
            &["a:1"],
            &[true],
            true,
            Err("(cannot be forced) - image is being used by running container c0ffeec0ffee"),
        );
        check(
            "",
            &["a:1"],
            &[false],
            false,
            Err("(must be forced) - image is being used by stopped container"),
        );
        check("", &["a:1"], &[false], true, Ok((&["a:1"], true)));
    }
}
