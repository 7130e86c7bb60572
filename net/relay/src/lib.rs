#![doc = include_str!("../README.md")]

mod header;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use skep_net::relay::{LOCK, PLAN, Plan, Port, REFUSED};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How often the plan's file is looked at, apart from every connection that begins.
const LOOK: Duration = Duration::from_millis(100);
/// How long a task may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// Tasks that one client is tried with before it is sent away.
const TRIES_MAX: usize = 4;
/// Connections at once: each has two descriptors.
const CONNECTIONS_MAX: usize = 16_384;
/// After how long without a word the other side is asked whether it is still there, how
/// often, and how many times in vain.
const SILENCE: Duration = Duration::from_secs(60);
const ASK: Duration = Duration::from_secs(15);
const ASKS_MAX: u32 = 8;
/// Connections that wait to be accepted, of one port.
const BACKLOG: u32 = 1024;

/// `skep relay DIRECTORY`: relays until the plan in there is empty.
pub fn main(directory: &Path) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ran = runtime.and_then(|runtime| runtime.block_on(run(directory)));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skep relay: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

/// Relays until the plan is empty and every connection is over. Returns at once when another
/// relay works in this directory.
pub async fn run(directory: &Path) -> io::Result<()> {
    let mut lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join(LOCK))?;
    if lock.try_lock().is_err() {
        return Ok(());
    }
    lock.set_len(0)?;
    write!(lock, "{}", std::process::id())?;

    let relay = Arc::new(Relay::new(directory));
    let mut doors: BTreeMap<SocketAddr, Door> = BTreeMap::new();
    loop {
        let plan = relay.look();
        // What is no longer wanted as it is goes first: its port may be wanted otherwise.
        let stays = |at: &SocketAddr, door: &mut Door| {
            let port = plan.ports.get(at);
            port.is_some_and(|port| door.is_open() != port.backends.is_empty())
        };
        for (_, door) in doors.extract_if(.., |at, door| !stays(at, door)) {
            door.close().await;
        }
        let mut refused = String::new();
        for (at, port) in &plan.ports {
            if doors.contains_key(at) {
                continue;
            }
            match Door::new(&relay, *at, port) {
                Ok(door) => drop(doors.insert(*at, door)),
                Err(error) if is_elsewhere(*at, &error) => {}
                Err(error) => refused.push_str(&format!("{at} {}\n", reason(&error))),
            }
        }
        let path = directory.join(REFUSED);
        if fs::read_to_string(&path).unwrap_or_default() != refused {
            // The directory may be gone; then nobody asks.
            let _ = fs::write(&path, refused);
        }
        let idle = relay.room.available_permits() == CONNECTIONS_MAX;
        if plan.ports.is_empty() && idle {
            // Nobody is to take its number for this process.
            return lock.set_len(0);
        }
        sleep(LOOK).await;
    }
}

/// Whether the address is another node's, or of a family that is switched off here.
fn is_elsewhere(at: SocketAddr, error: &io::Error) -> bool {
    let is_taken = error.kind() == io::ErrorKind::AddrInUse;
    error.kind() == io::ErrorKind::AddrNotAvailable || (at.is_ipv6() && !is_taken)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        _ => error.to_string().replace('\n', " "),
    }
}

/// What all connections share.
struct Relay {
    /// The plan and the file it was read from; none before the first look.
    plan: Mutex<(Option<Stamp>, Arc<Plan>)>,
    path: PathBuf,
    /// Whose turn it is: counts connections.
    turn: AtomicUsize,
    room: Arc<Semaphore>,
}

