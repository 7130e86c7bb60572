#![doc = include_str!("../README.md")]

pub mod assignment;
pub mod connect;
pub mod listen;
pub mod log;
pub mod status;

/// The generated messages, clients and servers.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("skep.v1");
}

/// Largest gRPC message either side takes: 16 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A value that was sent as JSON and cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a {what} on the wire cannot be read")]
pub struct DecodeError {
    what: &'static str,
    #[source]
    source: serde_json::Error,
}

/// Reads a value from a `bytes` field.
pub fn decode<T: serde::de::DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
) -> Result<T, DecodeError> {
    serde_json::from_slice(bytes).map_err(|source| DecodeError { what, source })
}

/// Writes a value for a `bytes` field.
pub fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("model types have text keys and serialise")
}
