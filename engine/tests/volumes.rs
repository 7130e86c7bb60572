//! Volumes and binds.

mod common;

use common::*;
use skep_engine::types::{Mount, MountType, VolumeCreate};
use skep_engine::{Filters, Kind, RemoveOptions};

#[tokio::test(flavor = "multi_thread")]
async fn a_named_volume_is_filled_once_and_outlives_its_containers() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let with_volume = |script: &str| {
        with_host(shell(script), |host| {
            host.binds = Some(vec!["data:/etc".into()])
        })
    };
    assert_eq!(
        run_to_end(
            engine,
            "first",
            with_volume("cat /etc/group; rm /etc/group; echo new > /etc/more")
        )
        .await
        .0,
        0
    );
    let (_, text) = run_to_end(
        engine,
        "second",
        with_volume("ls /etc/group 2>/dev/null; cat /etc/more; ls /etc/passwd"),
    )
    .await;
    assert_eq!(text, "new\n/etc/passwd\n", "filled only when it was empty");
    let volume = engine.volume_inspect("data").await.unwrap();
    assert_eq!(
        (volume.driver.as_str(), volume.scope.as_str()),
        ("local", "local")
    );
    let busy = engine.volume_remove("data", false).await.unwrap_err();
    assert_eq!(busy.kind(), Kind::Conflict);
    assert!(
        busy.to_string()
            .starts_with("remove data: volume is in use - ["),
        "{busy}"
    );
    for name in ["first", "second"] {
        engine
            .container_remove(
                name,
                RemoveOptions {
                    force: false,
                    volumes: true,
                },
            )
            .await
            .unwrap();
    }
    assert_eq!(
        engine
            .volume_list(&Filters::none().with("dangling", "true"))
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(
        engine
            .volume_prune(&Filters::none())
            .await
            .unwrap()
            .removed
            .is_empty(),
        "it has a name"
    );
    engine.volume_remove("data", false).await.unwrap();
    assert_eq!(
        engine
            .volume_remove("data", false)
            .await
            .unwrap_err()
            .to_string(),
        "get data: no such volume"
    );
    engine.volume_remove("data", true).await.unwrap();
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_volumes_go_with_their_container_when_asked() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut config = shell("echo x > /data/x");
    config.volumes = Some([("/data".to_owned(), Default::default())].into());
    run_to_end(engine, "anon", config.clone()).await;
    run_to_end(engine, "kept", config).await;
    let mounts = engine
        .container_inspect("anon", false)
        .await
        .unwrap()
        .mounts;
    assert_eq!(
        (
            mounts[0].kind.as_str(),
            mounts[0].destination.as_str(),
            mounts[0].name.len()
        ),
        ("volume", "/data", 64)
    );
    engine
        .container_remove(
            "anon",
            RemoveOptions {
                force: false,
                volumes: true,
            },
        )
        .await
        .unwrap();
    engine
        .container_remove("kept", RemoveOptions::default())
        .await
        .unwrap();
    let left = engine.volume_list(&Filters::none()).await.unwrap();
    assert_eq!(left.len(), 1);
    let pruned = engine.volume_prune(&Filters::none()).await.unwrap();
    assert_eq!((pruned.removed.len(), pruned.space_reclaimed), (1, 2));
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn binds_of_all_sorts() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let host_dir = bench.path().join("host");
    std::fs::create_dir_all(host_dir.join("sub")).unwrap();
    std::fs::write(host_dir.join("file"), "from host\n").unwrap();
    let source = host_dir.display().to_string();
    let made = bench.path().join("made/by/us");
    let config = with_host(
        shell(
            "exec 2>&1; cat /m/file; echo x > /m/no; cat /f; echo back > /made/x; df /t | tail -1 | wc -l; cat /etc/hosts | head -1",
        ),
        |host| {
            host.binds = Some(vec![
                format!("{source}:/m:ro"),
                format!("{}:/made", made.display()),
            ]);
            host.mounts = vec![
                Mount {
                    kind: MountType::Bind,
                    source: format!("{source}/file"),
                    target: "/f".into(),
                    read_only: true,
                    ..Mount::default()
                },
                Mount {
                    kind: MountType::Tmpfs,
                    target: "/t".into(),
                    ..Mount::default()
                },
            ];
        },
    );
    let (_, text) = run_to_end(engine, "binds", config).await;
    assert!(text.starts_with("from host\n"), "{text}");
    assert!(
        text.contains("Read-only file system\nfrom host\n1\n127.0.0.1\tlocalhost\n"),
        "{text}"
    );
    assert_eq!(std::fs::read_to_string(made.join("x")).unwrap(), "back\n");
    let missing = with_host(shell("true"), |host| {
        host.mounts = vec![Mount {
            kind: MountType::Bind,
            source: "/no/such".into(),
            target: "/x".into(),
            ..Mount::default()
        }];
    });
    let error = engine
        .container_create(None, missing, Default::default())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid mount config for type \"bind\": bind source path does not exist: /no/such"
    );
    // volumes-from brings them along.
    let from = with_host(shell("cat /m/file"), |host| {
        host.volumes_from = Some(vec!["binds".into()])
    });
    assert_eq!(run_to_end(engine, "from", from).await.1, "from host\n");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_with_a_device_is_mounted_while_used() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let options = [
        ("type", "tmpfs"),
        ("device", "tmpfs"),
        ("o", "size=1m,uid=1000"),
    ];
    engine
        .volume_create(VolumeCreate {
            name: "mem".into(),
            driver_opts: options
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..VolumeCreate::default()
        })
        .await
        .unwrap();
    let config = with_host(
        shell("stat -c %u /mem; mount | grep -c 'on /mem type tmpfs'"),
        |host| host.binds = Some(vec!["mem:/mem".into()]),
    );
    assert_eq!(run_to_end(engine, "user", config).await.1, "1000\n1\n");
    let place = engine.volume_inspect("mem").await.unwrap().mountpoint;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&place), "unmounted after the last user");
    assert_eq!(
        engine
            .volume_list(&Filters::none().with("label", "a=b"))
            .await
            .unwrap()
            .len(),
        1
    );
    let wrong = VolumeCreate {
        driver: "nfs".into(),
        ..VolumeCreate::default()
    };
    assert!(
        engine
            .volume_create(wrong)
            .await
            .unwrap_err()
            .is_not_found()
    );
    let named = VolumeCreate {
        name: "a/b".into(),
        ..VolumeCreate::default()
    };
    assert_eq!(
        engine.volume_create(named).await.unwrap_err().kind(),
        Kind::Invalid
    );
    let usage = engine.disk_usage().await.unwrap();
    assert_eq!(usage.volumes[0].usage_data.as_ref().unwrap().ref_count, 1);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subpath_does_not_lead_out_of_its_volume() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let host = bench.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("secret"), "of the host").unwrap();
    let with_subpath = |script: &str, subpath: &str| {
        with_host(shell(script), |part| {
            part.mounts = vec![Mount {
                kind: MountType::Volume,
                source: "data".into(),
                target: "/x".into(),
                volume_options: Some(skep_model::mount::VolumeOptions {
                    subpath: subpath.into(),
                    ..Default::default()
                }),
                ..Mount::default()
            }];
        })
    };
    let script = format!(
        "mkdir -p /x/sub; echo inside > /x/sub/file; ln -s {} /x/out; ln -s sub /x/link; ln -s ../.. /x/sub/up",
        host.display()
    );
    run_to_end(engine, "first", with_subpath(&script, "")).await;
    for subpath in ["sub", "link"] {
        let (_, text) = run_to_end(engine, subpath, with_subpath("cat /x/file", subpath)).await;
        assert_eq!(text, "inside\n");
    }
    for (name, subpath) in [("aa", "out"), ("bb", "sub/up"), ("cc", "missing")] {
        create(engine, name, with_subpath("ls /x", subpath)).await;
        let error = start(engine, name).await.unwrap_err().to_string();
        assert!(error.contains("cannot access path"), "{error}");
        // Nor is it shown to who copies.
        engine
            .container_path_stat(name, "/x/secret")
            .await
            .unwrap_err();
    }
    let error = engine
        .container_create(None, with_subpath("true", "../x"), Default::default())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string().rsplit(": ").next().unwrap(),
        "subpath must be a relative path within the volume"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_on_the_host_comes_to_volumes() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(mut bench) = bench().await else {
        return;
    };
    let root = bench.path().join("data/volumes");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&root) & 0o777, 0o700);
    // One that an older build left open is closed.
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o701)).unwrap();
    bench.close().await;
    bench.open().await;
    assert_eq!(mode(&root) & 0o777, 0o700);
    bench.finish().await;
}
