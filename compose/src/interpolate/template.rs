//! One text with variables in it: `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR:?why}`, `${VAR:+word}`.
//!
//! A default may hold variables itself (`${A:-${B}}`), in braces: `$B` within a default is text.

use crate::Env;

/// Deepest nesting of defaults within defaults.
const NESTING_MAX: usize = 16;

/// A text with its variables replaced, or why it cannot be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub text: Result<String, Wrong>,
    /// Variables that are not set and have no default.
    pub unset: Vec<Unset>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Which dollar sign of the text, from 0.
    pub dollar: usize,
    /// What is missing; nothing when the text itself is malformed.
    pub message: Option<String>,
}

/// A variable as a file names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variable {
    pub name: String,
    /// Whether the file is refused without it.
    pub required: bool,
    /// What stands for it where it is not set.
    pub default: String,
    /// What stands for it where it is set.
    pub alternate: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unset {
    pub dollar: usize,
    pub name: String,
}

/// Replaces the variables of one text.
pub(crate) fn replace(text: &str, env: Env<'_>) -> Replaced {
    let mut unset = Vec::new();
    let mut reader = Reader {
        rest: text,
        dollars: 0,
        env,
        unset: &mut unset,
        named: Vec::new(),
    };
    let text = reader.until(None, true, 0);
    Replaced { text, unset }
}

/// The variables that one text names.
pub(super) fn named(text: &str) -> Vec<Variable> {
    let mut unset = Vec::new();
    let mut reader = Reader {
        rest: text,
        dollars: 0,
        env: &|_| None,
        unset: &mut unset,
        named: Vec::new(),
    };
    // What is malformed is told when the file is read.
    let _ = reader.until(None, false, 0);
    reader.named
}

struct Reader<'t, 'e> {
    rest: &'t str,
    /// Dollar signs passed.
    dollars: usize,
    env: Env<'e>,
    unset: &'e mut Vec<Unset>,
    /// All that were met.
    named: Vec<Variable>,
}

impl Reader<'_, '_> {
    /// Reads up to `end` (which it takes) or to the end of the text. Where `live` is false the
    /// outcome is thrown away, and what is missing there is missed by nobody.
    fn until(&mut self, end: Option<char>, live: bool, nesting: usize) -> Result<String, Wrong> {
        let opened_by = self.dollars.saturating_sub(1);
        let mut out = String::new();
        while let Some(c) = self.rest.chars().next() {
            self.rest = &self.rest[c.len_utf8()..];
            if Some(c) == end {
                return Ok(out);
            }
            if c == '$' {
                self.variable(&mut out, live, nesting)?;
            } else {
                out.push(c);
            }
        }
        match end {
            None => Ok(out),
            Some(_) => Err(Wrong {
                dollar: opened_by,
                message: None,
            }),
        }
    }

