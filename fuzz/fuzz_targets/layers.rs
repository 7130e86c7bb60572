//! Needs root: layers have owners and device nodes.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

/// In memory, where there is that.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = tempfile::Builder::new()
        .prefix("skep-fuzz-")
        .tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir());
    directory.expect("a directory can be made").keep()
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| skep_engine::fuzz::layer(bytes, &DIRECTORY));
