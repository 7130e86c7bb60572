//! YAML as the JSON it stands for. Vendors' tools write plain files: anchors and tags are
//! refused, which bounds what a file can become.

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Deepest nesting.
const DEPTH_MAX: usize = 32;

/// A collection whose end has not been seen, with the key that waits for its value.
enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// Reads the first document of a text.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut open: Vec<Open> = Vec::new();
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) =
            next.map_err(|error| format!("line {}: {}", error.marker().line(), error.info()))?;
        let at = |why: &str| format!("line {}: {why}", span.start.line());
        let finished = match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => return Err(at("tags are not supported")),
            Event::Alias(_) => return Err(at("aliases are not supported")),
            Event::Scalar(text, style, ..) => match (open.last_mut(), style) {
                (Some(Open::Map(_, key @ None)), _) => {
                    *key = Some(text.into_owned());
                    continue;
                }
                (_, ScalarStyle::Plain) => plain(&text),
                _ => Value::String(text.into_owned()),
            },
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if let Some(Open::Map(_, None)) = open.last() {
                    return Err(at("a key must be a text"));
                }
                open.push(match event {
                    Event::SequenceStart(..) => Open::List(Vec::new()),
                    _ => Open::Map(Map::new(), None),
                });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::Array(items),
                Some(Open::Map(entries, _)) => Value::Object(entries),
                None => return Err(at("a collection ends that never began")),
            },
            _ => continue,
        };
        match open.last_mut() {
            None => return Ok(finished),
            Some(Open::List(items)) => items.push(finished),
            Some(Open::Map(entries, key)) => {
                let key = key.take().unwrap_or_default();
                if entries.contains_key(&key) {
                    return Err(at(&format!("the key {key:?} is there twice")));
                }
                entries.insert(key, finished);
            }
        }
    }
    Ok(Value::Null)
}

/// What a scalar without quotes is.
fn plain(text: &str) -> Value {
    let radix = |prefix: &str, radix| {
        let digits = text.strip_prefix(prefix)?;
        u64::from_str_radix(digits, radix).ok()
    };
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    // A leading zero is octal to the tools that write these files.
    let number = radix("0o", 8)
        .or_else(|| radix("0x", 16))
        .or_else(|| radix("0", 8));
    if let Some(number) = number {
        return number.into();
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(number) = text.parse::<i64>()
    {
        return number.into();
    }
    Value::String(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_files_are_the_json_they_stand_for() {
        let text = "a: 1\nb: [x, \"2\", true, ~]\nc:\n- d: 0660\n  e: 'it''s'\n- f: {}\ng: 0.6.0\nh: -1\ni: 0\n# remark\n";
        assert_eq!(
            parse(text).unwrap(),
            json!({"a": 1, "b": ["x", "2", true, null], "c": [{"d": 0o660, "e": "it's"}, {"f": {}}],
                "g": "0.6.0", "h": -1, "i": 0})
        );
        assert_eq!(parse("").unwrap(), Value::Null);
        assert_eq!(parse("{\"a\": [1]}").unwrap(), json!({"a": [1]}));
    }

    #[test]
    fn what_is_not_plain_is_refused_with_its_line() {
        for (text, why) in [
            ("a: &x 1\nb: *x", "aliases are not supported"),
            ("a: !!str 1", "tags are not supported"),
            ("a: 1\na: 2", "line 2: the key \"a\" is there twice"),
            ("? [a]\n: b", "a key must be a text"),
            ("a: [", "line"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(parse(&"[".repeat(1000)).is_err());
    }
}
