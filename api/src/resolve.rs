//! What the name of a service's image stands for where no registry says it: an image that some node of
//! the cluster has.

use skep_engine::types::DistributionInspect;
use skep_engine::{Engine, OwnedImage, RegistryAuth, newest, newest_own, with_credentials};
use skep_model::RegistryLogin;
use skep_model::image_source::ImageSource;
use skep_model::registry_login::host_of;

use crate::state::Call;

/// The image that was built or loaded under a name on this node, else on a manager, else on any node.
/// Nothing where a registry is known to have images of that name: its trouble is the caller's to hear of,
/// and no node's old copy stands for what it would say.
pub(crate) async fn own_in_cluster(call: &Call, image: &str) -> Option<DistributionInspect> {
    if !is_asked(call).await {
        return None;
    }
    if let Ok(Some(here)) = call.engine().image_owned(image, false).await {
        return (!here.confirmed).then(|| here.inspect());
    }
    let found = call.cluster().locate(image, false).await;
    newest_own(&found).map(OwnedImage::inspect)
}

/// The image that this node has under a name, else a manager, else any node, where nodes go by each other
/// before any registry.
pub(crate) async fn in_cluster_first(call: &Call, image: &str) -> Option<DistributionInspect> {
    match call.state.about.image_source {
        ImageSource::PeersFirst | ImageSource::PeersOnly => (),
        ImageSource::RegistryFirst | ImageSource::RegistryOnly => return None,
    }
    if !is_asked(call).await {
        return None;
    }
    if let Ok(Some(here)) = call.engine().image_owned(image, false).await {
        return Some(here.inspect());
    }
    let found = call.cluster().locate(image, false).await;
    newest(&found).map(OwnedImage::inspect)
}

/// What the cluster pulls an image with; nothing on a node that is no manager.
pub(crate) async fn login_of_cluster(call: &Call, image: &str) -> Option<RegistryAuth> {
    let snapshot = call.snapshot().await.ok()?;
    let login = snapshot.by_name::<RegistryLogin>(&host_of(image))?;
    Some(RegistryAuth {
        username: login.spec.username.clone(),
        password: login.spec.password.clone(),
        ..RegistryAuth::default()
    })
}

/// What an image's registry says, asked as nodes will ask it: with the client's credentials, or else
/// with the cluster's.
pub(crate) async fn at_registry(
    engine: &Engine,
    image: &str,
    own: RegistryAuth,
    of_cluster: Option<RegistryAuth>,
) -> skep_engine::Result<DistributionInspect> {
    with_credentials(own, of_cluster, |auth| {
        engine.distribution_inspect(image, auth)
    })
    .await
}

async fn is_asked(call: &Call) -> bool {
    call.state.about.image_source.asks_peers() && call.snapshot().await.is_ok()
}
