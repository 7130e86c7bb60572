//! Attach, terminals, exec, the log and back pressure.

mod common;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use common::{Container, cannot_run, unframe, until};
use skep_shim::ClientError;
use skep_shim::config::ConsoleSize;
use skep_shim::protocol::{AttachOptions, ExecSpec, RefusalKind};

const ALL: AttachOptions = AttachOptions {
    stdin: true,
    stdout: true,
    stderr: true,
};

fn exec(id: &str, args: &[&str]) -> ExecSpec {
    ExecSpec {
        id: id.into(),
        args: args.iter().map(|&arg| arg.into()).collect(),
        ..ExecSpec::default()
    }
}

#[test]
fn attached_before_the_start_everything_is_seen_and_input_arrives() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell("echo hello; echo wrong >&2; cat; echo over");
    container.config.process.open_stdin = true;
    container.config.process.stdin_once = true;
    let prepared = common::launcher()
        .prepare(&container.write_config())
        .unwrap();
    let mut stream = container.client().attach(ALL).unwrap();
    // Half-closed already before anything runs.
    stream.write_all(b"typed\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    prepared.start(&[]).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = unframe(&bytes);
    assert!(
        text.contains("hello\n") && text.contains("wrong\n"),
        "{text}"
    );
    assert!(text.contains("typed\nover\n"), "{text}");
    assert_eq!(container.wait().exit_code, 0);
    assert!(container.output().contains("typed\nover\n"));
}

#[test]
fn input_that_is_not_once_stays_open_when_a_client_leaves() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell("read a; echo got $a; read b; echo got $b");
    container.config.process.open_stdin = true;
    container.start();
    for word in ["one\n", "two\n"] {
        let mut stream = container.client().attach(ALL).unwrap();
        stream.write_all(word.as_bytes()).unwrap();
        drop(stream);
        until("the word", || {
            container
                .output()
                .contains(&format!("got {word}"))
                .then_some(())
        });
    }
    assert_eq!(container.wait().exit_code, 0);
}

#[test]
fn several_clients_see_the_same() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell("read go; seq 1 1000");
    container.config.process.open_stdin = true;
    let prepared = common::launcher()
        .prepare(&container.write_config())
        .unwrap();
    let mut first = container.client().attach(ALL).unwrap();
    let mut second = container
        .client()
        .attach(AttachOptions {
            stdin: false,
            ..ALL
        })
        .unwrap();
    prepared.start(&[]).unwrap();
    first.write_all(b"\n").unwrap();
    let (mut one, mut two) = (Vec::new(), Vec::new());
    first.read_to_end(&mut one).unwrap();
    second.read_to_end(&mut two).unwrap();
    assert_eq!(unframe(&one), unframe(&two));
    assert!(unframe(&one).ends_with("\n999\n1000\n"));
}

#[test]
fn a_terminal_echoes_has_a_size_and_a_console() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell(
        "tty; stty size; read line; stty size; test -c /dev/console && echo $line",
    );
    container.config.process.open_stdin = true;
    container.config.process.terminal = true;
    container.config.process.console_size = Some(ConsoleSize {
        height: 30,
        width: 90,
    });
    let prepared = common::launcher()
        .prepare(&container.write_config())
        .unwrap();
    let mut stream = container.client().attach(ALL).unwrap();
    prepared.start(&[]).unwrap();
    until("the size", || {
        container.output().contains("30 90").then_some(())
    });
    let size = ConsoleSize {
        height: 40,
        width: 100,
    };
    container.client().resize(None, size).unwrap();
    stream.write_all(b"word\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(
        String::from_utf8(bytes).unwrap(),
        "/dev/pts/0\r\n30 90\r\nword\r\n40 100\r\nword\r\n"
    );
    let log = std::fs::read_to_string(&container.config.log.path).unwrap();
    assert!(
        log.contains(r#"{"log":"40 100\r\n","stream":"stdout""#),
        "{log}"
    );
}

