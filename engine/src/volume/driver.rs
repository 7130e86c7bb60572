//! Which driver a volume has. There is one, `local`; this is where another would be chosen.
//!
//! ARCHITECTURE.md says how drivers of others (CSI) would attach: what they do beside [`VolumeStore`]
//! is to make a volume, to ready it for a container (`acquire`) and to take it back (`release`).
//!
//! [`VolumeStore`]: super::VolumeStore

use crate::error::{EngineError, Result};

/// Whether a volume may be of the driver of this name. `""` is whatever is usual.
pub(crate) fn choose(name: &str) -> Result<()> {
    match name {
        "" | "local" | "default" => Ok(()),
        other => Err(EngineError::not_found(format!(
            "error looking up volume plugin {other}: plugin \"{other}\" not found"
        ))),
    }
}
