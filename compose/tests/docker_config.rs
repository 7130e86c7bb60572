//! `config` prints what `docker stack config` prints.

mod support;

use support::{config_files, corpus, docker, shown};

#[test]
fn config_prints_what_the_docker_client_prints() {
    let mut different = Vec::new();
    let corpus = corpus();
    assert!(corpus.len() >= 25, "only {} files", corpus.len());
    for (name, paths) in corpus {
        let Some(mut docker) = docker() else { return };
        docker.args(["stack", "config"]);
        for path in &paths {
            docker.arg("-c").arg(path);
        }
        let output = docker.output().unwrap();
        let theirs = String::from_utf8(output.stdout).unwrap();
        if !output.status.success() {
            let refusal = String::from_utf8_lossy(&output.stderr);
            different.push(format!("{name}: docker refuses: {refusal}"));
            continue;
        }
        match config_files(&paths) {
            Err(diagnostics) => different.push(format!("{name}: {}", shown(&diagnostics))),
            Ok(ours) if ours != theirs => different.push(format!(
                "{name}:\n--- docker\n{theirs}--- ours\n{ours}--- first difference: {:?}",
                theirs.lines().zip(ours.lines()).find(|(a, b)| a != b)
            )),
            Ok(_) => {}
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}