#[test]
fn every_byte_of_a_great_deal_is_in_the_log() {
    if cannot_run() {
        return;
    }
    let container = Container::shell(
        "seq 1 300000; dd if=/dev/zero bs=1000 count=100 2>/dev/null | tr '\\0' x; echo end",
    );
    let (code, output) = container.run();
    assert_eq!(code, 0);
    let mut lines = output.lines();
    for number in 1..=300_000 {
        assert_eq!(lines.next(), Some(number.to_string().as_str()));
    }
    assert_eq!(
        lines.next(),
        Some(format!("{}end", "x".repeat(100_000)).as_str())
    );
    assert_eq!(lines.next(), None);
}

#[test]
fn a_log_rotates_and_loses_only_its_oldest_file() {
    if cannot_run() {
        return;
    }
    let mut container = Container::shell("seq 1 20000");
    container.config.log.max_size = Some(100_000);
    container.config.log.max_file = 3;
    container.start();
    assert_eq!(container.wait().exit_code, 0);
    assert!(container.output().ends_with("20000\n"));
    assert!(container.path("log.2").exists());
    assert!(!container.path("log.3").exists());
    for name in ["log", "log.1", "log.2"] {
        let size = std::fs::metadata(container.path(name)).unwrap().len();
        assert!(size < 100_200, "{name} has {size} bytes");
    }
}

#[test]
fn a_slow_client_holds_the_container_up_and_loses_nothing() {
    if cannot_run() {
        return;
    }
    // More than all buffers on the way hold.
    let mut container = Container::shell("read go; seq 1 1000000; echo last >&2");
    container.config.process.open_stdin = true;
    container.start();
    let mut stream = container.client().attach(ALL).unwrap();
    stream.write_all(b"\n").unwrap();
    until("the output to stand still", || {
        let before = container.output().len();
        std::thread::sleep(std::time::Duration::from_millis(200));
        (before > 0 && before == container.output().len()).then_some(())
    });
    assert!(!container.output().contains("last"));
    // Others are served meanwhile.
    assert!(container.client().status().is_ok());
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = unframe(&bytes);
    assert!(text.contains("\n999999\n1000000\n"), "{}", text.len());
    assert!(text.contains("last\n"));
}

#[test]
fn output_of_the_dying_is_kept_even_if_somebody_holds_the_pipe() {
    if cannot_run() {
        return;
    }
    let container = Container::shell("(sleep 100; echo never) & printf 'no newline'; exit 4");
    assert_eq!(container.run(), (4, "no newline".into()));
}

#[test]
fn execs_run_inside_and_give_their_codes() {
    if cannot_run() {
        return;
    }
    let mut container = Container::new(&["sleep", "100"]);
    container.config.process.user = "web".into();
    container.config.process.cwd = "/tmp".into();
    container.start();
    let (code, output) = container.exec_shell(
        "a",
        "exec 2>&1; id -un; pwd; echo $HOME; hostname; cat /proc/1/comm; echo err >&2; exit 5",
    );
    assert_eq!(
        (code, output.as_str()),
        (5, "web\n/tmp\n/home/web\nbox\nsleep\nerr\n")
    );
    let (code, output) = container.exec(ExecSpec {
        user: Some("0".into()),
        cwd: Some("/etc".into()),
        env: vec!["A=1".into(), "PATH=/bin".into()],
        ..exec("b", &["sh", "-c", "id -u; pwd; env; grep -E 'CapEff|Seccomp:' /proc/self/status; test \"$(cat /proc/self/cgroup)\" = \"$(cat /proc/1/cgroup)\" && echo same group"])
    });
    assert_eq!(code, 0);
    assert!(output.starts_with("0\n/etc\n"), "{output}");
    assert!(
        output.contains("A=1\n") && output.contains("HOME=/root\n"),
        "{output}"
    );
    assert!(
        output.contains("CapEff:\t00000000a80425fb\nSeccomp:\t2\n"),
        "{output}"
    );
    assert!(output.ends_with("same group\n"), "{output}");
    let (_, output) = container.exec(ExecSpec {
        user: Some("0".into()),
        privileged: true,
        ..exec("c", &["grep", "Seccomp:", "/proc/self/status"])
    });
    assert_eq!(output, "Seccomp:\t0\n");
    let status = container.client().status().unwrap();
    assert_eq!(status.execs.len(), 3);
    assert_eq!(status.execs[0].exit_code, Some(5));
}

