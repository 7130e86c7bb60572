//! A netlink socket: requests with their acknowledgements, dumps, batches.
//!
//! The kernel handles a request inside the `send`, so its answers are there when
//! that returns; a receive timeout guards against an odd kernel all the same.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::wire::{self, ACK, HEADER, Message, ROOT_AND_MATCH};
use crate::KernelError;

/// Largest batch of messages in one send.
const BATCH_BYTES_MAX: usize = 32 * 1024;
/// Larger than what the kernel puts into one dump datagram.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Room for many answers, and for one whole firewall transaction.
const SOCKET_BUFFER_BYTES: libc::c_int = 8 << 20;
/// How often a dump that was changed under way is begun again.
const DUMP_ATTEMPTS: usize = 5;
const RECEIVE_TIMEOUT_S: i64 = 10;

const MSG_ERROR: u16 = 2;
const MSG_DONE: u16 = 3;
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
const FLAG_CAPPED: u16 = 0x100;
const FLAG_ACK_TLVS: u16 = 0x200;

/// A netlink socket of the namespace it was opened in.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One received message.
struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Socket {
    /// Opens a socket in the calling thread's namespace: `NETLINK_ROUTE` or
    /// `NETLINK_NETFILTER`.
    pub fn open(protocol: libc::c_int) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes plain integers; a non-negative result is a fresh
        // descriptor that nobody else owns.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: see above.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self {
            fd,
            sequence: 1,
            buffer: vec![0; RECEIVE_BYTES],
        };
        // Older kernels lack some of these; all are conveniences.
        for option in [
            libc::NETLINK_EXT_ACK,
            libc::NETLINK_CAP_ACK,
            libc::NETLINK_GET_STRICT_CHK,
        ] {
            let _ = socket.option(libc::SOL_NETLINK, option, &1);
        }
        for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            let _ = socket.option(libc::SOL_SOCKET, option, &SOCKET_BUFFER_BYTES);
        }
        let timeout = libc::timeval {
            tv_sec: RECEIVE_TIMEOUT_S,
            tv_usec: 0,
        };
        socket.option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)?;
        Ok(socket)
    }

    fn option<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` is a live plain value of the size given; the kernel only
        // reads it.
        let rc = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(&mut self, message: Message) -> Result<(), KernelError> {
        let sequence = self.next_sequence();
        self.send(&finish(message, sequence, ACK)?)?;
        loop {
            let count = self.receive(0)?;
            for received in messages(&self.buffer[..count]) {
                if received.sequence == sequence && received.kind == MSG_ERROR {
                    return acknowledgement(&received);
                }
            }
        }
    }

    /// Sends one request that is answered by one message and returns that
    /// message's payload.
    pub fn ask(&mut self, message: Message) -> Result<Vec<u8>, KernelError> {
        let sequence = self.next_sequence();
        self.send(&finish(message, sequence, 0)?)?;
        loop {
            let count = self.receive(0)?;
            for received in messages(&self.buffer[..count]) {
                match received.kind {
                    _ if received.sequence != sequence => {}
                    MSG_ERROR => {
                        acknowledgement(&received)?;
                        return Err(errno(libc::ENODATA));
                    }
                    _ => return Ok(received.payload.to_vec()),
                }
            }
        }
    }

    /// Sends many requests, at most 32 kB at a time with one acknowledgement
    /// each time. Every request is tried; returns those that failed, by position.
    pub fn batch(
        &mut self,
        requests: Vec<Message>,
    ) -> Result<Vec<(usize, KernelError)>, KernelError> {
        let mut failed = Vec::new();
        let mut requests = requests.into_iter().enumerate().peekable();
        while requests.peek().is_some() {
            let first_sequence = self.sequence;
            let mut first_position = None;
            let mut bytes = Vec::with_capacity(BATCH_BYTES_MAX);
            while let Some((position, message)) = requests.next() {
                first_position.get_or_insert(position);
                let last = requests.peek().is_none_or(|(_, next)| {
                    bytes.len() + message.len() + next.len() > BATCH_BYTES_MAX
                });
                let sequence = self.next_sequence();
                bytes.extend(finish(message, sequence, if last { ACK } else { 0 })?);
                if last {
                    break;
                }
            }
            let last_sequence = self.sequence.wrapping_sub(1);
            self.send(&bytes)?;
            'answers: loop {
                let count = self.receive(0)?;
                for received in messages(&self.buffer[..count]) {
                    let offset = received.sequence.wrapping_sub(first_sequence);
                    if received.kind != MSG_ERROR
                        || offset > last_sequence.wrapping_sub(first_sequence)
                    {
                        continue;
                    }
                    if let Err(error) = acknowledgement(&received) {
                        failed.push((first_position.unwrap_or(0) + offset as usize, error));
                    }
                    if received.sequence == last_sequence {
                        break 'answers;
                    }
                }
            }
        }
        Ok(failed)
    }

    /// Asks for everything of a kind and collects what `each` makes of the
    /// messages' payloads. A dump during which the kernel's tables changed is
    /// begun again a few times.
    pub fn dump<T>(
        &mut self,
        request: &Message,
        mut each: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, KernelError> {
        for attempt in 1.. {
            let mut found = Vec::new();
            let interrupted =
                self.dump_once(request.clone(), |payload| found.extend(each(payload)))?;
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(found);
            }
        }
        unreachable!("the loop returns at its last attempt")
    }

    fn dump_once(
        &mut self,
        request: Message,
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool, KernelError> {
        let sequence = self.next_sequence();
        self.send(&finish(request, sequence, ROOT_AND_MATCH)?)?;
        let mut interrupted = false;
        loop {
            let count = self.receive(0)?;
            for received in messages(&self.buffer[..count]) {
                if received.sequence != sequence {
                    continue;
                }
                interrupted |= received.flags & FLAG_DUMP_INTERRUPTED != 0;
                match received.kind {
                    MSG_DONE => {
                        let code = wire::u32_at(received.payload, 0).unwrap_or(0).cast_signed();
                        return if code < 0 {
                            Err(errno(-code))
                        } else {
                            Ok(interrupted)
                        };
                    }
                    MSG_ERROR => {
                        acknowledgement(&received)?;
                        return Ok(interrupted);
                    }
                    _ => each(received.payload),
                }
            }
        }
    }

    /// Sends `messages` as one firewall transaction: between begin and end marks,
    /// in one datagram. All of it happens or nothing; an error comes with the
    /// position of the message it is about.
    pub fn transaction(
        &mut self,
        begin: Message,
        requests: Vec<Message>,
        end: Message,
    ) -> Result<(), (Option<usize>, KernelError)> {
        let whole = |error| (None, error);
        let begin_sequence = self.next_sequence();
        let mut bytes = finish(begin, begin_sequence, 0).map_err(whole)?;
        let first = self.sequence;
        let count = requests.len();
        for (position, message) in requests.into_iter().enumerate() {
            let sequence = self.next_sequence();
            let flags = if position + 1 == count { ACK } else { 0 };
            bytes
                .extend(finish(message, sequence, flags).map_err(|error| (Some(position), error))?);
        }
        let sequence = self.next_sequence();
        bytes.extend(finish(end, sequence, 0).map_err(whole)?);
        // The kernel takes a datagram only if the send buffer holds all of it.
        if bytes.len() * 2 > SOCKET_BUFFER_BYTES as usize {
            let size = libc::c_int::try_from(bytes.len() * 2).unwrap_or(libc::c_int::MAX);
            let _ = self.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &size);
        }
        self.send(&bytes).map_err(whole)?;

        // Everything is decided now; read answers until there are none left.
        let mut verdict = Ok(());
        let mut acknowledged = false;
        loop {
            let length = match self.receive(libc::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(error) if error.errno == libc::EAGAIN => break,
                // More errors than the buffer holds: the transaction failed.
                Err(error) => return verdict.and(Err((None, error))),
            };
            for received in messages(&self.buffer[..length]) {
                let offset = received.sequence.wrapping_sub(first) as usize;
                let ours = offset < count || received.sequence == begin_sequence;
                if received.kind != MSG_ERROR || !ours {
                    continue;
                }
                match acknowledgement(&received) {
                    Ok(()) => acknowledged = true,
                    Err(error) if verdict.is_ok() => {
                        verdict = Err(((offset < count).then_some(offset), error));
                    }
                    Err(_) => {}
                }
            }
        }
        if verdict.is_ok() && !acknowledged && count > 0 {
            return Err((None, errno(libc::EPROTO)));
        }
        verdict
    }

    fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        sequence
    }

    fn send(&self, bytes: &[u8]) -> Result<(), KernelError> {
        loop {
            // SAFETY: the buffer is valid for its length during the call; an
            // unconnected netlink socket sends to the kernel.
            let sent =
                unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            match sent {
                sent if sent >= 0 => return Ok(()),
                _ => match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EINTR) => {}
                    code => return Err(errno(code.unwrap_or(libc::EIO))),
                },
            }
        }
    }

    fn receive(&mut self, flags: libc::c_int) -> Result<usize, KernelError> {
        loop {
            // SAFETY: the buffer is writable for its whole length; with MSG_TRUNC
            // the kernel may return a larger length than it wrote, which is
            // checked below.
            let count = unsafe {
                libc::recv(
                    self.fd.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    flags | libc::MSG_TRUNC,
                )
            };
            match usize::try_from(count) {
                Ok(count) if count <= self.buffer.len() => return Ok(count),
                Ok(_) => return Err(errno(libc::EMSGSIZE)),
                Err(_) => match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) if flags & libc::MSG_DONTWAIT == 0 => {
                        return Err(errno(libc::ETIMEDOUT));
                    }
                    code => return Err(errno(code.unwrap_or(libc::EIO))),
                },
            }
        }
    }
}

fn finish(message: Message, sequence: u32, flags: u16) -> Result<Vec<u8>, KernelError> {
    message
        .finish(sequence, flags)
        .ok_or_else(|| errno(libc::EMSGSIZE))
}

pub(crate) fn errno(errno: i32) -> KernelError {
    KernelError { errno, text: None }
}

/// The messages of one datagram; stops at the first that does not fit.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = wire::u32_at(bytes, 0)? as usize;
        let received = Received {
            kind: wire::u16_at(bytes, 4)?,
            flags: wire::u16_at(bytes, 6)?,
            sequence: wire::u32_at(bytes, 8)?,
            payload: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}

/// What an error message says: nothing wrong, or an errno with the kernel's text.
fn acknowledgement(received: &Received<'_>) -> Result<(), KernelError> {
    let code = wire::u32_at(received.payload, 0).unwrap_or(0).cast_signed();
    if code == 0 {
        return Ok(());
    }
    // After the code comes the header of the request, its body too unless capped,
    // then attributes; number 1 is the text.
    let echoed = match received.flags & FLAG_CAPPED {
        0 => wire::u32_at(received.payload, 4).unwrap_or(0) as usize,
        _ => HEADER,
    };
    let text = (received.flags & FLAG_ACK_TLVS != 0)
        .then(|| received.payload.get(4 + echoed.next_multiple_of(4)..))
        .flatten()
        .and_then(|attributes| wire::find(attributes, 1))
        .map(wire::text_of);
    Err(KernelError {
        errno: code.checked_neg().unwrap_or(libc::EIO),
        text,
    })
}
