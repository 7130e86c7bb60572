//! What a Dockerfile says: tables, and properties over any text.

use proptest::prelude::*;
use skep_dockerfile::*;

fn parse(text: &str) -> Dockerfile {
    Dockerfile::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn only(text: &str) -> Instruction {
    let file = parse(&format!("FROM x\n{text}\n"));
    let [step] = &file.stages[0].steps[..] else {
        panic!("{text}: {file:?}")
    };
    step.instruction.clone()
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn stages_have_names_platforms_and_steps() {
    let file = parse(
        "# a comment\nARG V=1\nFROM --platform=$BUILDPLATFORM base:$V AS One\nRUN true\nFROM One\nCMD [\"x\"]\n",
    );
    assert_eq!(file.arguments.len(), 1);
    assert_eq!(file.stages[0].name.as_deref(), Some("one"));
    assert_eq!(file.stages[0].base, "base:$V");
    assert_eq!(file.stages[0].platform.as_deref(), Some("$BUILDPLATFORM"));
    assert_eq!((file.stages[1].line, file.stages[1].steps[0].line), (5, 6));
    assert_eq!(file.stage("ONE"), Some(0));
    assert_eq!(file.stage("1"), Some(1));
    assert_eq!(file.stage("2"), None);
}

#[test]
fn lines_go_on_over_comments_and_empty_lines() {
    let file = parse("FROM x\nRUN a \\\n  # no\n\n   b \\  \n  c\nRUN d\\\\\nRUN e");
    let shown: Vec<(usize, &str)> = file.stages[0]
        .steps
        .iter()
        .map(|step| (step.line, step.original.as_str()))
        .collect();
    assert_eq!(
        shown,
        [(2, "RUN a    b   c"), (7, "RUN d\\\\"), (8, "RUN e")]
    );
}

#[test]
fn the_escape_directive_changes_continuations() {
    let file = parse("# escape=`\n# syntax=docker/dockerfile:1\nFROM x\nRUN a `\n b\\\nRUN c");
    assert_eq!(file.escape, '`');
    assert_eq!(file.syntax.as_deref(), Some("docker/dockerfile:1"));
    assert_eq!(file.stages[0].steps[0].original, "RUN a  b\\");
    // After a comment it is a comment.
    assert_eq!(parse("# x\n# escape=`\nFROM x").escape, '\\');
}

#[test]
fn commands_have_two_forms() {
    let command = |text: &str| match only(text) {
        Instruction::Cmd(command) => (command.words, command.shell),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        command("CMD [\"a\", \"b c\"]"),
        (strings(&["a", "b c"]), false)
    );
    assert_eq!(command("CMD a b  c"), (strings(&["a b  c"]), true));
    assert_eq!(command("CMD [a, b]"), (strings(&["[a, b]"]), true));
    assert_eq!(command("cmd []"), (vec![], false));
}

#[test]
fn pairs_keep_their_quotes_until_they_are_expanded() {
    let pairs = |text: &str| match only(text) {
        Instruction::Env(pairs) | Instruction::Label(pairs) => pairs
            .into_iter()
            .map(|pair| (pair.key, pair.value))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let owned = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    assert_eq!(
        pairs("ENV A=1 B=\"x y\" C=a\\ b"),
        owned(&[("A", "1"), ("B", "\"x y\""), ("C", "a\\ b")])
    );
    assert_eq!(pairs("ENV A x  y"), owned(&[("A", "x  y")]));
    assert_eq!(pairs("LABEL \"a b\"=c"), owned(&[("\"a b\"", "c")]));
}

#[test]
fn here_documents_belong_to_their_instruction() {
    let run = |text: &str| match only(text) {
        Instruction::Run(run) => run,
        other => panic!("{other:?}"),
    };
    assert_eq!(run("RUN <<EOF\na\n# b\nEOF").script().unwrap(), "a\n# b\n");
    assert_eq!(run("RUN <<-EOF\n\ta\n\tEOF").script().unwrap(), "a\n");
    assert_eq!(
        run("RUN cat <<A && cat <<B\n1\nA\n2\nB").script().unwrap(),
        "cat <<A && cat <<B\n1\nA\n2\nB"
    );
    assert!(run("RUN <<EOF\n#!/bin/x\nEOF").program().is_some());
    assert!(run("RUN echo '<<EOF'").heredocs.is_empty());
    let Instruction::Copy(copy) = only("COPY <<\"A\" b <<C /d/\n$x\nA\n$y\nC") else {
        panic!("no copy")
    };
    assert_eq!(copy.sources, ["b"]);
    let inline: Vec<_> = copy
        .inline
        .iter()
        .map(|file| (file.name.as_str(), file.content.as_str(), file.expand))
        .collect();
    assert_eq!(inline, [("A", "$x\n", false), ("C", "$y\n", true)]);
}

#[test]
fn copies_have_flags_and_a_destination() {
    let Instruction::Copy(copy) = only(
        "COPY --from=0 --chown=a:b --chmod=644 --link --parents --exclude=*.o --exclude=x [\"a b\", \"c\"]",
    ) else {
        panic!("no copy")
    };
    assert_eq!(copy.sources, ["a b"]);
    assert_eq!(copy.destination, "c");
    assert_eq!(copy.from.as_deref(), Some("0"));
    assert_eq!(copy.exclude, ["*.o", "x"]);
    assert!(copy.link && copy.parents);
    let Instruction::Add(add) = only("ADD --checksum=sha256:1 --keep-git-dir=true http://x/y /z")
    else {
        panic!("no add")
    };
    assert!(add.keep_git_dir && add.checksum.is_some());
}

#[test]
fn health_checks_have_times() {
    let Instruction::Healthcheck(health) = only(
        "HEALTHCHECK --interval=1m30s --timeout=1.5s --retries=3 --start-interval=5ms CMD [\"x\"]",
    ) else {
        panic!("no check")
    };
    assert_eq!(
        (
            health.interval,
            health.timeout,
            health.retries,
            health.start_interval
        ),
        (90_000_000_000, 1_500_000_000, 3, 5_000_000)
    );
    assert!(!health.command.unwrap().shell);
    assert_eq!(
        only("HEALTHCHECK none"),
        Instruction::Healthcheck(Health::default())
    );
}

#[test]
fn mistakes_name_their_line() {
    for (text, line, why) in [
        ("FROM x\n\nFOO bar", 3, "unknown instruction: FOO"),
        ("", 1, "file with no instructions"),
        ("RUN x", 1, "no build stage in current context"),
        ("ARG x", 1, "no build stage in current context"),
        ("FROM", 1, "FROM requires either one or three arguments"),
        (
            "FROM a as 1b",
            1,
            "invalid name for build stage: \"1b\", name can't start with a number or contain symbols",
        ),
        ("FROM a AS b\nFROM c AS b", 2, "duplicate name b"),
        ("FROM x\nRUN --mont=a b", 2, "unknown flag: --mont"),
        (
            "FROM x\nRUN --mount=type=bind true",
            2,
            "target is required",
        ),
        ("FROM x\nRUN", 2, "RUN requires at least one argument"),
        ("FROM x\nRUN <<EOF\na", 2, "unterminated heredoc"),
        (
            "FROM x\nCOPY a",
            2,
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        (
            "FROM x\nCOPY --chown a b",
            2,
            "missing a value on flag: --chown",
        ),
        (
            "FROM x\nCOPY --chown=a --chown=b a b",
            2,
            "duplicate flag specified: --chown",
        ),
        ("FROM x\nADD --from=y a b", 2, "unknown flag: --from"),
        (
            "FROM x\nCOPY --link=maybe a b",
            2,
            "expecting boolean value for flag --link, not: maybe",
        ),
        ("FROM x\nENV a", 2, "ENV must have two arguments"),
        (
            "FROM x\nENV a=b c",
            2,
            "Syntax error - can't find = in \"c\". Must be of the form: name=value",
        ),
        ("FROM x\nENV =b", 2, "ENV names can not be blank"),
        (
            "FROM x\nCMD [1]",
            2,
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        (
            "FROM x\nSHELL sh -c",
            2,
            "SHELL requires the arguments to be in JSON form",
        ),
        ("FROM x\nEXPOSE", 2, "EXPOSE requires at least one argument"),
        ("FROM x\nUSER", 2, "USER requires exactly one argument"),
        (
            "FROM x\nONBUILD FROM y",
            2,
            "FROM isn't allowed as an ONBUILD trigger",
        ),
        (
            "FROM x\nONBUILD ONBUILD RUN y",
            2,
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        ("FROM x\nONBUILD FOO", 2, "unknown instruction: FOO"),
        (
            "FROM x\nHEALTHCHECK FOO",
            2,
            "Unknown type \"FOO\" in HEALTHCHECK (try CMD)",
        ),
        (
            "FROM x\nHEALTHCHECK --interval=1us CMD x",
            2,
            "Interval \"interval\" cannot be less than 1ms",
        ),
        (
            "FROM x\nHEALTHCHECK CMD",
            2,
            "Missing command after HEALTHCHECK CMD",
        ),
        (
            "# escape=x\nFROM x",
            1,
            "invalid ESCAPE 'x' does not match ` or \\",
        ),
        (
            "# escape=`\n# escape=`\nFROM x",
            2,
            "only one escape parser directive can be used",
        ),
    ] {
        let error = Dockerfile::parse(text).unwrap_err();
        assert_eq!((error.line, error.message.as_str()), (line, why), "{text}");
    }
    assert_eq!(
        Dockerfile::parse("FROM x\n\nFOO").unwrap_err().to_string(),
        "dockerfile parse error on line 3: unknown instruction: FOO"
    );
    let long = format!("FROM x\nRUN {}", "a".repeat(70_000));
    assert_eq!(
        Dockerfile::parse(&long).unwrap_err().message,
        "dockerfile line greater than maximum allowed size of 65535"
    );
}

fn expand(word: &str) -> Result<String, String> {
    let lookup = |name: &str| match name {
        "x" => Some("value".to_owned()),
        "path" => Some("/a/b.tar.gz".to_owned()),
        "empty" => Some(String::new()),
        "two" => Some("a  b".to_owned()),
        _ => None,
    };
    Expander::new('\\', &lookup)
        .word(word)
        .map_err(|error| error.message)
}

#[test]
fn words_expand_as_dockers_do() {
    for (word, expected) in [
        ("plain", "plain"),
        ("$x", "value"),
        ("${x}", "value"),
        ("a${x}b", "avalueb"),
        ("$xy", ""),
        ("\\$x", "$x"),
        ("'$x'", "$x"),
        ("\"$x\"", "value"),
        ("\"\\$x\"", "$x"),
        ("\"a\\b\"", "a\\b"),
        ("a\\b", "ab"),
        ("'a\\b'", "a\\b"),
        ("${none:-d}", "d"),
        ("${empty:-d}", "d"),
        ("${empty-d}", ""),
        ("${x:-d}", "value"),
        ("${x:+a}", "a"),
        ("${empty:+a}", ""),
        ("${empty+a}", "a"),
        ("${none:+a}", ""),
        ("${none:-${x}}", "value"),
        ("${none:-'a b'}", "a b"),
        ("${path#*/}", "a/b.tar.gz"),
        ("${path##*/}", "b.tar.gz"),
        ("${path%.*}", "/a/b.tar"),
        ("${path%%.*}", "/a/b"),
        ("${path/a/x}", "/x/b.tar.gz"),
        ("${path//a/x}", "/x/b.txr.gz"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$1", ""),
        ("$two", "a  b"),
        ("\"\"", ""),
    ] {
        assert_eq!(expand(word).as_deref(), Ok(expected), "{word}");
    }
    for (word, why) in [
        ("${x", "syntax error: missing '}'"),
        ("${", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${x:}", "unsupported modifier (:}) in substitution"),
        ("${x^^}", "unsupported modifier (^) in substitution"),
        ("${none:?gone}", "none: gone"),
        (
            "'a",
            "unexpected end of statement while looking for matching single-quote",
        ),
        (
            "\"a",
            "unexpected end of statement while looking for matching double-quote",
        ),
    ] {
        assert_eq!(expand(word).unwrap_err(), why, "{word}");
    }
    assert!(expand(&"${none:-".repeat(100)).is_err());
}

#[test]
fn values_split_only_where_nothing_is_quoted() {
    let lookup = |name: &str| (name == "p").then(|| "80 443/udp".to_owned());
    let words = |word: &str| Expander::new('\\', &lookup).words(word).unwrap();
    assert_eq!(words("$p"), ["80", "443/udp"]);
    assert_eq!(words("\"$p\""), ["80 443/udp"]);
    assert_eq!(words("1$p"), ["180", "443/udp"]);
    assert_eq!(words("$none"), Vec::<String>::new());
    assert_eq!(words("''"), [""]);
}

#[test]
fn files_keep_their_quotes() {
    let lookup = |name: &str| (name == "x").then(|| "v".to_owned());
    let text = Expander::new('\\', &lookup)
        .text("a=\"$x\" '${x}' \\$x \\n\n")
        .unwrap();
    assert_eq!(text, "a=\"v\" 'v' $x \\n\n");
}

#[test]
fn arguments_have_scopes() {
    let platforms = Platforms {
        build: ("linux".into(), "amd64".into(), String::new()),
        target: ("linux".into(), "arm64".into(), "v8".into()),
    };
    let given = [
        ("A", Some("given")),
        ("HTTP_PROXY", Some("p")),
        ("B", None),
        ("ODD", Some("o")),
    ]
    .map(|(key, value)| (key.to_owned(), value.map(str::to_owned)))
    .into();
    let mut args = BuildArgs::new(given, &platforms);
    let argument = |key: &str, value: Option<&str>| Argument {
        key: key.to_owned(),
        value: value.map(str::to_owned),
    };
    args.declare_global(argument("A", Some("1")));
    args.declare_global(argument("G", Some("global")));
    assert_eq!(args.global("A").as_deref(), Some("given"));
    assert_eq!(
        args.global("TARGETPLATFORM").as_deref(),
        Some("linux/arm64/v8")
    );
    assert_eq!(args.global("ODD"), None);
    args.begin_stage();
    assert_eq!(args.visible().keys().collect::<Vec<_>>(), ["HTTP_PROXY"]);
    args.declare(argument("A", None));
    args.declare(argument("B", Some("default")));
    args.declare(argument("G", None));
    args.declare(argument("D", Some("d")));
    args.declare(argument("TARGETARCH", None));
    let seen = args.visible();
    let get = |name: &str| seen.get(name).map(String::as_str);
    assert_eq!(
        (get("A"), get("B"), get("G"), get("D"), get("TARGETARCH")),
        (
            Some("given"),
            None,
            Some("global"),
            Some("d"),
            Some("arm64")
        )
    );
    assert!(!args.counts("HTTP_PROXY") && args.counts("A"));
    assert_eq!(args.unused(), ["ODD"]);
}

#[test]
fn ignored_files_are_dockers() {
    for (patterns, path, expected) in [
        ("*.o", "a.o", true),
        ("*.o", "d/a.o", false),
        ("**/*.o", "a.o", true),
        ("**/*.o", "d/e/a.o", true),
        ("d", "d/e/f", true),
        ("/d", "d", true),
        ("./d/", "d/x", true),
        ("d/**", "d", false),
        ("d/**", "d/e/f", true),
        ("d/**/f", "d/f", true),
        ("d/**/f", "d/e/g/f", true),
        ("d/**/f", "d/ef", false),
        ("**", "anything/at/all", true),
        ("**/d", "a/d/e", true),
        ("**/d", "ad", false),
        ("*/temp*", "a/temporary", true),
        ("*/*/temp*", "a/temp", false),
        ("temp?", "tempa", true),
        ("temp?", "temp", false),
        ("*.md\n!README.md", "README.md", false),
        ("*.md\n!README*.md\nREADME-x.md", "README-x.md", true),
        ("*.md\nREADME-x.md\n!README*.md", "README-x.md", false),
        ("!a\n*", "a", true),
        ("d\n!d/keep", "d/keep", false),
        ("d\n!d/keep", "d/other", true),
        ("# c\n\n  a  ", "a", true),
        ("#a", "#a", false),
        ("\\#a", "#a", true),
        ("[a-c]x", "bx", true),
        ("[^a-c]x", "bx", false),
        ("a/../b", "b", true),
        ("a.b", "axb", false),
    ] {
        let ignore = Ignore::parse(patterns).unwrap();
        assert_eq!(ignore.matches(path), expected, "{patterns:?} {path}");
    }
    assert!(Ignore::parse("!").is_err());
    assert!(Ignore::parse("[").is_err());
    assert!(Ignore::parse("a\\").is_err());
    let ignore = Ignore::parse("d\n!d/keep").unwrap();
    assert!(!ignore.may_skip("d") && ignore.may_skip("e"));
    let mut ignore = Ignore::parse("*").unwrap();
    ignore.keep("Dockerfile");
    assert!(!ignore.matches("Dockerfile") && ignore.matches("x"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
        let _ = Dockerfile::parse(&text);
        let _ = Dockerfile::parse(&format!("FROM x\n{text}"));
        let _ = Ignore::parse(&text).map(|ignore| ignore.matches("a/b/c"));
        let _ = expand(&text);
        let _ = Mount::parse(&text);
    }

    #[test]
    fn likely_text_is_read_or_refused(
        parts in proptest::collection::vec(
            prop::sample::select(vec![
                "FROM ", "RUN ", "COPY ", "ENV ", "ONBUILD ", "HEALTHCHECK ", "CMD ", "--mount=", "--from=",
                "\\\n", "\n", "#", " ", "<<EOF", "EOF", "<<-", "\"", "'", "$", "{", "}", "a", "=", "[", "]", ",",
                "type=cache", "\\", "`", "# escape=`\n", "é", "\t", ":-", "*", "**/", "!",
            ]),
            0..40,
        ),
    ) {
        let text = parts.concat();
        if let Ok(file) = Dockerfile::parse(&text) {
            let lines = text.lines().count();
            for stage in &file.stages {
                prop_assert!(stage.line >= 1 && stage.line <= lines);
                prop_assert!(stage.steps.iter().all(|step| step.line > stage.line && step.line <= lines));
            }
        }
        let _ = expand(&text);
        let _ = Ignore::parse(&text).map(|ignore| ignore.matches(&text));
    }

    #[test]
    fn text_without_marks_expands_to_itself(text in "[a-zA-Z0-9 /.,:=_-]{0,60}") {
        prop_assert_eq!(expand(&text).unwrap(), text);
    }

    #[test]
    fn a_lone_pattern_takes_itself_and_what_is_below(path in "[a-z]{1,5}(/[a-z]{1,5}){0,3}") {
        let ignore = Ignore::parse(&path).unwrap();
        let below = format!("{path}/x");
        let beside = format!("{path}x");
        prop_assert!(ignore.matches(&path));
        prop_assert!(ignore.matches(&below));
        prop_assert!(!ignore.matches(&beside));
    }

    #[test]
    fn hard_patterns_end(text in "[a*/]{0,60}", path in "[a/]{0,200}") {
        let _ = Ignore::parse(&text).map(|ignore| ignore.matches(&path));
        let _ = glob(&text, &path);
    }
}
