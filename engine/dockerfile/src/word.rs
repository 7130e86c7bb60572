//! What becomes of `$x`, quotes and escapes in a word.

use crate::glob::glob;

/// Longest result of one expansion: `ENV A=$A$A` doubles it each time.
const EXPANDED_BYTES_MAX: usize = 1 << 20;
/// Defaults inside of defaults inside of defaults.
const NESTING_MAX: usize = 32;

/// Why a word has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process \"{word}\": {message}")]
pub struct ExpandError {
    pub word: String,
    pub message: String,
}

/// Expands words with one set of variables.
pub struct Expander<'a> {
    escape: char,
    /// Quotes stay where they are.
    raw_quotes: bool,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Expander<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expander")
            .field("escape", &self.escape)
            .finish_non_exhaustive()
    }
}

impl<'a> Expander<'a> {
    pub fn new(escape: char, lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            escape,
            raw_quotes: false,
            lookup,
        }
    }

    /// One word, whatever spaces it gets.
    pub fn word(&self, word: &str) -> Result<String, ExpandError> {
        self.run(word).map(|done| done.text)
    }

    /// One word that may become none or several.
    pub fn words(&self, word: &str) -> Result<Vec<String>, ExpandError> {
        self.run(word).map(|done| done.words)
    }

    /// The contents of a file: variables only, quotes stay.
    pub fn text(&self, text: &str) -> Result<String, ExpandError> {
        let raw = Self {
            raw_quotes: true,
            ..*self
        };
        raw.run(text).map(|done| done.text)
    }

    fn run(&self, word: &str) -> Result<Done, ExpandError> {
        let mut run = Run {
            expander: self,
            rest: word.chars().collect(),
            at: 0,
            bytes: 0,
        };
        let wrong = |message| ExpandError {
            word: word.chars().take(256).collect(),
            message,
        };
        run.until(None, 0).map_err(wrong)
    }
}

/// A word with its quotes and escapes taken away, nothing expanded.
pub(crate) fn unquoted(word: &str, escape: char) -> Result<String, ExpandError> {
    let keep = |name: &str| Some(format!("${name}"));
    Expander::new(escape, &keep).word(word)
}

#[derive(Default)]
struct Done {
    text: String,
    words: Vec<String>,
    /// The last of `words` goes on.
    open: bool,
}

impl Done {
    /// A character that separates nothing.
    fn add(&mut self, character: char) {
        self.text.push(character);
        if !self.open {
            self.words.push(String::new());
            self.open = true;
        }
        self.words
            .last_mut()
            .expect("a word was opened above")
            .push(character);
    }

    /// A character that separates if it is a space.
    fn add_splitting(&mut self, character: char) {
        if character.is_whitespace() {
            self.text.push(character);
            self.open = false;
        } else {
            self.add(character);
        }
    }

    /// An empty word in quotes is a word.
    fn open(&mut self) {
        if !self.open {
            self.words.push(String::new());
            self.open = true;
        }
    }
}

struct Run<'a, 'b> {
    expander: &'b Expander<'a>,
    rest: Vec<char>,
    at: usize,
    /// All that was produced, nested results included.
    bytes: usize,
}

type Step<T> = Result<T, String>;

impl Run<'_, '_> {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn spend(&mut self, bytes: usize) -> Step<()> {
        self.bytes += bytes;
        match self.bytes > EXPANDED_BYTES_MAX {
            true => Err(format!(
                "the result is longer than {EXPANDED_BYTES_MAX} bytes"
            )),
            false => Ok(()),
        }
    }

    /// Up to the end, or to this character.
    fn until(&mut self, stop: Option<char>, depth: usize) -> Step<Done> {
        if depth > NESTING_MAX {
            return Err(format!(
                "substitutions are nested deeper than {NESTING_MAX}"
            ));
        }
        let mut done = Done::default();
        while let Some(character) = self.next() {
            if stop == Some(character) {
                return Ok(done);
            }
            match character {
                '\'' => self.single(&mut done)?,
                '"' => self.double(&mut done, depth)?,
                '$' => {
                    let value = self.dollar(depth)?;
                    self.spend(value.len())?;
                    value.chars().for_each(|c| done.add_splitting(c));
                }
                c if c == self.expander.escape => match self.next() {
                    Some(next) => {
                        if self.expander.raw_quotes && !matches!(next, '$') && next != c {
                            done.add(c);
                        }
                        done.add(next);
                    }
                    None if self.expander.raw_quotes => done.add(c),
                    None => {}
                },
                c => done.add_splitting(c),
            }
            self.spend(1)?;
        }
        match stop {
            None => Ok(done),
            Some(stop) => Err(format!(
                "unexpected end of statement while looking for matching {stop}"
            )),
        }
    }

