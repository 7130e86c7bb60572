//! Where the content of an image comes from during a pull.

use bytes::Bytes;
use hyper::body::Incoming;

use super::client::{Fetched, Repository, next_chunk};
use super::peers::{Holder, Holders, Peers, Refusal};
use crate::error::{EngineError, Kind, Result};
use crate::image::digest::Digest;
use crate::streams::ByteStream;

/// Layers fetched from other hosts at the same time, per pull.
const PEER_DOWNLOADS_MAX: usize = 3;

/// A registry, or other hosts.
pub(crate) enum Source<'a> {
    Registry(&'a Repository<'a>),
    Peers(&'a Holders),
    /// One of those who have a blob, and no other.
    Peer(&'a dyn Peers, &'a Holder),
}

/// A blob on its way.
pub(crate) enum Body {
    Registry(Incoming),
    Peer(Holder, ByteStream),
}

impl Source<'_> {
    /// A manifest or index by digest.
    pub(crate) async fn document(&self, digest: &Digest) -> Result<Fetched> {
        match self {
            Self::Registry(repository) => repository.manifest(digest.as_str()).await,
            Self::Peers(holders) => holders.document(digest).await,
            Self::Peer(..) => Err(EngineError::internal("documents are asked of all peers")),
        }
    }

    /// Begins to fetch a blob at an offset. Says whether the offset was heeded.
    pub(crate) async fn blob(&self, digest: &Digest, offset: u64) -> Result<(bool, Body)> {
        match self {
            Self::Registry(repository) => {
                let (resumed, response) = repository.blob(digest, offset).await?;
                Ok((resumed, Body::Registry(response.into_body())))
            }
            Self::Peers(holders) => {
                let (holder, stream) = holders.open(digest, offset).await?;
                Ok((true, Body::Peer(holder, stream)))
            }
            Self::Peer(peers, holder) => match peers.read(holder, digest.as_str(), offset).await {
                Ok(stream) => Ok((true, Body::Peer((*holder).clone(), stream))),
                // No other error is of this kind.
                Err(Refusal::Busy) => Err(EngineError::conflict("the peer is busy")),
                Err(Refusal::Failed(error)) => Err(error),
            },
        }
    }

    /// Blobs fetched at the same time.
    pub(crate) fn downloads_max(&self) -> usize {
        match self {
            Self::Registry(repository) => repository.downloads_max(),
            Self::Peers(_) | Self::Peer(..) => PEER_DOWNLOADS_MAX,
        }
    }

    /// Takes in that a blob did not come whole from where it was fetched, and says whether it is worth
    /// trying again.
    pub(crate) fn after_failure(
        &self,
        digest: &Digest,
        from: Option<&Holder>,
        error: &EngineError,
    ) -> Again {
        match (self, from, error.kind()) {
            (Self::Peers(holders), Some(holder), Kind::Invalid) => {
                holders.blame(holder, digest);
                Again::AtOnce
            }
            (Self::Peers(holders), Some(holder), Kind::Unavailable) => {
                holders.forget(holder);
                Again::AtOnce
            }
            (Self::Registry(_), _, Kind::Unavailable) => Again::Later,
            _ => Again::Never,
        }
    }
}

/// Whether a download is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    AtOnce,
    Later,
    Never,
}

impl Body {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Registry(body) => next_chunk(body).await,
            Self::Peer(_, stream) => stream.next().await.transpose(),
        }
    }

    /// The host that it comes from, unless that is a registry.
    pub(crate) fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Registry(_) => None,
            Self::Peer(holder, _) => Some(holder),
        }
    }
}
