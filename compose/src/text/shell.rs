//! Splits a command line into words the way a POSIX shell quotes, without expanding anything.

/// Why a command line cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SplitError {
    #[error("EOF found when expecting closing quote")]
    OpenQuote,
    #[error("EOF found after escape character")]
    OpenEscape,
}

/// The words of a command line. Quotes and backslashes are taken away; a `#` at the start of a
/// word begins a comment.
pub(crate) fn split(line: &str) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '#' if word.is_none() => {
                rest.by_ref().find(|c| *c == '\n');
            }
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err(SplitError::OpenQuote),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        Some('"') => break,
                        Some('\\') => word.push(rest.next().ok_or(SplitError::OpenEscape)?),
                        Some(c) => word.push(c),
                        None => return Err(SplitError::OpenQuote),
                    }
                }
            }
            '\\' => {
                let escaped = rest.next().ok_or(SplitError::OpenEscape)?;
                word.get_or_insert_default().push(escaped);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_split() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  a  b\tc\nd ", &["a", "b", "c", "d"]),
            ("\"a b\"c 'x y' d\\ e # com", &["a bc", "x y", "d e"]),
            ("a; b | c > d &", &["a;", "b", "|", "c", ">", "d", "&"]),
            ("\"\" ''", &["", ""]),
            ("a#b \"x\\\"y\" 'x\\y'", &["a#b", "x\"y", "x\\y"]),
            ("`x` $(a)", &["`x`", "$(a)"]),
            ("a # b\nc", &["a", "c"]),
        ];
        for (line, words) in cases {
            assert_eq!(split(line).unwrap(), *words, "{line}");
        }
        assert_eq!(split("a \"b"), Err(SplitError::OpenQuote));
        assert_eq!(split("a 'b"), Err(SplitError::OpenQuote));
        assert_eq!(split("a\\"), Err(SplitError::OpenEscape));
    }
}
