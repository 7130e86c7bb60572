//! Commands as their help texts define them.
//!
//! The text a person reads with `--help` is also what argv is read by: usage line, aliases and
//! options are taken from it, so the two cannot drift apart. The texts are in `help/`, unwrapped;
//! they may end with sections that are not shown: `Synonyms:` (other spellings of a flag),
//! `Unlisted:` (flags that are not shown: what they ask for no daemon of ours has), `Arguments:` (how
//! many, where the usage line does not say it) and `Hidden:` (not in lists).

/// What kind of value a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Text,
    Int,
    Uint,
    Float,
    Duration,
    Bytes,
    Decimal,
    /// Given several times, each time one value.
    List,
    /// Like a list, and each value may be several with commas between.
    Commas,
}

impl Kind {
    /// The kind that a word after the flag's name in a help text stands for.
    fn of(word: &str) -> Self {
        match word {
            "" => Self::Bool,
            "int" => Self::Int,
            "uint" | "uint16" | "uint32" => Self::Uint,
            "float" => Self::Float,
            "duration" => Self::Duration,
            "bytes" => Self::Bytes,
            "decimal" => Self::Decimal,
            "strings" | "ipNetSlice" => Self::Commas,
            "list" | "map" | "filter" | "ulimit" | "network" | "mount" | "port" | "pref"
            | "secret" | "config" | "external-ca" | "gpu-request" => Self::List,
            _ => Self::Text,
        }
    }

