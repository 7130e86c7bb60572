//! Clients of the control socket: they come, send, take and go.

use std::os::unix::net::UnixListener;
use std::time::Instant;

use super::connection::{Connection, Role};
use super::poll::Ready;
use super::requests::refuse;
use super::{BUFFER_BYTES, ProcessKey, Supervisor};
use crate::protocol::{FRAME_BYTES_MAX, RefusalKind, Request, Response, encode_frame, take_frame};

/// Clients accepted before others get their turn.
const ACCEPT_BATCH: usize = 16;

impl Supervisor {
    pub(super) fn accept(&mut self) {
        for _ in 0..ACCEPT_BATCH {
            let Some(Ok((socket, _))) = self.listener.as_ref().map(UnixListener::accept) else {
                return;
            };
            let Ok(connection) = Connection::new(socket) else {
                continue;
            };
            if connection.is_ours() {
                self.next_connection += 1;
                self.connections.insert(self.next_connection, connection);
            }
        }
    }

    /// A client sent something, takes something, or is gone.
    pub(super) fn serve(&mut self, key: u64, ready: Ready) {
        if ready.readable {
            self.receive(key);
        } else if ready.closed {
            let leftover = self
                .connections
                .get(&key)
                .is_some_and(|connection| !connection.input_ended && !self.may_read(connection));
            match self.connections.get_mut(&key) {
                Some(connection) if leftover => connection.hung_up = true,
                Some(_) => self.disconnect(key),
                None => {}
            }
        }
        // Writing is tried for all at the end of each turn.
    }

    fn receive(&mut self, key: u64) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        let feeds = connection.feeds();
        let is_stream = matches!(connection.role, Role::Attached { .. });
        let room = feeds
            .and_then(|process| self.process(process))
            .map_or(BUFFER_BYTES, |process| process.streams.input_room());
        let mut buffer = std::mem::take(&mut self.buffer);
        let limit = room.min(buffer.len());
        let received = self
            .connections
            .get_mut(&key)
            .map(|connection| connection.receive(&mut buffer[..limit]));
        match received {
            Some(Ok(Some(0))) => self.input_ended(key),
            Some(Ok(Some(count))) if is_stream => {
                if let Some(process) = feeds.and_then(|process| self.process_mut(process)) {
                    process.streams.push_input(&buffer[..count]);
                }
            }
            Some(Ok(Some(count))) => {
                let too_much = self.connections.get_mut(&key).is_some_and(|connection| {
                    connection.inbox.extend_from_slice(&buffer[..count]);
                    connection.inbox.len() > FRAME_BYTES_MAX + BUFFER_BYTES
                });
                if too_much {
                    self.disconnect(key);
                }
                self.take_requests(key);
            }
            Some(Ok(None)) | None => {}
            Some(Err(_)) => self.disconnect(key),
        }
        self.buffer = buffer;
    }

    /// The client will send no more.
    fn input_ended(&mut self, key: u64) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        connection.input_ended = true;
        let fed = connection.feeds();
        // Whoever listens to output may stop talking; all others are gone.
        let listens = matches!(&connection.role,
            Role::Attached { options, .. } if options.stdout || options.stderr);
        if connection.hung_up || !listens {
            connection.finishing = true;
        }
        if let Some(process) = fed {
            self.end_input_of(process);
        }
    }

    /// Whoever fed this process stopped. The main process's input ends with its
    /// first client only if that was asked for.
    fn end_input_of(&mut self, key: ProcessKey) {
        if key == ProcessKey::Main && !self.config.process.stdin_once {
            return;
        }
        if let Some(process) = self.process_mut(key) {
            process.streams.end_input();
        }
    }

    pub(super) fn disconnect(&mut self, key: u64) {
        if let Some(connection) = self.connections.remove(&key)
            && let Some(process) = connection.feeds()
            && !connection.input_ended
        {
            self.end_input_of(process);
        }
    }

    /// Sends what clients take, and lets go of those who are gone, done or stuck.
    pub(super) fn flush_connections(&mut self, now: Instant) {
        let stall_max = self.stall_max();
        let gone: Vec<u64> = self
            .connections
            .iter_mut()
            .filter_map(|(&key, connection)| {
                let broken = connection.flush(now).is_err();
                let done = connection.finishing && connection.unsent() == 0;
                let stuck = connection
                    .stalled_since
                    .is_some_and(|since| now.duration_since(since) > stall_max);
                (broken || done || stuck).then_some(key)
            })
            .collect();
        for key in gone {
            self.disconnect(key);
        }
    }

    pub(super) fn take_requests(&mut self, key: u64) {
        loop {
            let Some(connection) = self.connections.get_mut(&key) else {
                return;
            };
            if connection.role != Role::Control {
                // What follows an attach at once is input already.
                let early = std::mem::take(&mut connection.inbox);
                if let Some(process) = connection.feeds()
                    && let Some(process) = self.process_mut(process)
                {
                    process.streams.push_input(&early);
                } else if let Some(connection) = self.connections.get_mut(&key) {
                    connection.inbox = early;
                }
                return;
            }
            match take_frame::<Request>(&mut connection.inbox) {
                Ok(Some(request)) => self.answer(key, request),
                Ok(None) => return,
                Err(error) => {
                    let refusal = refuse(RefusalKind::Invalid, error.to_string());
                    self.respond(key, &Response::Refused(refusal));
                    if let Some(connection) = self.connections.get_mut(&key) {
                        connection.finishing = true;
                        connection.input_ended = true;
                    }
                    return;
                }
            }
        }
    }

    pub(super) fn respond(&mut self, key: u64, response: &Response) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        match encode_frame(response) {
            Ok(frame) => connection.send(&frame),
            Err(error) => {
                eprintln!("answering: {error}");
                connection.finishing = true;
            }
        }
    }
}
