//! What fuzzers feed, and what must hold whatever they feed. The suite feeds the
//! inputs in `fuzz/corpus`.

use std::fs;
use std::path::Path;

use crate::container::check_create;
use crate::image::manifest::{ConfigFile, Document, Kind, digest_of, host_platform, select};
use crate::record;
use crate::tree::{self, Root, unpack};
use crate::types::{ContainerConfig, HostConfig};

/// A manifest, an index or an image's configuration.
pub fn manifest(bytes: &[u8]) {
    match Document::parse(bytes) {
        Ok(Kind::Image { config, layers }) => {
            let all_known = layers
                .iter()
                .chain([&*config])
                .all(|descriptor| digest_of(descriptor).is_ok());
            let again = Document::parse(&Document::image(*config.clone(), layers.clone()));
            if all_known {
                let found = again.expect("what is written is read");
                let Kind::Image { layers: read, .. } = found else {
                    panic!("an image was read as {found:?}");
                };
                assert_eq!(read.len(), layers.len());
            }
        }
        Ok(Kind::Index { manifests }) => {
            if let Some(chosen) = select(&manifests, &host_platform()) {
                let _ = digest_of(chosen);
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(config) = ConfigFile::parse(bytes) {
        let _ = config.platform();
    }
}

/// A layer's archive, unpacked below `directory`, an existing empty one. Nothing
/// beside the layer's own directory changes.
pub fn layer(bytes: &[u8], directory: &Path) {
    const OUTSIDE: &[u8] = b"not the layer's";
    let (outside, files) = (directory.join("outside"), directory.join("fs"));
    fs::write(&outside, OUTSIDE).expect("the directory can be written");
    fs::create_dir(&files).expect("the directory is empty");
    let archive = std::io::Cursor::new(bytes.to_vec());
    let unpacked = tree::confined(Root::Directory(files.clone()), move || {
        let options = unpack::Options {
            layer: true,
            ..unpack::Options::default()
        };
        Ok(unpack::unpack(archive, options))
    });
    if let Ok(Ok(done)) = &unpacked {
        // Holes aside, no file has more than the archive brought.
        assert!(done.entries <= bytes.len() as u64 / 512);
    }
    assert_eq!(fs::read(&outside).expect("it is still there"), OUTSIDE);
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("it is still there")
        .map(|entry| entry.expect("it can be read").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["fs", "outside"]);
    record::remove_tree(&files).expect("what was unpacked can be removed");
    fs::remove_file(outside).expect("it is still there");
}

/// A container as a client asks for it.
pub fn container(config: &ContainerConfig) {
    let host = config.host_config.clone().unwrap_or_default();
    check(config, &host);
    // The same on the way back from disk.
    let text = serde_json::to_vec(config).expect("what was read is written");
    let again: ContainerConfig = serde_json::from_slice(&text).expect("and read again");
    let text_again = serde_json::to_vec(&again).expect("and written again");
    assert_eq!(text, text_again);
}

fn check(config: &ContainerConfig, host: &HostConfig) {
    if let Err(error) = check_create(config, host) {
        assert!(!error.to_string().is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds all inputs of a target.
    fn feed(target: &str, mut body: impl FnMut(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let mut count = 0;
        for entry in fs::read_dir(corpus.join(target)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            body(&fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 5, "{target} has only {count} inputs");
    }

    #[test]
    fn manifests_of_the_corpus_are_read_or_refused() {
        feed("manifests", manifest);
    }

    #[test]
    fn layers_of_the_corpus_stay_where_they_belong() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        feed("layers", |bytes| layer(bytes, directory.path()));
    }
}
