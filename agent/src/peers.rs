//! Images of the other nodes: found through a manager, read from the nodes themselves.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use skep_engine::types::Platform;
use skep_engine::{
    ByteStream, Claim, EngineError, Holder, Offer, OwnedImage, Peers, Refusal, Verdict,
};
use skep_model::{NodeId, Timestamp};
use skep_proto::connect::Connector;
use skep_proto::v1::blobs_client::BlobsClient;
use skep_proto::v1::claim_request::Word;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::{
    AdmitRequest, AgentMessage, BlobPiece, BlobRead, ClaimRequest, ClaimWanted, Empty, Locate,
    LocateRequest, Located, OwnedImage as Told, agent_message,
};
use tokio::sync::{Semaphore, mpsc};
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tracing::debug;

use crate::session::message;
use crate::worker::Worker;

/// How long managers may take to say who has an image.
const FIND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a session with a manager is waited for.
const SESSION_WAIT: Duration = Duration::from_secs(5);
/// How long a node may take to begin with a blob, and to go on with it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that could not be reached is not asked again for so long.
const UNREACHED_LIFE: Duration = Duration::from_secs(5);
/// Pieces of a blob that may wait for the disk.
const PIECES: usize = 16;
/// Largest piece taken.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Questions of a manager that are looked into at once; others are answered with a no.
const QUESTIONS_MAX: usize = 32;
/// A node that was admitted is not asked about again for so long.
const ADMITTED_LIFE: Duration = Duration::from_secs(30);
/// Admitted nodes remembered; there are fewer.
const ADMITTED_MAX: usize = 4096;

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The other nodes of the cluster, as the engine asks them.
pub struct Neighbours {
    worker: Arc<Worker>,
    connector: Arc<Connector>,
    /// Addresses that did not answer, and when.
    unreached: Mutex<HashMap<String, Instant>>,
}

impl Neighbours {
    pub fn new(worker: Arc<Worker>, connector: Arc<Connector>) -> Self {
        Self {
            worker,
            connector,
            unreached: Mutex::default(),
        }
    }

    async fn offers(&self, image: &str, only_own: bool) -> Result<Vec<Offer>, EngineError> {
        let mut client = DispatcherClient::new(manager(&self.worker).await?);
        let request = LocateRequest {
            image: image.to_owned(),
            only_own,
        };
        let unanswered = |why: String| {
            EngineError::unavailable(format!("no manager says which nodes have it: {why}"))
        };
        let reply = tokio::time::timeout(FIND_TIMEOUT, client.locate(request))
            .await
            .map_err(|_| unanswered("there was no answer in time".to_owned()))?
            .map_err(|status| unanswered(status.message().to_owned()))?;
        let holders = reply.into_inner().holders.into_iter();
        let offers = holders.filter_map(|holder| {
            let image = OwnedImage {
                on_manager: holder.is_manager,
                ..owned(holder.image?)
            };
            Some(Offer {
                holder: Holder {
                    host: holder.node_id,
                    address: holder.address,
                },
                image,
            })
        });
        Ok(offers.collect())
    }

