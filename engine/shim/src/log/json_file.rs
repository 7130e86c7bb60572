//! Docker's `json-file` log: one JSON object per entry, in files that rotate.
//!
//! Written by hand rather than by a JSON library, as tools compare these files byte
//! for byte with docker's: `<`, `>` and `&` are escaped, bytes that are no UTF-8
//! become the replacement character.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use super::{Entry, Output};

/// Entries are gathered up to this many bytes before they are written.
const BATCH_BYTES: usize = 64 * 1024;

/// An open log.
pub struct JsonFile {
    path: PathBuf,
    file: File,
    /// Bytes in the file.
    size: u64,
    max_size: Option<u64>,
    max_file: u32,
    /// `"attrs":{…},` or nothing.
    attributes: Vec<u8>,
    batch: Vec<u8>,
    batched_entries: u64,
    /// Entries that could not be written.
    lost: u64,
}

impl JsonFile {
    /// Opens the log to append to it.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(
        path: PathBuf,
        max_size: Option<u64>,
        max_file: u32,
        attributes: &BTreeMap<String, String>,
    ) -> io::Result<Self> {
        let file = open(&path, false)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path,
            file,
            size,
            max_size,
            max_file: max_file.max(1),
            attributes: attributes_json(attributes),
            batch: Vec::new(),
            batched_entries: 0,
            lost: 0,
        })
    }

    /// Adds an entry; it reaches the file at the next [`JsonFile::flush`] at the
    /// latest.
    pub fn write(&mut self, output: Output, entry: Entry<'_>) {
        if self
            .max_size
            .is_some_and(|max| self.size + self.batch.len() as u64 >= max)
        {
            self.flush();
            if let Err(error) = self.rotate() {
                eprintln!("rotating the log: {error}");
            }
        }
        self.batch.extend_from_slice(b"{\"log\":\"");
        escape(entry.text, &mut self.batch);
        if entry.whole {
            self.batch.extend_from_slice(b"\\n");
        }
        self.batch.extend_from_slice(b"\",\"stream\":\"");
        self.batch.extend_from_slice(output.name().as_bytes());
        self.batch.extend_from_slice(b"\",");
        self.batch.extend_from_slice(&self.attributes);
        self.batch.extend_from_slice(b"\"time\":\"");
        self.batch.extend_from_slice(entry.time.as_bytes());
        self.batch.extend_from_slice(b"\"}\n");
        self.batched_entries += 1;
        if self.batch.len() >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Writes what was gathered. A container must not stop because the disk is
    /// full, so what cannot be written is counted and dropped, and the file is cut
    /// back to its last whole entry.
    pub fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        match self.file.write_all(&self.batch) {
            Ok(()) => self.size += self.batch.len() as u64,
            Err(error) => {
                if self.lost == 0 {
                    eprintln!("writing the log: {error}");
                }
                self.lost += self.batched_entries;
                if let Err(error) = self.file.set_len(self.size) {
                    eprintln!("cutting the log back: {error}");
                }
            }
        }
        self.batch.clear();
        // A burst must not leave its memory behind for the container's whole life.
        self.batch.shrink_to(2 * 1024);
        self.batched_entries = 0;
    }

    /// Entries that could not be written so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// `log` becomes `log.1`, `log.1` becomes `log.2` and so on; the oldest goes.
    /// With one file only, it is emptied.
    fn rotate(&mut self) -> io::Result<()> {
        if self.max_file < 2 {
            self.file = open(&self.path, true)?;
        } else {
            for number in (1..self.max_file - 1).rev() {
                rename_if_there(&self.numbered(number), &self.numbered(number + 1))?;
            }
            rename_if_there(&self.path, &self.numbered(1))?;
            self.file = open(&self.path, false)?;
        }
        self.size = self.file.metadata()?.len();
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(format!(".{number}"));
        path.into()
    }
}

fn open(path: &PathBuf, empty: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)?;
    if empty {
        file.set_len(0)?;
    }
    Ok(file)
}

