//! What stores say of themselves, as it may be told: one line, bounded, no control characters.

/// Characters of a store's own words that are told.
const WORDS_MAX: usize = 200;

/// The first line that says something.
pub fn first_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    let shown = line.unwrap_or_default().chars().take(WORDS_MAX);
    shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// An error with all its causes, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text += &format!(": {words}");
        }
        cause = error.source();
    }
    first_line(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_told_and_no_more() {
        assert_eq!(
            first_line(b"\n  no such entry \x1b[0m\nand more"),
            "no such entry  [0m"
        );
        assert_eq!(first_line(b""), "");
        assert_eq!(
            first_line("ä".repeat(999).as_bytes()).chars().count(),
            WORDS_MAX
        );
        assert_eq!(first_line(b"\xff!"), "\u{fffd}!");
    }
}
