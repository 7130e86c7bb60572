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
fn a_service_is_created_by_digest_and_waited_for() {
    let daemon = Daemon::start(vec![
        (
            "GET /distribution/nginx:1/json",
            json(
                r#"{"Descriptor":{"digest":"sha256:1111111111111111111111111111111111111111111111111111111111111111"},"Platforms":[{"architecture":"amd64","os":"linux"}]}"#,
            ),
        ),
        ("GET /networks/front", json(r#"{"Id":"net1"}"#)),
        (
            "GET /secrets",
            json(r#"[{"ID":"sec1","Spec":{"Name":"key"}}]"#),
        ),
        (
            "POST /services/create",
            Answer::Json(201, r#"{"ID":"s1","Warnings":["careful"]}"#.to_owned()),
        ),
        ("GET /services/s1", json(SERVICE)),
        ("GET /tasks", json(TASK)),
        ("GET /nodes", json(&format!("[{NODE}]"))),
    ]);
    let created = daemon.run(
        "service create --name web -p 8080:80 --network front --secret key -e A=1 nginx:1 sleep 5",
    );
    assert_eq!(
        created,
        Ran {
            out: "s1\n\
                  overall progress: 0 out of 1 tasks\n\
                  1/1:  \n\
                  overall progress: 1 out of 1 tasks\n\
                  verify: Service s1 converged\n"
                .to_owned(),
            err: "careful\n".to_owned(),
            status: 0,
        }
    );
    let spec = daemon.body("POST /services/create");
    let container = &spec["TaskTemplate"]["ContainerSpec"];
    assert_eq!(
        container["Image"],
        format!("nginx:1@sha256:{}", "1".repeat(64))
    );
    assert_eq!(container["Args"], serde_json::json!(["sleep", "5"]));
    assert_eq!(container["Secrets"][0]["SecretID"], "sec1");
    assert_eq!(spec["TaskTemplate"]["Networks"][0]["Target"], "net1");
    assert_eq!(
        spec["TaskTemplate"]["Placement"]["Platforms"][0]["Architecture"],
        "amd64"
    );
    assert_eq!(spec["EndpointSpec"]["Ports"][0]["PublishedPort"], 8080);
}

#[test]
fn of_a_service_that_is_refused_only_the_refusal_is_told() {
    let daemon = Daemon::start(vec![(
        "POST /services/create",
        Answer::Json(400, r#"{"message":"no"}"#.to_owned()),
    )]);
    let refused = daemon.run("service create -d private/x");
    assert_eq!(refused.err, "Error response from daemon: no\n");
    assert_eq!(refused.status, 1);
}

#[test]
fn a_registry_that_does_not_answer_is_a_warning() {
    let daemon = Daemon::start(vec![(
        "POST /services/create",
        Answer::Json(201, r#"{"ID":"s1"}"#.to_owned()),
    )]);
    let created = daemon.run("service create -d private/x");
    assert_eq!((created.out.as_str(), created.status), ("s1\n", 0));
    assert!(created.err.starts_with(
        "image private/x:latest could not be accessed on a registry to record\nits digest."
    ));
    assert_eq!(
        daemon.body("POST /services/create")["TaskTemplate"]["ContainerSpec"]["Image"],
        "private/x:latest"
    );
}

#[test]
fn an_update_changes_what_its_flags_name() {
    let daemon = Daemon::start(vec![
        ("GET /services/web", json(SERVICE)),
        (
            "POST /services/s1qwertyuiopasdfghjklzxcv/update",
            json("{}"),
        ),
    ]);
    assert_eq!(
        daemon.run("service update -d --env-add B=9 --env-rm A --force --replicas 3 web"),
        said("web\n")
    );
    let request = &daemon.requests("POST /services/")[0];
    assert!(
        request.line.contains("version=7") && request.line.contains("registryAuthFrom=spec"),
        "{}",
        request.line
    );
    let spec: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(
        spec["TaskTemplate"]["ContainerSpec"]["Env"],
        serde_json::json!(["B=9"])
    );
    assert_eq!(spec["TaskTemplate"]["ForceUpdate"], 1);
    assert_eq!(spec["Mode"]["Replicated"]["Replicas"], 3);
    assert_eq!(spec["UpdateConfig"]["Monitor"], 1);
}

#[test]
fn paused_and_rolled_back_updates_are_failures() {
    let state = |state: &str| {
        json(&SERVICE.replacen(
            "\"Spec\"",
            &format!("\"UpdateStatus\":{{\"State\":\"{state}\",\"Message\":\"why\"}},\"Spec\""),
            1,
        ))
    };
    for (ended, command, err, status) in [
        (
            "paused",
            "service update --force web",
            "service update paused: why\n",
            1,
        ),
        (
            "rollback_completed",
            "service update --force web",
            "service update rolled back: why\n",
            1,
        ),
        ("rollback_completed", "service rollback web", "", 0),
    ] {
        let daemon = Daemon::start(vec![
            ("GET /services/web", json(SERVICE)),
            (
                "POST /services/s1qwertyuiopasdfghjklzxcv/update",
                json("{}"),
            ),
            ("GET /services/web", state(ended)),
            ("GET /tasks", json(TASK)),
            ("GET /nodes", json(&format!("[{NODE}]"))),
        ]);
        let ran = daemon.run(command);
        assert_eq!(
            (ran.err.as_str(), ran.status),
            (err, status),
            "{ended} {command}: {}",
            ran.out
        );
    }
}

#[test]
fn a_container_runs_attached_and_its_status_is_ours() {
    let mut streams = frame(1, "out\n");
    streams.extend(frame(2, "err\n"));
    let daemon = Daemon::start(vec![
        (
            "POST /containers/create",
            Answer::Json(
                404,
                r#"{"message":"No such image: alpine:latest"}"#.to_owned(),
            ),
        ),
        (
            "POST /images/create",
            json(
                "{\"status\":\"Pulling from library/alpine\",\"id\":\"latest\"}\r\n{\"status\":\"Downloading\",\"progressDetail\":{\"current\":1,\"total\":2},\"id\":\"aa\"}\r\n{\"status\":\"Pull complete\",\"progressDetail\":{},\"id\":\"aa\"}\r\n",
            ),
        ),
        (
            "POST /containers/create",
            Answer::Json(201, r#"{"Id":"c1","Warnings":[]}"#.to_owned()),
        ),
        ("POST /containers/c1/attach", Answer::Stream(streams)),
        ("POST /containers/c1/wait", json(r#"{"StatusCode":3}"#)),
        (
            "POST /containers/c1/start",
            Answer::Json(204, String::new()),
        ),
    ]);
    let ran = daemon.run_with_input("run -i --rm -v /a:/b -e X=y alpine cat -n", "typed");
    assert_eq!((ran.out.as_str(), ran.status), ("out\n", 3));
    assert_eq!(
        ran.err,
        "Unable to find image 'alpine:latest' locally\nlatest: Pulling from library/alpine\naa: Pull complete\nerr\n"
    );
    let create = &daemon.requests("POST /containers/create")[1];
    let body: serde_json::Value = serde_json::from_str(&create.body).unwrap();
    assert_eq!(body["Cmd"], serde_json::json!(["cat", "-n"]));
    assert_eq!(body["HostConfig"]["Binds"], serde_json::json!(["/a:/b"]));
    assert_eq!(body["HostConfig"]["AutoRemove"], true);
    let attach = &daemon.requests("POST /containers/c1/attach")[0];
    assert_eq!(attach.body, "typed");
    assert!(attach.headers.to_lowercase().contains("upgrade: tcp"));
    assert!(
        daemon.requests("POST /containers/c1/wait")[0]
            .line
            .ends_with("condition=removed")
    );
}

#[test]
fn a_command_that_is_not_found_ends_with_127() {
    let daemon = Daemon::start(vec![
        (
            "POST /containers/create",
            Answer::Json(201, r#"{"Id":"c1"}"#.to_owned()),
        ),
        (
            "POST /containers/c1/start",
            Answer::Json(
                400,
                r#"{"message":"exec: \"x\": executable file not found in $PATH"}"#.to_owned(),
            ),
        ),
    ]);
    let ran = daemon.run("run -d alpine x");
    assert_eq!(ran.status, 127);
    assert_eq!(
        ran.err,
        "skep: Error response from daemon: exec: \"x\": executable file not found in $PATH\n\nRun 'skep run --help' for more information\n"
    );
}

#[test]
fn exec_passes_the_status_on() {
    let daemon = Daemon::start(vec![
        (
            "POST /containers/web/exec",
            Answer::Json(201, r#"{"Id":"e1"}"#.to_owned()),
        ),
        ("POST /exec/e1/start", Answer::Stream(frame(1, "hi\n"))),
        ("GET /exec/e1/json", json(r#"{"ExitCode":7}"#)),
    ]);
    let ran = daemon.run("exec -i -e A=1 web ls -l");
    assert_eq!(
        ran,
        Ran {
            out: "hi\n".to_owned(),
            err: String::new(),
            status: 7
        }
    );
    let body = daemon.body("POST /containers/web/exec");
    assert_eq!(body["Cmd"], serde_json::json!(["ls", "-l"]));
}

#[test]
fn logs_go_where_they_were_written() {
    let mut logs = frame(1, "one\n");
    logs.extend(frame(2, "two\n"));
    let daemon = Daemon::start(vec![
        (
            "GET /containers/web/json",
            json(r#"{"Id":"c1","Config":{"Tty":false}}"#),
        ),
        ("GET /containers/c1/logs", Answer::Bytes(logs)),
    ]);
    let ran = daemon.run("logs --tail 5 web");
    assert_eq!(
        ran,
        Ran {
            out: "one\n".to_owned(),
            err: "two\n".to_owned(),
            status: 0
        }
    );
    assert!(
        daemon.requests("GET /containers/c1/logs")[0]
            .line
            .contains("tail=5")
    );
}

#[test]
fn secrets_come_from_stdin() {
    let daemon = Daemon::start(vec![(
        "POST /secrets/create",
        Answer::Json(201, r#"{"ID":"sec1"}"#.to_owned()),
    )]);
    assert_eq!(
        daemon.run_with_input("secret create -l a=b key -", "hush"),
        said("sec1\n")
    );
    let body = daemon.body("POST /secrets/create");
    assert_eq!(body["Data"], "aHVzaA==");
    assert_eq!(body["Labels"]["a"], "b");
    let empty = daemon.run("secret create key -");
    assert_eq!(
        (empty.err.as_str(), empty.status),
        ("error reading from STDIN: data is empty\n", 1)
    );
}

#[test]
fn secrets_of_other_stores_have_options_and_no_bytes() {
    let daemon = Daemon::start(vec![
        (
            "POST /secrets/create",
            Answer::Json(
                201,
                r#"{"ID":"sec1","Warnings":["nobody has it"]}"#.to_owned(),
            ),
        ),
        (
            "GET /secrets/db",
            json(r#"{"ID":"sec1","Spec":{"Name":"db","Driver":{"Name":"vault"}}}"#),
        ),
        (
            "POST /skep/v1/secrets/db/versions",
            json(r#"{"Version":2,"Actions":["Updating service web"]}"#),
        ),
    ]);
    let made = daemon.run(
        "secret create -d vault --driver-opt path=a/b --driver-opt field=x=y --driver-opt none= db",
    );
    assert_eq!((made.out.as_str(), made.status), ("sec1\n", 0));
    assert_eq!(made.err, "nobody has it\n");
    let driver = daemon.body("POST /secrets/create")["Driver"].clone();
    assert_eq!(driver["Name"], "vault");
    assert_eq!(
        driver["Options"],
        serde_json::json!({"path": "a/b", "field": "x=y", "none": ""})
    );
    let updated = daemon.run("secret update --driver-opt path=c db");
    assert_eq!(updated.out, "2\n");
    let body = daemon.body("POST /skep/v1/secrets/db/versions");
    assert_eq!(body["DriverOptions"], serde_json::json!({"path": "c"}));
    assert!(body.get("Data").is_none(), "{body}");
    for (line, why) in [
        (
            "secret create --driver-opt path=c db file",
            "--driver-opt needs --driver",
        ),
        (
            "secret create -d vault --driver-opt path db",
            "want KEY=VALUE",
        ),
        ("secret update --driver-opt path=c db file", "give no file"),
        ("secret update db", "--driver-opt to fetch them"),
    ] {
        let refused = daemon.run(line);
        assert!(
            matches!(refused.status, 1 | 125) && refused.err.contains(why),
            "{line}: {refused:?}"
        );
    }
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

fn compose_file() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.yml");
    std::fs::write(
        &path,
        "services:\n  web:\n    image: nginx:1\n    ports: [\"80:80\"]\n",
    )
    .unwrap();
    (directory, path)
}

#[test]
fn a_stack_is_deployed_as_one() {
    let daemon = Daemon::start(vec![
        ("GET /skep/v1/version", json("{}")),
        ("GET /info", json(r#"{"Swarm":{"ControlAvailable":true}}"#)),
        (
            "POST /skep/v1/stacks/app",
            json(
                r#"{"ID":"st1","Warnings":["careful"],"Actions":["Creating network app_default","Creating service app_web"]}"#,
            ),
        ),
    ]);
    let (_directory, path) = compose_file();
    let ran = daemon.run(&format!(
        "stack deploy -d --prune --resolve-image never -c {} app",
        path.display()
    ));
    assert_eq!(
        ran,
        Ran {
            out: "Creating network app_default\nCreating service app_web\n".to_owned(),
            err: "careful\n".to_owned(),
            status: 0,
        }
    );
    let request = &daemon.requests("POST /skep/v1/stacks/app")[0];
    assert!(request.line.ends_with("?prune=true"), "{}", request.line);
    let spec: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(spec["Services"][0]["Name"], "app_web");
    assert_eq!(
        spec["Services"][0]["TaskTemplate"]["ContainerSpec"]["Image"],
        "nginx:1"
    );
}

#[test]
fn a_plain_dockerd_has_no_stacks_to_deploy_to() {
    let daemon = Daemon::start(vec![
        (
            "GET /services",
            json(
                r#"[{"ID":"s1","Spec":{"Name":"app_web","Labels":{"com.docker.stack.namespace":"app"}}}]"#,
            ),
        ),
        ("GET /secrets", json("[]")),
        ("GET /configs", json("[]")),
        (
            "GET /networks",
            json(r#"[{"Id":"n1","Name":"app_default"}]"#),
        ),
        ("DELETE /services/s1", json("")),
        ("DELETE /networks/n1", json("")),
    ]);
    let (_directory, path) = compose_file();
    let ran = daemon.run(&format!("stack deploy -d -c {} app", path.display()));
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("is not a skep daemon"), "{}", ran.err);
    assert!(daemon.requests("POST").is_empty());
    assert_eq!(
        daemon.run("stack ls"),
        said("NAME      SERVICES\napp       1\n")
    );
    assert_eq!(
        daemon.run("stack rm app"),
        said("Removing service app_web\nRemoving network app_default\n")
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

#[test]
fn join_commands_and_scaling() {
    let daemon = Daemon::start(vec![
        ("GET /info", json(r#"{"Swarm":{"NodeID":"n1"}}"#)),
        (
            "GET /nodes/n1",
            json(r#"{"ID":"n1","ManagerStatus":{"Addr":"10.0.0.1:2377"}}"#),
        ),
        (
            "GET /swarm",
            json(
                r#"{"Version":{"Index":4},"Spec":{},"JoinTokens":{"Worker":"SWMTKN-1-w","Manager":"SWMTKN-1-m"}}"#,
            ),
        ),
        ("POST /swarm/update", json("")),
        ("GET /services/web", json(SERVICE)),
        (
            "POST /services/s1qwertyuiopasdfghjklzxcv/update",
            json("{}"),
        ),
    ]);
    assert_eq!(
        daemon.run("swarm join-token worker"),
        said(
            "To add a worker to this swarm, run the following command:\n\n    skep swarm join --token SWMTKN-1-w 10.0.0.1:2377\n\n"
        )
    );
    assert_eq!(
        daemon.run("swarm join-token -q manager"),
        said("SWMTKN-1-m\n")
    );
    let scaled = daemon.run("service scale -d web=4 web=x");
    assert_eq!(
        (scaled.out.as_str(), scaled.err.as_str(), scaled.status),
        (
            "web scaled to 4\n",
            "web: invalid replicas value x: strconv.ParseUint: parsing \"x\": invalid syntax\n",
            1
        )
    );
}

#[test]
fn a_build_sends_its_context_and_fails_as_its_command_did() {
    let daemon = Daemon::start(vec![
        (
            "POST /build",
            json("{\"stream\":\"Step 1/1 : FROM x\\n\"}\r\n{\"aux\":{\"ID\":\"sha256:abc\"}}\r\n"),
        ),
        (
            "POST /build",
            json(
                "{\"errorDetail\":{\"code\":7,\"message\":\"it failed\"},\"error\":\"it failed\"}\r\n",
            ),
        ),
    ]);
    let line = "build -t a:1 -t b --build-arg X=1 --build-arg NOT_SET --label k=v --memory 64m --target t -";
    let ran = daemon.run_with_input(line, "FROM x\n");
    assert_eq!(
        ran,
        said("Sending build context to Docker daemon  2.048kB\nStep 1/1 : FROM x\n")
    );
    let request = daemon.requests("POST /build")[0].clone();
    for part in [
        "version=1",
        "t=a%3A1&t=b",
        "buildargs=%7B%22NOT%20SET%22%3Anull%2C%22X%22%3A%221%22%7D",
        "labels=%7B%22k%22%3A%22v%22%7D",
        "memory=67108864",
        "target=t",
        "rm=1",
        "dockerfile=Dockerfile",
    ] {
        assert!(request.line.contains(part), "{part}: {}", request.line);
    }
    assert!(request.body.contains("FROM x\n"));
    let ran = daemon.run_with_input("build -", "FROM x\n");
    assert_eq!((ran.status, ran.err.as_str()), (7, "it failed\n"));
    let ran = daemon.run_with_input("build --squash -", "FROM x\n");
    assert!(ran.err.starts_with("--squash is not supported"), "{ran:?}");
}
