//! What a client sends, with the first request's target made one that HTTP knows.
//!
//! People write `curl -g 'http://localhost/containers/json?filters={"status":["exited"]}'`. Go's server
//! reads that; the HTTP library here refuses quotes and the like. So such bytes are escaped before it
//! sees them. Only the first line of a connection is looked at: programs that send several requests over
//! one escape their targets themselves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest line that is looked at; the library's own bound is larger.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A connection whose first line is escaped while it is read.
pub(crate) struct Escaped<S> {
    stream: S,
    state: State,
}

enum State {
    /// The line so far.
    Line(Vec<u8>),
    /// What was read and is to be passed on, from this byte on.
    Pass(Vec<u8>, usize),
    Done,
}

impl<S> Escaped<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            state: State::Line(Vec::new()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Escaped<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Done => return Pin::new(&mut this.stream).poll_read(context, buffer),
                State::Pass(data, at) => {
                    let count = buffer.remaining().min(data.len() - *at);
                    buffer.put_slice(&data[*at..*at + count]);
                    *at += count;
                    if *at == data.len() {
                        this.state = State::Done;
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Line(line) => {
                    let mut piece = [0; 4096];
                    let mut piece = ReadBuf::new(&mut piece);
                    ready!(Pin::new(&mut this.stream).poll_read(context, &mut piece))?;
                    let searched = line.len();
                    line.extend_from_slice(piece.filled());
                    let end = line[searched..].iter().position(|byte| *byte == b'\n');
                    let end = end.map(|at| searched + at);
                    if piece.filled().is_empty() && line.is_empty() {
                        this.state = State::Done;
                        return Poll::Ready(Ok(()));
                    }
                    if end.is_some() || line.len() > LINE_BYTES_MAX || piece.filled().is_empty() {
                        let data = escaped(std::mem::take(line), end);
                        this.state = State::Pass(data, 0);
                    }
                }
            }
        }
    }
}

/// The same bytes with the target of the line that ends at `end` escaped.
fn escaped(data: Vec<u8>, end: Option<usize>) -> Vec<u8> {
    let Some(end) = end else { return data };
    let line = &data[..end];
    let first = line.iter().position(|byte| *byte == b' ');
    let last = line.iter().rposition(|byte| *byte == b' ');
    let (Some(first), Some(last)) = (first, last) else {
        return data;
    };
    let is_sound = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x3B | 0x3D | 0x3F..=0x7E);
    if first >= last || data[first + 1..last].iter().all(is_sound) {
        return data;
    }
    let mut out = data[..=first].to_vec();
    for byte in &data[first + 1..last] {
        match is_sound(byte) {
            true => out.push(*byte),
            false => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out.extend_from_slice(&data[last..]);
    out
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Escaped<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn read(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        let sent = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut out = Vec::new();
        Escaped::new(server).read_to_end(&mut out).await.unwrap();
        sent.await.unwrap();
        out
    }

    #[tokio::test]
    async fn the_first_target_is_escaped_and_nothing_else() {
        let check = async |pieces: &[&[u8]], want: &[u8]| {
            let got = read(pieces).await;
            assert_eq!(got, want, "{}", String::from_utf8_lossy(&got));
        };
        let rest = b"Host: \"x\"\r\n\r\n\"body\"\n";
        check(
            &[
                b"GET /a?f={\"b\":",
                b"[\"c d\"]}&g=%22 HTTP/1.1\r",
                b"\n",
                rest,
            ],
            &[
                &b"GET /a?f={%22b%22:[%22c%20d%22]}&g=%22 HTTP/1.1\r\n"[..],
                rest,
            ]
            .concat(),
        )
        .await;
        check(&[b"GET / HTTP/1.1\r\n\r\n"], b"GET / HTTP/1.1\r\n\r\n").await;
        check(&[b"nonsense"], b"nonsense").await;
        check(&[b"\n\"\n"], b"\n\"\n").await;
        check(&[b""], b"").await;
        let long = vec![b'"'; LINE_BYTES_MAX * 2];
        check(&[&long], &long).await;
    }
}
