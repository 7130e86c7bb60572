//! `--filter key=value`, as the API takes it.

use std::collections::BTreeMap;

use crate::failure::Outcome;
use crate::flags::Args;

/// Keys with the values that are let through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeMap<String, bool>>);

impl Filters {
    /// The command's `--filter` flags.
    pub fn of(args: &Args) -> Outcome<Self> {
        let mut filters = Self::default();
        for (key, value) in args.each("filter", parse)? {
            if !key.is_empty() {
                filters.add(&key, &value);
            }
        }
        Ok(filters)
    }

    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.add(key, value);
        self
    }

    pub fn add(&mut self, key: &str, value: &str) {
        self.0
            .entry(key.to_owned())
            .or_default()
            .insert(value.to_owned(), true);
    }

    pub fn get(&self, key: &str) -> Vec<&str> {
        self.0
            .get(key)
            .map(|values| values.keys().map(String::as_str).collect())
            .unwrap_or_default()
    }

    pub fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// The query parameter; empty when everything is let through.
    pub fn to_query(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        serde_json::to_string(&self.0).expect("maps of text are JSON")
    }
}

fn parse(text: &str) -> Result<(String, String), String> {
    if text.is_empty() {
        return Ok((String::new(), String::new()));
    }
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_lowercase(), value.trim().to_owned())),
        None => Err("bad format of filter (expected name=value)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_maps_of_sets() {
        let filters = Filters::default()
            .with("label", "a=b")
            .with("label", "c")
            .with("id", "x");
        assert_eq!(
            filters.to_query(),
            r#"{"id":{"x":true},"label":{"a=b":true,"c":true}}"#
        );
        assert_eq!(Filters::default().to_query(), "");
        assert_eq!(parse("Name = x"), Ok(("name".to_owned(), "x".to_owned())));
        assert!(parse("x").is_err());
    }
}
