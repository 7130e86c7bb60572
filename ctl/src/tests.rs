//! Whole runs of the client against a daemon that answers from a list.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use crate::Streams;

mod compose;
mod containers;
mod objects;
mod services;

/// What a request is answered with.
#[derive(Clone)]
enum Answer {
    Json(u16, String),
    Bytes(Vec<u8>),
    /// The connection becomes a stream of these bytes; what the client sends is recorded.
    Stream(Vec<u8>),
}

/// A request as it came.
#[derive(Debug, Clone)]
struct Request {
    line: String,
    headers: String,
    body: String,
}

struct Daemon {
    directory: tempfile::TempDir,
    requests: Arc<Mutex<Vec<Request>>>,
}

type Answers = Vec<(&'static str, Answer)>;

impl Daemon {
    /// Listens on a socket. An answer belongs to a request line that begins with its text (without
    /// version and query); of several the first unused is taken, the last again and again.
    fn start(answers: Answers) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("d.sock")).unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = requests.clone();
        let answers = Arc::new(Mutex::new(answers));
        std::thread::spawn(move || {
            // Ends with the process: the test's own.
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, answers) = (seen.clone(), answers.clone());
                std::thread::spawn(move || {
                    let _ = serve(stream, &seen, &answers);
                });
            }
        });
        Self {
            directory,
            requests,
        }
    }

    fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("d.sock").display())
    }

    fn requests(&self, line: &str) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.line.starts_with(line))
            .cloned()
            .collect()
    }

    fn body(&self, line: &str) -> serde_json::Value {
        let requests = self.requests(line);
        assert_eq!(requests.len(), 1, "{requests:?}");
        serde_json::from_str(&requests[0].body).unwrap()
    }

    fn run(&self, line: &str) -> Ran {
        self.run_with_input(line, "")
    }

    fn run_with_input(&self, line: &str, input: &str) -> Ran {
        run(line, input, Some(self.host()))
    }
}

