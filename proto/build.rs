//! Compiles the .proto files with a compiler written in Rust: nothing to install.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/skep.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Many nodes are told the same: the bytes are shared, not copied for each.
        .bytes(".skep.v1.AssignmentItem.value")
        // Whole layers go through it.
        .bytes(".skep.v1.BlobPiece.data")
        .compile_fds(files)?;
    Ok(())
}
