//! Mappings with known keys: each key is taken once, and what nobody takes is a mistake.

use std::collections::BTreeMap;

use skep_model::Nanos;

use crate::context::Context;
use crate::field::Field;
use crate::out::Out;
use crate::text::nearest::nearest;
use crate::tree::{Key, Node, Value, shown};

/// A mapping whose keys are known; what nobody takes is an error.
#[derive(Debug)]
pub(crate) struct Fields<'n> {
    pub path: String,
    entries: &'n [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    pub fn new(path: String, entries: &'n [(Key, Node)]) -> Self {
        Self {
            path,
            entries,
            known: Vec::new(),
        }
    }

    /// The root of a file.
    pub fn root(node: &'n Node) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => Some(Self::new(String::new(), entries)),
            Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// The value of `name`, null or not.
    pub fn take_any(&mut self, name: &'static str) -> Option<Field<'n>> {
        self.known.push(name);
        let (key, node) = self.entries.iter().find(|(key, _)| key.text == name)?;
        Some(Field {
            path: self.path_of(name),
            key: key.at,
            node,
        })
    }

    /// The value of `name`; a key with nothing behind it counts as absent.
    pub fn take(&mut self, name: &'static str) -> Option<Field<'n>> {
        self.take_any(name).filter(|field| !field.node.is_null())
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    pub fn string(&mut self, name: &'static str, cx: &mut Context<'_>) -> Option<String> {
        self.take(name)?.string(cx)
    }

    pub fn boolean(&mut self, name: &'static str, cx: &mut Context<'_>) -> Option<bool> {
        self.take(name)?.boolean(cx)
    }

    pub fn unsigned(&mut self, name: &'static str, cx: &mut Context<'_>) -> Option<u64> {
        self.take(name)?.unsigned(cx)
    }

    pub fn duration(&mut self, name: &'static str, cx: &mut Context<'_>) -> Option<Nanos> {
        self.take(name)?.duration(cx)
    }

    /// Labels, options and the like; a missing value is the empty text.
    pub fn map(
        &mut self,
        name: &'static str,
        cx: &mut Context<'_>,
    ) -> Option<BTreeMap<String, String>> {
        let pairs = self.take(name)?.pairs('=', cx);
        Some(
            pairs
                .into_iter()
                .map(|pair| (pair.name, pair.value.unwrap_or_default()))
                .collect(),
        )
    }

    /// Takes a key that means something elsewhere but nothing here, and says so.
    pub fn no_effect(&mut self, name: &'static str, why: &str, cx: &mut Context<'_>) {
        if let Some(field) = self.take(name) {
            cx.warn(field.key, format!("{} has no effect: {why}", field.path));
        }
    }

    /// The extension fields (`x-…`).
    pub fn extras(&self) -> Vec<(String, Out)> {
        self.entries
            .iter()
            .filter(|(key, _)| key.text.starts_with("x-"))
            .map(|(key, node)| (key.text.clone(), Out::from(node)))
            .collect()
    }

    /// Says of every key that nobody took that it has no effect: docker lets such keys pass here.
    pub fn finish_leniently(self, cx: &mut Context<'_>) {
        for (key, _) in self.entries {
            if !key.text.starts_with("x-") && !self.known.contains(&key.text.as_str()) {
                let path = self.path_of(&key.text);
                cx.warn(
                    key.at,
                    format!("{} has no effect: it is not known", shown(&path)),
                );
            }
        }
    }

    /// Reports every key that nobody took and that is no extension.
    pub fn finish(self, cx: &mut Context<'_>) {
        for (key, _) in self.entries {
            if key.text.starts_with("x-") || self.known.contains(&key.text.as_str()) {
                continue;
            }
            let path = if self.path.is_empty() {
                "(root)"
            } else {
                &self.path
            };
            let mut allowed = self.known.clone();
            allowed.sort_unstable();
            // Some keys are asked for more than once.
            allowed.dedup();
            let mut hint = format!("allowed here: {}", allowed.join(", "));
            if let Some(near) = nearest(&key.text, &allowed) {
                hint = format!("did you mean `{near}`? {hint}");
            }
            cx.error_with_hint(
                key.at,
                format!(
                    "{path} Additional property {} is not allowed",
                    shown(&key.text)
                ),
                hint,
            );
        }
    }
}
