//! `--env`, `--env-file`, `--label`, `--label-file`.

use std::collections::BTreeMap;
use std::path::Path;

/// Variables of the client's own environment.
pub type Env = BTreeMap<String, String>;

/// `NAME=value`, or `NAME` for the client's own value. A name the client does not have stays
/// alone, which takes the variable away from the image's.
pub fn variable(value: &str, env: &Env) -> Result<String, String> {
    if value.starts_with('=') || value.is_empty() {
        return Err(format!("invalid environment variable: {value}"));
    }
    if value.contains('=') {
        return Ok(value.to_owned());
    }
    Ok(match env.get(value) {
        Some(own) => format!("{value}={own}"),
        None => value.to_owned(),
    })
}

/// `key=value`, or a key alone.
pub fn label(value: &str) -> Result<String, String> {
    let value = value.trim_start();
    let key = value.split('=').next().unwrap_or("");
    if key.is_empty() {
        Err(format!("invalid label '{value}': empty name"))
    } else if key.contains(char::is_whitespace) {
        Err(format!("label '{key}' contains whitespaces"))
    } else {
        Ok(value.to_owned())
    }
}

/// Lines of an env file; `#` comments and empty lines are skipped. A name alone takes the
/// client's own value, and is left out where there is none.
pub fn file(path: &str, env: Option<&Env>) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(Path::new(path))
        .map_err(|error| format!("open {path}: {}", crate::files::reason(&error)))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| format!("invalid env file ({path}): invalid utf8 bytes"))?;
    let mut variables = Vec::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or("").trim_start();
        if name.contains([' ', '\t']) {
            return Err(format!(
                "invalid env file ({path}): variable '{name}' contains whitespaces"
            ));
        }
        if name.is_empty() {
            return Err(format!(
                "invalid env file ({path}): no variable name on line '{line}'"
            ));
        }
        match (line.contains('='), env) {
            (true, _) => variables.push(line.to_owned()),
            (false, None) => variables.push(line.to_owned()),
            (false, Some(env)) => {
                variables.extend(env.get(name).map(|own| format!("{name}={own}")));
            }
        }
    }
    Ok(variables)
}

/// Later values of a variable replace earlier ones, at the place of the later.
pub fn merge(variables: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut merged: Vec<String> = Vec::new();
    for variable in variables {
        let name = variable.split('=').next().unwrap_or("");
        merged.retain(|other| other.split('=').next().unwrap_or("") != name);
        merged.push(variable);
    }
    merged
}

/// `key=value` pairs as a map; a key alone has an empty value.
pub fn pairs<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> BTreeMap<String, String> {
    values
        .into_iter()
        .map(|pair| {
            let (key, value) = pair.as_ref().split_once('=').unwrap_or((pair.as_ref(), ""));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_from_flags_files_and_the_environment() {
        let env = Env::from([("HOME".to_owned(), "/root".to_owned())]);
        assert_eq!(variable("A=1", &env), Ok("A=1".to_owned()));
        assert_eq!(variable("HOME", &env), Ok("HOME=/root".to_owned()));
        assert_eq!(
            variable("=x", &env).unwrap_err(),
            "invalid environment variable: =x"
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("env");
        std::fs::write(&path, "# comment\n\nA=1\nHOME\nNONE\n  B = 2\n").unwrap();
        let error = file(path.to_str().unwrap(), Some(&env)).unwrap_err();
        assert!(
            error.ends_with("variable 'B ' contains whitespaces"),
            "{error}"
        );
        std::fs::write(&path, "# comment\n\nA=1\nHOME\nNONE\nB=2 3\n").unwrap();
        assert_eq!(
            file(path.to_str().unwrap(), Some(&env)).unwrap(),
            ["A=1", "HOME=/root", "B=2 3"]
        );
        assert_eq!(
            file("/nowhere/env", Some(&env)).unwrap_err(),
            "open /nowhere/env: no such file or directory"
        );
        assert_eq!(
            merge(["A=1", "B=2", "A=3"].map(str::to_owned)),
            ["B=2", "A=3"]
        );
        assert_eq!(pairs(["a=b=c", "d"])["a"], "b=c");
        assert_eq!(label(" a=b").as_deref(), Ok("a=b"));
        assert_eq!(label("=b").unwrap_err(), "invalid label '=b': empty name");
        assert!(label("a b=c").is_err());
    }
}
