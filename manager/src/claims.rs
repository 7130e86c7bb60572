//! Who downloads a blob from its registry, so that one node does for all that want it at the same time.
//!
//! Kept by the leader, in memory: who is forgotten with it costs one more download. Pure; the time is an
//! argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use skep_model::NodeId;

/// Whoever downloads says so once a second; one that was silent for so long is taken for gone.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// One whose download does not grow for so long is taken for stuck.
const STUCK_MAX: Duration = Duration::from_secs(20);
/// A blob that nobody asked for is forgotten after this time.
const BLOB_LIFE: Duration = Duration::from_secs(600);
/// Between two looks for such blobs.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Blobs remembered at most; those asked for longest ago go first.
const BLOBS_MAX: usize = 10_000;
/// Nodes that are known to have a blob, and named to whoever asks.
const HOLDERS_MAX: usize = 16;

/// A node and where it gives blobs: `address:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub node: NodeId,
    pub address: String,
}

/// What a node says of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It wants it. These gave nothing when it asked them.
    Wants { in_vain: Vec<NodeId> },
    /// It downloads it, and has so many bytes.
    Loads { bytes: u64 },
    /// It has it.
    Has,
    /// It could not download it.
    Failed,
}

/// What it is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Download it from its registry.
    Load,
    /// Read it from one of these, the last of which may still be downloading it.
    Read(Vec<Place>),
    /// Nothing.
    Noted,
}

/// What is known of who has what.
#[derive(Debug, Default)]
pub struct Claims {
    blobs: BTreeMap<String, Blob>,
    /// When those that nobody asks for were looked for last.
    looked_at: Option<Instant>,
}

#[derive(Debug)]
struct Blob {
    asked_at: Instant,
    holders: Vec<Place>,
    loader: Option<Loader>,
}

#[derive(Debug)]
struct Loader {
    place: Place,
    heard_at: Instant,
    grown_at: Instant,
    bytes: u64,
}

impl Loader {
    fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard_at) < SILENT_MAX
            && now.saturating_duration_since(self.grown_at) < STUCK_MAX
    }
}

