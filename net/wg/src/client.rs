//! The other end of a tunnel process's control socket.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::serve::read_message;
use crate::uapi::{self, Config};

/// How long a process may take to answer. It is busy with packets, never for long.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the process is configured to.
pub fn get(control: &Path) -> io::Result<Config> {
    let answer = ask(control, "get=1\n\n")?;
    check(&answer)?;
    uapi::parse_answer(&answer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Changes the configuration.
pub fn set(control: &Path, config: &Config) -> io::Result<()> {
    check(&ask(control, &uapi::set_request(config))?)
}

fn ask(control: &Path, request: &str) -> io::Result<zeroize::Zeroizing<String>> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    read_message(&stream)
}

/// The last line of every answer is its error number.
fn check(answer: &str) -> io::Result<()> {
    let errno = answer
        .lines()
        .last()
        .and_then(|line| line.strip_prefix("errno="));
    match errno.and_then(|errno| errno.parse().ok()) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
