//! Docker's form for two streams on one connection: eight bytes (stream, three
//! zeros, length in big endian) before each piece.

/// Number of standard output in a header.
pub const STDOUT: u8 = 1;
/// Number of standard error in a header.
pub const STDERR: u8 = 2;

/// The header of a piece of `length` bytes.
pub fn header(stream: u8, length: u32) -> [u8; 8] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream, 0, 0, 0, a, b, c, d]
}

/// Reads a header back: stream and length.
pub fn parse_header(header: [u8; 8]) -> (u8, u32) {
    let [stream, _, _, _, a, b, c, d] = header;
    (stream, u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_dockers() {
        assert_eq!(header(STDERR, 258), [2, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(parse_header(header(STDOUT, 7)), (STDOUT, 7));
    }
}
