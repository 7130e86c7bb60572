#![doc = include_str!("../README.md")]

mod client;
mod cmd;
mod config;
mod def;
mod duration;
mod failure;
mod files;
mod filter;
mod flags;
mod grammar;
mod help;
mod host;
mod human;
mod json;
mod progress;
mod reference;
mod session;
mod stdcopy;
mod table;
mod template;
mod tls;
mod tty;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;

use client::Client;
use config::ConfigFile;
use def::CommandDef;
use failure::{Failure, Outcome, status};
use flags::Parsed;
use host::{Host, HostFlags};
use session::Session;

pub use session::Streams;

/// Runs the client with the process's own streams and environment. `args` begins with the
/// program's name, as `std::env::args_os` gives them.
///
/// `daemon` and `dev` are not commands of this crate: hand them over before.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    ExitCode::from(run_with(args, env, Streams::real()))
}

/// Runs the client with these streams and this environment; the exit status.
pub fn run_with(args: Vec<OsString>, env: BTreeMap<String, String>, streams: Streams) -> u8 {
    let err = |text: &str| {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{text}");
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            err(&format!("skep: cannot start: {error}"));
            return status::FAILED;
        }
    };
    let (outcome, streams) = runtime.block_on(invoke(args, env, streams));
    // A read of the terminal may still be pending on a thread: do not wait for it.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => 0,
        Err(failure) => {
            let text = failure.to_string();
            if !text.is_empty() {
                use std::io::Write;
                let _ = writeln!(streams.err.borrow_mut(), "{text}");
            }
            failure.status()
        }
    }
}

/// One run: argv to outcome. The streams come back for the last message.
async fn invoke(
    args: Vec<OsString>,
    env: BTreeMap<String, String>,
    streams: Streams,
) -> (Outcome, Streams) {
    let plan = match plan(args, streams.width) {
        Ok(plan) => plan,
        Err(failure) => return (Err(failure), streams),
    };
    match plan {
        Plan::Print(text) => {
            use std::io::Write;
            let printed = streams.out.borrow_mut().write_all(text.as_bytes());
            (
                printed.map_err(|error| failure::output_failure(&error)),
                streams,
            )
        }
        Plan::Command {
            command,
            path,
            argv,
            globals,
            group_flags,
        } => match connect(&globals, &env) {
            Err(failure) => (Err(failure), streams),
            Ok((client, config)) => {
                let mut session = Session {
                    streams,
                    client,
                    config,
                    env,
                    group_flags,
                    parallel: std::cell::OnceCell::new(),
                };
                let outcome = execute(&mut session, command, &path, argv).await;
                (outcome, session.streams)
            }
        },
    }
}

/// What argv asks for, before anything is done.
enum Plan {
    Print(String),
    Command {
        command: &'static cmd::Command,
        /// The name it was called by.
        path: String,
        argv: Vec<String>,
        globals: flags::Globals,
        group_flags: flags::Globals,
    },
}

const ROOT_USAGE: &str =
    "Usage:  skep [OPTIONS] COMMAND [ARG...]\n\nRun 'skep --help' for more information";

fn group_usage(group: &str) -> String {
    format!("Usage:  skep {group}\n\nRun 'skep {group} --help' for more information")
}

/// What is wrong with the first flag among words that no command reads, if there is one.
fn unknown_flag(words: &[String]) -> Option<String> {
    let flags = words.iter().take_while(|word| *word != "--");
    let flags = flags.filter(|word| word.starts_with('-') && *word != "-");
    flags::parse_global(&[], flags.cloned().collect()).err()
}

