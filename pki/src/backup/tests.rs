//! What a backup must notice.

use skep_model::Timestamp;

use super::*;

/// Costs that a test can pay a thousand times.
const CHEAP: Cost = Cost {
    memory_kib: 8,
    passes: 1,
    lanes: 1,
};

fn about() -> About {
    About {
        cluster: "c".into(),
        created_at: Timestamp::from_secs(1_900_000_000),
        version: 7,
        software: "0.1.0".to_owned(),
    }
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text).unwrap()
}

fn written(chunks: &[&[u8]]) -> Vec<u8> {
    let key = passphrase("correct horse");
    let mut writer = BackupWriter::begin(Vec::new(), about(), &key, CHEAP).unwrap();
    for chunk in chunks {
        writer.chunk(chunk).unwrap();
    }
    writer.finish().unwrap()
}

fn read(file: &[u8], key: &str) -> Result<Vec<Vec<u8>>, BackupError> {
    let mut reader = BackupReader::open(file, &passphrase(key))?;
    let mut chunks = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        chunks.push(chunk);
    }
    assert!(reader.next_chunk()?.is_none(), "the end stays the end");
    Ok(chunks)
}

#[test]
fn what_was_written_is_read_with_the_passphrase_and_no_other() {
    let large = vec![7; PIECE_BYTES * 2 + 1];
    let chunks: [&[u8]; 4] = [b"names", b"", &large, &large[..PIECE_BYTES]];
    let file = written(&chunks);
    assert_eq!(read(&file, "correct horse").unwrap(), chunks);
    let header = read_header(&mut file.as_slice()).unwrap();
    assert_eq!((header.format, header.about), (FORMAT, about()));
    assert!(matches!(
        read(&file, "battery staple"),
        Err(BackupError::WrongPassphrase)
    ));
    assert!(!file.windows(5).any(|bytes| bytes == b"names"));
    let other = written(&chunks);
    assert_ne!(file, other, "salt and nonces are of one file alone");
    // The end of another file of the same passphrase is none of this one.
    let spliced = [&file[..file.len() - 60], &other[other.len() - 60..]].concat();
    assert!(read(&spliced, "correct horse").is_err());
}

#[test]
fn every_flipped_bit_and_every_missing_byte_of_a_small_backup_is_found() {
    let file = written(&[b"one", b"two"]);
    assert!(read(&file, "correct horse").is_ok());
    for bit in 0..file.len() * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&flipped, "correct horse").is_err(), "bit {bit}");
    }
    for len in 0..file.len() {
        assert!(read(&file[..len], "correct horse").is_err(), "{len} bytes");
    }
    let longer = [&file[..], b"x"].concat();
    assert!(read(&longer, "correct horse").is_err());
}

#[test]
fn a_newer_format_is_named_and_other_files_are_none() {
    let file = written(&[]);
    let header = read_header(&mut file.as_slice()).unwrap();
    let newer = BackupHeader {
        format: FORMAT + 1,
        about: About {
            software: "9.9".to_owned(),
            ..about()
        },
        ..header.clone()
    };
    let error = read(&newer.encode(), "x").unwrap_err().to_string();
    assert!(error.contains("format 2 (written by skep 9.9)"), "{error}");
    for other in [b"".as_slice(), b"skep", b"PK\x03\x04 a zip archive"] {
        assert!(matches!(read(other, "x"), Err(BackupError::NotABackup)));
    }
    assert!(matches!(
        read(&MAGIC_ONLY, "x"),
        Err(BackupError::Damaged(_))
    ));
}

const MAGIC_ONLY: [u8; 8] = *header::MAGIC;

#[test]
fn a_file_cannot_ask_for_more_memory_or_time_than_is_sensible() {
    for cost in [
        Cost {
            memory_kib: u32::MAX,
            ..CHEAP
        },
        Cost {
            passes: u32::MAX,
            ..CHEAP
        },
        Cost {
            lanes: u32::MAX,
            ..CHEAP
        },
        Cost {
            memory_kib: 0,
            ..CHEAP
        },
    ] {
        let derived = passphrase::Derivation::fresh(cost).key(&passphrase("x"));
        assert!(matches!(derived, Err(BackupError::Damaged(_))), "{cost:?}");
    }
}

#[test]
fn a_new_backup_wants_a_passphrase_worth_the_name() {
    assert_eq!(Passphrase::new("").unwrap_err(), PassphraseError::Empty);
    let long = "x".repeat(2000);
    assert_eq!(Passphrase::new(long).unwrap_err(), PassphraseError::Long);
    let short = Passphrase::for_sealing("seven c").unwrap_err();
    assert_eq!(short, PassphraseError::Short);
    let sealing = Passphrase::for_sealing("eight ch").unwrap();
    assert_eq!(format!("{sealing:?}"), "Passphrase(hidden)");
}
