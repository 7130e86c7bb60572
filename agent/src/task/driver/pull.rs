//! Has the task's image on this node.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use skep_engine::{EngineError, Progress as PullProgress, PullOptions, RegistryAuth};
use skep_model::image_source::ImageSource;
use skep_model::registry_login::host_of;
use tracing::warn;

use super::{DriveError, Driver};

impl Driver {
    pub(super) async fn pull(&self) -> Result<(), DriveError> {
        let Some(task) = &self.task else {
            return Ok(());
        };
        let (engine, image) = (&self.worker.engine, task.spec.image());
        let local = engine.image_inspect(image).await.ok();
        // An image that was built or loaded here, or one pinned by its digest, is what it is.
        if local.is_some() && (image.contains('@') || engine.image_is_made_here(image)) {
            return Ok(());
        }
        // The manager has checked the label.
        let source = ImageSource::read(&task.labels).ok().flatten();
        let options = PullOptions {
            platform: None,
            auth: credentials(&task.spec.pull_credentials),
            other_auth: self.of_cluster(image),
            source: Some(source.unwrap_or_else(|| self.worker.image_source())),
        };
        match engine
            .image_pull(image, options, PullProgress::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if local.is_some() => {
                warn!(task = %self.id, image, %error, "pull failed; the image on this node is used");
                Ok(())
            }
            // Swarm says no more than that; why the registry did not give it is what helps.
            Err(error) => {
                let message = format!("No such image: {image}: {error}");
                Err(EngineError::not_found(message).into())
            }
        }
    }
}

impl Driver {
    /// What the cluster keeps for an image's registry.
    fn of_cluster(&self, image: &str) -> Option<RegistryAuth> {
        let assigned = self.worker.assigned();
        let host = host_of(image);
        let login = assigned.registry_logins.get(&host)?;
        Some(RegistryAuth {
            username: login.spec.username.clone(),
            password: login.spec.password.clone(),
            ..RegistryAuth::default()
        })
    }
}

/// Credentials as the client sent them: base64 of JSON, either alphabet. None that can be read
/// means an anonymous pull.
fn credentials(text: &str) -> RegistryAuth {
    let bytes = URL_SAFE
        .decode(text)
        .or_else(|_| STANDARD.decode(text))
        .unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}
