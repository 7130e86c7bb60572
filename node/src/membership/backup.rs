//! Backups of the cluster, and a cluster out of a backup.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use skep_api::cluster::{BackupInput, BackupStream, Cluster as _, RestoreRequest, Restored};
use skep_manager::backup::{Loaded, begin_anew, read, write};
use skep_manager::clock;
use skep_model::cluster::RootCa;
use skep_model::node::{ManagerStatus, Reachability};
use skep_model::{Availability, Cluster, ControlError, Kind, NodeId, NodeRole, Timestamp};
use skep_pki::backup::{BackupError, Cost, Passphrase};
use skep_pki::root::check_root;
use skep_pki::unlock::UnlockKey;
use skep_pki::{Authority, Identity};
use skep_reconcile::NewNode;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use super::active::Birth;
use super::files::Saved;
use super::{Chosen, Membership, clock_random, describe, internal, nonzero};

/// Bytes of the largest backup that is taken in: it is held in memory, as the state itself will be.
const BACKUP_BYTES_MAX: u64 = 4 << 30;
/// Bytes that are handed to the client at a time, and how many such pieces may wait for it.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES: usize = 4;
/// A client that takes nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(60);
/// Deriving a key takes memory and a processor for a while: one at a time.
static TURN: Semaphore = Semaphore::const_new(1);
/// How long one waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(30);

impl Membership {
    /// Everything that the cluster has agreed on until now, sealed under a passphrase.
    pub(super) async fn take_backup(
        &self,
        passphrase: String,
    ) -> Result<BackupStream, ControlError> {
        let passphrase = Passphrase::for_sealing(passphrase)
            .map_err(|error| ControlError::invalid(error.to_string()))?;
        let turn = turn().await?;
        let state = self.snapshot(false).await?;
        let version = state.version().index;
        let (pieces, waiting) = mpsc::channel(PIECES);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let out = io::BufWriter::with_capacity(
                PIECE_BYTES,
                Outgoing {
                    pieces: pieces.clone(),
                    runtime: runtime.clone(),
                },
            );
            let by = (env!("CARGO_PKG_VERSION"), clock::now());
            match write(out, &state, &passphrase, by, Cost::default()) {
                Ok(_) => info!(version, "a backup of the cluster was taken"),
                Err(error) => {
                    warn!(%error, "a backup was not finished");
                    // The client sees the end of a connection, and not of a backup.
                    let _ = runtime.block_on(pieces.send_timeout(Err(error), STALLED));
                }
            }
            drop(turn);
        });
        Ok(Box::pin(ReceiverStream::new(waiting)))
    }

    /// Makes this node, which is in no cluster, the only manager of the one in a backup. It is a node
    /// of its own: one of before may still be somewhere, and so may be its vote.
    pub(super) async fn restore_from(
        &self,
        request: RestoreRequest,
        loaded: Loaded,
    ) -> Result<Restored, ControlError> {
        let Some(cluster) = loaded.state.cluster().cloned() else {
            return Err(ControlError::invalid("the backup holds no swarm"));
        };
        let about = loaded.header.about;
        let chosen = self
            .choose_addresses(
                &request.listen_addr,
                &request.advertise_addr,
                &request.data_path_addr,
            )
            .await?;
        let unlock_key = unlock_key(&cluster)?;
        let mut random = clock_random();
        let node = NodeId::random(&mut random);
        let root = signing_root(&cluster.root_ca, &request.root_key, clock::now())?;
        let identity = certify(&cluster, &root, &node)?;
        let files = &self.inner.files;
        files.create()?;
        files.save_identity(&identity)?;
        let saved = Saved {
            node: node.clone(),
            cluster: cluster.id.clone(),
            raft_id: nonzero(&mut random),
            listen: chosen.listen.to_string(),
            advertise: chosen.advertise.to_string(),
            data_path: chosen.data_path.to_string(),
            data_path_port: cluster.data_path_port,
            managers: vec![chosen.advertise.to_string()],
            renew_chance: random(),
            origins: chosen.origins.clone(),
        };
        let availability = request.availability.unwrap_or(Availability::Active);
        let me = NewNode {
            availability,
            description: describe::node(&self.inner.around, &identity, chosen.data_path).await,
            ..manager(&saved, &chosen)
        };
        let state = begin_anew(&loaded.state, me, clock::now())?;
        self.activate(saved.clone(), identity, Some(Birth::Restored(state)))
            .await?;
        files.follow_lock(unlock_key.as_ref())?;
        // Only now is there something to take up again after a restart.
        files.save(&saved)?;
        info!(%node, cluster = %about.cluster, taken_at = %about.created_at, "cluster restored from a backup");
        Ok(Restored {
            node,
            cluster: about.cluster,
            created_at: about.created_at,
        })
    }
}

async fn turn() -> Result<tokio::sync::SemaphorePermit<'static>, ControlError> {
    match tokio::time::timeout(TURN_WAIT, TURN.acquire()).await {
        Ok(Ok(turn)) => Ok(turn),
        Ok(Err(_)) | Err(_) => Err(ControlError::new(
            Kind::Unavailable,
            "another backup is being written or read: try again",
        )),
    }
}