impl Claims {
    /// Takes in a node's word of a blob, and says what follows for it.
    pub fn hear(&mut self, digest: &str, place: Place, word: Word, now: Instant) -> Reply {
        self.forget(now);
        let blob = self.blobs.entry(digest.to_owned()).or_insert_with(|| Blob {
            asked_at: now,
            holders: Vec::new(),
            loader: None,
        });
        blob.asked_at = now;
        match word {
            Word::Wants { in_vain } => blob.want(place, &in_vain, now),
            Word::Loads { bytes } => {
                if let Some(loader) = blob.loader.as_mut().filter(|it| it.place == place) {
                    loader.heard_at = now;
                    if bytes > loader.bytes {
                        (loader.bytes, loader.grown_at) = (bytes, now);
                    }
                }
                Reply::Noted
            }
            Word::Has => {
                blob.drop_loader(&place.node);
                blob.holders.retain(|holder| holder.node != place.node);
                // The newest is the least asked.
                blob.holders.insert(0, place);
                blob.holders.truncate(HOLDERS_MAX);
                Reply::Noted
            }
            Word::Failed => {
                blob.drop_loader(&place.node);
                Reply::Noted
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= LOOK_PERIOD;
        if self.looked_at.is_none_or(is_due) {
            self.looked_at = Some(now);
            self.blobs
                .retain(|_, blob| now.saturating_duration_since(blob.asked_at) < BLOB_LIFE);
        }
        while self.blobs.len() >= BLOBS_MAX {
            let oldest = self.blobs.iter().min_by_key(|(_, blob)| blob.asked_at);
            let Some(digest) = oldest.map(|(digest, _)| digest.clone()) else {
                return;
            };
            self.blobs.remove(&digest);
        }
    }
}

impl Blob {
    fn want(&mut self, place: Place, in_vain: &[NodeId], now: Instant) -> Reply {
        self.holders
            .retain(|holder| holder.node != place.node && !in_vain.contains(&holder.node));
        self.loader
            .take_if(|loader| in_vain.contains(&loader.place.node) || !loader.is_alive(now));
        let loader = self.loader.as_ref();
        if loader.is_some_and(|loader| loader.place.node == place.node) {
            // It has begun anew: its daemon was started again.
            self.loader = None;
        }
        let loading = self.loader.as_ref().map(|loader| loader.place.clone());
        let places: Vec<Place> = self.holders.iter().cloned().chain(loading).collect();
        if !places.is_empty() {
            return Reply::Read(places);
        }
        self.loader = Some(Loader {
            place,
            heard_at: now,
            grown_at: now,
            bytes: 0,
        });
        Reply::Load
    }

    fn drop_loader(&mut self, node: &NodeId) {
        self.loader.take_if(|loader| loader.place.node == *node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: &str = "sha256:1";

    fn place(node: &str) -> Place {
        Place {
            node: NodeId::new(node),
            address: format!("{node}:7946"),
        }
    }

    fn wants(in_vain: &[&str]) -> Word {
        Word::Wants {
            in_vain: in_vain.iter().map(|node| NodeId::new(*node)).collect(),
        }
    }

    #[test]
    fn one_node_downloads_and_the_others_read_from_it() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        let mut hear = |node: &str, word: Word| claims.hear(BLOB, place(node), word, now);
        assert_eq!(hear("a", wants(&[])), Reply::Load);
        assert_eq!(hear("b", wants(&[])), Reply::Read(vec![place("a")]));
        assert_eq!(hear("a", Word::Has), Reply::Noted);
        assert_eq!(hear("b", Word::Has), Reply::Noted);
        let both = vec![place("b"), place("a")];
        assert_eq!(hear("c", wants(&[])), Reply::Read(both));
        assert_eq!(hear("c", wants(&["b"])), Reply::Read(vec![place("a")]));
        assert_eq!(hear("c", wants(&["a"])), Reply::Load);
    }

    #[test]
    fn whoever_dies_fails_or_is_stuck_is_followed_by_the_next() {
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let mut claims = Claims::default();
        let mut hear = |secs, node: &str, word| claims.hear(BLOB, place(node), word, at(secs));
        assert_eq!(hear(0, "a", wants(&[])), Reply::Load);
        assert_eq!(hear(4, "b", wants(&[])), Reply::Read(vec![place("a")]));
        assert_eq!(hear(5, "b", wants(&[])), Reply::Load, "a is silent");
        assert_eq!(hear(6, "b", Word::Failed), Reply::Noted);
        assert_eq!(hear(6, "c", wants(&[])), Reply::Load, "b has failed");
        for secs in 7..26 {
            hear(secs, "c", Word::Loads { bytes: 1 });
        }
        assert_eq!(hear(26, "d", wants(&[])), Reply::Read(vec![place("c")]));
        hear(27, "c", Word::Loads { bytes: 1 });
        assert_eq!(hear(27, "d", wants(&[])), Reply::Load, "c is stuck");
        // Words of one that was given up change nothing.
        hear(28, "c", Word::Loads { bytes: 2 });
        assert_eq!(hear(28, "e", wants(&[])), Reply::Read(vec![place("d")]));
        assert_eq!(hear(29, "d", wants(&[])), Reply::Load, "d begins anew");
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten_and_there_is_a_bound() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        claims.hear(BLOB, place("a"), Word::Has, now);
        let later = now + BLOB_LIFE;
        assert_eq!(
            claims.hear(BLOB, place("b"), wants(&[]), later),
            Reply::Load
        );
        for number in 0..BLOBS_MAX + 10 {
            claims.hear(&format!("{number}"), place("a"), Word::Has, later);
        }
        assert!(claims.blobs.len() <= BLOBS_MAX);
    }
}