    fn single(&mut self, done: &mut Done) -> Step<()> {
        if self.expander.raw_quotes {
            done.add('\'');
            return Ok(());
        }
        done.open();
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(character) => done.add(character),
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching single-quote"
                            .into(),
                    );
                }
            }
        }
    }

    fn double(&mut self, done: &mut Done, depth: usize) -> Step<()> {
        if self.expander.raw_quotes {
            done.add('"');
            return Ok(());
        }
        done.open();
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('$') => {
                    let value = self.dollar(depth)?;
                    self.spend(value.len())?;
                    value.chars().for_each(|c| done.add(c));
                }
                Some(c) if c == self.expander.escape => match self.next() {
                    // Before anything else it is a character.
                    Some(next) if next == '"' || next == '$' || next == c => done.add(next),
                    Some(next) => {
                        done.add(c);
                        done.add(next);
                    }
                    None => {}
                },
                Some(character) => done.add(character),
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching double-quote"
                            .into(),
                    );
                }
            }
        }
    }

    /// What follows a `$`.
    fn dollar(&mut self, depth: usize) -> Step<String> {
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(match name.as_str() {
                "" => "$".into(),
                name => self.value(name).unwrap_or_default(),
            });
        }
        self.next();
        let name = match self.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => self.name(),
        };
        let value = self.value(&name);
        let Some(modifier) = self.next() else {
            return Err("syntax error: missing '}'".into());
        };
        match modifier {
            '}' => Ok(value.unwrap_or_default()),
            ':' => {
                let Some(modifier) = self.next() else {
                    return Err("syntax error: missing modifier in substitution".into());
                };
                let value = value.filter(|value| !value.is_empty());
                self.alternative(&format!(":{modifier}"), modifier, &name, value, depth)
            }
            '+' | '-' | '?' => {
                self.alternative(&modifier.to_string(), modifier, &name, value, depth)
            }
            '#' | '%' => {
                let greedy = self.peek() == Some(modifier);
                if greedy {
                    self.next();
                }
                let pattern = self.until(Some('}'), depth + 1)?.text;
                let value = value.unwrap_or_default();
                Ok(match modifier {
                    '#' => without_prefix(&value, &pattern, greedy),
                    _ => without_suffix(&value, &pattern, greedy),
                })
            }
            '/' => {
                let all = self.peek() == Some('/');
                if all {
                    self.next();
                }
                let pattern = self.until(Some('/'), depth + 1)?.text;
                let replacement = self.until(Some('}'), depth + 1)?.text;
                self.replaced(&value.unwrap_or_default(), &pattern, &replacement, all)
            }
            other => Err(format!("unsupported modifier ({other}) in substitution")),
        }
    }

    fn alternative(
        &mut self,
        shown: &str,
        modifier: char,
        name: &str,
        value: Option<String>,
        depth: usize,
    ) -> Step<String> {
        if !matches!(modifier, '+' | '-' | '?') {
            return Err(format!("unsupported modifier ({shown}) in substitution"));
        }
        let word = self.until(Some('}'), depth + 1)?.text;
        match (modifier, value) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            (_, None) => Err(match word.as_str() {
                "" => format!("{name}: parameter not set or null"),
                word => format!("{name}: {word}"),
            }),
        }
    }

    /// A name, one special parameter, or the digits of a position.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(character) = self.peek() {
            if name.is_empty() {
                if character.is_ascii_digit() {
                    while let Some(digit) = self.peek().filter(char::is_ascii_digit) {
                        name.push(digit);
                        self.next();
                    }
                    return name;
                }
                if matches!(character, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                    self.next();
                    return character.to_string();
                }
            }
            if !character.is_alphanumeric() && character != '_' {
                break;
            }
            name.push(character);
            self.next();
        }
        name
    }

    fn value(&self, name: &str) -> Option<String> {
        (self.expander.lookup)(name)
    }

    fn replaced(&mut self, value: &str, pattern: &str, with: &str, all: bool) -> Step<String> {
        let mut result = String::new();
        let mut rest = value;
        while !rest.is_empty() {
            let found = cuts(rest)
                .rev()
                .find(|at| *at > 0 && glob(pattern, &rest[..*at]));
            match found {
                Some(end) => {
                    self.spend(with.len())?;
                    result.push_str(with);
                    rest = &rest[end..];
                    if !all {
                        break;
                    }
                }
                None => {
                    let end = cuts(rest).nth(1).unwrap_or(rest.len());
                    result.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
            }
            // Looking at every end of every beginning takes its time.
            self.spend(rest.len() / 16)?;
        }
        result.push_str(rest);
        Ok(result)
    }
}

/// Places between characters, both ends included.
fn cuts(text: &str) -> impl DoubleEndedIterator<Item = usize> + '_ {
    text.char_indices()
        .map(|(at, _)| at)
        .chain(std::iter::once(text.len()))
}

fn without_prefix(value: &str, pattern: &str, greedy: bool) -> String {
    let fits = |at: &usize| glob(pattern, &value[..*at]);
    let end = match greedy {
        true => cuts(value).rev().find(fits),
        false => cuts(value).find(fits),
    };
    value[end.unwrap_or(0)..].to_owned()
}

fn without_suffix(value: &str, pattern: &str, greedy: bool) -> String {
    let fits = |at: &usize| glob(pattern, &value[*at..]);
    let start = match greedy {
        true => cuts(value).find(fits),
        false => cuts(value).rev().find(fits),
    };
    value[..start.unwrap_or(value.len())].to_owned()
}
