//! The TCP connections of a namespace, as its kernel tables show them (proc_pid_net(5)).

use std::collections::BTreeSet;
use std::fs;

use crate::NetError;
use crate::netns::Netns;

/// How far the servers in a namespace are with their clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Clients from outside that are being served, or are about to be.
    pub served: usize,
    /// Ended connections whose last bytes the other side has not acknowledged yet. They outlive
    /// the process, but not the namespace.
    pub undelivered: usize,
}

/// Reads the tables of a namespace.
pub(crate) fn connections(netns: &Netns) -> Result<Connections, NetError> {
    netns.run(|| {
        // A kernel without IPv6 has no second table.
        let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
        let text = read("tcp").unwrap_or_default() + &read("tcp6").unwrap_or_default();
        count(&text)
    })
}

/// One line of a table: local port, whether the other side is this namespace itself, state.
struct Row {
    port: u16,
    is_internal: bool,
    state: u8,
}

const ESTABLISHED: u8 = 0x01;
const SYN_RECV: u8 = 0x03;
const FIN_WAIT_1: u8 = 0x04;
const CLOSE_WAIT: u8 = 0x08;
const LAST_ACK: u8 = 0x09;
const LISTEN: u8 = 0x0a;
const CLOSING: u8 = 0x0b;

fn count(text: &str) -> Connections {
    let rows: Vec<Row> = text.lines().filter_map(row).collect();
    let listening: BTreeSet<u16> = rows
        .iter()
        .filter(|row| row.state == LISTEN)
        .map(|row| row.port)
        .collect();
    let outside = rows.iter().filter(|row| !row.is_internal);
    let mut found = Connections::default();
    for row in outside {
        match row.state {
            ESTABLISHED | SYN_RECV | CLOSE_WAIT if listening.contains(&row.port) => {
                found.served += 1;
            }
            FIN_WAIT_1 | LAST_ACK | CLOSING => found.undelivered += 1,
            _ => (),
        }
    }
    found
}

fn row(line: &str) -> Option<Row> {
    let mut words = line.split_ascii_whitespace();
    let local = words.nth(1)?;
    let remote = words.next()?;
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let (local_address, port) = local.split_once(':')?;
    let (remote_address, _) = remote.split_once(':')?;
    Some(Row {
        port: u16::from_str_radix(port, 16).ok()?,
        is_internal: state != LISTEN
            && (is_loopback(remote_address) || remote_address == local_address),
        state,
    })
}

/// Addresses stand there as 32-bit words in the byte order of the host.
fn is_loopback(hex: &str) -> bool {
    let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
    let is_v4_loopback = |hex: &str| {
        let word = u32::from_str_radix(hex, 16).unwrap_or_default();
        word.to_ne_bytes()[0] == 127
    };
    match hex.len() {
        8 => is_v4_loopback(hex),
        // ::1, and ::ffff:127.0.0.0/8
        32 => {
            let mapped = "0".repeat(16) + &word([0, 0, 0xff, 0xff]);
            hex == "0".repeat(24) + &word([0, 0, 0, 1])
                || hex.strip_prefix(&mapped).is_some_and(is_v4_loopback)
        }
        _ => false,
    }
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n";

    #[test]
    fn only_clients_from_outside_of_listening_ports_count() {
        let text = format!(
            "{HEAD}{}",
            "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000
   2: 0500FF0A:1F90 0A00C70A:C002 01 00000000:00000000
   3: 0500FF0A:C003 0A00C70A:1538 01 00000000:00000000
   4: 0500FF0A:1F90 0A00C70A:C004 03 00000000:00000000
   5: 0500FF0A:1F90 0A00C70A:C005 06 00000000:00000000
   6: 0500FF0A:1F90 0A00C70A:C006 04 00000001:00000000
"
        );
        let found = count(&text);
        assert_eq!((found.served, found.undelivered), (2, 1));
    }

    #[test]
    fn a_socket_of_both_families_is_seen_through_the_second_table() {
        let text = format!(
            "{HEAD}{}",
            "   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 0000000000000000FFFF00000500FF0A:1F90 0000000000000000FFFF00000A00C70A:C002 08 00000000:00000000
   2: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:C001 01 00000000:00000000
   3: 00000000000000000000000001000000:1F90 00000000000000000000000001000000:C001 01 00000000:00000000
"
        );
        assert_eq!(count(&text).served, 1);
    }

    #[test]
    fn nonsense_is_nothing() {
        assert_eq!(count("x\n1: 2 3 4\n0: :: :: zz\n"), Connections::default());
    }
}