    /// What follows a dollar sign.
    fn variable(&mut self, out: &mut String, live: bool, nesting: usize) -> Result<(), Wrong> {
        let dollar = self.dollars;
        self.dollars += 1;
        let malformed = || Wrong {
            dollar,
            message: None,
        };
        if let Some(rest) = self.rest.strip_prefix('$') {
            self.rest = rest;
            self.dollars += 1;
            out.push('$');
            return Ok(());
        }
        let Some(rest) = self.rest.strip_prefix('{') else {
            let name = self.name().ok_or_else(malformed)?;
            self.plain(name, dollar, live, out);
            return Ok(());
        };
        self.rest = rest;
        let name = self.name().ok_or_else(malformed)?;
        if let Some(rest) = self.rest.strip_prefix('}') {
            self.rest = rest;
            self.plain(name, dollar, live, out);
            return Ok(());
        }
        let value = (self.env)(&name);
        let value = match self.rest.strip_prefix(':') {
            Some(rest) => {
                self.rest = rest;
                value.filter(|value| !value.is_empty())
            }
            None => value,
        };
        let operator = self.rest.chars().next();
        if !matches!(operator, Some('-' | '?' | '+')) || nesting >= NESTING_MAX {
            return Err(malformed());
        }
        self.rest = &self.rest[1..];
        // The word is wanted when it is what comes out.
        let wanted = match operator {
            Some('+') => value.is_some(),
            _ => value.is_none(),
        };
        let word = match self.literal(operator) {
            Some(word) => word,
            None => self.until(Some('}'), live && wanted, nesting + 1)?,
        };
        let mut variable = Variable {
            name: name.clone(),
            required: operator == Some('?'),
            ..Variable::default()
        };
        match operator {
            Some('-') => variable.default.clone_from(&word),
            Some('+') => variable.alternate.clone_from(&word),
            _ => {}
        }
        self.named.push(variable);
        match (operator, value) {
            (Some('-'), Some(value)) | (Some('?'), Some(value)) => out.push_str(&value),
            (Some('-'), None) | (Some('+'), Some(_)) => out.push_str(&word),
            (Some('?'), None) if live => {
                return Err(Wrong {
                    dollar,
                    message: Some(format!(
                        "required variable {name} is missing a value: {word}"
                    )),
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// The rest of `${NAME-…}` or `${NAME?…}` when it holds no `${`: such a word is no template,
    /// as docker's client takes it, so that `${HASH:-$2y$05$x}` is what it looks like.
    fn literal(&mut self, operator: Option<char>) -> Option<String> {
        let (word, rest) = self.rest.split_once('}')?;
        if operator == Some('+') || word.contains("${") {
            return None;
        }
        self.dollars += word.matches('$').count();
        self.rest = rest;
        Some(word.to_owned())
    }

    fn plain(&mut self, name: String, dollar: usize, live: bool, out: &mut String) {
        self.named.push(Variable {
            name: name.clone(),
            ..Variable::default()
        });
        match (self.env)(&name) {
            Some(value) => out.push_str(&value),
            None if live => self.unset.push(Unset { dollar, name }),
            None => {}
        }
    }

    /// `[_a-zA-Z][_a-zA-Z0-9]*`
    fn name(&mut self) -> Option<String> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        self.rest = rest;
        Some(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            "_x1" => Some("odd".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced() {
        let cases = [
            ("plain", "plain"),
            ("$SET", "value"),
            ("${SET}", "value"),
            ("a$SET-b", "avalue-b"),
            ("${_x1}$_x1", "oddodd"),
            ("$EMPTY|", "|"),
            ("${SET:-d}", "value"),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${UNSET:-d}", "d"),
            ("${UNSET-d}", "d"),
            ("${UNSET:-}", ""),
            ("${UNSET-a:-b?c+d}", "a:-b?c+d"),
            ("${SET:?e}", "value"),
            ("${EMPTY?e}", ""),
            ("${SET:+x}", "x"),
            ("${EMPTY:+x}", ""),
            ("${EMPTY+x}", "x"),
            ("${UNSET:+x}", ""),
            ("${UNSET+x}", ""),
            ("$$SET", "$SET"),
            ("$$$SET", "$value"),
            ("$${SET}", "${SET}"),
            ("${UNSET:-${EMPTY:-${SET}}}", "value"),
            ("${UNSET:-$SET/$$}", "$SET/$$"),
            ("${UNSET:-$2y$05$a.b/c}", "$2y$05$a.b/c"),
            ("${UNSET:-$SET/${SET}}", "value/value"),
            ("${SET:+$SET/$$}", "value/$"),
            ("${SET:-${UNSET:?never asked}}", "value"),
            ("ünï${SET}çødé", "ünïvalueçødé"),
        ];
        for (text, wanted) in cases {
            let replaced = replace(text, &env);
            assert_eq!(replaced.text.as_deref(), Ok(wanted), "{text}");
            assert!(replaced.unset.is_empty(), "{text}: {:?}", replaced.unset);
        }
    }

    #[test]
    fn malformed_text_names_its_dollar_sign() {
        let cases = [
            ("$", 0),
            ("a$$ $", 2),
            ("${", 0),
            ("${SET", 0),
            ("$SET ${SET", 1),
            ("${SET:-x", 0),
            ("${SET:-${EMPTY}", 0),
            ("${}", 0),
            ("${1A}", 0),
            ("$1", 0),
            ("${SET!x}", 0),
            ("${SET:x}", 0),
            ("${SET }", 0),
            ("$-", 0),
        ];
        for (text, dollar) in cases {
            let wanted = Err(Wrong {
                dollar,
                message: None,
            });
            assert_eq!(replace(text, &env).text, wanted, "{text}");
        }
        let deep = "${U-".repeat(100);
        assert!(replace(&deep, &env).text.is_err());
    }

    #[test]
    fn a_required_variable_says_why() {
        for (text, message) in [
            (
                "${UNSET:?set me}",
                "required variable UNSET is missing a value: set me",
            ),
            ("${EMPTY:?}", "required variable EMPTY is missing a value: "),
            (
                "${UNSET?for $SET}",
                "required variable UNSET is missing a value: for $SET",
            ),
        ] {
            assert_eq!(
                replace(text, &env).text,
                Err(Wrong {
                    dollar: 0,
                    message: Some(message.to_owned())
                })
            );
        }
    }

    #[test]
    fn unset_variables_are_told() {
        let replaced = replace("$$ a${UNSET}b $OTHER ${UNSET:-d}", &env);
        assert_eq!(replaced.text.as_deref(), Ok("$ ab  d"));
        let told: Vec<_> = replaced
            .unset
            .iter()
            .map(|u| (u.dollar, u.name.as_str()))
            .collect();
        assert_eq!(told, [(2, "UNSET"), (3, "OTHER")]);
    }
}
