//! Files that are whole or absent after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{EngineError, IoContext as _, Result};

/// Largest record read; none of ours comes near.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Replaces a JSON record in one step and makes it durable.
pub(crate) fn save(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).during(|| format!("cannot write `{}`", path.display()))?;
    replace(path, &text, 0o600)
}

/// Replaces a file in one step and makes it durable.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    write_through(path, bytes, mode).during(|| format!("cannot write `{}`", path.display()))
}

fn write_through(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) => sync_directory(directory),
        None => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Reads a record; `None` if there is none.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let what = || format!("cannot read `{}`", path.display());
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > RECORD_BYTES_MAX => {
            return Err(EngineError::internal(what()).because("it is too large"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(EngineError::internal(what()).because(error)),
    }
    let text = fs::read(path).during(what)?;
    serde_json::from_slice(&text).map(Some).during(what)
}

/// Makes a directory and those above it.
pub(crate) fn make_directory(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .during(|| format!("cannot make directory `{}`", path.display()))
}

/// Removes a file; it is fine if there is none.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(EngineError::internal(format!("cannot remove `{}`", path.display())).because(error))
        }
    }
}

/// Removes a directory and all below it; it is fine if there is none.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(EngineError::internal(format!("cannot remove `{}`", path.display())).because(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_and_a_missing_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.json");
        assert_eq!(load::<u32>(&path).unwrap(), None);
        save(&path, &1).unwrap();
        save(&path, &2).unwrap();
        assert_eq!(load::<u32>(&path).unwrap(), Some(2));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn damage_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.json");
        fs::write(&path, "{").unwrap();
        let error = load::<u32>(&path).unwrap_err().to_string();
        assert!(error.contains("x.json"), "{error}");
    }
}
