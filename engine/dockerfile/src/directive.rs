//! Parser directives: `# escape=`, `# syntax=`, `# check=` before anything else.

/// What the first comments of a file say to the parser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directives {
    /// Continues lines and takes the meaning of the next character away.
    pub(crate) escape: char,
    pub(crate) syntax: Option<String>,
    seen: Vec<String>,
    done: bool,
}

impl Default for Directives {
    fn default() -> Self {
        Self {
            escape: '\\',
            syntax: None,
            seen: Vec::new(),
            done: false,
        }
    }
}

impl Directives {
    /// Looks at the next line; after the first that is no directive, at none.
    pub(crate) fn look(&mut self, line: &str) -> Result<(), String> {
        if self.done {
            return Ok(());
        }
        let Some((name, value)) = read(line) else {
            self.done = true;
            return Ok(());
        };
        let name = name.to_ascii_lowercase();
        // Others are comments, and do not end the directives.
        if !matches!(name.as_str(), "escape" | "syntax" | "check") {
            return Ok(());
        }
        if self.seen.contains(&name) {
            return Err(format!("only one {name} parser directive can be used"));
        }
        match (name.as_str(), value) {
            ("escape", "\\") => self.escape = '\\',
            ("escape", "`") => self.escape = '`',
            ("escape", other) => {
                return Err(format!("invalid ESCAPE '{other}' does not match ` or \\"));
            }
            ("syntax", image) => self.syntax = Some(image.to_owned()),
            _ => {}
        }
        self.seen.push(name);
        Ok(())
    }
}

/// Reads `# name = value`.
fn read(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim_end().strip_prefix('#')?.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let mut letters = name.bytes();
    let is_name =
        letters.next()?.is_ascii_alphabetic() && letters.all(|byte| byte.is_ascii_alphanumeric());
    (is_name && !value.is_empty()).then_some((name, value))
}
