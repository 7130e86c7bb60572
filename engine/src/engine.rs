//! The engine itself: what it owns.

use crate::config::EngineConfig;

/// The container engine of one host. Every call may be made from any number of
/// tasks at once.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: EngineConfig,
}
