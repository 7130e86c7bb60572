//! The engine's image calls that look: list, inspect, history.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reference::Reference;
use super::store::Image;
use crate::clock;
use crate::engine::Engine;
use crate::error::Result;
use crate::filters::Filters;
use crate::types::{DriverData, HistoryItem, ImageInspect, ImageMetadata, ImageSummary, RootFs};

impl Engine {
    /// All images that pass the filters, newest first. `all` shows intermediate
    /// images as well: those without a name that others were made on.
    pub async fn image_list(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>> {
        filters.accept(&[
            "before",
            "dangling",
            "label",
            "label!",
            "reference",
            "since",
            "until",
        ])?;
        let dangling = filters.flag("dangling")?;
        let mut before = None;
        for name in filters.values("before") {
            before = Some(self.images.find(name)?.config.created);
        }
        let mut since = None;
        for name in filters.values("since") {
            since = Some(self.images.find(name)?.config.created);
        }
        for text in filters.values("until") {
            before = Some(clock::parse_moment(text, clock::now())?);
        }
        let mut list = Vec::new();
        for image in self.images.all() {
            let created = image.config.created;
            if before.is_some_and(|before| created >= before)
                || since.is_some_and(|since| created <= since)
                || !filters.labels(&image.config.config.labels)
            {
                continue;
            }
            let (mut tags, mut digests, _) = self.images.names_of(image.id());
            let bare = tags.is_empty() && digests.is_empty();
            if dangling.is_some_and(|wanted| wanted != bare)
                || (bare && !all && self.images.has_children(image.id()))
            {
                continue;
            }
            if filters.has("reference") {
                tags.retain(|name| filters.any("reference", |pattern| name_matches(pattern, name)));
                digests
                    .retain(|name| filters.any("reference", |pattern| name_matches(pattern, name)));
                if tags.is_empty() && digests.is_empty() {
                    continue;
                }
            }
            list.push(summary(&image, &tags, &digests));
        }
        list.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(list)
    }

    /// One image.
    pub async fn image_inspect(&self, name: &str) -> Result<ImageInspect> {
        let image = self.images.find(name)?;
        let (tags, digests, last) = self.images.names_of(image.id());
        let config = &image.config;
        let upper = image
            .chain
            .last()
            .map(|chain| self.images.layers.files(chain));
        let lower: Vec<String> = image
            .chain
            .iter()
            .rev()
            .skip(1)
            .map(|chain| self.images.layers.files(chain).display().to_string())
            .collect();
        let mut data = BTreeMap::new();
        if let Some(upper) = upper {
            data.insert("UpperDir".to_owned(), upper.display().to_string());
            // Where dockerd would mount it; images are never mounted here.
            for (key, name) in [("MergedDir", "merged"), ("WorkDir", "work")] {
                let path = upper.with_file_name(name);
                data.insert(key.to_owned(), path.display().to_string());
            }
        }
        if !lower.is_empty() {
            data.insert("LowerDir".to_owned(), lower.join(":"));
        }
        Ok(ImageInspect {
            id: image.id().to_string(),
            repo_tags: familiar(&tags),
            repo_digests: familiar(&digests),
            parent: image
                .record
                .parent
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            comment: match config.comment.as_str() {
                "" => config
                    .history
                    .last()
                    .map(|last| last.comment.clone())
                    .unwrap_or_default(),
                comment => comment.into(),
            },
            created: config.created,
            docker_version: config.docker_version.clone(),
            author: config.author.clone(),
            config: config.config.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            os: config.os.clone(),
            os_version: config.os_version.clone(),
            size: size(&image),
            graph_driver: DriverData {
                name: "overlay2".into(),
                data: Some(data),
            },
            root_fs: RootFs {
                kind: "layers".into(),
                layers: config
                    .rootfs
                    .diff_ids
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            },
            metadata: ImageMetadata {
                last_tag_time: last,
            },
        })
    }

    /// How an image came to be, newest step first.
    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryItem>> {
        let image = self.images.find(name)?;
        let mut sizes = Vec::new();
        for chain in &image.chain {
            sizes.push(self.images.layers.get(chain)?.map_or(0, |layer| layer.size));
        }
        let mut sizes = sizes.into_iter();
        let mut items: Vec<HistoryItem> = image
            .config
            .history
            .iter()
            .map(|step| HistoryItem {
                id: "<missing>".into(),
                created: step.created.0.div_euclid(1_000_000_000),
                created_by: step.created_by.clone(),
                tags: None,
                size: match step.empty_layer {
                    true => 0,
                    false => sizes.next().map_or(0, |size| size as i64),
                },
                comment: step.comment.clone(),
            })
            .collect();
        items.reverse();
        // An image need not say its history.
        if items.is_empty() {
            items.push(HistoryItem {
                created: image.config.created.0.div_euclid(1_000_000_000),
                size: size(&image),
                ..HistoryItem::default()
            });
        }
        // Steps that were made here have images of their own.
        let total = items.len();
        let mut next = Some(Arc::clone(&image));
        for (index, item) in items.iter_mut().enumerate() {
            let Some(image) = next.take() else { break };
            if index > 0 && image.config.history.len() != total - index {
                break;
            }
            let (tags, _, _) = self.images.names_of(image.id());
            item.id = image.id().to_string();
            item.tags = (!tags.is_empty()).then(|| familiar(&tags));
            let parent = image.record.parent.as_ref();
            next = parent.and_then(|parent| self.images.get(parent));
        }
        Ok(items)
    }
}

fn size(image: &Image) -> i64 {
    i64::try_from(image.record.size).unwrap_or(i64::MAX)
}

fn familiar(names: &[Reference]) -> Vec<String> {
    names.iter().map(Reference::familiar).collect()
}

fn summary(image: &Arc<Image>, tags: &[Reference], digests: &[Reference]) -> ImageSummary {
    let labels = &image.config.config.labels;
    ImageSummary {
        id: image.id().to_string(),
        parent_id: image
            .record
            .parent
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        repo_tags: familiar(tags),
        repo_digests: familiar(digests),
        created: image.config.created.0.div_euclid(1_000_000_000),
        size: size(image),
        shared_size: -1,
        labels: (!labels.is_empty()).then(|| labels.clone()),
        containers: -1,
    }
}

/// Whether a pattern such as `busy*` or `*/app:v?` fits a name as people write
/// it, with or without its tag.
fn name_matches(pattern: &str, name: &Reference) -> bool {
    glob(pattern, &name.familiar()) || glob(pattern, &name.familiar_name())
}

/// Shell patterns where `*` and `?` do not cross a slash.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    glob_at(&pattern, &text)
}

