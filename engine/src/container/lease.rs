//! Containers that may run only as long as the engine's user says so.

use std::time::Duration;

use super::shim_link;
use crate::engine::Engine;
use crate::error::Result;

impl Engine {
    /// Lets a prepared or running container run until then, as [`crate::since_boot`] counts. Unless
    /// told again, it is sent its stop signal at that time and killed so long after: by its shim,
    /// whatever has become of this process.
    ///
    /// # Errors
    /// It does not run, or is being stopped for that reason already.
    pub async fn container_lease(
        &self,
        name: &str,
        until: Duration,
        grace: Duration,
    ) -> Result<()> {
        let container = self.containers.find(name)?;
        shim_link::call(container.shim(), move |shim| shim.lease(until, grace)).await
    }
}
