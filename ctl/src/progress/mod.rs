//! Long work, as it goes on: bars that move on a terminal, plain lines elsewhere.

pub mod lines;
pub mod service;
