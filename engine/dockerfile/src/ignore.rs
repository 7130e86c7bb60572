//! `.dockerignore`: which files a context does not have.

/// Longest file read.
const IGNORE_BYTES_MAX: usize = 4 << 20;

/// Why a file of patterns cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    #[error("illegal exclusion pattern: \"!\"")]
    LoneExclamation { line: usize },
    #[error("syntax error in pattern: `{pattern}`")]
    Syntax { pattern: String },
    #[error("the file is larger than {IGNORE_BYTES_MAX} bytes")]
    TooLarge,
}

/// Patterns in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// `!`: takes back what earlier patterns took.
    exception: bool,
    text: String,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Literal(char),
    /// `?`: not a slash.
    One,
    /// `*`: no slash.
    Many,
    /// `**`: anything.
    Anything,
    /// `**/`: nothing, or anything that ends with a slash. Always followed by
    /// the token that such anything is.
    Directories,
    InDirectories,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignore {
    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        if text.len() > IGNORE_BYTES_MAX {
            return Err(IgnoreError::TooLarge);
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().enumerate().filter_map(|(index, line)| {
            let pattern = line.trim();
            (!line.starts_with('#') && !pattern.is_empty()).then_some((index + 1, pattern))
        });
        Self::collect(lines)
    }

    /// Patterns as `COPY --exclude` gives them.
    pub fn of(patterns: &[String]) -> Result<Self, IgnoreError> {
        Self::collect(
            patterns
                .iter()
                .enumerate()
                .map(|(index, pattern)| (index + 1, pattern.as_str())),
        )
    }

    fn collect<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Self, IgnoreError> {
        let mut ignore = Self::default();
        for (line, given) in lines {
            let (exception, given) = match given.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, given),
            };
            if given.is_empty() {
                return Err(IgnoreError::LoneExclamation { line });
            }
            ignore.add(exception, given)?;
        }
        Ok(ignore)
    }

    fn add(&mut self, exception: bool, given: &str) -> Result<(), IgnoreError> {
        let clean = clean(given);
        let text = match clean.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => rest.to_owned(),
            _ => clean,
        };
        let tokens = tokens(&text).ok_or(IgnoreError::Syntax {
            pattern: given.to_owned(),
        })?;
        self.patterns.push(Pattern {
            exception,
            text,
            tokens,
        });
        Ok(())
    }

    /// Takes a file back, whatever was said before; how a CLI keeps a Dockerfile.
    pub fn keep(&mut self, path: &str) {
        let text = clean(path);
        self.patterns.push(Pattern {
            exception: true,
            tokens: text.chars().map(Token::Literal).collect(),
            text,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a path (relative, with `/`) or a directory above it is left out.
    /// The last pattern that fits decides.
    pub fn matches(&self, path: &str) -> bool {
        let mut ignored = false;
        for pattern in &self.patterns {
            // It could change nothing.
            if pattern.exception != ignored {
                continue;
            }
            let fits = pattern.fits(path)
                || path
                    .match_indices('/')
                    .any(|(at, _)| pattern.fits(&path[..at]));
            if fits {
                ignored = !pattern.exception;
            }
        }
        ignored
    }

    /// Whether nothing below an ignored directory can be taken back.
    pub fn may_skip(&self, directory: &str) -> bool {
        let below = format!("{directory}/");
        !self
            .patterns
            .iter()
            .any(|pattern| pattern.exception && format!("{}/", pattern.text).starts_with(&below))
    }
}

/// A pattern of paths, as `COPY` has them: `*` stays below one slash, `**` does
/// not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern(Vec<Token>);

impl PathPattern {
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        tokens(text).map(Self).ok_or(IgnoreError::Syntax {
            pattern: text.to_owned(),
        })
    }

    /// Whether it fits the whole path.
    pub fn fits(&self, path: &str) -> bool {
        let text: Vec<char> = path.chars().collect();
        fits(&self.0, &text)
    }
}

impl Pattern {
    fn fits(&self, path: &str) -> bool {
        let text: Vec<char> = path.chars().collect();
        fits(&self.tokens, &text)
    }
}

/// Whether the tokens fit the whole text: all states at once, so that no pattern
/// takes more than its length times the text's.
fn fits(tokens: &[Token], text: &[char]) -> bool {
    let mut states = vec![false; tokens.len() + 1];
    states[0] = true;
    step_over(tokens, &mut states);
    for character in text {
        let mut next = vec![false; tokens.len() + 1];
        for (at, token) in tokens.iter().enumerate().filter(|(at, _)| states[*at]) {
            match token {
                Token::Literal(literal) => next[at + 1] |= literal == character,
                Token::One => next[at + 1] |= *character != '/',
                Token::Class { negated, ranges } => {
                    let inside = ranges
                        .iter()
                        .any(|(from, to)| (from..=to).contains(&character));
                    next[at + 1] |= inside != *negated;
                }
                Token::Many => next[at] |= *character != '/',
                Token::Anything => next[at] = true,
                Token::Directories => {}
                Token::InDirectories => {
                    next[at] = true;
                    next[at + 1] |= *character == '/';
                }
            }
        }
        step_over(tokens, &mut next);
        states = next;
    }
    states[tokens.len()]
}

/// Goes on where a token may be nothing.
fn step_over(tokens: &[Token], states: &mut [bool]) {
    for (at, token) in tokens.iter().enumerate() {
        if !states[at] {
            continue;
        }
        match token {
            Token::Many | Token::Anything => states[at + 1] = true,
            Token::Directories => {
                states[at + 1] = true;
                states[at + 2] = true;
            }
            _ => {}
        }
    }
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '*' if characters.peek() == Some(&'*') => {
                while characters.peek() == Some(&'*') {
                    characters.next();
                }
                match characters.peek() {
                    Some('/') => {
                        characters.next();
                        tokens.extend([Token::Directories, Token::InDirectories]);
                    }
                    _ => tokens.push(Token::Anything),
                }
            }
            '*' => tokens.push(Token::Many),
            '?' => tokens.push(Token::One),
            '\\' => tokens.push(Token::Literal(characters.next()?)),
            '[' => {
                let negated = characters.peek() == Some(&'^');
                if negated {
                    characters.next();
                }
                let mut ranges = Vec::new();
                loop {
                    let from = match characters.next()? {
                        ']' if !ranges.is_empty() => break,
                        ']' | '-' => return None,
                        '\\' => characters.next()?,
                        other => other,
                    };
                    let to = match characters.peek() {
                        Some('-') => {
                            characters.next();
                            match characters.next()? {
                                ']' | '-' => return None,
                                '\\' => characters.next()?,
                                other => other,
                            }
                        }
                        _ => from,
                    };
                    ranges.push((from, to));
                }
                tokens.push(Token::Class { negated, ranges });
            }
            literal => tokens.push(Token::Literal(literal)),
        }
    }
    Some(tokens)
}

/// A path without `.`, doubled slashes and, where something stands before, `..`.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&"..") | None if !rooted => parts.push(".."),
                None => {}
                Some(_) => {
                    parts.pop();
                }
            },
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.as_str()) {
        (true, _) => format!("/{joined}"),
        (false, "") => ".".into(),
        (false, _) => joined,
    }
}
