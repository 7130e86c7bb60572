//! Reading typed values out of the tree, with messages that name path and place.

use crate::context::Context;
use crate::emit::emit;
use crate::fields::Fields;
use crate::out::{Out, scalar_text};
use crate::report::{At, Placed};
use crate::scalar::{Resolved, boolean};
use crate::text::{duration, nearest::nearest};
use crate::tree::{Form, Key, Node, Scalar, Value, shown};
use skep_model::Nanos;

/// Permission bits written without the leading zero; no sensible decimal number is among them.
const DECIMAL_TRAPS: [&str; 13] = [
    "400", "440", "444", "500", "550", "555", "600", "640", "644", "700", "750", "755", "777",
];

/// One value and the path that leads to it.
#[derive(Debug, Clone)]
pub(crate) struct Field<'n> {
    pub path: String,
    /// Where its key stands; for list items the value itself.
    pub key: At,
    pub node: &'n Node,
}

/// One entry of a mapping or list of `NAME=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub at: At,
    pub name: String,
    /// Nothing where no value was written.
    pub value: Option<String>,
}

impl<'n> Field<'n> {
    /// The place of the value; of the key where nothing was written behind it.
    pub fn at(&self) -> At {
        if self.node.is_null() {
            self.key
        } else {
            self.node.at
        }
    }

    /// Reports that the value is of the wrong type.
    pub fn wrong_type(&self, expected: &str, cx: &mut Context<'_>) {
        let message = format!(
            "{} must be a {expected}, found {}",
            self.path,
            self.node.describe()
        );
        let quoted = match &self.node.value {
            Value::Scalar(Scalar {
                text,
                form: Form::Plain,
            }) if expected.contains("string") && !text.is_empty() => {
                Some(format!("put it in quotes: \"{}\"", shown(text)))
            }
            _ => None,
        };
        cx.report.error(self.at(), message, quoted);
    }

    /// Reports what else is wrong with the value, at the value.
    pub fn wrong(&self, what: impl std::fmt::Display, cx: &mut Context<'_>) {
        cx.error(self.at(), format!("{} {what}", self.path));
    }

    /// As [`Self::wrong`], where only a cluster refuses it.
    pub fn unfit(&self, what: impl std::fmt::Display, cx: &mut Context<'_>) {
        cx.unfit(self.at(), format!("{} {what}", self.path), None);
    }

