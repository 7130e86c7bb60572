//! Secrets whose bytes are in a store outside of the cluster: what is said of where they are.
//!
//! The secret's driver is the store's name, its options say what to ask the store for. Which options a
//! store takes is known where the store is.

use std::collections::BTreeMap;

use crate::mount::Driver;
use crate::payload::Payload as _;
use crate::{Secret, SecretSpec};

/// Labels that are options, for clients that can give no options of drivers.
pub const OPTION_LABEL_PREFIX: &str = "skep.driver.";
/// How what a store refuses begins, in a task's status.
pub const STORE_WORDS: &str = "secret store ";
/// Longest name of a store.
const NAME_LEN_MAX: usize = 64;
/// Options of one secret, and the bytes of their names and values: each version keeps its own.
const OPTIONS_MAX: usize = 32;
const OPTIONS_BYTES_MAX: usize = 8 * 1024;

/// Where the bytes of one version of a secret are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    pub store: String,
    /// What its labels say, and above that its driver.
    pub options: BTreeMap<String, String>,
}

impl Origin {
    fn new(driver: &Driver, labels: &BTreeMap<String, String>) -> Self {
        let labelled = labels.iter().filter_map(|(label, value)| {
            let key = label.strip_prefix(OPTION_LABEL_PREFIX)?;
            Some((key.to_owned(), value.clone()))
        });
        let of_driver = driver.options.clone().into_iter();
        // An empty one is as good as none.
        let options = labelled
            .chain(of_driver)
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Self {
            store: driver.name.clone(),
            options,
        }
    }
}

impl SecretSpec {
    /// The driver with all options that count, those of labels as well.
    pub fn effective_driver(&self) -> Option<Driver> {
        let Origin { store, options } = self.origin()?;
        Some(Driver {
            name: store,
            options,
        })
    }

    /// Where its bytes are when it has these labels instead.
    pub fn origin_with(&self, labels: &BTreeMap<String, String>) -> Option<Origin> {
        Some(Origin::new(self.driver.as_ref()?, labels))
    }

    /// Where its bytes are, if they are not here.
    pub fn origin(&self) -> Option<Origin> {
        let driver = self.driver.as_ref()?;
        Some(Origin::new(driver, &self.labels))
    }
}

impl Secret {
    /// Where the bytes of a version are, if it is kept and they are not here.
    pub fn origin_of(&self, number: u64) -> Option<Origin> {
        if number == self.number() {
            return self.spec.origin();
        }
        let mut earlier = self.versions.earlier.iter();
        let found = earlier.find(|earlier| earlier.number == number)?;
        match &found.driver {
            // With what the labels said then.
            Some(driver) => Some(Origin::new(driver, &BTreeMap::new())),
            None => self.spec.origin(),
        }
    }
}

/// Checks the name of a store.
///
/// # Errors
/// Why it is none.
pub fn check_store_name(name: &str) -> Result<(), String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_.-/:@".contains(c);
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins_well && name.len() <= NAME_LEN_MAX && name.chars().all(is_allowed) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name of a secret store: up to {NAME_LEN_MAX} letters, digits and _.-/:@, a letter or digit first"
    ))
}

/// Checks a secret's driver, whatever its store is.
///
/// # Errors
/// Why it cannot be one.
pub fn check_driver(driver: &Driver) -> Result<(), String> {
    check_store_name(&driver.name)?;
    check_size(&driver.options)?;
    match driver.options.keys().any(|key| key.trim().is_empty()) {
        true => Err("an option for the driver has no name".to_owned()),
        false => Ok(()),
    }
}

/// Whether these are few enough, labels included.
///
/// # Errors
/// How much there may be.
pub fn check_size(options: &BTreeMap<String, String>) -> Result<(), String> {
    let bytes = options.iter().map(|(key, it)| key.len() + it.len());
    match options.len() > OPTIONS_MAX || bytes.sum::<usize>() > OPTIONS_BYTES_MAX {
        false => Ok(()),
        true => Err(format!(
            "a secret has at most {OPTIONS_MAX} options for its driver, of {OPTIONS_BYTES_MAX} bytes together"
        )),
    }
}

/// The options with these changes; an empty value takes an option away.
pub fn changed(
    had: &BTreeMap<String, String>,
    changes: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut options = had.clone();
    for (key, value) in changes {
        match value.as_str() {
            "" => drop(options.remove(key)),
            value => drop(options.insert(key.clone(), value.to_owned())),
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn secret(json: &str) -> Secret {
        serde_json::from_str(json).unwrap()
    }

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn options_are_those_of_the_driver_and_below_them_labels() {
        let secret = secret(
            r#"{"ID":"s","Spec":{"Name":"key","Driver":{"Name":"vault","Options":{"path":"a"}},
                "Labels":{"skep.driver.path":"b","skep.driver.field":"pin","team":"x"}}}"#,
        );
        let origin = secret.spec.origin().unwrap();
        assert_eq!(origin.store, "vault");
        assert_eq!(origin.options, options(&[("path", "a"), ("field", "pin")]));
        assert_eq!(SecretSpec::default().origin(), None);
    }

    #[test]
    fn each_version_has_the_options_that_it_was_made_with() {
        let mut secret = secret(
            r#"{"ID":"s","Spec":{"Name":"key","Driver":{"Name":"vault","Options":{"path":"a"}}}}"#,
        );
        secret.advance(Vec::new(), String::new(), Timestamp::ZERO);
        secret.spec.driver.as_mut().unwrap().options = options(&[("path", "b")]);
        let path = |number| secret.origin_of(number).unwrap().options["path"].clone();
        assert_eq!((path(1), path(2)), ("a".to_owned(), "b".to_owned()));
        assert_eq!(secret.origin_of(3), None);
        assert_eq!(secret.of_version(1), Some(&b""[..]));
        let told = secret.only(|number| number == 1);
        assert_eq!(told.origin_of(1).unwrap().options["path"], "a");
        assert_eq!(told.origin_of(2), None);
    }

    #[test]
    fn drivers_and_changes_are_checked_and_made() {
        let driver = |name: &str, options: BTreeMap<String, String>| Driver {
            name: name.to_owned(),
            options,
        };
        assert!(check_driver(&driver("org/plugin:1", options(&[("a", "b")]))).is_ok());
        for (wrong, why) in [
            (driver("", BTreeMap::new()), "no name of a secret store"),
            (driver("-x", BTreeMap::new()), "no name of a secret store"),
            (driver("a b", BTreeMap::new()), "no name of a secret store"),
            (driver("a", options(&[(" ", "b")])), "has no name"),
            (
                driver("a", options(&[("b", &"x".repeat(9000))])),
                "at most 32 options",
            ),
        ] {
            let told = check_driver(&wrong).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
        let had = options(&[("path", "a"), ("field", "pin")]);
        let wished = options(&[("path", "b"), ("field", ""), ("none", "")]);
        assert_eq!(changed(&had, &wished), options(&[("path", "b")]));
    }
}
