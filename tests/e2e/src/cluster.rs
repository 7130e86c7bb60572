//! A cluster on this machine, and the ways its users reach it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::footprint::{self, Footprint};
use crate::guard::Guard;
use crate::http::{self, Answer, PAGE_TIMEOUT};
use crate::needs;
use crate::run::{Ran, TIMEOUT, run, words};
use crate::wait::{eventually, holds, patient, secs};

/// Clusters live here, under short names: paths of unix sockets are at most 107 bytes long.
const PLACE: &str = "/tmp";
/// Held while a cluster is up.
const LOCK: &str = "/tmp/sk-e2e.lock";
/// Where a cluster keeps the namespace of the bridge that joins its nodes.
const WIRE: &str = "wire/netns/skep-dev";
/// How long bringing up may take at most.
const UP: Duration = Duration::from_secs(90);
/// How long taking down may take at most.
const DOWN: Duration = Duration::from_secs(90);
/// The kernel removes some things a moment after they were told to go.
const SETTLE: Duration = Duration::from_secs(5);

/// One test of this process at a time has a cluster, where tests are threads.
static ONE: Mutex<()> = Mutex::new(());

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub address: Ipv4Addr,
    pub manager: bool,
}

/// A cluster that is up. Dropping it takes it down and fails the test if anything of it stays.
pub struct Cluster {
    pub root: PathBuf,
    pub subnet: [u8; 3],
    pub nodes: Vec<Node>,
    /// What bringing it up printed.
    pub story: String,
    /// How long bringing it up took.
    pub took: Duration,
    before: Footprint,
    guard: Guard,
    is_down: bool,
    // Given back last.
    _lock: File,
    _one: MutexGuard<'static, ()>,
}

/// The binary under test.
pub fn skep_binary() -> PathBuf {
    if let Some(given) = std::env::var_os("SKEP_BIN") {
        let path = PathBuf::from(given);
        assert!(path.exists(), "SKEP_BIN={} does not exist", path.display());
        return fs::canonicalize(path).expect("it exists");
    }
    // target/debug/deps/test-0123 -> target/debug/skep
    let test = std::env::current_exe().expect("a test knows where it is");
    let found = test
        .ancestors()
        .skip(1)
        .take(3)
        .map(|place| place.join("skep"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no skep beside {}: `cargo build` first, or set SKEP_BIN",
            test.display()
        )
    })
}

impl Cluster {
    /// A cluster of so many nodes, the first of them managers; `None`, with the reason printed, where
    /// no cluster can be made.
    #[track_caller]
    pub fn up(nodes: usize, managers: usize) -> Option<Self> {
        Self::bring_up(nodes, managers, &[])
    }

    /// The same with more flags of `skep dev up`.
    #[track_caller]
    pub fn up_with(nodes: usize, managers: usize, flags: &[&str]) -> Option<Self> {
        Self::bring_up(nodes, managers, flags)
    }

    /// A cluster that runs the demo.
    #[track_caller]
    pub fn demo(nodes: usize) -> Option<Self> {
        Self::bring_up(nodes, nodes, &["--demo"])
    }

    #[track_caller]
    fn bring_up(nodes: usize, managers: usize, flags: &[&str]) -> Option<Self> {
        if let Some(why) = needs::missing_for_clusters() {
            println!("skipped: {why}");
            return None;
        }
        let skep = skep_binary();
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = File::create(LOCK).expect("/tmp can be written to");
        lock.lock().expect("a lock on a file of ours");
        take_down_orphans(&skep);
        let pid = std::process::id();
        let root = Path::new(PLACE).join(format!("sk-{pid:07}"));
        let octet = |number: u32| u8::try_from(number).expect("it is below 256");
        let subnet = [10, octet(200 + pid % 50), octet(pid / 50 % 250)];
        let before = Footprint::take();
        let guard = Guard::new(&skep, &root);
        let [a, b, c] = subnet;
        let mut command = Command::new(&skep);
        command
            .args(["dev", "up", "--log-level", "info"])
            .args([
                "--nodes",
                &nodes.to_string(),
                "--managers",
                &managers.to_string(),
            ])
            .args(["--subnet", &format!("{a}.{b}.{c}.0/24"), "--root"])
            .arg(&root)
            .args(flags);
        let ran = run(&mut command, b"", UP);
        let node = |number: usize| Node {
            name: format!("n{number}"),
            address: Ipv4Addr::new(
                a,
                b,
                c,
                octet(10 + u32::try_from(number).expect("few nodes")),
            ),
            manager: number <= managers,
        };
        let cluster = Self {
            subnet,
            nodes: (1..=nodes).map(node).collect(),
            story: ran.out.clone(),
            took: ran.took,
            before,
            guard,
            is_down: false,
            root,
            _lock: lock,
            _one: one,
        };
        assert!(ran.status == 0, "{ran}");
        Some(cluster)
    }

