//! What a container writes, cut into entries and kept.

mod journal;
mod json_file;
mod lines;
mod remote;
mod syslog;

use std::io;

use crate::config::{LogConfig, LogDriver};

pub use json_file::JsonFile;
pub use lines::{Entry, Lines};
pub use remote::{Address, Remote, RemoteConfig, SyslogFormat};

/// How a start that fails for its log begins to say so.
pub const FAILED: &str = "failed to initialize logging driver";

/// Which of a process's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Output {
    Stdout,
    Stderr,
}

impl Output {
    /// Docker's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// How severe syslog and the journal take it: informational or an error.
    pub const fn severity(self) -> u32 {
        match self {
            Self::Stdout => 6,
            Self::Stderr => 3,
        }
    }
}

/// Where one container's entries go: a file, somebody else, or both.
pub struct Log {
    pub file: Option<JsonFile>,
    pub remote: Option<Remote>,
}

impl Log {
    /// Opens what is configured.
    ///
    /// # Errors
    /// The file cannot be written, or whoever is to keep the log is not there.
    pub fn open(config: &LogConfig) -> io::Result<Self> {
        let file = match config.driver {
            LogDriver::JsonFile | LogDriver::Local => Some(JsonFile::open(
                config.path.clone(),
                config.max_size,
                config.max_file,
                &config.attrs,
            )?),
            LogDriver::None => None,
        };
        let remote = config.remote.clone().map(Remote::open).transpose()?;
        Ok(Self { file, remote })
    }

    /// Whether anybody keeps anything.
    pub fn is_kept(&self) -> bool {
        self.file.is_some() || self.remote.is_some()
    }

    /// Adds an entry; it is on its way at the next [`Log::flush`] at the latest.
    pub fn write(&mut self, output: Output, entry: Entry<'_>) {
        if let Some(remote) = &mut self.remote {
            remote.write(output, &entry);
        }
        if let Some(file) = &mut self.file {
            file.write(output, entry);
        }
    }

    /// Writes and sends what was gathered.
    pub fn flush(&mut self) {
        if let Some(remote) = &mut self.remote {
            remote.send();
        }
        if let Some(file) = &mut self.file {
            file.flush();
        }
    }

    /// Entries that could not be written, or that nobody took.
    pub fn lost(&self) -> u64 {
        let file = self.file.as_ref().map_or(0, JsonFile::lost);
        file.max(self.remote.as_ref().map_or(0, Remote::lost))
    }

    /// Whether nothing waits to be sent.
    pub fn is_drained(&self) -> bool {
        self.remote.as_ref().is_none_or(Remote::is_drained)
    }
}
