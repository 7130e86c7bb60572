//! Frames on the made-up network: one question for each connection.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use skep_consensus::{Chunks, MESSAGE_BYTES_MAX, Member, Transport, TransportError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use turmoil::net::TcpStream;

/// Every member listens here.
pub const PORT: u16 = 2377;

/// What the first byte of a connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A message of another member.
    Message = 1,
    /// A snapshot of another member: its header, its chunks, an empty frame.
    Snapshot = 2,
    /// A client's command.
    Write = 3,
    /// A client asks for a register.
    Read = 4,
}

impl Kind {
    pub fn read(byte: u8) -> Option<Self> {
        let all = [Self::Message, Self::Snapshot, Self::Write, Self::Read];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// The name of a member's host.
pub fn host(member: u64) -> String {
    format!("m{member}")
}

pub async fn connect(host: &str) -> io::Result<TcpStream> {
    TcpStream::connect((host, PORT)).await
}

pub async fn put(stream: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend_from_slice(frame);
    stream.write_all(&whole).await
}

pub async fn take(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await? as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

/// Asks one thing of a host.
pub async fn ask(host: &str, kind: Kind, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(host).await?;
    stream.write_u8(kind as u8).await?;
    put(&mut stream, question).await?;
    take(&mut stream).await
}

/// The members' way to each other.
pub struct Wire;

#[async_trait]
impl Transport for Wire {
    async fn send(
        &self,
        to: &Member,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let asked = ask(&to.address, Kind::Message, &message);
        match tokio::time::timeout(timeout, asked).await {
            Ok(Ok(answer)) => Ok(answer.into()),
            Ok(Err(error)) => Err(TransportError::Unreachable(error.to_string())),
            Err(_) => Err(TransportError::Failed("no answer in time".to_owned())),
        }
    }

    async fn send_snapshot(
        &self,
        to: &Member,
        header: Bytes,
        mut chunks: Chunks,
    ) -> Result<Bytes, TransportError> {
        let failed = |error: io::Error| TransportError::Failed(error.to_string());
        let mut stream = connect(&to.address).await.map_err(failed)?;
        stream
            .write_u8(Kind::Snapshot as u8)
            .await
            .map_err(failed)?;
        put(&mut stream, &header).await.map_err(failed)?;
        while let Some(chunk) = chunks.next().await {
            put(&mut stream, &chunk).await.map_err(failed)?;
        }
        put(&mut stream, &[]).await.map_err(failed)?;
        take(&mut stream).await.map(Bytes::from).map_err(failed)
    }
}
