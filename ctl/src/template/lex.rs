//! The words of an action.

/// A word and where it begins, in bytes of the template.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub word: Word,
    pub at: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    /// `.`
    Dot,
    /// `.Name`, and whether a space stands before it.
    Field(String, bool),
    /// `$` or `$name`.
    Variable(String),
    /// A function or keyword.
    Name(String),
    Text(String),
    Number(String),
    Open,
    /// `)`.
    Close,
    Pipe,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// A template's outer pieces.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Text(String),
    /// Words of an action, and where they begin.
    Action {
        words: Vec<Token>,
        at: usize,
    },
}

/// Cuts a template into text and actions, applying `{{-` and `-}}`.
pub fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut from = 0;
    let mut trim_next = false;
    while let Some(open) = template[from..].find("{{") {
        let open = from + open;
        let mut text = &template[from..open];
        if trim_next {
            text = text.trim_start();
        }
        let mut inner = open + 2;
        if is_trim_marker(&template[inner..]) {
            text = text.trim_end();
            inner += 1;
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        if template[inner..].trim_start().starts_with("/*") {
            let end = template[inner..]
                .find("*/")
                .ok_or_else(|| error(template, inner, "unclosed comment"))?;
            let rest = &template[inner + end + 2..];
            let close = rest
                .find("}}")
                .ok_or_else(|| error(template, inner, "comment ends before closing delimiter"))?;
            trim_next = rest[..close].trim() == "-";
            from = inner + end + 2 + close + 2;
            continue;
        }
        let (words, end, trims) = action(template, inner)?;
        trim_next = trims;
        pieces.push(Piece::Action { words, at: inner });
        from = end;
    }
    let mut text = &template[from..];
    if trim_next {
        text = text.trim_start();
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
    Ok(pieces)
}

fn is_trim_marker(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next() == Some('-') && chars.next().is_some_and(char::is_whitespace)
}

/// `template: :LINE: why`, as Go reports what it cannot read.
pub fn error(template: &str, at: usize, why: &str) -> String {
    let line = template[..at.min(template.len())].matches('\n').count() + 1;
    format!("template: :{line}: {why}")
}

/// The words from `from` to the closing `}}`, where that ends, and whether it trims.
fn action(template: &str, from: usize) -> Result<(Vec<Token>, usize, bool), String> {
    let mut words = Vec::new();
    let mut at = from;
    let mut spaced = true;
    let bytes = template.as_bytes();
    loop {
        let rest = &template[at..];
        if rest.starts_with("}}") {
            return Ok((words, at + 2, false));
        }
        let Some(first) = rest.chars().next() else {
            return Err(error(template, from, "unclosed action"));
        };
        if first.is_whitespace() {
            let trimmed = rest.trim_start();
            at += rest.len() - trimmed.len();
            if trimmed.starts_with("-}}") {
                return Ok((words, at + 3, true));
            }
            spaced = true;
            continue;
        }
        let start = at;
        let (word, length) = match first {
            '(' => (Word::Open, 1),
            ')' => (Word::Close, 1),
            '|' => (Word::Pipe, 1),
            ',' => (Word::Comma, 1),
            '=' => (Word::Assign, 1),
            ':' if rest.starts_with(":=") => (Word::Declare, 2),
            '"' => quoted(template, at)?,
            '\'' => character(template, at)?,
            '`' => {
                let end = rest[1..]
                    .find('`')
                    .ok_or_else(|| error(template, at, "unterminated raw quoted string"))?;
                (Word::Text(rest[1..=end].to_owned()), end + 2)
            }
            '.' if bytes
                .get(at + 1)
                .is_some_and(|byte| is_name(char::from(*byte)))
                && !bytes[at + 1].is_ascii_digit() =>
            {
                let name = name(&rest[1..]);
                (Word::Field(name.to_owned(), spaced), name.len() + 1)
            }
            '.' if !bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => (Word::Dot, 1),
            '$' => {
                let name = name(&rest[1..]);
                (Word::Variable(format!("${name}")), name.len() + 1)
            }
            c if c.is_ascii_digit()
                || c == '.'
                || ((c == '-' || c == '+')
                    && rest[1..].starts_with(|c: char| c.is_ascii_digit() || c == '.')) =>
            {
                let length = rest[1..]
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'))
                    .map_or(rest.len(), |end| end + 1);
                (Word::Number(rest[..length].to_owned()), length)
            }
            c if is_name(c) => {
                let name = name(rest);
                (Word::Name(name.to_owned()), name.len())
            }
            c => {
                let why = format!(
                    "unexpected {} in command",
                    crate::human::quote(&c.to_string())
                );
                return Err(error(template, at, &why));
            }
        };
        words.push(Token { word, at: start });
        at += length;
        spaced = false;
    }
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn name(text: &str) -> &str {
    &text[..text.find(|c| !is_name(c)).unwrap_or(text.len())]
}

fn quoted(template: &str, from: usize) -> Result<(Word, usize), String> {
    let mut text = String::new();
    let mut chars = template[from + 1..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Word::Text(text), at + 2)),
            '\n' => break,
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some(c @ ('"' | '\\' | '\'')) => text.push(c),
                Some(c @ ('x' | 'u' | 'U')) => {
                    let digits = match c {
                        'x' => 2,
                        'u' => 4,
                        _ => 8,
                    };
                    let code: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                    let c = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                    text.push(c.ok_or_else(|| error(template, from, "invalid syntax"))?);
                }
                _ => return Err(error(template, from, "invalid syntax")),
            },
            c => text.push(c),
        }
    }
    Err(error(template, from, "unterminated quoted string"))
}

/// `'x'`: a number, as in Go.
fn character(template: &str, from: usize) -> Result<(Word, usize), String> {
    let rest = &template[from + 1..];
    let mut chars = rest.chars();
    match (chars.next(), chars.next()) {
        (Some(c), Some('\'')) if c != '\\' => {
            Ok((Word::Number((c as u32).to_string()), c.len_utf8() + 2))
        }
        _ => Err(error(template, from, "unterminated character constant")),
    }
}
