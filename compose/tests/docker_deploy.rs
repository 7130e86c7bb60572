//! A file becomes the same objects here as with `docker stack deploy`.
//!
//! The docker client deploys to a server made by the test, which answers as an empty cluster
//! and writes down what it is asked to create.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use skep_model::mount::Driver;
use skep_model::network::{IpamConfig, IpamOptions};
use skep_model::{ConfigSpec, NetworkSpec, SecretSpec, ServiceSpec};
use support::{STACK, corpus, docker, load_files, shown};

/// What a client asked to create: path and body.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// Serves until the listener's directory is gone and the process ends.
fn serve(socket: &Path) -> Asked {
    let asked = Asked::default();
    let listener = UnixListener::bind(socket).unwrap();
    let all = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let all = Arc::clone(&all);
            let stream = stream.unwrap();
            std::thread::spawn(move || answer_all(stream, &all));
        }
    });
    asked
}

fn answer_all(stream: UnixStream, asked: &Asked) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some((method, path, body)) = request(&mut reader) {
        // `/v1.50/networks/create?…` → `/networks/create`
        let bare = path.split('?').next().unwrap();
        let bare = match bare.strip_prefix("/v1.") {
            Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => bare,
        };
        let (code, answer) = if method == "POST" {
            let body: Value = serde_json::from_slice(&body).unwrap();
            asked.lock().unwrap().push((bare.to_owned(), body));
            (201, json!({"ID": "made", "Id": "made"}))
        } else {
            look_up(bare, &path)
        };
        let text = answer.to_string();
        let sent = if method == "HEAD" { "" } else { text.as_str() };
        let header = format!(
            "HTTP/1.1 {code} X\r\nApi-Version: 1.50\r\nOstype: linux\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        if writer.write_all((header + sent).as_bytes()).is_err() {
            return;
        }
    }
}

/// The answers of an empty cluster in which every external object exists.
fn look_up(path: &str, whole: &str) -> (u16, Value) {
    match path {
        "/_ping" => (200, json!("OK")),
        "/info" => (
            200,
            json!({"Swarm": {"LocalNodeState": "active", "ControlAvailable": true}}),
        ),
        "/networks" | "/services" => (200, json!([])),
        // The client asks for the ids of the names it uses.
        "/secrets" | "/configs" => {
            let filter = whole.split("filters=").nth(1).unwrap_or_default();
            let filter: Value = serde_json::from_str(&percent_decoded(filter)).unwrap();
            let names = filter["name"].as_object().unwrap().keys();
            (
                200,
                names
                    .map(|name| json!({"ID": name, "Spec": {"Name": name}}))
                    .collect(),
            )
        }
        path if path.starts_with("/networks/") => (
            200,
            json!({"Name": "x", "Id": "x", "Scope": "swarm", "Driver": "overlay"}),
        ),
        _ => (404, json!({"message": "not found"})),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.split('&').next().unwrap().bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex = [rest.next().unwrap(), rest.next().unwrap()];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Method, path and body of the next request; nothing at the end.
fn request(reader: &mut impl BufRead) -> Option<(String, String, Vec<u8>)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(given) = line.strip_prefix("content-length:") {
            length = given.trim().parse().ok()?;
        }
        chunked |= line == "transfer-encoding: chunked";
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    while chunked {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let size = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..size]);
        chunked = size > 0;
    }
    Some((method, path, body))
}

/// Objects by name.
#[derive(Debug, Default, PartialEq)]
struct Made {
    networks: BTreeMap<String, NetworkSpec>,
    secrets: BTreeMap<String, SecretSpec>,
    configs: BTreeMap<String, ConfigSpec>,
    services: BTreeMap<String, ServiceSpec>,
}

/// What docker's client asked for; nothing where the server would not understand it.
fn made_by_docker(asked: &[(String, Value)]) -> Option<Made> {
    let mut made = Made::default();
    for (path, body) in asked {
        match path.as_str() {
            "/networks/create" => {
                let network = network(body);
                made.networks.insert(network.name.clone(), network);
            }
            "/secrets/create" => {
                let secret: SecretSpec = serde_json::from_value(body.clone()).unwrap();
                made.secrets.insert(secret.name.clone(), secret);
            }
            "/configs/create" => {
                let config: ConfigSpec = serde_json::from_value(body.clone()).unwrap();
                made.configs.insert(config.name.clone(), config);
            }
            "/services/create" => {
                let mut body = body.clone();
                drop_ids(&mut body);
                let mut service: ServiceSpec = serde_json::from_value(body).ok()?;
                // The client leaves to chance how a secret's several uses are ordered, and
                // ports that are not published.
                if let Some(container) = &mut service.task_template.container_spec {
                    container.secrets.sort_by_key(|one| {
                        (
                            one.secret_name.clone(),
                            one.file.as_ref().map(|file| file.name.clone()),
                        )
                    });
                }
                if let Some(endpoint) = &mut service.endpoint_spec {
                    endpoint
                        .ports
                        .sort_by_key(|port| (port.published_port, port.target_port, port.protocol));
                }
                made.services.insert(service.name.clone(), service);
            }
            other => panic!("the client asked for {other}"),
        }
    }
    Some(made)
}

