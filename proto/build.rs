//! Compiles `surge/v1/*.proto` with a protobuf compiler written in Rust, so that no `protoc` is
//! needed.

use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 5] = [
    "surge/v1/market.proto",
    "surge/v1/supply.proto",
    "surge/v1/demand.proto",
    "surge/v1/quote.proto",
    "surge/v1/rides.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = env::var("CARGO_MANIFEST_DIR")?;
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("surge.v1.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed={root}/surge");
    Ok(())
}
