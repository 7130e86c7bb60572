//! The parser's events → values: collections that are open, anchors, merge keys and what all of it
//! may cost.

use std::collections::HashMap;

use granit_parser::{Event, ScalarStyle, Tag};

use super::tag::{self, Tagged};
use super::{DEPTH_MAX, YamlError};
use crate::report::At;
use crate::scalar::Resolved;
use crate::tree::{Form, Key, MergeTag, Node, Scalar, Value, shown};

/// What the tree of one file may cost in bytes, aliases expanded; stops "billion laughs".
const TREE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a value costs beside its text.
const NODE_BYTES: usize = 96;

/// A collection whose end has not been seen.
struct Open {
    at: At,
    anchor: usize,
    merge: Option<MergeTag>,
    content: OpenContent,
}

enum OpenContent {
    List(Vec<Node>),
    Map {
        entries: Vec<(Key, Node)>,
        lines: HashMap<String, u32>,
        key: Option<PendingKey>,
        /// Values of `<<`, in order.
        merged: Vec<Node>,
    },
}

struct PendingKey {
    key: Key,
    is_merge: bool,
}

/// A finished value that aliases may repeat, and what repeating it costs.
struct Anchored {
    node: Node,
    bytes: usize,
    depth: usize,
}

pub(super) struct Builder {
    source: u32,
    pub root: Option<Node>,
    pub second_document: Option<At>,
    pub unknown_tags: Vec<(At, String)>,
    documents: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    bytes: usize,
}

impl Builder {
    pub fn new(source: u32) -> Self {
        Self {
            source,
            root: None,
            second_document: None,
            unknown_tags: Vec::new(),
            documents: 0,
            open: Vec::new(),
            anchors: HashMap::new(),
            bytes: 0,
        }
    }

    /// The parser counts columns from 0.
    pub fn at(&self, line: usize, column: usize) -> At {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        At {
            source: self.source,
            line: small(line),
            column: small(column.saturating_add(1)),
        }
    }

    pub fn error(&self, at: At, message: impl Into<String>) -> YamlError {
        YamlError {
            at,
            message: message.into(),
            hint: None,
        }
    }

    /// Whether no document has begun.
    pub fn is_first(&self) -> bool {
        self.documents == 0
    }

    /// Takes one event; false when nothing more is wanted.
    pub fn take(&mut self, event: Event<'_>, at: At) -> Result<bool, YamlError> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.second_document = Some(at);
                    return Ok(false);
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text.into_owned(), style, anchor, tag.as_deref(), at)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                let merge = self.collection_tag(tag.as_deref(), at);
                self.open(at, anchor, merge, OpenContent::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                let merge = self.collection_tag(tag.as_deref(), at);
                let content = OpenContent::Map {
                    entries: Vec::new(),
                    lines: HashMap::new(),
                    key: None,
                    merged: Vec::new(),
                };
                self.open(at, anchor, merge, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(at)?,
            Event::Alias(id) => self.alias(id, at)?,
            _ => {}
        }
        Ok(true)
    }

    fn scalar(
        &mut self,
        text: String,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: At,
    ) -> Result<(), YamlError> {
        let form = match style {
            ScalarStyle::Plain => Form::Plain,
            _ => Form::Text,
        };
        let mut scalar = Scalar { text, form };
        let mut merge = None;
        if let Some(tag) = tag {
            let tagged = tag::scalar(tag, &mut scalar);
            merge = self.merge_of(tagged.map_err(|wrong| self.error(at, wrong))?, tag, at);
        }
        if matches!(scalar.resolve(), Resolved::Float(number) if !number.is_finite())
            && !self.wants_key()
        {
            return Err(YamlError {
                at,
                message: format!("unsupported value: {}", shown(&scalar.text)),
                hint: Some(format!("put it in quotes: \"{}\"", shown(&scalar.text))),
            });
        }
        let is_merge_key = scalar.text == "<<" && scalar.form == Form::Plain;
        let bytes = NODE_BYTES + scalar.text.len();
        let node = Node {
            at,
            value: Value::Scalar(scalar),
            merge,
        };
        self.spend(bytes, at)?;
        if anchor != 0 {
            self.keep(anchor, &node, at)?;
        }
        self.place(node, is_merge_key)
    }

    /// How a tag steers the merge of files; one that means nothing is written down.
    fn merge_of(&mut self, tagged: Tagged, tag: &Tag, at: At) -> Option<MergeTag> {
        match tagged {
            Tagged::Merge(merge) => return Some(merge),
            Tagged::Type => {}
            Tagged::Unknown => self.unknown_tags.push((at, tag.original())),
        }
        None
    }

    fn collection_tag(&mut self, tag: Option<&Tag>, at: At) -> Option<MergeTag> {
        self.merge_of(tag::collection(tag?), tag?, at)
    }

    /// Whether the next value is the key of a mapping.
    fn wants_key(&self) -> bool {
        let content = self.open.last().map(|open| &open.content);
        matches!(content, Some(OpenContent::Map { key: None, .. }))
    }

    fn open(
        &mut self,
        at: At,
        anchor: usize,
        merge: Option<MergeTag>,
        content: OpenContent,
    ) -> Result<(), YamlError> {
        self.spend(NODE_BYTES, at)?;
        if self.open.len() >= DEPTH_MAX {
            return Err(self.too_deep(at));
        }
        // A collection as a key is refused here, before its content is read.
        if self.wants_key() {
            return Err(self.error(at, "yaml: invalid map key: a key must be a string"));
        }
        self.open.push(Open {
            at,
            anchor,
            merge,
            content,
        });
        Ok(())
    }

