//! Logs, attach and exec.

mod common;

use common::*;
use skep_engine::types::ExecConfig;
use skep_engine::{
    AttachOptions, Attachment, Engine, ExecStart, Kind, LogOptions, StdStream, WaitCondition,
};
use tokio::io::AsyncWriteExt as _;

async fn read_all(attachment: &mut Attachment) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    while let Some(frame) = tokio::time::timeout(DEADLINE, attachment.output.next())
        .await
        .unwrap()
    {
        let frame = frame.unwrap();
        let text = String::from_utf8_lossy(&frame.data).into_owned();
        match frame.stream {
            StdStream::Stdout => out.push_str(&text),
            StdStream::Stderr => err.push_str(&text),
        }
    }
    (out, err)
}

/// Reads until the output has this text.
async fn read_until(attachment: &mut Attachment, text: &str) -> String {
    let mut all = String::new();
    while !all.contains(text) {
        let frame = tokio::time::timeout(DEADLINE, attachment.output.next()).await;
        let frame = frame.unwrap_or_else(|_| panic!("timed out after {all:?}"));
        all.push_str(&String::from_utf8_lossy(
            &frame.expect("output ended early").unwrap().data,
        ));
    }
    all
}

async fn exec(
    engine: &Engine,
    container: &str,
    words: &[&str],
    change: impl FnOnce(&mut ExecConfig),
) -> (String, Attachment) {
    let mut config = ExecConfig {
        cmd: words.iter().map(|word| (*word).to_owned()).collect(),
        attach_stdout: true,
        attach_stderr: true,
        ..ExecConfig::default()
    };
    change(&mut config);
    let id = engine.exec_create(container, config).await.unwrap();
    let attachment = engine
        .exec_start(&id, ExecStart::default())
        .await
        .unwrap()
        .unwrap();
    (id, attachment)
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_before_the_start_misses_nothing() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut config = shell("echo first; cat; echo last >&2; exit 2");
    config.open_stdin = true;
    config.stdin_once = true;
    create(engine, "a1", config).await;
    let options = AttachOptions {
        stdin: true,
        stdout: true,
        stderr: true,
        stream: true,
        ..Default::default()
    };
    let mut attachment = engine.container_attach("a1", options).await.unwrap();
    assert!(!attachment.tty);
    let waiter = engine
        .container_wait("a1", WaitCondition::NextExit)
        .unwrap();
    start(engine, "a1").await.unwrap();
    let mut input = attachment.input.take().unwrap();
    input.write_all(b"typed\n").await.unwrap();
    input.shutdown().await.unwrap();
    let (out, err) = read_all(&mut attachment).await;
    assert_eq!((out.as_str(), err.as_str()), ("first\ntyped\n", "last\n"));
    assert_eq!(waiter.wait().await.unwrap().status_code, 2);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_raw_resizes_and_detaches() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut config = running(&["sh"]);
    config.tty = true;
    config.open_stdin = true;
    let config = with_host(config, |host| host.console_size = (30, 100));
    run(engine, "t1", config).await;
    let options = AttachOptions {
        stdin: true,
        stdout: true,
        stderr: true,
        stream: true,
        ..Default::default()
    };
    let mut attachment = engine.container_attach("t1", options).await.unwrap();
    assert!(attachment.tty);
    let mut input = attachment.input.take().unwrap();
    input.write_all(b"stty size; echo do''ne\n").await.unwrap();
    let text = read_until(&mut attachment, "done\r\n").await;
    assert!(text.contains("30 100"), "{text:?}");
    engine.container_resize("t1", 40, 120).await.unwrap();
    input.write_all(b"stty size; echo ag''ain\n").await.unwrap();
    let text = read_until(&mut attachment, "again\r\n").await;
    assert!(text.contains("40 120"), "{text:?}");
    input.write_all(&[16, 17]).await.unwrap();
    read_all(&mut attachment).await;
    assert!(
        engine
            .container_inspect("t1", false)
            .await
            .unwrap()
            .state
            .running
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_runs_beside_and_reports_its_code() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    run(engine, "e1", running(&["sleep", "1000"])).await;
    let (id, mut attachment) = exec(
        engine,
        "e1",
        &["sh", "-c", "cat; echo $X $(id -u) $(pwd) >&2; exit 9"],
        |config| {
            config.attach_stdin = true;
            config.env = vec!["X=y".into()];
            config.user = "1000".into();
            config.working_dir = "/tmp".into();
        },
    )
    .await;
    let mut input = attachment.input.take().unwrap();
    input.write_all(b"hello").await.unwrap();
    input.shutdown().await.unwrap();
    let (out, err) = read_all(&mut attachment).await;
    assert_eq!((out.as_str(), err.as_str()), ("hello", "y 1000 /tmp\n"));
    // The end of the output is after the code is known.
    let found = engine.exec_inspect(&id).await.unwrap();
    assert_eq!((found.running, found.exit_code), (false, Some(9)));
    assert!(engine.exec_start(&id, ExecStart::default()).await.is_err());

    let missing = engine
        .exec_create(
            "e1",
            ExecConfig {
                cmd: vec!["nope".into()],
                attach_stdout: true,
                ..Default::default()
            },
        )
        .await
        .unwrap();
    let error = engine
        .exec_start(&missing, ExecStart::default())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("executable file not found in $PATH"),
        "{error}"
    );
    assert_eq!(
        engine.exec_inspect(&missing).await.unwrap().exit_code,
        Some(127)
    );

    let detached = engine
        .exec_create(
            "e1",
            ExecConfig {
                cmd: ["sh", "-c", "touch /tmp/made; exit 4"]
                    .map(str::to_owned)
                    .to_vec(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    let options = ExecStart {
        detach: true,
        ..ExecStart::default()
    };
    assert!(
        engine
            .exec_start(&detached, options)
            .await
            .unwrap()
            .is_none()
    );
    let deadline = std::time::Instant::now() + DEADLINE;
    while engine.exec_inspect(&detached).await.unwrap().exit_code != Some(4) {
        assert!(std::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    assert_eq!(
        engine.exec_inspect("nope").await.unwrap_err().to_string(),
        "No such exec instance: nope"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_a_terminal_and_none_in_stopped_containers() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    run(engine, "e1", running(&["sleep", "1000"])).await;
    let (id, mut attachment) = exec(engine, "e1", &["sh"], |config| {
        config.tty = true;
        config.attach_stdin = true;
        config.console_size = Some((20, 70));
    })
    .await;
    let mut input = attachment.input.take().unwrap();
    input.write_all(b"stty size; echo $TERM\n").await.unwrap();
    let text = read_until(&mut attachment, "xterm").await;
    assert!(text.contains("20 70"), "{text:?}");
    engine.exec_resize(&id, 21, 71).await.unwrap();
    input.write_all(b"exit 6\n").await.unwrap();
    read_all(&mut attachment).await;
    assert_eq!(engine.exec_inspect(&id).await.unwrap().exit_code, Some(6));
    create(engine, "still", shell("true")).await;
    let refused = engine
        .exec_create(
            "still",
            ExecConfig {
                cmd: vec!["x".into()],
                ..Default::default()
            },
        )
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.to_string().ends_with("is not running"), "{refused}");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_follow_through_rotation_to_the_end() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let config = with_host(
        shell("for i in $(seq 1 3000); do echo line $i; done"),
        |host| {
            host.log_config.kind = "json-file".into();
            host.log_config.config = [("max-size", "20k"), ("max-file", "50")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into();
        },
    );
    create(engine, "l1", config).await;
    let options = LogOptions {
        stdout: true,
        stderr: true,
        follow: true,
        ..LogOptions::default()
    };
    start(engine, "l1").await.unwrap();
    let (_, mut lines) = engine.container_logs("l1", options).await.unwrap();
    let mut count = 0;
    while let Some(line) = tokio::time::timeout(DEADLINE, lines.next()).await.unwrap() {
        count += 1;
        assert_eq!(
            &line.unwrap().line[..],
            format!("line {count}\n").as_bytes()
        );
    }
    assert_eq!(count, 3000);
    let options = LogOptions {
        stdout: true,
        tail: Some(3),
        ..LogOptions::default()
    };
    let (_, mut lines) = engine.container_logs("l1", options).await.unwrap();
    let mut tail = Vec::new();
    while let Some(line) = lines.next().await {
        tail.push(line.unwrap());
    }
    assert_eq!(tail.len(), 3);
    assert_eq!(&tail[2].line[..], b"line 3000\n");
    let since = LogOptions {
        stdout: true,
        since: Some(tail[2].at),
        ..LogOptions::default()
    };
    let (_, mut lines) = engine.container_logs("l1", since).await.unwrap();
    assert!(lines.next().await.unwrap().unwrap().at >= tail[2].at);
    let silent = LogOptions {
        stderr: true,
        ..LogOptions::default()
    };
    assert!(
        engine
            .container_logs("l1", silent)
            .await
            .unwrap()
            .1
            .next()
            .await
            .is_none()
    );
    bench.finish().await;
}
