//! What this host's relay is to do, and that it runs.
//!
//! The relay is a process of its own, which outlives this one: it is known by the
//! lock it holds, told by a file that is replaced, and heard by another file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::desired::cluster::{IngressAddresses, ProxyVersion, Source};
use crate::plan::published::{At, Served};
use crate::{HostConfig, NetError};

/// Names of files in the relay's directory: what it is to do.
pub const PLAN: &str = "plan";
/// Held by the relay; its process id is in there.
pub const LOCK: &str = "lock";
/// Ports that the relay could not listen on: address, blank, reason.
pub const REFUSED: &str = "refused";

/// How long a relay may take to end when it is told to.
const END: Duration = Duration::from_secs(2);

/// What a relay does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The node's own addresses, by which tasks see it.
    pub from: Vec<IpAddr>,
    /// By where they answer; the unspecified address stands for all of its family.
    pub ports: BTreeMap<SocketAddr, Port>,
}

/// A port that is relayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// How tasks are told who the client is.
    pub version: ProxyVersion,
    /// None: clients are refused.
    pub backends: Vec<SocketAddr>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("from")?;
        for ip in &self.from {
            write!(f, " {ip}")?;
        }
        writeln!(f)?;
        for (at, port) in &self.ports {
            let version = match port.version {
                ProxyVersion::V1 => "v1",
                ProxyVersion::V2 => "v2",
            };
            write!(f, "{at} {version}")?;
            for backend in &port.backends {
                write!(f, " {backend}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Plan {
    /// Reads what `Display` wrote. Lines that make no sense are left out: the file
    /// is ours alone, and a relay that goes on is better than one that ends.
    pub fn parse(text: &str) -> Self {
        let mut plan = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let first = words.next().unwrap_or_default();
            if first == "from" {
                plan.from = words.filter_map(|word| word.parse().ok()).collect();
                continue;
            }
            let version = match words.next() {
                Some("v1") => ProxyVersion::V1,
                Some("v2") => ProxyVersion::V2,
                _ => continue,
            };
            if let Ok(at) = first.parse() {
                let backends = words.filter_map(|word| word.parse().ok()).collect();
                plan.ports.insert(at, Port { version, backends });
            }
        }
        plan
    }

    /// The part of what is served that takes a relay.
    fn of(served: &Served, ingress: Option<&IngressAddresses>) -> Self {
        let relayed = served.ports.iter().filter_map(|(at, answer)| {
            let Source::Proxy(version) = answer.source else {
                return None;
            };
            let backends = answer.backends.iter().map(|(ip, port)| (*ip, *port).into());
            let port = Port {
                version,
                backends: backends.collect(),
            };
            Some((SocketAddr::new(at.ip, at.port), port))
        });
        let from = ingress.into_iter().flat_map(|ingress| {
            let ip6 = ingress.ip6.map(|net| IpAddr::V6(net.addr()));
            std::iter::once(IpAddr::V4(ingress.ip4.addr())).chain(ip6)
        });
        Self {
            ports: relayed.collect(),
            from: from.collect(),
        }
    }
}

/// This host's relay, whether it runs or not.
pub(crate) struct Relay {
    directory: PathBuf,
    program: Option<PathBuf>,
    /// The one this process started: whoever starts a process sees it off.
    child: Option<Child>,
}

impl Relay {
    pub fn new(config: &HostConfig) -> Self {
        Self {
            directory: config.run_dir.join("relay"),
            program: config.relay.clone(),
            child: None,
        }
    }

    /// Has the relay do its part of what is served; starts it when it is needed
    /// and does not run. Returns the ports it cannot listen on, with the reason.
    /// Runs in the namespace of the calling thread.
    pub fn follow(
        &mut self,
        served: &Served,
        ingress: Option<&IngressAddresses>,
    ) -> Result<BTreeMap<At, String>, NetError> {
        self.reap();
        let plan = Plan::of(served, ingress);
        let path = self.directory.join(PLAN);
        if plan.ports.is_empty() && !path.exists() {
            return Ok(BTreeMap::new());
        }
        let Some(program) = self.program.clone().filter(|_| !plan.ports.is_empty()) else {
            self.tell(&Plan::default())?;
            let none = |(at, answer): (&At, &crate::plan::published::Answer)| {
                let reason = "this host has no relay for the PROXY protocol".to_owned();
                answer.source.is_relayed().then_some((*at, reason))
            };
            return Ok(served.ports.iter().filter_map(none).collect());
        };
        self.tell(&plan)?;
        if self.child.is_none() && holder(&self.directory).is_none() {
            let mut command = Command::new(&program);
            command
                .arg0("skep")
                .arg("relay")
                .arg(&self.directory)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Lives on when this process ends.
                .process_group(0);
            let child = command
                .spawn()
                .map_err(|source| failed("start", &program, source))?;
            self.child = Some(child);
        }
        let refused = fs::read_to_string(self.directory.join(REFUSED)).unwrap_or_default();
        let refused = refused.lines().filter_map(|line| {
            let (at, reason) = line.split_once(' ')?;
            let at: SocketAddr = at.parse().ok()?;
            let at = At {
                proto: crate::Proto::Tcp,
                port: at.port(),
                ip: at.ip(),
            };
            let wanted = served.ports.get(&at)?;
            wanted.source.is_relayed().then(|| (at, reason.to_owned()))
        });
        Ok(refused.collect())
    }

    /// Replaces the plan, if it is another one.
    fn tell(&self, plan: &Plan) -> Result<(), NetError> {
        // Whoever can open the lock can hold it, and then there is no relay.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .and_then(|()| fs::set_permissions(&self.directory, Permissions::from_mode(0o700)))
            .map_err(|source| failed("create", &self.directory, source))?;
        let (path, next) = (self.directory.join(PLAN), self.directory.join("plan.next"));
        let text = plan.to_string();
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        fs::write(&next, text)
            .and_then(|()| fs::rename(&next, &path))
            .map_err(|source| failed("write", &path, source))
    }

    fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && !matches!(child.try_wait(), Ok(None))
        {
            self.child = None;
        }
    }

    /// Ends the relay, with every connection, and removes its files.
    pub fn end(&mut self) -> Result<(), NetError> {
        if !self.directory.exists() {
            return Ok(());
        }
        self.tell(&Plan::default())?;
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            let Some(pid) = holder(&self.directory) else {
                break;
            };
            // SAFETY: plain integers. The process is the relay of this directory.
            unsafe { libc::kill(pid, signal) };
            let deadline = Instant::now() + END;
            while holder(&self.directory).is_some() && Instant::now() < deadline {
                self.reap();
                thread::sleep(Duration::from_millis(5));
            }
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        fs::remove_dir_all(&self.directory)
            .map_err(|source| failed("remove", &self.directory, source))
    }
}

