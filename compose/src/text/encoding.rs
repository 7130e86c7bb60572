//! Bytes → text: UTF-8, or UTF-16 where a byte order mark says so, as docker's client reads files.

/// Why bytes are no text, and after which characters that shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    pub message: String,
    /// The text with what is no character replaced.
    pub text: String,
}

/// Reads bytes as text.
///
/// # Errors
/// Where the first bytes stand that are no character.
pub(crate) fn decode(bytes: &[u8]) -> Result<String, Wrong> {
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => utf8(bytes),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, Wrong> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let (sound, rest) = bytes.split_at(error.valid_up_to());
            let byte = rest.first().copied().unwrap_or_default();
            let message = format!("the byte 0x{byte:02x} is no UTF-8 text");
            let text = String::from_utf8_lossy(bytes).into_owned();
            Err(wrong(&String::from_utf8_lossy(sound), message, text))
        }
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, Wrong> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| unit(*pair));
    let mut text = String::with_capacity(bytes.len());
    let mut first = None;
    for next in char::decode_utf16(units) {
        match next {
            Ok(c) => text.push(c),
            Err(error) => {
                let half = error.unpaired_surrogate();
                first.get_or_insert_with(|| {
                    (
                        text.len(),
                        format!("0x{half:04x} is half of a UTF-16 character"),
                    )
                });
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
    }
    if !rest.is_empty() {
        first.get_or_insert_with(|| {
            (
                text.len(),
                "the file ends within a UTF-16 character".to_owned(),
            )
        });
    }
    match first {
        None => Ok(text),
        Some((end, message)) => Err(wrong(&text[..end], message, text.clone())),
    }
}

/// What stands behind `before` is wrong.
fn wrong(before: &str, message: String, text: String) -> Wrong {
    let line = before.rsplit('\n').next().unwrap_or("");
    Wrong {
        line: before.matches('\n').count() + 1,
        column: line.chars().count() + 1,
        message,
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_utf16(text: &str, mark: [u8; 2], bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        mark.into_iter()
            .chain(text.encode_utf16().flat_map(bytes))
            .collect()
    }

    #[test]
    fn byte_order_marks_say_how_text_is_read() {
        let text = "a: é𝄞\n";
        for bytes in [
            text.as_bytes().to_vec(),
            in_utf16(text, [0xff, 0xfe], u16::to_le_bytes),
            in_utf16(text, [0xfe, 0xff], u16::to_be_bytes),
        ] {
            assert_eq!(decode(&bytes).as_deref(), Ok(text), "{bytes:?}");
        }
        // That of UTF-8 stays: it is a character like others, and the parser knows it.
        assert_eq!(decode(b"\xef\xbb\xbfa").as_deref(), Ok("\u{feff}a"));
    }

    #[test]
    fn what_is_no_character_is_told_with_its_place() {
        let mut lone = in_utf16("a:\nb", [0xff, 0xfe], u16::to_le_bytes);
        lone.extend([0x00, 0xdc]);
        let mut odd = in_utf16("a", [0xfe, 0xff], u16::to_be_bytes);
        odd.push(0);
        for (bytes, line, column, message) in [
            (
                b"a:\n  b\xff".to_vec(),
                2,
                4,
                "the byte 0xff is no UTF-8 text",
            ),
            (
                "é: é".as_bytes()[..5].to_vec(),
                1,
                4,
                "the byte 0xc3 is no UTF-8 text",
            ),
            (lone, 2, 2, "0xdc00 is half of a UTF-16 character"),
            (odd, 1, 2, "the file ends within a UTF-16 character"),
        ] {
            let wrong = decode(&bytes).unwrap_err();
            assert_eq!(
                (wrong.line, wrong.column, wrong.message.as_str()),
                (line, column, message)
            );
        }
    }
}
