//! Images: what they are made of, where they are kept, and what is done to them.

pub(crate) mod assemble;
pub(crate) mod blobs;
pub(crate) mod changes;
mod compression;
pub(crate) mod digest;
mod hello;
mod import;
pub(crate) mod layers;
mod list;
mod load;
pub(crate) mod manifest;
mod ops;
pub(crate) mod reference;
mod remove;
mod save;
mod share;
pub(crate) mod store;

pub use ops::parse_platform;

pub(crate) use compression::decompress;
pub(crate) use digest::Digest;
pub(crate) use import::diff_id_of;
pub(crate) use load::layer_descriptor;
pub(crate) use reference::Reference;
pub(crate) use remove::User;
pub(crate) use store::{Image, ImageStore};
