//! What a node keeps on disk of its membership: who it is, its certificate, its keys.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skep_model::{ClusterId, NodeId};
use skep_pki::unlock::UnlockKey;
use skep_pki::{Identity, SecretKey};

use super::lock::{Keyring, SEALED};

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
    pub origins: Origins,
}

/// Where the addresses come from, which says what comes in place of one that the host has lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origins {
    pub listen: Origin,
    pub advertise: Origin,
    pub data_path: Origin,
}

/// Where one of them comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// What was asked for: an address, an interface, or nothing. `None` in files of before it was
    /// kept.
    pub asked: Option<String>,
    /// The interface that carries it, or did last; empty when none of this host's ever did.
    pub interface: String,
    /// The interface that carried it before it no longer existed, to be gone back to; empty when the
    /// node goes by none in its place.
    pub home: String,
}

impl Origin {
    pub fn asked(given: &str) -> Self {
        Self {
            asked: Some(given.to_owned()),
            ..Self::default()
        }
    }
}

/// The directory of a membership.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
    keyring: Arc<Keyring>,
}

/// Secrets that autolock seals, in `certificates`.
const NODE_KEY: &str = "swarm-node.key";
const DATA_KEY: &str = "raft.key";
/// The identity that is taking the place of the one before; sealed like the key that is in it.
const NEXT: &str = "swarm-node.next";
/// Holds the key that they are sealed under; itself under the unlock key.
const LOCK: &str = "lock.key";

