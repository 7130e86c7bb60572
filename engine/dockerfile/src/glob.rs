//! A shell's patterns, for parts of values: `*` takes anything.

/// Whether a pattern of `*`, `?` and `\x` fits the whole text.
pub fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where to go on when the latest `*` has to take one more character.
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                back = Some((p, t));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('\\') if pattern.len() > p + 1 => (pattern[p + 1] == text[t]).then_some(2),
            Some(literal) => (*literal == text[t]).then_some(1),
            None => None,
        };
        match (step, back) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((star, at))) => {
                back = Some((star, at + 1));
                p = star + 1;
                t = at + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|left| *left == '*')
}
