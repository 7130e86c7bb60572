//! The container's resolver: answers at 127.0.0.11 inside its network namespace,
//! and asks the host's resolvers, from the host's namespace, what it does not know.
//!
//! What to answer is `skep-dns`'s business. Here are sockets, bounds and time.

mod forward;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use self::forward::{Asker, Forward, Link, ROUNDS, take_message};
use skep_dns::{DnsConfig, Outcome, Responder, SERVER_ADDRESS};

use crate::protocol::DnsPorts;
use crate::sys;

/// Questions to the host's resolvers under way at a time.
pub const FORWARDS_MAX: usize = 1000;
/// Clients connected over TCP at a time.
const CLIENTS_MAX: usize = 64;
/// How long a TCP client may say nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages taken from the socket before others get their turn.
const BATCH: usize = 64;
/// Answers a TCP client may leave unread.
const CLIENT_OUTBOX_BYTES_MAX: usize = 256 * 1024;
/// Largest message over TCP.
const MESSAGE_BYTES_MAX: usize = 65_535;

/// What a descriptor of the resolver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsToken {
    Udp,
    Listener,
    Client(u32),
    Forward(u32),
}

/// The resolver of one container.
pub struct Server {
    responder: Responder,
    udp: UdpSocket,
    listener: TcpListener,
    clients: BTreeMap<u32, Client>,
    forwards: BTreeMap<u32, Forward>,
    next_key: u32,
}

/// Someone connected over TCP.
struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    /// Its questions that are being forwarded.
    waiting: usize,
    idle_since: Instant,
}

