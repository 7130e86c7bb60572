//! The engine's image calls: pull, push, load, save, import, tag.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use super::digest::Digest;
use super::reference::Reference;
use super::store::Image;
use super::{hello, import, load, manifest, save};
use crate::clock;
use crate::engine::Engine;
use crate::error::{EngineError, Result};
use crate::events::event;
use crate::options::{ImportOptions, LoadOptions, PullOptions, RegistryAuth};
use crate::registry::{SearchResult, pull, push, tags};
use crate::streams::{ByteStream, Progress, blocking, produce};
use crate::types::{DistributionInspect, Platform, ProgressEvent};

/// Reads `os[/arch[/variant]]` as the API's `platform` parameter has it.
pub fn parse_platform(text: &str) -> Result<Platform> {
    manifest::parse_platform(text)
}

impl Engine {
    /// Pulls `name[:tag][@digest]` (`latest` if it has neither); the image's id.
    /// A name with a digest that is here already makes no request.
    pub async fn image_pull(
        &self,
        reference: &str,
        options: PullOptions,
        progress: Progress,
    ) -> Result<String> {
        let reference = reference.parse::<Reference>()?.or_latest();
        let activity = self.images.activity();
        let pull = pull::Pull {
            store: &self.images,
            registries: &self.registries,
            downloads: &self.downloads,
            peers: self.peers(),
            reference: &reference,
            options: &options,
            progress: &progress,
        };
        let pulled = pull.run().await?;
        let (own, by_peer) = (pulled.own, pulled.by_peer);
        let id = pulled.image.id().clone();
        let name = pull::local_name(&reference, &pulled.digest);
        let by_digest = reference.with_digest(pulled.digest.clone());
        let (images, named) = (Arc::clone(&self.images), [name, by_digest]);
        blocking(move || {
            for name in &named {
                images.name_pulled(name, &id, clock::now(), (own, by_peer))?;
            }
            Ok(())
        })
        .await?;
        drop(activity);
        progress.send(ProgressEvent::status(format!("Digest: {}", pulled.digest)));
        let familiar = reference.familiar();
        progress.send(ProgressEvent::status(if pulled.up_to_date {
            format!("Status: Image is up to date for {familiar}")
        } else {
            format!("Status: Downloaded newer image for {familiar}")
        }));
        self.image_event("pull", &familiar, &pulled.image, &familiar);
        Ok(pulled.image.id().to_string())
    }

    /// Pulls every tag that a repository has.
    pub async fn image_pull_all(
        &self,
        repository: &str,
        options: PullOptions,
        progress: Progress,
    ) -> Result<()> {
        let reference = repository.parse::<Reference>()?.repository();
        let tags = tags::tags(&self.registries, &reference, &options.auth).await?;
        for tag in tags {
            let one = reference.with_tag(&tag)?.familiar();
            self.image_pull(&one, options.clone(), progress.clone())
                .await?;
        }
        Ok(())
    }

    /// Searches an index for repositories.
    pub async fn image_search(
        &self,
        term: &str,
        limit: u32,
        auth: &RegistryAuth,
    ) -> Result<Vec<SearchResult>> {
        self.registries.search(term, limit, auth).await
    }

    /// Pushes one name, or every tag of a repository that is named without one.
    pub async fn image_push(
        &self,
        reference: &str,
        auth: RegistryAuth,
        progress: Progress,
    ) -> Result<()> {
        let given = reference.parse::<Reference>()?;
        let repository = given.repository();
        progress.send(ProgressEvent::status(format!(
            "The push refers to repository [{repository}]"
        )));
        let all = self.images.tags_of(&repository);
        if all.is_empty() {
            return Err(EngineError::not_found(format!(
                "An image does not exist locally with the tag: {}",
                repository.familiar_name()
            )));
        }
        let targets = match &given.tag {
            Some(tag) => vec![repository.with_tag(tag)?],
            None => all,
        };
        let mut images = Vec::new();
        for target in targets {
            let image = self.images.named(&target).ok_or_else(|| {
                EngineError::not_found(format!("tag does not exist: {}", target.familiar()))
            })?;
            images.push((image, target));
        }
        for (image, target) in images {
            self.push_one(image, target, &auth, &progress).await?;
        }
        Ok(())
    }