impl Relay {
    fn new(directory: &Path) -> Self {
        Self {
            plan: Mutex::default(),
            path: directory.join(PLAN),
            turn: AtomicUsize::new(0),
            room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }

    /// The plan as it is now: an empty one when its file is gone, the one known before
    /// when it cannot be read this time.
    fn look(&self) -> Arc<Plan> {
        let mut known = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read(known.0) {
            Ok(None) => {}
            Ok(Some((stamp, plan))) => *known = (Some(stamp), Arc::new(plan)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *known = (None, Arc::default());
            }
            Err(_) => {}
        }
        Arc::clone(&known.1)
    }

    /// The plan and its stamp, if it is another one than the known one.
    fn read(&self, known: Option<Stamp>) -> io::Result<Option<(Stamp, Plan)>> {
        if known == Some(Stamp::of(&fs::metadata(&self.path)?)) {
            return Ok(None);
        }
        let mut file = fs::File::open(&self.path)?;
        // Of what is read, which may be a later one.
        let stamp = Stamp::of(&file.metadata()?);
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(Some((stamp, Plan::parse(&text))))
    }
}

/// By which one plan's file is told from the next: the clock is too coarse for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    written: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            inode: meta.ino(),
            length: meta.len(),
            written: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

/// A port of the node.
enum Door {
    /// Bound alone: nobody else has it, and clients are refused at once.
    Shut {
        _socket: Socket,
    },
    Open {
        accepting: JoinHandle<()>,
    },
}

impl Door {
    fn new(relay: &Arc<Relay>, at: SocketAddr, port: &Port) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Connections that are over must not be in the way.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&at.into())?;
        if port.backends.is_empty() {
            // Having listened once, it keeps the port from those who would share it as well.
            socket.listen(0)?;
            socket.shutdown(std::net::Shutdown::Read)?;
            socket.set_reuse_address(false)?;
            return Ok(Self::Shut { _socket: socket });
        }
        let listener = TcpSocket::from_std_stream(socket.into()).listen(BACKLOG)?;
        let accepting = tokio::spawn(accept(Arc::clone(relay), listener, at));
        Ok(Self::Open { accepting })
    }

    /// Lets go of the port; its connections go on.
    async fn close(self) {
        if let Self::Open { accepting } = self {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }
}

async fn accept(relay: Arc<Relay>, listener: TcpListener, at: SocketAddr) {
    loop {
        let Ok(permit) = Arc::clone(&relay.room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((client, from)) => {
                let relay = Arc::clone(&relay);
                tokio::spawn(async move {
                    // An end without a word is all there is to tell either side.
                    let _ = serve(&relay, client, from, at).await;
                    drop(permit);
                });
            }
            // Out of descriptors, mostly.
            Err(_) => sleep(LOOK).await,
        }
    }
}

async fn serve(
    relay: &Relay,
    mut client: TcpStream,
    from: SocketAddr,
    at: SocketAddr,
) -> io::Result<()> {
    let to = client.local_addr()?;
    let plan = relay.look();
    let Some(port) = plan.ports.get(&at) else {
        return client.set_zero_linger();
    };
    let own = plan.from.iter().find(|ip| ip.is_ipv4() == at.is_ipv4());
    let turn = relay.turn.fetch_add(1, Ordering::Relaxed);
    let count = port.backends.len();
    for try_number in 0..count.min(TRIES_MAX) {
        let backend = port.backends[(turn + try_number) % count];
        let Ok(Ok(mut task)) = timeout(CONNECT, connect(own, backend)).await else {
            continue;
        };
        set_up(&client)?;
        set_up(&task)?;
        task.write_all(&header::header(port.version, from, to))
            .await?;
        copy_bidirectional(&mut client, &mut task).await?;
        return Ok(());
    }
    // As if nobody had been there.
    client.set_zero_linger()
}

/// What both sides of a connection have: nothing waits, and who is gone is noticed.
fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(SILENCE)
        .with_interval(ASK)
        .with_retries(ASKS_MAX);
    socket.set_tcp_keepalive(&keepalive)
}

