//! The program that stays beside each container, as bytes in this one.

/// The shim, statically linked for the host this was built for. Give it to
/// [`skep_shim::Launcher::new`]; it also is the whole content of the `skep/hello`
/// image.
pub const SHIM: &[u8] = include_bytes!(env!("SKEP_SHIM_PROGRAM"));
