//! `swarm backup` and `swarm restore`: the whole state of a cluster as one sealed file.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use serde_json::json;
use skep_model::backup::BackupSummary;
use skep_pki::backup::{About, BackupError, BackupReader, Passphrase};

use super::{availability, listen_address, name_the_flag};
use crate::client::{Call, Chunks};
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::flags::Args;
use crate::human;
use crate::session::Session;
use crate::tty;

/// Where the passphrase is taken from when no file is named.
const VARIABLE: &str = "SKEP_BACKUP_PASSPHRASE";
/// A file with a passphrase is smaller than this.
const PASSPHRASE_BYTES_MAX: u64 = 64 << 10;
/// Bytes of the largest backup that a daemon takes in.
const BACKUP_BYTES_MAX: u64 = 4 << 30;

/// What is in a backup that was read to its end.
struct Contents {
    about: About,
    format: u32,
    summary: BackupSummary,
}

pub async fn backup(session: &Session, args: &Args) -> Outcome {
    let output = args.text("output");
    if let Some(path) = args.maybe("inspect") {
        if !output.is_empty() {
            return Err(args.usage(
                "conflicting options: `--inspect` shows a backup, and `--output` takes one"
                    .to_owned(),
            ));
        }
        let passphrase = passphrase(session, args, Times::Once)?;
        let input = File::open(path).map_err(|error| unreadable(path, &error))?;
        let contents =
            examine(BufReader::new(input), &passphrase).map_err(|error| not_whole(path, &error))?;
        return session.print(&contents.text());
    }
    let to_stdout = matches!(output, "" | "-");
    if to_stdout && session.streams.out_is_terminal {
        return Err(Failure::message(
            "cowardly refusing to write a backup to a terminal. Use the -o flag or redirect",
        ));
    }
    let given = passphrase(session, args, Times::Twice)?;
    // Said here as well, before anything is sent.
    Passphrase::for_sealing(&*given).map_err(|error| Failure::message(error.to_string()))?;
    let call = Call::post("/skep/v1/swarm/backup").json(&json!({"Passphrase": &*given}));
    let mut chunks = Chunks::of(session.client.send(call).await?);
    if to_stdout {
        while let Some(chunk) = chunks.next().await? {
            session.print_bytes(&chunk)?;
        }
        return Ok(());
    }
    let contents = keep(chunks, output, &given).await?;
    session.say(format!(
        "Backup of swarm {} written to {output}: {}.",
        contents.about.cluster,
        contents.in_short()
    ))
}

pub async fn restore(session: &Session, args: &Args) -> Outcome {
    let path = args.positional(0);
    let given = match path {
        "-" => passphrase(session, args, Times::Never)?,
        _ => passphrase(session, args, Times::Once)?,
    };
    let bytes = match path {
        "-" => session.read_input(usize::try_from(BACKUP_BYTES_MAX).unwrap_or(usize::MAX))?,
        path => files::read(path, BACKUP_BYTES_MAX).map_err(Failure::Message)?,
    };
    let contents = examine(bytes.as_slice(), &given).map_err(|error| not_whole(path, &error))?;
    if args.flag("dry-run") {
        return session.print(&contents.text());
    }
    let root_key = super::ca::pem(args, "ca-key")?;
    let root_key = (!root_key.is_empty()).then(|| URL_SAFE.encode(root_key));
    let body = Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed_unsync();
    let call = Call::post("/skep/v1/swarm/restore")
        .query("listenAddr", listen_address(args))
        .query_text("advertiseAddr", args.text("advertise-addr"))
        .query_text("dataPathAddr", args.text("data-path-addr"))
        .query("availability", availability(args)?)
        .header("X-Skep-Passphrase", URL_SAFE.encode(&*given))
        .header_maybe("X-Skep-Root-Key", root_key)
        .body("application/octet-stream", body);
    let answer = session.client.json(call).await.map_err(name_the_flag)?;
    session.say(format!(
        "Swarm {} restored as it was at {}: current node ({}) is now its only manager.\n",
        answer.str("ClusterID"),
        answer.str("CreatedAt"),
        answer.str("NodeID"),
    ))?;
    session.say(
        "Managers of before must not be started again: run 'skep swarm leave --force' on each that still exists.\n\
         Workers that know this node's address come back by themselves; on others run 'skep swarm leave' and join\n\
         again, with the tokens of before. 'skep node ls' shows who is down, 'skep node rm' forgets them.",
    )
}

