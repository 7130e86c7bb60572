//! Hands over to the node daemon or to the command line client, and nothing else.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let program = args
        .first()
        .map(Path::new)
        .and_then(Path::file_name)
        .unwrap_or_default();
    if program == "skepd" {
        return skep_node::daemon::main(args);
    }
    match args.get(1).and_then(|word| word.to_str()) {
        Some("daemon") => {
            args.remove(1);
            skep_node::daemon::main(args)
        }
        // A tunnel's process, which a daemon starts.
        Some("wireguard") => skep_wg::main(args),
        Some("dev") => {
            args.remove(1);
            skep_node::dev::main(args)
        }
        // Started by daemons; not for people.
        Some("relay") if args.len() == 3 => skep_node::relay(Path::new(&args[2])),
        Some(_) | None => skep_ctl::run(args),
    }
}
