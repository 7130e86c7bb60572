//! YAML text → tree: anchors, aliases and merge keys are resolved, duplicate keys refused.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Tag};

use crate::report::At;
use crate::tree::{Form, Key, MergeTag, Node, Scalar, Value};

/// Largest file that is read. Real files are a thousandth of this.
const SOURCE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What the tree of one file may cost in bytes, aliases expanded; stops "billion laughs".
const TREE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a value costs beside its text.
const NODE_BYTES: usize = 96;
/// Deepest nesting, aliases expanded. Keeps recursion over the tree harmless.
const DEPTH_MAX: usize = 64;

/// Why text is no tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct YamlError {
    pub at: At,
    pub message: String,
    pub hint: Option<String>,
}

/// One file as a tree.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// Nothing for an empty file.
    pub root: Option<Node>,
    /// Where a second document begins, which nobody reads.
    pub second_document: Option<At>,
}

/// Reads the first document of `text`, which is source number `source`.
pub(crate) fn parse(text: &str, source: u32) -> Result<Parsed, YamlError> {
    if text.len() > SOURCE_BYTES_MAX {
        return Err(YamlError {
            at: At {
                source,
                line: 0,
                column: 0,
            },
            message: format!(
                "the file has {} bytes; at most {SOURCE_BYTES_MAX} are read",
                text.len()
            ),
            hint: None,
        });
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut builder = Builder::new(source);
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| {
            let mark = error.marker();
            builder.error(
                builder.at(mark.line(), mark.col()),
                format!("yaml: {}", error.info()),
            )
        })?;
        let at = builder.at(span.start.line(), span.start.col());
        if !builder.take(event, at)? {
            break;
        }
    }
    Ok(Parsed {
        root: builder.root,
        second_document: builder.second_document,
    })
}

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

struct Builder {
    source: u32,
    root: Option<Node>,
    second_document: Option<At>,
    documents: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    bytes: usize,
}

impl Builder {
    fn new(source: u32) -> Self {
        Self {
            source,
            root: None,
            second_document: None,
            documents: 0,
            open: Vec::new(),
            anchors: HashMap::new(),
            bytes: 0,
        }
    }

    /// The parser counts columns from 0.
    fn at(&self, line: usize, column: usize) -> At {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        At {
            source: self.source,
            line: small(line),
            column: small(column.saturating_add(1)),
        }
    }

    fn error(&self, at: At, message: impl Into<String>) -> YamlError {
        YamlError {
            at,
            message: message.into(),
            hint: None,
        }
    }