fn rename_if_there(from: &PathBuf, to: &PathBuf) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn attributes_json(attributes: &BTreeMap<String, String>) -> Vec<u8> {
    if attributes.is_empty() {
        return Vec::new();
    }
    let mut json = b"\"attrs\":{".to_vec();
    for (position, (key, value)) in attributes.iter().enumerate() {
        if position > 0 {
            json.push(b',');
        }
        json.push(b'"');
        escape(key.as_bytes(), &mut json);
        json.extend_from_slice(b"\":\"");
        escape(value.as_bytes(), &mut json);
        json.push(b'"');
    }
    json.extend_from_slice(b"},");
    json
}

/// Appends text as the inside of a JSON string, escaped as Go does for HTML.
fn escape(text: &[u8], json: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        for part in chunk.valid().split_inclusive(needs_escape) {
            match part.chars().next_back() {
                Some(last) if needs_escape(last) => {
                    json.extend_from_slice(&part.as_bytes()[..part.len() - last.len_utf8()]);
                    escape_one(last, json);
                }
                _ => json.extend_from_slice(part.as_bytes()),
            }
        }
        for _ in chunk.invalid() {
            json.extend_from_slice(b"\\ufffd");
        }
    }
}

fn needs_escape(letter: char) -> bool {
    matches!(
        letter,
        '\0'..='\u{1f}' | '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}'
    )
}

fn escape_one(letter: char, json: &mut Vec<u8>) {
    match letter {
        '"' => json.extend_from_slice(b"\\\""),
        '\\' => json.extend_from_slice(b"\\\\"),
        '\n' => json.extend_from_slice(b"\\n"),
        '\r' => json.extend_from_slice(b"\\r"),
        other => json.extend_from_slice(format!("\\u{:04x}", u32::from(other)).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry<'_> {
        Entry {
            text: text.as_bytes(),
            whole: true,
            time: "2025-01-01T00:00:00.5Z",
        }
    }

    #[test]
    fn entries_are_dockers_byte_for_byte() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let attributes = BTreeMap::from([("tag".to_owned(), "a\"b".to_owned())]);
        let mut log = JsonFile::open(path.clone(), None, 1, &attributes).unwrap();
        log.write(
            Output::Stderr,
            Entry {
                text: b"<a>\t\"\xff\r",
                ..entry("")
            },
        );
        log.write(
            Output::Stdout,
            Entry {
                whole: false,
                ..entry("é")
            },
        );
        log.flush();
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            concat!(
                r#"{"log":"\u003ca\u003e\u0009\"\ufffd\r\n","stream":"stderr","attrs":{"tag":"a\"b"},"time":"2025-01-01T00:00:00.5Z"}"#,
                "\n",
                r#"{"log":"é","stream":"stdout","attrs":{"tag":"a\"b"},"time":"2025-01-01T00:00:00.5Z"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn full_files_move_on_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = JsonFile::open(path.clone(), Some(100), 3, &BTreeMap::new()).unwrap();
        for number in 0..10 {
            log.write(Output::Stdout, entry(&format!("{number}")));
        }
        log.flush();
        let numbers = |name: &str| -> Vec<char> {
            let text = std::fs::read_to_string(directory.path().join(name)).unwrap();
            text.lines()
                .map(|line| line.chars().nth(8).unwrap())
                .collect()
        };
        // Two entries of 63 bytes fill a file of 100.
        assert_eq!(numbers("log"), ['8', '9']);
        assert_eq!(numbers("log.1"), ['6', '7']);
        assert_eq!(numbers("log.2"), ['4', '5']);
        assert!(!directory.path().join("log.3").exists());
    }

    #[test]
    fn a_single_file_starts_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = JsonFile::open(path.clone(), Some(100), 1, &BTreeMap::new()).unwrap();
        for number in 0..3 {
            log.write(Output::Stdout, entry(&format!("{number}")));
        }
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("{\"log\":\"2"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