/// An identity as one file.
#[derive(Serialize, Deserialize)]
struct Next {
    cert: String,
    key: String,
    root: String,
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
            keyring: Arc::default(),
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
        let broken = |name: &str| FileError {
            path: self.certificate(name).display().to_string(),
            what: "is not a certificate with its key",
            source: None,
        };
        if self.certificate(NEXT).exists() {
            let next = self.read_secret(NEXT)?;
            let next: Next = serde_json::from_slice(&next).map_err(|_| broken(NEXT))?;
            let identity = Identity::from_pem(&next.cert, &next.key, &next.root);
            let identity = identity.map_err(|_| broken(NEXT))?;
            self.put_identity(&identity)?;
            return Ok(identity);
        }
        let read = |name: &str| {
            let path = self.certificate(name);
            std::fs::read_to_string(&path).map_err(FileError::io(&path, "cannot be read"))
        };
        let key = self.read_secret(NODE_KEY)?;
        let (cert, key, root) = (
            read("swarm-node.crt")?,
            String::from_utf8_lossy(&key).into_owned(),
            read("swarm-root-ca.crt")?,
        );
        Identity::from_pem(&cert, &key, &root).map_err(|_| broken("swarm-node.crt"))
    }

    /// Replaces the identity. Whoever is killed on the way finds the whole of the new one.
    pub fn save_identity(&self, identity: &Identity) -> Result<(), FileError> {
        let next = Next {
            cert: identity.cert_pem.clone(),
            key: identity.key_pem().to_owned(),
            root: identity.root_pem.clone(),
        };
        let next = serde_json::to_vec(&next).expect("plain fields serialise");
        self.write_secret(NEXT, &next)?;
        self.put_identity(identity)
    }

    /// Puts an identity that is on disk as a whole into its three files.
    fn put_identity(&self, identity: &Identity) -> Result<(), FileError> {
        write_private(
            &self.certificate("swarm-root-ca.crt"),
            identity.root_pem.as_bytes(),
        )?;
        self.write_secret(NODE_KEY, identity.key_pem().as_bytes())?;
        write_private(
            &self.certificate("swarm-node.crt"),
            identity.cert_pem.as_bytes(),
        )?;
        let path = self.certificate(NEXT);
        std::fs::remove_file(&path).map_err(FileError::io(&path, "cannot be removed"))
    }

    /// The key that seals the replicated log; made when there is none.
    pub fn data_key(&self) -> Result<SecretKey, FileError> {
        let path = self.certificate(DATA_KEY);
        if !path.exists() {
            let key = SecretKey::generate();
            self.write_secret(DATA_KEY, key.as_bytes())?;
            return Ok(key);
        }
        let bytes = self.read_secret(DATA_KEY)?;
        let bytes = bytes.try_into().map_err(|_| FileError {
            path: path.display().to_string(),
            what: "has the wrong length for a key",
            source: None,
        })?;
        Ok(SecretKey::from_bytes(bytes))
    }

    fn read_secret(&self, name: &str) -> Result<Vec<u8>, FileError> {
        let path = self.certificate(name);
        let bytes = std::fs::read(&path).map_err(FileError::io(&path, "cannot be read"))?;
        self.keyring.unseal(name, bytes).ok_or_else(|| FileError {
            path: path.display().to_string(),
            what: "is locked, or damaged",
            source: None,
        })
    }

    fn write_secret(&self, name: &str, plain: &[u8]) -> Result<(), FileError> {
        write_private(&self.certificate(name), &self.keyring.seal(name, plain))
    }

    fn is_sealed(&self, name: &str) -> bool {
        std::fs::read(self.certificate(name)).is_ok_and(|bytes| bytes.starts_with(SEALED))
    }

    /// Whether the unlock key is needed before anything can be done.
    pub fn is_locked(&self) -> bool {
        !self.keyring.is_open() && [NODE_KEY, DATA_KEY].iter().any(|name| self.is_sealed(name))
    }

    /// Opens the secrets for this process. False when the key is not the right one.
    pub fn unlock(&self, key: &UnlockKey) -> Result<bool, FileError> {
        let path = self.certificate(LOCK);
        let file = std::fs::read(&path).map_err(FileError::io(&path, "cannot be read"))?;
        if !self.keyring.open(&file, key) {
            return Ok(false);
        }
        // Autolock may have been interrupted half way.
        self.rewrite_secrets()?;
        Ok(true)
    }

    /// Has the secrets lie on disk as the cluster wants it: under its unlock key, or plain.
    pub fn follow_lock(&self, wanted: Option<&UnlockKey>) -> Result<(), FileError> {
        match (self.keyring.unlock_key(), wanted) {
            (None, None) => Ok(()),
            (Some(held), Some(wanted)) if held == *wanted => Ok(()),
            (_, Some(wanted)) => {
                let (file, local) = self.keyring.wrap(wanted);
                write_private(&self.certificate(LOCK), &file)?;
                self.keyring.keep(local, wanted.clone());
                self.rewrite_secrets()
            }
            (Some(_), None) => {
                let mut plain = Vec::new();
                for name in [NODE_KEY, DATA_KEY] {
                    if self.certificate(name).exists() {
                        plain.push((name, self.read_secret(name)?));
                    }
                }
                for (name, bytes) in plain {
                    write_private(&self.certificate(name), &bytes)?;
                }
                self.keyring.forget();
                let path = self.certificate(LOCK);
                std::fs::remove_file(&path).map_err(FileError::io(&path, "cannot be removed"))
            }
        }
    }

    /// Seals what is still plain.
    fn rewrite_secrets(&self) -> Result<(), FileError> {
        for name in [NODE_KEY, DATA_KEY] {
            if self.certificate(name).exists() && !self.is_sealed(name) {
                let plain = self.read_secret(name)?;
                self.write_secret(name, &plain)?;
            }
        }
        Ok(())
    }

    /// Forgets the log, as a manager does that becomes a worker.
    pub fn remove_log(&self) {
        let _ = std::fs::remove_dir_all(self.raft());
        let _ = std::fs::remove_file(self.certificate(DATA_KEY));
    }

    /// Forgets everything.
    pub fn remove(&self) -> Result<(), FileError> {
        self.keyring.forget();
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

    fn identity(node: &str) -> Identity {
        use skep_model::{NodeRole, Timestamp};
        use skep_pki::{Authority, generate_root, request_certificate};

        let now = Timestamp::from_secs(1_900_000_000);
        let (root, key) = (generate_root(now).unwrap(), request_certificate().unwrap());
        let life = std::time::Duration::from_secs(3600);
        let (node, cluster) = (node.into(), "c".into());
        let cert = Authority::from_pem(&root.cert_pem, &root.key_pem)
            .unwrap()
            .sign(&key.csr_pem, &node, NodeRole::Worker, &cluster, life, now)
            .unwrap();
        Identity::from_pem(&cert, &key.key_pem, &root.cert_pem).unwrap()
    }

    #[test]
    fn an_identity_is_replaced_as_a_whole_wherever_it_was_interrupted() {
        let root = std::env::temp_dir().join(format!("skep-identity-{}", std::process::id()));
        let files = Files::new(&root);
        files.create().unwrap();
        let (first, second) = (identity("first"), identity("second"));
        let names = ["swarm-root-ca.crt", NODE_KEY, "swarm-node.crt"];
        let next = |identity: &Identity| {
            serde_json::to_vec(&Next {
                cert: identity.cert_pem.clone(),
                key: identity.key_pem().to_owned(),
                root: identity.root_pem.clone(),
            })
            .unwrap()
        };
        for done in 0..=names.len() {
            files.save_identity(&first).unwrap();
            assert_eq!(files.load_identity().unwrap().peer, first.peer);
            // As if the machine had stopped after so many of the three files.
            files.write_secret(NEXT, &next(&second)).unwrap();
            let texts = [&*second.root_pem, second.key_pem(), &*second.cert_pem];
            for (name, text) in names.iter().zip(texts).take(done) {
                write_private(&files.certificate(name), text.as_bytes()).unwrap();
            }
            for _ in 0..2 {
                let found = files.load_identity().unwrap();
                assert_eq!(found.peer, second.peer, "after {done}");
                assert_eq!(found.key_pem(), second.key_pem());
                assert_eq!(found.root_pem, second.root_pem);
            }
            assert!(!files.certificate(NEXT).exists());
        }
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn locked_secrets_open_under_the_unlock_key_in_force_and_no_other() {
        let root = std::env::temp_dir().join(format!("skep-lock-{}", std::process::id()));
        let files = Files::new(&root);
        files.create().unwrap();
        let key = files.data_key().unwrap();
        files.write_secret(NODE_KEY, b"pem").unwrap();
        let plain = |name: &str| std::fs::read(files.certificate(name)).unwrap();
        assert_eq!(plain(DATA_KEY), key.as_bytes());

        let (first, second) = (UnlockKey::generate(), UnlockKey::generate());
        files.follow_lock(Some(&first)).unwrap();
        for name in [NODE_KEY, DATA_KEY] {
            assert!(plain(name).starts_with(SEALED), "{name}");
        }
        assert!(files.data_key().unwrap() == key, "the process goes on");
        files.follow_lock(Some(&second)).unwrap();

        // Another process knows nothing until it is told the key that is in force.
        let next = Files::new(&root);
        assert!(next.is_locked());
        assert!(next.data_key().is_err());
        assert!(!next.unlock(&first).unwrap());
        assert!(next.is_locked());
        assert!(next.unlock(&second).unwrap());
        assert!(next.data_key().unwrap() == key);
        next.write_secret(NODE_KEY, b"renewed").unwrap();
        assert!(plain(NODE_KEY).starts_with(SEALED));

        next.follow_lock(None).unwrap();
        assert_eq!(plain(DATA_KEY), key.as_bytes());
        assert_eq!(plain(NODE_KEY), b"renewed");
        assert!(!Files::new(&root).is_locked());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_lock_that_was_interrupted_is_finished_with_the_next_unlock() {
        let root = std::env::temp_dir().join(format!("skep-half-{}", std::process::id()));
        let files = Files::new(&root);
        files.create().unwrap();
        let key = files.data_key().unwrap();
        files.write_secret(NODE_KEY, b"pem").unwrap();
        let unlock = UnlockKey::generate();
        files.follow_lock(Some(&unlock)).unwrap();
        // As if the machine had stopped before the second file was sealed.
        write_private(&files.certificate(DATA_KEY), key.as_bytes()).unwrap();
        let next = Files::new(&root);
        assert!(next.is_locked());
        assert!(next.unlock(&unlock).unwrap());
        assert!(next.is_sealed(DATA_KEY) && next.data_key().unwrap() == key);
        std::fs::remove_dir_all(root).unwrap();
    }
}