    #[track_caller]
    pub fn node(&self, name: &str) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.name == name)
            .unwrap_or_else(|| panic!("no node {name}"))
    }

    #[track_caller]
    pub fn address(&self, name: &str) -> Ipv4Addr {
        self.node(name).address
    }

    /// This machine's address on the nodes' subnet.
    pub fn gateway(&self) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 1)
    }

    pub fn socket(&self, node: &str) -> PathBuf {
        self.root.join(node).join("run/skep.sock")
    }

    fn client(&self, program: &Path, node: &str) -> Command {
        let mut command = Command::new(program);
        let host = format!("unix://{}", self.socket(node).display());
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.root.join("home"))
            .env("DOCKER_HOST", &host)
            .env("SKEP_HOST", &host)
            // The builder that the daemon has, whatever plugins the client finds.
            .env("DOCKER_BUILDKIT", "0")
            .current_dir(&self.root);
        command
    }

    /// Runs the docker client against a node. The line is split at spaces; single quotes keep some.
    #[track_caller]
    pub fn docker(&self, node: &str, line: &str) -> Ran {
        self.docker_given(node, line, b"")
    }

    /// The same with something on standard input.
    #[track_caller]
    pub fn docker_given(&self, node: &str, line: &str, input: &[u8]) -> Ran {
        let docker = needs::docker().expect("tests of the docker client ask for it first");
        run(self.client(docker, node).args(words(line)), input, TIMEOUT)
    }

    /// Runs our own client against a node.
    #[track_caller]
    pub fn skep(&self, node: &str, line: &str) -> Ran {
        self.skep_given(node, line, b"")
    }

    /// The same with something on standard input.
    #[track_caller]
    pub fn skep_given(&self, node: &str, line: &str, input: &[u8]) -> Ran {
        run(
            self.client(&skep_binary(), node).args(words(line)),
            input,
            TIMEOUT,
        )
    }

    /// Asks a node's API.
    #[track_caller]
    pub fn api(&self, node: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        http::api(&self.socket(node), method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path} at {node}: {error}"))
    }

    /// Asks a node's API, which need not answer.
    pub fn try_api(
        &self,
        node: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, String> {
        match http::api(&self.socket(node), method, path, body) {
            Ok(answer) if answer.status < 300 => Ok(answer.json()),
            Ok(answer) => Err(format!(
                "{method} {path}: {} {}",
                answer.status, answer.body
            )),
            Err(error) => Err(format!("{method} {path}: {error}")),
        }
    }

    /// Reads something that is there.
    #[track_caller]
    pub fn get(&self, node: &str, path: &str) -> Value {
        let answer = self.api(node, "GET", path, None);
        assert_eq!(answer.status, 200, "GET {path} at {node}: {}", answer.body);
        answer.json()
    }

    /// Gets a page of a node's published port.
    pub fn page(&self, node: &str, port: u16, path: &str) -> Result<String, String> {
        page(self.address(node), port, path)
    }

    /// `skep dev VERB --root … ARGS`.
    #[track_caller]
    pub fn dev<S: AsRef<OsStr>>(&self, verb: &str, args: &[S]) -> Ran {
        let mut command = Command::new(skep_binary());
        command
            .args(["dev", verb, "--root"])
            .arg(&self.root)
            .args(args);
        run(&mut command, b"", TIMEOUT)
    }

    /// Runs a command in a node's network namespace.
    #[track_caller]
    pub fn exec(&self, node: &str, command: &[&str]) -> Ran {
        let mut args = vec![node, "--"];
        args.extend(command);
        self.dev("exec", &args)
    }

    /// Gets a page from inside of a node's network namespace, with busybox.
    #[track_caller]
    pub fn page_from(&self, node: &str, address: Ipv4Addr, port: u16, path: &str) -> Ran {
        let mut command = Command::new(skep_binary());
        let (address, port) = (address.to_string(), port.to_string());
        command.args(["dev", "exec", "--root"]).arg(&self.root);
        command.args([node, "--", "busybox", "nc", "-w", "5", &address, &port]);
        run(
            &mut command,
            format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes(),
            TIMEOUT,
        )
    }

    /// Kills a node's daemon without warning.
    #[track_caller]
    pub fn kill(&self, node: &str) {
        self.dev("kill", &[node]).ok();
    }

    /// Starts a node's daemon again, and waits until its API answers.
    #[track_caller]
    pub fn start(&self, node: &str) {
        self.dev("start", &[node]).ok();
    }

    /// Ends a container's first process from outside, as a crash would.
    #[track_caller]
    pub fn end_process(&self, pid: u32) {
        assert!(
            self.processes()
                .iter()
                .any(|process| process.starts_with(&format!("{pid} "))),
            "{pid} is none of ours"
        );
        let ran = run(
            Command::new("kill").args(["-9", &pid.to_string()]),
            b"",
            secs(5),
        );
        ran.ok();
        eventually("the process is gone", secs(5), || {
            holds(!is_alive(pid), pid)
        });
    }

    /// The process of a node's daemon.
    pub fn daemon(&self, node: &str) -> Option<u32> {
        let pid = fs::read_to_string(self.root.join(node).join("run/skep.pid")).ok()?;
        let pid: u32 = pid.trim().parse().ok()?;
        is_alive(pid).then_some(pid)
    }

    /// Takes the node's cable out, at the bridge's end: what is inside the node's namespace stays as
    /// it is. The cable is put back when the answer is dropped.
    #[track_caller]
    pub fn cut(&self, node: &str) -> Cut {
        let inside = self.exec(node, &["ip", "-o", "link", "show", "eth0"]).ok();
        // 2: eth0@if7: <…: the number of the far end
        let index = inside
            .split("@if")
            .nth(1)
            .and_then(|rest| rest.split(':').next());
        let index = index.unwrap_or_else(|| panic!("eth0 of {node} is no cable: {inside}"));
        let wire = self.root.join(WIRE);
        let links = on_wire(&wire, &["-o", "link"]);
        // 7: name@if2: <…
        let port = links.lines().find_map(|line| {
            let (number, rest) = line.split_once(": ")?;
            (number == index).then(|| rest.split('@').next().unwrap_or_default().to_owned())
        });
        let port = port.unwrap_or_else(|| panic!("no port of the bridge leads to {node}: {links}"));
        on_wire(&wire, &["link", "set", &port, "down"]);
        Cut { wire, port }
    }

    /// Processes that belong to the cluster.
    pub fn processes(&self) -> Vec<String> {
        footprint::processes(&self.root)
    }

    /// Every regular file below a directory of the cluster, as it is seen from this machine.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut todo = vec![self.root.clone()];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                    Ok(kind) if kind.is_file() => files.push(entry.path()),
                    _ => {}
                }
            }
        }
        files
    }

    /// Takes the cluster down and returns what it left.
    pub fn down(&mut self) -> Vec<String> {
        self.is_down = true;
        let mut command = Command::new(skep_binary());
        command.args(["dev", "down", "--root"]).arg(&self.root);
        let ran = run(&mut command, b"", DOWN);
        self.guard.dismiss();
        let mut remains = Vec::new();
        if ran.status != 0 {
            remains.push(ran.to_string());
        }
        let began = std::time::Instant::now();
        let [a, b, c] = self.subnet;
        let interface = format!("skd{a:02x}{b:02x}{c:02x}");
        loop {
            let left = self.before.remains(&self.root, &interface);
            if left.is_empty() || began.elapsed() > patient(SETTLE) {
                remains.extend(left);
                return remains;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The last words of every daemon.
    fn last_words(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let path = self.root.join(&node.name).join("daemon.log");
            let log = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(25)..].join("\n");
            text.push_str(&format!("--- {}\n{last}\n", path.display()));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_down {
            return;
        }
        let failing = std::thread::panicking();
        if failing {
            eprintln!("{}", self.last_words());
        }
        if failing && std::env::var_os("SKEP_E2E_KEEP").is_some() {
            self.guard.dismiss();
            eprintln!(
                "kept: {}; `skep dev down --root` takes it down",
                self.root.display()
            );
            return;
        }
        let remains = self.down();
        if remains.is_empty() {
            return;
        }
        let text = format!("left behind:\n{}", remains.join("\n"));
        if failing {
            eprintln!("{text}");
        } else {
            panic!("{text}");
        }
    }
}

/// A cable that is out.
pub struct Cut {
    wire: PathBuf,
    port: String,
}

impl Drop for Cut {
    fn drop(&mut self) {
        on_wire(&self.wire, &["link", "set", &self.port, "up"]);
    }
}

/// Runs `ip` in the namespace of the bridge.
#[track_caller]
pub(crate) fn on_wire(wire: &Path, args: &[&str]) -> String {
    let program =
        |name| needs::program(name).unwrap_or_else(|| panic!("{name} is needed for the wire"));
    let mut command = Command::new(program("nsenter"));
    command
        .arg(format!("--net={}", wire.display()))
        .arg(program("ip"))
        .args(args);
    run(&mut command, b"", TIMEOUT).ok()
}

/// Clusters whose test is no more, for instance because the machine's power went.
fn take_down_orphans(skep: &Path) {
    for entry in fs::read_dir(PLACE).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name
            .strip_prefix("sk-")
            .and_then(|pid| pid.parse::<u32>().ok())
        else {
            continue;
        };
        let is_kept = std::env::var_os("SKEP_E2E_KEEP").is_some();
        if (is_alive(pid) && pid != std::process::id()) || is_kept {
            continue;
        }
        let mut command = Command::new(skep);
        command.args(["dev", "down", "--root"]).arg(entry.path());
        let ran = run(&mut command, b"", DOWN);
        println!(
            "taken down, left by process {pid}: {} {}",
            entry.path().display(),
            ran.err
        );
    }
}

/// Whether a process runs; one that has ended but was not waited for does not.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Gets a page.
pub fn page(address: Ipv4Addr, port: u16, path: &str) -> Result<String, String> {
    let place = SocketAddrV4::new(address, port);
    match http::get(place, path, PAGE_TIMEOUT) {
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        Ok(answer) => Err(format!(
            "http://{place}{path}: {} {}",
            answer.status, answer.body
        )),
        Err(error) => Err(format!("http://{place}{path}: {error}")),
    }
}

/// The value of a line `name: value`.
pub fn field(text: &str, name: &str) -> String {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_default().to_owned()
}
