//! Image registries: pulling, pushing, credentials.

mod auth;
mod authorize;
pub(crate) mod blob;
mod client;
mod endpoint;
mod growing;
mod peers;
pub(crate) mod pull;
pub(crate) mod push;
mod search;
mod shared;
mod source;
pub(crate) mod tags;
mod transport;

pub(crate) use client::Registries;
pub use peers::{Claim, Holder, Offer, OwnedImage, Peers, Refusal, Verdict, newest, newest_own};
pub use pull::with_credentials;
pub use search::SearchResult;
