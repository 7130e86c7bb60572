//! What is stored: the kinds of object, and what the tables need to know of each.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skep_model::{
    Attachment, AttachmentId, Cluster, ClusterId, Config, ConfigId, Network, NetworkId, Node,
    NodeId, RegistryLogin, RegistryLoginId, Secret, SecretId, Service, ServiceId, Stack, StackId,
    Task, TaskId, Timestamp, Version,
};

use crate::state::{State, Table};

/// A kind of stored object. Implemented for kinds of `model` and nothing else.
pub trait Record: Clone + PartialEq + fmt::Debug + Sized + 'static {
    /// The typed id of this kind.
    type Id: Clone + Ord + fmt::Debug + fmt::Display + std::borrow::Borrow<str>;

    /// What users call the kind: `service`, `node`, …
    const KIND: &'static str;

    fn id(&self) -> &Self::Id;
    /// The unique name, for kinds that have one.
    fn name(&self) -> Option<&str>;
    fn version(&self) -> Version;
    fn updated_at(&self) -> Timestamp;
    #[doc(hidden)]
    fn stamp(&mut self, version: Version, created_at: Timestamp, updated_at: Timestamp);
    #[doc(hidden)]
    fn created_at(&self) -> Timestamp;
    #[doc(hidden)]
    fn set_version(&mut self, version: Version);
    fn key(id: &Self::Id) -> Key;
    fn wrap(record: Arc<Self>) -> Object;
    #[doc(hidden)]
    fn table(state: &State) -> &Table<Self>;
    #[doc(hidden)]
    fn table_mut(state: &mut State) -> &mut Table<Self>;
    /// Keeps the indexes beside the table right: `old` leaves, `new` enters.
    #[doc(hidden)]
    fn reindex(state: &mut State, old: Option<&Self>, new: Option<&Self>) {
        let _ = (state, old, new);
    }
}

macro_rules! records {
    ($($kind:ident $id:ident $table:ident $word:literal, $name:expr, $reindex:expr;)*) => {
        /// Names one stored object.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Key {
            $(#[allow(missing_docs)] $kind($id),)*
        }

        impl fmt::Display for Key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$kind(id) => write!(f, "{} {id}", $word),)*
                }
            }
        }

        /// One stored object of any kind.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum Object {
            $(#[allow(missing_docs)] $kind(Arc<$kind>),)*
        }

        impl Object {
            /// The key that finds this object.
            pub fn key(&self) -> Key {
                match self {
                    $(Self::$kind(record) => Key::$kind(record.id.clone()),)*
                }
            }

            /// The log index that wrote this object.
            pub fn version(&self) -> Version {
                match self {
                    $(Self::$kind(record) => record.version,)*
                }
            }

            /// The unique name, for kinds that have one.
            pub fn name(&self) -> Option<&str> {
                match self {
                    $(Self::$kind(record) => Record::name(&**record),)*
                }
            }
        }

        $(impl Record for $kind {
            type Id = $id;
            const KIND: &'static str = $word;

            fn id(&self) -> &$id { &self.id }
            fn name(&self) -> Option<&str> {
                let name: fn(&$kind) -> Option<&str> = $name;
                name(self)
            }
            fn version(&self) -> Version { self.version }
            fn created_at(&self) -> Timestamp { self.created_at }
            fn updated_at(&self) -> Timestamp { self.updated_at }
            fn stamp(&mut self, version: Version, created_at: Timestamp, updated_at: Timestamp) {
                self.version = version;
                self.created_at = created_at;
                self.updated_at = updated_at;
            }
            fn set_version(&mut self, version: Version) { self.version = version; }
            fn key(id: &$id) -> Key { Key::$kind(id.clone()) }
            fn wrap(record: Arc<Self>) -> Object { Object::$kind(record) }
            fn table(state: &State) -> &Table<Self> { &state.$table }
            fn table_mut(state: &mut State) -> &mut Table<Self> { &mut state.$table }
            fn reindex(state: &mut State, old: Option<&Self>, new: Option<&Self>) {
                let reindex: fn(&mut State, Option<&$kind>, Option<&$kind>) = $reindex;
                reindex(state, old, new);
            }
        })*
    };
}

records! {
    Cluster ClusterId clusters "cluster", |_| None, |_, _, _| ();
    Node NodeId nodes "node", |_| None, |_, _, _| ();
    Service ServiceId services "service", |service| Some(&service.spec.name), State::index_service;
    Task TaskId tasks "task", |_| None, State::index_task;
    Network NetworkId networks "network", |network| Some(&network.spec.name), |_, _, _| ();
    Secret SecretId secrets "secret", |secret| Some(&secret.spec.name), |_, _, _| ();
    Config ConfigId configs "config", |config| Some(&config.spec.name), |_, _, _| ();
    Stack StackId stacks "stack", |stack| Some(&stack.spec.name), |_, _, _| ();
    Attachment AttachmentId attachments "attachment", |_| None, State::index_attachment;
    RegistryLogin RegistryLoginId registry_logins "registry", |login| Some(&login.spec.host), |_, _, _| ();
}
