//! `docker logs`: reads what shims wrote, through rotation, and follows.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use skep_model::Timestamp;
use tokio::sync::mpsc;

use super::log_options::can_be_read;
use super::record::Status;
use crate::clock;
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::options::LogOptions;
use crate::streams::{LogFrame, LogStream, StdStream, blocking};

/// Lines waiting for a slow reader.
const LINES_MAX: usize = 256;
/// Lines read at a time.
const BATCH: usize = 512;
/// Bytes read at a time.
const PIECE: usize = 64 << 10;
/// Longest line of a log file; shims write entries of 16 KiB.
const LINE_BYTES_MAX: usize = 1 << 20;
/// How often a followed log is looked at. A read at the end costs microseconds.
const FOLLOW_PERIOD: Duration = Duration::from_millis(100);
/// Most rotated files looked for.
const ROTATED_MAX: u32 = 1000;

/// One entry of a log file.
#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
    #[serde(default)]
    time: String,
}

impl Engine {
    /// A container's log: whether it is of a terminal, and its lines. With
    /// `follow` the stream ends when the container has.
    pub async fn container_logs(
        &self,
        name: &str,
        options: LogOptions,
    ) -> Result<(bool, LogStream)> {
        let container = self.containers.find(name)?;
        let (tty, readable, status) = {
            let inner = container.lock();
            let record = &inner.record;
            (
                record.config.tty,
                can_be_read(&record.host_config.log_config),
                record.state.status,
            )
        };
        if !(options.stdout || options.stderr) {
            return Err(EngineError::invalid(
                "Bad parameters: you must choose at least one stream",
            ));
        }
        if !readable {
            return Err(EngineError::not_implemented(
                "configured logging driver does not support reading",
            ));
        }
        if matches!(status, Status::Dead | Status::Removing) {
            return Err(EngineError::conflict(
                "can not get logs from container which is dead or marked for removal",
            ));
        }
        let (sender, receiver) = mpsc::channel(LINES_MAX);
        let path = container.log_file();
        let tail = options.tail;
        let mut reader =
            blocking(move || Reader::open(path, tail).during(|| "cannot read the log".into()))
                .await?;
        let mut pulse = container.watch();
        self.spawn(async move {
            loop {
                // Looked at before the reading: an end seen now means that the
                // log is whole now.
                let over = {
                    let pulse = pulse.borrow_and_update();
                    !pulse.running || pulse.removed
                };
                let read = blocking(move || {
                    let batch = reader.batch().during(|| "cannot read the log".into())?;
                    Ok((reader, batch))
                })
                .await;
                let batch = match read {
                    Ok((back, batch)) => {
                        reader = back;
                        batch
                    }
                    Err(error) => {
                        let _ = sender.send(Err(error)).await;
                        return;
                    }
                };
                let at_end = batch.is_empty();
                for frame in batch {
                    if options.until.is_some_and(|until| frame.at > until) {
                        return;
                    }
                    let wanted = match frame.stream {
                        StdStream::Stdout => options.stdout,
                        StdStream::Stderr => options.stderr,
                    };
                    if wanted
                        && options.since.is_none_or(|since| frame.at >= since)
                        && sender.send(Ok(frame)).await.is_err()
                    {
                        return;
                    }
                }
                if !at_end {
                    continue;
                }
                let past = options.until.is_some_and(|until| clock::now() > until);
                if !options.follow || over || past {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(FOLLOW_PERIOD) => {}
                    _ = pulse.changed() => {}
                    () = sender.closed() => return,
                }
            }
        });
        Ok((tty, LogStream::new(receiver)))
    }
}

/// Reads log files from oldest to newest, and goes on where they grow.
struct Reader {
    path: PathBuf,
    file: Option<File>,
    position: u64,
    /// Bytes that are not a whole line yet.
    rest: Vec<u8>,
    ready: VecDeque<LogFrame>,
}