/// Reads a backup to its end and verifies all of it.
pub(super) async fn load(passphrase: String, input: BackupInput) -> Result<Loaded, ControlError> {
    let mut bytes = Vec::new();
    input
        .take(BACKUP_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(|error| ControlError::invalid(format!("cannot read request body: {error}")))?;
    if bytes.len() as u64 > BACKUP_BYTES_MAX {
        return Err(ControlError::invalid(format!(
            "the backup is larger than {BACKUP_BYTES_MAX} bytes"
        )));
    }
    let passphrase =
        Passphrase::new(passphrase).map_err(|error| ControlError::invalid(error.to_string()))?;
    let _turn = turn().await?;
    let read = tokio::task::spawn_blocking(move || read(bytes.as_slice(), &passphrase));
    let loaded = read.await.map_err(internal)?;
    loaded.map_err(|error| {
        let kind = match error {
            BackupError::WrongPassphrase => Kind::PermissionDenied,
            BackupError::NotABackup
            | BackupError::Newer { .. }
            | BackupError::Damaged(_)
            | BackupError::Io(_) => Kind::Invalid,
        };
        ControlError::new(kind, format!("{error}. Nothing was changed"))
    })
}

/// The key that the cluster's managers are locked with, if they are.
fn unlock_key(cluster: &Cluster) -> Result<Option<UnlockKey>, ControlError> {
    if !cluster.spec.encryption_config.auto_lock_managers {
        return Ok(None);
    }
    cluster
        .unlock_key
        .parse()
        .map(Some)
        .map_err(|_| ControlError::invalid("the backup's unlock key cannot be read"))
}

/// The root with the key of whom signs now, which is brought where an external authority has it. It is
/// used once, and goes into no state.
fn signing_root(root: &RootCa, brought: &str, now: Timestamp) -> Result<RootCa, ControlError> {
    let mut root = root.clone();
    let (cert, key) = match &mut root.rotation {
        Some(next) => (&next.cert, &mut next.key),
        None => (&root.cert, &mut root.key),
    };
    match (key.is_empty(), brought) {
        (false, _) => Ok(root),
        (true, "") => Err(ControlError::new(
            Kind::FailedPrecondition,
            "an external CA has the key of this swarm's root, and nobody else can sign the first certificate: give the key with `--ca-key`. It is not kept",
        )),
        (true, brought) => {
            let checked = check_root(cert, brought, now)
                .map_err(|error| ControlError::invalid(error.to_string()))?;
            *key = checked.key_pem;
            Ok(root)
        }
    }
}

/// A manager's certificate by the cluster's own authority.
fn certify(cluster: &Cluster, root: &RootCa, node: &NodeId) -> Result<Identity, ControlError> {
    let key = skep_pki::request_certificate().map_err(internal)?;
    let life = cluster.spec.ca_config.node_cert_expiry.duration();
    let role = NodeRole::Manager;
    let cert = Authority::of(root)
        .and_then(|authority| {
            authority.sign(&key.csr_pem, node, role, &cluster.id, life, clock::now())
        })
        .map_err(internal)?;
    Identity::from_pem(&cert, &key.key_pem, &root.trusted()).map_err(internal)
}

fn manager(saved: &Saved, chosen: &Chosen) -> NewNode {
    NewNode {
        id: saved.node.clone(),
        role: NodeRole::Manager,
        addr: chosen.advertise.ip().to_string(),
        manager_status: Some(ManagerStatus {
            leader: true,
            reachability: Reachability::Reachable,
            addr: saved.advertise.clone(),
            raft_id: saved.raft_id,
        }),
        ..NewNode::default()
    }
}

/// Hands what is written to the client.
struct Outgoing {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

impl io::Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Ok(Bytes::copy_from_slice(bytes));
        self.runtime
            .block_on(self.pieces.send_timeout(piece, STALLED))
            .map_err(|_| io::Error::other("the client takes nothing any more"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use skep_pki::generate_root;

    use super::*;

    #[test]
    fn a_key_that_is_elsewhere_is_brought_for_the_first_certificate() {
        let now = clock::now();
        let (own, other) = (generate_root(now).unwrap(), generate_root(now).unwrap());
        let with = |key: &str| RootCa {
            cert: own.cert_pem.clone(),
            key: key.to_owned(),
            ..RootCa::default()
        };
        let refused = signing_root(&with(""), "", now).unwrap_err();
        assert!(refused.message.contains("--ca-key"), "{refused}");
        assert!(signing_root(&with(""), &other.key_pem, now).is_err());
        assert!(signing_root(&with(""), "nonsense", now).is_err());
        let cluster = Cluster {
            id: "c".into(),
            root_ca: with(""),
            ..Cluster::default()
        };
        for root in [
            signing_root(&with(""), &own.key_pem, now).unwrap(),
            signing_root(&with(&own.key_pem), "", now).unwrap(),
        ] {
            let identity = certify(&cluster, &root, &"n".into()).unwrap();
            assert_eq!(identity.peer.role, NodeRole::Manager);
            assert_eq!(identity.root_pem, own.cert_pem);
        }
    }
}