/// Connects as the node: by its address in the ingress network.
async fn connect(own: Option<&IpAddr>, backend: SocketAddr) -> io::Result<TcpStream> {
    let socket = match backend {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(own) = own {
        // The port is chosen when it is known whom it is for: as many connections to each
        // task as there are ports, and not to all together.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(*own, 0))?;
    }
    socket.connect(backend).await
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use skep_net::ProxyVersion;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn ask(at: SocketAddr) -> io::Result<String> {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        let mut heard = String::new();
        timeout(CONNECT, stream.read_to_string(&mut heard)).await??;
        Ok(format!("{} {heard}", stream.local_addr()?.port()))
    }

    /// Waits for something the relay does by itself.
    async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
        for _ in 0..200 {
            if holds().await {
                return;
            }
            sleep(Duration::from_millis(25)).await;
        }
        panic!("not in time: {what}");
    }

    fn write(directory: &Path, plan: &Plan) {
        let next = directory.join("next");
        fs::write(&next, plan.to_string()).unwrap();
        fs::rename(next, directory.join(PLAN)).unwrap();
    }

    #[test]
    fn a_plan_that_cannot_be_read_once_is_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let (relay, path) = (Relay::new(directory.path()), directory.path().join(PLAN));
        let plan = |ip: &str| Plan {
            from: vec![ip.parse().unwrap()],
            ..Plan::default()
        };
        assert_eq!(*relay.look(), Plan::default());
        write(directory.path(), &plan("10.0.0.1"));
        assert_eq!(*relay.look(), plan("10.0.0.1"));
        // Reading it fails, looking at it does not.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(*relay.look(), plan("10.0.0.1"));
        fs::remove_dir(&path).unwrap();
        write(directory.path(), &plan("10.0.0.2"));
        assert_eq!(*relay.look(), plan("10.0.0.2"), "it is not remembered");
        // As long, and as old: another file all the same.
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        write(directory.path(), &plan("10.0.0.3"));
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(written).unwrap();
        assert_eq!(*relay.look(), plan("10.0.0.3"));
        fs::remove_file(&path).unwrap();
        assert_eq!(*relay.look(), Plan::default());
    }

    #[tokio::test]
    async fn who_is_gone_is_noticed() {
        let task = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = Ipv4Addr::new(127, 0, 0, 2).into();
        let stream = connect(Some(&own), task.local_addr().unwrap())
            .await
            .unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), own);
        set_up(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), SILENCE);
    }

    #[tokio::test]
    async fn tasks_hear_who_the_client_is_and_the_relay_ends_with_its_plan() {
        let directory = tempfile::tempdir().unwrap();
        // A task that says what it hears.
        let task = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let backend = task.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = task.accept().await {
                tokio::spawn(async move {
                    let mut heard = Vec::new();
                    stream.read_to_end(&mut heard).await?;
                    stream.write_all(&heard).await
                });
            }
        });
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = free.local_addr().unwrap();
        // A listener that is gone again.
        let nobody = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .unwrap();
        let plan = |backends: Vec<SocketAddr>| Plan {
            from: vec![Ipv4Addr::LOCALHOST.into()],
            ports: BTreeMap::from([(
                at,
                Port {
                    version: ProxyVersion::V1,
                    backends,
                },
            )]),
        };
        // While somebody else has the port, that is said.
        write(directory.path(), &plan(vec![nobody, backend]));
        let relay = {
            let directory = directory.path().to_owned();
            tokio::spawn(async move { run(&directory).await })
        };
        let refused = || async {
            fs::read_to_string(directory.path().join(REFUSED)).unwrap_or_default()
                == format!("{at} address already in use\n")
        };
        until("the refusal is told", refused).await;
        drop(free);
        until("it listens", || async { ask(at).await.is_ok() }).await;
        for _ in 0..4 {
            let heard = ask(at).await.unwrap();
            let (port, heard) = heard.split_once(' ').unwrap();
            assert_eq!(
                heard,
                format!(
                    "PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}\r\nhello",
                    at.port()
                )
            );
        }
        run(directory.path())
            .await
            .expect("a second one leaves at once");

        write(directory.path(), &plan(Vec::new()));
        let refuses = || async {
            ask(at)
                .await
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        until("without tasks it refuses", refuses).await;
        assert!(
            std::net::TcpListener::bind(at).is_err(),
            "and keeps the port"
        );

        write(directory.path(), &Plan::default());
        let ended = timeout(Duration::from_secs(5), relay).await;
        ended.expect("it ends in time").unwrap().unwrap();
    }
}
