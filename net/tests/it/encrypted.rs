//! Encrypted overlays: nothing readable is on the wire, nothing clear is sent or
//! taken, whatever becomes of the tunnel; keys are replaced under way.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use skep_net::{EncryptionChoice, EncryptionMethod, Host, Netns};

use crate::lab::{self, Lab, NODES, Task, at, can_run, overlay};
use crate::talk::{self, Connection};

/// What questions and answers of `Connection` consist of.
const MARKERS: [[u8; 32]; 2] = [[b'?'; 32], [b'x'; 32]];
const RED: u32 = 5001;

/// An encrypted network on three nodes, and a clear one beside it.
fn network() -> Option<Lab> {
    if !can_run() {
        return None;
    }
    let mut lab = Lab::new();
    if let Err(why) = lab.hosts[0].encryption_method() {
        eprintln!("skipped: {why}");
        return None;
    }
    let mut red = overlay("red", RED, &["10.0.1.0/24"]);
    red.encrypted = true;
    lab.networks = vec![red, overlay("blue", 5002, &["10.0.2.0/24"])];
    lab.tasks = vec![
        Task::new("a1", 0).on("red", &["10.0.1.11"]),
        Task::new("b1", 1).on("red", &["10.0.1.21"]),
        Task::new("c1", 2).on("red", &["10.0.1.31"]),
        Task::new("a2", 0).on("blue", &["10.0.2.11"]),
        Task::new("b2", 1).on("blue", &["10.0.2.21"]),
    ];
    Some(lab)
}

fn serve_all(lab: &Lab) {
    for task in &lab.tasks {
        talk::serve(&lab.inside(task.name), task.name, 80);
    }
}

/// Looks at every frame of a namespace until it is asked what it saw.
struct Capture {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    bytes: usize,
    marked: usize,
    /// VXLAN frames of the encrypted network.
    clear: usize,
}

impl Capture {
    fn start(netns: &Netns) -> Self {
        Self::on(netns, None)
    }

