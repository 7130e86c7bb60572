//! argv, read by a command's definition. clap does the parsing; messages are docker's.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::def::{CommandDef, FlagDef, Kind};
use crate::failure::{Failure, Outcome, status};
use crate::{duration, help, human};

/// What argv asks for.
pub enum Parsed {
    Help,
    Run(Args),
}

/// A command's flags and arguments; every value has the form its kind wants.
#[derive(Debug)]
pub struct Args {
    def: &'static CommandDef,
    /// The name the user called the command by.
    path: String,
    matches: ArgMatches,
    positionals: Vec<String>,
}

const POSITIONALS: &str = "\0arguments";
const HELP: &str = "help";

/// Reads what followed the command's name.
pub fn parse(def: &'static CommandDef, path: &str, argv: Vec<String>) -> Outcome<Parsed> {
    let usage = |message: String| Failure::Usage {
        message,
        usage: help::usage_hint(def, path),
    };
    let given = argv.clone();
    let matches = clap_command(&def.flags)
        .arg(
            Arg::new(POSITIONALS)
                .num_args(0..)
                .trailing_var_arg(!def.interspersed),
        )
        .try_get_matches_from(argv)
        .map_err(|error| usage(complaint(&error, &given)))?;
    let positionals = matches
        .get_many::<String>(POSITIONALS)
        .map(|values| values.cloned().collect())
        .unwrap_or_default();
    let args = Args {
        def,
        path: path.to_owned(),
        matches,
        positionals,
    };
    if let Some(wanted) = args.raw(HELP).last()
        && parse_bool(wanted).map_err(|why| args.invalid(HELP, wanted, &why))?
    {
        return Ok(Parsed::Help);
    }
    for flag in &def.flags {
        for value in args.raw(&flag.long) {
            check_value(flag.kind, value).map_err(|why| args.invalid(&flag.long, value, &why))?;
        }
    }
    args.check_arity()?;
    Ok(Parsed::Run(args))
}

/// Global flags that were given, with their values.
pub type Globals = Vec<(String, String)>;

/// Global flags and what follows them. Values have the form that their kinds want; switches are
/// `true` or `false`.
pub fn parse_global(
    flags: &[FlagDef],
    argv: Vec<String>,
) -> Result<(Globals, Vec<String>), String> {
    let given = argv.clone();
    let matches = clap_command(flags)
        .arg(Arg::new(POSITIONALS).num_args(0..).trailing_var_arg(true))
        .try_get_matches_from(argv)
        .map_err(|error| complaint(&error, &given))?;
    let mut given = Vec::new();
    let known = flags.iter().map(|flag| (flag.long.as_str(), flag.kind));
    let help = (!flags.iter().any(|flag| flag.long == HELP)).then_some((HELP, Kind::Bool));
    for (name, kind) in known.chain(help) {
        for value in matches.get_many::<String>(name).into_iter().flatten() {
            check_value(kind, value).map_err(|why| invalid(flags, name, value, &why))?;
            // `1`, `t` and others mean what `true` does.
            let value = match kind {
                Kind::Bool => parse_bool(value)?.to_string(),
                _ => value.clone(),
            };
            given.push((name.to_owned(), value));
        }
    }
    let rest = matches
        .get_many::<String>(POSITIONALS)
        .map(|values| values.cloned().collect())
        .unwrap_or_default();
    Ok((given, rest))
}

fn clap_command(flags: &[FlagDef]) -> Command {
    let mut command = Command::new("skep")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true);
    let mut has_help = false;
    for flag in flags {
        has_help |= flag.long == HELP;
        command = command.arg(clap_arg(flag));
    }
    if !has_help {
        let mut arg = switch(Arg::new(HELP).long(HELP));
        if !flags.iter().any(|flag| flag.short == Some('h')) {
            arg = arg.short('h');
        }
        command = command.arg(arg);
    }
    command
}

fn clap_arg(flag: &FlagDef) -> Arg {
    let mut arg = Arg::new(flag.long.clone()).long(flag.long.clone());
    if let Some(short) = flag.short {
        arg = arg.short(short);
    }
    arg = arg.aliases(flag.synonyms.iter().cloned());
    if flag.kind == Kind::Bool {
        return switch(arg);
    }
    let action = if flag.kind.repeats() {
        ArgAction::Append
    } else {
        ArgAction::Set
    };
    arg.action(action).num_args(1).allow_hyphen_values(true)
}

