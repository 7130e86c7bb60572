//! Listens, serves each connection in a thread, and stops without losing a request:
//! when asked to stop it goes on taking connections, tells every client that the
//! connection ends with the answer, and leaves when nobody is connected any more.

use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::http::{self, Response};
use super::pages;

/// Connections served at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
/// Stack of a connection's thread.
const STACK_BYTES: usize = 128 * 1024;
/// How long a client may be idle.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// How long an idle client is waited for once the server stops, so that one that is
/// just sending its next request gets its answer.
const STOPPING_IDLE_MAX: Duration = Duration::from_millis(1500);
/// How long stopping may take in all; docker kills after ten seconds.
const STOPPING_MAX: Duration = Duration::from_secs(9);
/// Between looks at whether the server stops.
const GLANCE: Duration = Duration::from_millis(50);

/// What the threads share.
#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    connections: AtomicUsize,
}

/// Serves until a signal asks to stop and nobody is left.
pub fn run(port: u16, udp: bool, delay: Duration) -> io::Result<()> {
    let mut asked = SigSet::empty();
    asked.add(Signal::SIGTERM);
    asked.add(Signal::SIGINT);
    asked.thread_block()?;
    let signals = SignalFd::with_flags(&asked, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    if !delay.is_zero() && wait_for(&signals, None, delay)?.0 {
        return Ok(());
    }
    let listener = listen(port)?;
    listener.set_nonblocking(true)?;
    if udp {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || echo(&socket))?;
    }
    println!("listening on port {port}, version {}", pages::version());

    let shared = Arc::new(Shared::default());
    let mut stopping_since: Option<Instant> = None;
    loop {
        let full = shared.connections.load(Ordering::SeqCst) >= CONNECTIONS_MAX;
        let timeout = match (stopping_since, full) {
            (None, false) => Duration::MAX,
            _ => GLANCE,
        };
        let (asked, connecting) = wait_for(&signals, (!full).then_some(&listener), timeout)?;
        if asked && stopping_since.is_none() {
            println!("stopping");
            shared.stopping.store(true, Ordering::SeqCst);
            stopping_since = Some(Instant::now());
        }
        if connecting {
            accept(&listener, &shared)?;
        } else if let Some(since) = stopping_since {
            let idle = shared.connections.load(Ordering::SeqCst) == 0;
            if (idle && !asked) || since.elapsed() > STOPPING_MAX {
                return Ok(());
            }
        }
    }
}

/// Both kinds of addresses on one socket, or the old kind alone.
fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .map_err(|error| io::Error::new(error.kind(), format!("port {port}: {error}")))
}

/// Waits for a signal or a connection: which of them came.
fn wait_for(
    signals: &SignalFd,
    listener: Option<&TcpListener>,
    timeout: Duration,
) -> io::Result<(bool, bool)> {
    let mut set = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    set.extend(listener.map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::NONE);
    match poll(&mut set, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready = |entry: &PollFd<'_>| entry.any() == Some(true);
    let (asked, connecting) = (
        set.first().is_some_and(ready),
        set.get(1).is_some_and(ready),
    );
    drop(set);
    if asked {
        while let Ok(Some(_)) = signals.read_signal() {}
    }
    Ok((asked, connecting))
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) -> io::Result<()> {
    let (stream, client) = match listener.accept() {
        Ok(accepted) => accepted,
        // The client gave up already, or something else that passes.
        Err(_) => return Ok(()),
    };
    shared.connections.fetch_add(1, Ordering::SeqCst);
    let theirs = Arc::clone(shared);
    let spawned = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // A connection that breaks is the client's affair.
            let _ = serve(stream, client, &theirs);
            theirs.connections.fetch_sub(1, Ordering::SeqCst);
        });
    if let Err(error) = spawned {
        shared.connections.fetch_sub(1, Ordering::SeqCst);
        eprintln!("hello: {error}");
    }
    Ok(())
}

fn serve(stream: TcpStream, client: SocketAddr, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(IDLE_MAX))?;
    let mut reader = BufReader::with_capacity(4096, &stream);
    loop {
        if !wait_for_request(&mut reader, &stream, shared)? {
            return Ok(());
        }
        stream.set_read_timeout(Some(IDLE_MAX))?;
        let request = match http::read_request(&mut reader) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Response::new(400, format!("{error}\n")).write(&stream, false, true);
            }
            Err(error) => return Err(error),
        };
        let response = pages::answer(&request, client);
        let keep_alive = request.keep_alive && !shared.stopping.load(Ordering::SeqCst);
        response.write(&stream, keep_alive, request.method != "HEAD")?;
        if request.path != "/healthz" {
            println!(
                "{} {} {} {}",
                client.ip().to_canonical(),
                request.method,
                request.path,
                response.status
            );
        }
        if !keep_alive {
            return Ok(());
        }
    }
}

/// Waits until a request begins; false when the client left or is idle too long.
fn wait_for_request(
    reader: &mut BufReader<&TcpStream>,
    stream: &TcpStream,
    shared: &Shared,
) -> io::Result<bool> {
    let idle_since = Instant::now();
    let mut stopping_since = None;
    stream.set_read_timeout(Some(GLANCE))?;
    loop {
        match reader.fill_buf() {
            Ok(bytes) => return Ok(!bytes.is_empty()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        if shared.stopping.load(Ordering::SeqCst) {
            let since = *stopping_since.get_or_insert_with(Instant::now);
            if since.elapsed() > STOPPING_IDLE_MAX {
                return Ok(false);
            }
        }
        if idle_since.elapsed() > IDLE_MAX {
            return Ok(false);
        }
    }
}

/// Sends every datagram back.
fn echo(socket: &UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // Lost like any datagram if it cannot be sent.
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}
