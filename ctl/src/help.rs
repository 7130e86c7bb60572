//! Help texts as they are shown: wrapped to the terminal, in docker's form.

use crate::cmd::{GROUPS, Section};
use crate::def::{CommandDef, FlagDef};

/// The line after `Usage:`; `path` is how the user called the command.
pub fn usage_line(def: &CommandDef, path: &str) -> String {
    let options = if def.shows_options { " [OPTIONS]" } else { "" };
    let gap = if def.usage.is_empty() { "" } else { " " };
    format!("skep {path}{options}{gap}{}", def.usage)
}

/// What is said after a wrong flag.
pub fn usage_hint(def: &CommandDef, path: &str) -> String {
    format!(
        "Usage:  {}\n\nRun 'skep {path} --help' for more information",
        usage_line(def, path)
    )
}

/// The whole help of a command.
pub fn command(def: &CommandDef, path: &str, width: usize) -> String {
    let mut text = format!("Usage:  {}\n\n{}\n", usage_line(def, path), def.about);
    if def.shows_aliases {
        let names: Vec<String> = def
            .names
            .iter()
            .map(|name| format!("skep {name}"))
            .collect();
        text.push_str(&format!("\nAliases:\n  {}\n", names.join(", ")));
    }
    if !def.flags.is_empty() {
        text.push_str("\nOptions:\n");
        text.push_str(&options(&def.flags, width));
    }
    text
}

/// One flag a line, explanations in a column of their own.
pub fn options(flags: &[FlagDef], width: usize) -> String {
    // The last column stays free.
    let width = width.saturating_sub(1);
    let flags = || flags.iter().filter(|flag| !flag.hidden);
    let column = flags().map(|flag| flag.shown.len()).max().unwrap_or(0) + 9;
    let mut text = String::new();
    for flag in flags() {
        let short = flag
            .short
            .map_or_else(|| "    ".to_owned(), |c| format!("-{c}, "));
        let head = format!("  {short}{}", flag.shown);
        text.push_str(&format!(
            "{head:column$}{}\n",
            wrap(&flag.help, column, width)
        ));
    }
    text
}

/// How far a last word may stick out, so that it does not stand on a line alone.
const OVERHANG: usize = 5;
/// Narrower columns than this are not wrapped in.
const NARROWEST: usize = 24;

/// Breaks `text` for a column that starts at `indent` of `width`.
fn wrap(text: &str, indent: usize, width: usize) -> String {
    let (indent, mut wrapped) = if width.saturating_sub(indent) < NARROWEST {
        (16, format!("\n{:16}", ""))
    } else {
        (indent, String::new())
    };
    let Some(room) = width
        .checked_sub(indent + OVERHANG)
        .filter(|room| *room >= NARROWEST - OVERHANG)
    else {
        return text.to_owned();
    };
    let margin = format!("\n{:indent$}", "");
    let mut rest = text;
    let mut first = true;
    while first || !rest.is_empty() {
        let (line, after) = break_line(rest, room);
        if !first {
            wrapped.push_str(&margin);
        }
        wrapped.push_str(&line.replace('\n', &margin));
        rest = after;
        first = false;
    }
    wrapped
}

/// The first line of `text` and what follows it.
fn break_line(text: &str, room: usize) -> (&str, &str) {
    if room + OVERHANG > text.len() {
        return (text, "");
    }
    let mut end = room;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let head = &text[..end];
    let at = match (head.rfind([' ', '\t', '\n']), head.rfind('\n')) {
        (None | Some(0), _) => return (text, ""),
        (Some(space), Some(line_end)) if line_end > 0 && line_end < space => line_end,
        (Some(space), _) => space,
    };
    (&text[..at], &text[at + 1..])
}

/// The help of a group such as `service`.
pub fn group(name: &str, about: &str, commands: &[(String, String)]) -> String {
    format!(
        "Usage:  skep {name} COMMAND\n\n{about}\n\nCommands:\n{}\nRun 'skep {name} COMMAND --help' for more information on a command.\n",
        command_lines(commands)
    )
}

/// The help of a group whose flags stand before the command.
pub fn group_with_flags(def: &CommandDef, commands: &[(String, String)], width: usize) -> String {
    format!(
        "Usage:  skep {} [OPTIONS] COMMAND\n\n{}\n\nOptions:\n{}\nCommands:\n{}\nRun 'skep {} COMMAND --help' for more information on a command.\n",
        def.path,
        def.about,
        options(&def.flags, width),
        command_lines(commands),
        def.path,
    )
}

fn command_lines(commands: &[(String, String)]) -> String {
    let column = commands
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0)
        .max(11);
    commands
        .iter()
        .map(|(name, about)| format!("  {name:column$} {about}\n"))
        .collect()
}

/// Commands the top of the help names first.
const COMMON: [&str; 11] = [
    "run", "exec", "ps", "pull", "push", "images", "login", "logout", "search", "version", "info",
];

/// The help of `skep` itself. `commands` are the top-level ones with what they do.
pub fn root(commands: &[(String, String)], global: &[FlagDef], width: usize) -> String {
    let pick = |wanted: &dyn Fn(&str) -> bool| -> Vec<(String, String)> {
        commands
            .iter()
            .filter(|(name, _)| wanted(name))
            .cloned()
            .collect()
    };
    let common: Vec<_> = COMMON
        .iter()
        .filter_map(|wanted| commands.iter().find(|(name, _)| name == wanted).cloned())
        .collect();
    let groups = |section: Section| -> Vec<(String, String)> {
        GROUPS
            .iter()
            .filter(|group| group.section == section)
            .map(|group| (group.name.to_owned(), group.about.to_owned()))
            .collect()
    };
    let rest = pick(&|name| !COMMON.contains(&name));
    let daemon = [
        ("daemon".to_owned(), "Run the node daemon".to_owned()),
        (
            "dev".to_owned(),
            "Run a whole cluster on this machine".to_owned(),
        ),
    ];
    format!(
        "Usage:  skep [OPTIONS] COMMAND\n\nOne self-healing container cluster from many hosts\n\n\
         Common Commands:\n{}\nManagement Commands:\n{}\nSwarm Commands:\n{}\nDaemon Commands:\n{}\nCommands:\n{}\n\
         Global Options:\n{}\nRun 'skep COMMAND --help' for more information on a command.\n",
        command_lines(&common),
        command_lines(&groups(Section::Management)),
        command_lines(&groups(Section::Swarm)),
        command_lines(&daemon),
        command_lines(&rest),
        options(global, width),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_help_wraps_in_its_column() {
        let flag = |long: &str, help: &str| FlagDef {
            long: long.to_owned(),
            short: None,
            kind: crate::def::Kind::Bool,
            shown: format!("--{long}"),
            help: help.to_owned(),
            hidden: false,
            synonyms: Vec::new(),
        };
        let flags = [
            flag(
                "health-start-interval duration",
                "Time between running the check during the start period (ms|s|m|h)",
            ),
            flag(
                "init",
                "Use an init inside each service container to forward signals and reap processes",
            ),
        ];
        assert_eq!(
            options(&flags, 80),
            "      --health-start-interval duration   Time between running the check\n                                         during the start period (ms|s|m|h)\n      --init                             Use an init inside each service\n                                         container to forward signals and\n                                         reap processes\n"
        );
    }
}