    /// Takes one event; false when nothing more is wanted.
    fn take(&mut self, event: Event<'_>, at: At) -> Result<bool, YamlError> {
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
                let merge = self.collection_tag(tag.as_deref(), "seq", at)?;
                self.open(at, anchor, merge, OpenContent::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                let merge = self.collection_tag(tag.as_deref(), "map", at)?;
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
        let mut form = match style {
            ScalarStyle::Plain => Form::Plain,
            _ => Form::Text,
        };
        let mut merge = None;
        if let Some(tag) = tag {
            match tag.core_suffix() {
                Some("str") => form = Form::Text,
                Some("int" | "float" | "bool" | "null") => form = Form::Plain,
                _ => merge = self.merge_tag(tag, at)?,
            }
        }
        let is_merge_key = text == "<<" && form == Form::Plain;
        let scalar = Scalar { text, form };
        let bytes = NODE_BYTES + scalar.text.len();
        let node = Node {
            at,
            value: Value::Scalar(scalar),
            merge,
        };
        self.spend(bytes, at)?;
        if anchor != 0 {
            let node = node.clone();
            self.anchors.insert(
                anchor,
                Anchored {
                    node,
                    bytes,
                    depth: 0,
                },
            );
        }
        self.place(node, is_merge_key)
    }

    fn collection_tag(
        &self,
        tag: Option<&Tag>,
        own: &str,
        at: At,
    ) -> Result<Option<MergeTag>, YamlError> {
        match tag {
            None => Ok(None),
            Some(tag) if tag.core_suffix() == Some(own) => Ok(None),
            Some(tag) => self.merge_tag(tag, at),
        }
    }

    fn merge_tag(&self, tag: &Tag, at: At) -> Result<Option<MergeTag>, YamlError> {
        match tag.original().as_str() {
            "!reset" => Ok(Some(MergeTag::Reset)),
            "!override" => Ok(Some(MergeTag::Override)),
            "!" => Ok(None),
            other => Err(YamlError {
                at,
                message: format!("the tag `{other}` is not known"),
                hint: Some(
                    "tags known here: !reset, !override, !!str, !!int, !!float, !!bool, !!null"
                        .to_owned(),
                ),
            }),
        }
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
        if let Some(Open {
            content: OpenContent::Map { key: None, .. },
            ..
        }) = self.open.last()
        {
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
            let (bytes, depth) = cost(&node);
            let node = node.clone();
            self.anchors
                .insert(open.anchor, Anchored { node, bytes, depth });
        }
        self.place(node, false)
    }

    fn alias(&mut self, id: usize, at: At) -> Result<(), YamlError> {
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(self.error(at, "yaml: anchor value contains itself"));
        };
        let (bytes, depth, node) = (anchored.bytes, anchored.depth, anchored.node.clone());
        self.spend(bytes, at)?;
        if self.open.len() + depth > DEPTH_MAX {
            return Err(self.too_deep(at));
        }
        self.place(node, false)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Node {
        parse(text, 0).unwrap().root.unwrap()
    }

    fn refused(text: &str) -> (u32, u32, String) {
        let error = parse(text, 0).unwrap_err();
        (error.at.line, error.at.column, error.message)
    }

    #[test]
    fn every_value_knows_its_place() {
        let tree = root("a:\n  b: [x, 'y']\n");
        let list = tree.get("a").unwrap().get("b").unwrap();
        assert_eq!((list.at.line, list.at.column), (2, 6));
        let Value::List(items) = &list.value else {
            panic!("not a list: {list:?}")
        };
        let places: Vec<_> = items.iter().map(|i| (i.at.line, i.at.column)).collect();
        assert_eq!(places, [(2, 7), (2, 10)]);
        let Value::Map(entries) = &tree.value else {
            panic!("not a mapping")
        };
        assert_eq!((entries[0].0.at.line, entries[0].0.at.column), (1, 1));
    }

    #[test]
    fn merge_keys_give_way_to_own_keys_and_to_earlier_mappings() {
        let tree = root("x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  <<: [*x, *y]\n  a: 0\n");
        let z = tree.get("z").unwrap();
        let text = |key: &str| match &z.get(key).unwrap().value {
            Value::Scalar(scalar) => scalar.text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (text("a"), text("b"), text("c")),
            ("0".into(), "1".into(), "2".into())
        );
    }

    #[test]
    fn broken_files_are_refused_with_their_place() {
        let (line, column, message) = refused("a: 1\nb: 2\na: 3\n");
        assert_eq!((line, column), (3, 1));
        assert_eq!(message, "mapping key \"a\" already defined at line 1");
        let (line, _, message) = refused("services:\n  a:\n   image: q\n  - z\n");
        assert!(
            line >= 4 && message.starts_with("yaml: "),
            "{line} {message}"
        );
        assert_eq!(
            refused("a: &a [*a]\n").2,
            "yaml: anchor value contains itself"
        );
        assert!(refused("a: *nobody\n").2.starts_with("yaml: "));
        assert!(refused("[a]: b\n").2.contains("invalid map key"));
        assert!(refused("a: !foo b\n").2.contains("`!foo` is not known"));
        assert!(
            refused("a:\n  <<: 5\n")
                .2
                .contains("map merge requires map")
        );
    }

    #[test]
    fn bombs_do_not_go_off() {
        let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for i in 1..12 {
            let one = format!("*a{}", i - 1);
            laughs += &format!("a{i}: &a{i} [{}]\n", [one.as_str(); 9].join(", "));
        }
        assert_eq!(refused(&laughs).2, "document contains excessive aliasing");
        let mut wide = String::from("a: &a \"");
        wide += &"x".repeat(100_000);
        wide += "\"\nb: [";
        wide += &"*a, ".repeat(10_000);
        wide += "]\n";
        assert_eq!(refused(&wide).2, "document contains excessive aliasing");
        assert!(parse(&"[".repeat(100_000), 0).is_err());
        assert!(parse(&"- ".repeat(100_000), 0).is_err());
        let mut deep = String::from("a0: &a0 [[[[[[[[[[x]]]]]]]]]]\n");
        for i in 1..20 {
            deep += &format!("a{i}: &a{i} [[[[[[[[[[*a{}]]]]]]]]]]\n", i - 1);
        }
        assert!(refused(&deep).2.contains("deep"));
        assert!(parse(&"x".repeat(SOURCE_BYTES_MAX + 1), 0).is_err());
    }

    #[test]
    fn only_the_first_document_counts() {
        let parsed = parse("a: 1\n---\nb: 2\n", 0).unwrap();
        assert!(parsed.root.unwrap().get("b").is_none());
        assert_eq!(parsed.second_document.unwrap().line, 2);
        assert!(parse("", 0).unwrap().root.is_none());
    }
}