fn plan(args: Vec<OsString>, width: usize) -> Outcome<Plan> {
    let mut argv = Vec::with_capacity(args.len());
    for arg in args.into_iter().skip(1) {
        argv.push(arg.into_string().map_err(|arg| {
            Failure::message(format!(
                "argument `{}` is not valid UTF-8",
                arg.to_string_lossy()
            ))
        })?);
    }
    let root = CommandDef::parse(include_str!("../help/root.txt"))
        .expect("the test of all help texts covers this one");
    let (globals, mut rest) =
        flags::parse_global(&root.flags, argv).map_err(|message| Failure::Usage {
            message,
            usage: ROOT_USAGE.to_owned(),
        })?;
    let on = |name: &str| {
        globals
            .iter()
            .any(|(flag, value)| flag == name && value == "true")
    };
    if on("version") {
        return Ok(Plan::Print(format!(
            "skep version {}\n",
            env!("CARGO_PKG_VERSION")
        )));
    }
    let commands = cmd::all();
    let mut wants_help = on("help");
    if rest.first().is_some_and(|word| word == "help") {
        rest.remove(0);
        wants_help = true;
    }
    let Some(first) = rest.first().cloned() else {
        return Ok(Plan::Print(help::root(
            &cmd::top_level(commands),
            &root.flags,
            width,
        )));
    };
    let mut group_flags = flags::Globals::new();
    let with_flags = CommandDef::parse(include_str!("../help/compose.txt"))
        .expect("the test of all help texts covers this one");
    if first == with_flags.path {
        let (given, words) =
            flags::parse_global(&with_flags.flags, rest.split_off(1)).map_err(|message| {
                Failure::Usage {
                    message,
                    usage: group_usage(&first),
                }
            })?;
        let is_on = |name: &str| {
            given
                .iter()
                .any(|(flag, value)| flag == name && value == "true")
        };
        if words.is_empty() || words[0] == "help" {
            let commands = cmd::in_group(commands, &first);
            return Ok(Plan::Print(help::group_with_flags(
                &with_flags,
                &commands,
                width,
            )));
        }
        wants_help |= is_on("help");
        rest.extend(words);
        group_flags = given;
    }
    let (path, skip) = match cmd::GROUPS.iter().find(|group| group.name == first) {
        Some(group) if cmd::find(commands, &first).is_none() || rest.len() > 1 => {
            match rest.get(1).map(String::as_str) {
                None | Some("--help" | "-h" | "help") => {
                    return Ok(Plan::Print(help::group(
                        group.name,
                        group.about,
                        &cmd::in_group(commands, group.name),
                    )));
                }
                Some(flag) if flag.starts_with('-') => {
                    return Err(Failure::Usage {
                        message: unknown_flag(&rest[1..]).unwrap_or_else(|| flag.to_owned()),
                        usage: group_usage(&first),
                    });
                }
                Some(second) => {
                    let two = format!("{first} {second}");
                    // A few commands have commands of their own.
                    let three = rest.get(2).map(|third| format!("{two} {third}"));
                    match three.filter(|three| cmd::find(commands, three).is_some()) {
                        Some(three) => (three, 3),
                        None => (two, 2),
                    }
                }
            }
        }
        _ => (first.clone(), 1),
    };
    let Some(command) = cmd::find(commands, &path) else {
        // Flags are read before the word is found unknown.
        if let Some(message) = unknown_flag(&rest[skip..]) {
            let usage = match skip {
                2 => group_usage(&first),
                _ => ROOT_USAGE.to_owned(),
            };
            return Err(Failure::Usage { message, usage });
        }
        let (shown, usage) = if skip == 2 {
            (path.as_str(), group_usage(&first))
        } else {
            (
                first.as_str(),
                "Run 'skep --help' for more information".to_owned(),
            )
        };
        return Err(Failure::message(format!(
            "skep: unknown command: skep {shown}\n\n{usage}"
        )));
    };
    if wants_help {
        return Ok(Plan::Print(help::command(&command.def, &path, width)));
    }
    Ok(Plan::Command {
        command,
        path,
        argv: rest.split_off(skip),
        globals,
        group_flags,
    })
}

/// The daemon that the flags, the environment and the configuration name.
fn connect(
    globals: &[(String, String)],
    env: &BTreeMap<String, String>,
) -> Outcome<(Client, ConfigFile)> {
    let text = |name: &str| {
        globals
            .iter()
            .rev()
            .find(|(flag, _)| flag == name)
            .map(|(_, value)| value.clone())
    };
    let is_on = |name: &str| text(name).is_some_and(|value| value == "true");
    let flags = HostFlags {
        host: text("host"),
        context: text("context"),
        tls: is_on("tls"),
        tls_verify: is_on("tlsverify"),
        tls_ca: text("tlscacert"),
        tls_cert: text("tlscert"),
        tls_key: text("tlskey"),
    };
    let config = ConfigFile::load(text("config").as_deref(), env).map_err(Failure::Message)?;
    let host = Host::find(&flags, env, &config).map_err(Failure::Message)?;
    let pinned = env
        .get("DOCKER_API_VERSION")
        .filter(|version| !version.is_empty())
        .cloned();
    Ok((Client::new(host, config.http_headers(), pinned), config))
}

/// Flags of groups that count behind the command as well, where it has them.
const GROUP_FLAGS_ANYWHERE: [&str; 1] = ["dry-run"];

async fn execute(
    session: &mut Session,
    command: &'static cmd::Command,
    path: &str,
    argv: Vec<String>,
) -> Outcome {
    match flags::parse(&command.def, path, argv)? {
        Parsed::Help => session.print(&help::command(&command.def, path, session.streams.width)),
        Parsed::Run(args) => {
            let is_of_group = command.def.path.starts_with("compose ");
            for name in GROUP_FLAGS_ANYWHERE {
                // The last one counts.
                if is_of_group && args.given(name) {
                    let value = args.flag(name).to_string();
                    session.group_flags.push((name.to_owned(), value));
                }
            }
            (command.run)(session, &args).await
        }
    }
}
