//! Variables that only memory ever holds: secrets of a task in its processes' environment.

use std::ffi::CString;

use super::Secret;
use crate::config::InjectedVariable;
use crate::failure::failure;
use crate::protocol::StartFailure;

/// A variable and its value, which is wiped when dropped. No `Debug`.
pub struct Variable {
    name: String,
    value: Secret,
}

/// Takes the values of these variables out of what was sent.
pub fn take(
    wanted: &[InjectedVariable],
    sent: &mut Vec<Secret>,
) -> Result<Vec<Variable>, StartFailure> {
    let take_one = |one: &InjectedVariable| {
        let at = sent.iter().position(|secret| secret.name == one.name);
        let at = at.ok_or_else(|| {
            failure(format!(
                "the value of variable `{}` was not sent",
                one.variable
            ))
        })?;
        Ok(Variable {
            name: one.variable.clone(),
            value: sent.swap_remove(at),
        })
    };
    wanted.iter().map(take_one).collect()
}

/// The variables as a program gets them, but for those that `env` says itself.
pub fn entries(variables: &[Variable], env: &[String]) -> Result<Vec<CString>, StartFailure> {
    let is_said = |name: &str| env.iter().any(|said| said.split('=').next() == Some(name));
    let wanted = variables.iter().filter(|one| !is_said(&one.name));
    wanted
        .map(|one| {
            let mut entry = Vec::with_capacity(one.name.len() + one.value.bytes.len() + 2);
            entry.extend_from_slice(one.name.as_bytes());
            entry.push(b'=');
            entry.extend_from_slice(&one.value.bytes);
            // The bytes themselves are nobody's business.
            CString::new(entry)
                .map_err(|_| failure(format!("the value of `{}` contains a zero byte", one.name)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, bytes: &[u8]) -> Secret {
        Secret {
            name: name.to_owned(),
            bytes: bytes.into(),
        }
    }

    fn wanted(name: &str, variable: &str) -> InjectedVariable {
        InjectedVariable {
            name: name.to_owned(),
            variable: variable.to_owned(),
        }
    }

    fn shown(variables: &[Variable], env: &[&str]) -> Result<Vec<String>, String> {
        let env: Vec<String> = env.iter().map(|one| (*one).to_owned()).collect();
        let entries = entries(variables, &env).map_err(|failed| failed.message)?;
        let texts = entries.into_iter().map(|one| one.into_string().unwrap());
        Ok(texts.collect())
    }

    #[test]
    fn variables_come_with_the_start_and_give_way_to_what_is_said() {
        let mut sent = vec![
            secret("0", b"file"),
            secret("v0", b"a=b"),
            secret("v1", b"c"),
        ];
        let both = [wanted("v1", "TWO"), wanted("v0", "ONE")];
        let variables = take(&both, &mut sent).unwrap_or_default();
        assert_eq!(sent.len(), 1, "files stay");
        assert_eq!(shown(&variables, &[]).unwrap(), ["TWO=c", "ONE=a=b"]);
        assert_eq!(shown(&variables, &["ONE=", "T=1"]).unwrap(), ["TWO=c"]);
        let missing = take(&[wanted("v0", "ONE")], &mut sent).err().unwrap();
        assert!(missing.message.contains("`ONE` was not sent"));
    }

    #[test]
    fn a_value_with_a_zero_byte_is_refused_without_being_told() {
        let mut sent = vec![secret("v0", b"hun\0ter")];
        let variables = take(&[wanted("v0", "WORD")], &mut sent).unwrap_or_default();
        let error = shown(&variables, &[]).unwrap_err();
        assert_eq!(error, "the value of `WORD` contains a zero byte");
    }
}
