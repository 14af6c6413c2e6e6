//! Checksums of rows.
//!
//! redb has a checksum of every page, but looks at it only when it opens a file. A page that rots later is
//! read as it is; and when a row is added to it, its neighbours get a new checksum, damage and all: the next
//! start would believe them, and this node would apply another command than the others. So each row of the
//! log and of the metadata ends with a checksum of its value, seeded with its key.
//!
//! Seals are no part of the versioned format: they are checked before it is known which version wrote a row.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::OpenError;

/// Bytes of a seal.
const SEAL_BYTES: usize = 8;

/// The row under `key` that holds `bytes`.
pub(super) fn seal(key: &[u8], bytes: Vec<u8>) -> Vec<u8> {
    seal_tail(key, bytes, 0)
}

/// `bytes`, of which those from `from` on are sealed.
pub(super) fn seal_tail(key: &[u8], mut bytes: Vec<u8>, from: usize) -> Vec<u8> {
    let checksum = checksum(key, &bytes[from..]);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The bytes that were sealed under `key`, or that `what` is not what was written.
pub(super) fn unseal<'a>(key: &[u8], row: &'a [u8], what: &str) -> Result<&'a [u8], OpenError> {
    row.split_last_chunk::<SEAL_BYTES>()
        .filter(|(bytes, seal)| checksum(key, bytes) == u64::from_le_bytes(**seal))
        .map(|(bytes, _)| bytes)
        .ok_or_else(|| OpenError::Corrupt(format!("{what}: the row is not what was written")))
}

fn checksum(key: &[u8], bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, xxh3_64(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_row_opens_only_whole_and_under_its_key() {
        let row = seal(b"key", b"bytes".to_vec());
        assert_eq!(unseal(b"key", &row, "row").expect("whole"), b"bytes");
        assert!(unseal(b"kez", &row, "row").is_err());
        for length in 0..row.len() {
            assert!(unseal(b"key", &row[..length], "row").is_err(), "cut to {length}");
        }
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(b"key", &flipped, "row").is_err(), "bit {bit}");
        }
    }
}
