//! A container's standard streams on this terminal.

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::logs;
use crate::failure::{Failure, Outcome};
use crate::session::Session;
use crate::stdcopy::Demux;

/// How the streams are joined.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    pub tty: bool,
    /// Whether what is typed goes to the container.
    pub input: bool,
    /// Whether what the container writes is shown.
    pub output: bool,
    /// Keys that leave the container running; empty: none.
    pub detach_keys: Vec<u8>,
}

/// Why the streams came apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The container's side closed.
    Closed,
    /// The detach keys were pressed.
    Detached,
}

/// Ctrl-P, Ctrl-Q.
const DETACH_KEYS_DEFAULT: [u8; 2] = [16, 17];

/// `ctrl-x,y`: keys by name.
pub fn detach_keys(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Ok(DETACH_KEYS_DEFAULT.to_vec());
    }
    text.split(',')
        .map(|key| {
            let unknown = || format!("Unknown character: '{key}'");
            match key.as_bytes() {
                [one] => Ok(*one),
                _ => match key.strip_prefix("ctrl-").map(str::as_bytes) {
                    Some([letter @ b'a'..=b'z']) => Ok(letter - b'a' + 1),
                    Some(b"@") => Ok(0),
                    Some(b"[") => Ok(27),
                    Some(b"\\") => Ok(28),
                    Some(b"]") => Ok(29),
                    Some(b"^") => Ok(30),
                    Some(b"_") => Ok(31),
                    _ => Err(unknown()),
                },
            }
        })
        .collect()
}

/// Finds the detach keys in what is typed, wherever it is cut.
struct Watch {
    keys: Vec<u8>,
    matched: usize,
}

impl Watch {
    /// The bytes that go on to the container, and whether the keys were pressed. Keys that may
    /// still become the sequence are held back.
    fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (typed.to_vec(), false);
        }
        let mut through = Vec::with_capacity(typed.len());
        for byte in typed {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (through, true);
                }
                continue;
            }
            through.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if *byte == self.keys[0] {
                self.matched = 1;
            } else {
                through.push(*byte);
            }
        }
        (through, false)
    }
}

/// Copies both ways until the container's side closes or the user leaves.
pub async fn relay(
    session: &Session,
    stream: TokioIo<Upgraded>,
    streams: &Streams,
) -> Outcome<Ended> {
    let (mut from, mut to) = tokio::io::split(stream);
    let output = async {
        let mut demux = Demux::default();
        let mut buffer = vec![0; 32 << 10];
        loop {
            let length = match from.read(&mut buffer).await {
                Ok(0) => return Ok(Ended::Closed),
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(Ended::Closed);
                }
                Err(error) => {
                    return Err(Failure::message(format!(
                        "error reading the container's output: {error}"
                    )));
                }
            };
            if !streams.output {
                continue;
            }
            if streams.tty {
                session.print_bytes(&buffer[..length])?;
            } else {
                logs::write(session, &mut demux, &buffer[..length])?;
            }
        }
    };
    let input = async {
        if !streams.input {
            return std::future::pending().await;
        }
        let mut watch = Watch {
            keys: if streams.tty {
                streams.detach_keys.clone()
            } else {
                Vec::new()
            },
            matched: 0,
        };
        let mut typed = Typed::of(session);
        while let Some(bytes) = typed.next().await {
            let (through, detached) = watch.feed(&bytes);
            if to.write_all(&through).await.is_err() {
                break;
            }
            let _ = to.flush().await;
            if detached {
                return Ended::Detached;
            }
        }
        // The container sees the end of its input; what it still writes is waited for.
        let _ = to.shutdown().await;
        std::future::pending().await
    };
    tokio::select! {
        ended = output => ended,
        ended = input => Ok(ended),
    }
}

/// What comes from stdin.
enum Typed {
    Given(Option<Vec<u8>>),
    Real(tokio::io::Stdin),
}

impl Typed {
    fn of(session: &Session) -> Self {
        match &session.streams.input {
            Some(bytes) => Self::Given(Some(bytes.clone())),
            None => Self::Real(tokio::io::stdin()),
        }
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Given(bytes) => bytes.take().filter(|bytes| !bytes.is_empty()),
            Self::Real(stdin) => {
                let mut buffer = vec![0; 32 << 10];
                let length = stdin
                    .read(&mut buffer)
                    .await
                    .ok()
                    .filter(|length| *length > 0)?;
                buffer.truncate(length);
                Some(buffer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_have_names() {
        assert_eq!(detach_keys(""), Ok(vec![16, 17]));
        assert_eq!(detach_keys("ctrl-a,b"), Ok(vec![1, b'b']));
        assert_eq!(detach_keys("ctrl-\\"), Ok(vec![28]));
        assert!(detach_keys("ctrl-1").is_err());
    }

    #[test]
    fn detach_keys_are_found_however_they_arrive() {
        let mut watch = Watch {
            keys: vec![16, 17],
            matched: 0,
        };
        assert_eq!(watch.feed(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(watch.feed(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(watch.feed(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(watch.feed(b"\x11c"), (Vec::new(), true));
        let mut none = Watch {
            keys: Vec::new(),
            matched: 0,
        };
        assert_eq!(none.feed(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
