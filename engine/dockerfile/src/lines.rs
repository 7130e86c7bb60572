//! Logical lines: what stands between a keyword and the end of its instruction,
//! over continuations, comments inside them, and here-documents.

use crate::directive::Directives;
use crate::error::ParseError;
use crate::flags;
use crate::heredoc::{self, Heredoc};

/// Longest line; docker's own bound.
const LINE_BYTES_MAX: usize = 65_535;

/// One instruction as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Where it begins, from 1.
    pub(crate) line: usize,
    /// The whole line, continuations joined.
    pub(crate) original: String,
    /// The first word as written.
    pub(crate) keyword: String,
    /// `--name=value` before the arguments.
    pub(crate) flags: Vec<String>,
    /// What follows.
    pub(crate) rest: String,
    pub(crate) heredocs: Vec<Heredoc>,
}

/// Splits a file.
pub(crate) fn split(text: &str) -> Result<(Directives, Vec<Node>), ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut directives = Directives::default();
    let mut nodes = Vec::new();
    let mut lines = text
        .split_inclusive('\n')
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    while let Some((number, raw)) = lines.next() {
        let line = checked(number, raw)?.trim_start();
        directives
            .look(line)
            .map_err(|message| ParseError::at(number, message))?;
        if line.starts_with('#') {
            continue;
        }
        let (mut whole, mut ended) = uncontinued(line, directives.escape);
        if ended && whole.is_empty() {
            continue;
        }
        while !ended {
            let Some((number, raw)) = lines.next() else {
                break;
            };
            let line = checked(number, raw)?;
            // Comments and empty lines inside an instruction are not part of it.
            if line.trim_start().starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let (more, is_end) = uncontinued(line, directives.escape);
            whole.push_str(&more);
            ended = is_end;
        }
        let mut node = node(number, &whole, directives.escape)?;
        if heredoc::may_have(&node.keyword, &node.rest) && whole.contains("<<") {
            for mut document in heredoc::announced(&whole, directives.escape) {
                let mut ended = false;
                for (_, raw) in lines.by_ref() {
                    if document.ends_with(trim_newline(raw)) {
                        ended = true;
                        break;
                    }
                    document.content.push_str(raw);
                }
                if !ended {
                    return Err(ParseError::at(number, "unterminated heredoc"));
                }
                node.heredocs.push(document);
            }
        }
        nodes.push(node);
    }
    if nodes.is_empty() {
        return Err(ParseError::at(1, "file with no instructions"));
    }
    Ok((directives, nodes))
}

fn trim_newline(line: &str) -> &str {
    line.trim_end_matches(['\n', '\r'])
}

fn checked(number: usize, raw: &str) -> Result<&str, ParseError> {
    if raw.len() > LINE_BYTES_MAX {
        return Err(ParseError::at(
            number,
            format!("dockerfile line greater than maximum allowed size of {LINE_BYTES_MAX}"),
        ));
    }
    Ok(trim_newline(raw))
}

/// The line without its continuation mark, and whether it had none. A doubled
/// mark is a character, not a continuation.
fn uncontinued(line: &str, escape: char) -> (String, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before.to_owned(), false),
        _ => (line.to_owned(), true),
    }
}

fn node(line: usize, text: &str, escape: char) -> Result<Node, ParseError> {
    let original = text.trim();
    let (keyword, rest) = original
        .split_once(char::is_whitespace)
        .unwrap_or((original, ""));
    let (flags, rest) =
        flags::split(rest.trim(), escape).map_err(|message| ParseError::at(line, message))?;
    Ok(Node {
        line,
        original: original.to_owned(),
        keyword: keyword.to_owned(),
        flags,
        rest: rest.trim().to_owned(),
        heredocs: Vec::new(),
    })
}

/// A single instruction, as `ONBUILD` and `--change` have it.
pub(crate) fn single(text: &str, escape: char) -> Result<Node, ParseError> {
    let (_, nodes) = split(text)?;
    match <[Node; 1]>::try_from(nodes) {
        Ok([only]) if escape == '\\' || !only.heredocs.is_empty() => Ok(only),
        Ok([only]) => node(only.line, &only.original, escape),
        Err(_) => Err(ParseError::at(
            1,
            "onbuild trigger should be a single expression",
        )),
    }
}
