//! YAML text → tree: anchors, aliases and merge keys are resolved, duplicate keys refused.

mod builder;
mod directive;
mod tag;

use granit_parser::{Event, Parser};

use crate::report::At;
use crate::tree::Node;

use builder::Builder;

/// Largest file that is read. Real files are a thousandth of this.
const SOURCE_BYTES_MAX: usize = 8 * 1024 * 1024;
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
    /// Tags that mean nothing here, as written.
    pub unknown_tags: Vec<(At, String)>,
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
        if let (Event::DocumentStart(_, version), true) = (&event, builder.is_first()) {
            directive::check(text, at, *version)?;
        }
        if !builder.take(event, at)? {
            break;
        }
    }
    Ok(Parsed {
        root: builder.root,
        second_document: builder.second_document,
        unknown_tags: builder.unknown_tags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::Resolved;
    use crate::tree::{Scalar, Value};

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
        // Each anchor keeps a copy of the list.
        let nested = |anchors: usize| {
            let mut text = String::from("a: ");
            for at in 0..anchors {
                text += &format!("&n{at} [");
            }
            text += &"x,".repeat(20_000);
            text + &"]".repeat(anchors)
        };
        assert!(parse(&nested(5), 0).is_ok());
        let (.., message) = refused(&nested(62));
        assert_eq!(message, "document contains excessive aliasing");
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

    fn only(text: &str) -> (Scalar, Vec<String>) {
        let parsed = parse(&format!("a: {text}\n"), 0).unwrap();
        let unknown = parsed.unknown_tags.into_iter().map(|(_, tag)| tag);
        match parsed.root.unwrap().get("a").unwrap().value.clone() {
            Value::Scalar(scalar) => (scalar, unknown.collect()),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn tags_say_how_a_scalar_is_read() {
        for (text, wanted, resolved) in [
            ("!!str 5", "5", Resolved::Text),
            ("!!str", "", Resolved::Text),
            ("!!int \"3\"", "3", Resolved::Int(3)),
            ("!!float 1", "1", Resolved::Int(1)),
            ("!!float \"2.50\"", "2.50", Resolved::Float(2.5)),
            ("!!bool \"true\"", "true", Resolved::Bool(true)),
            ("!!null \"\"", "", Resolved::Null),
            ("! 010", "010", Resolved::Int(8)),
            ("!!binary aGVs bG8=", "hello", Resolved::Text),
            ("!!timestamp 2001-12-14", "2001-12-14", Resolved::Text),
            (
                "!!timestamp 2001-1-4t1:59:43.1-05:00",
                "2001-1-4t1:59:43.1-05:00",
                Resolved::Text,
            ),
            ("!<tag:yaml.org,2002:int> \"7\"", "7", Resolved::Int(7)),
        ] {
            let (scalar, unknown) = only(text);
            assert_eq!(
                (scalar.text.as_str(), scalar.resolve()),
                (wanted, resolved),
                "{text}"
            );
            assert!(unknown.is_empty(), "{text}: {unknown:?}");
        }
        for (text, wanted, tag) in [
            ("!mine true", "true", "!mine"),
            ("!!mine null", "null", "!!mine"),
        ] {
            let (scalar, unknown) = only(text);
            assert_eq!(
                (scalar.text.as_str(), scalar.resolve()),
                (wanted, Resolved::Text),
                "{text}"
            );
            assert_eq!(unknown, [tag]);
        }
        for (text, why) in [
            ("!!int abc", "yaml: cannot decode !!str `abc` as a !!int"),
            ("!!int 3.0", "yaml: cannot decode !!float `3.0` as a !!int"),
            (
                "!!float null",
                "yaml: cannot decode !!null `null` as a !!float",
            ),
            ("!!bool yes", "yaml: cannot decode !!str `yes` as a !!bool"),
            (
                "!!timestamp soon",
                "yaml: cannot decode !!str `soon` as a !!timestamp",
            ),
            (
                "!!binary a!",
                "yaml: !!binary value contains invalid base64 data",
            ),
            ("!!binary /w==", "the !!binary value is no UTF-8 text"),
        ] {
            assert_eq!(refused(&format!("a: {text}\n")).2, why, "{text}");
        }
    }

    #[test]
    fn tags_of_collections_change_nothing() {
        let parsed = parse("a: !!set {x, y}\nb: !!seq {x: 1}\nc: !mine [x]\n", 0).unwrap();
        let tags: Vec<&str> = parsed
            .unknown_tags
            .iter()
            .map(|(_, tag)| tag.as_str())
            .collect();
        assert_eq!(tags, ["!mine"]);
        let tree = parsed.root.unwrap();
        assert!(tree.get("a").unwrap().get("x").unwrap().is_null());
        assert!(matches!(tree.get("c").unwrap().value, Value::List(_)));
        let merged = root("x: &x {a: 1}\ny:\n  !!merge <<: *x\n");
        assert!(merged.get("y").unwrap().get("a").is_some());
    }
}
