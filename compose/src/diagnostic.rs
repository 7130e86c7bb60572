//! What is wrong with a compose file, where, and what to do about it.

use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file still means something; a part of it has no effect here.
    Warning,
    /// The file cannot be used.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One message about one place in one file.
///
/// `Display` prints `severity: file:line:column: message`, the source line with a caret below the
/// column, and the hint if there is one; several lines, no trailing newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Name of the source as given in [`crate::Source::name`]; empty when no file is to blame.
    pub file: String,
    /// From 1; 0 when the message is about no single line.
    pub line: usize,
    /// In characters, from 1; 0 when the message is about no single place.
    pub column: usize,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    pub severity: Severity,
    /// The source line; empty when there is none.
    pub excerpt: String,
}

/// Longest part of a source line that is shown, in characters.
const EXCERPT_CHARS_MAX: usize = 160;

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.severity)?;
        if !self.file.is_empty() {
            f.write_str(&self.file)?;
            if self.line > 0 {
                write!(f, ":{}:{}", self.line, self.column)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)?;
        if self.line > 0 && !self.excerpt.is_empty() {
            self.write_excerpt(f)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl Diagnostic {
    fn write_excerpt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let shown: String = self.excerpt.chars().take(EXCERPT_CHARS_MAX).collect();
        write!(f, "\n{margin} |\n{number} | {shown}\n{margin} | ")?;
        if self.column == 0 || self.column > shown.chars().count() + 1 {
            return Ok(());
        }
        // Tabs are repeated so that the caret stands below its character.
        for c in shown.chars().take(self.column - 1) {
            f.write_str(if c == '\t' { "\t" } else { " " })?;
        }
        f.write_str("^")
    }
}

impl std::error::Error for Diagnostic {}
