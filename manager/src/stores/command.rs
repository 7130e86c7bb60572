//! Stores that are commands: asked on their input with what Docker asks its plugins for secrets,
//! answering on their output.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::Serialize;
use skep_model::limits::SECRET_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use zeroize::Zeroizing;

use super::option::check_command;
use super::words::first_line;

/// All that a command has of the daemon's environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of what it complains of that are read; the rest is let go.
const COMPLAINT_BYTES_MAX: usize = 4096;
/// How often it is looked whether it has ended.
const LOOK_PERIOD: Duration = Duration::from_millis(10);

/// What a command is asked, in the form of Docker's plugins for secrets, and the options.
///
/// What is answered for all tasks of a service at once says nothing of one of them.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Request {
    pub secret_name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_labels: BTreeMap<String, String>,
    /// Number of the secret's version.
    pub secret_version: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_hostname: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    #[serde(rename = "ServiceID", skip_serializing_if = "String::is_empty")]
    pub service_id: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub service_labels: BTreeMap<String, String>,
    #[serde(rename = "TaskID", skip_serializing_if = "String::is_empty")]
    pub task_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub task_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub task_image: String,
    #[serde(rename = "NodeID", skip_serializing_if = "String::is_empty")]
    pub node_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_hostname: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// A command's processes. However it is let go of, none of them goes on.
struct Group {
    leader: Pid,
}

impl Group {
    fn of(child: &Child) -> Option<Self> {
        let id = child.id().and_then(|id| i32::try_from(id).ok())?;
        let leader = Pid::from_raw(id);
        Some(Self { leader })
    }