/// The relay that holds a directory's lock.
fn holder(directory: &Path) -> Option<i32> {
    let path = directory.join(LOCK);
    let lock = File::open(&path).ok()?;
    match lock.try_lock() {
        // Given back with the file.
        Ok(()) => None,
        Err(_) => {
            let pid = fs::read_to_string(&path).ok()?.parse().ok()?;
            is_relay(pid, directory).then_some(pid)
        }
    }
}

/// Whether a process is the relay of this directory: the number in the file may be
/// somebody else's by now. Its program may have been replaced since; its words stay.
fn is_relay(pid: i32, directory: &Path) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let wanted = [
        b"skep",
        b"relay".as_slice(),
        directory.as_os_str().as_bytes(),
    ];
    words.strip_suffix(b"\0") == Some(&wanted.join(&0u8))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> NetError {
    NetError::Io {
        action,
        object: format!("`{}`", path.display()),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_relay_of_the_directory_is_taken_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        // A shell with the words of a relay, of which the first names its script.
        fs::write(path.join("relay"), "read line").unwrap();
        let mut child = Command::new("/bin/sh")
            .arg0("skep")
            .arg("relay")
            .arg(path)
            .current_dir(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let lock = File::create(path.join(LOCK)).unwrap();
        fs::write(path.join(LOCK), pid.to_string()).unwrap();
        assert_eq!(holder(path), None, "nobody holds it");
        lock.lock().unwrap();
        // The kernel lets the parent go on a moment before a new program's words can be read.
        let deadline = Instant::now() + Duration::from_secs(10);
        while holder(path) != Some(pid) {
            assert!(Instant::now() < deadline, "the relay is not known");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!is_relay(pid, Path::new("/elsewhere")));
        // The number is another's by now: this very process's.
        fs::write(path.join(LOCK), std::process::id().to_string()).unwrap();
        assert_eq!(holder(path), None);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!is_relay(pid, path));
    }

    #[test]
    fn what_the_relay_is_told_is_for_root_alone() {
        let place = tempfile::tempdir().unwrap();
        let relay = Relay::new(&HostConfig::new(place.path()));
        let mode = || fs::metadata(&relay.directory).unwrap().permissions().mode() & 0o777;
        relay.tell(&Plan::default()).unwrap();
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&relay.directory, Permissions::from_mode(0o755)).unwrap();
        relay.tell(&Plan::default()).unwrap();
        assert_eq!(mode(), 0o700, "one made before as well");
    }

    #[test]
    fn plans_are_read_as_they_were_written() {
        let port = |version, backends: &[&str]| Port {
            version,
            backends: backends.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let plan = Plan {
            from: vec!["10.255.0.1".parse().unwrap(), "fd5a::1".parse().unwrap()],
            ports: BTreeMap::from([
                (
                    "0.0.0.0:80".parse().unwrap(),
                    port(ProxyVersion::V1, &["10.255.0.7:80", "10.255.0.8:80"]),
                ),
                (
                    "[::]:80".parse().unwrap(),
                    port(ProxyVersion::V2, &["[fd5a::7]:80"]),
                ),
                ("10.0.0.5:81".parse().unwrap(), port(ProxyVersion::V2, &[])),
            ]),
        };
        assert_eq!(Plan::parse(&plan.to_string()), plan);
        assert_eq!(Plan::parse(&Plan::default().to_string()), Plan::default());
        assert_eq!(Plan::parse("x v1\n1.2.3.4:5 v9\n\n"), Plan::default());
    }
}
