//! What a store of each kind is asked, read off a secret's options. Pure.

use std::collections::BTreeMap;

use super::option::Source;

/// What a store is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    Command {
        options: BTreeMap<String, String>,
        /// Every task is answered for itself.
        per_task: bool,
    },
    Vault(VaultQuestion),
}

/// A secret of Vault's key-value engine, version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultQuestion {
    /// Where the engine is mounted.
    pub mount: String,
    pub path: String,
    pub field: Field,
    /// The latest when absent.
    pub version: Option<u64>,
    pub is_base64: bool,
}

/// What of the secret's data is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    One(String),
    /// All of it, as JSON.
    All,
}

/// The option by which every task is answered for itself.
pub const PER_TASK: &str = "per-task";
const MOUNT: &str = "secret";
const FIELD: &str = "value";
const ALL_FIELDS: &str = "*";

impl Question {
    /// What a store of this kind is asked for the secret `name` with these options.
    ///
    /// # Errors
    /// The option that it does not take, and why.
    pub fn read(
        source: &Source,
        name: &str,
        options: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        match source {
            Source::Command(_) => {
                let mut options = options.clone();
                let per_task = match options.remove(PER_TASK).as_deref() {
                    None | Some("false") => false,
                    Some("true") => true,
                    Some(other) => {
                        return Err(format!(
                            "option {PER_TASK}: {other:?} is neither true nor false"
                        ));
                    }
                };
                Ok(Self::Command { options, per_task })
            }
            Source::Vault(_) => vault(name, options).map(Self::Vault),
        }
    }
}

fn vault(name: &str, options: &BTreeMap<String, String>) -> Result<VaultQuestion, String> {
    let mut question = VaultQuestion {
        mount: MOUNT.to_owned(),
        path: name.to_owned(),
        field: Field::One(FIELD.to_owned()),
        version: None,
        is_base64: false,
    };
    for (key, value) in options {
        let wrong = |why: &str| format!("option {key}: {value:?} {why}");
        match key.as_str() {
            "mount" => question.mount = place(value).ok_or_else(|| wrong("is no mount"))?,
            "path" => question.path = place(value).ok_or_else(|| wrong("is no path"))?,
            "field" if value == ALL_FIELDS => question.field = Field::All,
            "field" if !value.is_empty() => question.field = Field::One(value.clone()),
            "field" => return Err(wrong("is no field")),
            "version" => {
                let number = value.parse().ok().filter(|number| *number > 0);
                question.version =
                    Some(number.ok_or_else(|| wrong("is no version: they count from 1"))?);
            }
            "encoding" if value == "base64" => question.is_base64 = true,
            "encoding" => return Err(wrong("is no encoding: base64 is the one there is")),
            _ => {
                return Err(format!(
                    "a vault takes no option {key:?}: want mount, path, field, version or encoding"
                ));
            }
        }
    }
    if question.is_base64 && question.field == Field::All {
        return Err("option encoding: a field is decoded, not all of them (field=*)".to_owned());
    }
    Ok(question)
}

/// A path without slashes around it, if each of its parts is a name.
fn place(given: &str) -> Option<String> {
    let place = given.trim_matches('/');
    let is_name =
        |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
    place.split('/').all(is_name).then(|| place.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::option::StoreOption;

    fn read(store: &str, pairs: &[(&str, &str)]) -> Result<Question, String> {
        let store: StoreOption = store.parse().unwrap();
        let pairs = pairs.iter();
        let options = pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Question::read(&store.source, "db_password", &options)
    }

    const VAULT: &str = "v=vault:https://h,token-file=/t";

    #[test]
    fn a_vault_is_asked_for_the_value_under_the_secrets_name_unless_told_otherwise() {
        let plain = VaultQuestion {
            mount: "secret".into(),
            path: "db_password".into(),
            field: Field::One("value".into()),
            version: None,
            is_base64: false,
        };
        assert_eq!(read(VAULT, &[]), Ok(Question::Vault(plain.clone())));
        let given = [
            ("mount", "/kv/team/"),
            ("path", "prod/db"),
            ("field", "password"),
            ("version", "3"),
            ("encoding", "base64"),
        ];
        let all = VaultQuestion {
            mount: "kv/team".into(),
            path: "prod/db".into(),
            field: Field::One("password".into()),
            version: Some(3),
            is_base64: true,
        };
        assert_eq!(read(VAULT, &given), Ok(Question::Vault(all)));
        let whole = VaultQuestion {
            field: Field::All,
            ..plain
        };
        assert_eq!(read(VAULT, &[("field", "*")]), Ok(Question::Vault(whole)));
    }

    #[test]
    fn what_a_vault_does_not_take_is_named() {
        for (key, value, why) in [
            ("per-task", "true", "no option \"per-task\""),
            ("pth", "x", "want mount, path, field, version or encoding"),
            ("path", "a//b", "option path: \"a//b\" is no path"),
            ("path", "../sys", "is no path"),
            ("path", "/", "is no path"),
            ("mount", "", "is no mount"),
            ("field", "", "is no field"),
            ("version", "0", "they count from 1"),
            ("version", "latest", "is no version"),
            ("encoding", "hex", "base64 is the one there is"),
        ] {
            let told = read(VAULT, &[(key, value)]).unwrap_err();
            assert!(told.contains(why), "{key}={value}: {told}");
        }
        let both = read(VAULT, &[("field", "*"), ("encoding", "base64")]);
        assert!(both.unwrap_err().contains("not all of them"));
    }

    #[test]
    fn a_command_is_given_whatever_there_is() {
        let asked = read("c=exec:/bin/c", &[("a", "b"), ("per-task", "true")]);
        let options = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let per_task = true;
        assert_eq!(asked, Ok(Question::Command { options, per_task }));
        let told = read("c=exec:/bin/c", &[("per-task", "yes")]).unwrap_err();
        assert!(told.contains("neither true nor false"), "{told}");
    }
}
