//! Images: layers on disk, load, save, import, commit, removal.

mod common;

use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

use common::*;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use skep_engine::types::{ContainerConfig, ProgressEvent};
use skep_engine::{
    ByteStream, CommitOptions, Engine, Filters, ImageRemoveOptions, ImportOptions, LoadOptions,
    Progress, PutArchiveOptions, RemoveOptions,
};

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Builds a layer's archive.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(
        mut self,
        path: &str,
        kind: tar::EntryType,
        change: impl FnOnce(&mut tar::Header),
        contents: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_mtime(1_600_000_000);
        header.set_size(contents.len() as u64);
        change(&mut header);
        self.0.append_data(&mut header, path, contents).unwrap();
        self
    }

    fn file(self, path: &str, contents: &str) -> Self {
        self.entry(path, tar::EntryType::Regular, |_| (), contents.as_bytes())
    }

    fn directory(self, path: &str) -> Self {
        self.entry(path, tar::EntryType::Directory, |_| (), b"")
    }

    fn link(mut self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o777);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    /// An entry whose name the archive library would refuse to write.
    fn raw_name(mut self, name: &str, kind: tar::EntryType, target: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, std::io::empty()).unwrap();
        self
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A docker archive of one image.
fn docker_archive(name: &str, layers: &[Vec<u8>], command: &[&str]) -> Vec<u8> {
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": command, "Env": ["A=b"], "Labels": {"made": "by hand"}},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| digest(l)).collect::<Vec<_>>()},
        "history": layers.iter().enumerate().map(|(n, _)| json!({"created_by": format!("step {n}")})).collect::<Vec<_>>(),
    })
    .to_string();
    let mut builder = tar::Builder::new(Vec::new());
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let path = format!("{number}/layer.tar");
        add_file(&mut builder, &path, 0o644, layer);
        names.push(path);
    }
    add_file(&mut builder, "config.json", 0o644, config.as_bytes());
    let manifest =
        json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]).to_string();
    add_file(&mut builder, "manifest.json", 0o644, manifest.as_bytes());
    builder.into_inner().unwrap()
}

async fn load(engine: &Engine, archive: Vec<u8>) -> Result<String, String> {
    let (progress, mut lines) = Progress::channel();
    engine
        .image_load(Cursor::new(archive), LoadOptions::default(), progress)
        .await
        .map_err(|error| error.to_string())?;
    let mut text = String::new();
    while let Some(ProgressEvent {
        stream: Some(line), ..
    }) = lines.recv().await
    {
        text.push_str(&line);
    }
    Ok(text)
}

async fn collect(mut stream: ByteStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk.unwrap());
    }
    all
}

