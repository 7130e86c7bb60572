//! This node's place in a cluster: makes, joins and leaves one, and keeps manager and agent
//! running while it is a member.

mod active;
mod address;
mod backup;
mod cluster;
mod describe;
mod exec;
mod files;
mod issue;
mod leave;
mod lock;
mod logs;
mod making;
mod moving;
mod why;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use skep_api::texts;
use skep_engine::Engine;
use skep_manager::stores::Stores;
use skep_model::image_source::ImageSource;
use skep_model::resources::GenericResource;
use skep_model::{ControlError, Kind};
use skep_net::Host;
use skep_pki::Identity;
use tokio::sync::{Mutex, watch};
use tracing::warn;

use active::{Active, Birth};
use files::{FileError, Files, Origins, Saved};
use moving::{Moving, Notice};

/// What a membership needs of the daemon.
pub struct Surroundings {
    pub engine: Arc<Engine>,
    pub host: Arc<Host>,
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    /// Name that nodes and templates show.
    pub hostname: String,
    /// The daemon's labels.
    pub labels: Vec<String>,
    /// What services may reserve here besides processors and memory.
    pub generic_resources: Vec<GenericResource>,
    /// Where images come from whose services do not say.
    pub image_source: ImageSource,
    /// Stores outside of the cluster that hold what secrets do.
    pub secret_stores: Arc<Stores>,
}

/// This node's membership. Clones share it.
#[derive(Clone)]
pub struct Membership {
    inner: Arc<Inner>,
}

struct Inner {
    around: Arc<Surroundings>,
    files: Files,
    /// Held while the membership changes: one init, join or leave at a time.
    changing: Mutex<()>,
    state: watch::Sender<State>,
}

/// Where this node listens, is known, and sends its overlay frames from.
struct Chosen {
    listen: SocketAddr,
    advertise: SocketAddr,
    data_path: IpAddr,
    origins: Origins,
}

#[derive(Clone, Default)]
enum State {
    #[default]
    Inactive,
    Pending,
    Active(Arc<Active>),
    /// A member whose keys are sealed until somebody brings the unlock key.
    Locked,
    Failed(String),
}

/// Swarm's text for a key that is not the one.
const WRONG_UNLOCK_KEY: &str = "swarm could not be unlocked: invalid key provided";
/// Swarm's text for a locked manager that is to leave.
const LOCKED_LEAVE: &str = "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";

fn internal(error: impl std::fmt::Display) -> ControlError {
    ControlError::new(Kind::Internal, error.to_string())
}

impl From<FileError> for ControlError {
    fn from(error: FileError) -> Self {
        internal(skep_error_chain(&error))
    }
}

/// An error with its causes on one line.
pub(crate) fn skep_error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Membership {
    /// Takes up the membership that is on disk, if there is one. A membership that cannot be
    /// taken up is shown as an error; the engine works all the same.
    pub async fn resume(around: Surroundings) -> Self {
        let files = Files::new(&around.data_root);
        let inner = Inner {
            around: Arc::new(around),
            files,
            changing: Mutex::new(()),
            state: watch::Sender::new(State::Inactive),
        };
        let membership = Self {
            inner: Arc::new(inner),
        };
        let saved = match membership.inner.files.load() {
            Ok(None) => return membership,
            Ok(Some(saved)) => saved,
            Err(error) => {
                membership.fail(&error);
                return membership;
            }
        };
        if membership.inner.files.is_locked() {
            warn!(node = %saved.node, "this manager is locked: `swarm unlock` unlocks it");
            membership.inner.state.send_replace(State::Locked);
            return membership;
        }
        membership.take_up(saved).await;
        membership
    }

    /// Takes up what is on disk; what cannot be is shown as an error.
    async fn take_up(&self, mut saved: Saved) {
        // The host may have been given another address while the daemon was away.
        if let Ok(seen) = self.look_around().await {
            let (mut now, notices) = Moving::at_start(&saved, &seen);
            notices.iter().for_each(Notice::tell);
            if now.advertise != saved.advertise {
                now.managers.retain(|manager| *manager != saved.advertise);
            }
            if now != saved
                && let Err(error) = self.inner.files.save(&now)
            {
                self.fail(&error);
                return;
            }
            saved = now;
        }
        match self.inner.files.load_identity() {
            Ok(identity) => {
                if let Err(error) = self.activate(saved, identity, None).await {
                    self.fail(&error);
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&self, error: &dyn std::error::Error) {
        let text = skep_error_chain(error);
        warn!(error = text, "the node's membership cannot be taken up");
        self.inner.state.send_replace(State::Failed(text));
    }

    async fn activate(
        &self,
        saved: Saved,
        identity: Identity,
        birth: Option<Birth>,
    ) -> Result<Arc<Active>, ControlError> {
        let active = Active::start(
            Arc::clone(&self.inner.around),
            self.inner.files.clone(),
            saved,
            identity,
            birth,
        )
        .await?;
        self.inner
            .state
            .send_replace(State::Active(Arc::clone(&active)));
        // The node acts on what managers tell it for as long as it is a member.
        let membership = self.clone();
        let watched = Arc::clone(&active);
        active.spawn(async move {
            if watched.attend().await {
                // Removed by the cluster: give up the membership from outside of its own tasks.
                tokio::spawn(async move { membership.removed().await });
            }
        });
        Ok(active)
    }

    async fn removed(&self) {
        let _changing = self.inner.changing.lock().await;
        let Ok(active) = self.active() else { return };
        warn!(node = %active.node(), "this node was removed from its cluster");
        leave::dissolve(&active).await;
        self.inner.state.send_replace(State::Inactive);
    }

    fn active(&self) -> Result<Arc<Active>, ControlError> {
        match &*self.inner.state.borrow() {
            State::Active(active) => Ok(Arc::clone(active)),
            State::Inactive | State::Pending => {
                Err(ControlError::new(Kind::Unavailable, texts::NO_SWARM))
            }
            State::Locked => Err(ControlError::new(Kind::Unavailable, texts::LOCKED)),
            State::Failed(error) => Err(ControlError::new(Kind::Unavailable, error.clone())),
        }
    }

    /// Stops manager and agent; containers and membership stay.
    pub async fn shutdown(&self) {
        let _changing = self.inner.changing.lock().await;
        let active = self.active();
        if let Ok(active) = active {
            active.stop().await;
        }
    }

    fn refuse_member(&self) -> Result<(), ControlError> {
        match &*self.inner.state.borrow() {
            State::Inactive => Ok(()),
            State::Locked => Err(ControlError::new(Kind::Unavailable, texts::LOCKED)),
            State::Pending | State::Active(_) | State::Failed(_) => {
                Err(ControlError::new(Kind::Unavailable, texts::ALREADY_PART))
            }
        }
    }
}

fn clock_random() -> impl FnMut() -> u64 {
    || u64::from_be_bytes(skep_pki::random_bytes())
}

fn nonzero(random: &mut impl FnMut() -> u64) -> u64 {
    loop {
        // JSON numbers are exact below 2^53; this id is shown in the API.
        let id = random() >> 11;
        if id != 0 {
            return id;
        }
    }
}
