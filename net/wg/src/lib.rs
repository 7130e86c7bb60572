#![doc = include_str!("../README.md")]

pub mod client;
mod device;
mod key;
mod serve;
mod tun;
pub mod uapi;

pub use key::{KeyParseError, PrivateKey, PublicKey};
pub use serve::{ServeError, main};

/// Whether TUN devices can be made in this namespace; the reason if not.
pub fn can_serve() -> Result<(), String> {
    match tun::Tun::open("sk-wg-probe") {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("no TUN device can be made: {error}")),
    }
}
