//! What users ask for: each request is checked against the state and becomes one commit.
//!
//! Nothing here waits. A commit that is refused as a conflict means that the state has moved on:
//! execute the request again on the new snapshot (`Kind::OutOfSequence` then tells the user).

use skep_model::rollout::RolloutState;
use skep_model::{ControlError, ControlRequest, ControlResponse, Kind, Random, Timestamp, Version};
use skep_store::{Commit, FindError, Snapshot, Transaction};

mod attachment;
pub use attachment::check_attachable;
mod authority;
pub use authority::{NextRoot, RootWish, root_wish};
mod cluster;
pub(crate) use cluster::join_token;
mod encryption;
mod expiry;
mod network;
mod node;
mod payload;
mod registry_login;
mod service;
mod stack;
pub(crate) use stack::is_of_others;
mod token;
mod variable;
mod version;
mod volume;

/// Checks a request and decides what it changes. The commit is empty when nothing has to change.
///
/// `random` makes ids and, for rotations, join tokens and unlock keys: give a cryptographic source.
pub fn execute(
    request: &ControlRequest,
    snapshot: &Snapshot,
    now: Timestamp,
    random: &mut dyn Random,
) -> Result<(Commit, ControlResponse), ControlError> {
    execute_with_root(request, None, snapshot, now, random)
}

/// The same for an update of the cluster that asks for another root certificate: `next_root` is what
/// was made for it.
pub fn execute_with_root(
    request: &ControlRequest,
    next_root: Option<NextRoot>,
    snapshot: &Snapshot,
    now: Timestamp,
    random: &mut dyn Random,
) -> Result<(Commit, ControlResponse), ControlError> {
    let mut door = Door::new(snapshot, now, random);
    door.next_root = next_root;
    door.execute(request)?;
    Ok((door.tx.commit().unwrap_or_default(), door.response))
}

/// The state as it would be after a request, and how that would be answered.
pub(crate) fn suppose(
    request: &ControlRequest,
    snapshot: &Snapshot,
    now: Timestamp,
    random: &mut dyn Random,
) -> Result<(Snapshot, ControlResponse), ControlError> {
    let mut door = Door::new(snapshot, now, random);
    door.execute(request)?;
    Ok((door.tx.view().clone(), door.response))
}

/// Brings a stack back to revision `number` for a failure of the present one: how that has ended, and
/// why.
///
/// # Errors
/// The revision is gone, or something that it needs.
pub(crate) fn return_stack(
    snapshot: &Snapshot,
    name: &str,
    number: u64,
    failure: (RolloutState, &str),
    now: Timestamp,
    random: &mut dyn Random,
) -> Result<Commit, ControlError> {
    let mut door = Door::new(snapshot, now, random);
    door.return_stack(name, number, failure)?;
    Ok(door.tx.commit().unwrap_or_default())
}

/// Takes a stack as others have left it for a revision that began after `since`, where it is none; where
/// they have left nothing it goes.
pub(crate) fn settle_stack(
    snapshot: &Snapshot,
    name: &str,
    since: Timestamp,
    now: Timestamp,
    random: &mut dyn Random,
) -> Option<Commit> {
    let mut door = Door::new(snapshot, now, random);
    door.settle_stack(name, since).ok()?;
    door.tx.commit()
}

/// A request under way.
struct Door<'a> {
    tx: Transaction,
    now: Timestamp,
    random: &'a mut dyn Random,
    response: ControlResponse,
    next_root: Option<NextRoot>,
}

type Done = Result<(), ControlError>;

impl<'a> Door<'a> {
    fn new(snapshot: &Snapshot, now: Timestamp, random: &'a mut dyn Random) -> Self {
        Self {
            tx: Transaction::new(snapshot, now),
            now,
            random,
            response: ControlResponse::default(),
            next_root: None,
        }
    }
}

