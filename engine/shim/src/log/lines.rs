//! Cuts a stream of bytes into log entries as docker does: one per line, and long
//! lines in pieces of 16 KiB of which only the last ends in a newline.

/// Longest piece of a line in one entry.
pub const PARTIAL_BYTES_MAX: usize = 16 * 1024;

/// One entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The text without its newline.
    pub text: &'a [u8],
    /// Whether a newline followed.
    pub whole: bool,
    /// When its line began to be seen.
    pub time: &'a str,
}

/// The unfinished line of one stream.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
    /// Docker gives all pieces of one line the time of the first.
    first_piece: Option<String>,
}

impl Lines {
    /// Takes bytes that arrived `now` and gives the entries they complete.
    pub fn push(&mut self, mut bytes: &[u8], now: &str, mut emit: impl FnMut(Entry<'_>)) {
        while !bytes.is_empty() {
            let room = PARTIAL_BYTES_MAX - self.pending.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|&byte| byte == b'\n') {
                Some(end) => {
                    let time = self.first_piece.take();
                    let time = time.as_deref().unwrap_or(now);
                    if self.pending.is_empty() {
                        emit(Entry {
                            text: &bytes[..end],
                            whole: true,
                            time,
                        });
                    } else {
                        self.pending.extend_from_slice(&bytes[..end]);
                        emit(Entry {
                            text: &self.pending,
                            whole: true,
                            time,
                        });
                        self.pending.clear();
                    }
                    bytes = &bytes[end + 1..];
                }
                None => {
                    self.pending.extend_from_slice(window);
                    bytes = &bytes[window.len()..];
                    if self.pending.len() == PARTIAL_BYTES_MAX {
                        self.emit_piece(now, &mut emit);
                    }
                }
            }
        }
    }

    /// The stream ended: gives what is left, without a newline as docker does.
    pub fn finish(&mut self, now: &str, mut emit: impl FnMut(Entry<'_>)) {
        if !self.pending.is_empty() {
            self.emit_piece(now, &mut emit);
        }
    }

    fn emit_piece(&mut self, now: &str, emit: &mut impl FnMut(Entry<'_>)) {
        let time = self.first_piece.get_or_insert_with(|| now.to_owned());
        emit(Entry {
            text: &self.pending,
            whole: false,
            time,
        });
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool, String)> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        let mut note = |entry: Entry<'_>| {
            seen.push((entry.text.to_vec(), entry.whole, entry.time.to_owned()));
        };
        for (time, chunk) in chunks.iter().enumerate() {
            lines.push(chunk, &time.to_string(), &mut note);
        }
        lines.finish("end", &mut note);
        seen
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let seen = entries(&[b"one\ntw", b"o\n\nthree"]);
        let texts: Vec<(&[u8], bool)> = seen.iter().map(|e| (&e.0[..], e.1)).collect();
        assert_eq!(
            texts,
            [
                (&b"one"[..], true),
                (b"two", true),
                (b"", true),
                (b"three", false)
            ]
        );
    }

    #[test]
    fn a_long_line_is_cut_and_its_pieces_share_a_time() {
        let long = vec![b'x'; PARTIAL_BYTES_MAX + 10];
        let seen = entries(&[&long, b"y\nz\n"]);
        let shape: Vec<(usize, bool, &str)> = seen
            .iter()
            .map(|e| (e.0.len(), e.1, e.2.as_str()))
            .collect();
        assert_eq!(
            shape,
            [
                (PARTIAL_BYTES_MAX, false, "0"),
                (11, true, "0"),
                (1, true, "1")
            ]
        );
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(chunks in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40_000), 0..6)) {
            let parts: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let mut back = Vec::new();
            for (text, whole, _) in entries(&parts) {
                prop_assert!(text.len() <= PARTIAL_BYTES_MAX);
                back.extend(text);
                if whole { back.push(b'\n'); }
            }
            prop_assert_eq!(back, chunks.concat());
        }
    }
}
