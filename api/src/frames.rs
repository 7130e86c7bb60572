//! How output travels: stdcopy frames, and the decorations of log lines.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use skep_engine::StdStream;
use skep_model::Timestamp;

use crate::query::escape;
use crate::version::ApiVersion;

/// Content type of raw output, and of framed output before API 1.42.
pub const RAW: &str = "application/vnd.docker.raw-stream";
/// Content type of framed output.
pub const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// The content type of a stream of a process with or without terminal.
pub fn content_type(version: ApiVersion, tty: bool) -> &'static str {
    if tty || version < ApiVersion::new(1, 42) {
        RAW
    } else {
        MULTIPLEXED
    }
}

/// One stdcopy frame: stream number, three zeros, length as big-endian u32, data.
pub fn frame(stream: StdStream, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + data.len());
    out.put_u8(match stream {
        StdStream::Stdout => 1,
        StdStream::Stderr => 2,
    });
    out.put_slice(&[0, 0, 0]);
    out.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    out.put_slice(data);
    out.freeze()
}

/// Frames, or passes on as it is for a terminal.
pub fn encode(tty: bool, stream: StdStream, data: Bytes) -> Bytes {
    if tty { data } else { frame(stream, &data) }
}

/// A log line with timestamp and attributes in front, as asked for.
pub fn log_line(
    line: Bytes,
    at: Option<Timestamp>,
    attributes: Option<&BTreeMap<String, String>>,
) -> Bytes {
    if at.is_none() && attributes.is_none() {
        return line;
    }
    let mut out = BytesMut::with_capacity(line.len() + 64);
    if let Some(at) = at {
        out.put_slice(fixed(at).as_bytes());
        out.put_u8(b' ');
    }
    if let Some(attributes) = attributes {
        let pairs: Vec<String> = attributes
            .iter()
            .map(|(key, value)| format!("{}={}", escape(key), escape(value)))
            .collect();
        out.put_slice(pairs.join(",").as_bytes());
        out.put_u8(b' ');
    }
    out.put_slice(&line);
    out.freeze()
}

/// RFC 3339 with nine fraction digits, so that columns line up.
pub fn fixed(at: Timestamp) -> String {
    let text = at.to_string();
    let plain = text.trim_end_matches('Z');
    let (seconds, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_stream_and_length_in_front() {
        assert_eq!(
            &frame(StdStream::Stderr, b"hi\n")[..],
            [2, 0, 0, 0, 0, 0, 0, 3, b'h', b'i', b'\n']
        );
        assert_eq!(
            encode(true, StdStream::Stdout, Bytes::from_static(b"x")),
            "x"
        );
    }

    #[test]
    fn timestamps_come_before_attributes_and_both_before_the_line() {
        let attributes = BTreeMap::from([
            ("b".to_owned(), "x y".to_owned()),
            ("a".to_owned(), "1/2".to_owned()),
        ]);
        let at = Timestamp(1_763_892_000_500_000_000);
        let line = || Bytes::from_static(b"hello\n");
        assert_eq!(
            log_line(line(), Some(at), Some(&attributes)),
            "2025-11-23T10:00:00.500000000Z a=1%2F2,b=x+y hello\n"
        );
        assert_eq!(log_line(line(), None, None), "hello\n");
        assert_eq!(
            fixed(Timestamp::from_secs(1_763_892_000)),
            "2025-11-23T10:00:00.000000000Z"
        );
    }
}