/// The directories of an image's layers, base first.
async fn layer_directories(engine: &Engine, name: &str) -> Vec<PathBuf> {
    let data = engine
        .image_inspect(name)
        .await
        .unwrap()
        .graph_driver
        .data
        .unwrap();
    let mut all: Vec<PathBuf> = data
        .get("LowerDir")
        .into_iter()
        .flat_map(|lower| lower.split(':'))
        .map(PathBuf::from)
        .collect();
    all.reverse();
    all.push(PathBuf::from(&data["UpperDir"]));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_unpacked_into_overlays_form() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let base = Layer::new()
        .entry(
            "dir/",
            tar::EntryType::Directory,
            |header| {
                header.set_mode(0o750);
                header.set_uid(7);
                header.set_gid(8);
            },
            b"",
        )
        .file("dir/gone", "x")
        .file("dir/stays", "x")
        .directory("hidden/")
        .file("hidden/old", "x")
        .entry(
            "suid",
            tar::EntryType::Regular,
            |header| {
                header.set_mode(0o4755);
                header.set_uid(1000);
            },
            b"program",
        )
        .link(tar::EntryType::Link, "suid-too", "suid")
        .link(tar::EntryType::Symlink, "link", "/etc/passwd")
        .entry(
            "null",
            tar::EntryType::Char,
            |header| {
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
            },
            b"",
        )
        .entry("pipe", tar::EntryType::Fifo, |_| (), b"")
        .done();
    let mut with_xattr = Layer::new();
    with_xattr
        .0
        .append_pax_extensions([
            ("SCHILY.xattr.user.note", &b"kept"[..]),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/evil"),
            ("mtime", b"1600000000.25"),
        ])
        .unwrap();
    let top = with_xattr
        .file("dir/new", "x")
        .entry("dir/.wh.gone", tar::EntryType::Regular, |_| (), b"")
        .entry("hidden/.wh..wh..opq", tar::EntryType::Regular, |_| (), b"")
        .file("hidden/fresh", "x")
        .done();
    assert_eq!(
        load(
            engine,
            docker_archive("layers:1", &[base.clone(), top.clone()], &["/x"])
        )
        .await
        .unwrap(),
        "Loaded image: layers:1\n"
    );
    let directories = layer_directories(engine, "layers:1").await;
    let (low, high) = (&directories[0], &directories[1]);
    let look = |path: PathBuf| {
        std::fs::symlink_metadata(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let suid = look(low.join("suid"));
    assert_eq!(
        (suid.mode() & 0o7777, suid.uid(), suid.nlink(), suid.mtime()),
        (0o4755, 1000, 2, 1_600_000_000)
    );
    assert!(look(low.join("null")).file_type().is_char_device());
    assert_eq!(look(low.join("null")).rdev(), libc::makedev(1, 3));
    assert!(look(low.join("pipe")).file_type().is_fifo());
    assert_eq!(
        std::fs::read_link(low.join("link")).unwrap(),
        PathBuf::from("/etc/passwd")
    );
    assert_eq!(
        look(low.join("hidden")).mtime(),
        1_600_000_000,
        "times of directories come last"
    );
    let gone = look(high.join("dir/gone"));
    assert!(
        gone.file_type().is_char_device() && gone.rdev() == 0,
        "a whiteout"
    );
    assert_eq!(
        xattr::get(high.join("hidden"), "trusted.overlay.opaque")
            .unwrap()
            .unwrap(),
        b"y"
    );
    // A directory the layer does not name looks as it does below.
    let dir = look(high.join("dir"));
    assert_eq!((dir.mode() & 0o7777, dir.uid(), dir.gid()), (0o750, 7, 8));
    assert_eq!(
        xattr::get(high.join("dir/new"), "user.note")
            .unwrap()
            .unwrap(),
        b"kept"
    );
    assert_eq!(
        xattr::get(high.join("dir/new"), "trusted.overlay.redirect").unwrap(),
        None
    );
    assert_eq!(look(high.join("dir/new")).mtime_nsec(), 250_000_000);
    // The same layers under another name are not unpacked twice.
    let before = std::fs::read_dir(bench.path().join("data/layers"))
        .unwrap()
        .count();
    load(engine, docker_archive("layers:2", &[base, top], &["/y"]))
        .await
        .unwrap();
    assert_eq!(
        std::fs::read_dir(bench.path().join("data/layers"))
            .unwrap()
            .count(),
        before
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaves_the_root_and_damage_leaves_nothing() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let canary = bench.path().join("canary");
    let bad = [
        Layer::new()
            .raw_name("../canary", tar::EntryType::Regular, "")
            .done(),
        Layer::new()
            .raw_name("a/../../canary", tar::EntryType::Regular, "")
            .done(),
        Layer::new()
            .raw_name("hard", tar::EntryType::Link, "../../../../../etc/passwd")
            .done(),
        Layer::new()
            .raw_name("hard", tar::EntryType::Link, "/etc/passwd")
            .done(),
        Layer::new()
            .raw_name("empty", tar::EntryType::Symlink, "")
            .done(),
        Layer::new().file("cut", &"x".repeat(5000)).done()[..3000].to_vec(),
        b"this is no archive at all, but long enough to look at".repeat(30),
    ];
    let kept = std::fs::read_dir(bench.path().join("data/layers"))
        .unwrap()
        .count();
    for (number, layer) in bad.into_iter().enumerate() {
        let loaded = load(engine, docker_archive("bad:1", &[layer], &["/x"])).await;
        assert!(loaded.is_err(), "{number}: {loaded:?}");
        assert!(!canary.exists());
        assert_eq!(
            std::fs::read_dir(bench.path().join("data/layers"))
                .unwrap()
                .count(),
            kept,
            "{number}"
        );
    }
    // A link that points outside stays inside when something is put through it.
    let through = Layer::new()
        .link(
            tar::EntryType::Symlink,
            "out",
            bench.path().to_str().unwrap(),
        )
        .file("out/canary", "x")
        .done();
    load(engine, docker_archive("through:1", &[through], &["/x"]))
        .await
        .unwrap_or_default();
    assert!(!canary.exists());
    // Layers that are not what the configuration says.
    let mut lying = docker_archive("lying:1", &[Layer::new().file("a", "1").done()], &["/x"]);
    let at = lying
        .windows(3)
        .position(|window| window == b"a\0\0")
        .unwrap();
    lying[at] = b'b';
    assert!(load(engine, lying).await.is_err());
    assert!(load(engine, b"nonsense".to_vec()).await.is_err());
    let names = engine.image_list(true, &Filters::none()).await.unwrap();
    assert!(names.iter().all(|image| {
        !image
            .repo_tags
            .iter()
            .any(|tag| tag.starts_with("bad") || tag.starts_with("lying"))
    }));
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn save_and_load_give_the_same_image() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let id = engine.image_inspect(IMAGE).await.unwrap().id;
    engine.image_tag(IMAGE, "other/name:2").await.unwrap();
    let archive = collect(
        engine
            .image_save(&[IMAGE.into(), "other/name:2".into()])
            .await
            .unwrap(),
    )
    .await;
    let members: Vec<String> = tar::Archive::new(&archive[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    for member in ["manifest.json", "index.json", "oci-layout", "repositories"] {
        assert!(
            members.iter().any(|name| name == member),
            "{member} in {members:?}"
        );
    }
    let force = ImageRemoveOptions {
        force: true,
        no_prune: false,
    };
    let removed = engine.image_remove(&id, force).await.unwrap();
    assert_eq!(
        removed
            .iter()
            .filter(|item| !item.untagged.is_empty())
            .count(),
        2
    );
    assert_eq!(
        removed
            .iter()
            .find(|item| !item.deleted.is_empty())
            .unwrap()
            .deleted,
        id
    );
    assert!(
        engine
            .image_inspect(IMAGE)
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!(
        std::fs::read_dir(bench.path().join("data/layers"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        std::fs::read_dir(bench.path().join("data/images/blobs/sha256"))
            .unwrap()
            .count(),
        0
    );

    let said = load(engine, archive.clone()).await.unwrap();
    assert_eq!(
        said,
        "Loaded image: busybox:test\nLoaded image: other/name:2\n"
    );
    assert_eq!(engine.image_inspect(IMAGE).await.unwrap().id, id);
    assert_eq!(
        run_to_end(engine, "again", shell("echo works")).await.1,
        "works\n"
    );

    // The same as an OCI layout alone, compressed.
    let mut layout = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        if !matches!(path.as_str(), "manifest.json" | "repositories") && !path.ends_with('/') {
            let mut contents = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut contents).unwrap();
            add_file(&mut layout, &path, 0o644, &contents);
        }
    }
    engine
        .container_remove("again", RemoveOptions::default())
        .await
        .unwrap();
    engine.image_remove(&id, force).await.unwrap();
    let layout = zstd::encode_all(&layout.into_inner().unwrap()[..], 1).unwrap();
    load(engine, layout).await.unwrap();
    assert_eq!(engine.image_inspect("other/name:2").await.unwrap().id, id);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_ids_history_and_filters() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let layers = [
        Layer::new().file("a", "12345").done(),
        Layer::new().file("b", "123").done(),
    ];
    load(engine, docker_archive("hand/made:1", &layers, &["/x"]))
        .await
        .unwrap();
    let found = engine.image_inspect("hand/made:1").await.unwrap();
    assert_eq!(found.repo_tags, ["hand/made:1"]);
    assert_eq!(found.size, 8);
    assert_eq!(found.created.to_string(), "2024-01-02T03:04:05Z");
    assert_eq!(found.config.env, ["A=b"]);
    let short = found.id.trim_start_matches("sha256:")[..12].to_owned();
    for name in [found.id.as_str(), &short, "docker.io/hand/made:1"] {
        assert_eq!(
            engine.image_inspect(name).await.unwrap().id,
            found.id,
            "{name}"
        );
    }
    assert_eq!(
        engine
            .image_inspect("hand/made")
            .await
            .unwrap_err()
            .to_string(),
        "No such image: hand/made:latest"
    );
    assert!(engine.image_inspect("Not A Name").await.is_err());
    let history = engine.image_history("hand/made:1").await.unwrap();
    assert_eq!(
        history
            .iter()
            .map(|step| (step.created_by.as_str(), step.size))
            .collect::<Vec<_>>(),
        [("step 1", 3), ("step 0", 5)]
    );
    assert_eq!(
        (history[0].id.as_str(), history[1].id.as_str()),
        (found.id.as_str(), "<missing>")
    );
    let names = async |filters: Filters| -> Vec<String> {
        let list = engine.image_list(false, &filters).await.unwrap();
        list.into_iter().flat_map(|image| image.repo_tags).collect()
    };
    let none = Filters::none;
    assert_eq!(names(none()).await, ["busybox:test", "hand/made:1"]);
    assert_eq!(
        names(none().with("reference", "hand/*")).await,
        ["hand/made:1"]
    );
    assert_eq!(
        names(none().with("label", "made=by hand")).await,
        ["hand/made:1"]
    );
    assert_eq!(
        names(none().with("before", "busybox:test")).await,
        ["hand/made:1"]
    );
    assert_eq!(
        names(none().with("since", "hand/made:1")).await,
        ["busybox:test"]
    );
    assert!(names(none().with("dangling", "true")).await.is_empty());
    // The name moves on; what it left is dangling and pruned.
    engine.image_tag(IMAGE, "hand/made:1").await.unwrap();
    let dangling = engine
        .image_list(false, &none().with("dangling", "true"))
        .await
        .unwrap();
    assert_eq!(dangling[0].id, found.id);
    let (items, freed) = engine.image_prune(&none()).await.unwrap();
    assert_eq!((items[0].deleted.as_str(), freed), (found.id.as_str(), 8));
    assert!(engine.image_tag(IMAGE, "Bad Name").await.is_err());
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_keeps_the_layers_of_a_removed_image() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    create(engine, "keeps", shell("echo alive")).await;
    let refused = engine
        .image_remove(IMAGE, ImageRemoveOptions::default())
        .await
        .unwrap_err();
    assert!(refused.to_string().starts_with("conflict: unable to remove repository reference \"busybox:test\" (must force) - container "), "{refused}");
    engine
        .image_remove(
            IMAGE,
            ImageRemoveOptions {
                force: true,
                no_prune: false,
            },
        )
        .await
        .unwrap();
    assert!(
        engine
            .image_list(true, &Filters::none())
            .await
            .unwrap()
            .is_empty()
    );
    let waiter = engine
        .container_wait("keeps", skep_engine::WaitCondition::NextExit)
        .unwrap();
    start(engine, "keeps").await.unwrap();
    waiter.wait().await.unwrap();
    assert_eq!(log(engine, "keeps").await, "alive\n");
    engine
        .container_remove("keeps", RemoveOptions::default())
        .await
        .unwrap();
    assert_eq!(
        std::fs::read_dir(bench.path().join("data/layers"))
            .unwrap()
            .count(),
        0,
        "and then they go"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_copies_commit_and_export() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let script = "mkdir /new && echo hi > /new/file && rm /etc/group && chmod 700 /etc/passwd && rm -r /home && mkdir /home && echo x > /home/f && ln -s /new/file /link";
    assert_eq!(run_to_end(engine, "worker", shell(script)).await.0, 0);
    let changes: Vec<(String, u8)> = engine
        .container_changes("worker")
        .await
        .unwrap()
        .into_iter()
        .map(|change| (change.path, change.kind))
        .collect();
    for expected in [
        ("/etc", 0),
        ("/etc/group", 2),
        ("/etc/passwd", 0),
        ("/link", 1),
        ("/new", 1),
        ("/new/file", 1),
    ] {
        assert!(
            changes.contains(&(expected.0.to_owned(), expected.1)),
            "{expected:?} in {changes:?}"
        );
    }
    let stat = engine.container_path_stat("worker", "/link").await.unwrap();
    assert_eq!(
        (stat.name.as_str(), stat.link_target.as_str()),
        ("link", "/new/file")
    );
    assert_eq!(stat.mode >> 27 & 1, 1);
    let missing = engine
        .container_path_stat("worker", "/nope")
        .await
        .unwrap_err();
    assert_eq!(
        missing.to_string(),
        "Could not find the file /nope in container worker"
    );
    let (_, archive) = engine
        .container_get_archive("worker", "/new")
        .await
        .unwrap();
    let archive = collect(archive).await;
    let names: Vec<String> = tar::Archive::new(&archive[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["new/", "new/file"]);
    engine
        .container_put_archive(
            "worker",
            "/new",
            PutArchiveOptions::default(),
            Cursor::new(archive),
        )
        .await
        .unwrap();
    assert_eq!(
        engine
            .container_path_stat("worker", "/new/new/file")
            .await
            .unwrap()
            .size,
        3
    );
    let file = engine
        .container_put_archive(
            "worker",
            "/new/file",
            PutArchiveOptions::default(),
            Cursor::new(Vec::new()),
        )
        .await
        .unwrap_err();
    assert_eq!(file.to_string(), "extraction point is not a directory");

    let options = CommitOptions {
        repo: "made".into(),
        comment: "by test".into(),
        changes: vec!["CMD [\"cat\", \"/new/file\"]".into(), "LABEL a=b".into()],
        ..CommitOptions::default()
    };
    let id = engine.container_commit("worker", options).await.unwrap();
    let image = engine.image_inspect("made:latest").await.unwrap();
    assert_eq!(
        (image.id.as_str(), image.comment.as_str()),
        (id.as_str(), "by test")
    );
    assert_eq!(image.root_fs.layers.len(), 2);
    let config = |script: &str| ContainerConfig {
        image: "made".into(),
        ..shell(script)
    };
    let (_, text) = run_to_end(
        engine,
        "child",
        config("cat /link; test -e /etc/group || echo gone; ls /home; stat -c %a /etc/passwd"),
    )
    .await;
    assert_eq!(text, "hi\ngone\nf\n700\n");
    let exported = collect(engine.container_export("worker").await.unwrap()).await;
    let options = ImportOptions {
        repo: "flat".into(),
        changes: vec!["CMD [\"cat\", \"/link\"]".into()],
        ..ImportOptions::default()
    };
    engine
        .image_import(Cursor::new(exported), options)
        .await
        .unwrap();
    let flat = ContainerConfig {
        image: "flat".into(),
        cmd: None,
        ..shell("")
    };
    assert_eq!(run_to_end(engine, "flat-one", flat).await.1, "hi\n");

    // A running container's files, memory and all.
    run(
        engine,
        "live",
        with_host(shell("echo mem > /mem/x; sleep 1000"), |host| {
            host.tmpfs.insert("/mem".into(), String::new());
        }),
    )
    .await;
    let deadline = std::time::Instant::now() + DEADLINE;
    while engine
        .container_path_stat("live", "/mem/x")
        .await
        .map_or(0, |stat| stat.size)
        != 4
    {
        assert!(std::time::Instant::now() < deadline);
    }
    engine
        .container_put_archive(
            "live",
            "/mem",
            PutArchiveOptions::default(),
            Cursor::new({
                let mut builder = tar::Builder::new(Vec::new());
                add_file(&mut builder, "y", 0o600, b"put");
                builder.into_inner().unwrap()
            }),
        )
        .await
        .unwrap();
    assert_eq!(
        engine
            .container_path_stat("live", "mem/y")
            .await
            .unwrap()
            .size,
        3
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_image_serves_and_is_healthy() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let id = engine.ensure_hello_image().await.unwrap();
    assert_eq!(engine.ensure_hello_image().await.unwrap(), id);
    let image = engine.image_inspect("skep/hello").await.unwrap();
    assert_eq!(image.config.entrypoint.unwrap().0, ["/hello"]);
    let config = ContainerConfig {
        image: "skep/hello".into(),
        cmd: None,
        ..shell("")
    };
    run(engine, "hello", config).await;
    until_inspect(engine, "hello", "healthy", |found| {
        found
            .state
            .health
            .as_ref()
            .is_some_and(|health| health.status == "healthy")
    })
    .await;
    bench.finish().await;
}
