//! One task: what to do next (`step`), doing it (`driver`), and what its container is (`spec`).

pub mod driver;
mod payload;
pub mod spec;
pub mod step;