fn serve(
    stream: UnixStream,
    seen: &Mutex<Vec<Request>>,
    answers: &Mutex<Answers>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let first = head.lines().next().unwrap_or_default().to_owned();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            line.to_lowercase()
                .strip_prefix(&format!("{name}: "))
                .map(str::to_owned)
        })
    };
    let mut body = Vec::new();
    if header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = header("content-length") {
        body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body)?;
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let target = match target.strip_prefix("/v1.") {
        Some(rest) => &rest[rest.find('/').unwrap_or(0)..],
        None => target,
    };
    let line = format!("{method} {target}");
    if target == "/_ping" {
        return writer
            .write_all(b"HTTP/1.1 200 OK\r\nApi-Version: 1.47\r\nContent-Length: 0\r\n\r\n");
    }
    let answer = {
        let mut answers = answers.lock().unwrap();
        let path = line.split('?').next().unwrap_or("");
        let matching: Vec<usize> = (0..answers.len())
            .filter(|at| answers[*at].0 == path)
            .collect();
        match matching[..] {
            [] => Answer::Json(404, r#"{"message":"page not found"}"#.to_owned()),
            [only] => answers[only].1.clone(),
            [first, ..] => answers.remove(first).1,
        }
    };
    let mut request = Request {
        line,
        headers: head.clone(),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let (status, kind, content) = match answer {
        Answer::Json(status, text) => (status, "application/json", text.into_bytes()),
        Answer::Bytes(bytes) => (200, "application/octet-stream", bytes),
        Answer::Stream(bytes) => {
            writer.write_all(
                b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
            )?;
            writer.write_all(&bytes)?;
            // The client's input ends before the answer does.
            reader.read_to_string(&mut request.body)?;
            seen.lock().unwrap().push(request);
            return Ok(());
        }
    };
    seen.lock().unwrap().push(request);
    write!(
        writer,
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        content.len()
    )?;
    writer.write_all(&content)
}

/// What a run said and how it ended.
#[derive(Debug, PartialEq)]
pub(crate) struct Ran {
    pub out: String,
    pub err: String,
    pub status: u8,
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a command line; words are parted by spaces, `_` stands for one.
pub(crate) fn run(line: &str, input: &str, host: Option<String>) -> Ran {
    let (out, err) = (Shared::default(), Shared::default());
    let streams = Streams {
        out: RefCell::new(Box::new(out.clone())),
        err: RefCell::new(Box::new(err.clone())),
        input: Some(input.as_bytes().to_vec()),
        in_is_terminal: false,
        out_is_terminal: false,
        err_is_terminal: false,
        width: 80,
    };
    let mut env = BTreeMap::from([("DOCKER_CONFIG".to_owned(), "/nonexistent".to_owned())]);
    env.extend(host.map(|host| ("SKEP_HOST".to_owned(), host)));
    let args: Vec<OsString> = ["skep"]
        .into_iter()
        .chain(line.split_whitespace())
        .map(|word| word.replace('_', " ").into())
        .collect();
    let status = crate::run_with(args, env, streams);
    let text = |shared: Shared| String::from_utf8(shared.0.take()).unwrap();
    Ran {
        out: text(out),
        err: text(err),
        status,
    }
}

fn json(text: &str) -> Answer {
    Answer::Json(200, text.to_owned())
}

fn said(out: &str) -> Ran {
    Ran {
        out: out.to_owned(),
        err: String::new(),
        status: 0,
    }
}

fn frame(channel: u8, text: &str) -> Vec<u8> {
    let mut bytes = vec![channel, 0, 0, 0];
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

const SERVICE: &str = r#"{"ID":"s1qwertyuiopasdfghjklzxcv","Version":{"Index":7},"Spec":{"Name":"web",
    "TaskTemplate":{"ContainerSpec":{"Image":"nginx:1@sha256:0000000000000000000000000000000000000000000000000000000000000000","Env":["A=1","B=2"]}},
    "Mode":{"Replicated":{"Replicas":1}},"UpdateConfig":{"Monitor":1,"Parallelism":1,"MaxFailureRatio":0,"FailureAction":"pause","Order":"stop-first"}},
    "Endpoint":{"Ports":[{"Protocol":"tcp","TargetPort":80,"PublishedPort":8080,"PublishMode":"ingress"}]},
    "ServiceStatus":{"RunningTasks":1,"DesiredTasks":1}}"#;

const TASK: &str = r#"[{"ID":"t1qwertyuiopasdfghjklzxcv","ServiceID":"s1qwertyuiopasdfghjklzxcv","NodeID":"n1","Slot":1,
    "CreatedAt":"2020-01-01T00:00:00Z","Status":{"State":"running","Timestamp":"2020-01-01T00:00:00Z"},"DesiredState":"running"},
    {"ID":"t0qwertyuiopasdfghjklzxcv","ServiceID":"s1qwertyuiopasdfghjklzxcv","NodeID":"n1","Slot":1,
    "CreatedAt":"2019-01-01T00:00:00Z","Status":{"State":"failed","Timestamp":"2020-01-01T00:00:00Z","Err":"task: non-zero exit (1)"},"DesiredState":"shutdown"}]"#;

const NODE: &str = r#"{"ID":"n1","Spec":{"Role":"manager","Availability":"active"},"Description":{"Hostname":"host-1"},"Status":{"State":"ready"}}"#;

#[test]
fn lists_are_tables() {
    let daemon = Daemon::start(vec![
        ("GET /services", json(&format!("[{SERVICE}]"))),
        ("GET /services/s1qwertyuiopasdfghjklzxcv", json(SERVICE)),
        ("GET /nodes/n1", json(NODE)),
        ("GET /tasks", json(TASK)),
    ]);
    assert_eq!(
        daemon.run("service ls"),
        said(
            "ID             NAME      MODE         REPLICAS   IMAGE     PORTS\n\
             s1qwertyuiop   web       replicated   1/1        nginx:1   *:8080->80/tcp\n"
        )
    );
    assert_eq!(daemon.run("service ls -q"), said("s1qwertyuiop\n"));
    let tasks =
        daemon.run("service ps web --format {{.Name}}|{{.Node}}|{{.DesiredState}}|{{.Error}}");
    assert_eq!(
        tasks,
        said("web.1|host-1|Running|\nweb.1|host-1|Shutdown|\"task: non-zero exit (1)\"\n")
    );
    let table = daemon.run("service ps web");
    assert!(
        table.out.contains("\nt0qwertyuiop    \\_ web.1 "),
        "{}",
        table.out
    );
    let missing = daemon.run("service ps web nope");
    assert_eq!(
        (missing.status, missing.err.as_str()),
        (1, "no such service: nope\n")
    );
    assert!(missing.out.contains("t1qwertyuiop"));
}

