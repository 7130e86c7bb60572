//! `--secret` and `--config` of services: which one, and as what file or variable.

use skep_model::container::FileTarget;
use skep_model::variable::check_name;

use super::csv;
use crate::human;

/// A secret or config by name, and the file or variable it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReference {
    pub source: String,
    pub file: FileTarget,
}

/// Permission bits when none are given.
const MODE_DEFAULT: u32 = 0o444;

/// `what` is `secret` or `config`, for messages.
pub fn parse(value: &str, what: &str) -> Result<FileReference, String> {
    let fields = csv::fields(value)?;
    let mut reference = FileReference {
        source: String::new(),
        file: FileTarget {
            name: String::new(),
            uid: "0".to_owned(),
            gid: "0".to_owned(),
            mode: MODE_DEFAULT,
        },
    };
    if let [name] = &fields[..]
        && !name.contains('=')
    {
        reference.source.clone_from(name);
        reference.file.name.clone_from(name);
        return if name.is_empty() {
            Err("source is required".to_owned())
        } else {
            Ok(reference)
        };
    }
    let mut variable = None;
    for field in &fields {
        let (key, value) = field
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key.to_lowercase().as_str() {
            "source" | "src" => value.clone_into(&mut reference.source),
            "target" => value.clone_into(&mut reference.file.name),
            "env" => variable = Some(value),
            "uid" => value.clone_into(&mut reference.file.uid),
            "gid" => value.clone_into(&mut reference.file.gid),
            "mode" => {
                reference.file.mode = mode(value).ok_or_else(|| {
                    format!(
                        "invalid mode specified: strconv.ParseUint: parsing {}: invalid syntax",
                        human::quote(value)
                    )
                })?;
            }
            key => return Err(format!("invalid field in {what} request: {key}")),
        }
    }
    if reference.source.is_empty() {
        return Err("source is required".to_owned());
    }
    if let Some(name) = variable {
        let is_file = |key: &str| matches!(key, "target" | "uid" | "gid" | "mode");
        let mut keys = fields.iter().filter_map(|field| field.split('=').next());
        if let Some(key) = keys.find(|key| is_file(&key.to_lowercase())) {
            return Err(format!("{key} is for files, env={name} is a variable"));
        }
        check_name(name).map_err(|error| error.to_string())?;
        reference.file = FileTarget::of_variable(name);
    }
    if reference.file.name.is_empty() {
        reference.file.name.clone_from(&reference.source);
    }
    Ok(reference)
}

/// A number as Go reads it without a base: octal behind a zero.
fn mode(text: &str) -> Option<u32> {
    let digits = text.trim_start_matches("0o");
    if text.len() > 1 && text.starts_with('0') {
        u32::from_str_radix(digits, 8).ok()
    } else {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let read = |value: &str| {
            parse(value, "secret").map(|r| {
                format!(
                    "{}->{} {}:{} {:o}",
                    r.source, r.file.name, r.file.uid, r.file.gid, r.file.mode
                )
            })
        };
        for (value, shown) in [
            ("key", "key->key 0:0 444"),
            ("source=key", "key->key 0:0 444"),
            (
                "src=key,target=k.pem,uid=1,gid=2,mode=0400",
                "key->k.pem 1:2 400",
            ),
            ("source=key,mode=256", "key->key 0:0 400"),
            ("source=key,env=DB_KEY", "key->env:DB_KEY 0:0 444"),
            ("source=key,target=env:DB_KEY", "key->env:DB_KEY 0:0 444"),
        ] {
            assert_eq!(read(value).as_deref(), Ok(shown), "{value}");
        }
        for (value, error) in [
            ("a,b", "invalid field 'a' must be a key=value pair"),
            ("target=a", "source is required"),
            (
                "source=a,mode=x",
                "invalid mode specified: strconv.ParseUint: parsing \"x\": invalid syntax",
            ),
            ("source=a,foo=x", "invalid field in secret request: foo"),
            (
                "source=a,env=A,mode=0400",
                "mode is for files, env=A is a variable",
            ),
            (
                "source=a,env=1",
                "invalid variable name `1`: must be letters, digits and _, not begin with a digit, and have at most 255",
            ),
        ] {
            assert_eq!(read(value).unwrap_err(), error, "{value}");
        }
    }
}