    async fn push_one(
        &self,
        image: Arc<Image>,
        target: Reference,
        auth: &RegistryAuth,
        progress: &Progress,
    ) -> Result<()> {
        let _activity = self.images.activity();
        let (digest, size) = push::push(
            &self.images,
            &self.registries,
            &image,
            &target,
            auth,
            progress,
        )
        .await?;
        let name = target.with_digest(digest.clone());
        let (images, id) = (Arc::clone(&self.images), image.id().clone());
        blocking(move || images.name(&name, &id, clock::now()).map(|_| ())).await?;
        let tag = target.tag.clone().unwrap_or_default();
        progress.send(ProgressEvent::status(format!(
            "{tag}: digest: {digest} size: {size}"
        )));
        progress.send(ProgressEvent {
            aux: Some(serde_json::json!({
                "Tag": tag, "Digest": digest.to_string(), "Size": size
            })),
            progress_detail: Some(Default::default()),
            ..ProgressEvent::default()
        });
        let familiar = target.familiar();
        self.image_event("push", &familiar, &image, &familiar);
        Ok(())
    }

    /// Loads the images of an archive that `docker save` wrote, or of an OCI
    /// layout. `Loaded image: …` lines go to `progress`.
    pub async fn image_load<R>(
        &self,
        archive: R,
        options: LoadOptions,
        progress: Progress,
    ) -> Result<()>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let activity = self.images.activity();
        let images = Arc::clone(&self.images);
        let archive = SyncIoBridge::new(archive);
        let (engine, runtime) = (self.shared(), tokio::runtime::Handle::current());
        // The work goes on if its caller is gone; nothing may be swept under it.
        let loaded = blocking(move || {
            let _activity = activity;
            let elsewhere = |digest: &Digest| runtime.block_on(engine.blob_from_peers(digest));
            load::load(&images, archive, &options, &elsewhere, &progress)
        })
        .await;
        // Also after a failure: what was stored until then is nobody's.
        self.sweep_images().await?;
        for image in loaded? {
            self.image_event("load", image.id().as_str(), &image, image.id().as_str());
        }
        Ok(())
    }

    /// Saves images, by name or id, as an archive that `load` takes.
    pub async fn image_save(&self, names: &[String]) -> Result<ByteStream> {
        let mut chosen: Vec<(Arc<Image>, Vec<Reference>)> = Vec::new();
        for given in names {
            let image = self.images.find(given)?;
            let reference = given.parse::<Reference>().ok();
            let (tags, _, _) = self.images.names_of(image.id());
            // A name without a tag saves all its tags; an id saves none.
            let wanted: Vec<Reference> = match reference {
                Some(reference) if reference.tag.is_some() => vec![reference],
                Some(reference) => tags
                    .into_iter()
                    .filter(|tag| tag.repository() == reference.repository())
                    .collect(),
                None => Vec::new(),
            };
            for tag in wanted.iter().filter(|tag| tag.digest.is_none()) {
                let image = self.images.named(tag).unwrap_or_else(|| Arc::clone(&image));
                add(&mut chosen, image, Some(tag.clone()));
            }
            if wanted.is_empty() {
                add(&mut chosen, image, None);
            }
        }
        for (image, _) in &chosen {
            self.image_event("save", image.id().as_str(), image, image.id().as_str());
        }
        let images = Arc::clone(&self.images);
        let activity = images.activity();
        Ok(produce(move |output| {
            let _activity = activity;
            save::save(&images, &chosen, output)
        }))
    }

    /// Makes an image of a root file system archive; its id.
    pub async fn image_import<R>(&self, archive: R, options: ImportOptions) -> Result<String>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let name = match options.repo.as_str() {
            "" => None,
            repo => {
                let mut reference = repo.parse::<Reference>()?;
                if !options.tag.is_empty() {
                    reference = reference.with_tag(&options.tag)?;
                }
                Some(reference.or_latest().unambiguous()?)
            }
        };
        if options
            .platform
            .as_ref()
            .is_some_and(|platform| platform.os != "linux")
        {
            return Err(EngineError::invalid("operating system is not supported"));
        }
        let activity = self.images.activity();
        let images = Arc::clone(&self.images);
        let archive = SyncIoBridge::new(archive);
        let named = name.clone();
        let version = self.config.version.clone();
        let imported = blocking(move || {
            // The work goes on if its caller is gone; nothing may be swept under it.
            let _activity = activity;
            let image = import::import(&images, archive, &options, version)?;
            if let Some(name) = named {
                images.name(&name, image.id(), clock::now())?;
            }
            Ok(image)
        })
        .await;
        if imported.is_err() {
            self.sweep_images().await?;
        }
        let image = imported?;
        let shown = name.map_or_else(String::new, |name| name.familiar());
        self.image_event("import", image.id().as_str(), &image, &shown);
        Ok(image.id().to_string())
    }

    /// Gives an image another name.
    pub async fn image_tag(&self, source: &str, target: &str) -> Result<()> {
        let image = self.images.find(source)?;
        let target = target.parse::<Reference>()?;
        if target.digest.is_some() {
            return Err(EngineError::invalid(
                "refusing to create a tag with a digest reference",
            ));
        }
        let target = target.or_latest().unambiguous()?;
        let (images, id, name) = (Arc::clone(&self.images), image.id().clone(), target.clone());
        blocking(move || images.name(&name, &id, clock::now()).map(|_| ())).await?;
        self.image_event("tag", image.id().as_str(), &image, &target.familiar());
        Ok(())
    }

    /// What a name stands for at its registry: digest and platforms.
    pub async fn distribution_inspect(
        &self,
        reference: &str,
        auth: RegistryAuth,
    ) -> Result<DistributionInspect> {
        let is_here = self.images.find(reference).is_ok();
        let reference = reference.parse::<Reference>()?.or_latest();
        pull::inspect(&self.registries, &reference, &auth, is_here).await
    }

    /// Tries credentials at a registry; its status text.
    pub async fn registry_login(&self, auth: RegistryAuth) -> Result<String> {
        self.registries.login(&auth).await
    }

    /// Makes `skep/hello:latest` of the embedded program if it is not there yet;
    /// its id.
    pub async fn ensure_hello_image(&self) -> Result<String> {
        let _activity = self.images.activity();
        let images = Arc::clone(&self.images);
        let image = blocking(move || hello::ensure(&images, crate::shim_binary::SHIM)).await?;
        Ok(image.id().to_string())
    }

    /// Removes blobs and layers that nobody needs any more.
    pub(crate) async fn sweep_images(&self) -> Result<()> {
        let engine = self.shared();
        blocking(move || engine.images.sweep(|| engine.containers.chains_in_use())).await
    }

    pub(crate) fn image_event(&self, action: &str, id: &str, image: &Image, name: &str) {
        let mut attributes: BTreeMap<String, String> = image.config.config.labels.clone();
        attributes.insert("name".into(), name.into());
        self.events.publish(event("image", action, id, attributes));
    }
}

fn add(chosen: &mut Vec<(Arc<Image>, Vec<Reference>)>, image: Arc<Image>, name: Option<Reference>) {
    match chosen
        .iter_mut()
        .find(|(known, _)| known.id() == image.id())
    {
        Some((_, names)) => names.extend(name.filter(|name| !names.contains(name))),
        None => chosen.push((image, name.into_iter().collect())),
    }
}