/// A flag that needs no value, but may have one after `=`.
fn switch(arg: Arg) -> Arg {
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
}

/// clap's error in docker's words.
fn complaint(error: &clap::Error, argv: &[String]) -> String {
    let culprit = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let culprit = culprit.split([' ', '=']).next().unwrap_or(culprit);
    let short = culprit
        .strip_prefix('-')
        .filter(|rest| !rest.starts_with('-'))
        .and_then(|rest| rest.chars().next());
    let last = argv.last().map_or("", String::as_str);
    match (error.kind(), short) {
        (ErrorKind::UnknownArgument, Some(letter)) => {
            // The letters of its cluster from there on.
            let cluster = argv
                .iter()
                .filter(|word| word.starts_with('-') && !word.starts_with("--"))
                .find_map(|word| word.find(letter).map(|at| &word[at..]))
                .map_or_else(|| letter.to_string(), str::to_owned);
            format!("unknown shorthand flag: '{letter}' in -{cluster}")
        }
        (ErrorKind::UnknownArgument, None) => format!("unknown flag: {culprit}"),
        _ if last.starts_with("--") => format!("flag needs an argument: {last}"),
        _ => {
            let letter = last.chars().last().unwrap_or('-');
            format!("flag needs an argument: '{letter}' in -{letter}")
        }
    }
}

/// Whether `value` has the form that `kind` wants; if not, why, as docker says it.
fn check_value(kind: Kind, value: &str) -> Result<(), String> {
    match kind {
        Kind::Text | Kind::List | Kind::Commas => Ok(()),
        Kind::Bool => parse_bool(value).map(drop),
        Kind::Int => parse_int(value).map(drop),
        Kind::Uint => parse_uint(value).map(drop),
        Kind::Float => value.parse::<f64>().map(drop).map_err(|_| {
            format!(
                "strconv.ParseFloat: parsing {}: invalid syntax",
                human::quote(value)
            )
        }),
        Kind::Duration => duration::parse(value).map(drop),
        Kind::Bytes => parse_bytes(value).map(drop),
        Kind::Decimal => parse_nano_cpus(value).map(drop),
    }
}

fn parse_bool(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {}: invalid syntax",
            human::quote(value)
        )),
    }
}

/// What is said of a flag's value that is wrong.
fn invalid(flags: &[FlagDef], name: &str, value: &str, why: &str) -> String {
    let short = flags
        .iter()
        .find(|flag| flag.long == name)
        .and_then(|flag| flag.short);
    let shown = short.map_or_else(
        || format!("--{name}"),
        |short| format!("-{short}, --{name}"),
    );
    format!(
        "invalid argument {} for \"{shown}\" flag: {why}",
        human::quote(value)
    )
}

fn number_error(function: &str, value: &str, error: &std::num::ParseIntError) -> String {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let why = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {}: {why}", human::quote(value))
}

fn parse_int(value: &str) -> Result<i64, String> {
    value
        .parse()
        .map_err(|error| number_error("ParseInt", value, &error))
}

/// A number that is not negative, as Go's `strconv.ParseUint` reads it.
pub fn parse_uint(value: &str) -> Result<u64, String> {
    if value.starts_with('+') {
        return Err(format!(
            "strconv.ParseUint: parsing {}: invalid syntax",
            human::quote(value)
        ));
    }
    value
        .parse()
        .map_err(|error| number_error("ParseUint", value, &error))
}

/// `-1` is let through: for `--memory-swap` it means unlimited.
fn parse_bytes(value: &str) -> Result<i64, String> {
    if value == "-1" {
        return Ok(-1);
    }
    human::parse_bytes(value)
}

