//! The demonstration server as a container: one file in an empty root.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use common::{Container, cannot_run, launcher, until};
use skep_shim::InjectedBytes;
use skep_shim::config::{HealthCheck, InjectedFile};
use skep_shim::protocol::{AttachOptions, ExecSpec, Health};

/// The server in a root that has nothing else.
fn hello(args: &[&str]) -> Container {
    let mut container = Container::new(&["/hello"]);
    container
        .config
        .process
        .args
        .extend(args.iter().map(|&arg| arg.into()));
    fs::copy(common::static_shim(), container.path("root/hello")).unwrap();
    container
}

/// Runs this in the network namespace of the container.
fn inside<T: Send>(pid: i32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let netns = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
                // SAFETY: no pointers; the namespace is left with the thread.
                let entered = unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0);
                work()
            })
            .join()
            .unwrap()
    })
}

fn listening(container: &Container) {
    until("the server to listen", || {
        container.output().contains("listening").then_some(())
    });
}

fn get(path: &str) -> String {
    let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_serves_and_looks_at_secrets() {
    if cannot_run() {
        return;
    }
    let mut container = hello(&[]);
    container.config.process.user = "1000".into();
    container
        .config
        .process
        .env
        .extend(["SKEP_TASK=web.1".into(), "HELLO_VERSION=7".into()]);
    container.config.injected = vec![InjectedFile {
        name: "db".into(),
        target: "/run/secrets/db".into(),
        uid: 1000,
        gid: 0,
        mode: 0o400,
    }];
    let files = [InjectedBytes {
        name: "db",
        bytes: b"abc",
    }];
    let pid = container.try_start(&files).unwrap().pid;
    listening(&container);
    inside(pid, || {
        let page = get("/");
        for line in [
            "hostname: box\n",
            "task: web.1\n",
            "version: 7\n",
            "client: 127.0.0.1:",
            "uid: 1000\n",
        ] {
            assert!(page.contains(line), "{line}: {page}");
        }
        let page = get("/secret/db?sha256=1");
        assert!(page.ends_with("mode: 0400\nlength: 3\nsha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"), "{page}");
        assert!(get("/env").contains("SKEP_TASK=web.1\n"));
        assert!(
            get("/fetch?url=http://127.0.0.1:8080/healthz")
                .contains("status: 200\nfrom: 127.0.0.1:8080\n\nok\n")
        );
        assert!(get("/fetch?url=http://127.0.0.1:1/").contains("502 Bad Gateway"));
    });
    container.client().signal(libc::SIGTERM, false).unwrap();
    assert_eq!(container.wait().exit_code, 0);
}

#[test]
fn its_own_check_says_whether_it_is_well() {
    if cannot_run() {
        return;
    }
    let mut container = hello(&[]);
    container.config.health = Some(HealthCheck {
        test: vec!["CMD".into(), "/hello".into(), "check".into()],
        interval_ns: 50_000_000,
        retries: 1,
        ..HealthCheck::default()
    });
    let pid = container.start().pid;
    container.wait_for_health(Health::Healthy);
    inside(pid, || get("/fail"));
    container.wait_for_health(Health::Unhealthy);
}

#[test]
fn a_stop_loses_no_request() {
    if cannot_run() {
        return;
    }
    let container = hello(&[]);
    let pid = container.start().pid;
    listening(&container);
    inside(pid, || {
        // Connected and idle, so that the stop finds it waiting.
        let mut stream = TcpStream::connect("127.0.0.1:8080").unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut answer = |stream: &mut TcpStream| {
            write!(stream, "GET /healthz HTTP/1.1\r\n\r\n").unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
            }
            reader.read_exact(&mut [0; 3]).unwrap();
            head
        };
        assert!(answer(&mut stream).contains("Connection: keep-alive"));
        container.client().signal(libc::SIGTERM, false).unwrap();
        until("the stop to be noticed", || {
            container.output().contains("stopping").then_some(())
        });
        // New ones are still served, old ones told to go.
        assert!(get("/healthz").contains("200 OK"));
        assert!(answer(&mut stream).contains("Connection: close"));
    });
    assert_eq!(container.wait().exit_code, 0);
}

