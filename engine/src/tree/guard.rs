//! Looks over an archive's headers before the archive library does.
//!
//! Extension records (long names, extended headers) are held in memory whole by
//! whoever reads them, so an archive could ask for any amount of it. This reader
//! passes an archive through unchanged and fails at the first such record that
//! is larger than any real one.

use std::io::{self, Read};

/// Largest extension record; attributes of one file are at most 64 KiB each.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
const BLOCK: usize = 512;

/// See the module.
pub(crate) struct HeaderGuard<R> {
    inner: R,
    header: [u8; BLOCK],
    filled: usize,
    /// Bytes of contents and padding before the next header.
    skip: u64,
    /// Size of the next entry's contents as an extended header gave it.
    size_override: Option<u64>,
    /// Bytes of an extended header being collected.
    extended: Option<Vec<u8>>,
}

impl<R: Read> HeaderGuard<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            header: [0; BLOCK],
            filled: 0,
            skip: 0,
            size_override: None,
            extended: None,
        }
    }

    /// Follows the framing through `data`.
    fn watch(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            if self.skip > 0 {
                let count = usize::try_from(self.skip)
                    .unwrap_or(usize::MAX)
                    .min(data.len());
                if let Some(extended) = &mut self.extended {
                    extended.extend_from_slice(&data[..count]);
                }
                self.skip -= count as u64;
                data = &data[count..];
                if self.skip == 0
                    && let Some(extended) = self.extended.take()
                {
                    self.size_override = size_record(&extended).or(self.size_override);
                }
                continue;
            }
            let count = (BLOCK - self.filled).min(data.len());
            self.header[self.filled..self.filled + count].copy_from_slice(&data[..count]);
            self.filled += count;
            data = &data[count..];
            if self.filled == BLOCK {
                self.filled = 0;
                self.header_complete()?;
            }
        }
        Ok(())
    }

    fn header_complete(&mut self) -> io::Result<()> {
        if self.header.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        let declared = number(&self.header[124..136]);
        match self.header[156] {
            b'x' | b'g' | b'L' | b'K' => {
                if declared > EXTENSION_BYTES_MAX {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("archive has an extension record of {declared} bytes"),
                    ));
                }
                if self.header[156] == b'x' {
                    self.extended = Some(Vec::new());
                }
                self.skip = padded(declared);
            }
            _ => self.skip = padded(self.size_override.take().unwrap_or(declared)),
        }
        if self.skip == 0 {
            self.extended = None;
        }
        Ok(())
    }
}

impl<R: Read> Read for HeaderGuard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.watch(&buffer[..count])?;
        Ok(count)
    }
}

fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64)
}

/// A number of a header: octal text, or base 256 when the first bit is set.
fn number(field: &[u8]) -> u64 {
    if field[0] & 0x80 != 0 {
        return field[1..]
            .iter()
            .fold(0u64, |sum, byte| sum.wrapping_shl(8) | u64::from(*byte));
    }
    field
        .iter()
        .filter(|byte| (b'0'..=b'7').contains(*byte))
        .fold(0u64, |sum, byte| {
            sum.wrapping_mul(8) + u64::from(byte - b'0')
        })
}

/// The value of `size` in an extended header.
fn size_record(records: &[u8]) -> Option<u64> {
    tar::PaxExtensions::new(records)
        .filter_map(Result::ok)
        .find(|record| record.key() == Ok("size"))
        .and_then(|record| record.value().ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive_with_long_name() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        builder
            .append_data(&mut header, "n".repeat(300), &b"hello"[..])
            .unwrap();
        builder
            .append_pax_extensions([("path", &b"other"[..])])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(700);
        builder
            .append_data(&mut header, "x", &[7u8; 700][..])
            .unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_sane_archive_passes_in_pieces_of_any_size() {
        let archive = archive_with_long_name();
        for size in [1, 7, 511, 512, 513, 4096] {
            let mut guard = HeaderGuard::new(&archive[..]);
            let mut passed = Vec::new();
            let mut buffer = vec![0; size];
            loop {
                let count = guard.read(&mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                passed.extend_from_slice(&buffer[..count]);
            }
            assert_eq!(passed, archive);
        }
    }

    #[test]
    fn a_huge_extension_is_refused_before_it_is_read() {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(1 << 40);
        header.set_cksum();
        let mut guard = HeaderGuard::new(&header.as_bytes()[..]);
        assert!(io::copy(&mut guard, &mut io::sink()).is_err());
    }
}