    /// Waits until the command itself has ended. It is not taken from the kernel by this: its number
    /// stays its own, so that nobody else is ended in its place.
    async fn ended(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        while matches!(
            waitid(Id::Pid(self.leader), flags),
            Ok(WaitStatus::StillAlive)
        ) {
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    fn kill(&self) {
        let _ = killpg(self.leader, Signal::SIGKILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks a command.
///
/// # Errors
/// Why there is no answer. Nothing of what it put out is in it.
pub async fn ask(
    program: &Path,
    request: &Request,
    patience: Duration,
) -> Result<Zeroizing<Vec<u8>>, String> {
    check_command(program)?;
    let request = serde_json::to_vec(request).expect("texts serialise");
    let mut child = Command::new(program)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
    let group = Group::of(&child).ok_or("it has ended before it was asked")?;
    let asked = tokio::time::timeout(patience, talk(&mut child, &group, &request)).await;
    // Before its number can be anybody else's.
    drop(group);
    let status = child.wait().await;
    let (out, complaint) = match asked {
        Ok(said) => said?,
        Err(_) => {
            let secs = patience.as_secs_f64();
            return Err(format!("it has not answered after {secs} s, and was ended"));
        }
    };
    let status = status.map_err(|error| format!("its end cannot be told: {error}"))?;
    judge(status, out, &complaint)
}

type Said = (Zeroizing<Vec<u8>>, Vec<u8>);

async fn talk(child: &mut Child, group: &Group, request: &[u8]) -> Result<Said, String> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pipes = stdin.zip(stdout).zip(stderr);
    let ((stdin, stdout), stderr) = pipes.ok_or("it has no input or output")?;
    let ended = async {
        group.ended().await;
        // What it has left behind would keep its output open.
        group.kill();
        Ok(())
    };
    let (_, out, complaint, ()) = tokio::try_join!(
        give(stdin, request),
        take_secret(stdout),
        take_complaint(stderr),
        ended
    )?;
    Ok((out, complaint))
}

/// It need not listen.
async fn give(mut stdin: ChildStdin, request: &[u8]) -> Result<(), String> {
    let _ = stdin.write_all(request).await;
    let _ = stdin.shutdown().await;
    Ok(())
}

async fn take_secret(mut from: impl AsyncRead + Unpin) -> Result<Zeroizing<Vec<u8>>, String> {
    // Never moved while it grows: no second copy is left behind.
    let mut taken = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX));
    loop {
        let room = SECRET_BYTES_MAX - taken.len();
        let mut limited = (&mut from).take(room as u64);
        match limited.read_buf(&mut *taken).await {
            Ok(0) => return Ok(taken),
            Ok(_) if taken.len() < SECRET_BYTES_MAX => (),
            Ok(_) => {
                return Err(format!(
                    "it gave {SECRET_BYTES_MAX} bytes or more: secrets are smaller"
                ));
            }
            Err(error) => return Err(format!("its output cannot be read: {error}")),
        }
    }
}

async fn take_complaint(mut from: impl AsyncRead + Unpin) -> Result<Vec<u8>, String> {
    let mut taken = Vec::new();
    let mut piece = [0; COMPLAINT_BYTES_MAX];
    loop {
        match from.read(&mut piece).await {
            Ok(0) | Err(_) => return Ok(taken),
            Ok(count) => {
                let room = COMPLAINT_BYTES_MAX - taken.len();
                taken.extend_from_slice(&piece[..count.min(room)]);
            }
        }
    }
}

/// What a command has ended with. Its words are told where it gave nothing else: they may repeat it.
fn judge(
    status: ExitStatus,
    out: Zeroizing<Vec<u8>>,
    complaint: &[u8],
) -> Result<Zeroizing<Vec<u8>>, String> {
    if status.success() && !out.is_empty() {
        return Ok(out);
    }
    let said = first_line(complaint);
    Err(match (out.is_empty(), said.as_str()) {
        (true, "") if status.success() => "it gave nothing".to_owned(),
        (true, said) if !said.is_empty() => said.to_owned(),
        (true, _) | (false, _) => status.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn script(directory: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = directory.path().join("store");
        // Written elsewhere first: a file that is open for writing is not executed.
        let draft = directory.path().join("draft");
        std::fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::rename(&draft, &path).unwrap();
        path
    }

    async fn run(text: &str, patience: Duration) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = script(&directory, text);
        let request = Request {
            secret_name: "db".into(),
            service_name: "web".into(),
            options: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..Request::default()
        };
        let answer = ask(&path, &request, patience).await;
        answer.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_command_is_asked_and_answers() {
        let asked = run("cat", PATIENCE).await.unwrap();
        assert_eq!(
            asked,
            r#"{"SecretName":"db","SecretVersion":0,"ServiceName":"web","Options":{"a":"b"}}"#
        );
        // It need not listen, nor is it told anything by its surroundings.
        assert_eq!(run("printf x", PATIENCE).await.unwrap(), "x");
        let environment = run("env | grep -v '^PWD=\\|^_=\\|^SHLVL='; pwd", PATIENCE).await;
        assert_eq!(environment.unwrap(), format!("PATH={PATH}\n/\n"));
        let large = run("head -c 400000 /dev/zero | tr '\\0' x", PATIENCE).await;
        assert_eq!(large.unwrap().len(), 400_000);
    }

    #[tokio::test]
    async fn what_fails_says_why_and_nothing_of_what_it_gave() {
        for (text, why) in [
            (
                "echo 'no such entry' >&2; echo more >&2; exit 3",
                "no such entry",
            ),
            ("exit 3", "exit status: 3"),
            ("printf hunter2; exit 3", "exit status: 3"),
            (
                "printf hunter2; echo 'got hunter2' >&2; exit 3",
                "exit status: 3",
            ),
            (
                "printf 'pass hunter2'; echo 'pass: no hunter2' >&2; exit 3",
                "exit status: 3",
            ),
            ("true", "it gave nothing"),
            ("kill -9 $$", "signal: 9"),
            ("head -c 600000 /dev/zero", "bytes or more"),
            ("cat /dev/zero", "bytes or more"),
        ] {
            let told = run(text, PATIENCE).await.unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
            assert!(!told.contains("hunter2"), "{told}");
        }
        let missing = ask(Path::new("/none/such"), &Request::default(), PATIENCE).await;
        assert!(missing.unwrap_err().contains("No such file"));
        // Who only warns has answered.
        let warned = run("echo 'it is an old one' >&2; printf hunter2", PATIENCE).await;
        assert_eq!(warned.unwrap(), "hunter2");
    }

    /// Processes with this in their command line.
    fn running(mark: &str) -> usize {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines
            .filter(|line| String::from_utf8_lossy(line).contains(mark))
            .count()
    }

    async fn all_gone(mark: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while running(mark) > 0 {
            assert!(tokio::time::Instant::now() < deadline, "{mark} goes on");
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    #[tokio::test]
    async fn nothing_of_a_command_goes_on_after_its_time_or_its_end() {
        let mark = format!("1000{}", std::process::id());
        let text = format!("sleep {mark} & sleep {mark}; printf x");
        let told = run(&text, Duration::from_millis(700)).await.unwrap_err();
        assert!(told.contains("not answered after 0.7 s"), "{told}");
        all_gone(&mark).await;
        // One that leaves a child behind with its output open has ended all the same.
        let text = format!("sleep {mark} & printf x");
        assert_eq!(run(&text, PATIENCE).await.unwrap(), "x");
        all_gone(&mark).await;
        // Whoever asked has gone meanwhile.
        let text = format!("sleep {mark} & sleep {mark}");
        let asked = tokio::time::timeout(Duration::from_millis(300), run(&text, PATIENCE));
        assert!(asked.await.is_err());
        all_gone(&mark).await;
    }
}