    fn close(&mut self, at: At) -> Result<(), YamlError> {
        let Some(open) = self.open.pop() else {
            return Err(self.error(at, "yaml: a collection ends that never began"));
        };
        let value = match open.content {
            OpenContent::List(items) => Value::List(items),
            OpenContent::Map {
                mut entries,
                lines,
                merged,
                ..
            } => {
                self.apply_merge_keys(&mut entries, &lines, merged)?;
                Value::Map(entries)
            }
        };
        let node = Node {
            at: open.at,
            value,
            merge: open.merge,
        };
        if open.anchor != 0 {
            self.keep(open.anchor, &node, open.at)?;
        }
        self.place(node, false)
    }

    /// Keeps a copy for aliases, which costs what the value does: anchors in anchors copy it each.
    fn keep(&mut self, anchor: usize, node: &Node, at: At) -> Result<(), YamlError> {
        let (bytes, depth) = cost(node);
        self.spend(bytes, at)?;
        let node = node.clone();
        self.anchors.insert(anchor, Anchored { node, bytes, depth });
        Ok(())
    }

    fn alias(&mut self, id: usize, at: At) -> Result<(), YamlError> {
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(self.error(at, "yaml: anchor value contains itself"));
        };
        let (bytes, depth) = (anchored.bytes, anchored.depth);
        self.spend(bytes, at)?;
        if self.open.len() + depth > DEPTH_MAX {
            return Err(self.too_deep(at));
        }
        match self.anchors.get(&id).map(|anchored| anchored.node.clone()) {
            Some(node) => self.place(node, false),
            None => Ok(()),
        }
    }

    /// Puts a finished value where it belongs: root, list item, key or value.
    fn place(&mut self, node: Node, is_merge_key: bool) -> Result<(), YamlError> {
        let source = self.source;
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.content {
            OpenContent::List(items) => items.push(node),
            OpenContent::Map {
                entries,
                lines,
                key,
                merged,
            } => match key.take() {
                None => {
                    let Value::Scalar(scalar) = node.value else {
                        return Err(YamlError {
                            at: node.at,
                            message: "yaml: invalid map key: a key must be a string".to_owned(),
                            hint: None,
                        });
                    };
                    if let Some(line) = lines.insert(scalar.text.clone(), node.at.line) {
                        return Err(YamlError {
                            at: At { source, ..node.at },
                            message: format!(
                                "mapping key {:?} already defined at line {line}",
                                scalar.text
                            ),
                            hint: None,
                        });
                    }
                    *key = Some(PendingKey {
                        key: Key {
                            at: node.at,
                            text: scalar.text,
                        },
                        is_merge: is_merge_key,
                    });
                }
                Some(PendingKey { is_merge: true, .. }) => merged.push(node),
                Some(PendingKey { key, .. }) => entries.push((key, node)),
            },
        }
        Ok(())
    }

    /// Adds what `<<` brings: own keys win, then the mapping named first.
    fn apply_merge_keys(
        &self,
        entries: &mut Vec<(Key, Node)>,
        own: &HashMap<String, u32>,
        merged: Vec<Node>,
    ) -> Result<(), YamlError> {
        let mut taken: std::collections::HashSet<String> = own.keys().cloned().collect();
        let mut maps = Vec::new();
        for node in merged {
            match node.value {
                Value::Map(map) => maps.push(map),
                Value::List(items) => {
                    for item in items {
                        match item.value {
                            Value::Map(map) => maps.push(map),
                            _ => return Err(self.no_merge(item.at)),
                        }
                    }
                }
                Value::Scalar(_) => return Err(self.no_merge(node.at)),
            }
        }
        for (key, node) in maps.into_iter().flatten() {
            if taken.insert(key.text.clone()) {
                entries.push((key, node));
            }
        }
        Ok(())
    }

    fn no_merge(&self, at: At) -> YamlError {
        self.error(
            at,
            "yaml: map merge requires map or sequence of maps as the value",
        )
    }

    fn too_deep(&self, at: At) -> YamlError {
        self.error(
            at,
            format!("values are nested more than {DEPTH_MAX} deep, aliases included"),
        )
    }

    fn spend(&mut self, bytes: usize, at: At) -> Result<(), YamlError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > TREE_BYTES_MAX {
            return Err(self.error(at, "document contains excessive aliasing"));
        }
        Ok(())
    }
}

/// Bytes and depth of a finished value.
fn cost(node: &Node) -> (usize, usize) {
    let inner = |nodes: &mut dyn Iterator<Item = &Node>, keys: usize| {
        let (mut bytes, mut depth) = (NODE_BYTES + keys, 0);
        for one in nodes {
            let (more, below) = cost(one);
            bytes = bytes.saturating_add(more);
            depth = depth.max(below);
        }
        (bytes, depth + 1)
    };
    match &node.value {
        Value::Scalar(scalar) => (NODE_BYTES + scalar.text.len(), 0),
        Value::List(items) => inner(&mut items.iter(), 0),
        Value::Map(entries) => {
            let keys = entries.iter().map(|(key, _)| NODE_BYTES + key.text.len());
            inner(&mut entries.iter().map(|(_, node)| node), keys.sum())
        }
    }
}