/// The ids that the client looked up are not known before the stack is deployed; what it
/// leaves out of a mount reads as nothing.
fn drop_ids(body: &mut Value) {
    let container = &mut body["TaskTemplate"]["ContainerSpec"];
    for (list, id) in [("Secrets", "SecretID"), ("Configs", "ConfigID")] {
        for reference in container[list].as_array_mut().into_iter().flatten() {
            reference[id] = json!("");
        }
    }
}

fn network(body: &Value) -> NetworkSpec {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let map = |value: &Value| serde_json::from_value(value.clone()).unwrap_or_default();
    let ipam = &body["IPAM"];
    let driver = |name: &Value| Driver {
        name: text(name),
        options: BTreeMap::new(),
    };
    NetworkSpec {
        name: text(&body["Name"]),
        labels: map(&body["Labels"]),
        driver: Some(Driver {
            name: text(&body["Driver"]),
            options: map(&body["Options"]),
        }),
        ipv6_enabled: body["EnableIPv6"] == true,
        internal: body["Internal"] == true,
        attachable: body["Attachable"] == true,
        ingress: false,
        ipam: (!ipam.is_null()).then(|| IpamOptions {
            driver: (!text(&ipam["Driver"]).is_empty()).then(|| driver(&ipam["Driver"])),
            configs: ipam["Config"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|pool| IpamConfig {
                    subnet: pool["Subnet"]
                        .as_str()
                        .map(|subnet| subnet.parse().unwrap()),
                    ..IpamConfig::default()
                })
                .collect(),
        }),
        scope: String::new(),
    }
}

fn made_by_us(paths: &[std::path::PathBuf]) -> Result<Made, String> {
    let stack = load_files(paths)
        .map_err(|diagnostics| shown(&diagnostics))?
        .stack;
    Ok(Made {
        networks: stack
            .networks
            .into_iter()
            .map(|n| (n.name.clone(), n))
            .collect(),
        secrets: stack
            .secrets
            .into_iter()
            .map(|secret| (secret.name.clone(), secret))
            .collect(),
        configs: stack
            .configs
            .into_iter()
            .map(|c| (c.name.clone(), c))
            .collect(),
        services: stack
            .services
            .into_iter()
            .map(|s| (s.name.clone(), s))
            .collect(),
    })
}

#[test]
fn a_stack_has_the_objects_that_the_docker_client_creates() {
    if docker().is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("d.sock");
    let asked = serve(&socket);
    let mut different = Vec::new();
    for (name, paths) in corpus() {
        let mut docker = docker().unwrap();
        docker.arg("-H").arg(format!("unix://{}", socket.display()));
        docker.args(["stack", "deploy", "--detach=true", "--resolve-image=never"]);
        for path in &paths {
            docker.arg("-c").arg(path);
        }
        asked.lock().unwrap().clear();
        let output = docker.arg(STACK).output().unwrap();
        let refusal = String::from_utf8_lossy(&output.stderr).into_owned();
        let theirs = match output.status.success() {
            true => made_by_docker(&asked.lock().unwrap()).ok_or("the server".to_owned()),
            false => Err(refusal),
        };
        match (theirs, made_by_us(&paths)) {
            (Err(refusal), _) => different.push(format!("{name}: docker refuses: {refusal}")),
            (Ok(_), Err(refusal)) => different.push(format!("{name}: {refusal}")),
            (Ok(theirs), Ok(ours)) if ours != theirs => {
                different.push(format!(
                    "{name}:\n--- docker\n{theirs:#?}\n--- ours\n{ours:#?}"
                ));
            }
            (Ok(_), Ok(_)) => {}
        }
    }
    for one in &different {
        let (theirs, ours) = one.split_once("--- ours\n").unwrap_or((one, ""));
        let theirs = theirs.split_once("--- docker\n").unwrap_or(("", theirs)).1;
        let first = theirs.lines().zip(ours.lines()).find(|(a, b)| a != b);
        eprintln!(
            "{}: first difference {first:?}",
            one.lines().next().unwrap()
        );
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}