impl Reader {
    /// Begins at the first line, or so many lines before the end.
    fn open(path: PathBuf, tail: Option<usize>) -> io::Result<Self> {
        let mut files = Vec::new();
        for number in 0..ROTATED_MAX {
            match File::open(numbered(&path, number)) {
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound && number > 0 => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let mut reader = Self {
            path,
            file: None,
            position: 0,
            rest: Vec::new(),
            ready: VecDeque::new(),
        };
        // `files` is newest first.
        match tail {
            None => reader.file = files.pop(),
            Some(lines) => {
                let mut left = lines;
                for file in files {
                    let (start, found) = start_of_tail(&file, left)?;
                    reader.file = Some(file);
                    reader.position = start;
                    left -= found;
                    if left == 0 {
                        break;
                    }
                }
            }
        }
        Ok(reader)
    }

    /// The next lines; none at the present end.
    fn batch(&mut self) -> io::Result<Vec<LogFrame>> {
        while self.ready.len() < BATCH {
            if !self.fill()? && !self.advance()? {
                break;
            }
        }
        let count = self.ready.len().min(BATCH);
        Ok(self.ready.drain(..count).collect())
    }

    /// Reads more of the present file; false at its end.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else {
            return Ok(false);
        };
        // A log of one file is emptied when it is full.
        if file.metadata()?.len() < self.position {
            self.position = 0;
            self.rest.clear();
        }
        file.seek(SeekFrom::Start(self.position))?;
        let before = self.rest.len();
        file.take(PIECE as u64).read_to_end(&mut self.rest)?;
        let count = self.rest.len() - before;
        if count == 0 {
            return Ok(false);
        }
        self.position += count as u64;
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            let line = &self.rest[start..start + length];
            // A line that is no entry was cut by a full disk or a crash.
            self.ready.extend(parse(line));
            start += length + 1;
        }
        self.rest.drain(..start);
        if self.rest.len() > LINE_BYTES_MAX {
            self.rest.clear();
        }
        Ok(true)
    }

    /// Goes to the next newer file, if there is one.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else {
            return self.switch(&self.path.clone());
        };
        let own = (file.metadata()?.dev(), file.metadata()?.ino());
        let is_own = |path: &Path| {
            fs::metadata(path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == own)
        };
        if is_own(&self.path) {
            return Ok(false);
        }
        // It was renamed. What was written to it between our last look and that
        // is still to be read.
        if file.metadata()?.len() > self.position {
            return Ok(true);
        }
        let mut number = 1;
        while number < ROTATED_MAX {
            let path = numbered(&self.path, number);
            if is_own(&path) {
                return self.switch(&numbered(&self.path, number - 1));
            }
            if !path.exists() {
                break;
            }
            number += 1;
        }
        // Ours is gone already: the oldest that is left comes next.
        self.switch(&numbered(&self.path, number - 1))
    }

    fn switch(&mut self, path: &Path) -> io::Result<bool> {
        match File::open(path) {
            Ok(file) => {
                self.file = Some(file);
                self.position = 0;
                self.rest.clear();
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// `log`, `log.1`, `log.2`, …
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Where the last `lines` lines of a file begin, and how many it has of them.
fn start_of_tail(file: &File, lines: usize) -> io::Result<(u64, usize)> {
    let mut end = file.metadata()?.len();
    if lines == 0 {
        return Ok((end, 0));
    }
    let mut found = 0;
    let mut piece = vec![0; PIECE];
    let last = end;
    while end > 0 {
        let start = end.saturating_sub(PIECE as u64);
        let length = usize::try_from(end - start).unwrap_or(PIECE);
        file.read_exact_at(&mut piece[..length], start)?;
        for at in (0..length).rev() {
            let position = start + at as u64;
            // The newline at the very end belongs to the last line.
            if piece[at] == b'\n' && position + 1 != last {
                found += 1;
                if found == lines {
                    return Ok((position + 1, found));
                }
            }
        }
        end = start;
    }
    Ok((0, if last > 0 { found + 1 } else { 0 }))
}

fn parse(line: &[u8]) -> Option<LogFrame> {
    let entry: Entry = serde_json::from_slice(line).ok()?;
    Some(LogFrame {
        stream: match entry.stream.as_str() {
            "stderr" => StdStream::Stderr,
            _ => StdStream::Stdout,
        },
        at: Timestamp::parse(&entry.time).ok()?,
        line: Bytes::from(entry.log),
        attributes: entry.attrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn entry(text: &str) -> String {
        format!(
            "{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00.5Z\"}}\n"
        )
    }

    fn append(path: &Path, text: &str) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn lines(reader: &mut Reader) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let batch = reader.batch().unwrap();
            if batch.is_empty() {
                return all;
            }
            all.extend(
                batch
                    .iter()
                    .map(|frame| String::from_utf8_lossy(&frame.line).trim_end().to_owned()),
            );
        }
    }

    #[test]
    fn rotated_files_are_read_oldest_first_and_a_tail_spans_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        append(&numbered(&path, 2), &(entry("a") + &entry("b")));
        append(&numbered(&path, 1), &(entry("c") + &entry("d")));
        append(&path, &entry("e"));
        let read = |tail| lines(&mut Reader::open(path.clone(), tail).unwrap());
        assert_eq!(read(None), ["a", "b", "c", "d", "e"]);
        assert_eq!(read(Some(3)), ["c", "d", "e"]);
        assert_eq!(read(Some(4)), ["b", "c", "d", "e"]);
        assert_eq!(read(Some(100)), ["a", "b", "c", "d", "e"]);
        assert!(read(Some(0)).is_empty());
    }

    #[test]
    fn following_goes_on_through_rotation_and_half_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut reader = Reader::open(path.clone(), None).unwrap();
        assert!(lines(&mut reader).is_empty());
        let second = entry("b");
        append(&path, &(entry("a") + &second[..10]));
        assert_eq!(lines(&mut reader), ["a"]);
        append(&path, &second[10..]);
        append(&path, &entry("c"));
        // Two rotations between two looks.
        fs::rename(&path, numbered(&path, 1)).unwrap();
        append(&path, &entry("d"));
        fs::rename(numbered(&path, 1), numbered(&path, 2)).unwrap();
        fs::rename(&path, numbered(&path, 1)).unwrap();
        append(&path, &entry("e"));
        assert_eq!(lines(&mut reader), ["b", "c", "d", "e"]);
    }

    #[test]
    fn a_log_that_is_emptied_goes_on_from_its_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        append(&path, &(entry("a") + &entry("b")));
        let mut reader = Reader::open(path.clone(), None).unwrap();
        assert_eq!(lines(&mut reader), ["a", "b"]);
        File::create(&path).unwrap();
        append(&path, &entry("c"));
        assert_eq!(lines(&mut reader), ["c"]);
    }

    #[test]
    fn damage_is_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        append(&path, &format!("{}{{\"log\":\n{}", entry("a"), entry("b")));
        assert_eq!(lines(&mut Reader::open(path, None).unwrap()), ["a", "b"]);
    }
}