#[test]
fn it_fails_at_the_start_when_told_to() {
    if cannot_run() {
        return;
    }
    let mut container = hello(&[]);
    container.config.process.env.push("HELLO_FAIL=1".into());
    assert_eq!(container.run().0, 1);
}

/// The zone file of one network with one name, and rules that lead port 53 to the
/// shim; the resolver is asked by the server's own client.
#[test]
fn names_are_resolved_by_the_shim() {
    if cannot_run() {
        return;
    }
    if !Path::new("/usr/sbin/nft").exists() {
        println!("skipped: no nft to redirect port 53 with");
        return;
    }
    let mut container = hello(&[]);
    let zone = container.path("net.zone");
    write_zone(&zone, "web", [10, 1, 2, 3]);
    fs::create_dir_all(container.path("root/etc")).unwrap();
    let outside = OutsideResolver::start([192, 0, 2, 55]);
    let dns = skep_dns::DnsConfig {
        zones: vec![zone.clone()],
        upstreams: vec![outside.address],
        ..Default::default()
    };
    fs::write(container.path("root/etc/resolv.conf"), dns.resolv_conf()).unwrap();
    container.config.dns = Some(dns);
    let prepared = launcher().prepare(&container.write_config()).unwrap();
    let info = prepared.info().clone();
    let ports = info.dns.unwrap();
    let netns = info.netns.unwrap();
    let rules = format!(
        "table ip t {{\nchain c {{\ntype nat hook output priority -100\n\
         ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:{}\n\
         ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:{}\n}}\n}}\n",
        ports.udp, ports.tcp
    );
    let status = std::process::Command::new("nsenter")
        .arg(format!("--net={netns}"))
        .args(["nft", &rules])
        .status()
        .unwrap();
    assert!(status.success());
    let pid = prepared.start(&[]).unwrap().pid;
    listening(&container);
    inside(pid, || {
        assert!(
            get("/resolve?name=web").ends_with("\r\n\r\n10.1.2.3\n"),
            "{}",
            get("/resolve?name=web")
        );
        write_zone(&zone, "web", [10, 9, 9, 9]);
        assert!(get("/resolve?name=web").ends_with("\r\n\r\n10.9.9.9\n"));
        // Its namespace has no way out; the shim asks from the host's.
        assert!(get("/resolve?name=example.org").ends_with("\r\n\r\n192.0.2.55\n"));
    });
}

/// A resolver of the host that knows one address for everything.
struct OutsideResolver {
    address: std::net::SocketAddr,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl OutsideResolver {
    fn start(answer: [u8; 4]) -> Self {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            // An empty datagram ends it.
            while let Ok((length @ 1.., from)) = socket.recv_from(&mut buffer) {
                let mut reply = buffer[..length].to_vec();
                let asks_for_a = reply[length - 4..] == [0, 1, 0, 1];
                (reply[2], reply[3]) = (0x81, 0x80);
                if asks_for_a {
                    reply[7] = 1;
                    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
                    reply.extend(answer);
                }
                socket.send_to(&reply, from).unwrap();
            }
        });
        Self {
            address,
            thread: Some(thread),
        }
    }
}

impl Drop for OutsideResolver {
    fn drop(&mut self) {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(&[], self.address).unwrap();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_zone(path: &Path, name: &str, address: [u8; 4]) {
    let mut zone = skep_dns::Zone::new("net");
    zone.add(name, address.into());
    zone.write(path).unwrap();
}

#[test]
fn exec_of_the_check_works_without_a_shell() {
    if cannot_run() {
        return;
    }
    let container = hello(&["udp"]);
    container.start();
    listening(&container);
    let (code, output) = container.exec(ExecSpec {
        id: "c".into(),
        args: ["/hello", "check", "http://127.0.0.1:8080/nothing"]
            .map(String::from)
            .to_vec(),
        streams: AttachOptions::default(),
        ..ExecSpec::default()
    });
    assert_eq!((code, output.as_str()), (1, "status 404\n"));
}
