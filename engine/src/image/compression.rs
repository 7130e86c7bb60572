//! Compressed streams, recognised by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

use sha2::{Digest as _, Sha256};

use super::digest::Digest;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// What these first bytes are.
    pub(crate) fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// What follows the media type of a layer.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// Reads `input` decompressed.
pub(crate) fn decompress<'a>(
    input: impl Read + Send + 'a,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut input = BufReader::with_capacity(128 << 10, input);
    let compression = Compression::of(input.fill_buf()?);
    let output: Box<dyn Read + Send> = match compression {
        Compression::None => match input.buffer() {
            [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', b'Z', ..] => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "bzip2 and xz compressed archives are not supported",
                ));
            }
            _ => Box::new(input),
        },
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
    };
    Ok((compression, output))
}

/// Hashes what passes.
pub(crate) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    length: u64,
}

impl<R> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            length: 0,
        }
    }

    /// Digest and length of what passed.
    pub(crate) fn finish(self) -> (Digest, u64) {
        (Digest::from_hash(&self.hash.finalize()), self.length)
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.length += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn streams_are_recognised_and_read() {
        let text = b"some text that is long enough to be worth it".repeat(20);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let zstd = zstd::encode_all(&text[..], 3).unwrap();
        for (given, expected) in [
            (gzip.finish().unwrap(), Compression::Gzip),
            (zstd, Compression::Zstd),
            (text.clone(), Compression::None),
        ] {
            let (compression, mut reader) = decompress(&given[..]).unwrap();
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            assert_eq!((compression, read), (expected, text.clone()));
        }
        assert!(decompress(&b"BZh91AY"[..]).is_err());
    }
}
