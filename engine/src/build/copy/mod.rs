//! `COPY` and `ADD`: what the sources are, how they hash, where they go.

pub(super) mod hash;
pub(super) mod place;
mod sources;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use skep_dockerfile::{Copy, Expander, Ignore};

use self::place::{Job, place};
use self::sources::{Found, Wanted};
use super::Build;
use super::commit::{Made, pack_layer};
use super::download::{is_git, is_url};
use super::state::State;
use super::workspace::Workspace;
use crate::container::mounts::clean;
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::image::{Digest, Image};
use crate::tree::{Root, confined};

/// A tree that is copied from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Directory(PathBuf),
    /// Layers, topmost first, and where they are mounted for looking.
    Layers {
        lower: Vec<PathBuf>,
        at: PathBuf,
    },
}

impl Origin {
    pub(super) async fn image(
        engine: &Arc<Engine>,
        image: &Image,
        workspace: &Arc<Workspace>,
    ) -> Result<Self> {
        Self::chain(engine, &image.chain, workspace).await
    }

    pub(super) async fn chain(
        engine: &Arc<Engine>,
        chain: &[Digest],
        workspace: &Arc<Workspace>,
    ) -> Result<Self> {
        let mut lower: Vec<PathBuf> = chain
            .iter()
            .rev()
            .map(|chain| engine.images.layers.files(chain))
            .collect();
        let workspace = Arc::clone(workspace);
        let owned = Arc::clone(&workspace);
        owned
            .blocking(move || {
                if lower.is_empty() {
                    lower.push(workspace.directory("empty")?);
                }
                Ok(Self::Layers {
                    lower,
                    at: workspace.directory("look")?,
                })
            })
            .await
    }

    pub(super) fn root(&self) -> Root {
        match self {
            Self::Directory(path) => Root::Directory(path.clone()),
            Self::Layers { lower, at } => Root::Mounted {
                lower: lower.clone(),
                upper: None,
                at: at.clone(),
                binds: Vec::new(),
            },
        }
    }
}

/// The image so far with a new layer on top, to be changed.
#[derive(Debug, Clone)]
pub(super) struct Target {
    lower: Vec<PathBuf>,
    pub(super) upper: PathBuf,
    work: PathBuf,
    at: PathBuf,
}

impl Target {
    pub(super) async fn make(build: &Build, state: &State) -> Result<Self> {
        let mut lower: Vec<PathBuf> = state
            .chain()
            .iter()
            .rev()
            .map(|chain| build.engine.images.layers.files(chain))
            .collect();
        let workspace = Arc::clone(&build.workspace);
        build
            .workspace
            .blocking(move || {
                if lower.is_empty() {
                    lower.push(workspace.directory("empty")?);
                }
                Ok(Self {
                    lower,
                    upper: workspace.directory("upper")?,
                    work: workspace.directory("work")?,
                    at: workspace.directory("merged")?,
                })
            })
            .await
    }

    pub(super) fn root(&self) -> Root {
        Root::Mounted {
            lower: self.lower.clone(),
            upper: Some((self.upper.clone(), self.work.clone())),
            at: self.at.clone(),
            binds: Vec::new(),
        }
    }
}

