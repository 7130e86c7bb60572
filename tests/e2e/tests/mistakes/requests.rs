//! Requests to the API that are not what it takes.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use skep_e2e::http::{Answer, send};
use skep_e2e::{Cluster, secs};

use crate::MANAGER;
use crate::kept::assert_message;

/// What a daemon may grow to while it refuses what is too large; an unoptimised one needs 60 MB to
/// begin with, and one body may be read up to the bound of 32 MiB.
const DAEMON_PEAK_KB_MAX: u64 = 256 << 10;

/// A request whose head is as it is given.
#[track_caller]
pub fn ask(c: &Cluster, node: &str, line: &str, headers: &str, body: &[u8]) -> Answer {
    let length = body.len();
    let head = format!(
        "{line}\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    let bytes = [head.as_bytes(), body].concat();
    send(&c.socket(node), &bytes).unwrap_or_else(|error| panic!("{line}: {error}"))
}

pub fn wrong_json(c: &Cluster) {
    let post = |path: &str, body: &str, text: &str| {
        let line = format!("POST /v1.50{path} HTTP/1.1");
        let answer = ask(
            c,
            MANAGER,
            &line,
            "Content-Type: application/json\r\n",
            body.as_bytes(),
        );
        assert_message(&answer, 400, text);
    };
    for body in [
        "{",
        "{\"Name\":",
        "nonsense",
        "[1,2",
        "{\"Name\": \"a\"} more",
    ] {
        post("/services/create", body, "JSON");
        post("/secrets/create", body, "JSON");
        post("/containers/create", body, "JSON");
        post("/networks/create", body, "JSON");
    }
    post(
        "/services/create",
        "",
        "invalid JSON: got EOF while reading request body",
    );
    let container =
        |field: &str| format!("{{\"Name\":\"a\",\"TaskTemplate\":{{\"ContainerSpec\":{field}}}}}");
    post(
        "/services/create",
        r#"{"Name": 5}"#,
        "Name: invalid type: integer `5`, expected a string",
    );
    post(
        "/services/create",
        &container(r#"{"Image": ["x"]}"#),
        "TaskTemplate.ContainerSpec.Image",
    );
    post(
        "/services/create",
        &container(r#"{"Image": "x", "Env": "A=B"}"#),
        "TaskTemplate.ContainerSpec.Env",
    );
    post(
        "/services/create",
        r#"{"Name":"a","Mode":{"Replicated":{"Replicas":-1}}}"#,
        "Mode",
    );
    post(
        "/services/create",
        r#"{"Name":"a","EndpointSpec":{"Ports":[{"TargetPort":"http"}]}}"#,
        "EndpointSpec.Ports[0].TargetPort",
    );
    post(
        "/services/create",
        r#"{"Name":"a","EndpointSpec":{"Ports":[{"TargetPort":70000}]}}"#,
        "EndpointSpec.Ports[0].TargetPort",
    );
    post(
        "/secrets/create",
        r#"{"Name":"a","Data":"not base64"}"#,
        "Data",
    );
    post("/configs/create", r#"{"Name":"a","Data":7}"#, "Data");
    post(
        "/networks/create",
        r#"{"Name":"a","Internal":"yes"}"#,
        "Internal",
    );
    post("/containers/create", r#"{"Image":5}"#, "Image");
    post("/swarm/join", r#"{"RemoteAddrs":"n1"}"#, "RemoteAddrs");
    let version = c.get(MANAGER, "/nodes/n2")["Version"]["Index"].to_string();
    post(
        &format!("/nodes/n2/update?version={version}"),
        r#"{"Role":"king"}"#,
        "Role",
    );
    post(
        &format!("/nodes/n2/update?version={version}"),
        r#"{"Role":"worker","Availability":"gone"}"#,
        "Availability",
    );
    let other = ask(
        c,
        MANAGER,
        "POST /v1.50/secrets/create HTTP/1.1",
        "Content-Type: text/plain\r\n",
        b"{}",
    );
    assert_message(
        &other,
        400,
        "unsupported Content-Type header (text/plain): must be 'application/json'",
    );
    for filters in [
        "nonsense",
        "%7B%22name%22%3A5%7D",
        "%7B%22colour%22%3A%5B%22red%22%5D%7D",
    ] {
        assert_message(
            &c.api(
                MANAGER,
                "GET",
                &format!("/services?filters={filters}"),
                None,
            ),
            400,
            "filter",
        );
    }
}

pub fn too_large(c: &Cluster) {
    let mut body = b"{\"Name\":\"large\",\"Data\":\"".to_vec();
    body.resize(40 << 20, b'A');
    body.extend(b"\"}");
    let json = "Content-Type: application/json\r\n";
    let answer = ask(
        c,
        MANAGER,
        "POST /v1.50/configs/create HTTP/1.1",
        json,
        &body,
    );
    assert_eq!(answer.status, 413, "{}", answer.body);
    let header = format!("X-Long: {}\r\n", "x".repeat(4 << 20));
    assert_eq!(
        ask(c, MANAGER, "GET /v1.50/info HTTP/1.1", &header, b"").status,
        431
    );
    let many: String = (0..1000)
        .map(|number| format!("X-{number}: x\r\n"))
        .collect();
    assert_eq!(
        ask(c, MANAGER, "GET /v1.50/info HTTP/1.1", &many, b"").status,
        431
    );
    let path = format!("GET /v1.50/{} HTTP/1.1", "x".repeat(1 << 20));
    let status = ask(c, MANAGER, &path, "", b"").status;
    assert!((400..500).contains(&status), "{status}");
    assert_eq!(ask(c, MANAGER, "nonsense", "", b"").status, 400);
    // A head that never ends does not stay open for ever.
    let mut endless = UnixStream::connect(c.socket(MANAGER)).unwrap();
    endless.set_write_timeout(Some(secs(10))).unwrap();
    endless.write_all(b"GET /v1.50/info HTTP/1.1\r\n").unwrap();
    let sent = (0..64u32)
        .map(|_| endless.write_all(&[b'x'; 1 << 20]))
        .find_map(Result::err);
    let sent = sent.expect("the daemon stops listening");
    assert!(
        !matches!(
            sent.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
        "{sent}"
    );
    // The managers' own port wants TLS.
    let mut stranger = TcpStream::connect((c.address(MANAGER), 2377)).unwrap();
    stranger.set_read_timeout(Some(secs(15))).unwrap();
    let _ = stranger.write_all(b"GET / HTTP/1.1\r\n\r\n");
    let mut said = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stranger, &mut said);
    assert!(!String::from_utf8_lossy(&said).contains("HTTP"), "{said:?}");
    let pid = c.daemon(MANAGER).expect("the daemon is alive");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("the kernel tells the peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
    assert!(peak < DAEMON_PEAK_KB_MAX, "the daemon grew to {peak} kB");
}
