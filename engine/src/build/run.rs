//! `RUN`: a container on the image so far, whose changes are the next layer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skep_dockerfile::{Network, Run};

use super::Build;
use super::commit::{Made, NewLayer, pack_layer};
use super::mounts::Mounted;
use super::state::State;
use crate::error::{EngineError, Kind, Result};
use crate::extras::{CreateExtras, StartExtras};
use crate::names;
use crate::options::{AttachOptions, RemoveOptions, WaitCondition};
use crate::record;
use crate::streams::{OutputStream, StdStream};
use crate::types::{
    ContainerConfig, HealthConfig, HostConfig, LogConfig, Mount, MountType, StrSlice,
};

/// Where a here-document that is a program stands.
const PROGRAMS: &str = "/dev/pipes";
/// How long the rest of a line is waited for.
const LINE_WAIT: Duration = Duration::from_millis(100);
/// Longer lines are shown in pieces.
const LINE_BYTES_MAX: usize = 16 << 10;

impl Build {
    pub(super) async fn run_step(&mut self, state: &mut State, run: &Run) -> Result<()> {
        if run.insecure {
            return Err(EngineError::not_implemented(
                "RUN --security=insecure is not supported by this daemon",
            ));
        }
        let (words, program) = words(state, run);
        let arguments = self.arguments(state);
        let saved: Vec<&String> = arguments
            .iter()
            .filter(|argument| {
                let name = argument.split('=').next().unwrap_or_default();
                self.args.counts(name)
            })
            .collect();
        let mut created_by = words.join(" ");
        if !saved.is_empty() {
            let list: Vec<&str> = saved.iter().map(|argument| argument.as_str()).collect();
            created_by = format!("|{} {} {created_by}", list.len(), list.join(" "));
        }
        let mounts = self.plan_mounts(state, run).await?;
        let made = Made::new(
            state,
            created_by,
            &(
                &words,
                &run.heredocs
                    .iter()
                    .map(|document| document.text())
                    .collect::<Vec<_>>(),
                mounts.key(),
                run.network == Network::None,
            ),
        )?;
        if self.cached(state, &made).await? {
            return Ok(());
        }
        // A container needs an image, if only an empty one.
        if state.image.is_none() {
            let empty = Made::metadata(state, "FROM scratch")?;
            self.commit(state, empty, None).await?;
        }
        let mut mounted = self.make_mounts(state, mounts).await?;
        if let Some((name, text)) = program {
            mounted.mounts.push(self.program_mount(name, text).await?);
        }
        let host = self.host(run, &mounted)?;
        let mut config = ContainerConfig {
            image: state.id().map(ToString::to_string).unwrap_or_default(),
            cmd: Some(StrSlice(words.clone())),
            // The image's own entrypoint is not for this.
            entrypoint: Some(StrSlice(vec![String::new()])),
            env: state.config.env.iter().cloned().chain(arguments).collect(),
            healthcheck: Some(HealthConfig {
                test: vec!["NONE".into()],
                ..HealthConfig::default()
            }),
            ..ContainerConfig::default()
        };
        config.host_config = Some(host);
        let layer = self.run_container(config, &words, &mounted).await?;
        drop(mounted);
        self.commit(state, made, layer).await
    }

    /// A program from a here-document, where it can be executed.
    async fn program_mount(&self, name: String, text: String) -> Result<Mount> {
        let workspace = Arc::clone(&self.workspace);
        let target = Path::new(PROGRAMS).join(&name);
        let source = self
            .workspace
            .blocking(move || {
                let path = workspace.directory("program")?.join("file");
                record::replace(&path, text.as_bytes(), 0o755)?;
                Ok(path)
            })
            .await?;
        Ok(Mount {
            kind: MountType::Bind,
            source: source.display().to_string(),
            target: target.display().to_string(),
            read_only: true,
            ..Mount::default()
        })
    }

