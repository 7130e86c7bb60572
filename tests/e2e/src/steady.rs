//! A client that asks the same server again and again, and notes what it had to wait for.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::station::Station;
use crate::talk::{Connection, any};
use crate::wait::{eventually, holds, secs};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(2);
/// A datagram that is not answered within this is lost.
const DATAGRAM: Duration = Duration::from_millis(500);

/// Questions under way.
pub struct Steady {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    thread: JoinHandle<io::Result<Rounds>>,
}

/// What became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rounds {
    pub answered: usize,
    /// Datagrams without an answer.
    pub lost: usize,
    pub slowest: Duration,
}

impl Steady {
    /// Asks over one connection.
    pub fn tcp(from: &Station, to: SocketAddr) -> io::Result<Self> {
        let mut connection = Connection::open(from, to, 0)?;
        Ok(Self::start(move |_| connection.ask().map(|_| true)))
    }

    /// Asks over one socket, with datagrams that tell each other apart.
    pub fn udp(from: &Station, to: SocketAddr) -> io::Result<Self> {
        let socket = from.inside(|| UdpSocket::bind(SocketAddr::new(any(to.ip()), 0)))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(DATAGRAM))?;
        Ok(Self::start(move |number| {
            Ok(exchange(&socket, number).is_ok())
        }))
    }

    fn start(mut ask: impl FnMut(usize) -> io::Result<bool> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = thread::spawn(move || {
            let mut rounds = Rounds::default();
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let asked = Instant::now();
                match ask(number)? {
                    true => rounds.answered += 1,
                    false => rounds.lost += 1,
                }
                rounds.slowest = rounds.slowest.max(asked.elapsed());
                count.store(rounds.answered, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            Ok(rounds)
        });
        Self {
            stop,
            answered,
            thread,
        }
    }

    /// Lets so many more be answered.
    #[track_caller]
    pub fn go_on(&self, more: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        eventually("questions are answered", secs(20), || {
            let answered = self.answered.load(Ordering::Relaxed);
            let goes_on = !self.thread.is_finished();
            holds(answered >= goal || !goes_on, answered)
        });
    }

    /// Ends it; the error is the one that ended it before.
    pub fn end(self) -> io::Result<Rounds> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// One datagram and its answer, whatever comes of earlier ones. Servers send the question back, or
/// a greeting, which is to anything.
fn exchange(socket: &UdpSocket, number: usize) -> io::Result<()> {
    let sent = number.to_string();
    socket.send(sent.as_bytes())?;
    let mut buffer = [0; 512];
    loop {
        let length = socket.recv(&mut buffer)?;
        let heard = String::from_utf8_lossy(&buffer[..length]);
        let is_older = heard.parse::<usize>().is_ok_and(|other| other != number);
        if !is_older {
            return Ok(());
        }
    }
}