impl Build {
    pub(super) async fn copy_step(
        &mut self,
        state: &mut State,
        copy: &Copy,
        keyword: &'static str,
    ) -> Result<()> {
        if copy.keep_git_dir {
            return Err(EngineError::not_implemented(
                "ADD --keep-git-dir is not supported by this daemon: it adds no git repositories",
            ));
        }
        let mut expanded = self.expand_copy(state, copy)?;
        let is_add = keyword == "ADD";
        let failed = |error: EngineError| error.context(format!("{keyword} failed"));
        let mut groups = Vec::new();
        let (urls, paths): (Vec<String>, Vec<String>) = expanded
            .sources
            .iter()
            .cloned()
            .partition(|source| is_add && (is_url(source) || is_git(source)));
        if expanded.checksum.is_some() && (urls.len() != 1 || !paths.is_empty()) {
            return Err(EngineError::invalid(
                "ADD --checksum is only for one source, and that a URL",
            ));
        }
        if !paths.is_empty() {
            let origin = match &copy.from {
                None => Origin::Directory(self.context.clone()),
                Some(from) => {
                    let image = self.source(from).await?;
                    Origin::image(&self.engine, &image, &self.workspace).await?
                }
            };
            let wanted = Wanted {
                sources: paths,
                is_context: copy.from.is_none(),
                parents: copy.parents,
                archives: is_add,
                mode: expanded.mode,
                exclude: expanded.exclude.clone(),
            };
            let root = origin.root();
            let found = self
                .workspace
                .blocking(move || confined(root, move || sources::find(&wanted)))
                .await
                .map_err(failed)?;
            groups.push((origin, found));
        }
        for (name, content) in std::mem::take(&mut expanded.inline) {
            groups.push(self.inline(name, content, expanded.mode).await?);
        }
        for url in &urls {
            let fetched = self.fetched(url, &expanded, expanded.mode).await;
            groups.push(fetched.map_err(failed)?);
        }
        let count: usize = groups.iter().map(|(_, found)| found.len()).sum();
        if count == 0 {
            return Err(failed(EngineError::invalid(
                "no source files were specified",
            )));
        }
        let as_directory = expanded.destination.ends_with('/')
            || copy.parents
            || matches!(copy.destination.as_str(), "." | "..")
            || copy.destination.ends_with("/.");
        if count > 1 && !as_directory {
            return Err(EngineError::invalid(format!(
                "When using {keyword} with more than one source file, the destination must be a directory and end with a /"
            )));
        }
        let hash = sources::joined(groups.iter().flat_map(|(_, found)| found));
        let mut comment = format!("{keyword} ");
        if let Some(chown) = &expanded.chown {
            comment += &format!("--chown={chown} ");
        }
        if let Some(mode) = expanded.mode {
            comment += &format!("--chmod={mode:o} ");
        }
        comment += &format!("{hash} in {} ", expanded.given);
        let names: Vec<String> = groups
            .iter()
            .flat_map(|(_, found)| found.iter().map(|found| found.name.display().to_string()))
            .collect();
        let made = Made::files(state, &comment, &(names, copy.parents, is_add))?;
        if self.cached(state, &made).await? {
            return Ok(());
        }
        let target = Target::make(self, state).await?;
        let job = Job {
            groups,
            destination: PathBuf::from(clean(&expanded.destination)),
            as_directory,
            chown: expanded.chown,
            mode: expanded.mode,
            exclude: expanded.exclude,
        };
        let engine = Arc::clone(&self.engine);
        let layer = self
            .workspace
            .blocking(move || {
                place(job, &target)?;
                pack_layer(&engine, &target.upper)
            })
            .await?;
        self.commit(state, made, layer).await
    }

