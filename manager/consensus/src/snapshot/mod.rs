//! Snapshots are files: written aside, synced, renamed into place, verified before they are used.

mod file;
pub(crate) mod policy;
mod receive;
mod shelf;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use file::{Content, Piece, SnapshotFile, SnapshotSource, SnapshotWriter};
pub(crate) use receive::receive;
pub(crate) use shelf::Shelf;
pub(crate) use stream::stream;
