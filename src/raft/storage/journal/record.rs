//! One record: what was written between two syncs, framed so that a reader knows whether it has all of it.
//!
//! | bytes | |
//! |---|---|
//! | 4 | [`MAGIC`] |
//! | 4 | length of the body with its seal, little-endian |
//! | 8 | the record's number, little-endian |
//! | … | the body, and a checksum of it seeded with number and secret: see [`seal`](super::super::seal) |
//! | … | zeros up to the next sector |
//!
//! A record begins on a sector of its own, so that writing it never touches one that holds what is synced.

use super::super::seal::{seal_tail, unseal};
use super::Secret;

/// Where records begin: the smallest piece that a disk writes as a whole.
pub(super) const SECTOR_BYTES: usize = 512;

const MAGIC: [u8; 4] = *b"YKJ1";

/// Bytes before the body.
const HEADER_BYTES: usize = 16;

/// A record that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) number: u64,
    pub(super) body: &'a [u8],
    /// Its bytes on the disk.
    pub(super) bytes: usize,
}

/// The bytes of record `number`, to be written at a sector's start. `body` appends the body.
pub(super) fn encode(
    secret: Secret,
    number: u64,
    body: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> Vec<u8> {
    let mut bytes = body(vec![0; HEADER_BYTES]);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[8..HEADER_BYTES].copy_from_slice(&number.to_le_bytes());
    bytes = seal_tail(&key(secret, number), bytes, HEADER_BYTES);
    let length = u32::try_from(bytes.len() - HEADER_BYTES).expect("Raft appends far less at once");
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(SECTOR_BYTES), 0);
    bytes
}

/// The whole record that `bytes` begin with, if they do.
pub(super) fn decode(secret: Secret, bytes: &[u8]) -> Option<Record<'_>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let (magic, header) = header.split_first_chunk::<4>()?;
    if *magic != MAGIC {
        return None;
    }
    let (length, number) = header.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let number = u64::from_le_bytes(number.try_into().ok()?);
    let body = unseal(&key(secret, number), rest.get(..length)?, "journal record").ok()?;
    Some(Record { number, body, bytes: (HEADER_BYTES + length).next_multiple_of(SECTOR_BYTES) })
}

fn key(secret: Secret, number: u64) -> [u8; 16] {
    (u128::from(secret) << 64 | u128::from(number)).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Secret = 42;

    fn record(number: u64, body: &[u8]) -> Vec<u8> {
        encode(SECRET, number, |mut bytes| {
            bytes.extend_from_slice(body);
            bytes
        })
    }

    #[test]
    fn a_record_is_read_back_whole_or_not_at_all() {
        let body = vec![7; 1_000];
        let bytes = record(5, &body);
        assert_eq!(bytes.len(), 2 * SECTOR_BYTES);
        let found = decode(SECRET, &bytes).expect("whole");
        assert_eq!(decode(SECRET + 1, &bytes), None, "of another directory");
        assert_eq!((found.number, found.body, found.bytes), (5, &body[..], bytes.len()));
        let used = HEADER_BYTES + body.len() + 8;
        for length in 0..used {
            assert_eq!(decode(SECRET, &bytes[..length]), None, "cut to {length}");
        }
        for bit in 0..used * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(SECRET, &flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn zeros_are_no_record() {
        assert_eq!(decode(SECRET, &[0; 4 * SECTOR_BYTES]), None);
    }
}
