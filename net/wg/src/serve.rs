//! The process: one loop over the device, the network and who configures it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::device::{BUFFER_BYTES, Device, To};
use crate::tun::Tun;
use crate::uapi::{self, Request};

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long a client of the control socket may keep the loop waiting.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(1);
/// Room for a request that names as many peers as there may be.
const REQUEST_BYTES_MAX: u64 = 16 << 20;
/// Packets of one source before the others have their turn.
const TURN: usize = 64;
/// Room for bursts while the loop is elsewhere.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It was called in another way.
    #[error("want `skep wireguard INTERFACE CONTROL`")]
    Usage,
    /// Something of the system's.
    #[error("could not {action}")]
    Io {
        /// What was tried.
        action: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

fn failed<T>(action: impl Into<String>, result: io::Result<T>) -> Result<T, ServeError> {
    result.map_err(|source| ServeError::Io {
        action: action.into(),
        source,
    })
}

/// Runs `skep wireguard INTERFACE CONTROL`; `args` begins with the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("{error}{cause}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[OsString]) -> Result<(), ServeError> {
    let [_, _, interface, control] = args else {
        return Err(ServeError::Usage);
    };
    let interface = interface.to_str().ok_or(ServeError::Usage)?;
    // It goes on when whoever started it ends, or their terminal does.
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir("/");
    let tun = failed(format!("make `{interface}`"), Tun::open(interface))?;
    let control = Control::listen(Path::new(control))?;
    Loop {
        tun,
        control,
        device: Device::new(),
        sockets: Vec::new(),
        port: None,
    }
    .run()
}

/// The control socket. Whoever removes its file ends the process.
struct Control {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Control {
    fn listen(path: &Path) -> Result<Self, ServeError> {
        // Of a process that was killed; a living one holds the interface's name.
        let _ = fs::remove_file(path);
        let action = || format!("listen on `{}`", path.display());
        let listener = failed(action(), UnixListener::bind(path))?;
        failed(action(), listener.set_nonblocking(true))?;
        let private = fs::Permissions::from_mode(0o600);
        failed(action(), fs::set_permissions(path, private))?;
        let inode = failed(action(), fs::metadata(path))?.ino();
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
        })
    }

    fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

struct Loop {
    tun: Tun,
    control: Control,
    device: Device,
    /// One per address family that the host has.
    sockets: Vec<UdpSocket>,
    port: Option<u16>,
}

impl Loop {
    fn run(mut self) -> Result<(), ServeError> {
        let mut packet = vec![0; BUFFER_BYTES];
        let mut next_tick = Instant::now() + TICK;
        loop {
            let left = next_tick.saturating_duration_since(Instant::now());
            self.wait(left)?;
            if !self.serve_host(&mut packet) {
                return Ok(());
            }
            self.serve_network(&mut packet);
            self.serve_control();
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                if !self.control.is_there() {
                    return Ok(());
                }
                let Self {
                    device,
                    sockets,
                    tun,
                    ..
                } = &mut self;
                device.tick(|to, bytes| send(sockets, tun, to, bytes));
            }
        }
    }

    fn wait(&self, left: Duration) -> Result<(), ServeError> {
        let mut fds = vec![
            PollFd::new(self.tun.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.control.listener.as_fd(), PollFlags::POLLIN),
        ];
        let sockets = self.sockets.iter();
        fds.extend(sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        // Rounded up, or the last millisecond would be spent looking.
        let left = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(left)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => failed("wait", Err(error.into())),
        }
    }

    /// Encrypts what this host sends. False when the device is gone.
    fn serve_host(&mut self, packet: &mut [u8]) -> bool {
        let Self {
            device,
            sockets,
            tun,
            ..
        } = self;
        for _ in 0..TURN {
            match tun.read(packet) {
                Ok(count) => {
                    device.outgoing(&packet[..count], |to, bytes| {
                        // Only datagrams come of it: the device writes nothing back.
                        if let To::Network(to) = to {
                            send_datagram(sockets, to, bytes);
                        }
                    });
                }
                Err(error) if is_transient(&error) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// Decrypts what peers send.
    fn serve_network(&mut self, packet: &mut [u8]) {
        let Self {
            device,
            sockets,
            tun,
            ..
        } = self;
        for socket in sockets.iter() {
            for _ in 0..TURN {
                // An error is of an earlier datagram that could not be delivered.
                let Ok((count, from)) = socket.recv_from(packet) else {
                    break;
                };
                device.incoming(from.ip(), &packet[..count], |to, bytes| {
                    send(sockets, tun, to, bytes);
                });
            }
        }
    }

    fn serve_control(&mut self) {
        while let Ok((stream, _)) = self.control.listener.accept() {
            // A client that goes away midway has changed nothing.
            let _ = self.answer(&stream);
        }
    }

    fn answer(&mut self, mut stream: &UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(CONTROL_TIMEOUT))?;
        stream.set_write_timeout(Some(CONTROL_TIMEOUT))?;
        let request = read_message(stream)?;
        let answer = match uapi::parse_request(&request) {
            Ok(Request::Get) => uapi::get_answer(&self.device.get()),
            Ok(Request::Set(config)) => {
                let errno = match self.set(&config) {
                    Ok(()) => 0,
                    Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
                };
                format!("errno={errno}\n\n").into()
            }
            Err(_) => format!("errno={}\n\n", libc::EINVAL).into(),
        };
        stream.write_all(answer.as_bytes())
    }

    fn set(&mut self, config: &uapi::Config) -> io::Result<()> {
        if let Some(port) = config.listen_port
            && self.port != Some(port)
        {
            self.sockets = listen(port)?;
            self.port = Some(port);
        }
        let Self {
            device,
            sockets,
            tun,
            ..
        } = self;
        device.set(config, |to, bytes| send(sockets, tun, to, bytes));
        Ok(())
    }
}

/// A message up to its empty line, which is left out.
pub(crate) fn read_message(stream: &UnixStream) -> io::Result<zeroize::Zeroizing<String>> {
    let mut text = zeroize::Zeroizing::new(Vec::new());
    let mut part = [0; 4096];
    let mut limited = stream.take(REQUEST_BYTES_MAX);
    while !text.ends_with(b"\n\n") {
        match limited.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => text.extend_from_slice(&part[..count]),
        }
    }
    let text = std::str::from_utf8(&text).map_err(|_| ErrorKind::InvalidData)?;
    Ok(text.trim_end().to_owned().into())
}

fn is_transient(error: &io::Error) -> bool {
    // EIO: the device is not up yet.
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
        || error.raw_os_error() == Some(libc::EIO)
}

/// One socket for each address family.
fn listen(port: u16) -> io::Result<Vec<UdpSocket>> {
    let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let mut sockets = vec![socket(any4)?];
    match socket(any6) {
        Ok(socket) => sockets.push(socket),
        Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(error),
        // A host without IPv6.
        Err(_) => {}
    }
    Ok(sockets)
}

fn socket(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Beyond the system's limit, which root may; conveniences both.
    use nix::sys::socket::{setsockopt, sockopt};
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES);
    let _ = setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES);
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// Lost datagrams and packets are their senders' business, as everywhere.
fn send(sockets: &[UdpSocket], tun: &mut Tun, to: To, bytes: &[u8]) {
    match to {
        To::Network(to) => send_datagram(sockets, to, bytes),
        To::Host => drop(tun.write(bytes)),
    }
}

fn send_datagram(sockets: &[UdpSocket], to: SocketAddr, bytes: &[u8]) {
    let position = usize::from(to.is_ipv6());
    if let Some(socket) = sockets.get(position) {
        let _ = socket.send_to(bytes, to);
    }
}
