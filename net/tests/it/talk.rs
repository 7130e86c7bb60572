//! Small servers that say who they are and who asks, and clients for them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use skep_net::Netns;
use socket2::{Domain, Protocol, Socket, Type};

/// How long a packet may take in here.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for what must not come.
pub const IMPATIENCE: Duration = Duration::from_millis(300);

/// What a client heard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heard {
    /// The server's name.
    pub name: String,
    /// The client as the server saw it.
    pub peer: SocketAddr,
}

/// Serves TCP and UDP on a port of a namespace, all addresses of both families,
/// until the process ends. Each TCP line is answered; UDP datagrams too.
pub fn serve(netns: &Netns, name: &str, port: u16) {
    serve_on(netns, name, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
}

/// Serves on one address.
pub fn serve_on(netns: &Netns, name: &str, address: SocketAddr) {
    let (listener, datagrams) = netns
        .run(|| {
            let domain = Domain::for_address(address);
            let listener = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).unwrap();
            listener.set_reuse_address(true).unwrap();
            listener.bind(&address.into()).unwrap();
            listener.listen(128).unwrap();
            (
                std::net::TcpListener::from(listener),
                UdpSocket::bind(address).unwrap(),
            )
        })
        .unwrap();
    let own = name.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let own = own.clone();
            thread::spawn(move || answer_lines(stream, &own));
        }
    });
    let own = name.to_owned();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, peer)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(greeting(&own, peer).as_bytes(), peer);
        }
    });
}

fn greeting(name: &str, peer: SocketAddr) -> String {
    format!(
        "{name} {}\n",
        SocketAddr::new(peer.ip().to_canonical(), peer.port())
    )
}

fn answer_lines(stream: TcpStream, name: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    let Ok(mut writer) = stream.try_clone() else {
        return;
    };
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        // As long an answer as the question was.
        let padding = "x".repeat(line.len());
        let answer = format!("{} {padding}\n", greeting(name, peer).trim_end());
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn parse(text: &str) -> Heard {
    let mut words = text.split_whitespace();
    let mut word = || words.next().expect("a greeting");
    Heard {
        name: word().into(),
        peer: word().parse().expect("an address"),
    }
}

/// A TCP connection that is kept.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(netns: &Netns, to: SocketAddr, from_port: u16) -> io::Result<Self> {
        Self::open_within(netns, to, from_port, PATIENCE)
    }

    pub fn open_within(
        netns: &Netns,
        to: SocketAddr,
        from_port: u16,
        limit: Duration,
    ) -> io::Result<Self> {
        netns
            .run(|| {
                let socket =
                    Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
                if from_port != 0 {
                    socket.set_reuse_address(true)?;
                    socket.bind(&SocketAddr::new(unspecified(to.ip()), from_port).into())?;
                }
                socket.connect_timeout(&to.into(), limit)?;
                let stream = TcpStream::from(socket);
                stream.set_read_timeout(Some(limit))?;
                Ok(Self(BufReader::new(stream)))
            })
            .unwrap()
    }

    pub fn ask(&mut self) -> io::Result<Heard> {
        self.ask_at_length(1)
    }

    /// Asks with this many bytes and expects as many back.
    pub fn ask_at_length(&mut self, length: usize) -> io::Result<Heard> {
        let mut question = vec![b'?'; length];
        question.push(b'\n');
        self.0.get_mut().write_all(&question)?;
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                assert!(read > length, "{read} of {length} bytes came back");
                Ok(parse(&line))
            }
        }
    }

    /// Ends it so that no state of it is left in the way of its ports.
    pub fn close(mut self) {
        let _ = self.0.get_ref().shutdown(Shutdown::Write);
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

/// Asks once over a new TCP connection.
pub fn tcp(netns: &Netns, to: SocketAddr) -> io::Result<Heard> {
    let mut connection = Connection::open(netns, to, 0)?;
    let heard = connection.ask()?;
    connection.close();
    Ok(heard)
}

/// Whether a connection to `to` gets no answer at all, not even a refusal.
pub fn is_silent(netns: &Netns, to: SocketAddr) -> bool {
    match Connection::open_within(netns, to, 0, IMPATIENCE) {
        Err(error) => error.kind() != io::ErrorKind::ConnectionRefused,
        Ok(_) => false,
    }
}

/// Whether a connection to `to` is refused at once.
pub fn is_refused(netns: &Netns, to: SocketAddr) -> bool {
    let begun = Instant::now();
    let refused = Connection::open(netns, to, 0)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    refused && begun.elapsed() < PATIENCE
}

/// Whether a datagram was refused: by a message, or at once on its way out.
pub fn was_refused(outcome: &io::Result<Heard>) -> bool {
    let refusals = [
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::PermissionDenied,
    ];
    outcome
        .as_ref()
        .is_err_and(|error| refusals.contains(&error.kind()))
}

/// A UDP socket that talks to one address.
pub struct Datagrams(UdpSocket);

impl Datagrams {
    pub fn open(netns: &Netns, to: SocketAddr, from_port: u16) -> io::Result<Self> {
        netns
            .run(|| {
                let socket = UdpSocket::bind(SocketAddr::new(unspecified(to.ip()), from_port))?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(Self(socket))
            })
            .unwrap()
    }

    pub fn ask(&self) -> io::Result<Heard> {
        self.say()?;
        self.hear()
    }

    pub fn say(&self) -> io::Result<()> {
        self.0.send(b"?").map(drop)
    }

    pub fn hear(&self) -> io::Result<Heard> {
        let mut buffer = [0; 512];
        let length = self.0.recv(&mut buffer)?;
        Ok(parse(std::str::from_utf8(&buffer[..length]).expect("text")))
    }
}

/// Asks once over UDP.
pub fn udp(netns: &Netns, to: SocketAddr) -> io::Result<Heard> {
    Datagrams::open(netns, to, 0)?.ask()
}

/// Waits until something holds, with a deadline.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::yield_now();
    }
}