    async fn say(&self, digest: &str, claim: Claim) -> Result<Verdict, EngineError> {
        let word = match claim {
            Claim::Wants { in_vain } => Word::Wanted(ClaimWanted { in_vain }),
            Claim::Loads { bytes } => Word::Loads(bytes),
            Claim::Has => Word::Has(Empty {}),
            Claim::Failed => Word::Failed(Empty {}),
        };
        let is_question = matches!(word, Word::Wanted(_));
        let port = self.worker.blobs_port();
        if port == 0 {
            return Err(EngineError::unavailable("this node gives nothing itself"));
        }
        let mut client = DispatcherClient::new(manager(&self.worker).await?);
        let request = ClaimRequest {
            digest: digest.to_owned(),
            port: port.into(),
            word: Some(word),
            ..ClaimRequest::default()
        };
        let reply = match tokio::time::timeout(FIND_TIMEOUT, client.claim(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(EngineError::unavailable(status.message())),
            Err(_) => return Err(EngineError::unavailable("no manager answers in time")),
        };
        let holders = reply.holders.into_iter().map(|holder| Holder {
            host: holder.node_id,
            address: holder.address,
        });
        Ok(match (is_question, reply.load) {
            (false, _) => Verdict::Noted,
            (true, true) => Verdict::Load,
            (true, false) => Verdict::Read(holders.collect()),
        })
    }

    /// Whether a node could not be reached a moment ago.
    fn is_unreached(&self, holder: &Holder) -> bool {
        let mut unreached = self
            .unreached
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unreached.retain(|_, at| at.elapsed() < UNREACHED_LIFE);
        unreached.contains_key(&holder.address)
    }

    fn note_unreached(&self, holder: &Holder) {
        let mut unreached = self
            .unreached
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unreached.insert(holder.address.clone(), Instant::now());
    }

    async fn open(
        &self,
        holder: &Holder,
        digest: &str,
        offset: u64,
    ) -> Result<ByteStream, Refusal> {
        let failed = |why: &str| {
            let text = format!("node {} at {}: {why}", holder.host, holder.address);
            Refusal::Failed(EngineError::unavailable(text))
        };
        if self.is_unreached(holder) {
            return Err(failed("it could not be reached a moment ago"));
        }
        let channel = self.connector.channel_to(&holder.host, &holder.address);
        let mut client = BlobsClient::new(channel).max_decoding_message_size(PIECE_BYTES_MAX);
        let request = BlobRead {
            digest: digest.to_owned(),
            offset,
        };
        let reply = match tokio::time::timeout(OPEN_TIMEOUT, client.read(request)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(status)) if status.code() == Code::ResourceExhausted => {
                return Err(Refusal::Busy);
            }
            Ok(Err(status)) if status.code() == Code::NotFound => {
                return Err(Refusal::Failed(EngineError::not_found(status.message())));
            }
            Ok(Err(status)) => {
                if status.code() == Code::Unavailable {
                    self.note_unreached(holder);
                }
                return Err(failed(status.message()));
            }
            Err(_) => {
                self.note_unreached(holder);
                return Err(failed("it does not answer"));
            }
        };
        let (sender, pieces) = mpsc::channel(PIECES);
        tokio::spawn(pass(reply.into_inner(), sender));
        Ok(ByteStream::new(pieces))
    }
}

impl Peers for Neighbours {
    fn find<'a>(
        &'a self,
        image: &'a str,
        only_own: bool,
    ) -> Answer<'a, Result<Vec<Offer>, EngineError>> {
        Box::pin(self.offers(image, only_own))
    }

    fn read<'a>(
        &'a self,
        holder: &'a Holder,
        digest: &'a str,
        offset: u64,
    ) -> Answer<'a, Result<ByteStream, Refusal>> {
        Box::pin(self.open(holder, digest, offset))
    }

    fn claim<'a>(
        &'a self,
        digest: &'a str,
        claim: Claim,
    ) -> Answer<'a, Result<Verdict, EngineError>> {
        Box::pin(self.say(digest, claim))
    }
}

/// Passes a blob on until it ends, stops moving, or nobody wants it any more.
async fn pass(
    mut incoming: Streaming<BlobPiece>,
    sender: mpsc::Sender<Result<tonic::codegen::Bytes, EngineError>>,
) {
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(IDLE_TIMEOUT, incoming.message()) => next,
            () = sender.closed() => return,
        };
        let piece = match next {
            Ok(Ok(Some(piece))) => Ok(piece.data),
            Ok(Ok(None)) => return,
            Ok(Err(status)) => Err(format!("a peer broke off: {}", status.message())),
            Err(_) => Err("a peer has stopped sending".to_owned()),
        };
        let is_over = piece.is_err();
        let piece = piece.map_err(EngineError::unavailable);
        if sender.send(piece).await.is_err() || is_over {
            return;
        }
    }
}

