//! Looking into VXLAN frames.

use super::expr::{Base, Expr, Reg};
use super::rule::Rule;

/// Where the network's number is: after the UDP header (8 bytes), the flags and
/// three reserved bytes.
const VNI_OFFSET: u32 = 12;
const VNI_BYTES: u32 = 3;

impl Rule {
    /// The VXLAN network's number is in a set. Only after a match of the port.
    pub fn vni_in(mut self, set: &str) -> Self {
        self.0.push(Expr::Payload {
            base: Base::Transport,
            offset: VNI_OFFSET,
            length: VNI_BYTES,
            to: Reg(0),
        });
        self.0.push(Expr::Lookup {
            set: set.into(),
            from: Reg(0),
            to: None,
            inverted: false,
        });
        self
    }
}
