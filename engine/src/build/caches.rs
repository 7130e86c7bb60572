//! What `RUN --mount=type=cache` keeps between builds: `build-cache/<key>/`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use skep_dockerfile::{Mount, Sharing};
use skep_model::Timestamp;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::clock;
use crate::engine::Engine;
use crate::error::{EngineError, IoContext as _, Result};
use crate::filters::Filters;
use crate::image::Digest;
use crate::options::Pruned;
use crate::record;
use crate::streams::blocking;
use crate::types::BuildCache;
use crate::volume::tree_bytes;

/// Private copies of one cache that may be in use at once.
const COPIES_MAX: usize = 64;

/// All caches, and who uses which.
#[derive(Debug)]
pub(crate) struct Caches {
    root: PathBuf,
    /// Many share one, one alone locks it, and only what nobody has is removed.
    locks: Mutex<BTreeMap<String, Arc<RwLock<()>>>>,
}

/// `cache.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct CacheRecord {
    /// As the Dockerfile has it.
    id: String,
    created: Timestamp,
    last_used: Timestamp,
    uses: u64,
}

/// The right to use a cache; over when dropped.
pub(crate) struct Lease {
    data: PathBuf,
    _guard: Guard,
}

enum Guard {
    #[allow(dead_code, reason = "held, not looked at")]
    Shared(OwnedRwLockReadGuard<()>),
    #[allow(dead_code, reason = "held, not looked at")]
    Alone(OwnedRwLockWriteGuard<()>),
}

impl Lease {
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }
}

impl Caches {
    pub(crate) fn open(data_root: &Path) -> Result<Self> {
        let root = data_root.join("build-cache");
        record::make_directory(&root, 0o700)?;
        let what = || format!("cannot read `{}`", root.display());
        for entry in fs::read_dir(&root).during(what)? {
            let path = entry.during(what)?.path();
            // One without a record was being made or removed.
            if !path.join("cache.json").exists() {
                record::remove_tree(&path)?;
            }
        }
        Ok(Self {
            root,
            locks: Mutex::default(),
        })
    }

    fn lock(&self, key: &str) -> Arc<RwLock<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(key.to_owned()).or_default())
    }

    /// The cache of a mount, made if it is not there.
    pub(crate) async fn lease(&self, mount: &Mount, target: &str) -> Result<Lease> {
        let id = mount.id.clone().unwrap_or_else(|| target.to_owned());
        let key = Digest::of(id.as_bytes()).hex()[..16].to_owned();
        let (key, guard) = match mount.sharing {
            Sharing::Shared => {
                let guard = self.lock(&key).read_owned().await;
                (key, Guard::Shared(guard))
            }
            Sharing::Locked => {
                let guard = self.lock(&key).write_owned().await;
                (key, Guard::Alone(guard))
            }
            Sharing::Private => (0..COPIES_MAX)
                .map(|copy| match copy {
                    0 => key.clone(),
                    copy => format!("{key}-{copy}"),
                })
                .find_map(|key| {
                    let guard = self.lock(&key).try_write_owned().ok()?;
                    Some((key, Guard::Alone(guard)))
                })
                .ok_or_else(|| {
                    EngineError::unavailable(format!(
                        "cache `{id}` is in use {COPIES_MAX} times: wait for other builds to end"
                    ))
                })?,
        };
        let directory = self.root.join(key);
        let data = directory.join("data");
        let (made, owner) = (data.clone(), (mount.uid, mount.gid));
        let mode = mount.mode.unwrap_or(0o755);
        blocking(move || {
            let file = directory.join("cache.json");
            let now = clock::now();
            let mut cache = match record::load::<CacheRecord>(&file)? {
                Some(cache) => cache,
                None => {
                    record::make_directory(&made, 0o700)?;
                    let what = || format!("cannot make `{}`", made.display());
                    std::os::unix::fs::chown(&made, Some(owner.0), Some(owner.1)).during(what)?;
                    fs::set_permissions(&made, fs::Permissions::from_mode(mode)).during(what)?;
                    CacheRecord {
                        id,
                        created: now,
                        last_used: now,
                        uses: 0,
                    }
                }
            };
            cache.last_used = now;
            cache.uses += 1;
            record::save(&file, &cache)
        })
        .await?;
        Ok(Lease {
            data,
            _guard: guard,
        })
    }

    /// All caches. Blocking.
    fn list(&self) -> Result<Vec<BuildCache>> {
        let what = || format!("cannot read `{}`", self.root.display());
        let mut list = Vec::new();
        for entry in fs::read_dir(&self.root).during(what)? {
            let path = entry.during(what)?.path();
            let Some(cache) = record::load::<CacheRecord>(&path.join("cache.json"))? else {
                continue;
            };
            let key = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            list.push(BuildCache {
                in_use: self.lock(&key).try_write_owned().is_err(),
                id: key,
                kind: "exec.cachemount".into(),
                description: format!("cached mount {}", cache.id),
                size: i64::try_from(tree_bytes(&path.join("data"))).unwrap_or(i64::MAX),
                created_at: cache.created,
                last_used_at: cache.last_used,
                usage_count: i64::try_from(cache.uses).unwrap_or(i64::MAX),
                shared: false,
            });
        }
        list.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(list)
    }

    /// Removes a cache that nobody uses.
    fn remove(&self, key: &str) -> Result<bool> {
        let Ok(_guard) = self.lock(key).try_write_owned() else {
            return Ok(false);
        };
        let directory = self.root.join(key);
        // The record first: what a crash leaves is then cleared at the next open.
        record::remove_file(&directory.join("cache.json"))?;
        record::remove_tree(&directory)?;
        Ok(true)
    }
}

impl Engine {
    /// Caches of builds, for `docker system df`.
    pub(crate) async fn build_cache(&self) -> Result<Vec<BuildCache>> {
        let engine = self.shared();
        blocking(move || engine.builds.list()).await
    }

    /// `docker builder prune`: removes caches that nobody uses, the longest unused
    /// first, until at most `keep_bytes` are left.
    pub async fn build_prune(&self, filters: &Filters, keep_bytes: i64) -> Result<Pruned> {
        filters.accept(&[
            "until",
            "unused-for",
            "id",
            "type",
            "inuse",
            "shared",
            "private",
            "description",
        ])?;
        let mut until = None;
        for key in ["until", "unused-for"] {
            for text in filters.values(key) {
                until = Some(clock::parse_moment(text, clock::now())?);
            }
        }
        let mut all = self.build_cache().await?;
        all.sort_by_key(|cache| cache.last_used_at);
        let mut left: i64 = all.iter().map(|cache| cache.size).sum();
        let mut pruned = Pruned::default();
        for cache in all {
            let passes = left > keep_bytes.max(0) || keep_bytes <= 0;
            let wanted = until.is_none_or(|until| cache.last_used_at <= until)
                && (!filters.has("id") || filters.any("id", |id| cache.id.starts_with(id)))
                && (!filters.has("type") || filters.any("type", |kind| cache.kind == kind));
            if !passes || !wanted {
                continue;
            }
            let (engine, key) = (self.shared(), cache.id.clone());
            if blocking(move || engine.builds.remove(&key)).await? {
                left -= cache.size;
                pruned.space_reclaimed += cache.size;
                pruned.removed.push(cache.id);
            }
        }
        self.prune_event("builder", pruned.space_reclaimed);
        Ok(pruned)
    }
}
