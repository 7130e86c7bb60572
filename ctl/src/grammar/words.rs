//! A command line in one text, cut into words as a shell cuts it.

/// Words of `text`; quotes and backslashes keep spaces together.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err("EOF found when expecting closing quote".to_owned()),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => match chars.next() {
                            None => return Err("EOF found after escape character".to_owned()),
                            Some(escaped) => word.push(escaped),
                        },
                        Some(other) => word.push(other),
                    }
                }
            }
            '\\' => match chars.next() {
                None => return Err("EOF found after escape character".to_owned()),
                Some(escaped) => word.get_or_insert_default().push(escaped),
            },
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
    fn words_are_a_shells() {
        for (text, words) in [
            ("sh -c 'echo  a'", &["sh", "-c", "echo  a"][..]),
            (r#"a "b \"c\"" d\ e"#, &["a", "b \"c\"", "d e"]),
            ("", &[]),
            ("''", &[""]),
            ("--x='y z'", &["--x=y z"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        assert!(split("'a").is_err());
        assert!(split("a\\").is_err());
    }
}
