//! Pulling from other hosts: what they give is checked, and one that fails is followed by the next.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::*;
use skep_engine::{
    ByteStream, Claim, Engine, EngineConfig, EngineError, Holder, Offer, Peers, Progress,
    PullOptions, Refusal, Result, Verdict,
};
use skep_model::image_source::ImageSource;
use tokio::sync::mpsc;

type Answer<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a host does when it is read from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Fair,
    /// Turns a bit of what it gives.
    Lying,
    /// Breaks off in the middle of layers, each time.
    Dying,
    Gone,
    /// The first time.
    Busy,
}

/// Hosts in one process.
struct Hosts {
    hosts: Vec<(Holder, Arc<Engine>)>,
    manners: Mutex<BTreeMap<String, Manner>>,
    /// Who was read from, and from which offset on.
    reads: Mutex<Vec<(String, u64)>>,
}

impl Hosts {
    fn new(engines: &[&Arc<Engine>]) -> Arc<Self> {
        let holder = |number: usize| Holder {
            host: format!("h{number}"),
            address: format!("h{number}:7946"),
        };
        let engines = engines.iter().enumerate();
        Arc::new(Self {
            hosts: engines
                .map(|(number, engine)| (holder(number), Arc::clone(engine)))
                .collect(),
            manners: Mutex::default(),
            reads: Mutex::default(),
        })
    }

    fn set(&self, host: &str, manner: Manner) {
        self.manners.lock().unwrap().insert(host.into(), manner);
    }

    /// Whom the last pull read from.
    fn readings(&self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.reads.lock().unwrap())
    }

    fn manner(&self, host: &str) -> Manner {
        let mut manners = self.manners.lock().unwrap();
        let manner = manners.get(host).copied().unwrap_or(Manner::Fair);
        if manner == Manner::Busy {
            manners.insert(host.into(), Manner::Fair);
        }
        manner
    }

    async fn give(
        &self,
        holder: &Holder,
        digest: &str,
        offset: u64,
    ) -> std::result::Result<ByteStream, Refusal> {
        let manner = self.manner(&holder.host);
        let gone = || Refusal::Failed(EngineError::unavailable("connection refused"));
        match manner {
            Manner::Gone => return Err(gone()),
            Manner::Busy => return Err(Refusal::Busy),
            _ => self
                .reads
                .lock()
                .unwrap()
                .push((holder.host.clone(), offset)),
        }
        let (_, engine) = self
            .hosts
            .iter()
            .find(|(known, _)| known == holder)
            .unwrap();
        let mut whole = engine
            .blob_read(digest, offset)
            .await
            .map_err(Refusal::Failed)?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut pieces = 0;
            while let Some(piece) = whole.next().await {
                let mut bytes = piece.unwrap().to_vec();
                pieces += 1;
                if manner == Manner::Lying {
                    bytes[0] ^= 1;
                }
                if manner == Manner::Dying && pieces > 2 {
                    let _ = sender
                        .send(Err(EngineError::unavailable("broke off")))
                        .await;
                    return;
                }
                if sender.send(Ok(bytes.into())).await.is_err() {
                    return;
                }
            }
        });
        Ok(ByteStream::new(receiver))
    }
}

impl Peers for Hosts {
    fn find<'a>(&'a self, image: &'a str, only_own: bool) -> Answer<'a, Result<Vec<Offer>>> {
        Box::pin(async move {
            let mut offers = Vec::new();
            for (holder, engine) in &self.hosts {
                if let Some(image) = engine.image_owned(image, only_own).await? {
                    let holder = holder.clone();
                    offers.push(Offer { holder, image });
                }
            }
            Ok(offers)
        })
    }

    fn read<'a>(
        &'a self,
        holder: &'a Holder,
        digest: &'a str,
        offset: u64,
    ) -> Answer<'a, std::result::Result<ByteStream, Refusal>> {
        Box::pin(self.give(holder, digest, offset))
    }

    fn claim<'a>(&'a self, _digest: &'a str, _claim: Claim) -> Answer<'a, Result<Verdict>> {
        Box::pin(async { Err(EngineError::unavailable("nobody decides")) })
    }
}

