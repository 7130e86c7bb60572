//! Debian's registry, on a node's loopback.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::cluster::skep_binary;
use crate::wait::holds;
use crate::{Cluster, eventually, needs, secs};

/// A user `nobody` whose password nobody knows.
const NOBODY: &str = "nobody:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// Somebody whose password is [`PASSWORD`].
pub const USER: &str = "ali";
/// What [`USER`] says.
pub const PASSWORD: &str = "open-sesame";
/// The same as registries know it.
const SOMEBODY: &str = "ali:$2b$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO\n";

/// A registry in a node's namespace. It ends with the test, however that ends: the shell around it waits
/// for the end of its input.
pub struct Registry {
    shell: Child,
}

impl Registry {
    /// One that anybody may push to and pull from. `None`, and a word about it, where there is no
    /// program for it.
    pub fn start(c: &Cluster, node: &str, port: u16) -> Option<Self> {
        Self::run(c, node, port, "", "200 OK")
    }

    /// One that asks everybody for a password.
    pub fn closed(c: &Cluster, node: &str, port: u16) -> Option<Self> {
        let users = c.root.join("registry.users");
        fs::write(&users, format!("{NOBODY}{SOMEBODY}"))
            .expect("the cluster's directory can be written to");
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: closed\n    path: {}\n",
            users.display()
        );
        Self::run(c, node, port, &auth, "401")
    }

    fn log(c: &Cluster, node: &str, port: u16) -> PathBuf {
        c.root.join(format!("registry-{port}-{node}.log"))
    }

    /// Digests and bytes of the blobs that the one of this node and port has given until now.
    pub fn given(c: &Cluster, node: &str, port: u16) -> Vec<(String, u64)> {
        let log = fs::read_to_string(Self::log(c, node, port)).unwrap_or_default();
        // … "GET /v2/own/blobs/sha256:… HTTP/1.1" 200 1234 …
        let given = log.lines().filter_map(|line| {
            let (_, request) = line.split_once("\"GET ")?;
            let digest = request.split_once("/blobs/")?.1.split_whitespace().next()?;
            let mut answer = request.split_once("\" ")?.1.split_whitespace();
            answer.next().filter(|status| status.starts_with("20"))?;
            Some((digest.to_owned(), answer.next()?.parse().ok()?))
        });
        given.collect()
    }

    fn run(c: &Cluster, node: &str, port: u16, auth: &str, answer: &str) -> Option<Self> {
        let Some(program) = needs::program("docker-registry") else {
            println!("skipped: there is no docker-registry");
            return None;
        };
        let file = |ending: &str| -> PathBuf { c.root.join(format!("registry-{port}{ending}")) };
        let config = file(".yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
            file("").display()
        );
        fs::write(&config, text).expect("the cluster's directory can be written to");
        // It tells of every request on its standard output.
        let log = Self::log(c, node, port);
        let script = r#""$0" serve "$1" >"$2" 2>/dev/null & read -r end; kill $!; wait"#;
        let shell = Command::new(skep_binary())
            .args(["dev", "exec", "--root"])
            .arg(&c.root)
            .args([node, "--", "sh", "-c", script])
            .args([&program, &config, &log])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell can be run");
        let registry = Self { shell };
        eventually("the registry answers", secs(10), || {
            let page = c.page_from(node, Ipv4Addr::LOCALHOST, port, "/v2/");
            let said = format!("{}{}", page.out, page.err);
            holds(said.contains(answer), said)
        });
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
