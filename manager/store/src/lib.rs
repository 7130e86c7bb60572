#![doc = include_str!("../README.md")]

pub mod commit;
pub mod record;
pub mod snapshot;
mod state;
pub mod store;
pub mod transaction;
pub mod watch;

pub use commit::{Change, Commit, TaskPatch};
pub use record::{Key, Object, Record};
pub use snapshot::{FindError, Snapshot};
pub use store::{Applied, Conflict, Delta, Event, RestoreError, Store};
pub use transaction::{Transaction, TransactionError};
pub use watch::{TooSlow, Watch};