/// The manager that this node has a session with, which it may be about to have.
pub(crate) async fn manager(worker: &Worker) -> Result<Channel, EngineError> {
    let mut manager = worker.manager();
    let there = tokio::time::timeout(SESSION_WAIT, manager.wait_for(Option::is_some)).await;
    let channel = there
        .ok()
        .and_then(Result::ok)
        .and_then(|there| there.clone());
    channel.ok_or_else(|| EngineError::unavailable("this node has no session with a manager"))
}

fn owned(told: Told) -> OwnedImage {
    OwnedImage {
        digest: told.digest,
        size: told.size,
        media_type: told.media_type,
        platform: Platform {
            os: told.os,
            architecture: told.architecture,
            variant: told.variant,
            ..Default::default()
        },
        named_at: Timestamp(told.named_at),
        confirmed: told.confirmed,
        on_manager: false,
    }
}

fn told(image: OwnedImage) -> Told {
    Told {
        digest: image.digest,
        size: image.size,
        media_type: image.media_type,
        os: image.platform.os,
        architecture: image.platform.architecture,
        variant: image.platform.variant,
        named_at: image.named_at.0,
        confirmed: image.confirmed,
    }
}

/// Says to one manager which images are here.
pub struct Answers {
    worker: Arc<Worker>,
    out: mpsc::Sender<AgentMessage>,
    seats: Arc<Semaphore>,
}

impl Answers {
    pub fn new(worker: Arc<Worker>, out: mpsc::Sender<AgentMessage>) -> Self {
        Self {
            worker,
            out,
            seats: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        }
    }

    /// Looks into a question and answers it.
    pub fn answer(&self, asked: Locate) {
        let (worker, out) = (Arc::clone(&self.worker), self.out.clone());
        let seat = Arc::clone(&self.seats).try_acquire_owned().ok();
        let wanted = asked.image.unwrap_or_default();
        tokio::spawn(async move {
            let port = worker.blobs_port();
            let mut image = None;
            if seat.is_some() && port != 0 {
                let found = worker.engine.image_owned(&wanted.image, wanted.only_own);
                image = found.await.unwrap_or_else(|error| {
                    debug!(image = wanted.image, %error, "an image cannot be looked at");
                    None
                });
            }
            let located = agent_message::Content::Located(Located {
                question: asked.question,
                image: image.map(told),
                port: port.into(),
            });
            let _ = out.send(message(located)).await;
        });
    }
}

/// Which nodes may be given what this one has: members of the cluster, as a manager says.
pub struct Admissions {
    worker: Arc<Worker>,
    admitted: Mutex<HashMap<NodeId, Instant>>,
}

impl Admissions {
    pub fn new(worker: Arc<Worker>) -> Self {
        Self {
            worker,
            admitted: Mutex::default(),
        }
    }

    /// Whether a node whose certificate was verified is a member now.
    ///
    /// # Errors
    /// Nobody can say.
    pub async fn ask(&self, node: &NodeId) -> Result<bool, EngineError> {
        let known = {
            let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
            admitted.retain(|_, at| at.elapsed() < ADMITTED_LIFE);
            admitted.contains_key(node)
        };
        if known {
            return Ok(true);
        }
        let mut client = DispatcherClient::new(manager(&self.worker).await?);
        let request = AdmitRequest {
            node_id: node.to_string(),
        };
        let reply = tokio::time::timeout(FIND_TIMEOUT, client.admit(request)).await;
        let Ok(Ok(reply)) = reply else {
            return Err(EngineError::unavailable(
                "no manager says whether the node is a member",
            ));
        };
        let is_member = reply.into_inner().admitted;
        if is_member {
            let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
            if admitted.len() < ADMITTED_MAX {
                admitted.insert(node.clone(), Instant::now());
            }
        }
        Ok(is_member)
    }
}
