//! Prints a value as YAML, laid out the way docker does.

use crate::out::Out;
use crate::scalar::{Resolved, boolean, float_text, resolve};

/// The value as a YAML document.
pub(crate) fn emit(value: &Out) -> String {
    let mut text = String::new();
    match value {
        Out::Map(entries) if !entries.is_empty() => map(&mut text, entries, 0, false),
        Out::List(items) if !items.is_empty() => list(&mut text, items, 0, false),
        other => {
            text.push_str(&scalar(other, 0));
            text.push('\n');
        }
    }
    text
}

fn indent(text: &mut String, level: usize) {
    for _ in 0..level {
        text.push_str("  ");
    }
}

/// `inline` when the first line has its indentation already (after `- `).
fn map(text: &mut String, entries: &[(String, Out)], level: usize, inline: bool) {
    for (index, (key, value)) in entries.iter().enumerate() {
        if index > 0 || !inline {
            indent(text, level);
        }
        text.push_str(&string(key, None));
        text.push(':');
        match value {
            Out::Map(entries) if !entries.is_empty() => {
                text.push('\n');
                map(text, entries, level + 1, false);
            }
            Out::List(items) if !items.is_empty() => {
                text.push('\n');
                list(text, items, level + 1, false);
            }
            other => {
                text.push(' ');
                text.push_str(&scalar(other, level + 1));
                text.push('\n');
            }
        }
    }
}

fn list(text: &mut String, items: &[Out], level: usize, inline: bool) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 || !inline {
            indent(text, level);
        }
        text.push_str("- ");
        match item {
            Out::Map(entries) if !entries.is_empty() => map(text, entries, level + 1, true),
            Out::List(items) if !items.is_empty() => list(text, items, level + 1, true),
            other => {
                text.push_str(&scalar(other, level + 1));
                text.push('\n');
            }
        }
    }
}

fn scalar(value: &Out, level: usize) -> String {
    match value {
        Out::Null => "null".to_owned(),
        Out::Bool(value) => value.to_string(),
        Out::Int(value) => value.to_string(),
        Out::Uint(value) => value.to_string(),
        Out::Float(value) => match float_text(*value).as_str() {
            "NaN" => ".nan".to_owned(),
            "+Inf" => ".inf".to_owned(),
            "-Inf" => "-.inf".to_owned(),
            number => number.to_owned(),
        },
        Out::Text(text) => string(text, Some(level)),
        Out::List(_) => "[]".to_owned(),
        Out::Map(_) => "{}".to_owned(),
    }
}

/// A string, quoted where it would read as something else; several lines become a block where
/// `block_level` allows one.
fn string(text: &str, block_level: Option<usize>) -> String {
    if text.contains('\n')
        && let Some(level) = block_level
        && is_block(text)
    {
        return block(text, level);
    }
    // A value is no merge key.
    let is_merge_key = text == "<<" && block_level.is_none();
    if text.chars().any(is_odd) || reads_as_other(text) || is_merge_key {
        double_quoted(text)
    } else if is_plain(text) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// What docker writes by its number: controls, marks, and what is beyond the first plane.
fn is_odd(c: char) -> bool {
    c.is_control() || c > '\u{ffff}' || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}')
}

/// Whether an unquoted `text` is no string, here or for a reader of YAML 1.1.
fn reads_as_other(text: &str) -> bool {
    if resolve(text) != Resolved::Text || boolean(text).is_some() || text == "=" {
        return true;
    }
    let numeric = |c: char| c.is_ascii_digit() || "+-.:_".contains(c);
    // 1:30 (base sixty) and 2001-01-01.
    text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+')
        && text.contains([':', '-'])
        && text.chars().any(|c| c.is_ascii_digit())
        && text.chars().all(|c| numeric(c) || "TtZz ".contains(c))
        && (is_base_sixty(text) || is_date(text))
}

fn is_base_sixty(text: &str) -> bool {
    let text = text.trim_start_matches(['+', '-']);
    let mut parts = text.split(':');
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    parts.next().is_some_and(digits)
        && text.contains(':')
        && parts.all(|part| part.len() <= 2 && digits(part) && *part < *"60")
}

fn is_date(text: &str) -> bool {
    let date = text.split(['T', 't', ' ']).next().unwrap_or_default();
    let mut parts = date.split('-');
    let mut number = |most: usize| {
        parts.next().is_some_and(|part| {
            (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit())
        })
    };
    number(4) && number(2) && number(2)
}