/// Puts a backup where it was asked for, once it is whole and on the disk.
async fn keep(mut chunks: Chunks, path: &str, passphrase: &str) -> Outcome<Contents> {
    let wrong = |error: std::io::Error| {
        Failure::message(format!(
            "failed to write {}: {}",
            human::quote(path),
            files::reason(&error)
        ))
    };
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return Err(Failure::message(format!(
            "failed to write {}: not a regular file; a pipe is written to with `-o -`",
            human::quote(path)
        )));
    }
    let partial = format!("{path}.partial-{}", std::process::id());
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .map_err(wrong)?;
    let kept = async {
        while let Some(chunk) = chunks.next().await? {
            file.write_all(&chunk).map_err(wrong)?;
        }
        file.sync_all().map_err(wrong)?;
        // What cannot be read back is no backup.
        let written = File::open(&partial).map_err(wrong)?;
        let contents = examine(BufReader::new(written), passphrase)
            .map_err(|error| not_whole(path, &error))?;
        std::fs::rename(&partial, path).map_err(wrong)?;
        let directory = match Path::new(path).parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = File::open(directory).map_err(wrong)?;
        directory.sync_all().map_err(wrong)?;
        Ok(contents)
    }
    .await;
    if kept.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    kept
}

/// Reads a backup to its end, verifying all of it.
fn examine(input: impl Read, passphrase: &str) -> Result<Contents, BackupError> {
    let passphrase = Passphrase::new(passphrase)
        .map_err(|error| BackupError::Io(std::io::Error::other(error)))?;
    let mut reader = BackupReader::open(input, &passphrase)?;
    let first = reader.next_chunk()?.unwrap_or_default();
    let summary = serde_json::from_slice(&first)
        .map_err(|_| BackupError::Damaged("what is in it cannot be read"))?;
    while reader.next_chunk()?.is_some() {}
    Ok(Contents {
        about: reader.header.about,
        format: reader.header.format,
        summary,
    })
}

fn not_whole(path: &str, error: &BackupError) -> Failure {
    let path = if path == "-" { "standard input" } else { path };
    Failure::message(format!("{path}: {error}"))
}

fn unreadable(path: &str, error: &std::io::Error) -> Failure {
    Failure::message(format!("open {path}: {}", files::reason(error)))
}

/// How often a passphrase is asked for on the terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Times {
    /// Standard input is the backup.
    Never,
    Once,
    /// A typing error would be found when it is too late.
    Twice,
}

fn passphrase(session: &Session, args: &Args, times: Times) -> Outcome<String> {
    let given = if let Some(path) = args.maybe("passphrase-file") {
        let bytes = files::read(path, PASSPHRASE_BYTES_MAX)
            .map_err(|why| args.invalid("passphrase-file", path, &why))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| args.invalid("passphrase-file", path, "the file is not UTF-8"))?;
        text.lines().next().unwrap_or_default().to_owned()
    } else if let Some(text) = session.env.get(VARIABLE) {
        text.clone()
    } else if times == Times::Never || !session.streams.in_is_terminal {
        return Err(Failure::message(format!(
            "a backup is sealed with a passphrase: give it with `--passphrase-file`, in {VARIABLE}, or at a terminal"
        )));
    } else {
        ask(session, "Passphrase of the backup: ")?
    };
    if given.is_empty() {
        return Err(Failure::message("the passphrase is empty"));
    }
    let is_asked = args.maybe("passphrase-file").is_none() && !session.env.contains_key(VARIABLE);
    if times == Times::Twice && is_asked && ask(session, "The same again: ")? != given {
        return Err(Failure::message("the passphrases are not the same"));
    }
    Ok(given)
}

/// Asks on stderr: stdout may be the backup.
fn ask(session: &Session, question: &str) -> Outcome<String> {
    session.print_error_bytes(question.as_bytes())?;
    let silent = tty::no_echo()?;
    let answer = session.read_line();
    drop(silent);
    session.warn("");
    answer
}

