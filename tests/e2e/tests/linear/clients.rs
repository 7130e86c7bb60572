//! Clients that note what they asked, what they were told and when.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_e2e::random::Random;
use skep_e2e::{Cluster, http};
use skep_linear::{Answer, Asked, Call, Operation, Versioned};

/// How long a client waits for an answer; a daemon that stands still gives none.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two requests of a client.
const PACE: Duration = Duration::from_millis(15);
/// Before a client asks a daemon again that does not run.
const LATER: Duration = Duration::from_millis(100);
/// Label that holds an object's value.
const LABEL: &str = "value";

/// One of the objects that all clients ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// Made, changed and removed, again and again.
    Brief(&'static str),
    /// Made once, changed ever after.
    Lasting(&'static str),
    /// Its label; its version moves with whatever else becomes of it.
    Node(&'static str),
}

impl Object {
    pub const ALL: [Self; 6] = [
        Self::Brief("brief-a"),
        Self::Brief("brief-b"),
        Self::Lasting("lasting-a"),
        Self::Lasting("lasting-b"),
        Self::Node("n2"),
        Self::Node("n4"),
    ];

    pub fn model(self) -> Versioned {
        match self {
            Self::Brief(_) | Self::Lasting(_) => Versioned::default(),
            Self::Node(_) => Versioned {
                value: Some(0),
                moves: true,
            },
        }
    }

    fn path(self) -> String {
        match self {
            Self::Brief(name) | Self::Lasting(name) => format!("/configs/{name}"),
            Self::Node(name) => format!("/nodes/{name}"),
        }
    }

    fn spec(self, value: u64) -> Value {
        let labels = json!({ LABEL: value.to_string() });
        match self {
            Self::Brief(name) | Self::Lasting(name) => {
                json!({"Name": name, "Data": STANDARD.encode("x"), "Labels": labels})
            }
            Self::Node(_) => {
                json!({"Role": "manager", "Availability": "active", "Labels": labels})
            }
        }
    }

    /// Method, path and body.
    fn request(self, asked: Asked) -> (&'static str, String, Option<Value>) {
        match asked {
            Asked::Read => ("GET", self.path(), None),
            Asked::Create { value } => {
                let path = "/configs/create".to_owned();
                ("POST", path, Some(self.spec(value)))
            }
            Asked::Update { value, version } => {
                let path = format!("{}/update?version={version}", self.path());
                ("POST", path, Some(self.spec(value)))
            }
            Asked::Remove => ("DELETE", self.path(), None),
            Asked::Write { .. } => unreachable!("the API has no change without a version"),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// Everything that was asked.
pub struct Recorder {
    began: Instant,
    nodes: Vec<(&'static str, PathBuf)>,
    pub ended: AtomicBool,
    /// Values are told apart, so that each says which change it came with.
    values: AtomicU64,
    histories: Mutex<BTreeMap<Object, Vec<Operation<Call>>>>,
    odd: Mutex<Vec<String>>,
}

/// Ends the clients when it is dropped.
pub struct Ended<'a>(pub &'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Recorder {
    pub fn new(c: &Cluster, nodes: &[&'static str]) -> Self {
        Self {
            began: Instant::now(),
            nodes: nodes.iter().map(|node| (*node, c.socket(node))).collect(),
            ended: AtomicBool::new(false),
            values: AtomicU64::new(1),
            histories: Mutex::default(),
            odd: Mutex::default(),
        }
    }

    /// Asks random things, mostly of the same manager.
    pub fn live(&self, client: usize, seed: u64) {
        let mut random = Random::new(seed.wrapping_mul(31).wrapping_add(client as u64));
        let mut versions = BTreeMap::new();
        while !self.ended.load(Ordering::Relaxed) {
            let object = *random.one(&Object::ALL);
            let node = match random.below(4) {
                0 => random.one(&self.nodes).0,
                _ => self.nodes[client % self.nodes.len()].0,
            };
            let asked = self.wish(object, versions.get(&object).copied(), &mut random);
            match self.ask(client, object, node, asked) {
                Some(Answer::Found { version, .. }) => drop(versions.insert(object, version)),
                Some(Answer::Absent | Answer::Done) => drop(versions.remove(&object)),
                Some(_) => (),
                None => std::thread::sleep(LATER),
            }
            std::thread::sleep(PACE);
        }
    }

    /// What to ask of an object that was last seen in this version.
    fn wish(&self, object: Object, version: Option<u64>, random: &mut Random) -> Asked {
        let value = self.values.fetch_add(1, Ordering::Relaxed);
        let is_node = matches!(object, Object::Node(_));
        match (random.below(12), version) {
            (0, _) if matches!(object, Object::Brief(_)) => Asked::Remove,
            (1, _) if !is_node => Asked::Create { value },
            (2..7, Some(version)) => Asked::Update { value, version },
            (2..4, None) if !is_node => Asked::Create { value },
            _ => Asked::Read,
        }
    }

    /// Asks and notes; `None` when nothing was said to it, be it because nobody was there.
    pub fn ask(&self, client: usize, object: Object, node: &str, asked: Asked) -> Option<Answer> {
        let (method, path, body) = object.request(asked);
        let socket = self.nodes.iter().find(|(name, _)| *name == node);
        let (_, socket) = socket.expect("one of the nodes");
        let invoked = self.now();
        let heard = http::api_within(PATIENCE, socket, method, &path, body.as_ref());
        let returned = self.now();
        let answer = self.understood(asked, &heard)?;
        let operation = Operation {
            client,
            invoked,
            returned: (answer != Answer::Unknown).then_some(returned),
            call: Call { asked, answer },
        };
        let mut histories = self.histories.lock().expect("noting does not panic");
        histories.entry(object).or_default().push(operation);
        Some(answer)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a test is short")
    }

    /// What an answer says. Nothing where nothing was asked, or where a read was not answered.
    fn understood(&self, asked: Asked, heard: &io::Result<http::Answer>) -> Option<Answer> {
        let unknown = (asked != Asked::Read).then_some(Answer::Unknown);
        let answer = match heard {
            Ok(answer) => answer,
            // There is no daemon.
            Err(error) if is_nobody(error) => return None,
            Err(_) => return unknown,
        };
        let said = answer.message();
        match answer.status {
            200 if asked == Asked::Read => Some(found(&answer.json())),
            200..=204 => Some(Answer::Done),
            404 if said.contains("not found") => Some(Answer::Absent),
            409 => Some(Answer::Exists),
            500 if said.contains("update out of sequence") => Some(Answer::Stale),
            503 => unknown,
            status => {
                let mut odd = self.odd.lock().expect("noting does not panic");
                odd.push(format!("{asked:?}: {status} {said}"));
                unknown
            }
        }
    }

    pub fn into_histories(self) -> (BTreeMap<Object, Vec<Operation<Call>>>, Vec<String>) {
        let histories = self.histories.into_inner();
        let odd = self.odd.into_inner();
        (
            histories.expect("noting does not panic"),
            odd.expect("noting does not panic"),
        )
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

fn found(shown: &Value) -> Answer {
    let label = shown["Spec"]["Labels"][LABEL].as_str();
    Answer::Found {
        value: label.map_or(0, |text| text.parse().expect("we have written it")),
        version: shown["Version"]["Index"].as_u64().expect("it has one"),
    }
}
