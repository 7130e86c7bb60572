//! Downloads that the hosts of a cluster share: one gets a blob from its registry, the others get it from
//! there while it is on its way.
//!
//! Every wait has a bound, after which a host goes on by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;

use super::blob::{Part, download_once};
use super::peers::{Claim, Holder, Peers, Verdict};
use super::pull::{Downloads, Pull};
use super::source::Source;
use crate::error::{EngineError, Kind, Result};
use crate::image::digest::Digest;
use crate::streams::Progress;

/// How long others may be waited for that have a blob and are too busy to give it.
const BUSY_MAX: Duration = Duration::from_secs(120);
const BUSY_PAUSE: Duration = Duration::from_millis(300);
/// How often those who were named may give nothing.
const VAIN_MAX: u32 = 3;
/// How often one that is to have it may say that it has not.
const ABSENT_MAX: u32 = 4;
/// Hosts asked in one go.
const ASKED_MAX: usize = 3;
/// How often is told how far a download is.
const TELL_PERIOD: Duration = Duration::from_secs(1);

/// A host that gives fewer bytes than these in the period is given up: the registry, or somebody else, is
/// likely to be faster.
const GAIN_BYTES_MIN: u64 = 256 << 10;
const GAIN_PERIOD: Duration = Duration::from_secs(5);
/// How long one host is followed at most.
const FOLLOW_MAX: Duration = Duration::from_secs(600);

/// What came of asking others.
enum Asked {
    Done,
    Busy,
    /// All of them gave nothing.
    Vain(Vec<String>),
}

/// Says that a blob is being downloaded for others, until it is dropped.
pub(super) struct Lease {
    peers: Arc<dyn Peers>,
    digest: Digest,
    _telling: AbortOnDropHandle<()>,
}

impl Lease {
    fn begin(peers: Arc<dyn Peers>, digest: &Digest, downloads: &Downloads) -> Self {
        let (told, about) = (Arc::clone(&peers), digest.clone());
        let growing = downloads.growing();
        let telling = tokio::spawn(async move {
            loop {
                tokio::time::sleep(TELL_PERIOD).await;
                let bytes = growing.length(&about).unwrap_or(0);
                let word = Claim::Loads { bytes };
                if let Err(error) = told.claim(about.as_str(), word).await {
                    tracing::debug!(%error, digest = %about, "a download is not told of");
                }
            }
        });
        Self {
            peers,
            digest: digest.clone(),
            _telling: AbortOnDropHandle::new(telling),
        }
    }

    /// Says how it ended.
    pub(super) async fn end(self, has: bool) {
        let word = if has { Claim::Has } else { Claim::Failed };
        tell(&*self.peers, &self.digest, word).await;
    }
}

async fn tell(peers: &dyn Peers, digest: &Digest, word: Claim) {
    if let Err(error) = peers.claim(digest.as_str(), word).await {
        tracing::debug!(%error, %digest, "the end of a download is not told of");
    }
}

