//! What a node keeps on disk of its membership: who it is, its certificate, its keys.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skep_model::{ClusterId, NodeId};
use skep_pki::{Identity, SecretKey};

/// A node's membership, as kept over restarts. Holds no secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    pub node: NodeId,
    pub cluster: ClusterId,
    /// Member id in the replicated log; 0 for workers.
    pub raft_id: u64,
    /// `address:port` the manager's listener binds.
    pub listen: String,
    /// `address:port` the other nodes reach this one at.
    pub advertise: String,
    /// Where VXLAN frames leave from.
    pub data_path: String,
    pub data_path_port: u16,
    /// `address:port` of managers known last.
    pub managers: Vec<String>,
    /// Random number that places the renewal within the certificate's life.
    pub renew_chance: u64,
}

/// The directory of a membership.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
}

/// Why the membership cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("`{path}` {what}")]
pub struct FileError {
    path: String,
    what: &'static str,
    #[source]
    source: Option<io::Error>,
}

impl FileError {
    fn io(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self {
            path,
            what,
            source: Some(source),
        }
    }
}

impl Files {
    pub fn new(data_root: &Path) -> Self {
        Self {
            root: data_root.join("swarm"),
        }
    }

    /// Where the replicated log lives.
    pub fn raft(&self) -> PathBuf {
        self.root.join("raft")
    }

    /// Where the agent keeps its journal.
    pub fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    fn certificate(&self, name: &str) -> PathBuf {
        self.root.join("certificates").join(name)
    }

    /// Makes the directory, readable by its owner only.
    pub fn create(&self) -> Result<(), FileError> {
        for directory in [
            self.root.clone(),
            self.root.join("certificates"),
            self.agent(),
        ] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(FileError::io(&directory, "cannot be made"))?;
        }
        Ok(())
    }

    /// The membership, if there is one.
    pub fn load(&self) -> Result<Option<Saved>, FileError> {
        let path = self.state();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::io(&path, "cannot be read")(error)),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| FileError::io(&path, "is damaged")(error.into()))
    }

    pub fn save(&self, saved: &Saved) -> Result<(), FileError> {
        let bytes = serde_json::to_vec_pretty(saved).expect("plain fields serialise");
        write_private(&self.state(), &bytes)
    }

    pub fn load_identity(&self) -> Result<Identity, FileError> {
        let read = |name: &str| {
            let path = self.certificate(name);
            std::fs::read_to_string(&path).map_err(FileError::io(&path, "cannot be read"))
        };
        let (cert, key, root) = (
            read("swarm-node.crt")?,
            read("swarm-node.key")?,
            read("swarm-root-ca.crt")?,
        );
        Identity::from_pem(&cert, &key, &root).map_err(|_| FileError {
            path: self.certificate("swarm-node.crt").display().to_string(),
            what: "is not a certificate with its key",
            source: None,
        })
    }

    pub fn save_identity(&self, identity: &Identity) -> Result<(), FileError> {
        write_private(
            &self.certificate("swarm-root-ca.crt"),
            identity.root_pem.as_bytes(),
        )?;
        write_private(
            &self.certificate("swarm-node.key"),
            identity.key_pem().as_bytes(),
        )?;
        write_private(
            &self.certificate("swarm-node.crt"),
            identity.cert_pem.as_bytes(),
        )
    }

    /// The key that seals the replicated log; made when there is none.
    pub fn data_key(&self) -> Result<SecretKey, FileError> {
        let path = self.certificate("raft.key");
        match std::fs::read(&path) {
            Ok(bytes) => {
                let bytes = bytes.try_into().map_err(|_| FileError {
                    path: path.display().to_string(),
                    what: "has the wrong length for a key",
                    source: None,
                })?;
                Ok(SecretKey::from_bytes(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = SecretKey::generate();
                write_private(&path, key.as_bytes())?;
                Ok(key)
            }
            Err(error) => Err(FileError::io(&path, "cannot be read")(error)),
        }
    }

    /// Forgets the log, as a manager does that becomes a worker.
    pub fn remove_log(&self) {
        let _ = std::fs::remove_dir_all(self.raft());
        let _ = std::fs::remove_file(self.certificate("raft.key"));
    }

    /// Forgets everything.
    pub fn remove(&self) -> Result<(), FileError> {
        match std::fs::remove_dir_all(&self.root) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FileError::io(&self.root, "cannot be removed")(error)),
        }
    }
}

/// Replaces a file at once; it is on disk, and readable by its owner only, when this returns.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    use std::io::Write as _;

    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        match path.parent() {
            Some(directory) => std::fs::File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(FileError::io(path, "cannot be written"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_membership_survives_and_its_key_is_private() {
        let root = std::env::temp_dir().join(format!("skep-files-{}", std::process::id()));
        let files = Files::new(&root);
        assert_eq!(files.load().unwrap(), None);
        files.create().unwrap();
        let saved = Saved {
            node: "n".into(),
            raft_id: 7,
            ..Default::default()
        };
        files.save(&saved).unwrap();
        assert_eq!(files.load().unwrap(), Some(saved));
        let key = files.data_key().unwrap();
        assert!(files.data_key().unwrap() == key);
        let mode = std::fs::metadata(files.certificate("raft.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        files.remove().unwrap();
        assert_eq!(files.load().unwrap(), None);
        std::fs::remove_dir_all(root).unwrap();
    }
}
