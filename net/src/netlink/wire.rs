//! The netlink wire format: building messages, walking attributes.

use std::net::IpAddr;

pub(crate) const HEADER: usize = 16;
const NESTED: u16 = 0x8000;
/// Without the "nested" and "network byte order" bits.
const TYPE_MASK: u16 = 0x3fff;

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const ROOT_AND_MATCH: u16 = 0x300;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

/// One request, grown attribute by attribute. Sequence number and length are set
/// when it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    /// An attribute outgrew its 16-bit length: the message must not be sent.
    overflowed: bool,
}

impl Message {
    /// A message of this type with its fixed header.
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Self {
            bytes,
            overflowed: false,
        };
        message.pad();
        message
    }

    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.attr(kind, &[value])
    }

    pub fn u16(self, kind: u16, value: u16) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    pub fn be16(self, kind: u16, value: u16) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A string with its terminating zero.
    pub fn str(mut self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.push(kind, &bytes);
        self
    }

    pub fn ip(self, kind: u16, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.attr(kind, &ip.octets()),
            IpAddr::V6(ip) => self.attr(kind, &ip.octets()),
        }
    }

    /// An attribute that holds what `fill` appends.
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let mut filled = fill(self);
        filled.close(start, kind | NESTED);
        filled
    }

    /// Raw bytes in the middle of a nest, such as a fixed header.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub fn when(self, condition: bool, more: impl FnOnce(Self) -> Self) -> Self {
        if condition { more(self) } else { self }
    }

    pub fn with<T>(self, value: Option<T>, more: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => more(self, value),
            None => self,
        }
    }

    pub fn each<T>(
        self,
        values: impl IntoIterator<Item = T>,
        more: impl FnMut(Self, T) -> Self,
    ) -> Self {
        values.into_iter().fold(self, more)
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(value);
        self.close(start, kind);
    }

    fn close(&mut self, start: usize, kind: u16) {
        let length = self.bytes.len() - start;
        let Ok(short) = u16::try_from(length) else {
            self.overflowed = true;
            return;
        };
        self.bytes[start..start + 2].copy_from_slice(&short.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The finished bytes; `None` when an attribute was too large to be said.
    pub fn finish(mut self, sequence: u32, extra_flags: u16) -> Option<Vec<u8>> {
        if self.overflowed {
            return None;
        }
        let length = u32::try_from(self.bytes.len()).ok()?;
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | extra_flags;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Some(self.bytes)
    }

    /// The bytes after the netlink header, for fingerprints.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }
}

/// Walks the attributes in `bytes`; stops at the first one that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of this type.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// The attribute at the end of a path of nests.
pub(crate) fn find_path<'a>(bytes: &'a [u8], path: &[u16]) -> Option<&'a [u8]> {
    path.iter()
        .try_fold(bytes, |bytes, kind| find(bytes, *kind))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn be16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

pub(crate) fn be32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

pub(crate) fn be64_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// A string attribute, up to its first zero.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address attribute of either family.
pub(crate) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// `AF_INET` or `AF_INET6`.
pub(crate) fn family_of(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_the_round_trip() {
        let message = Message::new(16, ACK, &[7; 5])
            .str(3, "sk-ing")
            .nest(18, |m| m.u32(1, 4096).be16(15, 4789));
        let bytes = message.finish(9, CREATE).unwrap();
        assert_eq!(u32_at(&bytes, 0), Some(bytes.len() as u32));
        assert_eq!(u16_at(&bytes, 6), Some(REQUEST | ACK | CREATE));
        let attrs = &bytes[HEADER + 8..];
        assert_eq!(find(attrs, 3).map(text_of).as_deref(), Some("sk-ing"));
        assert_eq!(find_path(attrs, &[18, 15]).and_then(be16_of), Some(4789));
        assert_eq!(find_path(attrs, &[18, 2]), None);
    }

    #[test]
    fn too_large_an_attribute_is_never_sent() {
        let message = Message::new(16, 0, &[]).attr(1, &vec![0; 70_000]);
        assert!(message.finish(1, 0).is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_can_be_walked(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let walked: usize = attributes(&bytes).map(|(_, value)| value.len() + 4).sum();
            proptest::prop_assert!(walked <= bytes.len() + 3);
            let _ = find_path(&bytes, &[1, 2]);
        }
    }
}