impl Pull<'_> {
    /// Gets a blob from other hosts, if they have it or are getting it. `None`: it is here now. Otherwise
    /// it is to be downloaded from its registry, with a lease if others wait for it.
    pub(super) async fn by_sharers(
        &self,
        digest: &Digest,
        size: i64,
        progress: &Progress,
    ) -> Option<Option<Lease>> {
        let asks_peers = self
            .options
            .source
            .is_some_and(|source| source.asks_peers());
        let Some(peers) = self.peers.clone().filter(|_| asks_peers) else {
            return Some(None);
        };
        let began = Instant::now();
        let (mut in_vain, mut tries) = (Vec::new(), 0);
        let mut absent = BTreeMap::new();
        while tries < VAIN_MAX && began.elapsed() < BUSY_MAX {
            let word = Claim::Wants {
                in_vain: in_vain.clone(),
            };
            let holders = match peers.claim(digest.as_str(), word).await {
                Ok(Verdict::Read(holders)) => holders,
                Ok(Verdict::Load) => {
                    return Some(Some(Lease::begin(peers, digest, self.downloads)));
                }
                Ok(Verdict::Noted) => return Some(None),
                Err(error) => {
                    tracing::debug!(%error, %digest, "nobody says who downloads it");
                    return Some(None);
                }
            };
            let blob = (digest, size);
            match self
                .ask(&*peers, holders, blob, &mut absent, progress)
                .await
            {
                Ok(Asked::Done) => {
                    tell(&*peers, digest, Claim::Has).await;
                    return None;
                }
                Ok(Asked::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                Ok(Asked::Vain(hosts)) => {
                    in_vain.extend(hosts);
                    tries += 1;
                }
                // Of this host; the download will say so.
                Err(_) => return Some(None),
            }
        }
        Some(None)
    }

    async fn ask(
        &self,
        peers: &dyn Peers,
        holders: Vec<Holder>,
        (digest, size): (&Digest, i64),
        absent: &mut BTreeMap<String, u32>,
        progress: &Progress,
    ) -> Result<Asked> {
        let (mut vain, mut is_busy) = (Vec::new(), false);
        for holder in holders.into_iter().take(ASKED_MAX) {
            let source = Source::Peer(peers, &holder);
            let mut part = Part::default();
            let place = (self.store, self.downloads);
            let total = u64::try_from(size).unwrap_or(0);
            let growing = self.downloads.growing();
            // What is there of it by then stays, and is gone on from.
            let tried = tokio::select! {
                tried = download_once(place, &source, (digest, size), progress, &mut part) => tried,
                () = too_slow(|| growing.length(digest), total) => {
                    Err(EngineError::unavailable("it gives too little"))
                }
            };
            match tried {
                Ok(()) => return Ok(Asked::Done),
                Err(error) => match error.kind() {
                    Kind::Conflict => is_busy = true,
                    Kind::NotFound if is_early(absent, &holder) => is_busy = true,
                    Kind::Unavailable | Kind::Invalid | Kind::NotFound => {
                        tracing::warn!(%error, host = holder.host, %digest, "a peer gives nothing");
                        vain.push(holder.host.clone());
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(match is_busy && vain.is_empty() {
            true => Asked::Busy,
            false => Asked::Vain(vain),
        })
    }
}

/// Ends once a blob grows too slowly.
async fn too_slow(length: impl Fn() -> Option<u64>, total: u64) {
    let began = Instant::now();
    let mut had = None;
    loop {
        tokio::time::sleep(GAIN_PERIOD).await;
        let has = length();
        if is_too_slow(had, has, total, began.elapsed()) {
            return;
        }
        had = has;
    }
}

/// Whether a host is followed no longer, from which a blob had grown to so much a period ago, and has now.
/// What is not begun, or whole and looked at, does not grow.
fn is_too_slow(had: Option<u64>, has: Option<u64>, total: u64, followed: Duration) -> bool {
    match (had, has) {
        (_, None) => false,
        (_, Some(has)) if has >= total => false,
        (_, Some(_)) if followed >= FOLLOW_MAX => true,
        (had, Some(has)) => had.is_some_and(|had| has < had.saturating_add(GAIN_BYTES_MIN)),
    }
}

/// Whether one that does not have it yet may be about to begin its download.
fn is_early(absent: &mut BTreeMap<String, u32>, holder: &Holder) -> bool {
    let times = absent.entry(holder.host.clone()).or_default();
    *times += 1;
    *times < ABSENT_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_gives_little_is_given_up_and_one_that_is_done_is_not() {
        let total = 1 << 40;
        let is = |had, has| is_too_slow(had, has, total, GAIN_PERIOD);
        assert!(is(Some(0), Some(GAIN_BYTES_MIN - 1)));
        assert!(!is(Some(0), Some(GAIN_BYTES_MIN)));
        assert!(!is(None, Some(1)), "it has just begun");
        assert!(!is(Some(1), None));
        assert!(!is(Some(total), Some(total)), "its digest is computed");
        assert!(is_too_slow(Some(0), Some(1 << 30), total, FOLLOW_MAX));
    }
}
