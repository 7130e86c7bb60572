//! Secrets, configs and networks that a service names, found by name.

use skep_model::NetworkId;
use skep_model::container::{ConfigReference, SecretReference};
use skep_model::payload::Pin;

use crate::client::{Call, segment};
use crate::failure::{Failure, Outcome};
use crate::filter::Filters;
use crate::grammar::file_reference::FileReference;
use crate::session::Session;

/// Ids by name, of secrets or configs.
async fn ids(session: &Session, kind: &str, references: &[FileReference]) -> Outcome<Vec<String>> {
    let mut filters = Filters::default();
    for reference in references {
        filters.add("name", &reference.source);
    }
    let call = Call::get(format!("/{kind}s")).query("filters", filters.to_query());
    let found = session.client.json(call).await?;
    references
        .iter()
        .map(|reference| {
            found
                .list("")
                .iter()
                .find(|object| object.str("Spec.Name") == reference.source)
                .map(|object| object.str("ID").to_owned())
                .ok_or_else(|| Failure::message(format!("{kind} not found: {}", reference.source)))
        })
        .collect()
}

fn check_targets(kind: &str, references: &[FileReference]) -> Outcome {
    let mut targets = std::collections::BTreeSet::new();
    for reference in references {
        if !targets.insert(&reference.file.name) {
            return Err(Failure::message(format!(
                "duplicate {kind} target for {} not allowed",
                reference.source
            )));
        }
    }
    Ok(())
}

pub async fn secrets(
    session: &Session,
    references: &[FileReference],
) -> Outcome<Vec<SecretReference>> {
    if references.is_empty() {
        return Ok(Vec::new());
    }
    check_targets("secret", references)?;
    let ids = ids(session, "secret", references).await?;
    Ok(references
        .iter()
        .zip(ids)
        .map(|(reference, id)| SecretReference {
            file: Some(reference.file.clone()),
            secret_id: id.as_str().into(),
            secret_name: reference.source.clone(),
            version: Pin::default(),
        })
        .collect())
}

pub async fn configs(
    session: &Session,
    references: &[FileReference],
) -> Outcome<Vec<ConfigReference>> {
    if references.is_empty() {
        return Ok(Vec::new());
    }
    check_targets("config", references)?;
    let ids = ids(session, "config", references).await?;
    Ok(references
        .iter()
        .zip(ids)
        .map(|(reference, id)| ConfigReference {
            file: Some(reference.file.clone()),
            runtime: None,
            config_id: id.as_str().into(),
            config_name: reference.source.clone(),
            version: Pin::default(),
        })
        .collect())
}

/// The id of a network of the cluster.
pub async fn network(session: &Session, name: &str) -> Outcome<NetworkId> {
    let call = Call::get(format!("/networks/{}", segment(name))).query("scope", "swarm");
    let network = session.client.json(call).await?;
    Ok(network.str("Id").into())
}
