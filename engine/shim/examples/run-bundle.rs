//! Runs an OCI bundle in a shim, as `runc run` does, to measure one against the other.
//!
//! `run-bundle SHIM BUNDLE STATE`: the shim's program, a directory with `config.json`, and
//! a directory for the shim's files, made when missing. Prints what the container printed
//! and ends with its exit code.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use skep_shim::{ExitRecord, Launcher, ShimClient};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [shim, bundle, state] = &args[..] else {
        eprintln!("usage: run-bundle SHIM BUNDLE STATE");
        return Ok(ExitCode::from(2));
    };
    let state = Path::new(state);
    fs::create_dir_all(state)?;
    let id = format!("bundle-{}", std::process::id());
    let config = skep_shim::bundle::read(Path::new(bundle), &id, &state.canonicalize()?)?;
    let path = state.join("shim.json");
    config.write(&path)?;
    let launcher = Launcher::new(&fs::read(shim)?)?;
    launcher.prepare(&path)?.start(&[])?;
    // Gone means that it was over before anybody could ask.
    let _ = ShimClient::new(&config.paths.socket).wait(None);
    let record = ExitRecord::read(&config.paths.exit)?.ok_or("the shim left no record")?;
    for line in fs::read_to_string(&config.log.path)?.lines() {
        let entry: serde_json::Value = serde_json::from_str(line)?;
        print!("{}", entry["log"].as_str().unwrap_or_default());
    }
    Ok(ExitCode::from(u8::try_from(record.exit_code).unwrap_or(1)))
}
