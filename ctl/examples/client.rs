fn main() -> std::process::ExitCode {
    skep_ctl::run(std::env::args_os().collect())
}
