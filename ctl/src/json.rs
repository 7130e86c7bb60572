//! JSON as the daemon sent it: fields keep their order, text is only re-indented.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// A JSON value whose objects keep the order of their fields.
#[derive(Debug, Clone, Default)]
pub enum Json {
    #[default]
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Reads JSON text.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// The shape that `value` serializes to.
    pub fn of(value: &impl serde::Serialize) -> Self {
        serde_json::to_vec(value)
            .and_then(|text| serde_json::from_slice(&text))
            .unwrap_or_default()
    }

    /// A field of an object.
    pub fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Self::Object(fields) => fields
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The value at `Config.Image`; `Null` when there is none.
    pub fn at(&self, path: &str) -> &Json {
        path.split('.')
            .filter(|name| !name.is_empty())
            .fold(self, |value, name| value.get(name).unwrap_or(&Json::Null))
    }

    /// The text at a path, or an empty one.
    pub fn str(&self, path: &str) -> &str {
        match self.at(path) {
            Self::Text(text) => text,
            _ => "",
        }
    }

    pub fn int(&self, path: &str) -> i64 {
        match self.at(path) {
            Self::Number(number) => number
                .as_i64()
                .or_else(|| number.as_f64().map(|number| number as i64))
                .unwrap_or(0),
            _ => 0,
        }
    }

    pub fn float(&self, path: &str) -> f64 {
        match self.at(path) {
            Self::Number(number) => number.as_f64().unwrap_or(0.0),
            _ => 0.0,
        }
    }

    pub fn bool(&self, path: &str) -> bool {
        matches!(self.at(path), Self::Bool(true))
    }

    pub fn list(&self, path: &str) -> &[Json] {
        match self.at(path) {
            Self::List(values) => values,
            _ => &[],
        }
    }

    /// The texts of a list.
    pub fn texts(&self, path: &str) -> Vec<&str> {
        self.list(path).iter().map(|value| value.str("")).collect()
    }

    pub fn fields(&self, path: &str) -> &[(String, Json)] {
        match self.at(path) {
            Self::Object(fields) => fields,
            _ => &[],
        }
    }

    /// Fields of a map with text values, by name.
    pub fn text_map(&self, path: &str) -> std::collections::BTreeMap<String, String> {
        self.fields(path)
            .iter()
            .map(|(name, value)| (name.clone(), value.str("").to_owned()))
            .collect()
    }

    /// Without spaces. `html`: `<`, `>` and `&` as `\u003c` and so on, as Go prints by default.
    pub fn compact(&self, html: bool) -> String {
        let mut text = String::new();
        self.write(&mut text, html);
        text
    }

    fn write(&self, out: &mut String, html: bool) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => out.push_str(&number.to_string()),
            Self::Text(text) => write_text(text, out, html),
            Self::List(values) => {
                out.push('[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    value.write(out, html);
                }
                out.push(']');
            }
            Self::Object(fields) => {
                out.push('{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_text(name, out, html);
                    out.push(':');
                    value.write(out, html);
                }
                out.push('}');
            }
        }
    }
}

fn write_text(text: &str, out: &mut String, html: bool) {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    if !html {
        out.push_str(&quoted);
        return;
    }
    for c in quoted.chars() {
        match c {
            '<' | '>' | '&' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
}

/// The order of fields says nothing: a daemon may tell of the same thing in two orders.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Object(a), Self::Object(_)) => {
                let same = |(name, value): &(String, Self)| other.get(name) == Some(value);
                a.len() == other.fields("").len() && a.iter().all(same)
            }
            _ => false,
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Json {
    fn from(value: i64) -> Self {
        Self::Number(value.into())
    }
}

impl From<u64> for Json {
    fn from(value: u64) -> Self {
        Self::Number(value.into())
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = input.next_element()? {
            values.push(value);
        }
        Ok(Json::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Json, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = input.next_entry()? {
            fields.push(field);
        }
        Ok(Json::Object(fields))
    }
}

/// Compact JSON with line breaks and four spaces a level; everything else stays as it is.
pub fn indent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0usize;
    let mut in_text = false;
    let mut escaped = false;
    // An opening bracket waits: if its closing one follows at once they stay together.
    let mut opened = false;
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"    ".repeat(depth));
    };
    for c in text.chars() {
        if in_text {
            out.push(c);
            if escaped {
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == '"' {
                in_text = false;
            }
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let closing = matches!(c, '}' | ']');
        if opened && !closing {
            depth += 1;
            line(&mut out, depth);
        }
        match c {
            '{' | '[' => {
                opened = true;
                out.push(c);
                continue;
            }
            '}' | ']' => {
                if !opened {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => {
                in_text = c == '"';
                out.push(c);
            }
        }
        opened = false;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indentation_keeps_order_and_text() {
        assert_eq!(
            indent(r#"[{"b":1,"a":[],"c":{ },"d":["x, {y}\"",2.50],"e":null}]"#),
            "[\n    {\n        \"b\": 1,\n        \"a\": [],\n        \"c\": {},\n        \"d\": [\n            \"x, {y}\\\"\",\n            2.50\n        ],\n        \"e\": null\n    }\n]"
        );
        assert_eq!(indent("[]"), "[]");
    }

    #[test]
    fn objects_are_equal_in_any_order() {
        let read = |text: &str| Json::parse(text.as_bytes()).unwrap();
        assert_eq!(
            read(r#"{"a":1,"b":{"c":[2],"d":null}}"#),
            read(r#"{"b":{"d":null,"c":[2]},"a":1}"#)
        );
        for other in [
            r#"{"a":1}"#,
            r#"{"a":1,"b":3}"#,
            r#"{"a":1,"c":2}"#,
            r#"{"a":1,"b":2,"c":3}"#,
        ] {
            assert_ne!(read(r#"{"a":1,"b":2}"#), read(other));
        }
        assert_ne!(read("[1,2]"), read("[2,1]"));
    }

    #[test]
    fn values_keep_order_and_answer_by_path() {
        let json = Json::parse(br#"{"b":{"x":"<y>","n":3},"a":[1,"t"]}"#).unwrap();
        assert_eq!(json.str("b.x"), "<y>");
        assert_eq!(json.int("b.n"), 3);
        assert_eq!(json.str("b.z.q"), "");
        assert_eq!(
            json.compact(false),
            r#"{"b":{"x":"<y>","n":3},"a":[1,"t"]}"#
        );
        assert_eq!(
            json.get("b").unwrap().compact(true),
            r#"{"x":"\u003cy\u003e","n":3}"#
        );
    }
}
