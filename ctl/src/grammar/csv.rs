//! `key=value,key=value`, with quotes around a field that has a comma in it.

/// Cuts one line of comma-separated fields.
pub fn fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        let mut field = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => {
                        return Err(
                            "parse error on line 1: extraneous or missing \" in quoted-field"
                                .to_owned(),
                        );
                    }
                }
            }
            match chars.next() {
                None => {
                    fields.push(field);
                    return Ok(fields);
                }
                Some(',') => {
                    fields.push(field);
                    continue;
                }
                Some(_) => {
                    return Err(
                        "parse error on line 1: extraneous or missing \" in quoted-field"
                            .to_owned(),
                    );
                }
            }
        }
        loop {
            match chars.next() {
                None => {
                    fields.push(field);
                    return Ok(fields);
                }
                Some(',') => break,
                Some('"') => {
                    return Err("parse error on line 1: bare \" in non-quoted-field".to_owned());
                }
                Some(c) => field.push(c),
            }
        }
        fields.push(field);
    }
}

/// Whether a value is written as `key=value,…` rather than in a short form.
pub fn is_long(value: &str) -> bool {
    let bytes = value.as_bytes();
    let word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'=' && at > 0 && word(bytes.get(at - 1)) && word(bytes.get(at + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_part_fields_unless_quoted() {
        assert_eq!(fields("a=1,b").unwrap(), ["a=1", "b"]);
        assert_eq!(
            fields(r#"a=1,"o=x,""y""",c"#).unwrap(),
            ["a=1", "o=x,\"y\"", "c"]
        );
        assert_eq!(fields("a,").unwrap(), ["a", ""]);
        assert!(fields(r#"a"b"#).is_err());
        assert!(fields(r#""ab"#).is_err());
        assert!(is_long("target=80") && is_long("80,target=80"));
        assert!(!is_long("80:80") && !is_long("="));
    }
}