async fn open(directory: &Path) -> Arc<Engine> {
    let config = EngineConfig::new(directory.join("data"), directory.join("run"));
    Engine::open(config).await.unwrap()
}

/// Pulls from the other hosts alone; the error's text.
async fn pull(engine: &Engine, name: &str) -> std::result::Result<String, String> {
    let options = PullOptions {
        source: Some(ImageSource::PeersOnly),
        ..PullOptions::default()
    };
    let pulled = engine.image_pull(name, options, Progress::none()).await;
    pulled.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_peers_give_is_checked_and_others_go_on_where_one_stopped() {
    let Some(one) = bench().await else { return };
    let digest = one.engine().image_owned(IMAGE, true).await.unwrap();
    let digest = digest.expect("it is whole").digest;
    let pinned = format!("{IMAGE}@{digest}");
    // Two hosts have the same image, since the second got it from the first.
    let place = tempfile::tempdir().unwrap();
    let two = open(place.path()).await;
    two.set_peers(Some(Hosts::new(&[one.engine()]) as Arc<dyn Peers>));
    pull(&two, &pinned).await.unwrap();
    two.set_peers(None);
    let hosts = Hosts::new(&[one.engine(), &two]);
    for (first, second, reads_both) in [
        (Manner::Fair, Manner::Fair, false),
        (Manner::Gone, Manner::Fair, false),
        (Manner::Busy, Manner::Busy, false),
        (Manner::Lying, Manner::Fair, false),
        (Manner::Dying, Manner::Dying, true),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let engine = open(directory.path()).await;
        engine.set_peers(Some(Arc::clone(&hosts) as Arc<dyn Peers>));
        hosts.set("h0", first);
        hosts.set("h1", second);
        let id = pull(&engine, &pinned).await;
        if reads_both {
            // Each gives a part, until it was tried often enough.
            let reads = hosts.readings();
            assert!(reads.iter().any(|(_, offset)| *offset > 0), "{reads:?}");
            assert!(id.is_err(), "{id:?}");
            hosts.set("h0", Manner::Fair);
            let again = pull(&engine, &pinned).await.unwrap();
            let reads = hosts.readings();
            assert!(reads.iter().any(|(_, offset)| *offset > 0), "{reads:?}");
            assert_eq!(again, one.engine().image_inspect(IMAGE).await.unwrap().id);
        } else {
            let expected = one.engine().image_inspect(IMAGE).await.unwrap().id;
            assert_eq!(id.unwrap(), expected);
        }
        // It is whole, and can be had from here as well.
        let owned = engine.image_owned(&pinned, true).await.unwrap();
        assert_eq!(owned.expect("it is whole").digest, digest);
        assert!(engine.image_is_own(&pinned), "no registry gave it");
        engine.close().await;
        hosts.readings();
    }
    two.close().await;
    drop((hosts, two));
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_gives_is_told_of() {
    let Some(one) = bench().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let engine = open(directory.path()).await;
    let alone = pull(&engine, IMAGE).await.unwrap_err();
    assert!(alone.contains("its peers only, and has none"), "{alone}");
    let hosts = Hosts::new(&[one.engine()]);
    engine.set_peers(Some(Arc::clone(&hosts) as Arc<dyn Peers>));
    let none = pull(&engine, "nothing:1").await.unwrap_err();
    assert_eq!(none, "no node of the cluster has it");
    hosts.set("h0", Manner::Lying);
    let wrong = pull(&engine, IMAGE).await.unwrap_err();
    assert!(
        wrong.contains("no node of the cluster that has it gives sha256:"),
        "{wrong}"
    );
    let options = PullOptions {
        source: Some(ImageSource::RegistryFirst),
        ..PullOptions::default()
    };
    let name = "127.0.0.1:1/nothing:1";
    let both = engine.image_pull(name, options, Progress::none()).await;
    let both = both.unwrap_err().to_string();
    assert!(
        both.contains("connection refused") && both.contains("; no node of the cluster has it"),
        "{both}"
    );
    // A pull that says nothing of them asks no peer.
    hosts.set("h0", Manner::Fair);
    let plain = engine.image_pull(name, PullOptions::default(), Progress::none());
    assert!(!plain.await.unwrap_err().to_string().contains("cluster"));
    engine.close().await;
    drop((hosts, engine));
    one.finish().await;
}
