//! Which nodes have an image: the manager that was asked asks all managers, each asks the agents whose
//! sessions it holds. And who downloads what, as the leader decides.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use skep_model::{NodeId, NodeRole, Timestamp};
use skep_proto::v1::images_client::ImagesClient;
use skep_proto::v1::images_server::Images;
use skep_proto::v1::{
    AdmitReply, ClaimReply, ClaimRequest, ImageHolder, LocateReply, LocateRequest, OwnedImage,
    claim_request,
};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use crate::caller::require_manager;
use crate::claims::{Place, Reply, Word};
use crate::clock;
use crate::manager::Core;
use crate::submit;

/// How long another manager may take to say which of its nodes have an image.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// What was found counts for so long: a rollout asks the same for each of its nodes.
const FOUND_LIFE: Duration = Duration::from_secs(1);
/// Searches remembered at most.
const FOUND_MAX: usize = 256;
/// `sha256:` and its digits.
const DIGEST_BYTES_MAX: usize = 71;
/// The longest name there is, with tag and digest.
const NAME_BYTES_MAX: usize = 512;

type Search = Arc<OnceCell<Vec<ImageHolder>>>;

/// Searches of late. Whoever asks the same meanwhile gets the same answer.
#[derive(Default)]
pub struct Searches(Mutex<HashMap<(String, bool), (Instant, Search)>>);

impl Searches {
    fn join(&self, wanted: &LocateRequest) -> Search {
        let mut searches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        searches.retain(|_, (began, _)| began.elapsed() < FOUND_LIFE);
        if searches.len() >= FOUND_MAX {
            searches.clear();
        }
        let key = (wanted.image.clone(), wanted.only_own);
        let (_, search) = searches
            .entry(key)
            .or_insert_with(|| (Instant::now(), Search::default()));
        Arc::clone(search)
    }

    fn forget(&self, old: &Search) {
        let mut searches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        searches.retain(|_, (_, search)| !Arc::ptr_eq(search, old));
    }
}

pub struct ImagesService(pub Arc<Core>);

#[tonic::async_trait]
impl Images for ImagesService {
    async fn locate(
        &self,
        request: Request<LocateRequest>,
    ) -> Result<Response<LocateReply>, Status> {
        require_manager(&request, &self.0)?;
        let wanted = request.into_inner();
        let holders = here(&self.0, &wanted).await;
        Ok(Response::new(LocateReply { holders }))
    }

    async fn claim(&self, request: Request<ClaimRequest>) -> Result<Response<ClaimReply>, Status> {
        require_manager(&request, &self.0)?;
        decide(&self.0, request.into_inner()).map(Response::new)
    }
}

/// Has the leader decide about a node's word of a blob.
pub async fn claim(core: &Arc<Core>, claim: ClaimRequest) -> Result<ClaimReply, Status> {
    let leadership = core.consensus.leadership().borrow().clone();
    if leadership.is_me {
        return decide(core, claim);
    }
    let leader = leadership
        .leader
        .ok_or_else(|| Status::unavailable(submit::NO_LEADER))?;
    let mut client = ImagesClient::new(core.connector.channel(&leader.address));
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.claim(claim)).await;
    answer
        .map_err(|_| Status::deadline_exceeded("the leader does not answer"))?
        .map(Response::into_inner)
}

fn decide(core: &Core, claim: ClaimRequest) -> Result<ClaimReply, Status> {
    if !core.consensus.leadership().borrow().is_me {
        return Err(Status::unavailable(submit::NO_LEADER));
    }
    if claim.digest.len() > DIGEST_BYTES_MAX {
        return Err(Status::invalid_argument("that is no digest"));
    }
    let node = NodeId::new(&claim.node_id);
    let place = place(core, node, claim.port)
        .ok_or_else(|| Status::failed_precondition("the node has no address yet"))?;
    let word = match claim.word {
        Some(claim_request::Word::Wanted(wanted)) => Word::Wants {
            in_vain: wanted.in_vain.iter().map(NodeId::new).collect(),
        },
        Some(claim_request::Word::Loads(bytes)) => Word::Loads { bytes },
        Some(claim_request::Word::Has(_)) => Word::Has,
        Some(claim_request::Word::Failed(_)) => Word::Failed,
        None => return Err(Status::invalid_argument("nothing is said of the blob")),
    };
    let reply = {
        let mut claims = core.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.hear(&claim.digest, place, word, Instant::now())
    };
    Ok(match reply {
        Reply::Load => ClaimReply {
            load: true,
            ..ClaimReply::default()
        },
        Reply::Read(places) => ClaimReply {
            load: false,
            holders: places.into_iter().map(holder).collect(),
        },
        Reply::Noted => ClaimReply::default(),
    })
}