impl Door<'_> {
    fn execute(&mut self, request: &ControlRequest) -> Done {
        if self.tx.cluster().is_none() {
            return Err(ControlError::new(
                Kind::Unavailable,
                "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
            ));
        }
        match request {
            ControlRequest::CreateService { spec } => {
                let id = self.create_service(spec)?;
                self.response.id = id.to_string();
                Ok(())
            }
            ControlRequest::UpdateService {
                id,
                version,
                spec,
                registry_auth_from,
                rollback,
                revision,
            } => match rollback {
                true => self.roll_back_service(id, *version, *revision),
                false => self.update_service(id, *version, spec, *registry_auth_from),
            },
            ControlRequest::RebalanceService { id, most } => self.rebalance_service(id, *most),
            ControlRequest::ReleaseVolumes { id, slots, to } => {
                self.release_volumes(id, slots.as_deref(), to.as_ref())
            }
            ControlRequest::RunJob { id } => self.run_job(id),
            ControlRequest::RemoveService { id } => self.remove_service(id),
            ControlRequest::CreateNetwork { spec } => {
                let id = self.create_network(spec)?;
                self.response.id = id.to_string();
                Ok(())
            }
            ControlRequest::RemoveNetwork { id } => self.remove_network(id),
            ControlRequest::CreateSecret { spec } => {
                self.refuse_past(spec.expiry.as_ref())?;
                let id = self.create_secret(spec)?;
                self.response.id = id.to_string();
                Ok(())
            }
            ControlRequest::UpdateSecret { id, version, spec } => {
                let had = self.tx.secret(id).and_then(|one| one.spec.expiry.clone());
                let at = had.map_or(Timestamp::ZERO, |had| had.at);
                self.refuse_another_past(spec.expiry.as_ref(), at)?;
                self.update_secret(id, Some(*version), spec)
            }
            ControlRequest::RemoveSecret { id } => self.remove_secret(id),
            ControlRequest::CreateConfig { spec } => {
                let id = self.create_config(spec)?;
                self.response.id = id.to_string();
                Ok(())
            }
            ControlRequest::UpdateConfig { id, version, spec } => {
                self.update_config(id, Some(*version), spec)
            }
            ControlRequest::RemoveConfig { id } => self.remove_config(id),
            ControlRequest::ChangeVersion {
                object,
                change,
                users,
                expiry,
            } => {
                self.refuse_past(expiry.as_ref())?;
                self.change_version(object, change, users.as_deref(), expiry.as_ref())
            }
            ControlRequest::ForgetVersions { object } => self.forget_versions(object),
            ControlRequest::UpdateNode { id, version, spec } => {
                self.update_node(id, *version, spec)
            }
            ControlRequest::RemoveNode { id, force } => self.remove_node(id, *force),
            ControlRequest::UpdateCluster {
                version,
                spec,
                rotate_worker_token,
                rotate_manager_token,
                rotate_unlock_key,
                rotate_data_keys,
            } => self.update_cluster(
                *version,
                spec,
                cluster::Rotate {
                    worker_token: *rotate_worker_token,
                    manager_token: *rotate_manager_token,
                    unlock_key: *rotate_unlock_key,
                    data_keys: *rotate_data_keys,
                },
            ),
            ControlRequest::DeployStack {
                spec,
                prune,
                basis,
                wish,
            } => {
                self.check_basis(&spec.name, basis.as_deref())?;
                let because = stack::Because::asked("deployed".to_owned(), *wish);
                self.deploy_stack(spec, *prune, because)
            }
            ControlRequest::RollBackStack { name, revision } => {
                self.roll_back_stack(name, *revision)
            }
            ControlRequest::RemoveStack { name } => self.remove_stack(name),
            ControlRequest::Attach {
                node,
                network,
                container,
                addresses,
            } => {
                let id = self.attach(node, network, container, addresses)?;
                self.response.id = id.to_string();
                Ok(())
            }
            ControlRequest::CreateJoinToken {
                role,
                expires_after,
                uses_max,
            } => self.create_join_token(*role, *expires_after, *uses_max),
            ControlRequest::KeepRegistryLogin { spec } => self.keep_registry_login(spec),
            ControlRequest::RemoveRegistryLogin { host } => self.remove_registry_login(host),
            ControlRequest::RemoveJoinToken { id } => self.remove_join_token(id),
            ControlRequest::Detach {
                node,
                network,
                container,
            } => self.detach(node, network, container),
        }
    }

    fn put<R: skep_store::Record>(&mut self, record: R) -> Done {
        self.tx.put(record).map_err(ControlError::from)
    }
}

fn check_version(given: Version, present: Version) -> Done {
    match given == present {
        true => Ok(()),
        false => Err(ControlError::new(
            Kind::OutOfSequence,
            "update out of sequence",
        )),
    }
}

fn not_found(error: FindError) -> ControlError {
    let kind = match &error {
        FindError::NotFound { .. } => Kind::NotFound,
        FindError::Ambiguous { .. } => Kind::Invalid,
    };
    ControlError::new(kind, error.to_string())
}
