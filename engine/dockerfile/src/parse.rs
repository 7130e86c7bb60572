//! A line of text as a typed instruction.

use crate::flags::Flags;
use crate::instruction::{Argument, Command, Instruction, Network, Pair, Run};
use crate::lines::Node;
use crate::{copy, health, json, split};

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    From {
        base: String,
        name: Option<String>,
        platform: Option<String>,
    },
    Instruction(Instruction),
}

/// Instructions docker knows; `FROM` is the one that is no [`Instruction`].
pub(crate) fn parse(node: &Node, escape: char) -> Result<Parsed, String> {
    let keyword = node.keyword.to_ascii_uppercase();
    let rest = node.rest.as_str();
    let takes_flags = matches!(
        keyword.as_str(),
        "FROM" | "RUN" | "ADD" | "COPY" | "HEALTHCHECK"
    );
    let instruction = match keyword.as_str() {
        "FROM" => return from(node),
        "RUN" => Instruction::Run(run(node)?),
        "ADD" => Instruction::Add(copy::parse(node, true, escape)?),
        "COPY" => Instruction::Copy(copy::parse(node, false, escape)?),
        "HEALTHCHECK" => Instruction::Healthcheck(health::parse(node)?),
        "CMD" => Instruction::Cmd(command(rest)?),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)?),
        "ENV" => Instruction::Env(pairs("ENV", rest, escape)?),
        "LABEL" => Instruction::Label(pairs("LABEL", rest, escape)?),
        "ARG" => Instruction::Arg(arguments(rest, escape)?),
        "MAINTAINER" => Instruction::Maintainer(one("MAINTAINER", rest)?),
        "USER" => Instruction::User(one("USER", rest)?),
        "WORKDIR" => Instruction::Workdir(one("WORKDIR", rest)?),
        "STOPSIGNAL" => Instruction::Stopsignal(one("STOPSIGNAL", rest)?),
        "EXPOSE" => {
            let ports: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
            if ports.is_empty() {
                return Err("EXPOSE requires at least one argument".into());
            }
            Instruction::Expose(ports)
        }
        "VOLUME" => {
            let paths = copy::list(rest, escape)?;
            if paths.is_empty() {
                return Err("VOLUME requires at least one argument".into());
            }
            if paths.iter().any(|path| path.trim().is_empty()) {
                return Err("VOLUME specified can not be an empty string".into());
            }
            Instruction::Volume(paths)
        }
        "SHELL" => match json::list(rest)? {
            Some(words) if words.is_empty() => {
                return Err("SHELL requires at least one argument".into());
            }
            Some(words) => Instruction::Shell(words),
            None => return Err("SHELL requires the arguments to be in JSON form".into()),
        },
        "ONBUILD" => Instruction::Onbuild(trigger(node)?),
        _ => return Err(format!("unknown instruction: {}", node.keyword)),
    };
    if !takes_flags {
        // `ONBUILD COPY --from=x` has its flags behind the second keyword.
        Flags::new(&node.flags).finish()?;
    }
    Ok(Parsed::Instruction(instruction))
}

fn one(keyword: &str, rest: &str) -> Result<String, String> {
    match rest {
        "" => Err(format!("{keyword} requires exactly one argument")),
        text => Ok(text.to_owned()),
    }
}

fn from(node: &Node) -> Result<Parsed, String> {
    let mut flags = Flags::new(&node.flags);
    let platform = flags.text("platform")?;
    flags.finish()?;
    let words: Vec<&str> = node.rest.split_whitespace().collect();
    let (base, name) = match words[..] {
        [base] => (base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => {
            let name = name.to_ascii_lowercase();
            if !is_stage_name(&name) {
                return Err(format!(
                    "invalid name for build stage: \"{name}\", name can't start with a number or contain symbols"
                ));
            }
            (base, Some(name))
        }
        _ => return Err("FROM requires either one or three arguments".into()),
    };
    Ok(Parsed::From {
        base: base.to_owned(),
        name,
        platform,
    })
}

fn is_stage_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        })
}

/// The exec form, or the rest of the line for a shell.
fn command(rest: &str) -> Result<Command, String> {
    Ok(match json::list(rest)? {
        Some(words) => Command {
            words,
            shell: false,
        },
        // The shell alone.
        None if rest.is_empty() => Command {
            words: Vec::new(),
            shell: true,
        },
        None => Command {
            words: vec![rest.to_owned()],
            shell: true,
        },
    })
}

fn run(node: &Node) -> Result<Run, String> {
    let mut flags = Flags::new(&node.flags);
    let mounts = flags.texts("mount")?;
    let network = match flags.text("network")?.as_deref() {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => return Err(format!("unsupported network mode \"{other}\"")),
    };
    let insecure = match flags.text("security")?.as_deref() {
        None | Some("sandbox") => false,
        Some("insecure") => true,
        Some(other) => return Err(format!("security \"{other}\" is not valid")),
    };
    flags.finish()?;
    let command = command(&node.rest)?;
    if command.words.is_empty() {
        return Err("RUN requires at least one argument".into());
    }
    let run = Run {
        command,
        heredocs: node.heredocs.clone(),
        mounts,
        network,
        insecure,
    };
    run.check()?;
    Ok(run)
}

/// `A=b C="d e"`, or the old `A b c` of one pair.
fn pairs(keyword: &str, rest: &str, escape: char) -> Result<Vec<Pair>, String> {
    let words = split::words(rest, escape);
    let Some(first) = words.first() else {
        return Err(format!("{keyword} requires at least one argument"));
    };
    if !first.contains('=') {
        let Some((key, value)) = rest.split_once(char::is_whitespace) else {
            return Err(format!("{keyword} must have two arguments"));
        };
        return Ok(vec![Pair {
            key: key.to_owned(),
            value: value.trim_start().to_owned(),
        }]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            None => Err(format!(
                "Syntax error - can't find = in \"{word}\". Must be of the form: name=value"
            )),
            Some(("", _)) => Err(format!("{keyword} names can not be blank")),
            Some((key, value)) => Ok(Pair {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
        })
        .collect()
}

fn arguments(rest: &str, escape: char) -> Result<Vec<Argument>, String> {
    let words = split::words(rest, escape);
    if words.is_empty() {
        return Err("ARG requires at least one argument".into());
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err("ARG names can not be blank".into()),
            Some((key, value)) => Ok(Argument {
                key: key.to_owned(),
                value: Some(value.to_owned()),
            }),
            None => Ok(Argument {
                key: word.clone(),
                value: None,
            }),
        })
        .collect()
}

/// The instruction after `ONBUILD`, as text; that it can be read is seen now.
fn trigger(node: &Node) -> Result<String, String> {
    let mut text = node.original[node.keyword.len()..].trim().to_owned();
    let keyword = text
        .split_whitespace()
        .next()
        .unwrap_or("")
        .to_ascii_uppercase();
    match keyword.as_str() {
        "" => return Err("ONBUILD requires at least one argument".into()),
        "ONBUILD" => return Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
        "MAINTAINER" | "FROM" => {
            return Err(format!("{keyword} isn't allowed as an ONBUILD trigger"));
        }
        _ => {}
    }
    for document in &node.heredocs {
        text.push('\n');
        text.push_str(&document.content);
        text.push_str(&document.name);
    }
    let inner = crate::lines::single(&text, '\\').map_err(|error| error.message)?;
    parse(&inner, '\\')?;
    Ok(text)
}
