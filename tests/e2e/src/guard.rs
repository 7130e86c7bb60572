//! Takes a cluster down even if its test is killed.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A process that waits for word from the test; hearing none, because the test is no more, it takes
/// the cluster down. It stands outside of the test's process group, which a runner ends whole.
pub struct Guard {
    child: Child,
}

impl Guard {
    pub fn new(skep: &Path, root: &Path) -> Self {
        let script = r#"read -r word; [ "$word" = done ] || exec "$0" dev down --root "$1""#;
        let child = Command::new("sh")
            .args(["-c", script])
            .arg(skep)
            .arg(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell can be run");
        Self { child }
    }

    /// The cluster is down, or is to be kept.
    pub fn dismiss(&mut self) {
        if let Some(mut stdin) = self.child.stdin.take() {
            let _ = stdin.write_all(b"done\n");
        }
        let _ = self.child.wait();
    }
}
