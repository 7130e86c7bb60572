//! The small languages inside compose values: command lines, durations, sizes, processor counts,
//! environment files; how files are encoded; and guessing what a misspelt word meant.

pub(crate) mod cpus;
pub(crate) mod dotenv;
pub(crate) mod duration;
pub(crate) mod encoding;
pub(crate) mod env_file;
pub(crate) mod image;
pub(crate) mod nearest;
pub(crate) mod order;
pub(crate) mod shell;
pub(crate) mod size;
