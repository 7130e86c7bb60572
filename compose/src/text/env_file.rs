//! Files of `NAME=value` lines.

/// One line of an environment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    pub name: String,
    /// Nothing where the line is a name alone: the value is the caller's.
    pub value: Option<String>,
}

/// Reads an environment file. Values are taken as they stand: no quotes, no comments within.
///
/// # Errors
/// What is wrong, in docker's words.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Variable>, String> {
    let mut variables = Vec::new();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line)
            .map_err(|_| {
                format!("invalid utf8 bytes at line {}: {line:?}", index + 1).replace(',', "")
            })?
            .trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line, None),
        };
        if name.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if name.contains(char::is_whitespace) {
            return Err(format!("variable '{name}' contains whitespaces"));
        }
        variables.push(Variable {
            name: name.to_owned(),
            value,
        });
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_stand() {
        let read = parse(b"\xef\xbb\xbfA=1 # c\r\n\n# x\n  B=\"q\"=  \nC\nD=").unwrap();
        let read: Vec<_> = read
            .iter()
            .map(|v| (v.name.as_str(), v.value.as_deref()))
            .collect();
        assert_eq!(
            read,
            [
                ("A", Some("1 # c")),
                ("B", Some("\"q\"=  ")),
                ("C", None),
                ("D", Some(""))
            ]
        );
        assert_eq!(
            parse(b"export A=1").unwrap_err(),
            "variable 'export A' contains whitespaces"
        );
        assert_eq!(parse(b"=x").unwrap_err(), "no variable name on line '=x'");
        assert_eq!(
            parse(b"\xff\xfe=1").unwrap_err(),
            "invalid utf8 bytes at line 1: [255 254 61 49]"
        );
    }
}
