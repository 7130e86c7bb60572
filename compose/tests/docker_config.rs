//! `config` prints what `docker stack config` prints, and refuses what it refuses.

mod support;

use std::path::PathBuf;

use support::{config_files, corpus, docker, load_files, ours, printed, refused, shown};

/// What docker's client prints of some files, or says against them; nothing without a client.
fn docker_config(paths: &[PathBuf]) -> Option<Result<String, String>> {
    let mut docker = docker()?;
    docker.args(["stack", "config"]);
    for path in paths {
        docker.arg("-c").arg(path);
    }
    let output = docker.output().unwrap();
    Some(match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    })
}

#[test]
fn config_prints_what_the_docker_client_prints() {
    let mut different = Vec::new();
    let corpus = corpus();
    assert!(corpus.len() >= 50, "only {} files", corpus.len());
    for (name, paths) in corpus.into_iter().chain(printed()) {
        let Some(theirs) = docker_config(&paths) else {
            return;
        };
        match (theirs, config_files(&paths)) {
            (Err(refusal), _) => different.push(format!("{name}: docker refuses: {refusal}")),
            (Ok(_), Err(diagnostics)) => {
                different.push(format!("{name}: {}", shown(&diagnostics)));
            }
            (Ok(theirs), Ok(ours)) if ours != theirs => different.push(format!(
                "{name}:\n--- docker\n{theirs}--- ours\n{ours}--- first difference: {:?}",
                theirs.lines().zip(ours.lines()).find(|(a, b)| a != b)
            )),
            (Ok(_), Ok(_)) => {}
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}

#[test]
fn what_a_daemon_would_refuse_is_not_deployed() {
    let printed = printed();
    assert!(!printed.is_empty());
    for (name, paths) in printed {
        assert!(load_files(&paths).is_err(), "{name}");
    }
}

#[test]
fn what_the_docker_client_refuses_is_refused_with_its_place() {
    let refused = refused();
    assert!(refused.len() >= 40, "only {} files", refused.len());
    let mut wrong = Vec::new();
    for (name, paths) in refused {
        let Err(diagnostics) = config_files(&paths) else {
            wrong.push(format!("{name} is accepted"));
            continue;
        };
        let first = diagnostics.first().unwrap();
        let text = std::fs::read(&paths[0]).unwrap();
        let is_short = String::from_utf8_lossy(&text).lines().count() < 2;
        if first.file.is_empty() || (first.line == 0 && !is_short) {
            wrong.push(format!("{name} has no place: {first}"));
        }
        if docker_config(&paths).is_some_and(|theirs| theirs.is_ok()) {
            wrong.push(format!("{name} is printed by docker"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn where_we_differ_a_file_says_why() {
    let ours = ours();
    assert!(ours.len() >= 15, "only {} files", ours.len());
    for (name, paths) in ours {
        let text = std::fs::read_to_string(&paths[0]).unwrap();
        let document = config_files(&paths);
        let document = document.unwrap_or_else(|wrong| panic!("{name}: {}", shown(&wrong)));
        let Some(theirs) = docker_config(&paths) else {
            continue;
        };
        let first = text.lines().next().unwrap();
        match theirs {
            Ok(theirs) => {
                assert!(first.starts_with("# differs: "), "{name}: {first}");
                assert_ne!(document, theirs, "{name}: there is no difference any more");
            }
            Err(_) => assert!(first.starts_with("# ours: "), "{name}: {first}"),
        }
    }
}
