//! Pulling from and pushing to a real registry on loopback.

mod common;

use common::registry::*;
use common::*;
use skep_engine::types::ContainerConfig;
use skep_engine::{Engine, ImageRemoveOptions, Progress, PullOptions, RegistryAuth};

async fn pull(engine: &Engine, name: &str) -> (Result<String, String>, Vec<String>) {
    let (progress, mut lines) = Progress::channel();
    let pulled = engine
        .image_pull(name, PullOptions::default(), progress)
        .await;
    let mut said = Vec::new();
    while let Some(line) = lines.recv().await {
        said.extend(line.status);
    }
    (pulled.map_err(|error| error.to_string()), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_verified_and_runs() {
    let Some(bench) = bench().await else { return };
    let Some(registry) = Registry::start().await else {
        return bench.finish().await;
    };
    let engine = bench.engine();
    let (id, index) = publish(&registry, "team/app", "pulled\n");
    let name = format!("{}/team/app:1", registry.address);
    let (pulled, said) = pull(engine, &name).await;
    assert_eq!(pulled.unwrap(), id);
    for expected in [
        "Pulling from team/app",
        "Pulling fs layer",
        "Verifying Checksum",
        "Download complete",
        "Extracting",
        "Pull complete",
        &format!("Digest: {index}"),
        &format!("Status: Downloaded newer image for {name}"),
    ] {
        assert!(
            said.iter().any(|line| line == expected),
            "{expected} in {said:?}"
        );
    }
    let image = engine.image_inspect(&name).await.unwrap();
    assert_eq!(image.repo_tags.join(" "), name);
    assert_eq!(
        image.repo_digests,
        [format!("{}/team/app@{index}", registry.address)]
    );
    let config = ContainerConfig {
        image: name.clone(),
        cmd: None,
        ..shell("")
    };
    assert_eq!(run_to_end(engine, "pulled", config).await.1, "pulled\n");
    let (_, said) = pull(engine, &name).await;
    assert_eq!(
        said.last().unwrap(),
        &format!("Status: Image is up to date for {name}")
    );

    let inspected = engine
        .distribution_inspect(&name, RegistryAuth::default())
        .await
        .unwrap();
    assert_eq!(inspected.descriptor.digest, index);
    assert_eq!(inspected.platforms[0].os, "linux");
    // By digest it is here: no registry is needed.
    let by_digest = format!("{}/team/app@{index}", registry.address);
    drop(registry);
    assert_eq!(pull(engine, &by_digest).await.0.unwrap(), id);
    let gone = pull(engine, &name).await.0.unwrap_err();
    assert!(gone.contains("connect"), "{gone}");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_what_it_says_is_refused() {
    let Some(bench) = bench().await else { return };
    let Some(registry) = Registry::start().await else {
        return bench.finish().await;
    };
    let engine = bench.engine();
    publish(&registry, "team/app", "x");
    let (error, _) = pull(engine, &format!("{}/team/app:nope", registry.address)).await;
    assert_eq!(
        error.unwrap_err(),
        format!(
            "manifest for {0}/team/app:nope not found: manifest unknown: manifest unknown",
            registry.address
        )
    );
    // A blob that was changed on the registry's disk.
    let store = registry.directory.path().join("store");
    let mut blobs = Vec::new();
    let mut left = vec![store];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => left.push(entry.path()),
                false if entry.file_name() == "data" => blobs.push(entry.path()),
                false => {}
            }
        }
    }
    let biggest = blobs
        .iter()
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(biggest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(biggest, bytes).unwrap();
    let name = format!("{}/team/app:1", registry.address);
    let (error, _) = pull(engine, &name).await;
    assert!(
        error
            .unwrap_err()
            .starts_with("filesystem layer verification failed for digest sha256:")
    );
    assert!(
        engine
            .image_inspect(&name)
            .await
            .unwrap_err()
            .is_not_found()
    );
    let wrong = PullOptions {
        platform: Some(skep_engine::parse_platform("linux/s390x").unwrap()),
        ..PullOptions::default()
    };
    let error = engine
        .image_pull(&name, wrong, Progress::none())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no matching manifest for linux/s390x in the manifest list entries"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_can_be_pulled_and_pulls_share_work() {
    let Some(bench) = bench().await else { return };
    let Some(registry) = Registry::start().await else {
        return bench.finish().await;
    };
    let engine = bench.engine();
    let name = format!("{}/mine/busybox:v1", registry.address);
    let id = engine.image_inspect(IMAGE).await.unwrap().id;
    let missing = engine
        .image_push(&name, RegistryAuth::default(), Progress::none())
        .await
        .unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!(
            "An image does not exist locally with the tag: {}/mine/busybox",
            registry.address
        )
    );
    engine.image_tag(IMAGE, &name).await.unwrap();
    engine
        .image_push(&name, RegistryAuth::default(), Progress::none())
        .await
        .unwrap();
    engine
        .image_push(&name, RegistryAuth::default(), Progress::none())
        .await
        .unwrap();
    let force = ImageRemoveOptions {
        force: true,
        no_prune: false,
    };
    engine.image_remove(&id, force).await.unwrap();
    let pulls = (0..4).map(|_| pull(engine, &name));
    for (pulled, _) in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap(), id);
    }
    assert_eq!(
        std::fs::read_dir(bench.path().join("data/layers"))
            .unwrap()
            .count(),
        1
    );
    assert_eq!(
        std::fs::read_dir(bench.path().join("data/images/ingest"))
            .unwrap()
            .count(),
        0
    );
    let config = ContainerConfig {
        image: name,
        ..shell("echo ok")
    };
    assert_eq!(run_to_end(engine, "ran", config).await.1, "ok\n");
    // Without a tag, all of them go and come.
    let repository = format!("{}/mine/many", registry.address);
    for tag in ["a", "b"] {
        let named = format!("{repository}:{tag}");
        engine.image_tag(&id, &named).await.unwrap();
    }
    engine
        .image_push(&repository, RegistryAuth::default(), Progress::none())
        .await
        .unwrap();
    for tag in ["a", "b"] {
        let named = format!("{repository}:{tag}");
        engine.image_remove(&named, force).await.unwrap();
    }
    engine
        .image_pull_all(&repository, Default::default(), Progress::none())
        .await
        .unwrap();
    for tag in ["a", "b"] {
        let named = format!("{repository}:{tag}");
        assert_eq!(engine.image_inspect(&named).await.unwrap().id, id);
    }
    let login = RegistryAuth {
        serveraddress: registry.address.clone(),
        username: "any".into(),
        password: "any".into(),
        ..RegistryAuth::default()
    };
    assert_eq!(
        engine.registry_login(login).await.unwrap(),
        "Login Succeeded"
    );
    bench.finish().await;
}
