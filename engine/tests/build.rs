//! Builds: what steps make, what is found again, what is left of one that stops.

mod common;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use common::*;
use skep_engine::types::{HostConfig, ImageInspect, ProgressEvent};
use skep_engine::{
    BuildOptions, Engine, EngineError, Filters, ImageRemoveOptions, ListOptions, LoadOptions,
    Progress,
};

/// A context: files with their permissions, in this order.
struct Context(tar::Builder<Vec<u8>>);

impl Context {
    fn new(dockerfile: &str) -> Self {
        Self(tar::Builder::new(Vec::new())).file("Dockerfile", dockerfile.as_bytes())
    }

    fn add(mut self, path: &str, mode: u32, mtime: u64, contents: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_mtime(mtime);
        header.set_size(contents.len() as u64);
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        self.0.append_data(&mut header, path, contents).unwrap();
        self
    }

    fn file(self, path: &str, contents: impl AsRef<[u8]>) -> Self {
        self.add(path, 0o644, 1_600_000_000, contents.as_ref())
    }

    fn link(mut self, path: &str, target: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn options() -> BuildOptions {
    BuildOptions {
        remove: true,
        host: HostConfig {
            network_mode: "none".into(),
            ..HostConfig::default()
        },
        ..BuildOptions::default()
    }
}

/// Builds; the outcome and all that was said.
async fn attempt(
    engine: &Arc<Engine>,
    context: Vec<u8>,
    options: BuildOptions,
) -> (Result<String, EngineError>, String) {
    let (progress, mut lines) = Progress::channel();
    let builder = Arc::clone(engine);
    let work = tokio::spawn(async move {
        builder
            .image_build(Cursor::new(context), options, progress)
            .await
    });
    let mut said = String::new();
    while let Some(line) = lines.recv().await {
        let line: ProgressEvent = line;
        said.push_str(&line.stream.unwrap_or_default());
    }
    (work.await.unwrap(), said)
}

async fn build(engine: &Arc<Engine>, context: Context) -> (String, String) {
    let (built, said) = attempt(engine, context.done(), options()).await;
    (
        built.unwrap_or_else(|error| panic!("{error}\n{said}")),
        said,
    )
}

async fn refused(engine: &Arc<Engine>, context: Context) -> String {
    let (built, _) = attempt(engine, context.done(), options()).await;
    built.unwrap_err().to_string()
}

async fn inspect(engine: &Engine, id: &str) -> ImageInspect {
    engine.image_inspect(id).await.unwrap()
}

/// Runs a script in a container of an image; what it prints.
async fn output(engine: &Engine, image: &str, script: &str) -> String {
    let mut config = shell(script);
    config.image = image.into();
    config.entrypoint = Some(skep_engine::types::StrSlice(vec![String::new()]));
    let name = format!("look-{}", skep_engine::random_name(0));
    let (code, text) = run_to_end(engine, &name, config).await;
    engine
        .container_remove(
            &name,
            skep_engine::RemoveOptions {
                force: true,
                volumes: true,
            },
        )
        .await
        .unwrap();
    assert_eq!(code, 0, "{text}");
    text
}

async fn containers(engine: &Engine) -> usize {
    let all = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    engine.container_list(all).await.unwrap().len()
}

fn is_clear(bench: &Bench) -> bool {
    std::fs::read_dir(bench.path().join("data/builds"))
        .unwrap()
        .next()
        .is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_make_an_image_and_say_so() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let context = Context::new(
        "FROM busybox:test\nARG WHO=you\nENV GREETING=\"hello $WHO\"\nRUN echo $GREETING > /greeting; echo said; echo wrong >&2\n\
         WORKDIR /srv\nCOPY a /srv/x/\nEXPOSE 80\nVOLUME /data\nUSER app\nLABEL k=v\nENTRYPOINT [\"cat\"]\nCMD [\"/greeting\"]\n",
    )
    .file("a", "A");
    let mut with = options();
    with.tags = vec!["made:1".into(), "also".into()];
    with.build_args = BTreeMap::from([("WHO".into(), Some("me".into())), ("ODD".into(), None)]);
    let (built, said) = attempt(engine, context.done(), with).await;
    let id = built.unwrap();
    let short = &id["sha256:".len()..][..12];
    for expected in [
        "Step 1/12 : FROM busybox:test\n ---> ",
        "Step 4/12 : RUN echo $GREETING > /greeting; echo said; echo wrong >&2\n ---> Running in ",
        "said\n",
        "\u{1b}[91mwrong\n\u{1b}[0m",
        " ---> Removed intermediate container ",
        "[Warning] One or more build-args [ODD] were not consumed\n",
        &format!(
            "Successfully built {short}\nSuccessfully tagged made:1\nSuccessfully tagged also:latest\n"
        ),
    ] {
        assert!(said.contains(expected), "{expected} is not in\n{said}");
    }
    let image = inspect(engine, "made:1").await;
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags, ["also:latest", "made:1"]);
    let config = image.config;
    assert_eq!(config.env, ["PATH=/bin", "GREETING=hello me"]);
    assert_eq!(config.entrypoint.unwrap().0, ["cat"]);
    assert_eq!(config.cmd.unwrap().0, ["/greeting"]);
    assert_eq!(
        (config.user.as_str(), config.working_dir.as_str()),
        ("app", "/srv")
    );
    assert_eq!(config.labels["k"], "v");
    let history: Vec<String> = engine
        .image_history(&id)
        .await
        .unwrap()
        .into_iter()
        .map(|step| step.created_by)
        .collect();
    assert_eq!(history[0], "/bin/sh -c #(nop)  CMD [\"/greeting\"]");
    assert_eq!(history[6], {
        let copy = &history[6];
        assert!(copy.starts_with("/bin/sh -c #(nop) COPY file:"), "{copy}");
        assert!(copy.ends_with(" in /srv/x/ "), "{copy}");
        copy.clone()
    });
    assert_eq!(
        history[8],
        "|1 WHO=me /bin/sh -c echo $GREETING > /greeting; echo said; echo wrong >&2"
    );
    assert_eq!(
        output(engine, &id, "cat /greeting /srv/x/a").await,
        "hello me\nA"
    );
    assert_eq!(containers(engine).await, 0);
    assert!(is_clear(&bench));
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_steps_are_found_again_and_times_do_not_matter() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let context = |mtime: u64, contents: &str| {
        Context::new("FROM busybox:test\nRUN echo $RANDOM > /r\nCOPY d /d\nRUN cat /d/f\n")
            .add("d/", 0o755, mtime, b"")
            .add("d/f", 0o644, mtime, contents.as_bytes())
    };
    let (first, _) = build(engine, context(1, "x")).await;
    let (second, said) = build(engine, context(2, "x")).await;
    assert_eq!(first, second);
    assert_eq!(said.matches(" ---> Using cache\n").count(), 3, "{said}");
    // What comes after a change is done again, and only that.
    let (third, said) = build(engine, context(2, "y")).await;
    assert_ne!(first, third);
    assert_eq!(said.matches(" ---> Using cache\n").count(), 1, "{said}");
    let mut none = options();
    none.no_cache = true;
    let (_, said) = attempt(engine, context(1, "x").done(), none).await;
    assert!(!said.contains("Using cache"), "{said}");

    // Layers of files are the same wherever and whenever they are made.
    let files = || {
        Context::new("FROM busybox:test\nCOPY d /new/deep/\nADD d/f /etc/\nCOPY d/f /file\n")
            .add("d/", 0o700, 1_500_000_000, b"")
            .add("d/f", 0o600, 1_500_000_000, b"x")
    };
    let mut none = options();
    none.no_cache = true;
    let one = attempt(engine, files().done(), none.clone())
        .await
        .0
        .unwrap();
    let other = attempt(engine, files().done(), none).await.0.unwrap();
    assert_ne!(one, other);
    let layers = |image: ImageInspect| image.root_fs.layers;
    assert_eq!(
        layers(inspect(engine, &one).await),
        layers(inspect(engine, &other).await)
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_where_dockers_go() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let context = || {
        Context::new(
            "FROM busybox:test\n\
             RUN mkdir /real && ln -s /real /link && ln -s x /real/y\n\
             COPY f /one\nCOPY f /dir/\nCOPY f g /two/\nCOPY sub /sub\nCOPY s* /star/\nCOPY ln /followed\n\
             COPY --chown=app:app f /owned/\nCOPY --chown=7 --chmod=611 sub /numbers/\n\
             COPY f /link/\nCOPY g /real/y\nCOPY sub /tmp\nADD a.tar /unpacked\nCOPY a.tar /\n\
             COPY --exclude=*.txt sub /some/\nCOPY --parents sub/./deep/h /kept/\n\
             COPY <<\"A\" <<B /docs/\n$HOME\nA\n$PATH \"q\"\nB\n",
        )
        .file("f", "F")
        .file("g", "G")
        .add("sub/", 0o700, 1, b"")
        .file("sub/t.txt", "T")
        .add("sub/deep/", 0o750, 1, b"")
        .file("sub/deep/h", "H")
        .link("ln", "f")
        .link("sub/abs", "/etc/passwd")
        .file("a.tar", {
            let mut builder = tar::Builder::new(Vec::new());
            add_file(&mut builder, "in/side", 0o640, b"S");
            builder.into_inner().unwrap()
        })
    };
    let (id, _) = build(engine, context()).await;
    let check = |script: &'static str, expected: &'static str| {
        let (engine, id) = (Arc::clone(engine), id.clone());
        async move { assert_eq!(output(&engine, &id, script).await, expected, "{script}") }
    };
    check("cat /one /dir/f /two/f /two/g /followed", "FFFGF").await;
    check(
        "cd /sub && echo *; cat deep/h; ls -l abs | tail -c 12",
        "abs deep t.txt\nH/etc/passwd\n".trim_start(),
    )
    .await;
    // Directories that a pattern finds lose their name.
    check("cd /star && echo *", "abs deep t.txt\n").await;
    check(
        "stat -c %u:%g:%a /owned /owned/f",
        "1000:1000:755\n1000:1000:644\n",
    )
    .await;
    check(
        "stat -c %u:%g:%a /numbers /numbers/t.txt",
        "7:7:755\n7:7:611\n",
    )
    .await;
    check(
        "cat /real/f /real/x; stat -c %F /link /real/y",
        "FGsymbolic link\nsymbolic link\n",
    )
    .await;
    check(
        "stat -c %a:%Y /tmp/deep; stat -c %a /tmp /sub",
        "750:1\n1777\n755\n",
    )
    .await;
    check("cat /unpacked/in/side; stat -c %s /a.tar", "S2048\n").await;
    check(
        "cd /some && echo * && cd /kept && echo * */*",
        "abs deep\ndeep deep/h\n",
    )
    .await;
    check("cat /docs/A /docs/B", "$HOME\n/bin \"q\"\n").await;

    for (step, why) in [
        (
            "COPY none /x",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat none: file does not exist",
        ),
        ("ADD none* /x", "ADD failed: no source files were specified"),
        (
            "COPY f g /x",
            "When using COPY with more than one source file, the destination must be a directory and end with a /",
        ),
        (
            "COPY ../f /x",
            "COPY failed: forbidden path outside the build context: ../f ()",
        ),
        (
            "COPY sub /etc/passwd",
            "failed to copy files: cannot make `/etc/passwd`: `/etc/passwd` is not a directory",
        ),
        (
            "COPY --chown=no f /x",
            "unable to convert uid/gid chown string to host mapping: can't find uid for user no: no such user: no",
        ),
        (
            "COPY --chmod=rw f /x",
            "invalid chmod parameter: 'rw'. it should be octal string and between 0 and 07777",
        ),
        (
            "COPY --from=3 f /x",
            "invalid from flag value 3: index out of bounds",
        ),
        (
            "COPY --from=0 f /x",
            "invalid from flag value 0: refers to current build stage",
        ),
        (
            "ADD https://h/x.git /x",
            "ADD failed: ADD of a git repository is not supported by this daemon: clone `https://h/x.git` into the context",
        ),
        (
            "RUN --security=insecure true",
            "RUN --security=insecure is not supported by this daemon",
        ),
        (
            "RUN exit 3",
            "The command '/bin/sh -c exit 3' returned a non-zero code: 3",
        ),
        (
            "ENV a=${x",
            "failed to process \"${x\": syntax error: missing '}'",
        ),
        (
            "FOO",
            "dockerfile parse error on line 2: unknown instruction: FOO",
        ),
        (
            "FROM scratch",
            "No image was generated. Is your Dockerfile empty?",
        ),
    ] {
        let context = Context::new(&format!("FROM busybox:test\n{step}\n"))
            .file("f", "F")
            .file("g", "G")
            .add("sub/", 0o755, 1, b"");
        assert_eq!(refused(engine, context).await, why, "{step}");
    }
    assert!(is_clear(&bench));
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_context_leads_out_of_it() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let secret = bench.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let (outside, up) = (
        secret.display().to_string(),
        format!("../../../../..{}", secret.display()),
    );
    for target in [outside.as_str(), up.as_str()] {
        let context = Context::new("FROM busybox:test\nCOPY trap /x\n").link("trap", target);
        let why = refused(engine, context).await;
        assert!(why.contains("file does not exist"), "{why}");
        let context = Context::new("FROM busybox:test\nRUN --mount=target=/m,source=trap cat /m\n")
            .link("trap", target);
        assert!(refused(engine, context).await.contains("not found"));
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder
            .append_link(&mut header, "Dockerfile", target)
            .unwrap();
        let (built, _) = attempt(engine, builder.into_inner().unwrap(), options()).await;
        assert_eq!(
            built
                .unwrap_err()
                .to_string()
                .split(": No such")
                .next()
                .unwrap(),
            "Cannot locate specified Dockerfile: Dockerfile"
        );
    }
    // Nobody waits for a pipe to say something.
    let mut builder = tar::Builder::new(Vec::new());
    add_file(
        &mut builder,
        "Dockerfile",
        0o644,
        b"FROM busybox:test\nCOPY . /all/\n",
    );
    for name in [".dockerignore", "pipe"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Fifo);
        header.set_size(0);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, std::io::empty())
            .unwrap();
    }
    let (built, _) = attempt(engine, builder.into_inner().unwrap(), options()).await;
    let id = built.unwrap();
    assert_eq!(output(engine, &id, "stat -c %F /all/pipe").await, "fifo\n");
    // A link in the image leads to the image's own files.
    let context = Context::new(&format!(
        "FROM busybox:test\nRUN ln -s {} /away\nCOPY f /away/f\n",
        bench.path().display()
    ))
    .file("f", "F");
    let why = refused(engine, context).await;
    assert!(why.contains("failed to copy files"), "{why}");
    assert!(!bench.path().join("f").exists());
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_are_built_on_and_copied_from() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let context = || {
        Context::new(
            "ARG BASE=busybox:test\nFROM $BASE AS Base\nARG BASE\nRUN echo $BASE > /base\n\
             FROM base AS next\nRUN echo next >> /base\n\
             FROM scratch\nCOPY --from=base /base /b0\nCOPY --from=1 /base /b1\nCOPY --from=busybox:test /bin /bin\nENV PATH=/bin\n",
        )
    };
    let (id, said) = build(engine, context()).await;
    assert!(
        said.contains("Step 7/11 : FROM scratch\n ---> \n"),
        "{said}"
    );
    assert_eq!(
        output(engine, &id, "cat /b0 /b1").await,
        "busybox:test\nbusybox:test\nnext\n"
    );
    assert_eq!(inspect(engine, &id).await.root_fs.layers.len(), 3);
    let mut target = options();
    target.target = "BASE".into();
    let (built, said) = attempt(engine, context().done(), target.clone()).await;
    assert_eq!(
        output(engine, &built.unwrap(), "cat /base").await,
        "busybox:test\n"
    );
    assert!(said.contains("Step 4/4 : RUN"), "{said}");
    target.target = "none".into();
    let (built, _) = attempt(engine, context().done(), target).await;
    assert_eq!(
        built.unwrap_err().to_string(),
        "failed to reach build target none in Dockerfile"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn triggers_run_on_the_image_that_is_built_on() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut named = options();
    named.tags = vec!["trigger:1".into()];
    let base = Context::new("FROM busybox:test\nONBUILD COPY f /f\nONBUILD RUN cat /f > /g\n");
    attempt(engine, base.done(), named).await.0.unwrap();
    let (id, said) = build(engine, Context::new("FROM trigger:1\n").file("f", "F")).await;
    assert!(said.contains("# Executing 2 build triggers\n"), "{said}");
    assert_eq!(output(engine, &id, "cat /g").await, "F");
    assert_eq!(inspect(engine, &id).await.config.on_build, None);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_last_as_long_as_their_step_and_caches_longer() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let context = |number: u8| {
        Context::new(&format!(
            "FROM busybox:test AS other\nRUN mkdir /o && echo other > /o/x\nFROM busybox:test\n\
             RUN --mount=type=cache,target=/cache,id=c,sharing=locked,mode=0700,uid=5 echo {number} >> /cache/n; cat /cache/n > /seen; stat -c %u:%a /cache >> /seen\n\
             RUN --mount=source=f,target=/m/f --mount=from=other,source=/o,target=/o,rw --mount=type=tmpfs,target=/t --mount=type=secret,id=s cat /m/f /o/x > /bound && echo w > /o/w && echo t > /t/x\n"
        ))
        .file("f", "F\n")
    };
    build(engine, context(1)).await;
    let (id, _) = build(engine, context(2)).await;
    assert_eq!(
        output(engine, &id, "cat /seen /bound").await,
        "1\n2\n5:700\nF\nother\n"
    );
    assert_eq!(
        output(engine, &id, "ls -d /m /o /t /cache 2>/dev/null; true").await,
        ""
    );
    let usage = engine.disk_usage().await.unwrap();
    let [cache] = &usage.build_cache[..] else {
        panic!("{:?}", usage.build_cache)
    };
    assert_eq!(
        (cache.kind.as_str(), cache.size, cache.usage_count),
        ("exec.cachemount", 4, 2)
    );
    let pruned = engine.build_prune(&Filters::none(), 0).await.unwrap();
    assert_eq!((pruned.removed.len(), pruned.space_reclaimed), (1, 4));
    assert!(engine.disk_usage().await.unwrap().build_cache.is_empty());
    let why = refused(
        engine,
        Context::new("FROM busybox:test\nRUN --mount=type=secret,id=s,required true\n"),
    )
    .await;
    assert!(why.starts_with("secret s: not found"), "{why}");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_abandoned_leaves_nothing() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let context = Context::new("FROM busybox:test\nRUN echo begun; sleep 1000\n").done();
    let (progress, mut lines) = Progress::channel();
    let builder = Arc::clone(engine);
    let work = tokio::spawn(async move {
        builder
            .image_build(Cursor::new(context), options(), progress)
            .await
    });
    loop {
        let line = tokio::time::timeout(DEADLINE, lines.recv()).await.unwrap();
        if line.unwrap().stream.as_deref() == Some("begun\n") {
            break;
        }
    }
    assert_eq!(containers(engine).await, 1);
    work.abort();
    let path = bench.path().join("data/containers");
    let is_empty = |path: &Path| std::fs::read_dir(path).unwrap().next().is_none();
    until("the build is gone", || is_empty(&path) && is_clear(&bench)).await;
    assert_eq!(containers(engine).await, 0);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_is_cleared_when_the_engine_opens() {
    let Some(mut bench) = bench().await else {
        return;
    };
    let engine = Arc::clone(bench.engine());
    run(&engine, "build-0123456789abcdef", shell("sleep 1000")).await;
    run(&engine, "other", shell("sleep 1000")).await;
    let left = bench.path().join("data/builds/abc");
    std::fs::create_dir_all(left.join("context-0")).unwrap();
    std::fs::write(left.join("container"), "build-0123456789abcdef").unwrap();
    let cache = bench.path().join("data/build-cache/half/data");
    std::fs::create_dir_all(&cache).unwrap();
    drop(engine);
    bench.close().await;
    bench.open().await;
    assert!(is_clear(&bench) && !cache.exists());
    assert_eq!(containers(bench.engine()).await, 1);
    assert!(
        bench
            .engine()
            .container_inspect("other", false)
            .await
            .is_ok()
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_steps_are_hidden_and_go_with_the_last_one() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut named = options();
    named.tags = vec!["made:1".into()];
    let context = || Context::new("FROM busybox:test\nRUN echo a > /a\nENV A=b\nENV C=d\n");
    attempt(engine, context().done(), named.clone())
        .await
        .0
        .unwrap();
    let count = |all: bool| async move {
        engine
            .image_list(all, &Filters::none())
            .await
            .unwrap()
            .len()
    };
    assert_eq!((count(false).await, count(true).await), (2, 4));
    // The base stays as long as others stand on it, under no name.
    let base = inspect(engine, IMAGE).await.id;
    engine
        .image_remove(IMAGE, ImageRemoveOptions::default())
        .await
        .unwrap();
    let forced = ImageRemoveOptions {
        force: true,
        no_prune: false,
    };
    let error = engine.image_remove(&base, forced).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("image has dependent child images"),
        "{error}"
    );
    assert_eq!((count(false).await, count(true).await), (1, 4));
    let (pruned, _) = engine.image_prune(&Filters::none()).await.unwrap();
    assert!(pruned.is_empty(), "{pruned:?}");
    let removed = engine
        .image_remove("made:1", ImageRemoveOptions::default())
        .await
        .unwrap();
    assert_eq!(count(true).await, 0, "{removed:?}");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_come_from_an_image_that_is_named_for_it() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut named = options();
    named.tags = vec!["source:1".into()];
    let context = || {
        Context::new("FROM busybox:test\nRUN echo $RANDOM > /r\nENV A=b\nCOPY f /f\n")
            .file("f", "F")
    };
    attempt(engine, context().done(), named).await.0.unwrap();
    let before = output(engine, "source:1", "cat /r").await;
    // Saved and loaded it has no parents any more.
    let mut archive = Vec::new();
    let mut stream = engine.image_save(&["source:1".into()]).await.unwrap();
    while let Some(chunk) = stream.next().await {
        archive.extend_from_slice(&chunk.unwrap());
    }
    engine
        .image_remove("source:1", ImageRemoveOptions::default())
        .await
        .unwrap();
    engine
        .image_load(
            Cursor::new(archive),
            LoadOptions::default(),
            Progress::none(),
        )
        .await
        .unwrap();
    let mut from = options();
    from.cache_from = vec!["source:1".into(), "not:here".into()];
    let (built, said) = attempt(engine, context().done(), from).await;
    assert_eq!(said.matches(" ---> Using cache\n").count(), 3, "{said}");
    assert_eq!(output(engine, &built.unwrap(), "cat /r").await, before);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_build_speaks_when_it_fails() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let mut quiet = options();
    quiet.quiet = true;
    let context =
        |end: &str| Context::new(&format!("FROM busybox:test\nRUN echo text; {end}\n")).done();
    let (built, said) = attempt(engine, context("true"), quiet.clone()).await;
    assert_eq!(said, format!("{}\n", built.unwrap()));
    quiet.force_remove = true;
    let (built, said) = attempt(engine, context("false"), quiet).await;
    assert_eq!(built.unwrap_err().exit_code(), Some(1));
    assert!(
        said.contains("Step 2/2 : RUN") && said.contains("text\n"),
        "{said}"
    );
    assert_eq!(containers(engine).await, 0);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_come_in_several_forms() {
    let Some(bench) = bench().await else { return };
    let engine = bench.engine();
    let plain = || {
        Context::new("FROM busybox:test\nCOPY . /all/\n")
            .file(".dockerignore", "Dockerfile\n.dockerignore\n")
            .file("f", "F")
            .done()
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &plain()).unwrap();
    // docker's CLI ends some of its archives early.
    let cut = plain()[..plain().len() - 1024].to_vec();
    for archive in [
        plain(),
        gzip.finish().unwrap(),
        zstd::encode_all(&plain()[..], 1).unwrap(),
        cut,
    ] {
        let (built, said) = attempt(engine, archive, options()).await;
        let id = built.unwrap_or_else(|error| panic!("{error}\n{said}"));
        assert_eq!(output(engine, &id, "cd /all; echo .* *").await, ". .. f\n");
    }
    let mut other = options();
    for (dockerfile, why) in [
        ("none", "Cannot locate specified Dockerfile: none"),
        ("../x", "forbidden path outside the build context: ../x ()"),
    ] {
        other.dockerfile = dockerfile.into();
        let (built, _) = attempt(engine, plain(), other.clone()).await;
        let error = built.unwrap_err().to_string();
        assert!(error.starts_with(why), "{error}");
    }
    let (built, _) = attempt(engine, b"no archive at all".to_vec(), options()).await;
    assert!(built.is_err());
    let mut git = options();
    git.remote = "https://host/x.git".into();
    let (built, _) = attempt(engine, Vec::new(), git).await;
    assert!(
        built
            .unwrap_err()
            .to_string()
            .starts_with("building from a git repository is not supported")
    );
    assert!(is_clear(&bench));
    bench.finish().await;
}
