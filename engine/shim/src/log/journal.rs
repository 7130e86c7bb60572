//! Entries in the journal's native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>), with docker's fields.

use std::collections::BTreeMap;

use super::{Entry, Output};

/// One datagram: `NAME=value` lines, and where a value has newlines
/// `NAME\n`, its length in 64 bits, itself.
pub fn message(fields: &BTreeMap<String, String>, output: Output, entry: &Entry<'_>) -> Vec<u8> {
    let mut message = Vec::with_capacity(entry.text.len() + 512);
    add(&mut message, "MESSAGE", entry.text);
    add(
        &mut message,
        "PRIORITY",
        output.severity().to_string().as_bytes(),
    );
    add(&mut message, "SYSLOG_TIMESTAMP", entry.time.as_bytes());
    if !entry.whole {
        add(&mut message, "CONTAINER_PARTIAL_MESSAGE", b"true");
    }
    for (name, value) in fields {
        add(&mut message, name, value.as_bytes());
    }
    message
}

fn add(message: &mut Vec<u8>, name: &str, value: &[u8]) {
    message.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        message.push(b'\n');
        message.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        message.push(b'=');
    }
    message.extend_from_slice(value);
    message.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_several_lines_carry_their_length() {
        let fields = BTreeMap::from([
            ("CONTAINER_NAME".to_owned(), "web".to_owned()),
            ("TEAM".to_owned(), "a\nb".to_owned()),
        ]);
        let entry = Entry {
            text: b"hello",
            whole: false,
            time: "2025-03-04T05:06:07Z",
        };
        assert_eq!(
            message(&fields, Output::Stdout, &entry),
            b"MESSAGE=hello\nPRIORITY=6\nSYSLOG_TIMESTAMP=2025-03-04T05:06:07Z\n\
              CONTAINER_PARTIAL_MESSAGE=true\nCONTAINER_NAME=web\n\
              TEAM\n\x03\0\0\0\0\0\0\0a\nb\n"
        );
    }
}
