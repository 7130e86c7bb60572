//! What a snapshot must notice.

use skep_pki::{Sealer, SecretKey};

use super::*;
use crate::raft::StoredMembership;
use crate::vault::Vault;

/// A snapshot so small that every bit of it can be tried.
#[test]
fn every_flipped_bit_of_a_small_snapshot_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let vault = Vault::new(Sealer::new(&SecretKey::generate()), 1);
    let shelf = Shelf::open(directory.path(), vault.clone(), 0).unwrap();
    let mut writer = shelf.begin(None, StoredMembership::default(), 7).unwrap();
    writer.chunk(b"one piece of the state").unwrap();
    writer.chunk(b"and another").unwrap();
    let snapshot = std::sync::Arc::new(writer.finish().unwrap());
    shelf.adopt(&snapshot).unwrap();
    let path = snapshot.path();
    drop((snapshot, shelf));
    let whole = std::fs::read(&path).unwrap();
    assert!(SnapshotFile::open(&path, &vault).is_ok());
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &flipped).unwrap();
        assert!(SnapshotFile::open(&path, &vault).is_err(), "bit {bit}");
    }
    for len in 0..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(SnapshotFile::open(&path, &vault).is_err(), "{len} bytes");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(SnapshotFile::open(&path, &vault).is_ok());
}