/// Where a node gives blobs; `None` while it is not known, or it gives none.
fn place(core: &Core, node: NodeId, port: u32) -> Option<Place> {
    let snapshot = core.machine.store().snapshot();
    let address = &snapshot.node(&node)?.status.addr;
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    let address = SocketAddr::new(address.parse().ok()?, port).to_string();
    Some(Place { node, address })
}

fn holder(place: Place) -> ImageHolder {
    ImageHolder {
        node_id: place.node.to_string(),
        address: place.address,
        image: None,
        is_manager: false,
    }
}

/// The nodes whose sessions end here and that have an image.
async fn here(core: &Core, wanted: &LocateRequest) -> Vec<ImageHolder> {
    let found = core.sessions.locate(wanted).await;
    let snapshot = core.machine.store().snapshot();
    let now = clock::now();
    let holders = found.into_iter().filter_map(|(node, located)| {
        let known = snapshot.node(&node);
        Some(ImageHolder {
            is_manager: known.is_some_and(|node| node.role == NodeRole::Manager),
            image: located.image.map(|image| named_by_now(image, now)),
            ..holder(place(core, node, located.port)?)
        })
    });
    holders.collect()
}

/// What a node says of an image, which no node has named later than now.
fn named_by_now(image: OwnedImage, now: Timestamp) -> OwnedImage {
    OwnedImage {
        named_at: image.named_at.min(now.0),
        ..image
    }
}

/// All nodes that have an image.
pub async fn locate_anywhere(core: &Arc<Core>, wanted: LocateRequest) -> Vec<ImageHolder> {
    if wanted.image.len() > NAME_BYTES_MAX {
        return Vec::new();
    }
    let search = core.searches.join(&wanted);
    let found = search.get_or_init(|| search_all(core, wanted)).await;
    if found.is_empty() {
        // Somebody may have it in a moment.
        core.searches.forget(&search);
    }
    found.clone()
}

async fn search_all(core: &Arc<Core>, wanted: LocateRequest) -> Vec<ImageHolder> {
    let mut asked = JoinSet::new();
    for part in core.consensus.members() {
        let (core, wanted) = (Arc::clone(core), wanted.clone());
        asked.spawn(async move {
            if part.member.id == core.raft_id {
                return here(&core, &wanted).await;
            }
            let mut client = ImagesClient::new(core.connector.channel(&part.member.address));
            let answer = tokio::time::timeout(ANSWER_WITHIN, client.locate(wanted)).await;
            match answer {
                Ok(Ok(reply)) => reply.into_inner().holders,
                // One of before does not know the question.
                Ok(Err(_)) | Err(_) => Vec::new(),
            }
        });
    }
    let mut all = Vec::new();
    while let Some(found) = asked.join_next().await {
        all.extend(found.unwrap_or_default());
    }
    // Two managers may take themselves for the one that holds a node's session.
    all.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    all.dedup_by(|a, b| a.node_id == b.node_id);
    all
}

/// Whether a node is a member that may be given what others have.
pub fn admit(core: &Core, node: &str) -> AdmitReply {
    let snapshot = core.machine.store().snapshot();
    let node = NodeId::new(node);
    let removed = snapshot
        .cluster()
        .is_none_or(|cluster| cluster.removed_nodes.contains_key(&node));
    AdmitReply {
        admitted: !removed && snapshot.node(&node).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_node_has_named_an_image_later_than_now() {
        let named = |named_at| {
            let told = OwnedImage {
                named_at,
                ..OwnedImage::default()
            };
            named_by_now(told, Timestamp(7)).named_at
        };
        assert_eq!((named(3), named(i64::MAX)), (3, 7));
    }
}
