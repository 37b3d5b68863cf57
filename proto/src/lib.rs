//! The contracts between the services: the messages of `surge/v1/*.proto`, their subjects on NATS,
//! the names of the dataflow modes, and the quote token.
//!
//! Every wire type is parsed here, once, into a type of `marketplace`: in the rest of the suite a
//! zone is a `Zone`, never a string.

pub mod convert;
pub mod dataflow;
pub mod subjects;
pub mod token;

pub use dataflow::{DataAges, DataflowMode, FloorKind, ModeProfile};

/// Messages, clients and servers generated from `surge/v1/*.proto`.
pub mod v1 {
    #![expect(
        missing_docs,
        reason = "generated; the .proto files have the documentation"
    )]
    tonic::include_proto!("surge.v1");
}

/// The compiled descriptors, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("surge.v1");