/// Processors, as a decimal number, in billionths.
fn parse_nano_cpus(value: &str) -> Result<i64, String> {
    let wrong = || format!("failed to parse {value} as a rational number");
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    if fraction.trim_end_matches('0').len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let nanos: i64 = format!("{fraction:0<9}")[..9]
        .parse()
        .map_err(|_| wrong())?;
    let whole: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| wrong())?
    };
    whole
        .checked_mul(1_000_000_000)
        .and_then(|whole| whole.checked_add(nanos))
        .ok_or_else(wrong)
}

impl Args {
    fn raw(&self, name: &str) -> Vec<&str> {
        self.matches
            .try_get_many::<String>(name)
            .ok()
            .flatten()
            .map(|values| values.map(String::as_str).collect())
            .unwrap_or_default()
    }

    fn check_arity(&self) -> Outcome {
        let count = self.positionals.len();
        let crate::def::Arity { min, max } = self.def.arity;
        if count >= min && max.is_none_or(|max| count <= max) {
            return Ok(());
        }
        let plural = |n: usize| if n == 1 { "argument" } else { "arguments" };
        let (rule, see) = match (min, max) {
            (0, Some(0)) => ("accepts no arguments".to_owned(), "Run"),
            (min, None) => (format!("requires at least {min} {}", plural(min)), "See"),
            (0, Some(max)) => (format!("requires at most {max} {}", plural(max)), "Run"),
            (min, Some(max)) if min == max => (format!("requires {min} {}", plural(min)), "Run"),
            (min, Some(max)) => (
                format!("requires at least {min} and at most {max} {}", plural(max)),
                "Run",
            ),
        };
        let path = &self.path;
        Err(Failure::Exit {
            status: status::FAILED,
            message: format!(
                "skep: 'skep {path}' {rule}\n\nUsage:  {}\n\n{see} 'skep {path} --help' for more information",
                help::usage_line(self.def, path)
            ),
        })
    }