impl Server {
    /// Binds the sockets. The calling thread must be in the container's namespace.
    pub fn bind(config: DnsConfig) -> io::Result<Self> {
        let udp = UdpSocket::bind((SERVER_ADDRESS, 0))?;
        udp.set_nonblocking(true)?;
        let listener = TcpListener::bind((SERVER_ADDRESS, 0))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            responder: Responder::new(config),
            udp,
            listener,
            clients: BTreeMap::new(),
            forwards: BTreeMap::new(),
            next_key: 0,
        })
    }

    /// Where port 53 must lead.
    pub fn ports(&self) -> io::Result<DnsPorts> {
        Ok(DnsPorts {
            udp: self.udp.local_addr()?.port(),
            tcp: self.listener.local_addr()?.port(),
        })
    }

    /// Tells what to wait for: descriptor, readable, writable, token.
    pub fn interests(&self, mut add: impl FnMut(BorrowedFd<'_>, bool, bool, DnsToken)) {
        add(self.udp.as_fd(), true, false, DnsToken::Udp);
        if self.clients.len() < CLIENTS_MAX {
            add(self.listener.as_fd(), true, false, DnsToken::Listener);
        }
        for (&key, client) in &self.clients {
            let takes_more = client.outbox.len() < CLIENT_OUTBOX_BYTES_MAX
                && client.inbox.len() <= MESSAGE_BYTES_MAX;
            let token = DnsToken::Client(key);
            add(
                client.stream.as_fd(),
                takes_more,
                !client.outbox.is_empty(),
                token,
            );
        }
        for (&key, forward) in &self.forwards {
            let token = DnsToken::Forward(key);
            match &forward.link {
                Link::Udp(socket) => add(socket.as_fd(), true, false, token),
                Link::Tcp { stream, outbox, .. } => {
                    add(stream.as_fd(), true, !outbox.is_empty(), token);
                }
            }
        }
    }

    /// When [`Server::tick`] must be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let forwards = self.forwards.values().map(|forward| forward.deadline);
        let clients = self
            .clients
            .values()
            .map(|client| client.idle_since + IDLE_TIMEOUT);
        forwards.chain(clients).min()
    }

    /// Something became ready.
    pub fn ready(&mut self, token: DnsToken, buffer: &mut [u8], now: Instant) {
        match token {
            DnsToken::Udp => self.receive_udp(buffer, now),
            DnsToken::Listener => self.accept(now),
            DnsToken::Client(key) => self.serve_client(key, buffer, now),
            DnsToken::Forward(key) => self.receive_answer(key, buffer, now),
        }
    }

    /// Gives up on what took too long.
    pub fn tick(&mut self, now: Instant) {
        let late: Vec<u32> = self
            .forwards
            .iter()
            .filter(|(_, forward)| forward.deadline <= now)
            .map(|(&key, _)| key)
            .collect();
        for key in late {
            self.try_next(key, now);
        }
        self.clients
            .retain(|_, client| client.waiting > 0 || now < client.idle_since + IDLE_TIMEOUT);
    }

    fn receive_udp(&mut self, buffer: &mut [u8], now: Instant) {
        for _ in 0..BATCH {
            match self.udp.recv_from(buffer) {
                Ok((length, from)) => {
                    let query = buffer[..length].to_vec();
                    self.ask(query, Asker::Udp(from), now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A port that was unreachable earlier is reported here.
                Err(_) => {}
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        if stream.set_nonblocking(true).is_ok() {
            let key = self.new_key();
            self.clients.insert(
                key,
                Client {
                    stream,
                    inbox: Vec::new(),
                    outbox: VecDeque::new(),
                    waiting: 0,
                    idle_since: now,
                },
            );
        }
    }

    fn serve_client(&mut self, key: u32, buffer: &mut [u8], now: Instant) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        client.idle_since = now;
        match client.stream.read(buffer) {
            Ok(0) => {
                self.clients.remove(&key);
                return;
            }
            Ok(length) => client.inbox.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                self.clients.remove(&key);
                return;
            }
        }
        while let Some(query) = self
            .clients
            .get_mut(&key)
            .and_then(|client| take_message(&mut client.inbox))
        {
            self.ask(query, Asker::Client(key), now);
        }
        self.flush_client(key);
    }

    fn flush_client(&mut self, key: u32) {
        let Some(client) = self.clients.get_mut(&key) else {
            return;
        };
        while !client.outbox.is_empty() {
            match client.stream.write(client.outbox.as_slices().0) {
                Ok(count) if count > 0 => {
                    client.outbox.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {
                    self.clients.remove(&key);
                    return;
                }
            }
        }
    }

    fn ask(&mut self, query: Vec<u8>, asker: Asker, now: Instant) {
        let over_tcp = matches!(asker, Asker::Client(_));
        match self.responder.answer(&query, over_tcp, sys::random_u64()) {
            Outcome::Reply(reply) => self.reply(asker, &reply),
            Outcome::Forward => self.forward(query, asker, now),
            Outcome::Drop => {}
        }
    }

    fn reply(&mut self, asker: Asker, reply: &[u8]) {
        match asker {
            // Lost like any datagram when the container does not take it.
            Asker::Udp(to) => drop(self.udp.send_to(reply, to)),
            Asker::Client(key) => {
                let Some(client) = self.clients.get_mut(&key) else {
                    return;
                };
                let length = u16::try_from(reply.len()).unwrap_or(u16::MAX);
                client.outbox.extend(length.to_be_bytes());
                client.outbox.extend(&reply[..usize::from(length)]);
                self.flush_client(key);
            }
        }
    }

    fn forward(&mut self, query: Vec<u8>, asker: Asker, now: Instant) {
        let upstreams = &self.responder.config().upstreams;
        if self.forwards.len() >= FORWARDS_MAX || upstreams.is_empty() {
            return self.fail(asker, &query);
        }
        if let Asker::Client(key) = asker
            && let Some(client) = self.clients.get_mut(&key)
        {
            client.waiting += 1;
        }
        match Forward::begin(asker, query, upstreams, 0, now) {
            Ok(forward) => {
                let key = self.new_key();
                self.forwards.insert(key, forward);
            }
            Err((asker, query)) => {
                self.answered(asker);
                self.fail(asker, &query);
            }
        }
    }

    /// A forwarded question of this asker came to an end.
    fn answered(&mut self, asker: Asker) {
        if let Asker::Client(key) = asker
            && let Some(client) = self.clients.get_mut(&key)
        {
            client.waiting = client.waiting.saturating_sub(1);
        }
    }

    fn fail(&mut self, asker: Asker, query: &[u8]) {
        if let Some(reply) = skep_dns::servfail(query) {
            self.reply(asker, &reply);
        }
    }

    fn receive_answer(&mut self, key: u32, buffer: &mut [u8], now: Instant) {
        let Some(forward) = self.forwards.get_mut(&key) else {
            return;
        };
        let answer = match forward.receive(buffer) {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(_) => return self.try_next(key, now),
        };
        // What does not answer this very question may be forged; wait for more.
        if !skep_dns::answers(&forward.asked, &answer) {
            return;
        }
        let refused = matches!(answer[3] & 0x0f, 2 | 4 | 5);
        let tries = ROUNDS * self.responder.config().upstreams.len();
        if refused && forward.attempt + 1 < tries {
            return self.try_next(key, now);
        }
        if let Some(forward) = self.forwards.remove(&key) {
            let id = u16::from_be_bytes([forward.query[0], forward.query[1]]);
            self.answered(forward.asker);
            self.reply(forward.asker, &skep_dns::with_id(&answer, id));
        }
    }

    fn try_next(&mut self, key: u32, now: Instant) {
        let Some(forward) = self.forwards.remove(&key) else {
            return;
        };
        let upstreams = &self.responder.config().upstreams;
        let (asker, attempt) = (forward.asker, forward.attempt + 1);
        match Forward::begin(asker, forward.query, upstreams, attempt, now) {
            Ok(forward) => {
                self.forwards.insert(key, forward);
            }
            Err((asker, query)) => {
                self.answered(asker);
                self.fail(asker, &query);
            }
        }
    }

    fn new_key(&mut self) -> u32 {
        loop {
            self.next_key = self.next_key.wrapping_add(1);
            let taken = self.clients.contains_key(&self.next_key)
                || self.forwards.contains_key(&self.next_key);
            if !taken {
                return self.next_key;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// A question for `name` of type A.
    fn question(name: &str) -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        query
    }

    /// Runs the server until `done`, at most five seconds.
    fn run(server: &mut Server, mut done: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(5);
        let mut buffer = vec![0; 65_536];
        while !done() {
            assert!(Instant::now() < end, "the server did not get there");
            let mut tokens = vec![DnsToken::Udp, DnsToken::Listener];
            tokens.extend(server.clients.keys().map(|&key| DnsToken::Client(key)));
            tokens.extend(server.forwards.keys().map(|&key| DnsToken::Forward(key)));
            for token in tokens {
                server.ready(token, &mut buffer, Instant::now());
            }
            server.tick(Instant::now());
        }
    }

    fn upstream() -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    }

    #[test]
    fn unknown_names_are_asked_outside_and_the_next_resolver_helps() {
        let (first, second) = (upstream(), upstream());
        let mut server = Server::bind(DnsConfig {
            upstreams: vec![first.local_addr().unwrap(), second.local_addr().unwrap()],
            ..DnsConfig::default()
        })
        .unwrap();
        let port = server.ports().unwrap().udp;

        // The first refuses (SERVFAIL), the second answers.
        let helper = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for (socket, flags) in [(first, 0x82), (second, 0x80)] {
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                let mut reply = buffer[..length].to_vec();
                assert_ne!(
                    &reply[..2],
                    &[0x12, 0x34],
                    "the id must not be the client's"
                );
                reply[2] = 0x81;
                reply[3] = flags;
                socket.send_to(&reply, from).unwrap();
            }
        });
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.set_nonblocking(true).unwrap();
        client
            .send_to(&question("example.org"), (SERVER_ADDRESS, port))
            .unwrap();
        let mut answer = Vec::new();
        run(&mut server, || {
            let mut buffer = [0; 512];
            if let Ok(length) = client.recv(&mut buffer) {
                answer = buffer[..length].to_vec();
            }
            !answer.is_empty()
        });
        helper.join().unwrap();
        assert_eq!(&answer[..4], &[0x12, 0x34, 0x81, 0x80]);
        assert!(server.forwards.is_empty());
    }

    #[test]
    fn without_resolvers_the_answer_is_an_error_not_silence() {
        let mut server = Server::bind(DnsConfig::default()).unwrap();
        let port = server.ports().unwrap().tcp;
        let mut client = TcpStream::connect((SERVER_ADDRESS, port)).unwrap();
        let query = question("example.org");
        client
            .write_all(&(query.len() as u16).to_be_bytes())
            .unwrap();
        client.write_all(&query).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut inbox = Vec::new();
        let mut answer = None;
        run(&mut server, || {
            let mut buffer = [0; 512];
            if let Ok(length) = client.read(&mut buffer) {
                inbox.extend_from_slice(&buffer[..length]);
            }
            answer = take_message(&mut inbox);
            answer.is_some()
        });
        let answer = answer.unwrap();
        assert_ne!(answer[3] & 0x0f, 0);
    }
}
