//! Image registries: pulling, pushing, credentials.

mod auth;
mod authorize;
mod client;
mod endpoint;
pub(crate) mod pull;
pub(crate) mod push;
mod search;
mod transport;

pub(crate) use client::Registries;
pub use search::SearchResult;
