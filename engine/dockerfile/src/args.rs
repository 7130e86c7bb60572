//! Build arguments: what is given, what is declared, and who sees which value.

use std::collections::{BTreeMap, BTreeSet};

use crate::instruction::Argument;

/// Arguments that need no `ARG` and, without one, leave no trace in an image.
const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// `os/architecture[/variant]` of where the build runs and of what it makes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Platforms {
    pub build: (String, String, String),
    pub target: (String, String, String),
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct BuildArgs {
    /// By the client; `None` is a name without a value.
    given: BTreeMap<String, Option<String>>,
    /// Before the first stage.
    global: BTreeMap<String, Option<String>>,
    /// In this stage.
    declared: BTreeMap<String, Option<String>>,
    /// Ever.
    mentioned: BTreeSet<String>,
}

impl BuildArgs {
    /// The client's arguments, and those that tell about platforms.
    pub fn new(given: BTreeMap<String, Option<String>>, platforms: &Platforms) -> Self {
        let mut global = BTreeMap::new();
        for (prefix, (os, architecture, variant)) in
            [("BUILD", &platforms.build), ("TARGET", &platforms.target)]
        {
            let mut whole = format!("{os}/{architecture}");
            if !variant.is_empty() {
                whole = format!("{whole}/{variant}");
            }
            for (name, value) in [
                ("PLATFORM", &whole),
                ("OS", os),
                ("ARCH", architecture),
                ("VARIANT", variant),
            ] {
                global.insert(format!("{prefix}{name}"), Some(value.clone()));
            }
        }
        Self {
            given,
            global,
            ..Self::default()
        }
    }

    /// An `ARG` before the first stage, its default expanded.
    pub fn declare_global(&mut self, argument: Argument) {
        self.mentioned.insert(argument.key.clone());
        // The platforms' own values are better than none.
        if argument.value.is_some() || !self.global.contains_key(&argument.key) {
            self.global.insert(argument.key, argument.value);
        }
    }

    /// An `ARG` in a stage, its default expanded.
    pub fn declare(&mut self, argument: Argument) {
        self.mentioned.insert(argument.key.clone());
        self.declared.insert(argument.key, argument.value);
    }

    /// Another stage begins: nothing is declared there yet.
    pub fn begin_stage(&mut self) {
        self.declared.clear();
    }

    /// A global argument's value, for `FROM`.
    pub fn global(&self, name: &str) -> Option<String> {
        let default = self.global.get(name)?;
        match self.given.get(name) {
            Some(given) => given.clone(),
            None => default.clone(),
        }
    }

    /// What a stage sees: what it declared, and the predefined ones that were
    /// given.
    pub fn visible(&self) -> BTreeMap<String, String> {
        let predefined = PREDEFINED
            .iter()
            .filter(|name| !self.declared.contains_key(**name))
            .filter_map(|name| Some(((*name).to_owned(), self.given.get(*name)?.clone()?)));
        self.declared
            .iter()
            .filter_map(|(name, default)| Some((name.clone(), self.value(name, default)?)))
            .chain(predefined)
            .collect()
    }

    fn value(&self, name: &str, default: &Option<String>) -> Option<String> {
        if let Some(given) = self.given.get(name) {
            return given.clone();
        }
        match default {
            Some(default) => Some(default.clone()),
            None => self.global.get(name).cloned().flatten(),
        }
    }

    /// Whether its value is part of what a `RUN` is.
    pub fn counts(&self, name: &str) -> bool {
        self.mentioned.contains(name) || !PREDEFINED.contains(&name)
    }

    /// Given and never declared.
    pub fn unused(&self) -> Vec<String> {
        self.given
            .keys()
            .filter(|name| !self.mentioned.contains(*name) && !PREDEFINED.contains(&name.as_str()))
            .cloned()
            .collect()
    }
}
