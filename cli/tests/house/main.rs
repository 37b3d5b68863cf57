//! The rules that hold the house, as tests: words, names, imports, and the files that a quote
//! passes.
//!
//! | rule | where |
//! |---|---|
//! | Comments, names and pages use the field's words. | `words.rs`, `words.txt` |
//! | Two crates do not define a type of the same name. | `names.rs` |
//! | A line has at most 100 columns, the name of a test at most seven words. | `names.rs` |
//! | SQL statements name their columns. | `names.rs` |
//! | Inside a crate no modules import each other in a circle. | `imports.rs` |
//! | A crate imports only the crates that the architecture allows. | `imports.rs` |
//! | A quote passes at most 14 files, and `docs/architecture.md` lists them. | `architecture.rs` |
//! | `docs/architecture.md` names existing files, and true sizes of crates. | `architecture.rs` |
//!
//! They read the sources as text, with the standard library alone, so that they also run in seconds
//! without the rest: `CARGO_MANIFEST_DIR=$PWD/cli rustc --edition 2024 --test
//! cli/tests/house/main.rs -o /tmp/house && /tmp/house`.

mod architecture;
mod imports;
mod modules;
mod names;
mod source;
mod words;