    fn expand_copy(&self, state: &State, copy: &Copy) -> Result<Expanded> {
        let variables: BTreeMap<String, String> = state.variables(&self.args);
        let lookup = |name: &str| variables.get(name).cloned();
        let expander = Expander::new(state.escape, &lookup);
        let word = |word: &str| {
            expander
                .word(word)
                .map_err(|error| EngineError::invalid(error.to_string()))
        };
        let maybe = |given: &Option<String>| given.as_deref().map(word).transpose();
        let sources = copy
            .sources
            .iter()
            .map(|source| word(source))
            .collect::<Result<Vec<String>>>()?;
        let mut inline = Vec::new();
        for file in &copy.inline {
            let content = match file.expand {
                true => expander
                    .text(&file.content)
                    .map_err(|error| EngineError::invalid(error.to_string()))?,
                false => file.content.clone(),
            };
            inline.push((file.name.clone(), content));
        }
        let given = word(&copy.destination)?;
        let mut destination = match given.starts_with('/') {
            true => given.clone(),
            false => {
                let joined = clean(&format!("/{}/{given}", state.config.working_dir));
                match given.ends_with('/') && joined != "/" {
                    true => format!("{joined}/"),
                    false => joined,
                }
            }
        };
        if destination.is_empty() {
            destination = "/".into();
        }
        let mode = match maybe(&copy.chmod)? {
            None => None,
            Some(text) => Some(
                u32::from_str_radix(&text, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or_else(|| {
                        EngineError::invalid(format!(
                            "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
                        ))
                    })?,
            ),
        };
        let exclude = copy
            .exclude
            .iter()
            .map(|pattern| word(pattern))
            .collect::<Result<Vec<String>>>()?;
        Ok(Expanded {
            sources,
            inline,
            given,
            destination,
            chown: maybe(&copy.chown)?,
            checksum: maybe(&copy.checksum)?,
            mode,
            exclude: Ignore::of(&exclude)
                .map_err(|error| EngineError::invalid(error.to_string()))?,
        })
    }

    /// A file whose contents the Dockerfile has.
    async fn inline(
        &self,
        name: String,
        content: String,
        mode: Option<u32>,
    ) -> Result<(Origin, Vec<Found>)> {
        let workspace = Arc::clone(&self.workspace);
        self.workspace
            .blocking(move || {
                let directory = workspace.directory("inline")?;
                let path = directory.join("file");
                let what = || format!("cannot write `{}`", path.display());
                std::fs::write(&path, content).during(what)?;
                dress(&path, 0o644, 0).during(what)?;
                let found = alone(&directory, name, mode)?;
                Ok((Origin::Directory(directory), vec![found]))
            })
            .await
    }

    /// A file from a URL.
    async fn fetched(
        &self,
        url: &str,
        copy: &Expanded,
        mode: Option<u32>,
    ) -> Result<(Origin, Vec<Found>)> {
        if is_git(url) {
            return Err(EngineError::not_implemented(format!(
                "ADD of a git repository is not supported by this daemon: clone `{url}` into the context"
            )));
        }
        let file = self.download(url).await?;
        if copy.destination.ends_with('/') && file.name.is_empty() {
            return Err(EngineError::invalid(format!(
                "cannot determine filename for source {url}"
            )));
        }
        let checksum = copy.checksum.clone();
        self.workspace
            .blocking(move || {
                let what = || format!("cannot read `{}`", file.path.display());
                dress(&file.path, 0o600, file.modified).during(what)?;
                let directory = file.path.parent().unwrap_or(&file.path).to_owned();
                if let Some(expected) = checksum {
                    let bytes = std::fs::File::open(&file.path).during(what)?;
                    let is = hash::file(bytes).during(what)?;
                    if format!("sha256:{is}") != expected {
                        return Err(EngineError::invalid(format!(
                            "digest mismatch sha256:{is}: {expected}"
                        )));
                    }
                }
                let found = alone(&directory, file.name, mode)?;
                Ok((Origin::Directory(directory), vec![found]))
            })
            .await
    }
}

/// A `COPY` with its variables' values.
struct Expanded {
    sources: Vec<String>,
    inline: Vec<(String, String)>,
    /// The destination as it is said.
    given: String,
    /// Absolute; a slash at the end says that it is a directory.
    destination: String,
    chown: Option<String>,
    checksum: Option<String>,
    mode: Option<u32>,
    exclude: Ignore,
}

/// Permissions and time of a file that came from nowhere.
fn dress(path: &std::path::Path, mode: u32, seconds: i64) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    place::set_time(path, place::from_seconds(seconds))
}

/// The only file of a directory, `file`.
fn alone(directory: &std::path::Path, name: String, mode: Option<u32>) -> Result<Found> {
    confined(Root::Directory(directory.to_owned()), move || {
        sources::one("/file".into(), name.into(), mode)
    })
}
