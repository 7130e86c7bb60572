//! Places to talk from: namespaces of nodes and tasks, and clients of their own on the nodes' wire.
//! Sockets stay in the namespace they were made in, so no program has to run there.

use std::fs::File;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::gettid;

use crate::cluster::on_wire;
use crate::run::{Ran, TIMEOUT, run, words};
use crate::{Cluster, needs};

/// A network namespace.
#[derive(Debug, Clone)]
pub struct Station {
    path: PathBuf,
}

impl Station {
    /// The namespace of a process.
    pub fn of(pid: u32) -> Self {
        Self::at(format!("/proc/{pid}/ns/net"))
    }

    /// The namespace behind a file.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Whether it is that of a process.
    pub fn is_of(&self, pid: u32) -> bool {
        self.path == Self::of(pid).path
    }

    /// Moves the calling thread there for good: it should be one made for that.
    #[track_caller]
    pub fn enter(&self) {
        let netns = File::open(&self.path).expect("a namespace that exists");
        setns(netns, CloneFlags::CLONE_NEWNET).expect("root may enter it");
    }

    /// Does something in there, on a thread of its own.
    #[track_caller]
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                f()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program of this machine in there; the line is split at spaces, single quotes keep some.
    #[track_caller]
    pub fn run(&self, line: &str) -> Ran {
        let found = |name: &str| needs::program(name).unwrap_or_else(|| panic!("{name} is needed"));
        let words = words(line);
        let mut command = Command::new(found("nsenter"));
        command
            .arg(format!("--net={}", self.path.display()))
            .arg(found(&words[0]))
            .args(&words[1..]);
        run(&mut command, b"", TIMEOUT)
    }

    /// Runs `ip` in there.
    #[track_caller]
    pub fn ip(&self, line: &str) -> String {
        self.run(&format!("ip {line}")).ok()
    }
}

/// An address and the length of its subnet's prefix.
type IpNet4 = (std::net::Ipv4Addr, u8);

/// A machine on the nodes' wire that is none of the cluster's. It goes when it is dropped.
pub struct Outsider {
    pub station: Station,
    thread: nix::unistd::Pid,
    /// Its thread is the namespace's only holder.
    _ends: mpsc::Sender<()>,
}

impl Outsider {
    /// Plugs in a machine with the last number of its addresses.
    #[track_caller]
    pub fn plug(cluster: &Cluster, number: u8) -> Self {
        let (ends, wait) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may");
            tell.send(gettid()).expect("somebody waits for it");
            // Until the other end is dropped.
            let _ = wait.recv();
        });
        let thread = told.recv().expect("it tells");
        let station = Station::at(format!("/proc/{}/task/{thread}/ns/net", std::process::id()));
        let port = format!("skc{number}");
        let wire = cluster.root.join("wire/netns/skep-dev");
        let ip = |line: &str| on_wire(&wire, &line.split(' ').collect::<Vec<_>>());
        ip(&format!(
            "link add {port} type veth peer name eth0 netns {thread}"
        ));
        ip(&format!("link set {port} master skepdev0 up"));
        let [a, b, c] = cluster.subnet;
        station.ip("link set lo up");
        station.ip("link set eth0 up");
        station.ip(&format!("addr add {a}.{b}.{c}.{number}/24 dev eth0"));
        station.ip(&format!("addr add {}/64 dev eth0 nodad", address6(number)));
        Self {
            station,
            thread,
            _ends: ends,
        }
    }

    /// Lays a cable of its own to another one; these are the addresses at its ends.
    #[track_caller]
    pub fn join(&self, other: &Self, ends: [IpNet4; 2]) {
        let here = &self.station;
        here.ip(&format!(
            "link add own type veth peer name own netns {}",
            other.thread
        ));
        for (station, (ip, length)) in [(here, ends[0]), (&other.station, ends[1])] {
            station.ip("link set own up");
            station.ip(&format!("addr add {ip}/{length} dev own"));
        }
    }
}

/// The IPv6 address on the wire that goes with the last number of an IPv4 one.
pub fn address6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into())
}

/// The namespace of a node, which is there whether its daemon runs or not.
pub fn node(cluster: &Cluster, name: &str) -> Station {
    Station::at(cluster.root.join(format!("wire/host/netns/dev-{name}")))
}