fn is_plain(text: &str) -> bool {
    let mut chars = text.chars();
    let Some(first) = chars.next() else {
        return false;
    };
    if text.starts_with(' ')
        || text.ends_with(' ')
        || text.starts_with("---")
        || text.starts_with("...")
    {
        return false;
    }
    let second_is_space = chars.next().is_none_or(char::is_whitespace);
    let first_is_sound = match first {
        '-' | '?' | ':' => !second_is_space,
        c => !"#,[]{}&*!|>'\"%@`".contains(c),
    };
    // Brackets and commas are only wrong within flow collections, but docker quotes by its own
    // rules; what matters is that the text reads back as itself.
    first_is_sound && !text.contains(": ") && !text.contains(" #") && !text.ends_with(':')
}

fn is_block(text: &str) -> bool {
    let odd = |c: char| is_odd(c) && c != '\n' && c != '\t';
    !text.chars().any(odd)
        && !text.starts_with('\t')
        && text.contains(|c| c != '\n')
        && text.lines().all(|line| !line.ends_with([' ', '\t']))
}

fn block(text: &str, level: usize) -> String {
    let mut out = String::from("|");
    // How far it is indented cannot be seen of the first line.
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    if text.ends_with("\n\n") {
        out.push('+');
    } else if !text.ends_with('\n') {
        out.push('-');
    }
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(&mut out, level);
            out.push_str(line);
        }
    }
    out
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            c if is_odd(c) => match u32::from(c) {
                0x85 => out.push_str("\\N"),
                0x2028 => out.push_str("\\L"),
                0x2029 => out.push_str("\\P"),
                code @ ..=0xff => out.push_str(&format!("\\x{code:02X}")),
                code @ ..=0xffff => out.push_str(&format!("\\u{code:04X}")),
                code => out.push_str(&format!("\\U{code:08X}")),
            },
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    #[test]
    fn what_is_printed_reads_back_as_itself() {
        let texts = [
            "",
            " ",
            "x",
            "yes",
            "No",
            "~",
            "null",
            "5",
            "0440",
            "1.5",
            "1:30",
            "2001-01-01",
            "- x",
            "-x",
            "a: b",
            "a:",
            "a #b",
            "#a",
            "[a]",
            "{a}",
            "*a",
            "&a",
            "!a",
            "'",
            "\"",
            "it's",
            "a\nb",
            "a\nb\n",
            "a\n\n",
            "\na",
            " a\nb",
            "a \nb",
            "tab\there",
            "\r",
            "\u{1}",
            "%x",
            "@x",
            "`x`",
            "? x",
            "---",
            "...",
            "a,b",
            "a]b",
            "<<",
            "=",
            "ünï",
            "\u{feff}x",
            "|",
            ">",
            "node.labels.a==b",
            "80:80",
            "\\x",
            "on: off",
            "\n",
            "a\n b\n  c\n",
            "  a\nb\n",
            "\n\na\n\n",
            " \n",
            "\u{1f41d}\nx",
            "\0\u{7}\u{1b}\u{7f}\u{85}\u{a0}\u{2028}",
        ];
        for text in texts {
            let value = Out::Map(vec![
                (text.to_owned(), Out::text(text)),
                (
                    "list".to_owned(),
                    Out::List(vec![Out::text(text), Out::List(vec![Out::text(text)])]),
                ),
            ]);
            let printed = emit(&value);
            let root = parse(&printed, 0)
                .unwrap_or_else(|error| panic!("{text:?}: {error:?}\n{printed}"))
                .root
                .unwrap();
            let sorted = |mut value: Out| {
                if let Out::Map(entries) = &mut value {
                    entries.sort_by(|a, b| crate::text::order::natural(&a.0, &b.0));
                }
                value
            };
            assert_eq!(Out::from(&root), sorted(value), "{printed}");
        }
    }

    #[test]
    fn the_layout_is_dockers() {
        let value = Out::Map(vec![
            (
                "a".to_owned(),
                Out::List(vec![Out::Map(vec![
                    ("b".to_owned(), Out::Int(1)),
                    ("y".to_owned(), Out::text("y")),
                ])]),
            ),
            ("n".to_owned(), Out::Map(Vec::new())),
            ("z".to_owned(), Out::Null),
        ]);
        assert_eq!(
            emit(&value),
            "a:\n  - b: 1\n    \"y\": \"y\"\n\"n\": {}\nz: null\n"
        );
    }
}
