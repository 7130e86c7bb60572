//! Visitors of web pages and of echoing ports, as fast as they are answered, and what became of each
//! request.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::station::Station;
use crate::talk::any;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// After so long without an answer a datagram is sent again.
const DATAGRAM: Duration = Duration::from_millis(500);

/// How a visitor asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A connection for each request.
    New,
    /// One connection for many.
    Kept,
    /// Datagrams over one socket.
    Datagrams,
}

/// A request that was not answered.
#[derive(Debug)]
pub struct Lost {
    /// Since the visits began.
    pub when: Duration,
    pub took: Duration,
    pub manner: Manner,
    pub to: SocketAddr,
    pub error: io::Error,
}

/// What became of requests.
#[derive(Debug, Default)]
pub struct Visited {
    pub times: Vec<Duration>,
    pub lost: Vec<Lost>,
}

/// Visitors under way.
pub struct Visits {
    began: Instant,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    visited: Arc<Mutex<Visited>>,
    visitors: Vec<JoinHandle<()>>,
}

impl Default for Visits {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            stop: Arc::default(),
            answered: Arc::default(),
            visited: Arc::default(),
            visitors: Vec::new(),
        }
    }
}

impl Visits {
    /// Adds a visitor, who asks the addresses in turn: those with a connection or socket of their own
    /// begin with `turn` and stay there.
    pub fn add(&mut self, from: &Station, to: &[SocketAddr], turn: usize, manner: Manner) {
        let (from, to, began) = (from.clone(), to.to_vec(), self.began);
        let (stop, answered) = (Arc::clone(&self.stop), Arc::clone(&self.answered));
        let visited = Arc::clone(&self.visited);
        self.visitors.push(std::thread::spawn(move || {
            from.enter();
            let mut own = Visited::default();
            let mut visitor = Visitor::new(manner);
            for next in turn.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let to = match manner {
                    Manner::New => to[next % to.len()],
                    Manner::Kept | Manner::Datagrams => to[turn % to.len()],
                };
                let asked = Instant::now();
                match visitor.ask(to) {
                    Ok(()) => {
                        own.times.push(asked.elapsed());
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => own.lost.push(Lost {
                        when: asked.duration_since(began),
                        took: asked.elapsed(),
                        manner,
                        to,
                        error,
                    }),
                }
            }
            let mut all = visited.lock().unwrap_or_else(PoisonError::into_inner);
            all.times.append(&mut own.times);
            all.lost.append(&mut own.lost);
        }));
    }

    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// Since the visits began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends them; times come in order.
    pub fn end(mut self) -> Visited {
        self.finish();
        let mut all = self.visited.lock().unwrap_or_else(PoisonError::into_inner);
        all.times.sort();
        std::mem::take(&mut *all)
    }

    fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for visitor in self.visitors.drain(..) {
            let _ = visitor.join();
        }
    }
}

impl Drop for Visits {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Visited {
    /// The time within which this part of the requests was answered.
    pub fn time(&self, part: f64) -> Duration {
        let index = (self.times.len() as f64 * part) as usize;
        let last = self.times.len().saturating_sub(1);
        self.times.get(index.min(last)).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Visited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|part| self.time(part));
        write!(
            f,
            "{} answered, {} lost; p50 {p50:.1?} p99 {p99:.1?} p99.9 {p999:.1?} max {max:.1?}",
            self.times.len(),
            self.lost.len(),
        )?;
        for Lost {
            when,
            took,
            manner,
            to,
            error,
        } in self.lost.iter().take(40)
        {
            write!(
                f,
                "\n  after {when:.3?} ({took:.1?}) {to} {manner:?}: {error}"
            )?;
        }
        Ok(())
    }
}

/// Asks from the namespace that its thread is in.
struct Visitor {
    manner: Manner,
    kept: Option<TcpStream>,
    socket: Option<UdpSocket>,
    sent: u64,
}

impl Visitor {
    fn new(manner: Manner) -> Self {
        Self {
            manner,
            kept: None,
            socket: None,
            sent: 0,
        }
    }

    /// One request. On a kept connection that the server has ended between two requests, as it may,
    /// the request is sent again over a new one.
    fn ask(&mut self, to: SocketAddr) -> io::Result<()> {
        if self.manner == Manner::Datagrams {
            return self.ask_by_datagram(to);
        }
        let stream = match self.kept.take() {
            Some(stream) if !has_ended(&stream) => stream,
            _ => {
                TcpStream::connect_timeout(&to, TIMEOUT).map_err(|error| said("connect", &error))?
            }
        };
        let keep = self.manner == Manner::Kept;
        let goes_on = exchange(&stream, keep)?;
        self.kept = (keep && goes_on).then_some(stream);
        Ok(())
    }

    /// A datagram and its answer.
    fn ask_by_datagram(&mut self, to: SocketAddr) -> io::Result<()> {
        if self.socket.is_none() {
            let socket = UdpSocket::bind(SocketAddr::new(any(to.ip()), 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(DATAGRAM))?;
            self.socket = Some(socket);
        }
        let socket = self.socket.as_ref().expect("it was just made");
        self.sent += 1;
        let question = self.sent.to_be_bytes();
        socket.send(&question)?;
        let mut answer = [0; 64];
        loop {
            // Answers that came late are to earlier ones.
            let length = socket.recv(&mut answer)?;
            if answer[..length] == question {
                return Ok(());
            }
        }
    }
}

fn said(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Whether the server has said that no answer will come on this connection.
fn has_ended(stream: &TcpStream) -> bool {
    let mut byte = [0];
    stream.set_nonblocking(true).is_err()
        || matches!(stream.peek(&mut byte), Ok(0))
        || stream.set_nonblocking(false).is_err()
}

/// One page; says whether the connection goes on.
fn exchange(mut stream: &TcpStream, keep: bool) -> io::Result<bool> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    let connection = if keep { "keep-alive" } else { "close" };
    let request = format!("GET / HTTP/1.1\r\nHost: visited\r\nConnection: {connection}\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .map_err(|error| said("write", &error))?;
    let mut bytes = Vec::with_capacity(512);
    let mut buffer = [0; 4096];
    let port = stream.local_addr().map_or(0, |local| local.port());
    loop {
        if let Some((whole, ends)) = answer(&bytes)? {
            if !whole {
                return Err(io::Error::other("not the page"));
            }
            return Ok(!ends);
        }
        let what = format!("from port {port}, after {} bytes", bytes.len());
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what)),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) => return Err(said(&what, &error)),
        }
    }
}

/// Whether the answer is a good one and whether the connection ends with it; `None` while it is
/// not all there.
fn answer(bytes: &[u8]) -> io::Result<Option<(bool, bool)>> {
    let Some(split) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..split]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: Option<usize> = length.and_then(|length| length.trim().parse().ok());
    let Some(length) = length else {
        return Err(io::Error::other("an answer without a length"));
    };
    if bytes.len() < split + 4 + length {
        return Ok(None);
    }
    let ok = head.starts_with("http/1.1 200") || head.starts_with("http/1.0 200");
    Ok(Some((ok, head.contains("connection: close"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let read = |text: &str| answer(text.as_bytes());
        assert_eq!(read("HTTP/1.1 200 OK\r\n").unwrap(), None);
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n";
        assert_eq!(read(&format!("{head}\r\no")).unwrap(), None);
        assert_eq!(read(&format!("{head}\r\nok")).unwrap(), Some((true, false)));
        let last = format!("{head}Connection: close\r\n\r\nok");
        assert_eq!(read(&last).unwrap(), Some((true, true)));
        assert!(read("HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