fn glob_at(pattern: &[char], text: &[char]) -> bool {
    // Where to go on when the latest `*` has to take one more character.
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                back = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') if text[t] != '/' => Some(1),
            Some('[') => class(&pattern[p..], text[t]),
            Some('\\') if pattern.get(p + 1) == Some(&text[t]) => Some(2),
            Some(literal) if *literal == text[t] => Some(1),
            _ => None,
        };
        match (step, back) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((star, at))) if text[at] != '/' => {
                back = Some((star, at + 1));
                p = star + 1;
                t = at + 1;
            }
            _ => return false,
        }
    }
    pattern[p..].iter().all(|left| *left == '*')
}

/// Length of the class `[a-c]` or `[^x]` at the front if it takes the character.
fn class(pattern: &[char], character: char) -> Option<usize> {
    let end = pattern.iter().skip(2).position(|c| *c == ']')? + 2;
    let negated = pattern[1] == '^';
    let inside = &pattern[if negated { 2 } else { 1 }..end];
    let mut found = false;
    let mut at = 0;
    while at < inside.len() {
        if inside.get(at + 1) == Some(&'-') && at + 2 < inside.len() {
            found |= (inside[at]..=inside[at + 2]).contains(&character);
            at += 3;
        } else {
            found |= inside[at] == character;
            at += 1;
        }
    }
    (found != negated && character != '/').then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stop_at_slashes() {
        for (pattern, text, expected) in [
            ("busy*", "busybox", true),
            ("busy*", "busybox:latest", true),
            ("*", "a/b", false),
            ("*/*", "a/b:c", true),
            ("b?x", "box", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("x\\*", "x*", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
