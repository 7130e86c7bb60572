//! Secrets and configs that a task gets as a variable of its environment instead of a file.
//!
//! A reference asks for it by its target, `env:NAME`: clients of others carry targets along, and
//! drop fields that they do not know. A file of such a name has its whole path as its target.

use std::fmt;

use crate::container::{ContainerSpec, FileTarget};
use crate::payload::PayloadId;

/// Targets that are variables begin so.
pub const TARGET_PREFIX: &str = "env:";
/// Linux takes no longer string into an environment (`MAX_ARG_STRLEN`): name, `=`, value and the
/// byte that ends it.
pub const ENTRY_BYTES_MAX: usize = 128 << 10;
/// Longest name. A bound on mistakes.
const NAME_BYTES_MAX: usize = 255;

/// Why something cannot be a variable. Values are never part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    #[error(
        "invalid variable name `{given}`: must be letters, digits and _, not begin with a digit, and have at most {NAME_BYTES_MAX}"
    )]
    Name { given: String },
    #[error("its value has a zero byte: no variable can hold that, use a file")]
    ZeroByte,
    #[error(
        "its value has {bytes} bytes, and with its name a variable holds less than {ENTRY_BYTES_MAX}: use a file"
    )]
    TooLong { bytes: usize },
    #[error("`{first}` and `{second}` would both be variable {name}")]
    Twice {
        name: String,
        first: String,
        second: String,
    },
    #[error(
        "`{object}` would be variable {name}, which the service sets itself: remove it from Env"
    )]
    Set { name: String, object: String },
}

impl FileTarget {
    /// The target that is a variable.
    pub fn of_variable(name: impl fmt::Display) -> Self {
        Self {
            name: format!("{TARGET_PREFIX}{name}"),
            uid: "0".to_owned(),
            gid: "0".to_owned(),
            mode: 0o444,
        }
    }

    /// The variable that it is, if it is no file.
    pub fn variable(&self) -> Option<&str> {
        self.name.strip_prefix(TARGET_PREFIX)
    }
}

/// Refuses what programs could not ask for.
pub fn check_name(name: &str) -> Result<(), VariableError> {
    let is_start = |letter: char| letter.is_ascii_alphabetic() || letter == '_';
    let fits = name.len() <= NAME_BYTES_MAX
        && name.starts_with(is_start)
        && name
            .chars()
            .all(|letter| is_start(letter) || letter.is_ascii_digit());
    match fits {
        true => Ok(()),
        false => Err(VariableError::Name {
            given: name.to_owned(),
        }),
    }
}

/// Refuses what cannot be a variable's value.
pub fn check_value(name: &str, value: &[u8]) -> Result<(), VariableError> {
    if value.contains(&0) {
        return Err(VariableError::ZeroByte);
    }
    match name.len() + value.len() + 2 <= ENTRY_BYTES_MAX {
        true => Ok(()),
        false => Err(VariableError::TooLong { bytes: value.len() }),
    }
}

/// A reference to a payload that is a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedVariable<'a> {
    pub object: PayloadId,
    /// Name of the secret or config.
    pub of: &'a str,
    pub name: &'a str,
}

impl ContainerSpec {
    /// Every secret and config that is a variable, in order.
    pub fn variables(&self) -> impl Iterator<Item = UsedVariable<'_>> {
        let secrets = self.secrets.iter().filter_map(|one| {
            Some(UsedVariable {
                object: PayloadId::Secret(one.secret_id.clone()),
                of: &one.secret_name,
                name: one.file.as_ref()?.variable()?,
            })
        });
        let configs = self.configs.iter().filter_map(|one| {
            Some(UsedVariable {
                object: PayloadId::Config(one.config_id.clone()),
                of: &one.config_name,
                name: one.file.as_ref()?.variable()?,
            })
        });
        secrets.chain(configs)
    }

    /// Refuses variables that nobody could have, or that are said twice.
    pub(crate) fn check_variables(&self) -> Result<(), VariableError> {
        let mut seen: Vec<UsedVariable<'_>> = Vec::new();
        for one in self.variables() {
            check_name(one.name)?;
            if let Some(other) = seen.iter().find(|other| other.name == one.name) {
                return Err(VariableError::Twice {
                    name: one.name.to_owned(),
                    first: other.of.to_owned(),
                    second: one.of.to_owned(),
                });
            }
            let mut set = self.env.iter();
            if set.any(|set| set.split('=').next() == Some(one.name)) {
                return Err(VariableError::Set {
                    name: one.name.to_owned(),
                    object: one.of.to_owned(),
                });
            }
            seen.push(one);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(json: &str) -> Result<(), String> {
        let spec: ContainerSpec = serde_json::from_str(json).unwrap();
        spec.check_variables().map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_those_that_programs_can_ask_for() {
        for name in ["A", "_", "db_PASSWORD2"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let long = "a".repeat(256);
        for name in ["", "2A", "A-B", "A=B", "A B", "Ä", "A.B", &long] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn values_are_those_that_the_kernel_takes() {
        assert_eq!(check_value("A", b""), Ok(()));
        assert_eq!(check_value("A", b"a\0"), Err(VariableError::ZeroByte));
        let room = ENTRY_BYTES_MAX - "A=".len() - 1;
        assert_eq!(check_value("A", &vec![b'x'; room]), Ok(()));
        let bytes = room + 1;
        let error = check_value("A", &vec![b'x'; bytes]).unwrap_err();
        assert_eq!(error, VariableError::TooLong { bytes });
    }

    #[test]
    fn a_variable_is_said_once() {
        let spec = |rest: &str| {
            format!(
                r#"{{"Secrets":[{{"SecretName":"one","File":{{"Name":"env:A"}}}},
                    {{"SecretName":"two","File":{{"Name":"/env:B"}}}}]{rest}}}"#
            )
        };
        assert_eq!(checked(&spec("")), Ok(()));
        assert_eq!(checked(&spec(r#","Env":["B=1","AA=2"]"#)), Ok(()));
        for (rest, why) in [
            (r#","Env":["A=1"]"#, "`one` would be variable A, which"),
            (r#","Env":["A"]"#, "`one` would be variable A, which"),
            (
                r#","Configs":[{"ConfigName":"c","File":{"Name":"env:A"}}]"#,
                "`one` and `c` would both be variable A",
            ),
            (
                r#","Configs":[{"ConfigName":"c","File":{"Name":"env:"}}]"#,
                "invalid variable name ``",
            ),
        ] {
            let error = checked(&spec(rest)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