impl Contents {
    /// The kinds of things in it with their names.
    fn kinds(&self) -> [(&'static str, &[String]); 7] {
        let summary = &self.summary;
        [
            ("services", &summary.services),
            ("stacks", &summary.stacks),
            ("networks", &summary.networks),
            ("secrets", &summary.secrets),
            ("configs", &summary.configs),
            ("managers", &summary.managers),
            ("workers", &summary.workers),
        ]
    }

    fn in_short(&self) -> String {
        let counts = self
            .kinds()
            .map(|(kind, names)| format!("{} {kind}", names.len()));
        counts.join(", ")
    }

    fn text(&self) -> String {
        let about = &self.about;
        let mut text = format!(
            "Swarm: {}\nTaken: {}\nState version: {}\nWritten by: skep {} (format {})\nAutolock: {}\nTasks: {}\n",
            about.cluster,
            about.created_at,
            about.version,
            about.software,
            self.format,
            self.summary.auto_lock,
            self.summary.tasks,
        );
        for (kind, names) in self.kinds() {
            let mut title = kind.to_owned();
            title[..1].make_ascii_uppercase();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{title} ({}): {}", names.len(), names.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use skep_model::Timestamp;
    use skep_pki::backup::{BackupWriter, Cost};

    use super::*;
    use crate::tests::run;

    /// A backup that costs little to open, and a file with its passphrase.
    fn written(directory: &Path) -> (String, String) {
        let about = About {
            cluster: "c1".into(),
            created_at: Timestamp::from_secs(1_900_000_000),
            version: 77,
            software: "1.2.3".to_owned(),
        };
        let summary = BackupSummary {
            services: vec!["api".to_owned(), "web".to_owned()],
            managers: vec!["n1".to_owned()],
            tasks: 5,
            ..BackupSummary::default()
        };
        let key = Passphrase::new("correct horse").unwrap();
        let cost = Cost {
            memory_kib: 8,
            passes: 1,
            lanes: 1,
        };
        let mut writer = BackupWriter::begin(Vec::new(), about, &key, cost).unwrap();
        writer
            .chunk(&serde_json::to_vec(&summary).unwrap())
            .unwrap();
        writer.chunk(b"the state").unwrap();
        let (file, key) = (directory.join("file"), directory.join("key"));
        std::fs::write(&file, writer.finish().unwrap()).unwrap();
        std::fs::write(&key, "correct horse\nanother line").unwrap();
        (file.display().to_string(), key.display().to_string())
    }

    #[test]
    fn a_backup_is_shown_without_a_daemon_and_damage_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (file, key) = written(directory.path());
        let shown = "Swarm: c1\nTaken: 2030-03-17T17:46:40Z\nState version: 77\n\
                     Written by: skep 1.2.3 (format 1)\nAutolock: false\nTasks: 5\n\
                     Services (2): api, web\nStacks (0): \nNetworks (0): \nSecrets (0): \n\
                     Configs (0): \nManagers (1): n1\nWorkers (0): \n";
        for line in [
            format!("swarm backup --inspect {file} --passphrase-file {key}"),
            format!("swarm restore --dry-run --passphrase-file {key} {file}"),
        ] {
            let ran = run(&line, "", None);
            assert_eq!((ran.out.as_str(), ran.status), (shown, 0), "{ran:?}");
        }
        let ask = format!("swarm backup --inspect {file}");
        assert!(run(&ask, "", None).err.contains("SKEP_BACKUP_PASSPHRASE"));
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() - 3]).unwrap();
        // It does not come so far as to look for a daemon.
        let ran = run(
            &format!("swarm restore --passphrase-file {key} {file}"),
            "",
            None,
        );
        assert!(
            ran.status == 1 && ran.err.contains("the backup is damaged: it ends too early"),
            "{ran:?}"
        );
        std::fs::write(&key, "battery staple").unwrap();
        std::fs::write(&file, &whole).unwrap();
        let ran = run(
            &format!("swarm restore --passphrase-file {key} {file}"),
            "",
            None,
        );
        assert!(
            ran.err
                .contains("the passphrase is not the one of this backup"),
            "{ran:?}"
        );
        let both = format!("swarm backup --inspect {file} -o x --passphrase-file {key}");
        assert!(run(&both, "", None).err.contains("conflicting options"));
    }
}
