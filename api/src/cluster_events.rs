//! Changes of the cluster as events of scope swarm, on the engine's bus.
//!
//! The bus remembers and filters; so `GET /events` treats both sources alike.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skep_engine::types::EventMessage;
use skep_model::expiry::Stage;
use skep_model::payload::Payload as _;
use skep_model::{Node, Secret, Service, ServiceMode};
use skep_store::{Delta, Object};
use tracing::debug;

use crate::state::ApiState;

/// How often a node that is no manager is asked whether it has become one.
const WATCH_RETRY: Duration = Duration::from_secs(1);

/// Carries changes until it is dropped.
pub(crate) async fn carry(state: Arc<ApiState>) {
    loop {
        if let Some(mut watch) = state.cluster.watch() {
            loop {
                match watch.recv().await {
                    Ok(event) => {
                        if let Some(message) = message(&event.change) {
                            state.engine.publish_event(message);
                        }
                    }
                    Err(error) => {
                        debug!(%error, "watching the cluster anew");
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(WATCH_RETRY).await;
    }
}

/// The event that tells of a change; none for kinds that have no events.
pub(crate) fn message(change: &Delta) -> Option<EventMessage> {
    let object = change.after().or(change.before())?;
    let (kind, id, name) = match object {
        Object::Node(node) => ("node", node.id.to_string(), node_name(node)),
        Object::Service(service) => ("service", service.id.to_string(), service.spec.name.clone()),
        Object::Network(network) => ("network", network.id.to_string(), network.spec.name.clone()),
        Object::Secret(secret) => ("secret", secret.id.to_string(), secret.spec.name.clone()),
        Object::Config(config) => ("config", config.id.to_string(), config.spec.name.clone()),
        Object::Cluster(_)
        | Object::Task(_)
        | Object::Stack(_)
        | Object::Attachment(_)
        | Object::RegistryLogin(_) => {
            return None;
        }
    };
    let mut attributes = BTreeMap::from([("name".to_owned(), name)]);
    let action = match change {
        Delta::Created(_) => "create",
        Delta::Updated {
            old: Object::Secret(old),
            new: Object::Secret(new),
        } => reminder(old, new, &mut attributes).unwrap_or("update"),
        Delta::Updated { .. } => "update",
        Delta::Removed(_) => "remove",
    };
    match change {
        Delta::Updated {
            old: Object::Node(old),
            new: Object::Node(new),
        } => node_changes(old, new, &mut attributes),
        Delta::Updated {
            old: Object::Service(old),
            new: Object::Service(new),
        } => service_changes(old, new, &mut attributes),
        _ => (),
    }
    let mut message = EventMessage {
        kind: kind.to_owned(),
        action: action.to_owned(),
        scope: "swarm".to_owned(),
        ..EventMessage::default()
    };
    message.actor.id = id;
    message.actor.attributes = attributes;
    Some(message)
}

/// The action of a change that tells of a secret's expiry. Every manager sees that change once,
/// whoever leads.
fn reminder(old: &Secret, new: &Secret, attributes: &mut Attributes) -> Option<&'static str> {
    let told = new.reminded.as_ref()?;
    if old.reminded.as_ref() == Some(told) {
        return None;
    }
    attributes.insert("expires".to_owned(), told.at.to_string());
    attributes.insert("version".to_owned(), new.number().to_string());
    let stage = match told.expired {
        true => Stage::Expired,
        false => Stage::Expiring,
    };
    Some(stage.as_str())
}

fn node_name(node: &Node) -> String {
    match node.spec.name.as_str() {
        "" => node.description.hostname.clone(),
        name => name.to_owned(),
    }
}

type Attributes = BTreeMap<String, String>;

/// Notes a change under `key.old` and `key.new`.
fn note(attributes: &mut Attributes, key: &str, old: String, new: String) {
    if old != new {
        attributes.insert(format!("{key}.old"), old);
        attributes.insert(format!("{key}.new"), new);
    }
}

/// The API's word for a value.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

fn node_changes(old: &Node, new: &Node, attributes: &mut Attributes) {
    let both = |f: &dyn Fn(&Node) -> String| (f(old), f(new));
    let (before, after) = both(&|node| word(&node.spec.availability));
    note(attributes, "availability", before, after);
    let (before, after) = both(&|node| word(&node.role));
    note(attributes, "role", before, after);
    let (before, after) = both(&|node| word(&node.status.state));
    note(attributes, "state", before, after);
    if let (Some(before), Some(after)) = (&old.manager_status, &new.manager_status) {
        note(
            attributes,
            "leader",
            before.leader.to_string(),
            after.leader.to_string(),
        );
        note(
            attributes,
            "reachability",
            word(&before.reachability),
            word(&after.reachability),
        );
    }
}

fn service_changes(old: &Service, new: &Service, attributes: &mut Attributes) {
    note(
        attributes,
        "image",
        old.spec.task_template.image().to_owned(),
        new.spec.task_template.image().to_owned(),
    );
    if let (ServiceMode::Replicated(before), ServiceMode::Replicated(after)) =
        (&old.spec.mode, &new.spec.mode)
    {
        note(
            attributes,
            "replicas",
            before.count().to_string(),
            after.count().to_string(),
        );
    }
    let state = |service: &Service| service.update_status.as_ref().map(|status| status.state);
    match (state(old), state(new)) {
        (Some(before), Some(after)) => note(
            attributes,
            "updatestate",
            before.as_str().to_owned(),
            after.as_str().to_owned(),
        ),
        (None, Some(after)) => {
            attributes.insert("updatestate.new".to_owned(), after.as_str().to_owned());
        }
        (_, None) => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_model::expiry::Reminded;
    use skep_model::node::ManagerStatus;
    use skep_model::service::{Replicated, UpdateState, UpdateStatus};
    use skep_model::{Availability, ServiceId, Task};

    fn service(replicas: u64, state: Option<UpdateState>) -> Object {
        let mut service = Service {
            id: ServiceId::new("s1"),
            ..Service::default()
        };
        service.spec.name = "web".into();
        service.spec.mode = ServiceMode::Replicated(Replicated {
            replicas: Some(replicas),
        });
        service.update_status = state.map(|state| UpdateStatus {
            state,
            started_at: None,
            completed_at: None,
            message: String::new(),
        });
        Object::Service(Arc::new(service))
    }

    #[test]
    fn an_update_says_what_changed() {
        let told = message(&Delta::Updated {
            old: service(1, None),
            new: service(3, Some(UpdateState::Updating)),
        })
        .unwrap();
        assert_eq!(
            (told.kind.as_str(), told.action.as_str()),
            ("service", "update")
        );
        assert_eq!(
            (told.scope.as_str(), told.actor.id.as_str()),
            ("swarm", "s1")
        );
        let attributes: Vec<(&str, &str)> = told
            .actor
            .attributes
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            attributes,
            [
                ("name", "web"),
                ("replicas.new", "3"),
                ("replicas.old", "1"),
                ("updatestate.new", "updating"),
            ]
        );
    }

    #[test]
    fn a_secret_tells_of_its_expiry_once() {
        let secret = |reminded: Option<Reminded>, label: &str| {
            let mut secret = Secret {
                reminded,
                ..Secret::default()
            };
            secret.spec.labels.insert("a".into(), label.into());
            Object::Secret(Arc::new(secret))
        };
        let at = skep_model::Timestamp::from_secs(1_800_000_000);
        let told = |expired| Some(Reminded { at, expired });
        let action = |old, new| message(&Delta::Updated { old, new }).unwrap();
        let soon = action(secret(None, ""), secret(told(false), ""));
        assert_eq!(
            (soon.kind.as_str(), soon.action.as_str()),
            ("secret", "expiring")
        );
        assert_eq!(soon.actor.attributes["expires"], at.to_string());
        assert_eq!(soon.actor.attributes["version"], "1");
        let over = action(secret(told(false), ""), secret(told(true), ""));
        assert_eq!(over.action, "expired");
        for (old, new) in [
            (secret(told(true), "a"), secret(told(true), "b")),
            (secret(told(true), ""), secret(None, "")),
        ] {
            assert_eq!(action(old, new).action, "update");
        }
    }

    #[test]
    fn a_node_tells_availability_and_leadership_and_a_task_nothing() {
        let mut old = Node::default();
        old.description.hostname = "n1".into();
        old.manager_status = Some(ManagerStatus::default());
        let mut new = old.clone();
        new.spec.availability = Availability::Drain;
        new.manager_status = Some(ManagerStatus {
            leader: true,
            ..ManagerStatus::default()
        });
        let told = message(&Delta::Updated {
            old: Object::Node(Arc::new(old)),
            new: Object::Node(Arc::new(new)),
        })
        .unwrap();
        let attributes = told.actor.attributes;
        assert_eq!(attributes["availability.new"], "drain");
        assert_eq!(attributes["leader.new"], "true");
        assert_eq!(attributes["name"], "n1");
        assert!(!attributes.contains_key("state.new"));
        let task = Object::Task(Arc::new(Task::default()));
        assert!(message(&Delta::Created(task)).is_none());
    }
}