    /// Looks at one interface only, or at all.
    fn on(netns: &Netns, interface: Option<&str>) -> Self {
        let socket = netns.run(|| packet_socket(interface)).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            let mut frame = vec![0; 1 << 16];
            loop {
                // SAFETY: the buffer is writable for its whole length.
                let count = unsafe {
                    let flags = libc::MSG_DONTWAIT;
                    libc::recv(
                        socket.as_raw_fd(),
                        frame.as_mut_ptr().cast(),
                        frame.len(),
                        flags,
                    )
                };
                match usize::try_from(count) {
                    Ok(count) => seen.take(&frame[..count]),
                    // Everything that was there before the question has been seen.
                    Err(_) if asked.load(Ordering::Relaxed) => return seen,
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { done, thread }
    }

    fn seen(self) -> Seen {
        std::thread::sleep(Duration::from_millis(50));
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Seen {
    fn take(&mut self, frame: &[u8]) {
        self.bytes += frame.len();
        let has = |marker: &[u8; 32]| frame.windows(32).any(|part| part == marker);
        self.marked += usize::from(MARKERS.iter().any(has));
        // Ethernet, IPv4 without options, UDP to 4789, VXLAN.
        let is_frame = frame.get(23) == Some(&17) && frame.get(36..38) == Some(&[0x12, 0xb5]);
        let vni = frame.get(46..49);
        self.clear += usize::from(is_frame && vni == Some(&RED.to_be_bytes()[1..]));
    }
}

/// Sees everything that crosses an interface of this thread's namespace, or any.
fn packet_socket(interface: Option<&str>) -> OwnedFd {
    let every = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: plain integers; a non-negative result is a fresh descriptor.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, every) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    let size: libc::c_int = 64 << 20;
    // SAFETY: the descriptor is ours, the value lives for the call.
    let rc = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            std::ptr::from_ref(&size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(rc, 0);
    if let Some(name) = interface {
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: the name ends with a zero; an all-zero address of this plain C structure is
        // valid, and it lives for the call.
        let rc = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()).cast_signed();
            let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            libc::bind(fd, std::ptr::from_ref(&address).cast(), length)
        };
        assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    }
    // SAFETY: see above.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[test]
fn nothing_readable_of_an_encrypted_network_is_on_the_wire() {
    let Some(lab) = network() else { return };
    lab.apply();
    assert_eq!(changes(&lab), [] as [&str; 0], "all is right at once");
    serve_all(&lab);
    let wire = lab.station("wire");
    let capture = Capture::start(&wire);
    for to in ["10.0.1.21", "10.0.1.31"] {
        let mut connection = Connection::open(&lab.inside("a1"), at(to, 80), 0).unwrap();
        connection.ask_at_length(1 << 20).unwrap();
    }
    let seen = capture.seen();
    assert!(seen.bytes > 2 << 20, "the wire was looked at: {seen:?}");
    assert_eq!((seen.marked, seen.clear), (0, 0), "{seen:?}");

    let capture = Capture::start(&wire);
    let mut connection = Connection::open(&lab.inside("a2"), at("10.0.2.21", 80), 0).unwrap();
    connection.ask_at_length(1 << 20).unwrap();
    let seen = capture.seen();
    assert!(seen.marked > 0, "a clear network can be read: {seen:?}");
}

#[test]
fn nodes_may_reach_one_another_over_ipv6() {
    let Some(mut lab) = network() else { return };
    lab.underlay6 = true;
    lab.apply();
    serve_all(&lab);
    let capture = Capture::start(&lab.station("wire"));
    let mut connection = Connection::open(&lab.inside("a1"), at("10.0.1.31", 80), 0).unwrap();
    connection.ask_at_length(1 << 20).unwrap();
    let seen = capture.seen();
    assert!(seen.bytes > 1 << 20 && seen.marked == 0, "{seen:?}");
}

#[test]
fn the_routing_mesh_goes_through_tunnels_when_its_network_is_encrypted() {
    let Some(mut lab) = network() else { return };
    lab.networks.clear();
    lab.tasks = vec![Task::new("b1", 1).published(5, 80)];
    lab.mesh = true;
    lab.encrypted_ingress = true;
    lab.publish(8080, &["b1"], 80);
    lab.apply();
    assert_eq!(changes(&lab), [] as [&str; 0]);
    serve_all(&lab);
    let client = lab.station("cl1");
    for entry in ["10.77.0.1", "10.77.0.3"] {
        let heard = talk::tcp(&client, at(entry, 8080)).unwrap();
        assert_eq!(heard.name, "b1");
        assert_eq!(heard.peer.ip(), lab::ip("10.77.0.101"), "the client's own");
    }
    // Between the client and its node it is in clear, between the nodes it is not.
    let capture = Capture::start(&lab.station("C"));
    let mut connection = Connection::open(&client, at("10.77.0.3", 8080), 0).unwrap();
    connection.ask_at_length(1 << 18).unwrap();
    assert!(capture.seen().marked > 0);
    let capture = Capture::on(&lab.station("B"), Some("eth0"));
    connection.ask_at_length(1 << 18).unwrap();
    let seen = capture.seen();
    assert!(seen.bytes > 1 << 18 && seen.marked == 0, "{seen:?}");
}

fn changes(lab: &Lab) -> Vec<String> {
    let reports = lab.apply();
    reports
        .into_iter()
        .flat_map(|report| report.changes)
        .collect()
}

/// A frame of the encrypted network with a datagram to port 7777 in it.
fn forged() -> Vec<u8> {
    crate::overlay::frame(RED, [10, 0, 1, 21], [10, 0, 1, 11])
}

#[test]
fn a_clear_frame_of_an_encrypted_network_is_taken_from_nobody() {
    let Some(lab) = network() else { return };
    lab.apply();
    let inside = lab.inside("a1");
    let receiver = inside
        .run(|| UdpSocket::bind("10.0.1.11:7777").unwrap())
        .unwrap();
    receiver.set_read_timeout(Some(talk::IMPATIENCE)).unwrap();
    let heard = || receiver.recv(&mut [0; 64]).is_ok();
    let send = |station: &str, from: &str, to: &str| {
        let send = || UdpSocket::bind(from).unwrap().send_to(&forged(), to);
        lab.station(station).run(send).unwrap()
    };
    send("cl1", "0.0.0.0:0", "10.77.0.1:4789").unwrap();
    assert!(!heard(), "a stranger's");
    // B's own guard would keep it back, so it has none for this.
    run(
        &lab.station("B"),
        "nft",
        &["delete", "table", "inet", "sk-guard"],
    );
    send("B", "10.77.0.2:0", "10.77.0.1:4789").unwrap();
    assert!(!heard(), "a node's, beside the tunnel");
    // An address of the tunnel is believed inside of the tunnel only.
    run(
        &lab.station("cl1"),
        "ip",
        &["addr", "add", "198.18.0.2/32", "dev", "eth0"],
    );
    send("cl1", "198.18.0.2:0", "10.77.0.1:4789").unwrap();
    assert!(!heard(), "a stranger's with a node's address in the tunnel");
    send("B", "198.18.0.2:0", "198.18.0.1:4789").unwrap();
    assert!(heard(), "a node's, through the tunnel");
}

#[test]
fn nothing_leaves_in_clear_when_the_tunnel_is_gone_and_it_is_repaired() {
    let Some(lab) = network() else { return };
    lab.apply();
    serve_all(&lab);
    let from = lab.inside("a1");
    talk::tcp(&from, at("10.0.1.21", 80)).unwrap();
    let capture = Capture::start(&lab.station("wire"));
    run(&lab.station("A"), "ip", &["link", "del", "sk-wg0"]);
    // Now frames have nowhere to go but a route that somebody else may have.
    run(
        &lab.station("A"),
        "ip",
        &["route", "add", "198.18.0.0/15", "via", "10.77.0.2"],
    );
    assert!(talk::is_silent(&from, at("10.0.1.21", 80)));
    // What leads to a node's plain address, as if forwarding entries were wrong.
    let send = || {
        let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
        socket.send_to(&forged(), "10.77.0.2:4789")
    };
    assert!(
        lab.station("A").run(send).unwrap().is_err(),
        "it is kept back"
    );
    let seen = capture.seen();
    assert!(seen.bytes > 0);
    assert_eq!((seen.marked, seen.clear), (0, 0), "{seen:?}");
    run(
        &lab.station("A"),
        "ip",
        &["route", "del", "198.18.0.0/15", "via", "10.77.0.2"],
    );
    lab.apply();
    talk::tcp(&from, at("10.0.1.21", 80)).unwrap();
    talk::tcp(&lab.inside("c1"), at("10.0.1.11", 80)).unwrap();
}

#[test]
fn a_network_without_a_way_is_refused_and_not_sent_in_clear() {
    let Some(mut lab) = network() else { return };
    let mut config = lab::config(lab.run_dir(0));
    config.encryption = EncryptionChoice::None;
    lab.hosts[0] = lab
        .station("A")
        .run(|| Host::open(config))
        .unwrap()
        .unwrap();
    let report = lab.hosts[0].apply(&lab.state(0));
    let failed: Vec<_> = report
        .failures
        .iter()
        .map(|failure| (failure.object.as_str(), failure.error.chain()))
        .collect();
    // Its task has no interface then.
    let objects: BTreeSet<&str> = failed.iter().map(|(object, _)| *object).collect();
    let wanted = ["tunnel sk-wg0", "overlay red", "sandbox a1"];
    assert_eq!(objects, wanted.into(), "{failed:?}");
    let said = failed
        .iter()
        .filter(|(_, why)| why.contains("switched off"));
    assert_eq!(said.count(), 2, "{failed:?}");
    let names = lab.hosts[0].namespaces().list().unwrap();
    let overlays: Vec<_> = names.iter().filter(|name| name.starts_with("n-")).collect();
    assert_eq!(overlays.len(), 1, "the clear one only: {names:?}");
    let sandbox = lab.state(0).sandboxes.remove(0);
    let refused = lab.hosts[0].prepare_sandbox(&sandbox, &lab.state(0).overlays);
    assert!(refused.unwrap_err().chain().contains("switched off"));
}

#[test]
fn a_network_that_is_new_on_a_node_is_guarded_before_it_is_there() {
    let Some(lab) = network() else { return };
    let mut bare = lab.state(0);
    bare.overlays.clear();
    bare.sandboxes.clear();
    bare.encryption.vnis.clear();
    lab.hosts[0].apply(&bare).into_result().unwrap();
    let state = lab.state(0);
    lab.hosts[0]
        .prepare_sandbox(&state.sandboxes[0], &state.overlays)
        .unwrap();
    let guard = ["list", "table", "inet", "sk-guard"];
    if let Some(shown) = run(&lab.station("A"), "nft", &guard) {
        assert!(
            shown.contains("5001") || shown.contains("0x001389"),
            "{shown}"
        );
    }
}

#[test]
fn keys_are_replaced_without_losing_a_packet() {
    let Some(mut lab) = network() else { return };
    lab.apply();
    serve_all(&lab);
    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let from = lab.inside("a1");
    let mut kept = Connection::open(&from, at("10.0.1.31", 80), 0).unwrap();
    // Datagrams are not sent again: a lost one fails the test. The connection's slowest answer
    // tells whether a retransmission hid a loss.
    let datagrams = talk::Datagrams::open(&from, at("10.0.1.21", 80), 0).unwrap();
    std::thread::scope(|scope| {
        let _stop = Stop(&done);
        let client = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                datagrams.ask().expect("no datagram is lost");
                kept.ask().expect("the connection goes on");
                slowest = slowest.max(began.elapsed());
                asked.fetch_add(1, Ordering::Relaxed);
            }
            slowest
        });
        let some = |what: &str| {
            let before = asked.load(Ordering::Relaxed);
            talk::until(what, || asked.load(Ordering::Relaxed) > before + 50);
        };
        for generation in 1..=3 {
            for keys in [
                (generation - 1..=generation, generation - 1),
                (generation - 1..=generation, generation),
                (generation..=generation, generation),
            ] {
                lab.keys = keys;
                lab.apply();
                some("questions are answered");
            }
            let links = run(&lab.station("A"), "ip", &["-br", "link"]).unwrap_or_default();
            let old = format!("sk-wg{}", (generation - 1) % 2);
            assert!(!links.contains(&old), "{links}");
        }
        done.store(true, Ordering::Relaxed);
        let slowest = client.join().unwrap();
        assert!(slowest < Duration::from_millis(1000), "{slowest:?}");
    });
    assert_eq!(changes(&lab), [] as [&str; 0]);
}