#[test]
fn the_daemons_errors_are_shown_as_docker_shows_them() {
    let daemon = Daemon::start(vec![
        (
            "GET /nodes",
            Answer::Json(
                503,
                r#"{"message":"This node is not a swarm manager."}"#.to_owned(),
            ),
        ),
        (
            "DELETE /secrets/used",
            Answer::Json(400, r#"{"message":"in use"}"#.to_owned()),
        ),
        ("DELETE /secrets/free", Answer::Json(204, String::new())),
    ]);
    let failed = |err: &str| Ran {
        out: String::new(),
        err: err.to_owned(),
        status: 1,
    };
    assert_eq!(
        daemon.run("node ls"),
        failed("Error response from daemon: This node is not a swarm manager.\n")
    );
    let removed = daemon.run("secret rm used free");
    assert_eq!((removed.out.as_str(), removed.status), ("free\n", 1));
    assert_eq!(removed.err, "Error response from daemon: in use\n");
    assert_eq!(
        run("ps", "", Some("unix:///nowhere/d.sock".to_owned())),
        failed(
            "Cannot connect to the Docker daemon at unix:///nowhere/d.sock. Is the docker daemon running?\n"
        )
    );
}

#[test]
fn wrong_usage_ends_with_125_or_1() {
    let hint = "\n\nUsage:  skep ps [OPTIONS]\n\nRun 'skep ps --help' for more information\n";
    let wrong = run("ps --foo", "", None);
    assert_eq!(
        (wrong.err, wrong.status),
        (format!("unknown flag: --foo{hint}"), 125)
    );
    let wrong = run("ps x", "", None);
    assert_eq!(
        (wrong.err, wrong.status),
        (format!("skep: 'skep ps' accepts no arguments{hint}"), 1)
    );
    let wrong = run("service foo", "", None);
    assert_eq!(
        (wrong.err.as_str(), wrong.status),
        (
            "skep: unknown command: skep service foo\n\nUsage:  skep service\n\nRun 'skep service --help' for more information\n",
            1
        )
    );
    // Flags are read before the command is found unknown.
    let wrong = run("service foo -ls", "", None);
    assert_eq!(
        (wrong.err.as_str(), wrong.status),
        (
            "unknown shorthand flag: 'l' in -ls\n\nUsage:  skep service\n\nRun 'skep service --help' for more information\n",
            125
        )
    );
    let wrong = run("service create --replicas x nginx", "", None);
    assert!(
        wrong
            .err
            .starts_with("invalid argument \"x\" for \"--replicas\" flag: strconv.ParseUint")
    );
    assert_eq!(wrong.status, 125);
    let help = run("--help", "", None);
    assert_eq!(help.status, 0);
    for word in ["daemon", "dev", "service", "stack", "run"] {
        assert!(help.out.contains(&format!("\n  {word} ")), "{word}");
    }
    assert!(
        run("service create --help", "", None)
            .out
            .contains("--replicas-max-per-node uint")
    );
    let volumes = run("volume --help", "", None).out;
    assert!(volumes.contains("Remove one or more volumes\n") && !volumes.contains("update"));
}

#[test]
fn inspect_shows_what_is_there_and_names_what_is_not() {
    let daemon = Daemon::start(vec![(
        "GET /networks/front",
        json(r#"{"Name":"front","Id":"n1","Options":{},"Labels":null}"#),
    )]);
    let ran = daemon.run("network inspect front back");
    assert_eq!(
        ran.out,
        "[\n    {\n        \"Name\": \"front\",\n        \"Id\": \"n1\",\n        \"Options\": {},\n        \"Labels\": null\n    }\n]\n"
    );
    assert_eq!(
        (ran.err.as_str(), ran.status),
        ("Error response from daemon: page not found\n", 1)
    );
    assert_eq!(daemon.run("network inspect -f {{.Id}} front"), said("n1\n"));
    let nothing = daemon.run("inspect nothing");
    assert_eq!(
        (nothing.out.as_str(), nothing.err.as_str()),
        ("[]\n", "Error: No such object: nothing\n")
    );
}

#[test]
fn versions_are_negotiated_downwards() {
    let daemon = Daemon::start(vec![("GET /networks", json("[]"))]);
    assert_eq!(
        daemon.run("network ls"),
        said("NETWORK ID   NAME      DRIVER    SCOPE\n")
    );
    assert!(
        daemon.requests("GET /networks")[0]
            .headers
            .starts_with("GET /v1.47/networks ")
    );
}
