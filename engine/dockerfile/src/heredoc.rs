//! Here-documents: `<<EOF`, `<<-EOF`, `<<"EOF"`.

use crate::split;
use crate::word::unquoted;

/// Lines that follow an instruction, up to a line that is `name`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    /// Variables in it are expanded (by `COPY`; a shell does its own).
    pub expand: bool,
    /// `<<-`: tabs at the beginning of lines do not count.
    pub chomp: bool,
    /// As written, each line with its end.
    pub content: String,
}

impl Heredoc {
    pub(crate) fn ends_with(&self, line: &str) -> bool {
        match self.chomp {
            true => line.trim_start_matches('\t') == self.name,
            false => line == self.name,
        }
    }

    /// The content without the tabs that `<<-` takes away.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// Whether an instruction can have some.
pub(crate) fn may_have(keyword: &str, rest: &str) -> bool {
    let own = |word: &str| {
        ["ADD", "COPY", "RUN"]
            .iter()
            .any(|known| word.eq_ignore_ascii_case(known))
    };
    own(keyword)
        || (keyword.eq_ignore_ascii_case("ONBUILD")
            && own(rest.split_whitespace().next().unwrap_or("")))
}

/// The documents a line announces, without their contents.
pub(crate) fn announced(line: &str, escape: char) -> Vec<Heredoc> {
    split::words(line, escape)
        .iter()
        .filter_map(|word| read(word, escape))
        .collect()
}

/// Reads one word as `[fd]<<[-]name`.
pub(crate) fn read(word: &str, escape: char) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.contains('<') || rest.starts_with(char::is_whitespace) {
        return None;
    }
    let name = unquoted(rest, escape).ok()?;
    if name.is_empty() {
        return None;
    }
    Some(Heredoc {
        expand: !rest.contains(['"', '\'', escape]),
        name,
        chomp,
        content: String::new(),
    })
}