#[test]
fn an_exec_has_input_and_its_end() {
    if cannot_run() {
        return;
    }
    let container = Container::new(&["sleep", "100"]);
    container.start();
    let mut started = container
        .client()
        .exec(&ExecSpec {
            streams: ALL,
            ..exec("x", &["sh", "-c", "cat; echo over"])
        })
        .unwrap();
    let big = "0123456789abcde\n".repeat(20_000);
    let mut writer = started.stream.try_clone().unwrap();
    let feeder = std::thread::spawn({
        let big = big.clone();
        move || {
            writer.write_all(big.as_bytes()).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        }
    });
    let mut bytes = Vec::new();
    started.stream.read_to_end(&mut bytes).unwrap();
    feeder.join().unwrap();
    assert_eq!(unframe(&bytes), big + "over\n");
}

#[test]
fn an_exec_has_a_terminal_of_its_own() {
    if cannot_run() {
        return;
    }
    let container = Container::new(&["sleep", "100"]);
    container.start();
    let (code, output) = container.exec(ExecSpec {
        terminal: true,
        console_size: Some(ConsoleSize {
            height: 11,
            width: 22,
        }),
        ..exec("t", &["sh", "-c", "tty; stty size"])
    });
    assert_eq!((code, output.as_str()), (0, "/dev/pts/0\r\n11 22\r\n"));
}

#[test]
fn an_exec_that_cannot_be_is_refused_in_dockers_words() {
    if cannot_run() {
        return;
    }
    let container = Container::new(&["sleep", "100"]);
    container.start();
    let refused = |spec: &ExecSpec| match container.client().exec(spec) {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let refusal = refused(&exec("n", &["nothing"]));
    assert_eq!(
        refusal.message,
        "exec: \"nothing\": executable file not found in $PATH"
    );
    assert_eq!(refusal.exit_code, Some(127));
    let refusal = refused(&ExecSpec {
        user: Some("nobody".into()),
        ..exec("u", &["true"])
    });
    assert_eq!(
        refusal.message,
        "unable to find user nobody: no matching entries in passwd file"
    );
    match container.client().exec_wait("none", None) {
        Err(ClientError::Refused(refusal)) => assert_eq!(refusal.kind, RefusalKind::NotFound),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exec_that_leaves_something_running_still_ends() {
    if cannot_run() {
        return;
    }
    let container = Container::new(&["sleep", "100"]);
    container.start();
    let (code, output) = container.exec_shell("bg", "sleep 50 & echo started");
    assert_eq!((code, output.as_str()), (0, "started\n"));
    let detached = container
        .client()
        .exec(&exec("d", &["sleep", "60"]))
        .unwrap();
    let mut end = Vec::new();
    let mut stream = detached.stream;
    stream.read_to_end(&mut end).unwrap();
    assert!(end.is_empty());
    let processes = container.client().processes().unwrap();
    assert_eq!(processes.len(), 3, "{processes:?}");
    assert!(
        processes
            .iter()
            .any(|process| process.pid == detached.pid && process.exec.as_deref() == Some("d"))
    );
    container.client().exec_signal("d", libc::SIGTERM).unwrap();
    let code = container
        .client()
        .exec_wait("d", Some(common::PATIENCE))
        .unwrap();
    assert_eq!(code, 143);
}
