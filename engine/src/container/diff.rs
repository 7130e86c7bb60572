//! `docker diff`: what the writable layer has over the image.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::engine::Engine;
use crate::error::{IoContext as _, Result};
use crate::streams::blocking;
use crate::tree::unpack::{is_whiteout, open_lower};
use crate::types::Change;

const MODIFIED: u8 = 0;
const ADDED: u8 = 1;
const DELETED: u8 = 2;

impl Engine {
    /// What a container changed, by path.
    pub async fn container_changes(&self, name: &str) -> Result<Vec<Change>> {
        let container = self.containers.find(name)?;
        let paths = self.root_paths(&container.directory, &container.record());
        blocking(move || {
            changes(&paths.upper, &paths.lower).during(|| "cannot look at the changes".into())
        })
        .await
    }
}

fn changes(upper: &Path, lower: &[PathBuf]) -> io::Result<Vec<Change>> {
    let lower = open_lower(lower)?;
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        let entries = match fs::read_dir(upper.join(&directory)) {
            Ok(entries) => entries,
            // A running container removes directories while we look.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let relative = directory.join(entry?.file_name());
            let Ok(metadata) = fs::symlink_metadata(upper.join(&relative)) else {
                continue;
            };
            let kind = if is_whiteout(&metadata) {
                DELETED
            } else if was_there(&lower, &relative) {
                MODIFIED
            } else {
                ADDED
            };
            if metadata.is_dir() {
                left.push(relative.clone());
            }
            found.push(Change {
                path: format!("/{}", relative.display()),
                kind,
            });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn was_there(lower: &[OwnedFd], path: &Path) -> bool {
    matches!(
        super::root::look(lower, path),
        Some(super::root::Seen::There(_))
    )
}
