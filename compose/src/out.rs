//! A plain value to be printed as YAML.

use crate::scalar::{Resolved, float_text};
use crate::text::order::natural;
use crate::tree::{Node, Scalar, Value};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Out {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
    List(Vec<Out>),
    /// Printed in this order.
    Map(Vec<(String, Out)>),
}

impl Out {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub fn list<T: AsRef<str>>(items: &[T]) -> Self {
        Self::List(items.iter().map(|item| Self::text(item.as_ref())).collect())
    }

    /// A map in docker's order of keys.
    pub fn sorted(mut entries: Vec<(String, Self)>) -> Self {
        entries.sort_by(|a, b| natural(&a.0, &b.0));
        Self::Map(entries)
    }

    /// Puts a later value over this one, maps key by key; null changes nothing.
    pub fn merge(&mut self, later: Self) {
        match (self, later) {
            (Self::Map(entries), Self::Map(later)) => {
                for (key, value) in later {
                    match entries.iter_mut().find(|(known, _)| *known == key) {
                        Some((_, known)) => known.merge(value),
                        None => entries.push((key, value)),
                    }
                }
                entries.sort_by(|a, b| natural(&a.0, &b.0));
            }
            (_, Self::Null) => {}
            (known, later) => *known = later,
        }
    }

    /// Whether docker leaves the value out: false, 0, "" and empty collections.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(value) => !value,
            Self::Int(value) => *value == 0,
            Self::Uint(value) => *value == 0,
            Self::Float(value) => *value == 0.0,
            Self::Text(value) => value.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
        }
    }
}

impl From<&Node> for Out {
    fn from(node: &Node) -> Self {
        match &node.value {
            Value::Scalar(scalar) => match scalar.resolve() {
                Resolved::Null => Self::Null,
                Resolved::Bool(value) => Self::Bool(value),
                Resolved::Int(value) => Self::Int(value),
                Resolved::Uint(value) => Self::Uint(value),
                Resolved::Float(value) => Self::Float(value),
                Resolved::Text => Self::text(&scalar.text),
            },
            Value::List(items) => Self::List(items.iter().map(Self::from).collect()),
            Value::Map(entries) => {
                let entries = entries
                    .iter()
                    .map(|(key, node)| (key.text.clone(), Self::from(node)));
                Self::sorted(entries.collect())
            }
        }
    }
}

/// A scalar as text where text or a number is allowed; nothing for null.
pub(crate) fn scalar_text(scalar: &Scalar) -> Option<String> {
    match scalar.resolve() {
        Resolved::Null => None,
        Resolved::Bool(value) => Some(value.to_string()),
        Resolved::Int(value) => Some(value.to_string()),
        Resolved::Uint(value) => Some(value.to_string()),
        Resolved::Float(value) => Some(float_text(value)),
        Resolved::Text => Some(scalar.text.clone()),
    }
}

/// Builds a map, leaving out what is empty.
#[derive(Debug, Default)]
pub(crate) struct MapOut {
    entries: Vec<(String, Out)>,
}

impl From<Vec<(String, Out)>> for MapOut {
    fn from(entries: Vec<(String, Out)>) -> Self {
        Self { entries }
    }
}

impl MapOut {
    /// Adds a value unless it is empty.
    pub fn put(&mut self, key: &str, value: Out) {
        if !value.is_empty() {
            self.entries.push((key.to_owned(), value));
        }
    }

    /// Adds a value if there is one, empty or not.
    pub fn put_some(&mut self, key: &str, value: Option<Out>) {
        if let Some(value) = value {
            self.entries.push((key.to_owned(), value));
        }
    }

    pub fn put_text(&mut self, key: &str, value: Option<&str>) {
        self.put(key, value.map_or(Out::Null, Out::text));
    }

    /// Adds further entries, in docker's order of keys.
    pub fn extend(&mut self, entries: impl IntoIterator<Item = (String, Out)>) {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|a, b| natural(&a.0, &b.0));
        self.entries.extend(entries);
    }

    pub fn into_entries(self) -> Vec<(String, Out)> {
        self.entries
    }

    pub fn done(self) -> Out {
        Out::Map(self.entries)
    }
}
