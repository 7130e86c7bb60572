//! All containers of this host, by id and by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Container;
use crate::error::{EngineError, Result};
use crate::image::Digest;
use crate::locks::{Held, Ordered, Rank};

/// See the module. Names are reserved before a container exists under them.
#[derive(Debug)]
pub(crate) struct ContainerIndex {
    inner: Ordered<Inner>,
}

impl Default for ContainerIndex {
    fn default() -> Self {
        Self {
            inner: Ordered::new(Rank::Containers, Inner::default()),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    containers: BTreeMap<String, Arc<Container>>,
    /// Name → id.
    names: BTreeMap<String, String>,
}

impl ContainerIndex {
    fn lock(&self) -> Held<'_, Inner> {
        self.inner.lock()
    }

    /// Takes a name for an id.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<()> {
        let mut inner = self.lock();
        match inner.names.get(name) {
            Some(owner) if owner != id => Err(EngineError::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or rename) that container to be able to reuse that name."
            ))),
            _ => {
                inner.names.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    /// Gives a name back, if it is this id's.
    pub(crate) fn release(&self, name: &str, id: &str) {
        let mut inner = self.lock();
        if inner.names.get(name).is_some_and(|owner| owner == id) {
            inner.names.remove(name);
        }
    }

    pub(crate) fn insert(&self, container: Arc<Container>) {
        self.lock()
            .containers
            .insert(container.id.clone(), container);
    }

    pub(crate) fn remove(&self, id: &str) {
        let mut inner = self.lock();
        inner.containers.remove(id);
        inner.names.retain(|_, owner| owner != id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.lock().containers.values().cloned().collect()
    }

    /// Finds a container by id, by name (with or without `/`), or by a prefix of
    /// its id that only it has.
    pub(crate) fn find(&self, given: &str) -> Result<Arc<Container>> {
        let inner = self.lock();
        if let Some(container) = inner.containers.get(given) {
            return Ok(Arc::clone(container));
        }
        let name = given.strip_prefix('/').unwrap_or(given);
        if let Some(container) = inner
            .names
            .get(name)
            .and_then(|id| inner.containers.get(id))
        {
            return Ok(Arc::clone(container));
        }
        if given.is_empty() {
            return Err(EngineError::no_such_container(given));
        }
        let mut found = inner
            .containers
            .range(given.to_owned()..)
            .take_while(|(id, _)| id.starts_with(given));
        match (found.next(), found.next()) {
            (Some((_, container)), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => Err(EngineError::not_found(format!(
                "Multiple IDs found with provided prefix: {given}"
            ))),
            (None, _) => Err(EngineError::no_such_container(given)),
        }
    }

    /// All layers that containers stand on.
    pub(crate) fn chains_in_use(&self) -> BTreeSet<Digest> {
        let mut chains = BTreeSet::new();
        for container in self.all() {
            let inner = container.lock();
            chains.extend(inner.record.chain.iter().cloned());
        }
        chains
    }

    /// The containers made of an image.
    pub(crate) fn users_of(&self, image: &Digest) -> Vec<crate::image::User> {
        self.all()
            .iter()
            .filter_map(|container| {
                let inner = container.lock();
                (inner.record.image_id == *image).then(|| crate::image::User {
                    id: container.id.clone(),
                    running: inner.record.state.status.is_running(),
                })
            })
            .collect()
    }
}
