//! The program beside each container. See the library.

fn main() {
    std::process::exit(skep_shim::entry::main());
}