#[test]
fn a_node_whose_address_changes_is_found_again() {
    let Some(mut lab) = network() else { return };
    lab.apply();
    serve_all(&lab);
    let from = lab.inside("a1");
    talk::tcp(&from, at("10.0.1.21", 80)).unwrap();
    let mut kept = Connection::open(&from, at("10.0.1.21", 80), 0).unwrap();
    kept.ask().unwrap();
    let moved = |words: [&str; 4]| run(&lab.station("B"), "ip", &[&["addr"], &words[..]].concat());
    if moved(["add", "10.77.0.52/24", "dev", "eth0"]).is_none() {
        return;
    }
    lab.moved = Some((1, lab::ip("10.77.0.52")));
    lab.apply();
    // The old one is gone, and its subnet's other address with it.
    run(
        &lab.station("B"),
        "ip",
        &["addr", "del", "10.77.0.2/24", "dev", "eth0"],
    );
    run(
        &lab.station("B"),
        "ip",
        &["addr", "replace", "10.77.0.52/24", "dev", "eth0"],
    );
    kept.ask().unwrap();
    talk::tcp(&from, at("10.0.1.21", 80)).unwrap();
    talk::tcp(&lab.inside("b1"), at("10.0.1.31", 80)).unwrap();
}

#[test]
fn a_tunnels_process_outlives_the_daemon_is_adopted_and_ends_with_the_cluster() {
    let Some(mut lab) = network() else { return };
    if lab.hosts[0].encryption_method() != Ok(EncryptionMethod::Userspace) {
        eprintln!("skipped: the kernel has WireGuard");
        return;
    }
    lab.apply();
    serve_all(&lab);
    let running = processes(&lab);
    assert_eq!(running.len(), 3);
    for (index, name) in NODES.iter().enumerate() {
        let config = lab::config(lab.run_dir(index));
        let open = || Host::open(config);
        lab.hosts[index] = lab.station(name).run(open).unwrap().unwrap();
    }
    assert_eq!(changes(&lab), [] as [&str; 0], "adopted as it is");
    assert_eq!(processes(&lab), running);
    talk::tcp(&lab.inside("a1"), at("10.0.1.21", 80)).unwrap();

    // One that is killed is replaced, by the same key.
    // SAFETY: a signal to a process that this test's host started.
    unsafe { libc::kill(running[0], libc::SIGKILL) };
    talk::until("it is gone", || processes(&lab).len() < 3);
    lab.apply();
    assert_eq!(processes(&lab).len(), 3);
    talk::tcp(&lab.inside("c1"), at("10.0.1.11", 80)).unwrap();

    // The last encrypted network goes, and with it the tunnels; the cluster goes.
    let (networks, tasks) = (lab.networks.clone(), lab.tasks.clone());
    lab.networks.retain(|overlay| !overlay.encrypted);
    lab.tasks.retain(|task| task.name.ends_with('2'));
    lab.apply();
    talk::until("no process is left", || processes(&lab).is_empty());
    let tables = run(&lab.station("A"), "nft", &["list", "tables"]).unwrap_or_default();
    assert!(!tables.contains("sk-guard"), "{tables}");
    (lab.networks, lab.tasks) = (networks, tasks);
    lab.apply();
    assert_eq!(processes(&lab).len(), 3);
    for host in &lab.hosts {
        host.remove_everything().into_result().unwrap();
        assert!(!host.tunnel_dir().exists());
    }
    talk::until("no process is left", || processes(&lab).is_empty());
}

/// Ends a thread that asks, also when its test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The processes of this lab's tunnels.
fn processes(lab: &Lab) -> Vec<i32> {
    let root = lab.run_dir(0);
    let root = root.parent().unwrap().as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.windows(root.len()).any(|part| part == root) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    found
}

/// Runs a program in a namespace; `None` when it is not installed.
fn run(netns: &Netns, program: &str, arguments: &[&str]) -> Option<String> {
    let output = netns
        .run(|| Command::new(program).args(arguments).output())
        .unwrap();
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {arguments:?}: {said}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(_) => {
            eprintln!("skipped a part: `{program}` is not installed");
            None
        }
    }
}
