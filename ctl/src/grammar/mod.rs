//! The small languages of flags' values. Each module reads one and says what is wrong in
//! docker's words.

pub mod address;
pub mod csv;
pub mod environment;
pub mod file_reference;
pub mod moment;
pub mod mount;
pub mod network;
pub mod placement;
pub mod port_spec;
pub mod publish;
pub mod ulimit;
pub mod words;
