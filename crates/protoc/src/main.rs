//! A `protoc` in Rust, with as much of its command line as build scripts use:
//! `protoc --include_imports --include_source_info -o DESCRIPTORS -I FOLDER... FILE...`
//!
//! Cargo finds it by the variable PROTOC of `.cargo/config.toml`. The dependency that needs it is
//! the one with the pages of the Jaeger UI; `proto/build.rs` compiles our own messages.

use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (mut output, mut folders, mut files) = (None, Vec::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-o" => output = arguments.next(),
            "-I" => folders.extend(arguments.next()),
            // The imports and the positions in the sources are included in any case.
            option if option.starts_with("--") => {}
            _ => files.push(argument),
        }
    }
    let output = output.ok_or("usage: protoc -o DESCRIPTORS -I FOLDER... FILE...")?;
    let descriptors = protox::Compiler::new(folders)?
        .include_imports(true)
        .include_source_info(true)
        .open_files(files)?
        .encode_file_descriptor_set();
    fs::write(output, descriptors)?;
    Ok(())
}
