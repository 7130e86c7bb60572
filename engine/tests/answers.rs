//! What clients of other engines rely on: who is woken by a failed start, where copied files land and
//! whose they are, and which images of an archive are loaded.

mod common;

use std::io::Cursor;
use std::time::Duration;

use common::{DEADLINE, IMAGE, add_file, bench, create, running, shell, start, with_host};
use skep_engine::types::{Platform, ProgressEvent};
use skep_engine::{
    ImageRemoveOptions, ImportOptions, Kind, LoadOptions, Progress, PutArchiveOptions,
    WaitCondition,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn one_file(name: &str, contents: &[u8]) -> Cursor<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    add_file(&mut builder, name, 0o644, contents);
    Cursor::new(builder.into_inner().unwrap())
}

/// `docker run` waits for the next exit before it starts. When the start failed, the wait was answered
/// too, and the client printed that beside the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_is_no_exit() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    create(engine, "no", running(&["/nosuch"])).await;
    let next = engine
        .container_wait("no", WaitCondition::NextExit)
        .unwrap();
    start(engine, "no").await.unwrap_err();
    let next = next.wait();
    tokio::pin!(next);
    let early = tokio::time::timeout(Duration::from_millis(200), next.as_mut()).await;
    assert!(early.is_err(), "woken: {early:?}");
    // Who asks whether it runs learns how the start failed.
    let now = engine
        .container_wait("no", WaitCondition::NotRunning)
        .unwrap();
    assert_eq!(now.wait().await.unwrap().status_code, 127);
    // One that goes with its failed start ends every wait.
    let config = with_host(running(&["/nosuch"]), |host| host.auto_remove = true);
    create(engine, "gone", config).await;
    let gone = engine
        .container_wait("gone", WaitCondition::Removed)
        .unwrap();
    start(engine, "gone").await.unwrap_err();
    let gone = tokio::time::timeout(DEADLINE, gone.wait()).await.unwrap();
    assert_eq!(gone.unwrap().status_code, 127);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_into_a_volume_that_was_never_mounted() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut config = shell("cat /deep/volume/file; stat -c %u:%g /tmp/mine /tmp/theirs");
    config.volumes = Some([("/deep/volume".to_owned(), Default::default())].into());
    config.user = "1234:99".into();
    create(engine, "copy", config).await;
    let plain = PutArchiveOptions::default();
    let owned = PutArchiveOptions {
        copy_uid_gid: true,
        ..plain
    };
    for (path, name, options) in [
        ("/deep/volume", "file", plain),
        ("/tmp", "theirs", plain),
        ("/tmp", "mine", owned),
    ] {
        engine
            .container_put_archive("copy", path, options, one_file(name, b"cargo\n"))
            .await
            .unwrap();
    }
    start(engine, "copy").await.unwrap();
    let done = engine.container_wait("copy", WaitCondition::NotRunning);
    done.unwrap().wait().await.unwrap();
    let text = common::log(engine, "copy").await;
    assert_eq!(text, "cargo\n1234:99\n0:0\n");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_takes_the_platform_that_is_asked_for() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut stream = engine.image_save(&[IMAGE.to_owned()]).await.unwrap();
    let mut archive = Vec::new();
    while let Some(piece) = stream.next().await {
        archive.extend_from_slice(&piece.unwrap());
    }
    let force = ImageRemoveOptions {
        force: true,
        ..ImageRemoveOptions::default()
    };
    engine.image_remove(IMAGE, force).await.unwrap();
    let load = async |architecture: &str| {
        let options = LoadOptions {
            platform: Some(Platform {
                os: "linux".into(),
                architecture: architecture.into(),
                ..Platform::default()
            }),
            layers: true,
            ..LoadOptions::default()
        };
        let (progress, mut lines) = Progress::channel();
        let archive = Cursor::new(archive.clone());
        let loaded = engine.image_load(archive, options, progress).await;
        let mut said: Vec<ProgressEvent> = Vec::new();
        while let Some(line) = lines.recv().await {
            said.push(line);
        }
        loaded.map(|()| said)
    };
    let refused = load("s390x").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NotFound);
    assert!(engine.image_inspect(IMAGE).await.is_err());
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let said = load(own).await.unwrap();
    assert_eq!(said[0].status.as_deref(), Some("Loading layer"));
    let last = said.last().unwrap().stream.as_deref();
    assert_eq!(last, Some("Loaded image: busybox:test\n"));
    engine.image_inspect(IMAGE).await.unwrap();
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_imported_from_a_url() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let body = one_file("hello", b"there").into_inner();
    let server = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let count = stream.read(&mut asked).await.unwrap();
            let asked = String::from_utf8_lossy(&asked[..count]).into_owned();
            let (status, body) = match asked.starts_with("GET /root.tar ") {
                true => ("200 OK", &body[..]),
                false => ("404 Not Found", &b"none"[..]),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body).await.unwrap();
        }
    });
    let options = ImportOptions {
        repo: "fetched".into(),
        ..ImportOptions::default()
    };
    let (progress, mut lines) = Progress::channel();
    // Without a scheme it is plain HTTP.
    let url = format!("{place}/root.tar");
    let id = engine
        .image_import_url(&url, options.clone(), progress)
        .await
        .unwrap();
    let first = lines.recv().await.unwrap().status.unwrap();
    assert_eq!(first, format!("Downloading from http://{url}"));
    let image = engine.image_inspect("fetched:latest").await.unwrap();
    assert_eq!(image.id, id);
    let missing = format!("http://{place}/nosuch");
    let refused = engine
        .image_import_url(&missing, options, Progress::none())
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), Kind::NotFound);
    assert!(refused.to_string().contains("404"), "{refused}");
    server.await.unwrap();
    bench.finish().await;
}
