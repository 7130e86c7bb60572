//! A steady stream of requests that counts what was lost.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::{field, page};

/// Visitors at the same time.
const VISITORS: u32 = 5;
/// Together they ask this many times a second.
const PER_SECOND: u32 = 50;
/// A stream ends by itself after so long.
const LONGEST: Duration = Duration::from_secs(120);

/// Requests under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    counted: Arc<Mutex<Counted>>,
    visitors: Vec<JoinHandle<()>>,
}

/// What became of the requests.
#[derive(Debug, Default, Clone)]
pub struct Counted {
    pub answered: usize,
    /// When, since the start, and why.
    pub lost: Vec<(Duration, String)>,
    /// Answers per version that the page tells.
    pub versions: BTreeMap<String, usize>,
    /// Longest time one took.
    pub slowest: Duration,
}

impl Load {
    /// Asks these addresses in turn, each time over a new connection.
    pub fn start(addresses: &[Ipv4Addr], port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counted = Arc::new(Mutex::new(Counted::default()));
        let began = Instant::now();
        let visitor = |number: u32| {
            let (stop, counted) = (Arc::clone(&stop), Arc::clone(&counted));
            let addresses = addresses.to_vec();
            let pause = Duration::from_secs(1) * VISITORS / PER_SECOND;
            std::thread::spawn(move || {
                let mut due = began + pause * number / VISITORS;
                let mut turn = number as usize;
                while !stop.load(Ordering::Relaxed) && began.elapsed() < LONGEST {
                    // The pace of the stream: one request, then a wait until the next is due.
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    due += pause;
                    let asked = Instant::now();
                    let answer = page(addresses[turn % addresses.len()], port, "/");
                    turn += 1;
                    let mut counted = counted.lock().expect("counting does not panic");
                    counted.slowest = counted.slowest.max(asked.elapsed());
                    match answer {
                        Ok(text) => {
                            counted.answered += 1;
                            *counted.versions.entry(field(&text, "version")).or_default() += 1;
                        }
                        Err(why) => counted.lost.push((asked.duration_since(began), why)),
                    }
                }
            })
        };
        let visitors = (0..VISITORS).map(visitor).collect();
        Self {
            stop,
            counted,
            visitors,
        }
    }

    pub fn so_far(&self) -> Counted {
        self.counted
            .lock()
            .expect("counting does not panic")
            .clone()
    }

    /// Ends the stream; panics when a request was lost.
    #[track_caller]
    pub fn end_without_loss(mut self) -> Counted {
        let counted = self.finish();
        assert!(
            counted.lost.is_empty(),
            "{} of {} requests were lost: {:?}",
            counted.lost.len(),
            counted.lost.len() + counted.answered,
            &counted.lost[..counted.lost.len().min(10)]
        );
        counted
    }

    fn finish(&mut self) -> Counted {
        self.stop.store(true, Ordering::Relaxed);
        for visitor in self.visitors.drain(..) {
            let _ = visitor.join();
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish();
    }
}
