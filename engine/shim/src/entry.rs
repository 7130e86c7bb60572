//! What the program does, by the name it is called by.

use std::ffi::OsStr;
use std::path::Path;

use crate::{hello, init, prepare, userns};

/// Runs as what the program was called; returns its exit code.
///
/// `hello` is the demonstration server, `docker-init` the init of containers that
/// ask for one, `skep-shim run CONFIG` a shim, `skep-shim namespaces` what makes
/// namespaces for a shim to come.
pub fn main() -> i32 {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_owned();
    if name == "hello" {
        return hello::main(args);
    }
    if name == "docker-init" {
        return init::main(args);
    }
    match (args.next(), args.next()) {
        (Some(verb), Some(config)) if verb == OsStr::new("run") => {
            prepare::main(Path::new(&config))
        }
        (Some(verb), None) if verb == OsStr::new("namespaces") => userns::main(),
        (Some(verb), first) if verb == OsStr::new("hello") => {
            hello::main(first.into_iter().chain(args))
        }
        _ => {
            eprintln!("usage: skep-shim run CONFIG");
            2
        }
    }
}
