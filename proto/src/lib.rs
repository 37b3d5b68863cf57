//! The contracts between the services: the messages of `surge/v1/*.proto`, the subjects they travel
//! on, the names of the dataflow modes, and the quote token. Every wire type is parsed here, once,
//! into a type of `marketplace`; behind this crate nobody meets a string that should have been a
//! zone.

pub mod convert;
pub mod dataflow;
pub mod subjects;
pub mod token;

pub use dataflow::DataflowMode;

/// Messages, clients and servers generated from `surge/v1/*.proto`.
pub mod v1 {
    #![allow(
        missing_docs,
        reason = "generated; the .proto files carry the documentation"
    )]
    #![allow(clippy::unwrap_used, unreachable_pub, reason = "generated")]
    tonic::include_proto!("surge.v1");
}

/// The compiled descriptors, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("surge.v1");