    /// Arguments as variables, those apart that the environment has.
    fn arguments(&self, state: &State) -> Vec<String> {
        let has = |name: &str| {
            state
                .config
                .env
                .iter()
                .any(|variable| variable.split('=').next() == Some(name))
        };
        let visible: BTreeMap<String, String> = self.args.visible();
        visible
            .into_iter()
            .filter(|(name, _)| !has(name))
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    fn host(&self, run: &Run, mounted: &Mounted) -> Result<HostConfig> {
        let mut host = self.options.host.clone();
        match run.network {
            Network::Default => {}
            Network::None => host.network_mode = "none".into(),
            Network::Host if host.network_mode == "host" => {}
            Network::Host => {
                return Err(EngineError::forbidden(
                    "RUN --network=host needs the whole build to have it: build with `--network host`",
                ));
            }
        }
        host.log_config = LogConfig {
            kind: "none".into(),
            config: BTreeMap::new(),
        };
        host.mounts.extend(mounted.mounts.iter().cloned());
        host.tmpfs.extend(mounted.tmpfs.clone());
        Ok(host)
    }

    async fn run_container(
        &self,
        config: ContainerConfig,
        words: &[String],
        mounted: &Mounted,
    ) -> Result<Option<NewLayer>> {
        let (engine, workspace) = (Arc::clone(&self.engine), Arc::clone(&self.workspace));
        let id = self
            .workspace
            .blocking(move || {
                let name = workspace.container_name()?;
                engine
                    .create_container(Some(&name), config, CreateExtras::default())
                    .map(|created| created.id)
            })
            .await?;
        let short = names::short_id(&id).to_owned();
        self.output
            .say(format!(" ---> Running in {short}\n"))
            .await?;
        let ended = self.watch(&id).await;
        let failure = match ended {
            Ok(0) => None,
            Ok(code) => Some(
                EngineError::invalid(format!(
                    "The command '{}' returned a non-zero code: {code}",
                    words.join(" ")
                ))
                .with_exit_code(i32::try_from(code).unwrap_or(1)),
            ),
            // The code of a container that could not start is not the command's.
            Err(error) if error.exit_code().is_some() => {
                Some(EngineError::new(Kind::Invalid, error.to_string()))
            }
            Err(error) => Some(error),
        };
        if let Some(failure) = failure {
            self.keep_or_remove(&id, self.options.force_remove).await?;
            return Err(failure);
        }
        let upper = self.engine.container_directories(&id).0.join("upper");
        let (engine, stubs) = (Arc::clone(&self.engine), mounted.stubs.clone());
        let layer = self
            .workspace
            .blocking(move || {
                super::mounts::remove_stubs(&upper, stubs)?;
                pack_layer(&engine, &upper)
            })
            .await?;
        let remove = self.options.remove || self.options.force_remove;
        self.keep_or_remove(&id, remove).await?;
        if remove {
            self.say_removed(&short).await?;
        }
        Ok(layer)
    }

    async fn keep_or_remove(&self, id: &str, remove: bool) -> Result<()> {
        if remove {
            let (engine, id) = (Arc::clone(&self.engine), id.to_owned());
            let options = RemoveOptions {
                force: true,
                volumes: true,
            };
            self.workspace
                .to_end(async move { engine.container_remove(&id, options).await })
                .await?;
        }
        let workspace = Arc::clone(&self.workspace);
        self.workspace
            .blocking(move || workspace.forget_container())
            .await
    }

    /// Starts a container and shows what it prints; its exit code.
    async fn watch(&self, id: &str) -> Result<i64> {
        let attach = AttachOptions {
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachOptions::default()
        };
        let attached = self.engine.container_attach(id, attach).await?;
        let waiter = self.engine.container_wait(id, WaitCondition::NextExit)?;
        let (engine, name) = (Arc::clone(&self.engine), id.to_owned());
        let started = self
            .workspace
            .to_end(async move { engine.container_start(&name, StartExtras::default()).await });
        let shown = self.show(attached.output);
        let (started, shown) = tokio::join!(started, shown);
        started?;
        shown?;
        Ok(waiter.wait().await?.status_code)
    }

    /// Passes output on; what goes to stderr is red, as docker has it. A line
    /// that is not whole waits a moment for its rest.
    async fn show(&self, mut output: OutputStream) -> Result<()> {
        const STREAMS: [StdStream; 2] = [StdStream::Stdout, StdStream::Stderr];
        let mut pieces = [Vec::new(), Vec::new()];
        loop {
            let is_whole = pieces.iter().all(Vec::is_empty);
            let next = match is_whole {
                true => Ok(output.next().await),
                false => tokio::time::timeout(LINE_WAIT, output.next()).await,
            };
            match next {
                Ok(Some(frame)) => {
                    let frame = frame?;
                    let index = usize::from(frame.stream == StdStream::Stderr);
                    pieces[index].extend_from_slice(&frame.data);
                    let text = match pieces[index].len() > LINE_BYTES_MAX {
                        true => whole_characters(&mut pieces[index]),
                        false => whole_lines(&mut pieces[index]),
                    };
                    self.print(frame.stream, text).await?;
                }
                Ok(None) => break,
                Err(_) => {
                    for (stream, left) in STREAMS.into_iter().zip(&mut pieces) {
                        self.print(stream, whole_characters(left)).await?;
                    }
                }
            }
        }
        for (stream, left) in STREAMS.into_iter().zip(pieces) {
            let text = String::from_utf8_lossy(&left).into_owned();
            self.print(stream, text).await?;
        }
        Ok(())
    }

    async fn print(&self, stream: StdStream, text: String) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.output
            .say(match stream {
                StdStream::Stdout => text,
                StdStream::Stderr => format!("\u{1b}[91m{text}\u{1b}[0m"),
            })
            .await
    }
}

/// Takes everything up to the last newline.
fn whole_lines(bytes: &mut Vec<u8>) -> String {
    let end = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let rest = bytes.split_off(end);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

/// Takes all but a character that is not whole yet.
fn whole_characters(bytes: &mut Vec<u8>) -> String {
    let end = match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        // What is wrong in the middle stays wrong.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => bytes.len(),
    };
    let rest = bytes.split_off(end);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

/// What is run, and a program of its own that the Dockerfile has.
fn words(state: &State, run: &Run) -> (Vec<String>, Option<(String, String)>) {
    if let Some(program) = run.program() {
        let path: PathBuf = Path::new(PROGRAMS).join(&program.name);
        return (
            vec![path.display().to_string()],
            Some((program.name.clone(), program.text())),
        );
    }
    if !run.command.shell {
        return (run.command.words.clone(), None);
    }
    let mut words = state.shell();
    words.extend(run.script());
    (words, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_between_characters() {
        let mut bytes = "aé".as_bytes()[..2].to_vec();
        assert_eq!(whole_characters(&mut bytes), "a");
        bytes.push(0xa9);
        assert_eq!(whole_characters(&mut bytes), "é");
        let mut bytes = vec![0xff, b'x'];
        assert_eq!(whole_characters(&mut bytes), "\u{fffd}x");
    }
}