    pub fn repeats(self) -> bool {
        matches!(self, Self::List | Self::Commas)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagDef {
    pub long: String,
    pub short: Option<char>,
    pub kind: Kind,
    /// `--name kind` as the help shows it, without the short form.
    pub shown: String,
    /// Unwrapped; may have lines of its own.
    pub help: String,
    /// Whether the help leaves it out.
    pub hidden: bool,
    pub synonyms: Vec<String>,
}

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arity {
    pub min: usize,
    /// `None`: as many as one likes.
    pub max: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandDef {
    /// `service create`.
    pub path: String,
    /// What follows the path in the usage line, without `[OPTIONS]`; further lines included.
    pub usage: String,
    pub about: String,
    /// Full paths that mean this command, its own first.
    pub names: Vec<String>,
    pub flags: Vec<FlagDef>,
    pub arity: Arity,
    /// Whether flags may follow arguments. Not so where the rest belongs to the container.
    pub interspersed: bool,
    /// Whether lists of commands leave it out.
    pub hidden: bool,
    /// Whether the usage line says `[OPTIONS]`.
    pub shows_options: bool,
    /// Whether the help lists the names.
    pub shows_aliases: bool,
}

impl CommandDef {
    /// Reads a help text. `None` when it is not one, which a test excludes.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, sections) = split_sections(text);
        let mut head = head.trim_end().splitn(2, "\n\n");
        let usage = head.next()?.strip_prefix("Usage:  skep ")?;
        let about = head.next()?.trim().to_owned();
        let mut words = usage.split(' ').peekable();
        let mut path = Vec::new();
        while words
            .peek()
            .is_some_and(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        {
            path.extend(words.next());
        }
        let path = path.join(" ");
        let shows_options = words.peek() == Some(&"[OPTIONS]");
        let rest: Vec<&str> = words
            .enumerate()
            .filter(|(index, word)| *index > 0 || *word != "[OPTIONS]")
            .map(|(_, word)| word)
            .collect();
        let usage = rest.join(" ");
        let mut command = Self {
            names: vec![path.clone()],
            arity: arity(usage.lines().next().unwrap_or("")),
            interspersed: !usage.contains("ARG...]") && !usage.contains("[ps OPTIONS]"),
            path,
            usage,
            about,
            flags: Vec::new(),
            hidden: false,
            shows_options,
            shows_aliases: false,
        };
        for (title, body) in sections {
            match title {
                "Aliases" => {
                    command.shows_aliases = true;
                    command.names = body
                        .trim()
                        .split(", ")
                        .filter_map(|name| name.strip_prefix("skep "))
                        .map(str::to_owned)
                        .collect();
                }
                "Hidden" => command.hidden = true,
                "Options" => command.flags = flags(body),
                "Synonyms" => {
                    for line in body.lines() {
                        let (other, name) = line.trim().split_once(": ")?;
                        let flag = command.flags.iter_mut().find(|flag| flag.long == name)?;
                        flag.synonyms.push(other.to_owned());
                    }
                }
                "Unlisted" => {
                    for name in body.trim().split(", ") {
                        let flag = command.flags.iter_mut().find(|flag| flag.long == name)?;
                        flag.hidden = true;
                    }
                }
                "Arguments" => {
                    let body = body.trim();
                    let number = body.trim_end_matches("..").parse().ok()?;
                    command.arity = Arity {
                        min: number,
                        max: (!body.ends_with("..")).then_some(number),
                    };
                }
                _ => return None,
            }
        }
        Some(command)
    }
}

/// The text before the first section, and the sections by title.
fn split_sections(text: &str) -> (&str, Vec<(&str, &str)>) {
    const TITLES: [&str; 6] = [
        "Aliases",
        "Options",
        "Synonyms",
        "Unlisted",
        "Arguments",
        "Hidden",
    ];
    let mut starts: Vec<(usize, &str)> = TITLES
        .into_iter()
        .filter_map(|title| Some((text.find(&format!("\n{title}:"))?, title)))
        .collect();
    starts.sort_unstable();
    let head = &text[..starts.first().map_or(text.len(), |(at, _)| *at)];
    let sections = starts
        .iter()
        .enumerate()
        .map(|(index, (at, title))| {
            let end = starts.get(index + 1).map_or(text.len(), |(next, _)| *next);
            (*title, text[at + title.len() + 2..end].trim_matches('\n'))
        })
        .collect();
    (head, sections)
}

/// The flags of an `Options:` section.
fn flags(body: &str) -> Vec<FlagDef> {
    // Every help begins in the same column: that of the first line.
    let column = body.lines().next().map_or(0, |line| {
        let named = line.find("--").unwrap_or(0);
        line[named..].find("   ").map_or(0, |gap| {
            let gap = named + gap;
            gap + line[gap..].len() - line[gap..].trim_start().len()
        })
    });
    let mut flags: Vec<FlagDef> = Vec::new();
    for line in body.lines() {
        let is_flag =
            line.trim_start().starts_with('-') && line.len() > 6 && !line.starts_with("        ");
        if !is_flag {
            if let Some(flag) = flags.last_mut() {
                flag.help.push('\n');
                flag.help
                    .push_str(line.get(column..).unwrap_or(line.trim_start()));
            }
            continue;
        }
        let shown = line.get(6..column).unwrap_or(&line[6..]).trim();
        let (long, kind) = shown.split_once(' ').unwrap_or((shown, ""));
        flags.push(FlagDef {
            long: long.trim_start_matches("--").to_owned(),
            short: line[2..]
                .strip_prefix('-')
                .and_then(|rest| rest.chars().next())
                .filter(|c| *c != '-'),
            kind: Kind::of(kind),
            shown: shown.to_owned(),
            help: line.get(column..).unwrap_or("").to_owned(),
            hidden: false,
            synonyms: Vec::new(),
        });
    }
    flags
}

/// How many arguments a usage line asks for: `A [B]`, `A [A...]`, `[A]`, …
fn arity(usage: &str) -> Arity {
    let usage = usage.replace("[ps OPTIONS]", "[ARG...]");
    let mut min = 0;
    let mut max = Some(0);
    for word in usage.split_whitespace() {
        if word.ends_with("...]") {
            max = None;
        } else if word.starts_with('[') {
            max = max.map(|max| max + 1);
        } else {
            min += 1;
            max = max.map(|max| max + 1);
        }
    }
    Arity { min, max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_help_text_is_a_definition() {
        let text = "Usage:  skep service ls [OPTIONS] NAME [NAME...]\n\nList services\n\n\
            Aliases:\n  skep service ls, skep service list\n\n\
            Options:\n  -f, --filter filter   Filter output\n      --format string   Format:\n                        'json': Print\n  -q, --quiet           Only ids\n\n\
            Synonyms:\n  silent: quiet\n\nUnlisted:\n  format, quiet\n";
        let command = CommandDef::parse(text).unwrap();
        assert_eq!(command.path, "service ls");
        assert_eq!(command.usage, "NAME [NAME...]");
        assert_eq!(command.about, "List services");
        assert_eq!(command.names, ["service ls", "service list"]);
        assert_eq!(command.arity, Arity { min: 1, max: None });
        assert!(command.interspersed);
        let [filter, format, quiet] = &command.flags[..] else {
            panic!("{:?}", command.flags)
        };
        assert_eq!(
            (filter.long.as_str(), filter.short, filter.kind),
            ("filter", Some('f'), Kind::List)
        );
        assert_eq!((format.short, format.kind), (None, Kind::Text));
        assert_eq!(format.help, "Format:\n'json': Print");
        assert!(!filter.hidden && format.hidden && quiet.hidden);
        assert_eq!(
            (quiet.kind, quiet.synonyms.as_slice()),
            (Kind::Bool, &["silent".to_owned()][..])
        );
    }

    #[test]
    fn usage_lines_say_how_many_arguments() {
        for (usage, min, max) in [
            ("", 0, Some(0)),
            ("CONTAINER", 1, Some(1)),
            ("[VOLUME]", 0, Some(1)),
            ("CONTAINER [PRIVATE_PORT[/PROTO]]", 1, Some(2)),
            ("IMAGE [COMMAND] [ARG...]", 1, None),
            ("CONTAINER COMMAND [ARG...]", 2, None),
            ("CONTAINER [ps OPTIONS]", 1, None),
            ("[NODE...]", 0, None),
        ] {
            assert_eq!(arity(usage), Arity { min, max }, "{usage}");
        }
    }
}
