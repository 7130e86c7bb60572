//! Where something stands in the sources, and the list of what was found wrong.

use crate::text::encoding;
use crate::{Diagnostic, Severity, Source};

/// Messages kept of one load; the rest would not be read anyway.
const DIAGNOSTICS_MAX: usize = 200;

/// A place in one of the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct At {
    /// Index into the report's sources.
    pub source: u32,
    /// From 1; 0 is the file as a whole.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

/// A value and where it was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Placed<T> {
    pub at: At,
    pub value: T,
}

/// Everything found wrong so far, and the sources it was found in.
#[derive(Debug)]
pub(crate) struct Report {
    sources: Vec<Source>,
    found: Vec<(At, Diagnostic)>,
    left_out: usize,
    errors: usize,
}

impl Report {
    pub fn new(sources: Vec<Source>) -> Self {
        Self {
            sources,
            found: Vec::new(),
            left_out: 0,
            errors: 0,
        }
    }

    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Adds a source read on the way; its index.
    pub fn add_source(&mut self, source: Source) -> u32 {
        self.sources.push(source);
        u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX)
    }

    pub fn error(&mut self, at: At, message: impl Into<String>, hint: Option<String>) {
        self.errors += 1;
        self.add(at, message.into(), hint, Severity::Error);
    }

    /// Says that a source's bytes are no text.
    pub fn not_text(&mut self, source: u32, wrong: encoding::Wrong) {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let at = At {
            source,
            line: small(wrong.line),
            column: small(wrong.column),
        };
        self.error(at, wrong.message, Some("save the file as UTF-8".to_owned()));
    }

    pub fn warn(&mut self, at: At, message: impl Into<String>, hint: Option<String>) {
        self.add(at, message.into(), hint, Severity::Warning);
    }

    pub fn errors(&self) -> usize {
        self.errors
    }

    /// Whether further messages are only counted; their places need not be found.
    pub fn is_full(&self) -> bool {
        self.found.len() >= DIAGNOSTICS_MAX
    }

    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    fn add(&mut self, at: At, message: String, hint: Option<String>, severity: Severity) {
        if self.found.len() >= DIAGNOSTICS_MAX {
            self.left_out += 1;
            return;
        }
        let source = self.sources.get(at.source as usize);
        let excerpt = source
            .and_then(|source| source.text.lines().nth((at.line as usize).checked_sub(1)?))
            .unwrap_or_default();
        let diagnostic = Diagnostic {
            file: source.map(|source| source.name.clone()).unwrap_or_default(),
            line: at.line as usize,
            column: at.column as usize,
            message,
            hint,
            severity,
            excerpt: excerpt.to_owned(),
        };
        // An anchor used in many places is wrong once.
        if !self.found.iter().any(|(_, known)| *known == diagnostic) {
            self.found.push((at, diagnostic));
        }
    }

    /// The warnings, or with an error (or, when strict, a warning) among them everything found.
    pub fn finish(mut self, strict: bool) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        self.found.sort_by_key(|(at, _)| *at);
        let mut found: Vec<Diagnostic> = self.found.into_iter().map(|(_, one)| one).collect();
        if strict {
            for one in &mut found {
                one.severity = Severity::Error;
            }
        }
        let failed = self.errors > 0 || (strict && !found.is_empty());
        if self.left_out > 0 {
            found.push(Diagnostic {
                file: String::new(),
                line: 0,
                column: 0,
                message: format!("{} more messages are not shown", self.left_out),
                hint: None,
                severity: if failed {
                    Severity::Error
                } else {
                    Severity::Warning
                },
                excerpt: String::new(),
            });
        }
        if failed { Err(found) } else { Ok(found) }
    }
}
