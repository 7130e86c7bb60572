//! What the loop waits for. Collected anew before each wait from the present state,
//! so that no interest can be forgotten or stale.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::ptr;
use std::time::Instant;

use super::Token;

/// Descriptors to wait for and what each of them is.
#[derive(Default)]
pub struct PollSet {
    entries: Vec<libc::pollfd>,
    tokens: Vec<Token>,
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub readable: bool,
    /// The other side is gone, or the descriptor is broken.
    pub closed: bool,
}

impl PollSet {
    pub fn clear(&mut self) {
        self.entries.clear();
        self.tokens.clear();
    }

    /// Waits for a descriptor to become readable or writable; that its other side
    /// goes is always noticed.
    pub fn add(&mut self, fd: impl AsFd, readable: bool, writable: bool, token: Token) {
        let mut events = 0;
        if readable {
            events |= libc::POLLIN;
        }
        if writable {
            events |= libc::POLLOUT;
        }
        self.entries.push(libc::pollfd {
            fd: fd.as_fd().as_raw_fd(),
            events,
            revents: 0,
        });
        self.tokens.push(token);
    }

    /// Waits, at most until `deadline`. Gives what is ready.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Vec<(Token, Ready)>> {
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            libc::timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(libc::time_t::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        // SAFETY: pointer and length describe the same live vector; the timeout is
        // null or outlives the call; no signal mask is given.
        let count = unsafe {
            libc::ppoll(
                self.entries.as_mut_ptr(),
                self.entries.len() as libc::nfds_t,
                timeout.as_ref().map_or(ptr::null(), ptr::from_ref),
                ptr::null(),
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(Vec::new()),
                _ => Err(error),
            };
        }
        let ready = |events: i16| Ready {
            readable: events & libc::POLLIN != 0,
            closed: events & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0,
        };
        Ok(self
            .entries
            .iter()
            .zip(&self.tokens)
            .filter(|(entry, _)| entry.revents != 0)
            .map(|(entry, token)| (*token, ready(entry.revents)))
            .collect())
    }
}
