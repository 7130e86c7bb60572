//! Variables that only the shim's memory holds.

mod common;

use common::*;
use skep_engine::types::{ExecConfig, HealthConfig};
use skep_engine::{
    CreateExtras, Engine, EngineError, ExecStart, InjectedVariable, Kind, StartExtras, StopOptions,
};

const VALUE: &str = "hunter2-in-memory";

fn extras(values: &[(&str, &[u8])]) -> StartExtras {
    let variables = values.iter().map(|(name, value)| InjectedVariable {
        name: (*name).to_owned(),
        value: value.to_vec().into(),
    });
    StartExtras {
        variables: variables.collect(),
        ..StartExtras::default()
    }
}

/// What a shell in the container makes of a script.
async fn inside(engine: &Engine, name: &str, env: &[&str], script: &str) -> String {
    let config = ExecConfig {
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        env: env.iter().map(|one| (*one).to_owned()).collect(),
        attach_stdout: true,
        attach_stderr: true,
        ..ExecConfig::default()
    };
    let id = engine.exec_create(name, config).await.unwrap();
    let started = engine.exec_start(&id, ExecStart::default()).await;
    let mut attached = started.unwrap().unwrap();
    let mut text = String::new();
    while let Some(frame) = attached.output.next().await {
        text.push_str(&String::from_utf8_lossy(&frame.unwrap().data));
    }
    text.trim().to_owned()
}

/// No file of the engine's holds the value.
fn assert_on_no_disk(bench: &Bench) {
    let mut places = vec![bench.path().to_owned()];
    let mut looked = 0;
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(&place).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                places.push(path);
            } else if kind.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                let found = bytes
                    .windows(VALUE.len())
                    .any(|part| part == VALUE.as_bytes());
                assert!(!found, "the value is in {}", path.display());
                looked += 1;
            }
        }
    }
    assert!(looked > 5, "only {looked} files");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_of_a_container_has_them_and_no_disk_and_no_inspect() {
    let Some(mut bench) = bench().await else {
        return;
    };
    let engine = bench.engine().clone();
    for (name, userns) in [("plain", "host"), ("mapped", "private")] {
        let script = "test \"${WORD%-in-memory}\" = hunter2 && echo it has; sleep 1000";
        let mut config = with_host(shell(script), |host| {
            host.userns_mode = userns.into();
            host.init = Some(userns == "host");
        });
        config.env = vec!["WORD=of the image".into(), "OTHER=1".into()];
        config.healthcheck = Some(HealthConfig {
            test: vec![
                "CMD-SHELL".into(),
                "test \"${WORD%-in-memory}\" = hunter2".into(),
            ],
            interval: skep_model::Nanos(50_000_000),
            ..HealthConfig::default()
        });
        engine
            .container_create(Some(name), config, CreateExtras::default())
            .await
            .unwrap();
        let given = extras(&[("WORD", VALUE.as_bytes()), ("HOME", b"/elsewhere")]);
        engine.container_start(name, given).await.unwrap();
        let healthy = |found: &skep_engine::types::ContainerInspect| {
            let health = found.state.health.as_ref();
            health.is_some_and(|health| health.status == "healthy")
        };
        let shown = until_inspect(&engine, name, "it is healthy", healthy).await;
        assert!(log(&engine, name).await.contains("it has"), "{name}");
        assert!(!serde_json::to_string(&shown).unwrap().contains(VALUE));
        assert_eq!(
            inside(&engine, name, &[], "echo $WORD $OTHER $HOME").await,
            format!("{VALUE} 1 /elsewhere")
        );
        assert_eq!(
            inside(&engine, name, &["WORD=mine"], "echo $WORD").await,
            "mine"
        );
        let environ = std::fs::read(format!("/proc/{}/environ", shown.state.pid)).unwrap();
        let entries = environ.split(|byte| *byte == 0);
        let own = entries.filter(|entry| entry.starts_with(b"WORD="));
        assert_eq!(own.count(), 1, "{name}: what the image says is not there");
    }
    assert_on_no_disk(&bench);
    drop(engine);
    bench.close().await;
    bench.open().await;
    let engine = bench.engine();
    for name in ["plain", "mapped"] {
        assert_eq!(
            inside(engine, name, &[], "echo $WORD").await,
            VALUE,
            "{name}"
        );
    }
    assert_on_no_disk(&bench);
    // Without its secrets nobody starts it: what the image says would hold.
    let refused = |error: EngineError| {
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        assert!(
            error.to_string().contains("service update --force"),
            "{error}"
        );
    };
    let again = engine.container_restart("plain", StopOptions::default());
    refused(again.await.unwrap_err());
    assert_eq!(
        inside(engine, "plain", &[], "echo $WORD").await,
        VALUE,
        "it runs on"
    );
    let now = StopOptions {
        timeout: Some(0),
        ..StopOptions::default()
    };
    engine.container_stop("plain", now).await.unwrap();
    let again = engine.container_start("plain", StartExtras::default());
    refused(again.await.unwrap_err());
    let given = extras(&[("WORD", VALUE.as_bytes())]);
    engine.container_start("plain", given).await.unwrap();
    assert_eq!(inside(engine, "plain", &[], "echo $WORD").await, VALUE);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_cannot_be_one_starts_nothing_and_is_not_told() {
    let Some(bench) = bench().await else {
        return;
    };
    let engine = bench.engine();
    engine
        .container_create(Some("zero"), shell("sleep 1000"), CreateExtras::default())
        .await
        .unwrap();
    let given = extras(&[("WORD", b"hunter2\0in-memory")]);
    let error = engine.container_start("zero", given).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("the value of `WORD` contains a zero byte"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_are_looked_for_in_a_path_that_is_hidden() {
    let Some(bench) = bench().await else {
        return;
    };
    let engine = bench.engine();
    engine
        .container_create(Some("led"), shell("exit"), CreateExtras::default())
        .await
        .unwrap();
    let given = extras(&[("PATH", b"/nowhere")]);
    let error = engine.container_start("led", given).await.unwrap_err();
    assert!(error.to_string().contains("not found in $PATH"), "{error}");
    let given = extras(&[("PATH", b"/nowhere:/bin")]);
    engine.container_start("led", given).await.unwrap();
    bench.finish().await;
}
