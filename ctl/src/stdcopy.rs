//! stdout and stderr mixed into one stream, each piece behind a header of eight bytes.

/// Which stream a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Out,
    Err,
}

/// A piece is shorter than this; more is a broken stream.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// Takes a mixed stream apart. Headers and payloads may be cut anywhere.
#[derive(Debug, Default)]
pub struct Demux {
    header: Vec<u8>,
    channel: Option<Channel>,
    /// Bytes of the current piece still to come.
    left: usize,
    /// Text of a piece that reports an error of the daemon.
    failure: Option<Vec<u8>>,
}

impl Demux {
    /// Hands each part of `bytes` to `sink`.
    pub fn feed<E: From<String>>(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(Channel, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let missing = 8 - self.header.len();
                let (head, rest) = bytes.split_at(missing.min(bytes.len()));
                self.header.extend_from_slice(head);
                bytes = rest;
                if self.header.len() == 8 {
                    self.open()?;
                }
                continue;
            }
            let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= part.len();
            bytes = rest;
            match (self.channel, &mut self.failure) {
                (Some(channel), _) => sink(channel, part)?,
                (None, Some(failure)) => {
                    failure.extend_from_slice(part);
                    if self.left == 0 {
                        let text = String::from_utf8_lossy(failure).into_owned();
                        return Err(E::from(format!("error from daemon in stream: {text}")));
                    }
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), String> {
        let header = std::mem::take(&mut self.header);
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        self.failure = None;
        self.channel = match header[0] {
            0 | 1 => Some(Channel::Out),
            2 => Some(Channel::Err),
            3 => {
                self.failure = Some(Vec::new());
                None
            }
            other => return Err(format!("Unrecognized input header: {other}")),
        };
        if length > FRAME_BYTES_MAX {
            return Err(format!("a frame of {length} bytes is too long"));
        }
        self.left = length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_taken_apart_wherever_they_are_cut() {
        let mixed =
            b"\x01\0\0\0\0\0\0\x03abc\x02\0\0\0\0\0\0\x02de\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01f";
        for cut in 1..mixed.len() {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut demux = Demux::default();
            for part in mixed.chunks(cut) {
                demux
                    .feed::<String>(part, |channel, bytes| {
                        match channel {
                            Channel::Out => out.extend_from_slice(bytes),
                            Channel::Err => err.extend_from_slice(bytes),
                        }
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!((&out[..], &err[..]), (&b"abcf"[..], &b"de"[..]), "{cut}");
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        let mut demux = Demux::default();
        assert!(
            demux
                .feed::<String>(b"\x09\0\0\0\0\0\0\x01x", |_, _| Ok(()))
                .is_err()
        );
        let mut demux = Demux::default();
        assert_eq!(
            demux.feed::<String>(b"\x03\0\0\0\0\0\0\x02no", |_, _| Ok(())),
            Err("error from daemon in stream: no".to_owned())
        );
    }
}
