//! The data plane on a real kernel: hosts, clients and the wire between them are
//! network namespaces of this process, and nothing leaves them.

mod bridge;
mod encrypted;
mod firewall;
mod lab;
mod late;
mod mesh;
mod overlay;
mod paths;
mod published;
mod repair;
mod talk;
