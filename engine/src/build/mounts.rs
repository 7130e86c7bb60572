//! `RUN --mount`: what a step sees besides its image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_dockerfile::{Mount, MountKind, Run};

use super::Build;
use super::caches::Lease;
use super::copy::{Origin, hash};
use super::state::State;
use crate::container::mounts::clean;
use crate::error::{EngineError, IoContext as _, Result};
use crate::tree::pack::{self, pack};
use crate::tree::unpack::{self, unpack};
use crate::tree::{Root, confined};
use crate::types::{Mount as HostMount, MountType};

/// Mounts that were looked at, but not made.
pub(super) struct Planned {
    mounts: Vec<Plan>,
}

struct Plan {
    mount: Mount,
    /// Absolute, in the container.
    target: String,
    /// Of a bind: where from, the path there, and what it has.
    bind: Option<(Origin, PathBuf, String)>,
    text: String,
}

/// Mounts for one container. Caches are held as long as this.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) mounts: Vec<HostMount>,
    pub(super) tmpfs: BTreeMap<String, String>,
    /// Paths that exist only to be mounted on.
    pub(super) stubs: Vec<PathBuf>,
    _leases: Vec<Lease>,
}

impl Planned {
    /// All that the result of the step depends on. What a cache has is not part
    /// of it.
    pub(super) fn key(&self) -> Vec<(&str, &str)> {
        self.mounts
            .iter()
            .map(|plan| {
                let content = plan.bind.as_ref().map_or("", |(_, _, hash)| hash.as_str());
                (plan.text.as_str(), content)
            })
            .collect()
    }
}

impl Build {
    pub(super) async fn plan_mounts(&mut self, state: &State, run: &Run) -> Result<Planned> {
        let mut mounts = Vec::new();
        for text in &run.mounts {
            let text = state.expand(&self.args, text)?;
            let mount = Mount::parse(&text).map_err(|error| {
                EngineError::invalid(format!("invalid --mount \"{text}\": {error}"))
            })?;
            match mount.kind {
                MountKind::Secret | MountKind::Ssh => {
                    missing(&mount)?;
                    continue;
                }
                MountKind::Cache if mount.from.is_some() || mount.source.is_some() => {
                    return Err(EngineError::not_implemented(
                        "RUN --mount=type=cache with `from` or `source` is not supported by this daemon: fill the cache in the step itself",
                    ));
                }
                _ => {}
            }
            let given = mount.target.clone().unwrap_or_default();
            let target = match given.starts_with('/') {
                true => clean(&given),
                false => clean(&format!("/{}/{given}", state.config.working_dir)),
            };
            if target == "/" {
                return Err(EngineError::invalid(format!(
                    "invalid --mount \"{text}\": the target cannot be /"
                )));
            }
            let bind = match mount.kind {
                MountKind::Bind => Some(self.plan_bind(&mount).await?),
                _ => None,
            };
            mounts.push(Plan {
                mount,
                target,
                bind,
                text,
            });
        }
        Ok(Planned { mounts })
    }

    async fn plan_bind(&mut self, mount: &Mount) -> Result<(Origin, PathBuf, String)> {
        let origin = match mount.from.as_deref() {
            None | Some("") => Origin::Directory(self.context.clone()),
            Some(from) => {
                let image = self.source(from).await?;
                Origin::image(&self.engine, &image, &self.workspace).await?
            }
        };
        let given = clean(mount.source.as_deref().unwrap_or("/"));
        let root = origin.root();
        let shown = given.clone();
        let (path, hash) = self
            .workspace
            .blocking(move || {
                confined(root, move || {
                    let path = fs::canonicalize(&given).map_err(|error| {
                        EngineError::invalid(format!(
                            "failed to compute cache key: \"{given}\": not found"
                        ))
                        .because(error)
                    })?;
                    let hash = hash::tree(&path, None, &Default::default())
                        .during(|| format!("cannot read `{shown}`"))?;
                    Ok((path, hash))
                })
            })
            .await?;
        Ok((origin, path, hash))
    }

