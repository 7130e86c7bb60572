//! Where nodes take the content of a service's image from, by a label of the service:
//! `skep.image-source=peers-first`. Without it each node goes by its daemon's `--image-source`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The label.
pub const IMAGE_SOURCE_LABEL: &str = "skep.image-source";

/// Who is asked for an image, in which order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageSource {
    /// Its registry; the other nodes of the cluster where that does not give it.
    #[default]
    RegistryFirst,
    /// The other nodes; its registry where none has it.
    PeersFirst,
    RegistryOnly,
    PeersOnly,
}

impl ImageSource {
    /// What the labels of a service, or of its task, say; `None` when they say nothing.
    ///
    /// # Errors
    /// The label says something else than it may; the text names it.
    pub fn read(labels: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        labels
            .get(IMAGE_SOURCE_LABEL)
            .map(|given| {
                let read = given.parse();
                read.map_err(|why: String| format!("label {IMAGE_SOURCE_LABEL}: {why}"))
            })
            .transpose()
    }

    /// Whether the registry is ever asked.
    pub const fn asks_registry(self) -> bool {
        !matches!(self, Self::PeersOnly)
    }

    /// Whether other nodes are ever asked.
    pub const fn asks_peers(self) -> bool {
        !matches!(self, Self::RegistryOnly)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::RegistryFirst => "registry-first",
            Self::PeersFirst => "peers-first",
            Self::RegistryOnly => "registry-only",
            Self::PeersOnly => "peers-only",
        }
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ImageSource {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let all = [
            Self::RegistryFirst,
            Self::PeersFirst,
            Self::RegistryOnly,
            Self::PeersOnly,
        ];
        let found = all.into_iter().find(|one| one.name() == given.trim());
        found.ok_or_else(|| {
            format!("`{given}` is not registry-first, peers-first, registry-only or peers-only")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_where_from_and_a_wrong_one_is_named() {
        let labels = |value: &str| BTreeMap::from([(IMAGE_SOURCE_LABEL.into(), value.into())]);
        assert_eq!(ImageSource::read(&BTreeMap::new()), Ok(None));
        for source in [
            ImageSource::RegistryFirst,
            ImageSource::PeersFirst,
            ImageSource::RegistryOnly,
            ImageSource::PeersOnly,
        ] {
            let read = ImageSource::read(&labels(&source.to_string()));
            assert_eq!(read, Ok(Some(source)));
        }
        let wrong = ImageSource::read(&labels("mirror")).unwrap_err();
        assert_eq!(
            wrong,
            "label skep.image-source: `mirror` is not registry-first, peers-first, registry-only or peers-only"
        );
    }
}
