//! A server that says whom it sees, and clients for it, over TCP and UDP.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::station::Station;
use crate::{Cluster, secs};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Serves a port of both families until the process ends: each line is answered with the client's
/// address, the server's name, and the line itself.
pub fn serve(station: &Station, name: &str, port: u16) {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let (listener, datagrams) = station.inside(|| {
        (
            TcpListener::bind(any).expect("a free port"),
            UdpSocket::bind(any).expect("a free port"),
        )
    });
    let own = name.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let own = own.clone();
            thread::spawn(move || answer(stream, &own));
        }
    });
    let own = name.to_owned();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((_, peer)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(greeting(&own, peer, "").as_bytes(), peer);
        }
    });
}

/// Whether somebody listens on a port in there.
pub fn is_served(station: &Station, port: u16) -> bool {
    let loopback = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    station.inside(|| TcpStream::connect(loopback).is_ok())
}

fn greeting(name: &str, peer: SocketAddr, line: &str) -> String {
    let (ip, port) = (peer.ip().to_canonical(), peer.port());
    format!("{} {name} {line}\n", SocketAddr::new(ip, port))
}

fn answer(stream: TcpStream, name: &str) -> Option<()> {
    let peer = stream.peer_addr().ok()?;
    let mut writer = stream.try_clone().ok()?;
    for line in BufReader::new(stream).lines() {
        let text = greeting(name, peer, &line.ok()?);
        writer.write_all(text.as_bytes()).ok()?;
    }
    Some(())
}

/// What a client heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Whom the server sees.
    pub peer: SocketAddr,
    pub name: String,
    /// What the server was told first.
    pub line: String,
}

fn heard(text: &str) -> io::Result<Heard> {
    let mut words = text.trim_end_matches('\n').splitn(3, ' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let peer = word().parse();
    let peer = peer.map_err(|_| io::Error::other(format!("no greeting: {text:?}")))?;
    Ok(Heard {
        peer,
        name: word(),
        line: word(),
    })
}

/// The unspecified address of the same family.
pub(crate) fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

/// A connection that is kept.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects from a port, or from any (0).
    pub fn open(station: &Station, to: SocketAddr, from: u16) -> io::Result<Self> {
        station.inside(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            if from != 0 {
                socket.set_reuse_address(true)?;
                socket.bind(&SocketAddr::new(any(to.ip()), from).into())?;
            }
            socket.connect_timeout(&to.into(), PATIENCE)?;
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(Self(BufReader::new(stream)))
        })
    }

    pub fn ask(&mut self) -> io::Result<Heard> {
        self.0.get_mut().write_all(b"hello\n")?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        heard(&line)
    }

    /// What was answered to a PROXY header (version 1), which is a line of its own, and to a
    /// question after it.
    pub fn ask_through_relay(&mut self) -> io::Result<(Heard, Heard)> {
        self.0.get_mut().write_all(b"hello\n")?;
        let mut lines = [String::new(), String::new()];
        for line in &mut lines {
            self.0.read_line(line)?;
        }
        Ok((heard(&lines[0])?, heard(&lines[1])?))
    }

    /// Ends it in peace, so that its ports are free again.
    pub fn close(mut self) {
        let _ = self.0.get_ref().shutdown(std::net::Shutdown::Write);
        let _ = self.0.read_to_end(&mut Vec::new());
    }
}

/// Connects once, and leaves again.
pub fn connect(station: &Station, to: SocketAddr) -> io::Result<()> {
    Connection::open(station, to, 0).map(drop)
}

/// Asks once over TCP.
pub fn tcp(station: &Station, to: SocketAddr) -> io::Result<Heard> {
    let mut connection = Connection::open(station, to, 0)?;
    let heard = connection.ask()?;
    connection.close();
    Ok(heard)
}

/// Asks once over UDP, from a port or from any (0), with a datagram of this length.
pub fn udp_from(station: &Station, to: SocketAddr, from: u16, length: usize) -> io::Result<Heard> {
    let socket = station.inside(|| {
        let socket = UdpSocket::bind(SocketAddr::new(any(to.ip()), from))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        io::Result::Ok(socket)
    })?;
    socket.send(&vec![b'?'; length])?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    heard(&String::from_utf8_lossy(&buffer[..length]))
}

/// Asks once over UDP.
pub fn udp(station: &Station, to: SocketAddr) -> io::Result<Heard> {
    udp_from(station, to, 0, 1)
}

/// Whether a connection is refused, and not by silence.
pub fn is_refused(station: &Station, to: SocketAddr) -> bool {
    Connection::open(station, to, 0)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Makes a service of one task on a node, with our server in it, on `port`.
#[track_caller]
pub fn serve_task(port: u16, c: &Cluster, name: &str, node: &str, flags: &str) -> Station {
    c.skep(
        "n1",
        &format!(
            "service create -d --no-resolve-image --name {name} \
             --constraint node.hostname=={node} {flags} skep/hello:latest"
        ),
    )
    .ok();
    let task = c.wait_running("n1", name, 1, secs(30)).remove(0);
    let pid = c.container_pid(&task.node, &task.container);
    let inside = Station::of(pid.expect("it runs"));
    serve(&inside, name, port);
    inside
}