    pub(super) async fn make_mounts(&self, state: &State, planned: Planned) -> Result<Mounted> {
        let mut mounted = Mounted::default();
        let mut targets = Vec::new();
        for plan in planned.mounts {
            targets.push(plan.target.clone());
            match plan.mount.kind {
                MountKind::Tmpfs => {
                    let options = match plan.mount.size {
                        0 => String::new(),
                        size => format!("size={size}"),
                    };
                    mounted.tmpfs.insert(plan.target, options);
                    continue;
                }
                MountKind::Cache => {
                    let lease = self.engine.builds.lease(&plan.mount, &plan.target).await?;
                    mounted
                        .mounts
                        .push(bind(lease.data(), plan.target, plan.mount.readonly));
                    mounted._leases.push(lease);
                }
                _ => {
                    let source = self.bind_source(&plan).await?;
                    mounted
                        .mounts
                        .push(bind(&source, plan.target, plan.mount.readonly));
                }
            }
        }
        if !targets.is_empty() {
            let origin = Origin::chain(&self.engine, state.chain(), &self.workspace).await?;
            let root = origin.root();
            mounted.stubs = self
                .workspace
                .blocking(move || confined(root, move || Ok(absent(&targets))))
                .await?;
        }
        Ok(mounted)
    }

    /// Where on the host a bind comes from. What may be written to, and what is
    /// in an image, is a copy: writes are not kept.
    async fn bind_source(&self, plan: &Plan) -> Result<PathBuf> {
        let Some((origin, path, _)) = &plan.bind else {
            return Err(EngineError::internal("a mount without a source"));
        };
        if let (Origin::Directory(directory), true) = (origin, plan.mount.readonly) {
            return Ok(directory.join(path.strip_prefix("/").unwrap_or(path)));
        }
        let (root, path) = (origin.root(), path.clone());
        let workspace = Arc::clone(&self.workspace);
        self.workspace
            .blocking(move || {
                let copy = workspace.directory("mount")?;
                let archive = copy.join("archive");
                let mut file = fs::File::create_new(&archive)
                    .during(|| format!("cannot write `{}`", archive.display()))?;
                let file = confined(root, move || {
                    let options = pack::Options {
                        name: Some("content".into()),
                        ..pack::Options::default()
                    };
                    pack(&path, &mut file, options)
                        .during(|| format!("cannot read `{}`", path.display()))?;
                    Ok(())
                })
                .and_then(|()| {
                    fs::File::open(&archive)
                        .during(|| format!("cannot read `{}`", archive.display()))
                })?;
                confined(Root::Directory(copy.clone()), move || {
                    unpack(file, unpack::Options::default())
                        .during(|| "cannot copy what is mounted".into())
                })?;
                crate::record::remove_file(&archive)?;
                Ok(copy.join("content"))
            })
            .await
    }
}

/// Secrets and agents come through BuildKit's session, which there is none of.
fn missing(mount: &Mount) -> Result<()> {
    let (what, id) = match mount.kind {
        MountKind::Ssh => ("ssh agent", mount.id.as_deref().unwrap_or("default")),
        _ => (
            "secret",
            mount
                .id
                .as_deref()
                .or_else(|| mount.target.as_deref()?.rsplit('/').next())
                .unwrap_or_default(),
        ),
    };
    match mount.required {
        true => Err(EngineError::invalid(format!(
            "{what} {id}: not found: this builder is given no secrets and no agents; leave `required` away to do without"
        ))),
        false => Ok(()),
    }
}

fn bind(source: &Path, target: String, readonly: bool) -> HostMount {
    HostMount {
        kind: MountType::Bind,
        source: source.display().to_string(),
        target,
        read_only: readonly,
        ..HostMount::default()
    }
}

/// The paths and directories above them that are not there, deepest first.
fn absent(targets: &[String]) -> Vec<PathBuf> {
    let mut absent: Vec<PathBuf> = targets
        .iter()
        .flat_map(|target| Path::new(target).ancestors())
        .filter(|path| fs::symlink_metadata(path).is_err())
        .map(Path::to_owned)
        .collect();
    absent.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    absent.dedup();
    absent
}

/// Removes what was made to be mounted on and has nothing in it. Blocking.
pub(super) fn remove_stubs(upper: &Path, stubs: Vec<PathBuf>) -> Result<()> {
    if stubs.is_empty() {
        return Ok(());
    }
    confined(Root::Directory(upper.to_owned()), move || {
        for stub in stubs {
            match fs::symlink_metadata(&stub) {
                Ok(found) if found.is_dir() => {
                    // With something in it, it is the step's own.
                    let _ = fs::remove_dir(&stub);
                }
                Ok(found) if found.is_file() && found.len() == 0 => {
                    let _ = fs::remove_file(&stub);
                }
                _ => {}
            }
        }
        Ok(())
    })
}