    pub fn scalar(&self) -> Option<&'n Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    pub fn resolved(&self) -> Option<(&'n Scalar, Resolved)> {
        self.scalar().map(|scalar| (scalar, scalar.resolve()))
    }

    pub fn string(&self, cx: &mut Context<'_>) -> Option<String> {
        match self.resolved() {
            Some((scalar, Resolved::Text)) => Some(scalar.text.clone()),
            _ => {
                self.wrong_type("string", cx);
                None
            }
        }
    }

    pub fn placed_string(&self, cx: &mut Context<'_>) -> Option<Placed<String>> {
        let at = self.at();
        self.string(cx).map(|value| Placed { at, value })
    }

    /// Text; a number counts as the text it was written as.
    pub fn string_or_number(&self, cx: &mut Context<'_>) -> Option<String> {
        match self.resolved() {
            Some((_, Resolved::Null | Resolved::Bool(_))) | None => {
                self.wrong_type("string or number", cx);
                None
            }
            Some((scalar, _)) => scalar_text(scalar),
        }
    }

    pub fn boolean(&self, cx: &mut Context<'_>) -> Option<bool> {
        let value = match self.resolved() {
            Some((_, Resolved::Bool(value))) => Some(value),
            Some((scalar, Resolved::Text)) => boolean(&scalar.text),
            _ => None,
        };
        if value.is_none() {
            self.wrong_type("boolean", cx);
        }
        value
    }

    pub fn integer(&self, cx: &mut Context<'_>) -> Option<i64> {
        let value = match self.resolved() {
            Some((_, Resolved::Int(value))) => Some(value),
            Some((_, Resolved::Float(value))) if value.fract() == 0.0 && value.abs() < 9e15 => {
                Some(value as i64)
            }
            Some((scalar, Resolved::Text)) => scalar.text.parse().ok(),
            _ => None,
        };
        if value.is_none() {
            self.wrong_type("integer", cx);
        }
        value
    }

    /// An integer from `least` to `most`.
    pub fn integer_within(&self, least: i64, most: i64, cx: &mut Context<'_>) -> Option<i64> {
        let value = self.integer(cx)?;
        if (least..=most).contains(&value) {
            return Some(value);
        }
        let bound = if most == i64::MAX {
            format!("at least {least}")
        } else {
            format!("from {least} to {most}")
        };
        self.wrong(format!("must be {bound}, found {value}"), cx);
        None
    }

    pub fn unsigned(&self, cx: &mut Context<'_>) -> Option<u64> {
        self.integer_within(0, i64::MAX, cx)
            .and_then(|value| u64::try_from(value).ok())
    }

    pub fn float(&self, cx: &mut Context<'_>) -> Option<f64> {
        let value = match self.resolved() {
            Some((_, Resolved::Int(value))) => Some(value as f64),
            Some((_, Resolved::Uint(value))) => Some(value as f64),
            Some((_, Resolved::Float(value))) => Some(value),
            Some((scalar, Resolved::Text)) => scalar.text.parse().ok(),
            _ => None,
        };
        match value {
            Some(value) if value.is_finite() => Some(value),
            _ => {
                self.wrong_type("number", cx);
                None
            }
        }
    }

    /// Permission bits: `0440` unquoted is octal as in YAML 1.1, quoted or replaced text is
    /// octal too.
    pub fn mode(&self, cx: &mut Context<'_>) -> Option<u32> {
        if let Some((scalar, Resolved::Int(_))) = self.resolved()
            && DECIMAL_TRAPS.contains(&scalar.text.as_str())
        {
            cx.warn_with_hint(
                self.at(),
                format!("{} is the decimal number {}", self.path, scalar.text),
                format!("permission bits are octal: write 0{}", scalar.text),
            );
        }
        let value = match self.resolved() {
            Some((_, Resolved::Int(value))) => u32::try_from(value).ok(),
            Some((scalar, Resolved::Text)) => {
                let digits = scalar.text.strip_prefix("0o").unwrap_or(&scalar.text);
                Some(digits)
                    .filter(|digits| digits.starts_with(|c: char| c.is_ascii_digit()))
                    .and_then(|digits| {
                        // 288 is no octal number: it was meant as a decimal one.
                        let octal = u32::from_str_radix(digits, 8);
                        match digits.starts_with('0') {
                            true => octal.ok(),
                            false => octal.or_else(|_| digits.parse()).ok(),
                        }
                    })
            }
            _ => None,
        };
        match value {
            Some(mode) if mode <= 0o7777 => return Some(mode),
            Some(mode) => self.wrong(
                format!("must be permission bits up to 07777, found 0{mode:o}"),
                cx,
            ),
            None => self.wrong_type("number (permission bits, as 0440)", cx),
        }
        None
    }

    pub fn duration(&self, cx: &mut Context<'_>) -> Option<Nanos> {
        let text = match self.resolved() {
            Some((scalar, Resolved::Text)) => &scalar.text,
            Some((scalar, Resolved::Int(_) | Resolved::Uint(_) | Resolved::Float(_))) => {
                cx.error_with_hint(
                    self.at(),
                    format!(
                        "{} must be a string, found {}",
                        self.path,
                        self.node.describe()
                    ),
                    format!("a duration has a unit: \"{}s\"", scalar.text),
                );
                return None;
            }
            _ => {
                self.wrong_type("string", cx);
                return None;
            }
        };
        match duration::parse(text) {
            Some(length) if length.0 >= 0 => Some(length),
            Some(length) => {
                let negative = format!("must not be negative, found \"{}\"", shown(text));
                self.unfit(negative, cx);
                Some(length)
            }
            None => {
                cx.error_with_hint(
                    self.at(),
                    format!(
                        "{} Does not match format 'duration', found \"{}\"",
                        self.path,
                        shown(text)
                    ),
                    "durations look like 90s, 1m30s or 500ms",
                );
                None
            }
        }
    }

    /// One of some words.
    pub fn word(&self, allowed: &[&str], cx: &mut Context<'_>) -> Option<String> {
        let word = self.string(cx)?;
        let (message, hint) = match self.not_among(&word, allowed) {
            None => return Some(word),
            Some(wrong) => wrong,
        };
        cx.report.error(self.at(), message, hint);
        None
    }

    /// One of some words; docker's client prints any other too, and only a cluster refuses it. An
    /// empty text counts as absent.
    pub fn cluster_word(&self, allowed: &[&str], cx: &mut Context<'_>) -> Option<String> {
        let word = self.string(cx).filter(|word| !word.is_empty())?;
        if let Some((message, hint)) = self.not_among(&word, allowed) {
            cx.unfit(self.at(), message, hint);
        }
        Some(word)
    }

    /// Why a word is not allowed, and what was meant.
    fn not_among(&self, word: &str, allowed: &[&str]) -> Option<(String, Option<String>)> {
        if allowed.contains(&word) {
            return None;
        }
        let listed: Vec<String> = allowed.iter().map(|word| format!("{word:?}")).collect();
        let hint = nearest(word, allowed).map(|near| format!("did you mean `{near}`?"));
        let message = format!(
            "{} must be one of the following: {}, found \"{}\"",
            self.path,
            listed.join(", "),
            shown(word)
        );
        Some((message, hint))
    }

    /// The items of a list.
    pub fn items(&self, cx: &mut Context<'_>) -> Vec<Field<'n>> {
        match &self.node.value {
            Value::List(items) => self.fields_of(items),
            Value::Scalar(_) | Value::Map(_) => {
                self.wrong_type("list", cx);
                Vec::new()
            }
        }
    }

    /// The items of a list in which none may stand twice. The number 80 and the text "80" differ, as
    /// they do for docker's client.
    pub fn different_items(&self, cx: &mut Context<'_>) -> Vec<Field<'n>> {
        let items = self.items(cx);
        let mut seen = std::collections::HashMap::new();
        for (index, item) in items.iter().enumerate() {
            if let Some(first) = seen.insert(emit(&Out::from(item.node)), index) {
                cx.error(
                    item.at(),
                    format!("{} array items[{first},{index}] must be unique", self.path),
                );
            }
        }
        items
    }

    /// As [`Self::different_items`]; of what stands twice in a project of one host the first place
    /// counts, as for docker's compose, to which `80` and `"80"` are the same.
    pub fn unique_items(&self, cx: &mut Context<'_>) -> Vec<Field<'n>> {
        if !cx.host {
            return self.different_items(cx);
        }
        let mut seen = std::collections::HashSet::new();
        let mut items = self.items(cx);
        items.retain(|item| {
            seen.insert(match &item.node.value {
                Value::Scalar(scalar) => (true, scalar.text.clone()),
                _ => (false, emit(&Out::from(item.node))),
            })
        });
        items
    }

    fn fields_of(&self, items: &'n [Node]) -> Vec<Field<'n>> {
        items
            .iter()
            .enumerate()
            .map(|(index, node)| Field {
                path: format!("{}.{index}", self.path),
                key: node.at,
                node,
            })
            .collect()
    }

    /// A list of strings, each of which counts once; see [`Self::unique_items`].
    pub fn strings(&self, cx: &mut Context<'_>) -> Vec<Placed<String>> {
        let items = self.unique_items(cx);
        items
            .iter()
            .filter_map(|item| item.placed_string(cx))
            .collect()
    }

    /// A list of strings in which none may stand twice, on one host neither.
    pub fn different_strings(&self, cx: &mut Context<'_>) -> Vec<Placed<String>> {
        let items = self.different_items(cx);
        items
            .iter()
            .filter_map(|item| item.placed_string(cx))
            .collect()
    }

    /// A list of strings that may repeat.
    pub fn words(&self, cx: &mut Context<'_>) -> Vec<String> {
        let items = self.items(cx);
        items.iter().filter_map(|item| item.string(cx)).collect()
    }

    /// One string or a list of different ones.
    pub fn string_or_list(&self, cx: &mut Context<'_>) -> Vec<Placed<String>> {
        match &self.node.value {
            Value::List(_) => self.strings(cx),
            Value::Scalar(_) => self.placed_string(cx).into_iter().collect(),
            Value::Map(_) => {
                self.wrong_type("string or list", cx);
                Vec::new()
            }
        }
    }

    /// The entries of a mapping whose keys are free, in the order of the file.
    pub fn entries(&self, cx: &mut Context<'_>) -> Vec<(&'n Key, Field<'n>)> {
        match &self.node.value {
            Value::Map(entries) => entries
                .iter()
                .map(|(key, node)| {
                    let path = format!("{}.{}", self.path, key.text);
                    (
                        key,
                        Field {
                            path,
                            key: key.at,
                            node,
                        },
                    )
                })
                .collect(),
            Value::Scalar(_) | Value::List(_) => {
                self.wrong_type("mapping", cx);
                Vec::new()
            }
        }
    }

    /// A mapping, or a list of texts with `separator` between name and value.
    pub fn pairs(&self, separator: char, cx: &mut Context<'_>) -> Vec<Pair> {
        match &self.node.value {
            Value::Map(_) => {
                let entries = self.entries(cx);
                entries
                    .into_iter()
                    .filter_map(|(key, field)| {
                        let Some(scalar) = field.scalar() else {
                            field.wrong_type("string, number or null", cx);
                            return None;
                        };
                        Some(Pair {
                            at: key.at,
                            name: key.text.clone(),
                            value: scalar_text(scalar),
                        })
                    })
                    .collect()
            }
            Value::List(_) => self
                .strings(cx)
                .into_iter()
                .map(|string| {
                    let (name, value) = match string.value.split_once(separator) {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (string.value.as_str(), None),
                    };
                    Pair {
                        at: string.at,
                        name: name.to_owned(),
                        value,
                    }
                })
                .collect(),
            Value::Scalar(_) => {
                self.wrong_type("mapping or list", cx);
                Vec::new()
            }
        }
    }

    /// The value as a mapping with known keys.
    pub fn fields(&self, cx: &mut Context<'_>) -> Option<Fields<'n>> {
        match &self.node.value {
            Value::Map(entries) => Some(Fields::new(self.path.clone(), entries)),
            Value::Scalar(_) | Value::List(_) => {
                self.wrong_type("mapping", cx);
                None
            }
        }
    }
}
