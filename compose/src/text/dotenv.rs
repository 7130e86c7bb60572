//! Files of variables as compose reads them: quotes, comments and variables within.

use super::env_file::Variable;
use crate::Env;
use crate::interpolate;

/// As [`parse`], with variables of the file before those of `env`.
///
/// # Errors
/// What is wrong, with its line.
pub(crate) fn parse_with(bytes: &[u8], env: Env<'_>) -> Result<Vec<Variable>, String> {
    parse(bytes, &|text, known| {
        let look = |name: &str| {
            let own = known.iter().rev().find(|one| one.name == name);
            env(name).or_else(|| own.and_then(|one| one.value.clone()))
        };
        interpolate::replace(text, &look).text.map_err(|wrong| {
            wrong
                .message
                .unwrap_or_else(|| format!("invalid variable in {text:?}"))
        })
    })
}

/// Puts values in place of the variables of a text.
type Replace<'a> = &'a dyn Fn(&str, &[Variable]) -> Result<String, String>;

/// Reads a `.env` file. `replace` puts values in place of the variables of a value, given those
/// read so far.
///
/// # Errors
/// What is wrong, with its line.
pub(crate) fn parse(bytes: &[u8], replace: Replace<'_>) -> Result<Vec<Variable>, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    let mut variables: Vec<Variable> = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let first = first.trim_end_matches('\r');
        let trimmed = first.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            (rest, line) = (after, line + 1);
            continue;
        }
        let here = line;
        let wrong = move |what: String| format!("line {here}: {what}");
        let (indent, body) = (first.len() - first.trim_start().len(), first.trim_start());
        let exported = body
            .strip_prefix("export ")
            .map_or(0, |rest| body.len() - rest.trim_start().len());
        let entry = &body[exported..];
        let Some((name, value)) = entry.split_once('=') else {
            let name = entry.trim();
            check_name(name).map_err(wrong)?;
            let name = name.to_owned();
            variables.push(Variable { name, value: None });
            (rest, line) = (after, line + 1);
            continue;
        };
        check_name(name.trim()).map_err(wrong)?;
        let start = indent + exported + name.len() + 1;
        let blank = value.len() - value.trim_start().len();
        let quote = value.trim_start().chars().next();
        let value = match quote {
            Some(quote @ ('"' | '\'')) => {
                // A quoted value may go over several lines.
                let from = start + blank + 1;
                let Some(end) = closing(&rest[from..], quote) else {
                    return Err(wrong(format!(
                        "unterminated quoted value of {}",
                        name.trim()
                    )));
                };
                let inner = &rest[from..from + end];
                line += inner.matches('\n').count() + 1;
                rest = rest[from + end + 1..]
                    .split_once('\n')
                    .map_or("", |(_, after)| after);
                match quote {
                    '\'' => inner.to_owned(),
                    _ => replace(&unescape(inner), &variables).map_err(wrong)?,
                }
            }
            _ => {
                let plain = match value.find(" #").or_else(|| value.find("\t#")) {
                    Some(comment) => &value[..comment],
                    None if value.starts_with('#') => "",
                    None => value,
                };
                (rest, line) = (after, line + 1);
                replace(plain.trim(), &variables).map_err(wrong)?
            }
        };
        variables.push(Variable {
            name: name.trim().to_owned(),
            value: Some(value),
        });
    }
    Ok(variables)
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("no variable name".to_owned());
    }
    match name
        .chars()
        .find(|c| c.is_whitespace() || "\"'$".contains(*c))
    {
        Some(_) => Err(format!("unexpected character in variable name \"{name}\"")),
        None => Ok(()),
    }
}

/// Where the closing quote is.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == quote && !escaped;
        escaped = quote == '"' && c == '\\' && !escaped;
        ends.then_some(at)
    })
}

/// `\n` and its like; `\$` keeps a dollar from being a variable.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('$') => out.push_str("$$"),
            Some(c @ ('"' | '\\' | '\'')) => out.push(c),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_comments_and_variables_are_understood() {
        let replace = |text: &str, known: &[Variable]| {
            let mut text = text.to_owned();
            for one in known {
                text = text.replace(
                    &format!("${{{}}}", one.name),
                    one.value.as_deref().unwrap_or(""),
                );
            }
            Ok(text)
        };
        let text = "# c\n\nA=1 # one\nexport B = \"x ${A}\\ny\" # two\nC='${A} #'\nD\nE=\nF=\"a\nb\"\nG=a#b\r\n";
        let read = parse(text.as_bytes(), &replace).unwrap();
        let read: Vec<_> = read
            .iter()
            .map(|one| (one.name.as_str(), one.value.as_deref()))
            .collect();
        assert_eq!(
            read,
            [
                ("A", Some("1")),
                ("B", Some("x 1\ny")),
                ("C", Some("${A} #")),
                ("D", None),
                ("E", Some("")),
                ("F", Some("a\nb")),
                ("G", Some("a#b")),
            ]
        );
        for (text, wrong) in [
            ("A=1\nB=\"x", "line 2: unterminated quoted value of B"),
            ("=x", "line 1: no variable name"),
            (
                "A B=x",
                "line 1: unexpected character in variable name \"A B\"",
            ),
        ] {
            assert_eq!(parse(text.as_bytes(), &replace).unwrap_err(), wrong);
        }
    }
}
