//! The wire form of the expressions we use.
//!
//! Attribute and key numbers are those of `linux/netfilter/nf_tables.h`; all
//! integers in attributes are big-endian, all values in registers are as the
//! packet or the kernel holds them (host order for marks, states and groups).

use crate::netlink::wire::Message;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// `NF_NAT_RANGE_PROTO_SPECIFIED` and `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const NAT_PORTS: u32 = 1 << 1;
const NAT_RANDOM: u32 = 1 << 4;

/// A 32-bit register, 0..=15. A value takes as many as it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg(pub u32);

impl Reg {
    /// `NFT_REG32_00` is 8.
    const fn number(self) -> u32 {
        8 + self.0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Meta {
    Mark = 3,
    IifName = 6,
    OifName = 7,
    IifType = 8,
    NfProto = 15,
    L4Proto = 16,
    IifGroup = 21,
    OifGroup = 22,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Ct {
    State = 0,
    Direction = 1,
    Status = 2,
    Mark = 3,
    Zone = 17,
}

/// What an offset in a packet counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Cmp {
    Eq = 0,
    Ne = 1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum NatKind {
    Source = 0,
    Destination = 1,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Accept,
    Goto(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    TcpReset,
    PortUnreachable,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    Meta {
        key: Meta,
        to: Reg,
    },
    SetMeta {
        key: Meta,
        from: Reg,
    },
    Ct {
        key: Ct,
        to: Reg,
    },
    /// `original`: only that direction's zone.
    SetCt {
        key: Ct,
        from: Reg,
        original: bool,
    },
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        to: Reg,
    },
    SetPayload {
        base: Base,
        offset: u32,
        length: u32,
        from: Reg,
    },
    Cmp {
        reg: Reg,
        op: Cmp,
        value: Vec<u8>,
    },
    And {
        reg: Reg,
        mask: Vec<u8>,
    },
    /// With `to`, a map; the first value goes where the packet's does.
    Lookup {
        set: String,
        from: Reg,
        to: Option<Reg>,
        inverted: bool,
    },
    /// Looks a verdict up and follows it.
    LookupVerdict {
        set: String,
        from: Reg,
    },
    /// Counts 0, 1, … modulus-1 and again.
    Count {
        modulus: u32,
        to: Reg,
    },
    /// A number below the modulus, at random.
    Dice {
        modulus: u32,
        to: Reg,
    },
    /// The type (local, unicast, …) of the destination's or source's route.
    AddressType {
        source: bool,
        to: Reg,
    },
    Immediate {
        value: Vec<u8>,
        to: Reg,
    },
    Nat {
        kind: NatKind,
        family: u32,
        address: Reg,
        port: Option<Reg>,
    },
    Masquerade,
    /// Under a port between the two, chosen at random.
    MasqueradeWithin {
        first: Reg,
        last: Reg,
    },
    /// Counts what comes by, for those who look at the chain.
    Counter,
    Verdict(Verdict),
    Reject(Reject),
    NoTrack,
    RouteMss {
        to: Reg,
    },
    SwapBytes16 {
        reg: Reg,
    },
    SetTcpMss {
        from: Reg,
    },
}

impl Expr {
    /// Appends the expression as one element of a rule's list.
    pub fn write(&self, message: Message) -> Message {
        message.nest(LIST_ELEM, |m| {
            let m = m.str(EXPR_NAME, self.name());
            match self {
                Self::NoTrack | Self::Masquerade | Self::Counter => m,
                _ => m.nest(EXPR_DATA, |m| self.data(m)),
            }
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Ct { .. } | Self::SetCt { .. } => "ct",
            Self::Payload { .. } | Self::SetPayload { .. } => "payload",
            Self::Cmp { .. } => "cmp",
            Self::And { .. } => "bitwise",
            Self::Lookup { .. } | Self::LookupVerdict { .. } => "lookup",
            Self::Count { .. } | Self::Dice { .. } => "numgen",
            Self::AddressType { .. } => "fib",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Nat { .. } => "nat",
            Self::Masquerade | Self::MasqueradeWithin { .. } => "masq",
            Self::Counter => "counter",
            Self::Reject(_) => "reject",
            Self::NoTrack => "notrack",
            Self::RouteMss { .. } => "rt",
            Self::SwapBytes16 { .. } => "byteorder",
            Self::SetTcpMss { .. } => "exthdr",
        }
    }

    fn data(&self, m: Message) -> Message {
        match self {
            Self::Meta { key, to } => m.be32(1, to.number()).be32(2, *key as u32),
            Self::SetMeta { key, from } => m.be32(2, *key as u32).be32(3, from.number()),
            Self::Ct { key, to } => m.be32(1, to.number()).be32(2, *key as u32),
            Self::SetCt {
                key,
                from,
                original,
            } => m
                .be32(2, *key as u32)
                .when(*original, |m| m.u8(3, 0))
                .be32(4, from.number()),
            Self::Payload {
                base,
                offset,
                length,
                to,
            } => m
                .be32(1, to.number())
                .be32(2, *base as u32)
                .be32(3, *offset)
                .be32(4, *length),
            Self::SetPayload {
                base,
                offset,
                length,
                from,
            } => m
                .be32(2, *base as u32)
                .be32(3, *offset)
                .be32(4, *length)
                .be32(5, from.number())
                .be32(6, 0)
                .be32(7, 0),
            Self::Cmp { reg, op, value } => {
                bytes(m.be32(1, reg.number()).be32(2, *op as u32), 3, value)
            }
            Self::And { reg, mask } => {
                let m = m
                    .be32(1, reg.number())
                    .be32(2, reg.number())
                    .be32(3, mask.len() as u32);
                bytes(bytes(m, 4, mask), 5, &vec![0; mask.len()])
            }
            Self::Lookup {
                set,
                from,
                to,
                inverted,
            } => m
                .str(1, set)
                .be32(2, from.number())
                .with(*to, |m, to| m.be32(3, to.number()))
                .when(*inverted, |m| m.be32(5, 1)),
            Self::LookupVerdict { set, from } => {
                // Register 0 is the verdict itself.
                m.str(1, set).be32(2, from.number()).be32(3, 0)
            }
            Self::Count { modulus, to } => m
                .be32(1, to.number())
                .be32(2, *modulus)
                .be32(3, 0)
                .be32(4, 0),
            Self::Dice { modulus, to } => m
                .be32(1, to.number())
                .be32(2, *modulus)
                .be32(3, 1)
                .be32(4, 0),
            Self::AddressType { source, to } => m
                .be32(1, to.number())
                .be32(2, 3)
                .be32(3, if *source { 1 } else { 2 }),
            Self::Immediate { value, to } => bytes(m.be32(1, to.number()), 2, value),
            Self::Nat {
                kind,
                family,
                address,
                port,
            } => m
                .be32(1, *kind as u32)
                .be32(2, *family)
                .be32(3, address.number())
                .with(*port, |m, port| m.be32(5, port.number())),
            Self::MasqueradeWithin { first, last } => m
                .be32(1, NAT_PORTS | NAT_RANDOM)
                .be32(2, first.number())
                .be32(3, last.number()),
            Self::Verdict(code) => m.be32(1, 0).nest(2, |m| verdict(m, code)),
            Self::Reject(Reject::TcpReset) => m.be32(1, 1).u8(2, 0),
            Self::Reject(Reject::PortUnreachable) => m.be32(1, 2).u8(2, 1),
            Self::RouteMss { to } => m.be32(1, to.number()).be32(2, 3),
            Self::SwapBytes16 { reg } => m
                .be32(1, reg.number())
                .be32(2, reg.number())
                .be32(3, 1)
                .be32(4, 2)
                .be32(5, 2),
            // TCP option 2 (maximum segment size): two bytes, two bytes in.
            Self::SetTcpMss { from } => m
                .u8(2, 2)
                .be32(3, 2)
                .be32(4, 2)
                .be32(6, 1)
                .be32(7, from.number()),
            Self::NoTrack | Self::Masquerade | Self::Counter => m,
        }
    }
}

/// A value in its wrapping.
pub(super) fn bytes(m: Message, kind: u16, value: &[u8]) -> Message {
    m.nest(kind, |m| m.attr(DATA_VALUE, value))
}

/// A verdict, for an expression or a map's element.
pub(super) fn verdict(m: Message, verdict: &Verdict) -> Message {
    m.nest(DATA_VERDICT, |m| match verdict {
        Verdict::Drop => m.be32(VERDICT_CODE, 0),
        Verdict::Accept => m.be32(VERDICT_CODE, 1),
        Verdict::Goto(chain) => m
            .be32(VERDICT_CODE, (-4i32).cast_unsigned())
            .str(VERDICT_CHAIN, chain),
    })
}