    /// The name the user called the command by: `ps`, `container ls`, …
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn def(&self) -> &'static CommandDef {
        self.def
    }

    /// Arguments that are no flags.
    pub fn positionals(&self) -> &[String] {
        &self.positionals
    }

    /// The argument at `index`; the arity of the command says which ones are there.
    pub fn positional(&self, index: usize) -> &str {
        self.positionals.get(index).map_or("", String::as_str)
    }

    pub fn given(&self, name: &str) -> bool {
        !self.raw(name).is_empty()
    }

    /// Whether the command has such a flag.
    pub fn knows(&self, name: &str) -> bool {
        self.def.flags.iter().any(|flag| flag.long == name)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    pub fn flag_or(&self, name: &str, default: bool) -> bool {
        self.raw(name)
            .last()
            .map_or(default, |value| parse_bool(value).unwrap_or(default))
    }

    pub fn maybe(&self, name: &str) -> Option<&str> {
        self.raw(name).last().copied()
    }

    /// The value, or an empty string.
    pub fn text(&self, name: &str) -> &str {
        self.maybe(name).unwrap_or("")
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        let commas = self
            .def
            .flags
            .iter()
            .any(|flag| flag.long == name && flag.kind == Kind::Commas);
        let raw = self.raw(name).into_iter();
        if commas {
            raw.flat_map(|value| value.split(',').map(str::to_owned))
                .collect()
        } else {
            raw.map(str::to_owned).collect()
        }
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        parse_int(self.maybe(name)?).ok()
    }

    pub fn uint(&self, name: &str) -> Option<u64> {
        parse_uint(self.maybe(name)?).ok()
    }

    pub fn float(&self, name: &str) -> Option<f64> {
        self.maybe(name)?.parse().ok()
    }

    /// Nanoseconds.
    pub fn duration(&self, name: &str) -> Option<i64> {
        duration::parse(self.maybe(name)?).ok()
    }

    pub fn bytes(&self, name: &str) -> Option<i64> {
        parse_bytes(self.maybe(name)?).ok()
    }

    pub fn nano_cpus(&self, name: &str) -> Option<i64> {
        parse_nano_cpus(self.maybe(name)?).ok()
    }

    /// Each value of a flag, read by `read`.
    pub fn each<T>(
        &self,
        name: &str,
        mut read: impl FnMut(&str) -> Result<T, String>,
    ) -> Outcome<Vec<T>> {
        self.list(name)
            .iter()
            .map(|value| read(value).map_err(|why| self.invalid(name, value, &why)))
            .collect()
    }

    /// A flag's value that is wrong.
    pub fn invalid(&self, name: &str, value: &str, why: &str) -> Failure {
        self.usage(invalid(&self.def.flags, name, value, why))
    }

    /// Wrong usage: `message`, and how the command is called.
    pub fn usage(&self, message: String) -> Failure {
        Failure::Usage {
            message,
            usage: help::usage_hint(self.def, &self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn def(text: &str) -> &'static CommandDef {
        Box::leak(Box::new(CommandDef::parse(text).unwrap()))
    }

    fn run_def() -> &'static CommandDef {
        def(
            "Usage:  skep run [OPTIONS] IMAGE [COMMAND] [ARG...]\n\nRun\n\nOptions:\n  -d, --detach             x\n  -e, --env list           x\n  -i, --interactive        x\n  -m, --memory bytes       x\n      --memory-swap bytes  x\n  -n, --number int         x\n  -p, --publish list       x\n      --replicas uint      x\n  -t, --tty                x\n",
        )
    }

    fn read(argv: &[&str]) -> Result<Args, String> {
        match parse(
            run_def(),
            "run",
            argv.iter().map(|s| (*s).to_owned()).collect(),
        ) {
            Ok(Parsed::Run(args)) => Ok(args),
            Ok(Parsed::Help) => Err("help".to_owned()),
            Err(failure) => Err(failure.to_string().lines().next().unwrap().to_owned()),
        }
    }

    #[test]
    fn argv_is_read_as_docker_reads_it() {
        let args = read(&[
            "-itd=false",
            "-eA=1",
            "-e=B",
            "--env",
            "-C",
            "-p80:80",
            "image",
            "-x",
            "--",
            "--env",
            "D",
        ])
        .unwrap();
        assert!(args.flag("interactive") && args.flag("tty") && !args.flag("detach"));
        assert!(args.given("detach"));
        assert_eq!(args.list("env"), ["A=1", "B", "-C"]);
        assert_eq!(args.list("publish"), ["80:80"]);
        assert_eq!(args.positionals(), ["image", "-x", "--", "--env", "D"]);
        let args = read(&[
            "--memory",
            "1g",
            "--memory-swap",
            "-1",
            "-n",
            "-3",
            "-n",
            "4",
            "a",
        ])
        .unwrap();
        assert_eq!(args.bytes("memory"), Some(1 << 30));
        assert_eq!(args.bytes("memory-swap"), Some(-1));
        assert_eq!(args.int("number"), Some(4));
        assert_eq!(read(&["--help"]).unwrap_err(), "help");
        assert_eq!(read(&["-h"]).unwrap_err(), "help");
    }

    #[test]
    fn complaints_are_dockers() {
        for (argv, complaint) in [
            (&["--foo"][..], "unknown flag: --foo"),
            (&["--foo=3", "x"], "unknown flag: --foo"),
            (&["-Z", "x"], "unknown shorthand flag: 'Z' in -Z"),
            (&["-dZq", "x"], "unknown shorthand flag: 'Z' in -Zq"),
            (&["--publish"], "flag needs an argument: --publish"),
            (&["-dp"], "flag needs an argument: 'p' in -p"),
            (
                &["--detach=x", "x"],
                "invalid argument \"x\" for \"-d, --detach\" flag: strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
            (
                &["--replicas", "-1", "x"],
                "invalid argument \"-1\" for \"--replicas\" flag: strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
            (
                &["--memory", "x", "x"],
                "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'",
            ),
            (&[], "skep: 'skep run' requires at least 1 argument"),
        ] {
            assert_eq!(read(argv).unwrap_err(), complaint, "{argv:?}");
        }
    }

    #[test]
    fn processors_are_decimal() {
        assert_eq!(parse_nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(parse_nano_cpus(".25"), Ok(250_000_000));
        assert_eq!(parse_nano_cpus("2"), Ok(2_000_000_000));
        assert!(parse_nano_cpus("0.0000000001").is_err());
        assert!(parse_nano_cpus("x").is_err());
        assert!(parse_nano_cpus("-1").is_err());
    }
}
