//! Directory trees as archives and back, always inside one root directory.

mod confined;
pub(crate) mod guard;
pub(crate) mod owner;
pub(crate) mod pack;
pub(crate) mod paths;
pub(crate) mod unpack;
mod xattrs;

pub(crate) use confined::{Bind, Live, Root, confined};
