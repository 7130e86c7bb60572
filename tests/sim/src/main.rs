//! `skep-sim --seed N` runs one world and tells what happens in it; `--from A --to B` runs many.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.parse::<u64>().ok()
    };
    let (from, to, quiet) = match (number("--seed"), number("--from"), number("--to")) {
        (Some(seed), _, _) => (seed, seed, false),
        (None, Some(from), Some(to)) => (from, to, true),
        _ => {
            eprintln!("usage: skep-sim --seed N | --from A --to B");
            return ExitCode::from(125);
        }
    };
    let mut failed = 0;
    for seed in from..=to {
        let mut trace = |line: &dyn Fn() -> String| {
            if !quiet {
                println!("{}", line());
            }
        };
        match skep_sim::run(seed, &mut trace) {
            Ok(outcome) if !quiet => println!("seed {seed}: {outcome:?}"),
            Ok(_) => (),
            Err(failure) => {
                failed += 1;
                println!("{failure}");
            }
        }
    }
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
