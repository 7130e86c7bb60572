//! The daemon as a whole: `info`, `version`, `events`, `df`.

pub mod df;
pub mod dial;
pub mod events;
pub mod info;
pub mod version;
