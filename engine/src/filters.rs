//! The `filters` query parameter: same key is OR, different keys are AND.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{EngineError, Result};

/// Filters as a client gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    fields: BTreeMap<String, BTreeSet<String>>,
}

impl Filters {
    /// No filters: everything passes.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads the JSON of the query parameter: `{"key":["value"]}`, or the old
    /// `{"key":{"value":true}}`. Empty text is no filter.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::none());
        }
        if let Ok(lists) = serde_json::from_str::<BTreeMap<String, BTreeSet<String>>>(text) {
            return Ok(Self { fields: lists });
        }
        let maps: BTreeMap<String, BTreeMap<String, bool>> = serde_json::from_str(text)
            .map_err(|error| EngineError::invalid("invalid filter").because(error))?;
        Ok(Self {
            fields: maps
                .into_iter()
                .map(|(key, values)| (key, values.into_keys().collect()))
                .collect(),
        })
    }

    /// The same filters with one more.
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields
            .entry(key.into())
            .or_default()
            .insert(value.into());
        self
    }

    /// Refuses keys that this list does not name.
    pub fn accept(&self, keys: &[&str]) -> Result<()> {
        match self.fields.keys().find(|key| !keys.contains(&key.as_str())) {
            Some(key) => Err(EngineError::invalid(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    /// The values of a key; none if it is not filtered on.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.fields
            .get(key)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// Whether there is a filter with this key.
    pub fn has(&self, key: &str) -> bool {
        self.fields
            .get(key)
            .is_some_and(|values| !values.is_empty())
    }

    /// Whether any value of the key passes `test`; true without such a filter.
    pub fn any(&self, key: &str, test: impl FnMut(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(test)
    }

    /// A yes-or-no filter.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let mut given = None;
        for value in self.values(key) {
            let value = match value {
                "1" | "true" | "True" | "TRUE" | "t" | "T" => true,
                "0" | "false" | "False" | "FALSE" | "f" | "F" => false,
                _ => return Err(self.wrong(key, value)),
            };
            if given.is_some_and(|before| before != value) {
                return Err(self.wrong(key, &value.to_string()));
            }
            given = Some(value);
        }
        Ok(given)
    }

    /// Whether labels have every `label` and none of the `label!` given.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &str| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|present| present == value),
            None => labels.contains_key(wanted),
        };
        self.values("label").all(has) && !self.values("label!").any(has)
    }

    /// dockerd's text for a value that makes no sense.
    pub fn wrong(&self, key: &str, value: &str) -> EngineError {
        EngineError::invalid(format!("invalid filter '{key}=[{value}]'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_read() {
        let new = Filters::parse(r#"{"label":["a=b","c"]}"#).unwrap();
        let old = Filters::parse(r#"{"label":{"a=b":true,"c":true}}"#).unwrap();
        assert_eq!(new, old);
        assert!(Filters::parse("[1]").is_err());
        assert_eq!(Filters::parse("").unwrap(), Filters::none());
    }

    #[test]
    fn labels_must_all_match_and_none_of_the_excluded() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let check = |text: &str, expected: bool| {
            assert_eq!(
                Filters::parse(text).unwrap().labels(&labels),
                expected,
                "{text}"
            );
        };
        check(r#"{"label":["a"]}"#, true);
        check(r#"{"label":["a=b"]}"#, true);
        check(r#"{"label":["a=c"]}"#, false);
        check(r#"{"label":["a","x"]}"#, false);
        check(r#"{"label!":["x"]}"#, true);
        check(r#"{"label!":["a=b"]}"#, false);
    }

    #[test]
    fn unknown_keys_and_contradictions_are_refused() {
        let filters = Filters::none().with("x", "1");
        assert_eq!(
            filters.accept(&["label"]).unwrap_err().to_string(),
            "invalid filter 'x'"
        );
        assert_eq!(filters.flag("x").unwrap(), Some(true));
        assert!(filters.with("x", "false").flag("x").is_err());
    }
}
