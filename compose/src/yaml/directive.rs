//! Lines before a document that begin with `%`.
//!
//! Docker's client reads YAML 1.1 and nothing that says it is something else. The parser has seen to
//! the form of such lines, and that none stands there twice.

use granit_parser::YamlVersion;

use super::YamlError;
use crate::report::At;
use crate::tree::shown;

/// The version that a document may say it has.
const VERSION: YamlVersion = YamlVersion::new(1, 1);

/// Judges the lines of `text` before its first document, which begins at `start`.
///
/// # Errors
/// Which of them is not to be honoured.
pub(super) fn check(text: &str, start: At, version: Option<YamlVersion>) -> Result<(), YamlError> {
    let before = (start.line as usize).saturating_sub(1);
    for (line, content) in (1..).zip(text.lines().take(before)) {
        let Some(directive) = content.trim_start_matches('\u{feff}').strip_prefix('%') else {
            continue;
        };
        let name = directive.split_ascii_whitespace().next().unwrap_or("");
        let (message, hint) = match (name, version) {
            ("TAG", _) => continue,
            ("YAML", version) if version.is_none_or(|version| version == VERSION) => continue,
            ("YAML", _) => (
                "yaml: found incompatible YAML document".to_owned(),
                "files are read as YAML 1.1: leave the line out, or write `%YAML 1.1`",
            ),
            _ => (
                format!("yaml: found unknown directive name `%{}`", shown(name)),
                "%YAML and %TAG are known; leave the line out",
            ),
        };
        return Err(YamlError {
            at: At {
                line,
                column: 1,
                ..start
            },
            message,
            hint: Some(hint.to_owned()),
        });
    }
    Ok(())
}
